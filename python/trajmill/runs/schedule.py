"""The loop every run shares: updates between marks; at marks it logs, evaluates, saves."""

from __future__ import annotations

import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from trajmill.core.progress import Progress
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import not_finite
from trajmill.runs.signals import Interrupted, stop_signals
from trajmill.runs.watching import Record, Stopped, Watch
from trajmill.training.distributed import ALONE, Ranks
from trajmill.training.metrics import MetricRing
from trajmill.training.runner import Runner, Step
from trajmill.training.settings import Bound, Schedule
from trajmill.training.state import Growing, TrainingState


class DivergenceWarning(RuntimeWarning):
    """A seed has numbers that are not finite, since an update."""

    def __init__(self, seed: int, update: int, why: str) -> None:
        super().__init__(
            f"seed {seed} diverged at update {update:,}: {why}; it gets no score, other seeds go on unharmed"
        )
        self.seed, self.update, self.why = seed, update, why

    def __reduce__(self) -> tuple[type[DivergenceWarning], tuple[int, int, str]]:
        """Sent from one process to another."""
        return type(self), (self.seed, self.update, self.why)


class DivergenceError(RuntimeError):
    """No seed is left that could learn; the last checkpoint before that is kept."""

    @classmethod
    def of(cls, diverged: Mapping[int, int], run: RunDirectory) -> DivergenceError:
        """All seeds of `run`, and when."""
        seeds = ", ".join(f"seed {seed} at update {update:,}" for seed, update in diverged.items())
        newest = run.newest_checkpoint()
        parts = run.path / "processes"
        kept = (
            f"{newest} is the last good checkpoint"
            if newest
            else f"{parts} has the last good checkpoints"
            if any(parts.glob("*/checkpoints/step_*"))
            else "there is no checkpoint from before"
        )
        return cls(
            f"nothing left to train: {seeds} diverged; {kept}. Look for extreme numbers in the data, try a smaller "
            f"learning rate, and start again in another directory"
        )


StateT = TypeVar("StateT", bound=TrainingState)
Metrics = Mapping[str, Sequence[float]]


class Pending(Protocol):
    """Metrics that something else is working out."""

    def is_done(self) -> bool:
        """Whether `result` does not wait."""

    def result(self) -> Metrics:
        """The metrics."""


Evaluate = Callable[[int], Metrics | Pending]
"""number of updates made -> metrics, one value per seed, at once or later"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a finished schedule leaves to say."""

    wall_seconds: float
    """in all, also of the parts before an interruption"""
    diverged: Mapping[int, int]
    """seed -> the update in which a metric of it, or one of its numbers, was no longer finite"""

    def result(self) -> dict[str, Any]:
        """For ``result.json``."""
        return {"wall_seconds": self.wall_seconds, "diverged": with_text_keys(self.diverged)}


def run_schedule(
    run: RunDirectory,
    step: Step[StateT],
    state: StateT,
    schedule: Schedule,
    *,
    seeds: Sequence[int],
    metadata: Mapping[str, Any],
    progress: Progress,
    evaluate: Evaluate | None = None,
    at_start: Callable[[], Metrics] | None = None,
    ranks: Ranks = ALONE,
    bounds: Mapping[str, Bound] | None = None,
    of_larger_run: bool = False,
    watch: Watch | None = None,
) -> Trained:
    """Train `state` from its newest checkpoint, if any, to the end of the schedule.

    `at_start` gives metrics before the first update, the line of phase ``start``.

    Of several `ranks` all train and evaluate, and the first alone touches the run directory. A seed that diverges is
    reported and keeps running; when all have, `DivergenceError` ends the run, its last checkpoint kept, unless it is
    part `of_larger_run` with more seeds. SIGINT, SIGTERM and SIGHUP end it with `Interrupted` after the updates
    under way, and a checkpoint; so does what `watch` raises, `Stopped` too.
    """
    restored: dict[str, Any] = run.restore(state, metadata) if ranks.is_first else {}
    done = ranks.maximum(int(restored.get("update", 0)))
    for tensor in state.moving().values():
        ranks.broadcast(tensor)
    began = time.monotonic() - float(restored.get("wall_seconds", 0.0))
    diverged = {int(seed): int(update) for seed, update in restored.get("diverged", {}).items()}
    health = _Health(seeds, diverged, bounds or {}, run, reports=ranks.is_first, stops=not of_larger_run)
    lines = [line["update"] for line in run.lines("train")] if ranks.is_first and done else []
    logged = ranks.maximum(max(done - done % schedule.log_interval, min(done, 1), *lines[-1:]))
    progress("train", done, schedule.updates, "updates")
    log = _Log(seeds, run if ranks.is_first else None, watch)
    if watch is not None and ranks.is_first:
        watch.known(Record.of_line(line, seeds) for line in run.lines())

    def save() -> None:
        if of_larger_run and len(health.diverged) == len(seeds) and done < schedule.updates:
            return  # the last good checkpoint stays
        passed = {"wall_seconds": time.monotonic() - began, "diverged": with_text_keys(health.diverged)}
        run.save(state, done, {**metadata, **passed})

    with Runner(step, state, schedule.unroll, done=done) as runner, stop_signals() as received:
        if at_start is not None and done == 0 and not run.lines("start"):
            log.add("start", 0, time.monotonic() - began, at_start())
        while done < schedule.updates:
            stop = schedule.next_stop(done)
            runner.run(stop - done)
            done = stop
            saves = schedule.is_mark(schedule.checkpoint_interval, done)
            stopped = ranks.maximum(int(received() is not None))
            if done == 1 or schedule.is_mark(schedule.log_interval, done):
                means = state.metrics.mean_of_last(logged, done)
                more: Metrics = state.report() if isinstance(state, Growing) else {}
                log.add("train", done, time.monotonic() - began, {**means, **more})
                health.metrics(state.metrics, means, logged, done)
                logged = done
            if saves or stopped:
                health.numbers(state, done)
            if evaluate is not None and schedule.is_mark(schedule.evaluation_interval, done):
                log.add("evaluation", done, time.monotonic() - began, evaluate(done))
            if saves or stopped:
                log.write(waits=True)
            failed = ranks.maximum(int(log.failure is not None))
            if failed and not (saves or stopped):
                health.numbers(state, done)
                log.write(waits=True)
            if ranks.is_first and (saves or stopped or failed):
                save()
            progress("train", done, schedule.updates, "updates")
            if failed and (done < schedule.updates or not isinstance(log.failure, Stopped)):
                raise log.failure or Stopped
            if stopped and done < schedule.updates:
                raise Interrupted(
                    f"stopped after update {done:,} of {schedule.updates:,}, with a checkpoint in {run.path}",
                    received() or signal.SIGTERM,
                )
    return Trained(wall_seconds=time.monotonic() - began, diverged=health.diverged)


@dataclass(slots=True)
class _Log:
    """Writes lines of metrics in the order of their updates, also when some of them come later."""

    seeds: Sequence[int]
    run: RunDirectory | None
    watch: Watch | None
    waiting: deque[tuple[str, int, float, Metrics | Pending]] = field(default_factory=deque)
    failure: Exception | None = None
    """what `watch` raised"""

    def add(self, phase: str, update: int, seconds: float, metrics: Metrics | Pending) -> None:
        self.waiting.append((phase, update, seconds, metrics))
        self.write(waits=False)

    def write(self, *, waits: bool) -> None:
        """Write what is there, or with `waits` everything."""
        while self.waiting:
            phase, update, seconds, metrics = self.waiting[0]
            if not isinstance(metrics, Mapping):
                if not (waits or metrics.is_done()):
                    return
                metrics = metrics.result()
            self.waiting.popleft()
            if self.run is None:
                continue
            self.run.log(phase, update, seconds, metrics)
            if self.watch is not None and self.failure is None:
                try:
                    self.watch(Record.of(phase, update, seconds, self.seeds, metrics))
                except Exception as error:  # raised once there is a checkpoint
                    self.failure = error


@dataclass(slots=True)
class _Health:
    """Reports seeds that diverge, each once, and stops a run of which nothing is left."""

    seeds: Sequence[int]
    diverged: dict[int, int]
    bounds: Mapping[str, Bound]
    run: RunDirectory
    reports: bool
    stops: bool
    beyond: set[int] = field(default_factory=set)

    def metrics(self, ring: MetricRing, means: Mapping[str, Sequence[float]], first: int, end: int) -> None:
        """Look at updates `first` to `end` - 1, counted from 0, and their means."""
        for seed, found in zip(self.seeds, ring.first_not_finite(first, end), strict=True):
            if found is not None:
                self._report(seed, found[0] + 1, f"its {found[1]} is {found[2]}")
        for name, bound in self.bounds.items():
            for seed, mean, limit in zip(self.seeds, means[name], bound.limits, strict=True):
                if abs(mean) > limit and seed not in self.beyond:
                    self.beyond.add(seed)
                    message = (
                        f"seed {seed}: mean {name} {mean:,.0f} at update {end:,} is beyond {limit:,.0f}, {bound.advice}"
                    )
                    warnings.warn(message, RuntimeWarning, stacklevel=4)
        self._stop()

    def numbers(self, state: TrainingState, done: int) -> None:
        """Look at all that training has changed: a checkpoint is about to be written."""
        for position in not_finite(state.moving(), len(self.seeds)):
            self._report(self.seeds[position], done, "some of its numbers are not finite")
        self._stop()

    def _report(self, seed: int, update: int, why: str) -> None:
        if seed not in self.diverged:
            self.diverged[seed] = update
            if self.reports:
                warnings.warn(DivergenceWarning(seed, update, why), stacklevel=5)

    def _stop(self) -> None:
        if self.stops and len(self.diverged) == len(self.seeds):
            raise DivergenceError.of(self.diverged, self.run)


def with_text_keys(diverged: Mapping[int, int]) -> dict[str, int]:
    """Keys as JSON has them."""
    return {str(seed): update for seed, update in diverged.items()}
