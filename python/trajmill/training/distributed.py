"""One program on several processes, as torchrun starts them: each takes its rows of every batch, all stay equal.

Gradients are averaged, so updates equal those of one process on the whole batch up to rounding. Processes on CPUs talk
through gloo, those on GPUs (one each) through NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a program, seen from one of them; alone, nothing is sent."""

    rank: int = 0
    """which one this is; the first one alone writes files and shows progress"""
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Rows of a batch that each process takes: those from ``rank`` times this number on."""
        if batch_size % self.count:
            raise ValueError(f"batch_size must be a multiple of the {self.count} processes, got {batch_size}")
        return batch_size // self.count

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace `tensor` by its mean over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.count)

    def broadcast(self, tensor: Tensor) -> None:
        """Replace `tensor` by the first process's, in place."""
        if self.count > 1:
            dist.broadcast(tensor, src=0)

    def maximum(self, number: int) -> int:
        """The greatest of all processes' whole numbers; none goes on before all have asked."""
        greatest = torch.tensor(number, dtype=torch.int64, device=self.device)
        if self.count > 1:
            dist.all_reduce(greatest, dist.ReduceOp.MAX)
        return int(greatest)


ALONE = Ranks()
_current = ALONE


def current_ranks() -> Ranks:
    """The processes that train together with this one."""
    return _current


def is_first() -> bool:
    """Whether this process is the first of its program, by torchrun's environment variables."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes, if torchrun started any; a GPU is taken by the process's place on its machine."""
    global _current  # noqa: PLW0603
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    if device.type == "cuda":
        place, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= there:
            raise ValueError(
                f"process {place} of this machine has no GPU of its own, torch sees {there}; "
                f"use --nproc-per-node {there} or --compute.device cpu"
            )
        torch.cuda.set_device(place)
    patience = timedelta(hours=2)  # the first may be tokenizing a large text; torchrun ends the others if one fails
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        _current = Ranks(rank=dist.get_rank(), count=count, device=device)
        yield _current
    finally:
        _current = ALONE
        dist.destroy_process_group()
