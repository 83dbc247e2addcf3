"""Augmented random search against the paper's equations, written once more the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajmill.experiments.random_search import (
    ARSConfig,
    LinearPolicies,
    Moments,
    ObservationMoments,
    create,
    draw_directions,
    perturbed_policies,
    update,
)

RNG = np.random.default_rng(0)


def test_actions_are_the_papers_formula_whatever_the_batch() -> None:
    matrix, mean = RNG.normal(size=(5, 3, 4)), RNG.normal(size=4)
    deviation = np.array([0.5, 2.0, 0.0, 1.0])  # the third number never moved: it is left out
    observations = RNG.normal(size=(5, 6, 4)).astype(np.float32)
    actions = LinearPolicies(matrix, mean, deviation)(observations)
    assert actions.dtype == np.float32
    for k in range(5):
        alone = LinearPolicies(matrix[k : k + 1], mean, deviation)
        for e in range(6):
            whitened = np.array([(observations[k, e, i] - mean[i]) / deviation[i] if i != 2 else 0 for i in range(4)])
            np.testing.assert_allclose(actions[k, e], matrix[k] @ whitened, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(alone(observations[k : k + 1, e : e + 1])[0, 0], actions[k, e])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_moments_of_parts_are_moments_of_the_whole(sizes: list[int], seed: int) -> None:
    parts = [np.random.default_rng(seed + i).normal(5, 2, (n, 3)).astype(np.float32) for i, n in enumerate(sizes)]
    moments = create(3, 1).moments
    for part in parts:
        moments = moments + Moments.of(part)
    whole = np.concatenate(parts).astype(np.float64)
    assert moments.count == len(whole)
    np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-12)
    expected = whole.std(axis=0, ddof=1) if len(whole) > 1 else np.ones(3)
    np.testing.assert_allclose(moments.deviation(), expected, rtol=1e-9)


def test_what_never_moves_has_no_deviation() -> None:
    moments = Moments.of(np.full((10, 2), [3.0, 1e-3], np.float32))
    assert moments.deviation().tolist() == [0, 0]


def test_only_episodes_that_play_are_counted() -> None:
    observations = RNG.normal(size=(2, 2, 3)).astype(np.float32)
    watched = ObservationMoments(lambda values: values[..., :1], create(3, 1).moments)
    watched.start(2, 2)
    np.testing.assert_array_equal(watched(observations), observations[..., :1])
    playing = np.array([[True, False], [False, False]])
    watched.observe(np.zeros((2, 2), np.float32), playing)
    watched(observations)
    expected = np.concatenate((observations.reshape(4, 3), observations[0, :1])).astype(np.float64)
    assert watched.moments.count == 5
    np.testing.assert_allclose(watched.moments.mean, expected.mean(axis=0))


def test_directions_have_addresses() -> None:
    config, state = ARSConfig(direction_count=3, top_direction_count=3), create(4, 2)
    directions = draw_directions(state, config, 7)
    assert directions.shape == (3, 2, 4)
    np.testing.assert_array_equal(draw_directions(state, config, 7), directions)
    assert (draw_directions(state, config, 8) != directions).any()
    step = update(state, config, directions, np.arange(6.0), np.ones(6, np.int64), state.moments)
    assert (draw_directions(step, config, 7) != directions).any()


def test_policies_go_forwards_then_backwards() -> None:
    config, state = ARSConfig(direction_count=3, top_direction_count=1, perturbation=0.5), create(4, 2)
    directions = draw_directions(state, config, 1)
    observations = np.broadcast_to(RNG.normal(size=4).astype(np.float32), (6, 1, 4))
    actions = perturbed_policies(state, config, directions)(observations)
    expected = 0.5 * directions @ observations[0, 0].astype(np.float64)
    np.testing.assert_allclose(actions[:3, 0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(actions[3:], -actions[:3])


def test_update_is_algorithm_2() -> None:
    """Line 7, one direction after another."""
    config = ARSConfig(direction_count=5, top_direction_count=2, step_size=0.3, survival_bonus=1.0)
    state = create(4, 2)
    directions = draw_directions(state, config, 3)
    returns = np.array([5.0, 9.0, 20.0, 3.0, 8.0, 7.0, 1.0, 2.0, 4.0, 30.0])
    lengths = np.array([1, 2, 11, 1, 1, 1, 1, 1, 1, 12])
    plus, minus = (returns - lengths)[:5], (returns - lengths)[5:]
    ranked = sorted(range(5), key=lambda k: max(plus[k], minus[k]), reverse=True)[:2]
    assert ranked == [4, 2]
    spread = np.std([plus[4], minus[4], plus[2], minus[2]])
    step = sum((plus[k] - minus[k]) * directions[k] for k in ranked)
    new = update(state, config, directions, returns, lengths, state.moments)
    np.testing.assert_allclose(new.matrix, 0.3 / (2 * spread) * step, rtol=1e-12)
    assert (new.iteration, new.environment_steps) == (1, 32)


def test_equal_returns_move_nothing() -> None:
    config, state = ARSConfig(), create(4, 2)
    directions = draw_directions(state, config, 0)
    new = update(state, config, directions, np.ones(16), np.ones(16, np.int64), state.moments)
    assert not new.matrix.any()


def test_the_search_climbs_a_hill() -> None:
    config, state = ARSConfig(), create(4, 2)
    goal = RNG.normal(size=(2, 4))

    def returns(matrices: np.ndarray) -> np.ndarray:
        return -np.square(matrices - goal).sum(axis=(1, 2))

    for _ in range(300):
        directions = draw_directions(state, config, 0)
        offsets = config.perturbation * np.concatenate((directions, -directions))
        state = update(state, config, directions, returns(state.matrix + offsets), np.ones(16, np.int64), state.moments)
    assert returns(state.matrix[None])[0] > 0.05 * returns(np.zeros((1, 2, 4)))[0]


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"top_direction_count .* got 9"):
        ARSConfig(top_direction_count=9)
    with pytest.raises(ValueError, match="step_size"):
        ARSConfig(step_size=0.0)
    with pytest.raises(ValueError, match="episode_length"):
        ARSConfig(episode_length=0)
