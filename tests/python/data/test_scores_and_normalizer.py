from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmill.data import REFERENCE_SCORES, Normalizer, normalized_score


@pytest.mark.parametrize(
    ("environment", "undiscounted_return", "score"),
    [
        ("halfcheetah", 0, 2.256745),
        ("hopper", 0, 0.622887),
        ("walker2d", 0, -0.035485),
        ("ant", 0, 7.742611),
        ("halfcheetah", 6000, 50.584683),
        ("hopper", 3600, 111.236499),
        ("walker2d", 5000, 108.881055),
        ("ant", 5000, 126.640192),
        ("halfcheetah", 5927.410524, 50),
        ("hopper", 1607.013848, 50),
        ("walker2d", 2296.964504, 50),
        ("ant", 1777.05, 50),
    ],
)
def test_published_scores(environment: str, undiscounted_return: float, score: float) -> None:
    assert float(normalized_score(environment, undiscounted_return)) == pytest.approx(score, abs=5e-7)


@pytest.mark.parametrize("name", ["hopper", "Hopper-v4", "hopper-medium-v2", "hopper-sac-replay-10k", "HOPPER"])
def test_names_of_one_environment(name: str) -> None:
    assert float(normalized_score(name, 3234.3)) == 100.0


@pytest.mark.parametrize("name", ["Pendulum-v1", "", "hopper_medium", "hopperv2"])
def test_unknown_environments_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="known: halfcheetah, hopper, walker2d, ant"):
        normalized_score(name, 1.0)


@given(st.sampled_from(sorted(REFERENCE_SCORES)), st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_the_score_of_a_mean_is_the_mean_of_scores(environment: str, returns: list[float]) -> None:
    scores = normalized_score(environment, returns)
    assert scores.shape == (len(returns),)
    np.testing.assert_allclose(normalized_score(environment, np.mean(returns)), scores.mean(), atol=1e-8)


def test_nan_stays_with_its_seed() -> None:
    assert np.isnan(normalized_score("hopper", [1.0, np.nan, 2.0])).tolist() == [False, True, False]


def test_normalizer_uses_the_population_deviation() -> None:
    observations = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    normalizer = Normalizer.fit(observations, epsilon=1e-3)
    np.testing.assert_array_equal(normalizer.mean, np.array([2.0, 5.0], np.float32))
    np.testing.assert_array_equal(normalizer.scale, np.array([1.001, 0.001], np.float32))  # (2 would be the sample's)
    np.testing.assert_allclose(normalizer.normalize(observations)[:, 1], 0.0)  # a constant column gives 0, not NaN


def test_normalizer_sums_in_double_precision() -> None:
    observations = np.full((2_000_000, 2), 0.1, np.float32)
    observations[::2] += 1000
    normalizer = Normalizer.fit(observations, epsilon=1e-6)
    assert float(normalizer.mean[0]) == pytest.approx(500.1, rel=1e-6)
    assert float(normalizer.scale[0]) == pytest.approx(500.0, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-3]))
def test_normalizer_survives_json(seed: int, epsilon: float) -> None:
    generator = np.random.default_rng(seed)
    observations = (generator.normal(size=(50, 3)) * [0.1, 1, 30] + [5, 0, -5]).astype(np.float32)
    normalizer = Normalizer.fit(observations, epsilon)
    again = Normalizer.from_dict(json.loads(json.dumps(normalizer.to_dict())))
    normalized = normalizer.normalize(observations)
    assert normalized.dtype == np.float32
    np.testing.assert_array_equal(again.normalize(observations), normalized)
    undone = normalized * normalizer.scale + normalizer.mean
    np.testing.assert_allclose(undone, observations, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("observations", "epsilon", "message"),
    [
        (np.zeros(3, np.float32), 1e-3, r"shape \(N, O\)"),
        (np.zeros((0, 3), np.float32), 1e-3, r"shape \(N, O\)"),
        (np.zeros((2, 3), np.float32), 0.0, "epsilon must be"),
        (np.zeros((2, 3), np.float32), np.nan, "epsilon must be"),
    ],
)
def test_normalizer_refuses_nonsense(observations: np.ndarray, epsilon: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Normalizer.fit(observations, epsilon)
