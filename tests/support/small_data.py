"""Small made-up data for tests of tables and methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trajmill.data import Dataset, Transitions

LENGTHS = (1, 3, 4, 5, 9)
"""of a few episodes, one of them a single step"""


def recording(
    lengths: Sequence[int] = LENGTHS, *, observation_dim: int = 5, action_dim: int = 2, seed: int = 0
) -> Dataset:
    """Episodes of the given lengths, one after another; every third one is cut by a limit."""
    rng = np.random.default_rng(seed)
    count, ends = sum(lengths), np.cumsum(lengths) - 1
    cut = np.isin(np.arange(count), ends[2::3])
    dataset = Dataset(
        name="recording",
        path=Path("recording.hdf5"),
        observations=rng.normal(1.0, 2.0, (count, observation_dim)).astype(np.float32),
        actions=rng.uniform(-1, 1, (count, action_dim)).astype(np.float32),
        rewards=rng.normal(size=count).astype(np.float32),
        terminals=np.isin(np.arange(count), ends) & ~cut,
        timeouts=cut,
        next_observations=rng.normal(1.0, 2.0, (count, observation_dim)).astype(np.float32),
    )
    assert dataset.next_observations is not None
    inside = (~dataset.episode_ends[:-1]).nonzero()[0]
    dataset.next_observations[inside] = dataset.observations[inside + 1]
    return dataset


def transitions(count: int = 400, *, observation_dim: int = 5, action_dim: int = 2, seed: int = 3) -> Transitions:
    """Transitions that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    return Transitions(
        observation=rng.normal(size=(count, observation_dim)).astype(np.float32),
        action=rng.uniform(-1, 1, (count, action_dim)).astype(np.float32),
        reward=rng.normal(size=count).astype(np.float32),
        next_observation=rng.normal(size=(count, observation_dim)).astype(np.float32),
        terminal=rng.random(count) < 0.1,
        truncated=np.zeros(count, bool),
    )
