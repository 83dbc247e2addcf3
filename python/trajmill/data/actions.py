"""The units of actions: policies act within ±1, every environment within limits of its own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ActionLimit = float | tuple[tuple[float, ...], tuple[float, ...]]
"""Every number of an action is within ± this; or the least and the greatest value of each number, A of both."""


def limit_between(low: ArrayLike, high: ArrayLike) -> ActionLimit:
    """The limit of actions from `low` (A,) to `high` (A,), both finite."""
    least, greatest = (np.asarray(each, np.float64) for each in (low, high))
    if (greatest == greatest[0]).all() and (least == -greatest).all():
        return float(greatest[0])
    return tuple(least.tolist()), tuple(greatest.tolist())


def recorded_limit(known: Any) -> ActionLimit:
    """The limit that a file says, after its way through JSON; ValueError or TypeError for anything else."""
    known = json.loads(known) if isinstance(known, str) else known
    return limit_between(*known) if isinstance(known, list | tuple) else float(known)


def to_environment(actions: NDArray[np.float32], limit: ActionLimit) -> NDArray[np.float32]:
    """A policy's actions (..., A), within ±1, in the environment's units."""
    if isinstance(limit, float):
        return actions * np.float32(limit)
    center, half = _center_and_half(limit)
    scaled: NDArray[np.float32] = np.clip(center + half * actions, *bounds_of(limit))  # rounding may pass them
    return scaled


def to_policy(actions: NDArray[np.float32], limit: ActionLimit) -> NDArray[np.float32]:
    """The inverse of `to_environment`."""
    if isinstance(limit, float):
        return actions if limit == 1.0 else actions / np.float32(limit)
    center, half = _center_and_half(limit)
    scaled: NDArray[np.float32] = (actions - center) / half
    return scaled


def bounds_of(limit: ActionLimit) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and the greatest value of the numbers of an action, both () or (A,)."""
    low, high = (-limit, limit) if isinstance(limit, float) else limit
    return np.asarray(low, np.float32), np.asarray(high, np.float32)


def _center_and_half(limit: tuple[tuple[float, ...], tuple[float, ...]]) -> list[NDArray[np.float32]]:
    low, high = np.array(limit)
    return [((high + low) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32)]
