"""Rows for the tests of the replay buffer: everything in a row follows from its number."""

from __future__ import annotations

from typing import Any

import numpy as np

SCHEMA: dict[str, Any] = {
    "observation": ((3,), "f4"),
    "action": ((2,), "f4"),
    "reward": "f4",
    "next_observation": (3, "f4"),
    "terminal": "?",
    "truncated": "?",
}


def rows(first: int, count: int, *, episode_length: int = 10) -> dict[str, np.ndarray]:
    """Transitions number first, first + 1, ...; episodes end in turn by a terminal and by a limit."""
    number = np.arange(first, first + count)
    is_end = number % episode_length == episode_length - 1
    observation = np.stack([number, -number, number + 0.5], 1).astype(np.float32)
    following = observation + np.array([1, -1, 1], np.float32)
    return {
        "observation": observation,
        "action": np.stack([number * 2, number * 3], 1).astype(np.float32),
        "reward": number.astype(np.float32),
        "next_observation": np.where(is_end[:, None], -7 - following, following),
        "terminal": is_end & (number // episode_length % 2 == 0),
        "truncated": is_end & (number // episode_length % 2 == 1),
    }


def assert_equal(batch: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(batch) == list(wanted)
    for name, values in wanted.items():
        assert batch[name].dtype == values.dtype
        np.testing.assert_array_equal(batch[name], values, err_msg=name)
