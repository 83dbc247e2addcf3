"""Batches as tensors on a device, ready for an update: drawn ahead, or drawn there, beside torch's own ways."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from trajmill.bench.group import Builder, Group, Options
from trajmill.bench.replay import ROW_BYTES, Columns, add_limits, filled, torchrl, transitions
from trajmill.replay.feed import Feed
from trajmill.training.device import device_named

AHEAD = 4
BATCHES = (256, 5120, 65_536)
"""of one seed, of twenty, and of a large study"""
PCIE = "copies to the GPU"
COPIED = 2**28
"""bytes of one copy to a GPU"""


def groups(options: Options) -> list[Builder]:
    """A group for each size of a batch."""
    return [partial(batches, size) for size in BATCHES]


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches(batch_size: int, options: Options, stack: ExitStack) -> Group:
    """One thread draws; torch computes on one thread."""
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(1)
    device = device_named(options.device)
    columns = transitions(0, options.rows)
    group = Group(f"batches of {batch_size:,} of {options.rows:,} rows on {device}", "M rows/s", 1e-6)
    finish, buffer = partial(synchronize, device), filled(columns)
    resident = buffer.to(device)
    feed = stack.enter_context(Feed(buffer, device, batch_size=batch_size, ahead=AHEAD))

    def drain() -> None:
        """Take what was drawn while others were timed."""
        for _ in range(AHEAD + 1):
            next(feed)

    if device.type == "cuda":
        work, amount = pinned_copies(device)
        group.limit(PCIE, work, amount / ROW_BYTES, finish=finish)
        limits: tuple[str, ...] = (PCIE,)
    else:
        limits = add_limits(group, options)
    group.ours("tm.feed, drawn ahead", lambda: next(feed), batch_size, limits=limits, before=drain, finish=finish)
    group.ours("buffer.to, drawn on the device", lambda: resident.sample(batch_size), batch_size, finish=finish)
    tensors = {name: torch.from_numpy(array) for name, array in columns.items()}
    there = {name: tensor.to(device) for name, tensor in tensors.items()}
    own: dict[str, Callable[[], Callable[[], object]]] = {
        "torch, an index a column": lambda: indexing(there, batch_size, device),
        "torch DataLoader, a batch at a time": lambda: loader(tensors, batch_size, device, at_once=True),
    }
    if batch_size <= 256:  # else a call takes seconds
        own["torch DataLoader, row by row"] = lambda: loader(tensors, batch_size, device, at_once=False)
    for name, build in own.items():
        group.peer(name, build, batch_size, finish=finish)
    group.peer("TorchRL", lambda: drawn_by_torchrl(columns, batch_size, device), batch_size, needs=("torchrl",))
    return group


def pinned_copies(device: torch.device) -> tuple[Callable[[], object], float]:
    """Bytes copied from pinned memory of the host, all at once."""
    host = torch.ones(COPIED, dtype=torch.uint8).pin_memory()
    there = torch.empty(COPIED, dtype=torch.uint8, device=device)
    return lambda: there.copy_(host, non_blocking=True), float(COPIED)


def indexing(columns: dict[str, Tensor], batch_size: int, device: torch.device) -> Callable[[], object]:
    """Columns on the device, an index each."""
    count = len(columns["reward"])

    def sample() -> dict[str, Tensor]:
        index = torch.randint(count, (batch_size,), device=device)
        return {name: column[index] for name, column in columns.items()}

    return sample


class _Rows(Dataset[dict[str, Tensor]]):
    """Rows of columns, by a number or a list of numbers."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["reward"])

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self._columns.items()}


def loader(columns: dict[str, Tensor], batch_size: int, device: torch.device, *, at_once: bool) -> Callable[[], object]:
    """Torch's DataLoader in this process: rows put together one by one, or lists of numbers as its manual shows."""
    rows = _Rows(columns)
    sampler = RandomSampler(rows, replacement=True, num_samples=100 * batch_size)
    made: Any = (
        DataLoader(rows, sampler=BatchSampler(sampler, batch_size, drop_last=True), batch_size=None)
        if at_once
        else DataLoader(rows, sampler=sampler, batch_size=batch_size)
    )

    def endless() -> Any:
        while True:
            yield from made

    found = endless()
    return lambda: {name: column.to(device) for name, column in next(found).items()}


def drawn_by_torchrl(columns: Columns, batch_size: int, device: torch.device) -> Callable[[], NDArray[Any]]:
    """Draws of TorchRL's buffer, moved to the device."""
    draw: Any = torchrl(columns, batch_size)
    return lambda: draw().to(device)
