"""The one loop: calls a step on a CPU, replays a captured period of steps on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from math import gcd
from typing import Any, Protocol, Self, TypeVar

import torch

from trajmill.training.state import TrainingState

StateT_contra = TypeVar("StateT_contra", bound=TrainingState, contravariant=True)
StateT = TypeVar("StateT", bound=TrainingState)
ResultT = TypeVar("ResultT")


class Step(Protocol[StateT_contra]):
    """`count` updates of every seed, in place: no host reads, no new state tensors, same operations every period."""

    def __call__(self, state: StateT_contra, count: int = 1, first: int = 0) -> None:
        """Make `count` updates; `first` is the number of the first one, modulo the state's period."""


class Fed(Protocol):
    """A part of a state that the host fills before each period of updates, such as a table in host memory.

    If it has a ``period``, it is filled before every so-manyth update, for no more than these: as an agent that learns
    online steps its environments, by what the updates before have learned.
    """

    def reserve(self, count: int) -> None:
        """Make room for `count` updates; called once, before the first is fed."""

    def feed(self, first: int, count: int) -> None:
        """Put what updates `first` to `first` + `count` - 1 read where they read it, in place."""

    def close(self) -> None:
        """Nothing more will be fed."""


class Runner:
    """Runs updates by periods of `unroll`; on CUDA one period is one graph, captured when the runner is made.

    `unroll` is rounded down to a multiple of the method's own period (delayed updates), or is that of a part that is
    `Fed` with one, and a graph is only replayed in phase, so it never changes the result. `done` updates were made
    before. Every field of `state` that is `Fed` is filled before each period.
    """

    def __init__(self, step: Step[StateT], state: StateT, unroll: int = 8, *, done: int = 0) -> None:
        if unroll < 1:
            raise ValueError(f"unroll must be at least 1, got {unroll}")
        self._period = state.period
        self.unroll = max(unroll - unroll % self._period, self._period)
        self._begin = self._period  # a period of updates begins at a multiple of this
        self._done = done
        self._fed = _fed(state)
        if lengths := [part.period for part in self._fed if hasattr(part, "period")]:
            self.unroll = self._begin = gcd(*lengths)
        for part in self._fed:
            part.reserve(self.unroll)
        self._step: Callable[[int, int], None] = lambda count, first: step(state, count, first)
        on_cuda = next(iter(state.moving().values())).device.type == "cuda"
        phases = {begin % self._period for begin in range(0, self._period * self._begin, self._begin) if on_cuda}
        self._replays = {phase: _capture(self._step, state, self.unroll, phase) for phase in sorted(phases)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._fed:
            part.close()

    def run(self, count: int) -> None:
        """Make `count` updates: whole periods from the method's own on, and what is left over uncaptured."""
        end = self._done + count
        while self._done < end:
            phase = self._done % self._period
            made = min(self.unroll - self._done % self._begin, end - self._done)
            for part in self._fed:
                part.feed(self._done, made)
            if made == self.unroll and phase in self._replays:
                self._replays[phase]()
            else:
                self._step(made, phase)
            self._done += made


def _fed(state: Any) -> list[Fed]:
    """What the host fills."""
    return [part for field in fields(state) if hasattr(part := getattr(state, field.name), "feed")]


def _capture(step: Callable[[int, int], None], state: TrainingState, unroll: int, phase: int) -> Callable[[], None]:
    """Graph of one period. Warming up runs real updates, so they are undone in place."""
    moving = state.moving()
    before = {name: tensor.clone() for name, tensor in moving.items()}

    @torch.no_grad()
    def undo() -> None:
        for name, tensor in moving.items():
            tensor.copy_(before[name])

    return captured(lambda: step(unroll, phase), undo)


def captured(work: Callable[[], ResultT], after_warm_up: Callable[[], None] = lambda: None) -> Callable[[], ResultT]:
    """The work as one CUDA graph: it reads and writes the same tensors every time, and its result is in one of them.

    It is run twice before it is captured, to warm up (lazy handles, workspaces).
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(side)
    after_warm_up()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> ResultT:
        graph.replay()
        return result

    return replay
