"""The loop every training pipeline shares: updates between marks; at marks it logs, evaluates, saves."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from trajmill.core.progress import Progress
from trajmill.pipelines.interruption import Interrupted, stop_signals
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.training.distributed import ALONE, Ranks
from trajmill.training.hyperparameters import at_least
from trajmill.training.metrics import MetricRing
from trajmill.training.runner import Feed, Runner, Step
from trajmill.training.state import TrainingState


class MeasuredState(TrainingState, Protocol):
    """A training state with a metric ring."""

    @property
    def metrics(self) -> MetricRing:
        """Holds at least `Schedule.log_interval` updates."""


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
        parts = run.path / "workers"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What the mean of a metric does not pass while all is well."""

    limits: Sequence[float]
    """of its absolute value, one a seed"""
    says: str
    """where they come from, and what to do"""


Bounds = Mapping[str, Bound]
"""by the metric's name"""
StateT = TypeVar("StateT", bound=MeasuredState)
Evaluate = Callable[[int], Mapping[str, Sequence[float]]]
"""gradient step -> metrics, one value per seed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When to do what, counted in updates; the last update is always a mark of every kind."""

    updates: int
    """updates in all, at least 1"""
    log_interval: int = 1000
    """updates per line of metrics, at least 1; the very first update has a line of its own"""
    evaluation_interval: int = 5000
    """updates between evaluations, at least 1 (5,000 in arXiv 2310.00771, as its Table 13 suggests)"""
    checkpoint_interval: int = 10_000
    """updates between checkpoints, at least 1"""
    unroll: int = 8
    """updates per CUDA graph, at least 1; changes no result"""

    def __post_init__(self) -> None:
        for name in ("updates", "log_interval", "evaluation_interval", "checkpoint_interval", "unroll"):
            at_least(name, getattr(self, name), 1)

    def is_mark(self, interval: int, gradient_step: int) -> bool:
        """Whether what happens every `interval` updates happens now."""
        return gradient_step % interval == 0 or gradient_step == self.updates

    def next_stop(self, gradient_step: int) -> int:
        """Where to stop next: at a mark, or after a few periods so that progress can be shown."""
        intervals = (self.log_interval, self.evaluation_interval, self.checkpoint_interval)
        marks = [(gradient_step // interval + 1) * interval for interval in intervals]
        return 1 if gradient_step == 0 else min(*marks, self.updates, gradient_step + 8 * self.unroll)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a finished schedule tells."""

    wall_seconds: float
    """in all, also of the parts before an interruption"""
    diverged: Mapping[int, int]
    """seed -> the update in which a metric of it, or one of its numbers, was no longer finite"""

    def result(self) -> dict[str, Any]:
        """For ``result.json``."""
        return {"wall_seconds": self.wall_seconds, "diverged": by_word(self.diverged)}


def run_schedule(
    run: RunDirectory,
    step: Step[StateT],
    state: StateT,
    schedule: Schedule,
    *,
    phase: str,
    seeds: Sequence[int],
    metadata: Mapping[str, Any],
    progress: Progress,
    evaluate: Evaluate | None = None,
    feed: Feed | None = None,
    workers: Ranks = ALONE,
    bounds: Bounds | None = None,
    part: bool = False,
) -> Trained:
    """Train `state` from its newest checkpoint, if any, to the end of the schedule.

    `feed` is for states whose updates read what the host makes, see `Runner`. Of several `workers` all train and
    evaluate, and the leader alone touches the run directory. A seed that diverges is told of and goes on as it is;
    when all have, `DivergenceError` ends the run, its last checkpoint kept, unless it is a `part` of one with more
    seeds. SIGINT and SIGTERM end it with `Interrupted` after the updates under way, and a checkpoint.
    """
    restored: dict[str, Any] = run.restore(state, metadata) if workers.is_first else {"gradient_step": 0}
    done = workers.maximum(int(restored["gradient_step"]))
    for tensor in state.moving().values():
        workers.broadcast(tensor)
    began = time.monotonic() - float(restored.get("wall_seconds", 0.0))
    runner = Runner(step, state, schedule.unroll, feed=feed, done=done)
    diverged = {int(seed): int(update) for seed, update in restored.get("diverged", {}).items()}
    watch = _Watch(seeds, diverged, bounds or {}, run, tells=workers.is_first, stops=not part)
    logged = max(done - done % schedule.log_interval, min(done, 1))
    progress(phase, done, schedule.updates, "updates")

    def save() -> None:
        if part and len(watch.diverged) == len(seeds) and done < schedule.updates:
            return  # the last good checkpoint stays
        passed = {"wall_seconds": time.monotonic() - began, "diverged": by_word(watch.diverged)}
        run.save(state, done, {**metadata, **passed})

    with stop_signals() as received:
        while done < schedule.updates:
            stop = schedule.next_stop(done)
            runner.run(stop - done)
            done = stop
            saves = schedule.is_mark(schedule.checkpoint_interval, done)
            stopped = workers.maximum(int(received() is not None))
            if done == 1 or schedule.is_mark(schedule.log_interval, done):
                means = state.metrics.mean_of_last(logged, done)
                if workers.is_first:
                    run.log(phase, done, time.monotonic() - began, means)
                watch.metrics(state.metrics, means, logged, done)
                logged = done
            if saves or stopped:
                watch.numbers(state, done)
            if evaluate is not None and schedule.is_mark(schedule.evaluation_interval, done):
                scores = evaluate(done)
                if workers.is_first:
                    run.log("evaluation", done, time.monotonic() - began, scores)
            if workers.is_first and (saves or stopped):
                save()
            progress(phase, done, schedule.updates, "updates")
            if stopped and done < schedule.updates:
                raise Interrupted(
                    f"stopped after update {done:,} of {schedule.updates:,}, with a checkpoint in {run.path}",
                    received() or signal.SIGTERM,
                )
    return Trained(wall_seconds=time.monotonic() - began, diverged=watch.diverged)


@dataclass(slots=True)
class _Watch:
    """Tells of seeds that diverge, each once, and stops a run of which nothing is left."""

    seeds: Sequence[int]
    diverged: dict[int, int]
    bounds: Bounds
    run: RunDirectory
    tells: bool
    stops: bool
    beyond: set[int] = field(default_factory=set)

    def metrics(self, ring: MetricRing, means: Mapping[str, Sequence[float]], first: int, end: int) -> None:
        """Look at updates `first` to `end` - 1, counted from 0, and their means."""
        for seed, found in zip(self.seeds, ring.first_not_finite(first, end), strict=True):
            if found is not None:
                self._tell(seed, found[0] + 1, f"its {found[1]} is {found[2]}")
        for name, bound in self.bounds.items():
            for seed, mean, limit in zip(self.seeds, means[name], bound.limits, strict=True):
                if abs(mean) > limit and seed not in self.beyond:
                    self.beyond.add(seed)
                    message = (
                        f"seed {seed}: mean {name} {mean:,.0f} at update {end:,} is beyond {limit:,.0f}, {bound.says}"
                    )
                    warnings.warn(message, RuntimeWarning, stacklevel=4)
        self._stop()

    def numbers(self, state: TrainingState, done: int) -> None:
        """Look at all that training has changed: a checkpoint is about to be written."""
        for position in not_finite(state.moving(), len(self.seeds)):
            self._tell(self.seeds[position], done, "some of its numbers are not finite")
        self._stop()

    def _tell(self, seed: int, update: int, why: str) -> None:
        if seed not in self.diverged:
            self.diverged[seed] = update
            if self.tells:
                warnings.warn(DivergenceWarning(seed, update, why), stacklevel=5)

    def _stop(self) -> None:
        if self.stops and len(self.diverged) == len(self.seeds):
            raise DivergenceError.of(self.diverged, self.run)


def not_finite(tensors: Mapping[str, Tensor], seed_count: int) -> list[int]:
    """Positions of the seeds of which a number is NaN or infinite; metrics, which may be empty, do not count."""
    bad = torch.zeros(seed_count, dtype=torch.bool)
    for name, tensor in tensors.items():
        if name != "metrics" and tensor.ndim and tensor.is_floating_point():
            bad |= ~tensor.isfinite().reshape(seed_count, -1).all(1).cpu()
    return [int(position) for position in bad.nonzero()]


def by_word(diverged: Mapping[int, int]) -> dict[str, int]:
    """As JSON has it."""
    return {str(seed): update for seed, update in diverged.items()}
