"""Small changes that fit a data set to its use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trajmill.data.errors import refuse
from trajmill.data.records import Dataset


def keep_observations(dataset: Dataset, observation_dim: int) -> Dataset:
    """Keep the first numbers of each observation, such as 27 of D4RL's 111 for Ant; the others must all be zero.

    Raises
    ------
    DatasetError
        If there are not as many, or a number to drop is not zero.
    """
    if not 1 <= observation_dim <= dataset.observation_dim:
        fault = f"key 'observations' has {dataset.observation_dim} columns, {observation_dim} were asked for"
        raise refuse(dataset.path, fault, f"ask for 1 to {dataset.observation_dim}")
    kept = {"observations": dataset.observations, "next_observations": dataset.next_observations}
    for name, values in kept.items():
        if values is not None and (dropped := values[:, observation_dim:] != 0.0).any():
            row, column = (int(i) for i in np.argwhere(dropped)[0])
            fault = f"key {name!r} holds {values[row, observation_dim + column]} in row {row}"
            remedy = f"only columns of zeros can be dropped; train on all {dataset.observation_dim}"
            raise refuse(dataset.path, f"{fault}, column {observation_dim + column}", remedy)
    following = dataset.next_observations
    return replace(
        dataset,
        observations=np.ascontiguousarray(dataset.observations[:, :observation_dim]),
        next_observations=None if following is None else np.ascontiguousarray(following[:, :observation_dim]),
    )


def clip_actions(dataset: Dataset, limit: float) -> Dataset:
    """Clip actions to ±`limit`, > 0: 1.0 is what D4RL's environments do, 1 - 1e-6 keeps atanh finite."""
    if not 0.0 < limit < float("inf"):
        raise ValueError(f"action limit must be > 0 and finite, got {limit}")
    return replace(dataset, actions=dataset.actions.clip(-np.float32(limit), np.float32(limit)))
