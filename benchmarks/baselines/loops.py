"""Ways to train one seed by a learner's ``update(*batch)``: who makes the batches, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from plain_loops import from_values
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from trajmill.models.mlp import export_network
from trajmill.models.stack import Stack

Run = Callable[[int], None]
"""makes that many updates"""
Context = Callable[[], AbstractContextManager[object]]
"""what an update runs in, such as autocast"""


def relative(one: Tensor, other: Tensor) -> float:
    """Distance over the size of the other."""
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-30))


def eager(learner: Any, batch: Callable[[], Sequence[Tensor]], context: Context, *, reads_metrics: bool) -> Run:
    """R0 to R2: one update after another; `reads_metrics` waits for every metric."""

    def run(count: int) -> None:
        for _ in range(count):
            tensors = batch()
            with context():
                metrics = learner.update(*tensors)
            for metric in metrics if reads_metrics else ():
                metric.item()

    return run


def captured(
    learner: Any, batch: Callable[[], Sequence[np.ndarray]], device: torch.device, context: Context, compiled: bool
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


def _graph(learner: Any, fire: Callable[[], None]) -> Callable[[], None]:
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


# --- for peers with multi-layer perceptrons ---------------------------------------------------------------------------


def adam(parameters: list[nn.Parameter], rate: float, *, on_graph: bool) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, rate, fused=on_graph or None, capturable=on_graph and parameters[0].is_cuda)


def load(network: nn.Module, stack: Stack, row: int, head: str) -> Tensor:
    """Copy one of our networks into a peer's; gives all its numbers as a vector."""
    network.load_state_dict(from_values(export_network(stack.parameters, row), head).state_dict())
    return numbers(network)


def numbers(network: nn.Module) -> Tensor:
    """All parameters as a vector."""
    return parameters_to_vector(network.parameters()).detach().clone()


def ours(stack: Stack, row: int, head: str) -> Tensor:
    """All numbers of one of our networks in the order of `numbers`."""
    return numbers(from_values(export_network(stack.parameters, row), head)).to(stack.flat.device)
