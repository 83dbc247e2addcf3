"""Aggregates and intervals against closed forms and slow twins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from trajmill.evaluation import statistics

scores_strategy = arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=st.floats(-50, 150, width=32)
)


@given(scores_strategy)
@settings(max_examples=50, deadline=None)
def test_aggregates_equal_scipy_and_plain_python(scores):
    flat = scores.ravel().tolist()
    assert statistics.interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores.ravel(), 0.25))
    assert statistics.mean(scores) == pytest.approx(sum(flat) / len(flat))


def test_aggregates_keep_leading_axes():
    stack = np.random.default_rng(0).normal(size=(4, 6, 3))
    for aggregate in (statistics.mean, statistics.interquartile_mean):
        np.testing.assert_allclose(aggregate(stack), [aggregate(scores) for scores in stack])


def test_bootstrap_of_three_seeds_equals_the_exact_resampling_distribution():
    """27 equally likely resamples: the two extreme ones hold 1/27 = 3.7 % each, more than a 2.5 % tail."""
    scores = np.array([10.0, 20.0, 60.0])
    means = sorted(np.mean(draw) for draw in itertools.product(scores, repeat=3))
    interval = statistics.bootstrap_interval(scores)
    assert (interval.low, interval.high) == (means[0], means[-1])
    assert interval.estimate == 30.0
    # at 80 % both ends are inner atoms, well away from a step of the exact distribution function
    narrow = statistics.bootstrap_interval(scores, confidence=0.8)
    exact = np.quantile(means, [0.1, 0.9], method="inverted_cdf")
    np.testing.assert_allclose((narrow.low, narrow.high), exact)


def test_bootstrap_approaches_the_normal_interval():
    scores = np.random.default_rng(1).normal(50.0, 8.0, size=400)
    interval = statistics.bootstrap_interval(scores, resample_count=20_000)
    half = 1.96 * scores.std() / np.sqrt(scores.size)
    assert interval.high - interval.estimate == pytest.approx(half, rel=0.05)
    assert interval.estimate - interval.low == pytest.approx(half, rel=0.05)


def test_bootstrap_is_stratified_by_task():
    """Seeds that agree within each task leave nothing to resample, however far the tasks lie apart."""
    scores = np.tile([[0.0, 50.0, 100.0]], (5, 1))
    interval = statistics.bootstrap_interval(scores, statistics.interquartile_mean)
    assert interval.low == interval.high == interval.estimate == 50.0


def test_bootstrap_is_seeded():
    scores = np.random.default_rng(2).normal(size=(7, 2))
    assert statistics.bootstrap_interval(scores, seed=3) == statistics.bootstrap_interval(scores, seed=3)
    assert statistics.bootstrap_interval(scores, seed=3) != statistics.bootstrap_interval(scores, seed=4)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "at least one seed"),
        (np.zeros((3, 0)), "at least one seed"),
        (np.zeros((2, 3, 4)), "must have shape"),
        ([1.0, np.nan], "must be finite"),
    ],
)
def test_bootstrap_refuses_what_it_cannot_answer(scores, message):
    with pytest.raises(ValueError, match=message):
        statistics.bootstrap_interval(scores)


def test_bootstrap_refuses_a_confidence_outside_zero_and_one():
    with pytest.raises(ValueError, match=r"\(0, 1\), got 95"):
        statistics.bootstrap_interval([1.0, 2.0], confidence=95)


def test_a_difference_of_two_arms_is_resampled_arm_by_arm():
    """Two seeds each: 4 x 4 equally likely resamples, of which the ends of the middle 95 % are the extremes."""
    difference = statistics.difference_interval([10.0, 14.0], [1.0, 3.0])
    assert difference.estimate == 10.0
    assert (difference.low, difference.high) == (7.0, 13.0), "10 - 3 and 14 - 1: seeds are not paired"
    both = statistics.difference_interval([[10.0, 0.0], [14.0, 0.0]], [[1.0, 0.0], [3.0, 0.0]])
    assert (both.estimate, both.low, both.high) == (5.0, 3.5, 6.5)
    with pytest.raises(ValueError, match="one shape"):
        statistics.difference_interval([1.0, 2.0], [1.0])


def test_curve_band_equals_a_pointwise_bootstrap_of_whole_seeds():
    curve = np.random.default_rng(5).normal(size=(4, 6))
    centre, low, high = statistics.curve_band(curve, resample_count=500, seed=9)
    rows = np.random.default_rng(9).integers(6, size=(500, 6))
    twin = [[curve[point, row].mean() for row in rows] for point in range(4)]
    np.testing.assert_allclose(centre, curve.mean(axis=1))
    np.testing.assert_allclose(low, np.quantile(twin, 0.025, axis=1))
    np.testing.assert_allclose(high, np.quantile(twin, 0.975, axis=1))


def test_curve_band_leaves_a_missing_point_missing():
    curve = np.array([[1.0, 2.0], [np.nan, 3.0]])
    centre, low, high = statistics.curve_band(curve)
    assert np.isfinite([centre[0], low[0], high[0]]).all()
    assert np.isnan([centre[1], low[1], high[1]]).all()


def test_average_last_four_and_best():
    curve = [[9.0, 0.0], [1.0, 1.0], [2.0, 3.0], [3.0, 5.0], [4.0, 7.0]]
    assert statistics.average_last_four(curve).tolist() == [2.5, 4.0]
    assert statistics.best(curve).tolist() == [9.0, 7.0]
    assert statistics.average_last_four(curve[:2]).tolist() == [5.0, 0.5]


def test_updates_to_fraction_of_a_baseline():
    curve = [[10.0, 0.0, 95.0], [80.0, 10.0, 0.0], [91.0, 20.0, 0.0]]
    steps = statistics.updates_to_fraction([5000, 10000, 15000], curve, target=100.0)
    np.testing.assert_array_equal(steps, [15000.0, np.nan, 5000.0])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        statistics.updates_to_fraction([5000], curve, target=100.0)


@given(scores_strategy)
@settings(max_examples=20, deadline=None)
def test_profiles_count_the_runs_above(scores):
    thresholds = np.unique(np.append(scores.ravel(), [-60.0, 160.0]))
    share, low, high = statistics.performance_profile(scores, thresholds, resample_count=200)
    expected = [sum(score > threshold for score in scores.ravel().tolist()) / scores.size for threshold in thresholds]
    assert share == pytest.approx(expected)
    assert share[0] == low[0] == high[0] == 1.0 and share[-1] == low[-1] == high[-1] == 0.0
    assert ((low <= high) & (low >= 0) & (high <= 1)).all() and (np.diff(share) <= 0).all()


def test_a_profile_s_interval_is_that_of_a_share_of_seeds():
    """Of n seeds on one task, k above: a resample's number above is binomial(n, k/n)."""
    n, k = 40, 12
    scores = np.where(np.arange(n) < k, 1.0, 0.0)
    _, low, high = statistics.performance_profile(scores, [0.5], resample_count=20_000)
    ends = stats.binom(n, k / n).ppf([0.025, 0.975]) / n
    assert [low[0], high[0]] == pytest.approx(ends, abs=1 / n)


def test_a_profile_keeps_the_weight_of_each_task():
    """All of one task is above and nothing of the other: whatever seeds are drawn, half is above."""
    scores = np.stack([np.full(5, 10.0), np.zeros(5)], axis=1)
    assert [float(each[0]) for each in statistics.performance_profile(scores, [5.0])] == [0.5, 0.5, 0.5]


def test_profiles_refuse_what_they_cannot_count():
    with pytest.raises(ValueError, match="finite"):
        statistics.performance_profile([[1.0], [np.nan]], [0.0])
    with pytest.raises(ValueError, match=r"thresholds must have shape \(count,\)"):
        statistics.performance_profile([[1.0]], 0.0)
