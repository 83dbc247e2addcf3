"""What a dataset holds, in numbers: for a look before training, and to notice a file that is not what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmill.core.files import sha256_of
from trajmill.data.environments import environment_of, normalized_score
from trajmill.data.errors import DatasetError
from trajmill.data.formats import format_of
from trajmill.data.official import recognize
from trajmill.data.records import Dataset

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """Numbers about one dataset; distributions are given by their values at `QUANTILES`."""

    name: str
    path: str
    format: str
    byte_count: int  # of the file that holds the steps
    sha256: str
    release: str  # "D4RL's, current", "D4RL's, old" or "not one of D4RL's"
    environment: str | None
    row_count: int
    observation_dim: int
    action_dim: int
    next_observations: bool  # whether they are stored
    infos: tuple[str, ...]
    episode_count: int  # that ended
    unfinished_row_count: int  # after the last end
    terminal_count: int
    timeout_count: int
    episode_lengths: tuple[float, ...]
    returns: tuple[float, ...]
    mean_return: float | None
    return_deviation: float | None
    normalized_score: float | None  # of the mean return; None where D4RL has no reference scores for the data
    reward_range: tuple[float, float]
    action_range: tuple[float, float]
    action_share_outside: float  # of entries beyond ±1
    action_share_at_limit: float  # of entries at exactly ±1, where atanh is infinite
    constant_observations: tuple[int, ...]  # columns that never change


def summarize(dataset: Dataset) -> DatasetSummary:
    """Measure a dataset that was read from a file."""
    file_path, kind = dataset.path, format_of(dataset.path)
    release = recognize(file_path)
    lengths, returns = _episodes(dataset)
    environment = _environment(dataset)
    mean_return = float(returns.mean()) if len(returns) else None
    magnitude = np.abs(dataset.actions)
    constant = (dataset.observations == dataset.observations[0]).all(axis=0)
    return DatasetSummary(
        name=dataset.name,
        path=str(file_path),
        format=kind,
        byte_count=file_path.stat().st_size,
        sha256=sha256_of(file_path),
        release=release.value if release else "not one of D4RL's",
        environment=environment,
        row_count=len(dataset),
        observation_dim=dataset.observation_dim,
        action_dim=dataset.action_dim,
        next_observations=dataset.next_observations is not None,
        infos=tuple(dataset.infos),
        episode_count=len(lengths),
        unfinished_row_count=len(dataset) - int(lengths.sum()) if dataset.ordered else 0,
        terminal_count=int(dataset.terminals.sum()),
        timeout_count=int(dataset.timeouts.sum()),
        episode_lengths=_quantiles(lengths),
        returns=_quantiles(returns),
        mean_return=mean_return,
        return_deviation=float(returns.std()) if len(returns) else None,
        normalized_score=_score(environment, kind, mean_return),
        reward_range=(float(dataset.rewards.min()), float(dataset.rewards.max())),
        action_range=(float(dataset.actions.min()), float(dataset.actions.max())),
        action_share_outside=float((magnitude > 1.0).mean()),
        action_share_at_limit=float((magnitude == 1.0).mean()),
        constant_observations=tuple(np.flatnonzero(constant).tolist()),
    )


def _episodes(dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lengths and undiscounted returns of the episodes that ended; none if the rows are in no order."""
    ends = dataset.episode_ends.nonzero()[0] + 1 if dataset.ordered else np.zeros(0, np.int64)
    totals = np.concatenate(([0.0], np.cumsum(dataset.rewards, dtype=np.float64)))[ends]
    return np.diff(ends, prepend=0), np.diff(totals, prepend=0.0)


def _quantiles(values: NDArray[np.float64] | NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else ()


def _environment(dataset: Dataset) -> str | None:
    try:
        return environment_of(dataset)
    except DatasetError:
        return None


def _score(environment: str | None, kind: str, mean_return: float | None) -> float | None:
    """D4RL's score; Minari's own sets come from other environment versions, so their scores would mislead."""
    if environment is None or mean_return is None or (kind == "minari" and not environment.endswith("-v4")):
        return None
    try:
        return float(normalized_score(environment, mean_return))
    except ValueError:
        return None
