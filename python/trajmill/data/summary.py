"""Numbers about a dataset, to look at before training and to notice a file that is not what it claims to be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmill.core.files import contents, sha256_of
from trajmill.data.environments import find_environment, has_reference_score, normalized_score
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
    byte_count: int  # of what holds the steps, a file or a directory of files
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
    release, file_format, environment = recognize(dataset.path), format_of(dataset.path), find_environment(dataset)
    ends = dataset.episode_ends.nonzero()[0] + 1 if dataset.ordered else np.zeros(0, np.int64)
    lengths = np.diff(ends, prepend=0)
    totals = np.concatenate(([0.0], np.cumsum(dataset.rewards, dtype=np.float64)))[ends]
    returns = np.diff(totals, prepend=0.0)
    mean_return = float(returns.mean()) if len(returns) else None
    score = None
    # Minari's own datasets come from other versions of the environments, so scores would mislead.
    if environment and mean_return is not None and (file_format != "minari" or environment.endswith("-v4")):
        score = float(normalized_score(environment, mean_return)) if has_reference_score(environment) else None
    magnitude = np.abs(dataset.actions)
    constant = (dataset.observations == dataset.observations[0]).all(axis=0)
    return DatasetSummary(
        name=dataset.name,
        path=str(dataset.path),
        format=file_format,
        byte_count=sum(path.stat().st_size for path in contents(dataset.path) or [dataset.path]),
        sha256=sha256_of(dataset.path),
        release=release or "not one of D4RL's",
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
        normalized_score=score,
        reward_range=(float(dataset.rewards.min()), float(dataset.rewards.max())),
        action_range=(float(dataset.actions.min()), float(dataset.actions.max())),
        action_share_outside=float((magnitude > 1.0).mean()),
        action_share_at_limit=float((magnitude == 1.0).mean()),
        constant_observations=tuple(np.flatnonzero(constant).tolist()),
    )


def _quantiles(values: NDArray[np.float64] | NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else ()
