"""Timing: contenders in turns, blocks of calls, medians and quartiles. Knows nothing of what is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from statistics import median, quantiles
from time import perf_counter

ROUNDS = 15
"""rounds that a group is planned for; more are made if there is time left"""
LEAST_ROUNDS = 3
"""fewer would have no quartiles; a group whose calls are slow takes more time than it was given instead"""
SHORTEST_BLOCK, LONGEST_BLOCK = 0.005, 0.1
"""seconds"""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several measurements, and their quartiles."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
        return cls(median(values), low, high)


@dataclass(slots=True)
class Contender:
    """One way to do something, ready to be timed."""

    run: Callable[[int], object]
    """makes that many calls, a multiple of `period`; may return before they are done"""
    name: str = ""
    amount: float = 1.0
    """what one call makes, such as tokens"""
    finish: Callable[[], object] = lambda: None
    """waits until the calls are done"""
    before: Callable[[], object] = lambda: None
    """called before each block, which does not count"""
    period: int = 1
    calls: int = 1
    """of a block"""
    seconds: list[float] = field(default_factory=list)
    """per call, one a block"""

    def calibrate(self, block_seconds: float) -> None:
        """Choose how many calls a block has; makes some, which do not count."""
        calls = self.period
        while (taken := self._time(calls)) < 0.2 * block_seconds:
            calls *= 2 if taken > 0.02 * block_seconds else 5
        self.calls = max(1, round(block_seconds / (taken / calls) / self.period)) * self.period

    def block(self) -> None:
        """Time one block."""
        self.seconds.append(self._time(self.calls) / self.calls)

    def _time(self, calls: int) -> float:
        """Seconds of so many calls by the host's clock, from an idle device to an idle device."""
        self.before()
        self.finish()
        started = perf_counter()
        self.run(calls)
        self.finish()
        return perf_counter() - started

    def rate(self) -> Spread:
        """What is made a second."""
        return Spread.of([self.amount / taken for taken in self.seconds])


def calling(work: Callable[[], object]) -> Callable[[int], None]:
    """What calls `work` so many times, for `Contender.run`."""

    def run(calls: int) -> None:
        for _ in range(calls):
            work()

    return run


def in_blocks(
    contenders: Sequence[Contender],
    *,
    rounds: int | None,
    block_seconds: float,
    after_round: Callable[[], None] = lambda: None,
    deadline: float = inf,
    least: int = 1,
) -> None:
    """Blocks in turns, A B C A B C, until all rounds are made or the deadline (of `perf_counter`) is near.

    Without a number of `rounds` the deadline alone ends it; the `least` rounds are made in any case.
    """
    for contender in contenders:
        contender.calibrate(block_seconds)
    for done in count(1) if rounds is None else range(1, rounds + 1):
        started = perf_counter()
        for contender in contenders:
            contender.block()
        after_round()
        if done >= least and perf_counter() + (perf_counter() - started) > deadline:
            break


def in_turns(contenders: Sequence[Contender], seconds: float, after_round: Callable[[], None] = lambda: None) -> None:
    """Time contenders for about so many seconds, warm-up included, in at least `LEAST_ROUNDS` rounds."""
    deadline = perf_counter() + seconds
    block = seconds / max(1, len(contenders)) / (ROUNDS + 1.5)  # calibrating takes about a block and a half
    block = min(max(block, SHORTEST_BLOCK), LONGEST_BLOCK)
    in_blocks(
        contenders, rounds=None, block_seconds=block, after_round=after_round, deadline=deadline, least=LEAST_ROUNDS
    )
