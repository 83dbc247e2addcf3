"""The runner: exactly the updates asked for, in phase, each with what the host feeds it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from gpu import DEVICES
from torch import Tensor

from trajmill.training.metrics import MetricRing
from trajmill.training.runner import Runner


class Numbers:
    """A fed part: the number of each update, in slots; writes down what it is asked."""

    def __init__(self, device: str = "cpu") -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.device = device
        self.reserve(1)

    def reserve(self, count: int) -> None:
        self.calls.append(("reserve", count, 0))
        self.slots = torch.full((count,), -1, dtype=torch.int64, device=self.device)

    def feed(self, first: int, count: int) -> None:
        self.calls.append(("feed", first, count))
        self.slots[:count].copy_(torch.arange(first, first + count))

    def close(self) -> None:
        self.calls.append(("close", 0, 0))

    @property
    def fed(self) -> list[tuple[int, int]]:
        return [(first, count) for name, first, count in self.calls if name == "feed"]


@dataclass
class Delayed:
    """A method whose every third update does more: a state of period 3."""

    value: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    delayed: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    step: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    numbers: Numbers = field(default_factory=Numbers)
    period: int = 3
    made: list[tuple[int, int]] = field(default_factory=list)
    metrics: MetricRing | None = None

    def moving(self) -> dict[str, Tensor]:
        return {"value": self.value, "delayed": self.delayed, "step": self.step}


def step(state: Delayed, count: int = 1, first: int = 0) -> None:
    """Order matters in every number, and so does what was fed."""
    state.made.append((count, first))
    for slot in range(count):
        state.value.mul_(0.5).add_(state.numbers.slots[slot])
        if (first + slot) % 3 == 2:
            state.delayed.mul_(2.0).add_(state.value)
        state.step.add_(1)


def expected(updates: int) -> tuple[float, float]:
    """The same, one number after the other."""
    value = delayed = 0.0
    for update in range(updates):
        value = 0.5 * value + update
        if update % 3 == 2:
            delayed = 2.0 * delayed + value
    return value, delayed


def assert_made(state: Delayed, updates: int) -> None:
    assert int(state.step) == updates
    assert (float(state.value[0]), float(state.delayed[0])) == expected(updates)


@pytest.mark.parametrize("counts", [(16,), (1, 7, 8), (2, 2, 2, 10), (5,) * 5, (1,) * 9], ids=str)
@pytest.mark.parametrize("unroll", [1, 3, 4, 6, 8, 100])
def test_the_phase_is_kept_wherever_a_run_stops(unroll: int, counts: tuple[int, ...]) -> None:
    state = Delayed()
    with Runner(step, state, unroll) as runner:
        for end in itertools.accumulate(counts):
            runner.run(end - int(state.step))
            assert_made(state, end)
    place = 0
    for count, first in state.made:
        assert first == place % 3 and count <= runner.unroll
        place += count


def test_a_run_is_taken_up_in_phase() -> None:
    for done in range(1, 8):
        state = Delayed()
        with Runner(step, state, 6) as runner:
            runner.run(done)
        with Runner(step, state, 6, done=done) as runner:
            runner.run(20 - done)
        assert_made(state, 20)


@pytest.mark.parametrize(("unroll", "rounded"), [(1, 3), (3, 3), (4, 3), (8, 6), (9, 9)])
def test_unroll_is_a_multiple_of_the_period(unroll: int, rounded: int) -> None:
    assert Runner(step, Delayed(), unroll).unroll == rounded
    assert Runner(step, Delayed(period=1), unroll).unroll == unroll
    with pytest.raises(ValueError, match=r"unroll .* got 0"):
        Runner(step, Delayed(), 0)


def test_what_is_fed_is_reserved_fed_in_order_and_closed() -> None:
    """Room is made once; each update is fed exactly once, at most a period of the runner at a time."""
    state = Delayed()
    with Runner(step, state, 6, done=4) as runner:
        assert state.numbers.calls == [("reserve", 1, 0), ("reserve", 6, 0)]
        runner.run(1)
        runner.run(13)
    assert state.numbers.fed == [(4, 1), (5, 4), (9, 6), (15, 3)]
    assert state.made == [(1, 1), (4, 2), (6, 0), (3, 0)]
    assert state.numbers.calls[-1][0] == "close"


def test_what_is_fed_is_closed_if_an_update_fails() -> None:
    def failing(state: Delayed, count: int = 1, first: int = 0) -> None:
        raise ArithmeticError("diverged")

    state = Delayed()
    with pytest.raises(ArithmeticError, match="diverged"), Runner(failing, state) as runner:
        runner.run(1)
    assert state.numbers.calls[-1][0] == "close"


@pytest.mark.parametrize("device", DEVICES)
def test_a_captured_period_reads_what_is_fed(device: str) -> None:
    """On a GPU a graph is replayed in phase alone, and its warm-up leaves no trace."""
    one = torch.zeros(4, dtype=torch.float64, device=device)
    state = Delayed(one, one.clone(), torch.zeros((), dtype=torch.int64, device=device), Numbers(device))
    with Runner(step, state, 6) as runner:
        assert_made(state, 0)
        for end in (1, 8, 20, 41):
            runner.run(end - int(state.step))
            assert_made(state, end)
