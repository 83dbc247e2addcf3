"""Aggregate scores and their uncertainty; every estimate is seeded.

Scores are float arrays (seed_count, task_count): a row for each training seed, a column for each task (a dataset). A
curve is a float array (evaluation_count, seed_count), in the order of evaluation.

.. [1] R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville, M. G. Bellemare, "Deep Reinforcement Learning at the Edge
   of the Statistical Precipice", NeurIPS 2021, arXiv:2108.13264: interquartile mean, bootstrap, performance profiles.
.. [2] Z. Wang, C. Wang, Z. Dong, K. Ross, "Pre-training with Synthetic Data Helps Offline Reinforcement Learning",
   ICLR 2024, arXiv:2310.00771: average of the last four evaluations, best score, updates to 90 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmill.core import checks

FloatArray = NDArray[np.float64]
Aggregate = Callable[[FloatArray], FloatArray]
"""Maps scores (..., seed_count, task_count) to one number for each leading index, (...)."""


def mean(scores: ArrayLike) -> FloatArray:
    """Mean over seeds and tasks: scores (..., seed_count, task_count) to (...)."""
    return np.asarray(np.mean(_scores(scores), axis=(-2, -1)))


def interquartile_mean(scores: ArrayLike) -> FloatArray:
    """Mean of the middle half of all seed × task scores: the 25 % trimmed mean (section 4.3 of [1]_).

    Of n scores, floor(n / 4) are dropped at each end, as ``scipy.stats.trim_mean(scores, 0.25)`` does.
    """
    array = _scores(scores)
    flat = np.sort(array.reshape(*array.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return np.asarray(np.mean(flat[..., cut : flat.shape[-1] - cut], axis=-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    scores: ArrayLike,
    aggregate: Aggregate = mean,
    *,
    confidence: float = 0.95,
    resample_count: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `aggregate` by the stratified bootstrap (section 4.1 of [1]_).

    Seeds are drawn with replacement for each task on its own, so every task keeps its weight. Scores are finite, of
    shape (seed_count, task_count), or (seed_count,) for one task. `aggregate` is `mean`, `interquartile_mean`, or any
    function of the same form. `confidence`, in (0, 1), is the share of resamples inside the interval.
    """
    array = _finite(scores)
    low, high = _middle(aggregate(_resamples(array, resample_count, seed)), confidence)
    return Interval(estimate=float(aggregate(array)), low=float(low), high=float(high))


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, *, confidence: float = 0.95, resample_count: int = 2_000, seed: int = 0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share of seed x task runs whose score is greater than each threshold (section 4.2 of [1]_).

    `scores` are those of `bootstrap_interval`; `thresholds` have the shape (count,). The result is three arrays
    (count,) in [0, 1]: the share, and the lower and upper end of its pointwise interval by the stratified bootstrap.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    if levels.ndim != 1:
        raise ValueError(f"thresholds must have shape (count,), got {levels.shape}")
    array = _finite(scores)
    resamples = _resamples(array, resample_count, seed)
    shares = np.array([(resamples > level).mean(axis=(1, 2)) for level in levels]).reshape(len(levels), -1)
    low, high = _middle(shares, confidence)
    return (array[..., None] > levels).mean(axis=(0, 1)), low, high


def difference_interval(scores: ArrayLike, baseline: ArrayLike) -> Interval:
    """How much greater the mean of `scores` is than that of `baseline`, by `bootstrap_interval`; 0 means the same.

    Both have the shape (seed_count, task_count), or (seed_count,) for one task. Seeds of both are drawn on their own:
    what two arms of a study have in common for a seed is not made use of.
    """
    arms = [_scores(arm) for arm in (scores, baseline)]
    if arms[0].shape != arms[1].shape:
        raise ValueError(f"scores and baseline must have one shape, got {arms[0].shape} and {arms[1].shape}")
    task_count = arms[0].shape[-1]
    return bootstrap_interval(
        np.concatenate(arms, axis=-1), lambda both: mean(both[..., :task_count]) - mean(both[..., task_count:])
    )


def curve_band(
    curve: ArrayLike, *, confidence: float = 0.95, resample_count: int = 2_000, seed: int = 0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean over seeds and its pointwise bootstrap interval: three arrays (evaluation_count,): mean, low, high.

    One resample draws whole seeds, so a band keeps every curve whole. A missing value (NaN) makes its point NaN.
    """
    array = _curve(curve)
    seed_count = array.shape[1]
    rows = np.random.default_rng(seed).integers(seed_count, size=(resample_count, seed_count))
    weights = np.apply_along_axis(np.bincount, 1, rows, minlength=seed_count) / seed_count
    low, high = _middle(array @ weights.T, confidence)
    return array.mean(axis=1), low, high


def _middle(resampled: FloatArray, confidence: float) -> FloatArray:
    """The ends of the middle share `confidence` of resamples (..., resample_count): (2, ...)."""
    tail = (1.0 - checks.number("confidence", confidence, "(0, 1)")) / 2.0
    return np.quantile(resampled, [tail, 1.0 - tail], axis=-1)


def average_last_four(curve: ArrayLike) -> FloatArray:
    """Mean of the last four evaluations of each seed, (seed_count,), as [2]_ reports it; of all when fewer."""
    return np.asarray(_curve(curve)[-4:].mean(axis=0))


def best(curve: ArrayLike) -> FloatArray:
    """Highest evaluation of each seed, (seed_count,), the other score of [2]_."""
    return np.asarray(_curve(curve).max(axis=0))


def updates_to_fraction(
    updates: Sequence[int], curve: ArrayLike, *, target: float, fraction: float = 0.9
) -> FloatArray:
    """First update of each seed at which its score reaches ``fraction * target``, (seed_count,); NaN if none does.

    With the baseline's final score as `target` and a fraction of 0.9 this is the convergence measure of [2]_ (tables 11
    and 13), which does not say what becomes of a seed that never arrives.
    """
    array = _curve(curve)
    numbers = np.asarray(updates, dtype=np.float64)
    if numbers.shape != array.shape[:1]:
        raise ValueError(f"updates must have shape ({array.shape[0]},) like the curve, got {numbers.shape}")
    reached = array >= fraction * target
    return np.asarray(np.where(reached.any(axis=0), numbers[reached.argmax(axis=0)], np.nan))


def _resamples(scores: FloatArray, resample_count: int, seed: int) -> FloatArray:
    """Scores (seed_count, task_count) with seeds drawn anew for each task: (resample_count, seed_count, task_count)."""
    seed_count, task_count = scores.shape
    rows = np.random.default_rng(seed).integers(seed_count, size=(resample_count, seed_count, task_count))
    return np.asarray(scores[rows, np.arange(task_count)])


def _finite(scores: ArrayLike) -> FloatArray:
    array = _scores(scores)
    if array.ndim != 2:
        raise ValueError(f"scores must have shape (seed_count, task_count) or (seed_count,), got {np.shape(scores)}")
    if not np.isfinite(array).all():
        raise ValueError("scores must be finite: an interval over missing seeds would hide that they failed")
    return array


def _scores(scores: ArrayLike) -> FloatArray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim < 2 or array.shape[-2] == 0 or array.shape[-1] == 0:
        raise ValueError(f"scores must hold at least one seed and one task, got shape {np.shape(scores)}")
    return array


def _curve(curve: ArrayLike) -> FloatArray:
    array = np.asarray(curve, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"a curve must have shape (evaluation_count, seed_count), both at least 1, got {array.shape}")
    return array
