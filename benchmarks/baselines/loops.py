"""Four ways to train one seed by a learner's ``update(*batch)``: who makes the batches, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

Arrays = Sequence[np.ndarray]
Run = Callable[[int], None]
"""makes that many updates"""
Context = Callable[[], AbstractContextManager[object]]
"""what an update runs in, such as autocast"""


class Learner(Protocol):
    """One seed's networks and optimizers."""

    def parameters(self) -> list[nn.Parameter]: ...

    def update(self, *batch: Tensor) -> list[Tensor]: ...


def relative(one: Tensor, other: Tensor) -> float:
    """Distance over the size of the other."""
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-30))


def paper_style(
    learner: Learner, batch: Callable[[], Arrays], device: torch.device, context: Context = nullcontext
) -> Run:
    """R0: a batch from NumPy, copied to the device, and every metric read back."""

    def run(count: int) -> None:
        for _ in range(count):
            tensors = [torch.from_numpy(array).to(device) for array in batch()]
            with context():
                metrics = learner.update(*tensors)
            for metric in metrics:
                metric.item()

    return run


def host_indexed(
    learner: Learner,
    count: int,
    gather: Callable[[Tensor], Sequence[Tensor]],
    size: int,
    device: torch.device,
    context: Context = nullcontext,
) -> Run:
    """R1: data on the device, indexed by numbers drawn by NumPy, and every metric read back."""

    def run(updates: int) -> None:
        for _ in range(updates):
            batch = gather(torch.from_numpy(np.random.randint(count, size=size)).to(device))  # noqa: NPY002
            with context():
                metrics = learner.update(*batch)
            for metric in metrics:
                metric.item()

    return run


def without_syncs(learner: Learner, batch: Callable[[], Sequence[Tensor]], context: Context = nullcontext) -> Run:
    """R2: batches are drawn on the device, nothing is read back."""

    def run(count: int) -> None:
        for _ in range(count):
            tensors = batch()
            with context():
                learner.update(*tensors)

    return run


def captured(
    learner: Learner, batch: Callable[[], Arrays], device: torch.device, context: Context, *, compiled: bool
) -> Run:
    """R3: the update is one CUDA graph, compiled first if so wished; each batch is copied into the graph's tensors.

    On a CPU there is no graph: the copies and the compiled update are what is left.
    """
    inputs = [torch.from_numpy(array).to(device) for array in batch()]
    update = torch.compile(learner.update, dynamic=False) if compiled else learner.update

    def fire() -> None:
        with context():
            update(*inputs)

    replay = _graph(learner, fire) if device.type == "cuda" else fire

    def run(count: int) -> None:
        for _ in range(count):
            for tensor, array in zip(inputs, batch(), strict=True):
                host = torch.from_numpy(array)
                # pinned blocks are used again only when their copy is done
                tensor.copy_(host.pin_memory() if device.type == "cuda" else host, non_blocking=True)
            replay()

    return run


def _graph(learner: Learner, fire: Callable[[], None]) -> Callable[[], None]:
    def afresh() -> None:
        """Without the gradients of the last time, which a graph would write to after freeing them."""
        for parameter in learner.parameters():
            parameter.grad = None
        fire()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            afresh()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        afresh()
    return graph.replay
