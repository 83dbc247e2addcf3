"""The loop every training pipeline shares: updates between marks; at marks it logs, evaluates, saves."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from trajmill.core.progress import Progress
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.training.distributed import ALONE, Workers
from trajmill.training.hyperparameters import at_least
from trajmill.training.metrics import MetricRing
from trajmill.training.runner import Feed, Runner, Step
from trajmill.training.state import TrainingState


class MeasuredState(TrainingState, Protocol):
    """A training state with a metric ring."""

    @property
    def metrics(self) -> MetricRing:
        """Holds at least `Schedule.log_interval` updates."""


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
    workers: Workers = ALONE,
) -> float:
    """Train `state` from its newest checkpoint, if any, to the end of the schedule; gives the wall seconds in all.

    `feed` is for states whose updates read what the host makes, see `Runner`. Of several `workers` all train and
    evaluate, and the leader alone touches the run directory.
    """
    restored = run.restore(state) if workers.leads else {"gradient_step": 0}
    done = workers.agree(int(restored["gradient_step"]))
    for tensor in state.moving().values():
        workers.follow(tensor)
    began = time.monotonic() - float(restored.get("wall_seconds", 0.0))
    runner = Runner(step, state, schedule.unroll, feed=feed, done=done)
    diverged: set[int] = set()
    logged = max(done - done % schedule.log_interval, min(done, 1))
    progress(phase, done, schedule.updates, "updates")
    while done < schedule.updates:
        stop = schedule.next_stop(done)
        runner.run(stop - done)
        done = stop
        if done == 1 or schedule.is_mark(schedule.log_interval, done):
            means = state.metrics.mean_of_last(logged, done)
            if workers.leads:
                run.log(phase, done, time.monotonic() - began, means)
                _tell_of_divergence(means, seeds, done, diverged)
            logged = done
        if evaluate is not None and schedule.is_mark(schedule.evaluation_interval, done):
            scores = evaluate(done)
            if workers.leads:
                run.log("evaluation", done, time.monotonic() - began, scores)
        if workers.leads and schedule.is_mark(schedule.checkpoint_interval, done):
            run.save(state, done, {**metadata, "wall_seconds": time.monotonic() - began})
        progress(phase, done, schedule.updates, "updates")
    return time.monotonic() - began


def _tell_of_divergence(
    means: Mapping[str, Sequence[float]], seeds: Sequence[int], gradient_step: int, told: set[int]
) -> None:
    for position, seed in enumerate(seeds):
        if seed not in told and not all(math.isfinite(values[position]) for values in means.values()):
            told.add(seed)
            message = f"seed {seed} has no finite metrics at update {gradient_step}; the other seeds go on"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
