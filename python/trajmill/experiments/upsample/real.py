"""The real transitions, as a model learns them, and what the columns of a row mean."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmill.core.paths import AnyPath
from trajmill.data import Dataset, Transitions, load_dataset, qlearning_transitions, write_d4rl
from trajmill.data.columns import count_categories
from trajmill.data.environments import find_environment
from trajmill.data.records import Columns
from trajmill.replay.replay_buffer import ReplayBuffer

INPUT = "input.hdf5"

Source = AnyPath | Dataset | ReplayBuffer
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RealData:
    """A dataset that a model can learn."""

    dataset: Dataset
    """as the model sees it"""
    name: str | None
    """by which training finds it; None: it has to be written (`written`)"""
    category_count: int
    """of discrete actions; 0 where actions are vectors"""
    low: FloatArray
    """(W,)"""
    high: FloatArray
    """(W,)"""

    @classmethod
    def of(cls, source: Source, limit: int | None = None) -> RealData:
        """Read and check the data, a file with `limit` (see `load_dataset`).

        ValueError or `DatasetError` if nothing can be learned from it.
        """
        original = _dataset_of(source, limit)
        low, high = _ranges(original)
        dataset, category_count = with_vector_actions(original)
        name = str(source) if isinstance(source, str | os.PathLike) and not category_count else None
        return cls(dataset=dataset, name=name, category_count=category_count, low=low, high=high)

    @property
    def environment(self) -> dict[str, str]:
        """Metadata that name the environment, where it is known."""
        environment = find_environment(self.dataset)
        return {} if environment is None else {"environment": environment}

    @cached_property
    def transitions(self) -> Transitions:
        """The transitions as the model sees them."""
        return qlearning_transitions(self.dataset)

    @property
    def widths(self) -> tuple[int, int, int, int, int]:
        """Numbers of a row's observation, action, reward, next observation and terminal."""
        observation, action = self.dataset.observation_dim, 1 if self.category_count else self.dataset.action_dim
        return observation, action, 1, observation, 1

    @property
    def constant_columns(self) -> tuple[str, ...]:
        """Names of the columns of a row that never change."""
        observation, action, *_ = self.widths
        names = [f"observation {i}" for i in range(observation)] + [f"action {i}" for i in range(action)]
        names += ["reward", *(f"next observation {i}" for i in range(observation)), "terminal"]
        return tuple(name for name, constant in zip(names, self.low == self.high, strict=True) if constant)

    def written(self, folder: Path) -> Path:
        """``input.hdf5`` with the data, written if it is not there."""
        path = (folder / INPUT).absolute()
        if not path.is_file():
            steps = self.dataset.to_write()
            steps["metadata"] = {**(steps.get("metadata") or {}), **self.environment}
            write_d4rl(path, **steps)
        return path

    def with_numbers(self, transitions: Transitions) -> Transitions:
        """Discrete actions as numbers again."""
        if not self.category_count:
            return transitions
        return replace(transitions, action=transitions.action.argmax(1)[:, None].astype(np.float32))

    def columns(self, rows: FloatArray) -> Columns:
        """The columns of rows (N, W)."""
        parts = np.split(rows, np.cumsum(self.widths)[:-1], axis=1)
        return {
            "observations": np.ascontiguousarray(parts[0]),
            "actions": np.ascontiguousarray(parts[1]),
            "rewards": parts[2][:, 0].copy(),
            "next_observations": np.ascontiguousarray(parts[3]),
            "terminals": parts[4][:, 0] > 0.5,
        }


def with_vector_actions(dataset: Dataset) -> tuple[Dataset, int]:
    """The dataset with one-hot actions if they are discrete (`count_categories`), and how many there are, or 0."""
    count = count_categories(dataset.actions)
    if not count:
        return dataset, 0
    numbers = dataset.actions[:, 0].astype(np.intp)
    return replace(dataset, actions=np.eye(count, dtype=np.float32)[numbers]), count


def _dataset_of(source: Source, limit: int | None) -> Dataset:
    """The data that is meant."""
    if isinstance(source, str | os.PathLike):
        return load_dataset(source, limit=limit)
    if isinstance(source, Dataset):
        return source
    batch = source[source._slots()]
    missing = {"observation", "action", "reward", "next_observation", "terminal"} - batch.keys()
    if missing or "discount" in batch:
        fault = f"has no column {min(missing)}" if missing else "adds up several steps (n_step)"
        raise ValueError(f"the buffer {fault}; upsampling needs single steps with all columns of a transition")
    if len(batch["reward"]) < 2:
        raise ValueError(f"upsampling needs at least 2 transitions, the buffer has {len(batch['reward'])}")
    if batch["observation"].ndim != 2:
        shape = batch["observation"].shape[1:]
        raise ValueError(f"observations must be vectors, got shape {shape}; encode images into vectors first")
    terminal = batch["terminal"].astype(np.bool_)
    return Dataset(
        name="buffer",
        path=Path("buffer"),
        observations=batch["observation"].astype(np.float32),
        actions=batch["action"].reshape(len(terminal), -1).astype(np.float32),
        rewards=batch["reward"].astype(np.float32),
        next_observations=batch["next_observation"].astype(np.float32),
        terminals=terminal,
        timeouts=np.zeros_like(terminal),
        ordered=False,
    )


def _ranges(dataset: Dataset) -> tuple[FloatArray, FloatArray]:
    """Least and greatest number of each column (W,); ValueError if one is not finite, or nothing varies."""
    found = qlearning_transitions(dataset)
    if len(found) < 2:
        raise ValueError(f"upsampling needs at least 2 transitions, {dataset.name} has {len(found)}")
    columns = (found.observation, found.action, found.reward[:, None], found.next_observation, found.terminal[:, None])
    low, high = (
        np.concatenate([getattr(column, end)(0) for column in columns], dtype=np.float32) for end in ("min", "max")
    )
    if not np.isfinite(low + high).all():
        raise ValueError(f"{dataset.name} holds NaN or infinity; clean it first")
    if (low == high).all():
        raise ValueError(f"every column of {dataset.name} is constant, so there is nothing to learn")
    return low, high
