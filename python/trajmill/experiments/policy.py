"""A trained policy as a function, for loops of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmill.core import checks
from trajmill.core.paths import AnyPath, local_path
from trajmill.data.actions import to_environment
from trajmill.evaluation.rollout import EpisodicPolicy
from trajmill.experiments.evaluate import TrainedPolicy, read_policy
from trajmill.runs.reading import newest_checkpoints


class LoadedPolicy:
    """The policies of a run, called with observations: actions in the units of the environment.

    An observation (O,) gives an action (A,), several (n, O) give (n, A). With all S seeds, the results are (S, A) and
    (S, n, A), and observations (S, n, O) give each seed its own.

    A Decision Transformer remembers: `start` begins episodes, and after each step `observe` takes the reward. Its first
    call begins them by itself; n is then the number of episodes, until the next `start`.
    """

    def __init__(self, parts: Sequence[TrainedPolicy], seed: int | None = None) -> None:
        self.seeds = tuple(each for part in parts for each in part.seeds) if seed is None else (seed,)
        """the training seeds whose policies answer"""
        self.update = min(part.update for part in parts)
        """updates behind them"""
        self.environment = parts[0].environment
        """Gymnasium id that they were trained for; None where an earlier version did not write it down"""
        self.observation_dim = parts[0].observation_dim
        """numbers of an observation, O"""
        self._parts = [part for part in parts if seed is None or seed in part.seeds]
        self._seed = seed
        self._episodes: int | None = None

    @property
    def remembers(self) -> bool:
        """Whether actions depend on the episode so far."""
        return isinstance(self._parts[0].act, EpisodicPolicy)

    def start(self, episode_count: int = 1) -> None:
        """Forget everything: `episode_count` new episodes begin."""
        self._episodes = checks.integer("episode_count", episode_count, 1)
        for part in self._parts:
            if isinstance(part.act, EpisodicPolicy):
                part.act.start(len(part.seeds), self._episodes)

    def observe(self, rewards: ArrayLike) -> None:
        """Take the rewards of the step just made: a number, (n,), or (S, n) if all seeds answer."""
        if not self.remembers:
            return
        if self._episodes is None:
            raise RuntimeError("there is no episode yet: call the policy, or start, first")
        given = np.broadcast_to(np.asarray(rewards, np.float32), (len(self.seeds), self._episodes))
        first = 0
        for part in self._parts:
            count = len(part.seeds)
            mine = given[first : first + count] if self._seed is None else np.repeat(given, count, axis=0)
            first += count
            if isinstance(part.act, EpisodicPolicy):
                part.act.observe(np.ascontiguousarray(mine), np.ones(mine.shape, bool))

    def __call__(self, observation: ArrayLike) -> NDArray[np.float32]:
        """Map observations to actions; ValueError for another shape than the class says."""
        seen = np.asarray(observation, np.float32)
        by_seed = seen.ndim == 3 and self._seed is None
        if seen.shape[-1:] != (self.observation_dim,) or (
            seen.ndim > 2 and not (by_seed and len(seen) == len(self.seeds))
        ):
            wanted = f"({self.observation_dim},) or (n, {self.observation_dim})"
            if self._seed is None:
                wanted += f", or ({len(self.seeds)}, n, {self.observation_dim}) for the seeds"
            raise ValueError(f"an observation must have the shape {wanted}, got {seen.shape}")
        rows = seen if by_seed else np.broadcast_to(seen.reshape(-1, self.observation_dim), self._shape(seen))
        if self.remembers and rows.shape[1] != self._episodes:
            if self._episodes is not None:
                raise ValueError(f"{self._episodes} episodes go on, got {rows.shape[1]} observations; call start first")
            self.start(rows.shape[1])
        actions: list[NDArray[Any]] = []
        first = 0
        for part in self._parts:
            count = len(part.seeds)
            mine = rows[first : first + count] if self._seed is None else np.repeat(rows, count, axis=0)
            first += count
            given = to_environment(part.act(np.ascontiguousarray(mine)), part.action_limit)
            actions.append(given if self._seed is None else given[part.seeds.index(self._seed)][None])
        result = np.concatenate(actions)
        if seen.ndim == 1:
            result = result[:, 0]
        return result if self._seed is None else result[0]

    def export(self, path: AnyPath, *, format: str | None = None) -> Path:
        """Write the policy of one seed for programs without trajmill; gives the new file's path.

        The file maps observations (n, O) to actions (n, A), float32, in the environment's units. `format` is ``torch``
        (`torch.export`, .pt2), ``torchscript`` (.pt) or ``onnx`` (.onnx); None takes that of the suffix. ValueError for
        several seeds, a file that exists, or a policy that `remembers`.
        """
        from trajmill.experiments.export import export_policy

        if len(self.seeds) > 1:
            raise ValueError(
                f"a file holds the policy of one seed, and these are {', '.join(map(str, self.seeds))}: choose one, as "
                f"load_policy(..., seed={self.seeds[0]})"
            )
        part = next(part for part in self._parts if self.seeds[0] in part.seeds)
        return export_policy(part, self.seeds[0], path, format)

    def _shape(self, seen: NDArray[np.float32]) -> tuple[int, int, int]:
        return len(self.seeds), seen.size // self.observation_dim, self.observation_dim

    def __repr__(self) -> str:
        return f"<policy for {self.environment}: seeds {list(self.seeds)}, {self.update:,} updates>"


def load_policy(path: AnyPath, *, seed: int | None = None) -> LoadedPolicy:
    """The policies of a run directory's newest checkpoint, or of a checkpoint's file; of `seed` alone if it is given.

    Of a run that several processes share and that is not finished yet, what each of them has. ValueError if there is no
    policy, no checkpoint yet, or no such seed.
    """
    place = local_path(path)
    parts = [read_policy(file) for file in (newest_checkpoints(place) if place.is_dir() else [place])]
    seeds = [each for part in parts for each in part.seeds]
    if seed is not None and seed not in seeds:
        raise ValueError(f"{place} has the seeds {', '.join(map(str, seeds))}, got seed {seed}")
    return LoadedPolicy(parts, seed)
