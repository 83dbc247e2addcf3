"""The one loop: calls a step on a CPU, replays a captured period of steps on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import torch

from trajmill.training.state import TrainingState

StateT_contra = TypeVar("StateT_contra", bound=TrainingState, contravariant=True)
StateT = TypeVar("StateT", bound=TrainingState)


class Step(Protocol[StateT_contra]):
    """`count` updates of every seed, in place: no host reads, no new state tensors, same operations every time."""

    def __call__(self, state: StateT_contra, count: int = 1) -> None:
        """Make `count` updates."""


class Feed(Protocol):
    """Puts what the next updates read into a state's tensors, in place."""

    def __call__(self, first: int, count: int, /) -> None:
        """Feed updates `first` to `first` + `count` - 1."""


class Runner:
    """Runs updates by periods of `unroll`; on CUDA one period is one graph, captured when the runner is made.

    `unroll` is a multiple of the algorithm's own period (delayed updates); it never changes the result. `feed` puts
    what the next updates read into the state, at most `unroll` of them at once; `done` updates were made before.
    """

    def __init__(
        self, step: Step[StateT], state: StateT, unroll: int = 8, *, feed: Feed | None = None, done: int = 0
    ) -> None:
        if unroll < 1:
            raise ValueError(f"unroll must be at least 1, got {unroll}")
        self.unroll = unroll
        self._feed = feed
        self._done = done
        self._step: Callable[[int], None] = partial(step, state)
        on_cuda = next(iter(state.moving().values())).device.type == "cuda"
        self._fire = _capture(self._step, state, unroll) if on_cuda else partial(self._step, unroll)

    def run(self, count: int) -> None:
        """Make `count` updates: whole periods, then what is left one step at a time, uncaptured."""
        for first in range(0, count, self.unroll):
            period = min(self.unroll, count - first)
            if self._feed is not None:
                self._feed(self._done, period)
            if period == self.unroll:
                self._fire()
            else:
                self._step(period)
            self._done += period


def _capture(step: Callable[[int], None], state: TrainingState, unroll: int) -> Callable[[], None]:
    """Graph of one period. Warming up (lazy handles, workspaces) runs real updates, so they are undone in place."""
    moving = state.moving()
    before = {name: tensor.clone() for name, tensor in moving.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step(unroll)
    torch.cuda.current_stream().wait_stream(side)
    with torch.no_grad():
        for name, tensor in moving.items():
            tensor.copy_(before[name])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(unroll)
    return graph.replay
