"""An agent that learns online until its policy is as good as a dataset asks, as that policy plays, and what led to it.

The run is one of `trajmill.experiments.train` that is made longer by one evaluation after another, so it resumes as any
other, and has the numbers of a run that was asked for as many updates at once. A policy is as good as the mean return
of its evaluation says; the first one that reaches a wanted return is kept in the run, ``levels/step_N.safetensors``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trajmill.algorithms import method_named
from trajmill.core.files import contents, replacing
from trajmill.core.progress import Progress
from trajmill.data import Dataset, Normalizer
from trajmill.data.actions import recorded_limit, to_environment
from trajmill.data.environments import task_of
from trajmill.data.formats import replay
from trajmill.evaluation.record import record_episodes
from trajmill.evaluation.simulators import BatchedEnvironment
from trajmill.experiments.settings import OnlineTrainConfig
from trajmill.experiments.train import train
from trajmill.replay.ring import episode_seed
from trajmill.replay.tables import Table, TransitionFacts
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import PROCESSES, REPLAY, RunError, read_config, read_state
from trajmill.training.checkpoint import restore_tensors
from trajmill.training.settings import configured, decaying

LEVELS = "levels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The policy of the first evaluation that reached a return."""

    update: int
    """updates behind the policy"""
    environment_steps: int
    """of the seed until then"""
    return_mean: float
    """of the evaluation's episodes, in which the policy does not explore"""

    def described(self) -> dict[str, float]:
        """How far the training was, for the record."""
        return {"return_mean": self.return_mean, "environment_steps": self.environment_steps, "updates": self.update}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """A seed of a run of an online method, which may be still to begin."""

    path: Path
    config: OnlineTrainConfig[Any]
    seed: int

    @classmethod
    def of(cls, path: Path, agent: str, environment: str, seed: int, environment_steps: int) -> AgentRun:
        """The run at `path` with the settings that it has, or a new one with the method's own.

        A new one may make so many `environment_steps`. ValueError if the run at `path` is of another method or
        environment, lacks the seed, or was begun by several processes and is not finished.
        """
        method, task = method_named(agent), task_of(environment)
        kind: Any = OnlineTrainConfig
        if not contents(path):
            config: OnlineTrainConfig[Any] = OnlineTrainConfig(
                environment=task.environment_id,
                seeds=(seed,),
                method=method.Config(),
                schedule=method.SCHEDULE,
                interaction=method.INTERACTION,
            )
            schedule = replace(method.SCHEDULE, updates=_updates(config, environment_steps))
            config = replace(config, method=decaying(config.method, schedule), schedule=schedule)
            return cls(path=path, config=config, seed=seed)
        known = read_config(path)
        found = (known["kind"], known.get("environment"))
        if found != (agent, task.environment_id):
            raise ValueError(
                f"{path} must be a run of {agent} in {task.environment_id}, got one of {found[0]} in {found[1]}; name "
                f"another directory"
            )
        if seed not in known["seeds"]:
            raise ValueError(f"{path} has no seed {seed}; its seeds are {', '.join(map(str, known['seeds']))}")
        if (path / PROCESSES).is_dir():
            raise ValueError(f"{path} is under way in several processes; finish it first, with train and --resume")
        return cls(path=path, config=configured(kind[method.Config], known["config"]), seed=seed)

    def reach(self, targets: Sequence[float], environment_steps: int, progress: Progress) -> list[Level]:
        """Train on until evaluations have reached all returns; gives the level of each.

        ValueError if so many environment steps of the seed do not lead there.
        """
        run, schedule = RunDirectory(self.path), self.config.schedule
        most = _updates(self.config, environment_steps)

        def shown(task: str, completed: int, total: int, unit: str) -> None:
            progress(task, completed, most if unit == "updates" else total, unit)

        while True:
            done = run.update
            levels = self._levels(targets, done)
            for level in levels:
                if level.update == done:
                    self._keep(run.checkpoints()[0])
            if len(levels) == len(targets):
                return levels
            if done >= most:
                best = max((mean for _, mean in self._evaluations(done)), default=float("nan"))
                raise ValueError(
                    f"{self.path} does not reach the return {targets[len(levels)]:,.0f} in {environment_steps:,} "
                    f"environment steps; the best is {best:,.0f}: give more --training-steps or a lower --target-return"
                )
            interval = schedule.evaluation_interval
            updates = min(most, (done // interval + 1) * interval)
            longer = replace(self.config, schedule=replace(schedule, updates=updates))
            train(longer, self.path, shown, resume=True)

    def checkpoint(self, level: Level) -> Path:
        """The checkpoint of a level; RunError if the run has not kept it."""
        name = f"step_{level.update:09d}.safetensors"
        places = [self.path / folder / name for folder in (LEVELS, "checkpoints")]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise RunError(
                f"{self.path} has the return {level.return_mean:,.0f} at update {level.update:,} and has kept no "
                f"checkpoint of it; collect its medium-replay, a better level, or from another run"
            )
        return found

    def rows(self, level: Level) -> Dataset:
        """All that the seed had done when it reached a level."""
        return replay.read(self.path / REPLAY / str(self.seed), row_count=level.environment_steps)

    def _evaluations(self, done: int) -> list[tuple[int, float]]:
        """Update and mean return of every evaluation that is no later than an update and has one."""
        if done == 0:
            return []
        position = self.config.seeds.index(self.seed)
        lines = RunDirectory(self.path).lines("evaluation")
        found = ((line["update"], line["metrics"]["return_mean"][position]) for line in lines)
        return [(update, mean) for update, mean in found if update <= done and mean is not None]

    def _levels(self, targets: Sequence[float], done: int) -> list[Level]:
        """The levels that have been reached after `done` updates, up to the first that has not."""
        found, evaluations = list[Level](), self._evaluations(done)
        for target in targets:
            first = next(((update, mean) for update, mean in evaluations if mean >= target), None)
            if first is None:
                break
            steps = self.config.turns.before(first[0] - 1) * self.config.environments
            found.append(Level(update=first[0], return_mean=first[1], environment_steps=steps))
        return found

    def _keep(self, checkpoint: Path) -> None:
        """Have a checkpoint also when the run goes on."""
        kept = self.path / LEVELS / checkpoint.name
        if not kept.is_file():
            kept.parent.mkdir(exist_ok=True)
            with replacing(kept) as part:
                shutil.copyfile(checkpoint, part)


def _updates(config: OnlineTrainConfig[Any], environment_steps: int) -> int:
    """How many updates a seed makes in so many environment steps, at least 1."""
    return max(1, config.turns.updates_in(environment_steps // config.environments))


class Explorer:
    """The policy of one seed of a checkpoint, as it acts while it learns, on the CPU."""

    def __init__(self, checkpoint: Path, seed: int) -> None:
        tensors, known = read_state(checkpoint)
        self._method: Any = method_named(known["kind"])
        self._position, self._limit = known["seeds"].index(seed), recorded_limit(known.get("action_limit", 1.0))
        self._normalizer = Normalizer.of_metadata(known)
        facts = TransitionFacts(
            observation_dim=known["observation_dim"], action_dim=known["action_dim"], normalizer=self._normalizer
        )
        table = Table[Any, Any](torch.device("cpu"), torch.float32, facts)
        settings = configured(self._method.Config, known["method"])
        self._state = self._method.create(settings, table, known["seeds"])
        moving = {name: tensor for name, tensor in self._state.moving().items() if name != "metrics"}
        restore_tensors(moving, {name: tensors[name] for name in moving}, str(checkpoint))
        self._seed_count = len(known["seeds"])

    def __call__(self, observations: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions (1, E, A) as the environment takes them, of observations (1, E, O) and standard normals (1, E, A)."""
        seen = observations if self._normalizer is None else self._normalizer.normalize(observations)
        given = [torch.from_numpy(each).expand(self._seed_count, -1, -1) for each in (seen, noise)]
        with torch.no_grad():
            chosen = self._method.explore(self._state, *given)[self._position]
        actions: NDArray[np.float32] = to_environment(chosen.numpy()[None], self._limit)
        return actions


def states_of(
    dataset: Dataset, environment: BatchedEnvironment, run: AgentRun, progress: Progress
) -> dict[str, NDArray[np.float32]] | None:
    """MuJoCo's states before every step of `AgentRun.rows`: ``qpos`` (N, nq) and ``qvel`` (N, nv).

    A run does not keep them, but how each episode began follows from its number, so all are played again. None if that
    does not show the observations of the dataset to the last bit, as with another version of the simulator.
    """
    starts = np.flatnonzero(np.append(True, dataset.episode_ends[:-1]))
    lengths = np.diff(np.append(starts, len(dataset)))
    of = starts // (len(dataset) // run.config.environments)  # which of the seed's environments
    numbers = np.arange(len(starts)) - np.searchsorted(of, of)
    parts: dict[str, list[NDArray[np.float32]]] = {"qpos": [], "qvel": []}
    for first in range(0, len(starts), environment.count):
        some = slice(first, first + environment.count)
        seeds = [
            episode_seed(run.seed, *place) for place in zip(of[some].tolist(), numbers[some].tolist(), strict=True)
        ]
        actions = np.zeros((lengths[some].max(), 1, len(seeds), dataset.action_dim), np.float32)
        for slot, (start, length) in enumerate(zip(starts[some], lengths[some], strict=True)):
            actions[:length, 0, slot] = dataset.actions[start : start + length]
        again = iter(actions)
        played = record_episodes(lambda _, again=again: next(again), environment, seeds, maximum_steps=len(actions))
        begins = np.cumsum(played.lengths) - played.lengths
        if (played.lengths < lengths[some]).any():
            return None
        rows = np.concatenate([np.arange(n) + begin for begin, n in zip(begins, lengths[some], strict=True)])
        end = starts[first] + len(rows)
        if not np.array_equal(played.observations[rows], dataset.observations[starts[first] : end]):
            return None
        parts["qpos"].append(played.qpos[rows])
        parts["qvel"].append(played.qvel[rows])
        progress("collect", int(end), len(dataset), "rows")
    return {name: np.concatenate(columns) for name, columns in parts.items()}
