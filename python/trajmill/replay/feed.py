"""Batches on a device: drawn ahead by a thread of the core and copied while the device computes, or drawn there."""

from __future__ import annotations

import atexit
import contextlib
import math
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill import _core
from trajmill.core import checks
from trajmill.training.device import device_named
from trajmill.training.draws import philox

_ALIGNMENT = 64
"""bytes: where a column of a slot begins, a cache line"""
_MASK = 0xFFFF_FFFF
_DRAWS_AT_ONCE = 32

_Places = Mapping[str, tuple[slice, torch.dtype, tuple[int, ...]]]
"""column -> its bytes in the block that holds a batch, its dtype and its shape"""


class Feed(Iterator[dict[str, Tensor]]):
    """An endless iterator over the batches of a source: column name -> tensor (batch_size, ...) of the column's dtype.

    The batches are those that ``source.sample(batch_size)`` would give, in that order. A thread of the core, which does
    not need Python's lock, draws up to `ahead` >= 2 batches into memory that the device reads directly ("pinned"). On a
    GPU every batch has memory of its own, and the next one is copied on a stream of its own while the current one is
    used. On ``"cpu"`` the tensors are views of the ring: a batch is valid until the next one is taken. Drawing ahead
    means that priorities and new transitions take effect up to `ahead` + 1 batches later. `threads` draw one batch
    together, which is worth it for batches of 10^5 rows.

    The source is a `ReplayBuffer`, `TrajectoryBuffer`, `MixedReplay` or anything else compiled; TypeError otherwise.
    What it raises, such as ValueError for a buffer without transitions, comes out of the iteration. While the feed is
    open, nothing else should draw from the source, which is some draws ahead of the batches handed out. Closing the
    feed puts the source back behind the last one; only then may its state be saved.

    >>> import trajmill as tm
    >>> buffer = tm.ReplayBuffer(4, {"reward": ((), "f4")}, seed=0)
    >>> _ = buffer.add(reward=[1.0, 2.0, 3.0, 4.0])
    >>> with tm.feed(buffer, "cpu", batch_size=2) as feed:
    ...     next(feed)["reward"].shape
    torch.Size([2])
    """

    def __init__(
        self,
        source: _core.BatchSource,
        device: str | torch.device = "cuda",
        *,
        batch_size: int,
        ahead: int = 4,
        threads: int = 1,
    ) -> None:
        if not isinstance(source, _core.BatchSource):
            raise TypeError(
                f"a feed needs a compiled source, such as a buffer, got {source!r}; put it into a tm.MixedReplay"
            )
        self.device = device_named(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"a feed needs a device 'cpu' or 'cuda', got '{self.device}'")
        self.batch_size = checks.integer("batch_size", batch_size, 1, 2**40)
        on_gpu = self.device.type == "cuda"
        slot_count = checks.integer("ahead", ahead, 2, 2**16)
        self._places, block_size = _places_of(source.batch_columns, self.batch_size)
        self._blocks = [torch.empty(block_size, dtype=torch.uint8, pin_memory=on_gpu) for _ in range(slot_count)]
        self._copies: deque[tuple[torch.cuda.Event, Tensor]] = deque()  # batches on their way to the GPU, oldest first
        self._used: deque[torch.cuda.Event] = deque()  # ends of copies whose slots have not been given back
        self._stream = torch.cuda.Stream(self.device) if on_gpu else None
        self._holds_slot = False
        slots = [{name: view.numpy() for name, view in _views(block, self._places).items()} for block in self._blocks]
        threads = checks.integer("threads", threads, 1, 1024)
        self._core: _core.BatchFeed | None = _core.BatchFeed(source, self.batch_size, slots, threads)
        _open.add(self)

    def __next__(self) -> dict[str, Tensor]:
        """Give the next batch; waits only if it has not been drawn yet."""
        if self._core is None:
            raise ValueError("this feed is closed; open a new one with tm.feed")
        block = self._next_on_host(self._core) if self._stream is None else self._next_on_gpu(self._core, self._stream)
        return _views(block, self._places)

    def _next_on_host(self, core: _core.BatchFeed) -> Tensor:
        if self._holds_slot:
            core.release()
        self._holds_slot = False
        slot = core.next()
        self._holds_slot = True
        return self._blocks[slot]

    def _next_on_gpu(self, core: _core.BatchFeed, stream: torch.cuda.Stream) -> Tensor:
        while len(self._copies) < 2 and (not self._copies or core.ready()):
            self._free_slots(core, len(self._used) == len(self._blocks))
            block = self._blocks[core.next()]
            with torch.cuda.stream(stream):
                copy = block.to(self.device, non_blocking=True)
                copied = stream.record_event()
            self._copies.append((copied, copy))
            self._used.append(copied)
        self._free_slots(core, wait=False)
        copied, copy = self._copies.popleft()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        copy.record_stream(current)
        return copy

    def _free_slots(self, core: _core.BatchFeed, wait: bool) -> None:
        """Give back the slots that have been copied; with `wait`, at least one."""
        if wait:
            self._used[0].synchronize()
        while self._used and self._used[0].query():
            self._used.popleft()
            core.release()

    def close(self) -> None:
        """Stop drawing ahead; what was drawn but not handed out will be the source's next draws again."""
        for copied in self._used:
            copied.synchronize()
        core, self._core = self._core, None
        if core is not None:
            core.stop(unused=len(self._copies))
        self._used.clear()
        self._copies.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_open: weakref.WeakSet[Feed] = weakref.WeakSet()
_kept: list[object] = []
"""what feeds held when the interpreter was about to end, which drops it last"""


@atexit.register
def _close_all() -> None:
    """Before the interpreter ends: a source written in Python cannot be asked for rows while it does.

    The memory is kept: a thread that dropped a tensor meanwhile would end the process (torch waits for Python's lock in
    a destructor).
    """
    for each in list(_open):
        _kept.append((each._core, each._blocks, list(each._copies)))
        with contextlib.suppress(Exception):
            each.close()


feed = Feed  # as in tm.feed(buffer, "cuda", batch_size=256)


class ResidentReplay:
    """A copy of the transitions of a `ReplayBuffer` on one device, sampled without the host; made by `ReplayBuffer.to`.

    Draw d gives the rows that draw d of the buffer gave when it was copied (``cpp/include/trajmill/replay_buffer.hpp``
    says how draws are numbered); ``draw_count`` is the number of the next one. One row is one run of memory, gathered
    as int64, so a batch is one gather.
    """

    def __init__(
        self, columns: Mapping[str, NDArray[Any]], *, key: int, draw_count: int, device: str | torch.device
    ) -> None:
        """Pack `columns` (N, ...), in the order in which draws count rows; `key` is the buffer's."""
        device = device_named(device)
        self.draw_count = draw_count
        self._size = len(next(iter(columns.values())))
        if not 0 < self._size < 2**31:
            raise ValueError(f"a resident copy needs 1 to 2**31 - 1 transitions, got {self._size}")
        row = np.dtype([(name, array.dtype, array.shape[1:]) for name, array in columns.items()], align=True)
        rows = np.zeros((self._size, -(-row.itemsize // 8)), np.int64)
        packed = np.ndarray(self._size, row, rows, strides=rows.strides[:1])
        assert row.fields is not None
        self._places = {}
        for name, array in columns.items():
            packed[name] = array
            column, start = row.fields[name][:2]
            self._places[name] = (slice(start, start + column.itemsize), torch_dtype(array.dtype), array.shape[1:])
        self._rows = torch.from_numpy(rows).to(device)
        self._key = tuple(torch.tensor(word, device=device) for word in (key & _MASK, key >> 32))
        self._ahead: tuple[int, Tensor] = (0, torch.empty(0, 0, dtype=torch.int64))  # first draw, indexes of some draws

    def __len__(self) -> int:
        """Number of transitions."""
        return self._size

    def sample(self, batch_size: int) -> dict[str, Tensor]:
        """The next draw: column -> (batch_size, ...) on the device; uniform, with replacement."""
        size = checks.integer("batch_size", batch_size, 1, 2**32)
        first, indexes = self._ahead
        if indexes.shape[1] != size or not first <= self.draw_count < first + len(indexes):
            first = self.draw_count
            indexes = self.indexes(torch.tensor(first, device=self._rows.device), _DRAWS_AT_ONCE, size)
            self._ahead = (first, indexes)
        self.draw_count += 1
        return self.gather(indexes[self.draw_count - 1 - first])

    def indexes(self, draw: Tensor, count: int, batch_size: int) -> Tensor:
        """The rows that `count` draws take from draw `draw` (int64 scalar on the device) on: int64 (count, batch_size).

        Reads nothing back to the host, so it can be captured in a CUDA graph, whose `draw` is advanced in place.
        """
        device = self._rows.device
        draws = (draw + torch.arange(count, device=device))[:, None]
        pairs = torch.arange(-(-batch_size // 2), device=device)
        words = philox((pairs, draws & _MASK, draws >> 32, torch.zeros_like(draws)), self._key)
        high, low = torch.stack(words[::2], -1).flatten(-2), torch.stack(words[1::2], -1).flatten(-2)
        return ((high * self._size + (low * self._size >> 32)) >> 32)[:, :batch_size]

    def gather(self, indexes: Tensor) -> dict[str, Tensor]:
        """The rows of the given indexes (...): column -> (..., *row shape), views of one block of memory."""
        rows = self._rows[indexes].view(torch.uint8)
        return {
            name: rows[..., place].view(dtype).reshape(*indexes.shape, *shape)
            for name, (place, dtype, shape) in self._places.items()
        }


def _places_of(columns: Sequence[tuple[str, tuple[int, ...], np.dtype[Any]]], batch_size: int) -> tuple[_Places, int]:
    """Where the columns lie, each from a multiple of `_ALIGNMENT` on, and the size of the block in bytes."""
    places, stop = {}, 0
    for name, row_shape, dtype in columns:
        start, shape = -(-stop // _ALIGNMENT) * _ALIGNMENT, (batch_size, *row_shape)
        stop = start + math.prod(shape) * dtype.itemsize
        places[name] = (slice(start, stop), torch_dtype(dtype), shape)
    return places, stop


def _views(block: Tensor, places: _Places) -> dict[str, Tensor]:
    return {name: block[place].view(dtype).view(shape) for name, (place, dtype, shape) in places.items()}


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Torch's name of a NumPy dtype."""
    return torch.from_numpy(np.empty(0, dtype)).dtype
