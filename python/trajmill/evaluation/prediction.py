"""How good a model of the dynamics is: open loop some steps ahead, and by the distance to the data it learned from.

Both are open questions of arXiv 2312.09844. Errors are mean squared errors of standardized observations, as a model is
trained on, each beside that of predicting no change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trajmill.data import Normalizer, Transitions
from trajmill.data.episodes import followed

_BLOCK = 1024


class Predict(Protocol):
    """A model of the dynamics, in raw numbers."""

    def __call__(
        self, observation: NDArray[np.float32], action: NDArray[np.float32], draw: int = 0
    ) -> NDArray[np.float32]:
        """Next observations (N, O) of (N, O) and (N, A); if the model is stochastic, each `draw` has its own chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionError:
    """Errors of some rows."""

    row_count: int
    error: float  # mean squared error of the model, of standardized observations; NaN without rows
    identity_error: float  # of predicting that nothing changes


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAhead(PredictionError):
    """Errors so many steps ahead."""

    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAtDistance(PredictionError):
    """Errors one step ahead of rows that are so far from the data."""

    nearest: float
    farthest: float


def histories(transitions: Transitions, limit: int) -> NDArray[np.int64]:
    """How many of the rows before each lead to it, at most `limit`: (N,); see `trajmill.data.episodes.followed`."""
    leads = followed(transitions)[:-1]
    found = np.zeros(len(transitions), np.int64)
    for _ in range(limit):
        found[1:] = np.where(leads, found[:-1] + 1, 0)
    return found


def open_loop(predict: Predict, transitions: Transitions, steps: int) -> NDArray[np.float32]:
    """Next observations (N, O), each predicted from the state `steps` - 1 rows before, through the recorded actions.

    `steps` is at least 1. A row with less history starts from what it has.
    """
    back = histories(transitions, steps - 1)
    state: NDArray[np.float32] = transitions.observation[np.arange(len(back)) - back]
    for ago in reversed(range(steps)):
        rows = (back >= ago).nonzero()[0]
        state[rows] = predict(state[rows], transitions.action[rows - ago], ago)
    return state


def errors_ahead(
    predict: Predict, transitions: Transitions, normalizer: Normalizer, rows: NDArray[np.bool_], horizon: int
) -> list[ErrorAhead]:
    """Errors of the chosen `rows` (N,), 1 to `horizon` steps ahead; rows with less history do not count."""
    found = []
    for steps in range(1, horizon + 1):
        chosen = (rows & (histories(transitions, steps - 1) == steps - 1)).nonzero()[0]
        predicted = open_loop(predict, transitions, steps)[chosen]
        wanted, before = transitions.next_observation[chosen], transitions.observation[chosen - (steps - 1)]
        found.append(ErrorAhead(steps=steps, **_errors(predicted, before, wanted, normalizer)))
    return found


def errors_by_distance(
    predict: Predict, transitions: Transitions, normalizer: Normalizer, data: Transitions, group_count: int
) -> list[ErrorAtDistance]:
    """One-step errors of groups of equal size, from the nearest to the farthest from the rows of `data`.

    The distance is that of `nearest_distances`, in standardized observations and actions as they are.
    """
    points = [np.hstack([normalizer.normalize(each.observation), each.action]) for each in (transitions, data)]
    distances = nearest_distances(*points)
    predicted = predict(transitions.observation, transitions.action)
    found = []
    for rows in np.array_split(np.argsort(distances, kind="stable"), min(group_count, len(distances))):
        before, wanted = transitions.observation[rows], transitions.next_observation[rows]
        ends: dict[str, Any] = {"nearest": float(distances[rows[0]]), "farthest": float(distances[rows[-1]])}
        found.append(ErrorAtDistance(**ends, **_errors(predicted[rows], before, wanted, normalizer)))
    return found


def nearest_distances(points: NDArray[np.float32], data: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean distance of each of `points` (N, D) to the nearest of `data` (M, D), M >= 1: (N,)."""
    nearest = np.full(len(points), np.inf)
    exact, known = points.astype(np.float64), data.astype(np.float64)
    for here in _blocks(len(points)):
        norms = np.square(exact[here]).sum(1)[:, None]
        for there in _blocks(len(data)):
            squares = norms + np.square(known[there]).sum(1) - 2.0 * exact[here] @ known[there].T
            nearest[here] = np.minimum(nearest[here], squares.min(1))
    distances: NDArray[np.float64] = np.sqrt(nearest.clip(0.0))
    return distances


def _blocks(count: int) -> Iterable[slice]:
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


def _errors(
    predicted: NDArray[np.float32], before: NDArray[np.float32], wanted: NDArray[np.float32], normalizer: Normalizer
) -> dict[str, Any]:
    """What a `PredictionError` holds."""
    errors = {}
    for name, found in (("error", predicted), ("identity_error", before)):
        squares = np.square((found - wanted) / normalizer.scale, dtype=np.float64)
        errors[name] = float(squares.mean()) if squares.size else float("nan")
    return {"row_count": len(wanted), **errors}
