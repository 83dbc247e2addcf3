"""Writes small files in D4RL's schema, whole or damaged in one stated way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

ROW_COUNT = 60


def valid_columns(row_count: int = ROW_COUNT) -> dict[str, NDArray[Any]]:
    """A terminal episode, one cut by a limit, and a finished last one; continuous inside episodes."""
    generator = np.random.default_rng(7)
    observations = generator.normal(size=(row_count, 4)).astype(np.float32)
    next_observations = np.concatenate((observations[1:], generator.normal(size=(1, 4)).astype(np.float32)))
    terminals, timeouts = np.zeros(row_count, np.bool_), np.zeros(row_count, np.bool_)
    terminals[[row_count // 3, row_count - 1]] = True
    timeouts[row_count // 2] = True
    ends = terminals | timeouts
    next_observations[ends] += 10.0  # where an episode ends, the next row is another episode's
    return {
        "observations": observations,
        "actions": generator.uniform(-1, 1, (row_count, 2)).astype(np.float32),
        "rewards": generator.normal(size=row_count).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": next_observations,
    }


def write(path: Path, columns: dict[str, NDArray[Any]], **attributes: Any) -> Path:
    """Write plain, unpacked arrays."""
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values)
        file.attrs.update(attributes)
    return path


def walk_columns(
    row_count: int = 300,
    observation_dim: int = 11,
    action_dim: int = 3,
    *,
    terminal_rows: slice | None = None,
    timeout_rows: slice | None = None,
) -> dict[str, NDArray[Any]]:
    """Small steps from each reset: by default a terminal episode, one cut by a limit, and an unfinished last one."""
    generator = np.random.default_rng(8)
    terminals, timeouts = np.zeros(row_count, np.bool_), np.zeros(row_count, np.bool_)
    terminals[row_count // 3 if terminal_rows is None else terminal_rows] = True
    timeouts[2 * row_count // 3 if timeout_rows is None else timeout_rows] = True
    first = np.append(True, (terminals | timeouts)[:-1])
    steps = generator.normal(scale=0.01, size=(row_count, observation_dim))
    starts = generator.normal(size=(row_count, observation_dim))
    observations = np.empty((row_count, observation_dim))
    for i in range(row_count):
        observations[i] = starts[i] if first[i] else observations[i - 1] + steps[i - 1]
    return {
        "observations": observations.astype(np.float32),
        "actions": generator.uniform(-1, 1, (row_count, action_dim)).astype(np.float32),
        "rewards": generator.normal(size=row_count).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": (observations + steps).astype(np.float32),
    }
