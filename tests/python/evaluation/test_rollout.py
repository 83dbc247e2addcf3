from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmill.data import normalized_score
from trajmill.evaluation import ENVIRONMENTS, episode_seeds, evaluate_policy, make_gymnasium

NAMES = sorted(ENVIRONMENTS)
Array = NDArray[np.float32]


def linear_weights(environment_id: str, seed_count: int) -> Array:
    """Fixed random linear policies, (S, O, A); seed k's do not depend on S."""
    definition = ENVIRONMENTS[environment_id]
    shape = (definition.observation_dim, definition.action_dim)
    return np.stack([np.random.default_rng(k).normal(size=shape) for k in range(seed_count)]).astype(np.float32)


class LinearPolicy:
    """Acts with ``tanh(observation @ weights)``, row by row, so that no action depends on the shape of the batch."""

    def __init__(self, weights: Array) -> None:
        self.weights = weights

    def __call__(self, observations: Array, /) -> Array:
        return np.tanh((observations[..., None] * self.weights[:, None]).sum(axis=2))


class RandomPolicy:
    """Uniform actions from a stream of each seed's own, the same in every run."""

    def __init__(self, environment_id: str, seed_count: int) -> None:
        self.generators = [np.random.default_rng(1000 + k) for k in range(seed_count)]
        self.action_dim = ENVIRONMENTS[environment_id].action_dim

    def __call__(self, observations: Array, /) -> Array:
        shape = (observations.shape[1], self.action_dim)
        return np.stack([generator.uniform(-1, 1, shape) for generator in self.generators]).astype(np.float32)


def play_gymnasium(environment_id: str, weights: Array, seed: int, maximum_steps: int) -> tuple[float, int]:
    """One episode in the plainest possible way."""
    environment = make_gymnasium(environment_id)
    observation, _ = environment.reset(seed=seed)
    total, length, terminal = 0.0, 0, False
    while not terminal and length < maximum_steps:
        action = np.tanh((observation.astype(np.float32)[:, None] * weights).sum(axis=0))
        observation, reward, terminal, _, _ = environment.step(action)
        total, length = total + reward, length + 1
    environment.close()
    return total, length


@pytest.mark.parametrize("environment_id", NAMES)
def test_returns_equal_episodes_played_one_by_one(environment_id: str) -> None:
    weights = linear_weights(environment_id, 3)
    result = evaluate_policy(
        LinearPolicy(weights), environment_id, seed_count=3, episode_count=2, episode_seed=9, maximum_steps=150
    )
    for k in range(3):
        for episode, seed in enumerate(episode_seeds(9, 2)):
            expected = play_gymnasium(environment_id, weights[k], seed, 150)
            assert (result.returns[k, episode], result.lengths[k, episode]) == expected


@pytest.mark.parametrize("environment_id", NAMES)
@pytest.mark.parametrize("policy", ["linear", "random"])
def test_exact_and_batched_agree_to_the_last_bit(environment_id: str, policy: str) -> None:
    def run(**options: Any) -> Any:
        act = LinearPolicy(linear_weights(environment_id, 2)) if policy == "linear" else RandomPolicy(environment_id, 2)
        return evaluate_policy(
            act, environment_id, seed_count=2, episode_count=4, episode_seed=4, maximum_steps=200, **options
        )

    exact, *others = run(exact=True), run(), run(threads=2)
    assert exact.exact
    for batched in others:
        np.testing.assert_array_equal(batched.returns, exact.returns)
        np.testing.assert_array_equal(batched.lengths, exact.lengths)
        assert batched.environment_steps == int(exact.lengths.sum())
        assert not batched.exact


def test_a_seed_alone_scores_as_among_others() -> None:
    weights = linear_weights("Hopper-v4", 5)
    together = evaluate_policy(LinearPolicy(weights), "Hopper-v4", seed_count=5, episode_count=3)
    for k in range(5):
        alone = evaluate_policy(LinearPolicy(weights[k : k + 1]), "Hopper-v4", seed_count=1, episode_count=3)
        np.testing.assert_array_equal(alone.returns[0], together.returns[k])
        np.testing.assert_array_equal(alone.lengths[0], together.lengths[k])


def test_more_episodes_begin_with_the_fewer() -> None:
    act = LinearPolicy(linear_weights("Hopper-v4", 2))
    few = evaluate_policy(act, "Hopper-v4", seed_count=2, episode_count=2)
    many = evaluate_policy(act, "Hopper-v4", seed_count=2, episode_count=5)
    np.testing.assert_array_equal(many.returns[:, :2], few.returns)


def test_other_episode_seeds_are_other_episodes() -> None:
    act = LinearPolicy(linear_weights("Hopper-v4", 1))
    results = [evaluate_policy(act, "Hopper-v4", seed_count=1, episode_seed=seed) for seed in (0, 1)]
    assert not np.isin(results[0].returns, results[1].returns).any()


class Broken:
    """A linear policy of which one seed gives NaN or infinity from some step on."""

    def __init__(self, weights: Array, broken_seed: int, first_step: int, value: float) -> None:
        self.policy, self.broken_seed, self.first_step, self.value = (
            LinearPolicy(weights),
            broken_seed,
            first_step,
            value,
        )
        self.step = 0

    def __call__(self, observations: Array, /) -> Array:
        actions = self.policy(observations)
        if self.step >= self.first_step:
            actions[self.broken_seed, 1, 0] = self.value
        self.step += 1
        return actions


@pytest.mark.parametrize(("first_step", "value"), [(0, np.nan), (3, np.inf), (3, -np.inf), (5, np.nan)])
def test_a_seed_that_breaks_leaves_the_others_untouched(first_step: int, value: float) -> None:
    weights = linear_weights("HalfCheetah-v4", 3)
    options: dict[str, Any] = {"seed_count": 3, "episode_count": 2, "maximum_steps": 30}
    whole = evaluate_policy(LinearPolicy(weights), "HalfCheetah-v4", **options)
    broken = evaluate_policy(Broken(weights, 1, first_step, value), "HalfCheetah-v4", **options)
    assert np.isnan(broken.returns[1]).all()
    assert broken.lengths[1].tolist() == [first_step] * 2
    np.testing.assert_array_equal(broken.returns[[0, 2]], whole.returns[[0, 2]])
    assert np.isnan(broken.normalized_scores).tolist() == [False, True, False]
    text = json.dumps(broken.to_dict(), allow_nan=False)
    assert json.loads(text)["returns"][1] == [None, None]


@pytest.mark.parametrize("exact", [False, True])
def test_when_every_seed_breaks_evaluation_ends(exact: bool) -> None:
    def act(observations: Array) -> Array:
        return np.full((*observations.shape[:2], 3), np.nan, np.float32)

    result = evaluate_policy(act, "Hopper-v4", seed_count=2, episode_count=2, exact=exact)
    assert np.isnan(result.returns).all()
    assert result.environment_steps == 0


def test_finished_episodes_keep_their_last_observation_and_are_not_stepped() -> None:
    seen: list[Array] = []
    policy = LinearPolicy(linear_weights("Hopper-v4", 2))

    def act(observations: Array) -> Array:
        seen.append(observations)
        return policy(observations)

    result = evaluate_policy(act, "Hopper-v4", seed_count=2, episode_count=4)
    assert len(seen) == result.lengths.max()
    shortest = np.unravel_index(result.lengths.argmin(), result.lengths.shape)
    history = np.stack([observations[shortest] for observations in seen])
    length = result.lengths.min()
    assert length < len(seen)
    assert len(np.unique(history[: length + 1], axis=0)) == length + 1
    assert (history[length:] == history[length]).all()


class Remembering:
    """An episodic policy that writes down what it is told."""

    def __init__(self, weights: Array) -> None:
        self.policy = LinearPolicy(weights)
        self.calls: list[str] = []
        self.rewards: list[Array] = []
        self.playing: list[NDArray[np.bool_]] = []

    def start(self, seed_count: int, episode_count: int) -> None:
        self.calls.append(f"start {seed_count} {episode_count}")

    def __call__(self, observations: Array, /) -> Array:
        self.calls.append("act")
        return self.policy(observations)

    def observe(self, rewards: Array, playing: NDArray[np.bool_]) -> None:
        self.calls.append("observe")
        self.rewards.append(rewards)
        self.playing.append(playing)


@pytest.mark.parametrize("exact", [False, True])
def test_a_policy_with_a_memory_is_told_of_every_step(exact: bool) -> None:
    weights = linear_weights("Hopper-v4", 2)
    act = Remembering(weights)
    result = evaluate_policy(act, "Hopper-v4", seed_count=2, episode_count=3, exact=exact)
    longest = int(result.lengths.max())
    assert result.lengths.min() < longest
    assert act.calls == ["start 2 3"] + ["act", "observe"] * longest
    np.testing.assert_allclose(np.sum(act.rewards, axis=0, dtype=np.float64), result.returns, rtol=1e-5)
    played = 1 + np.sum(act.playing, axis=0)  # `playing` says who goes on after the step
    np.testing.assert_array_equal(played, result.lengths)
    timesteps = np.arange(longest)[:, None, None]
    np.testing.assert_array_equal(np.array(act.rewards) != 0, timesteps < result.lengths)
    plain = evaluate_policy(LinearPolicy(weights), "Hopper-v4", seed_count=2, episode_count=3)
    np.testing.assert_array_equal(plain.returns, result.returns)


def test_a_policy_that_takes_more_numbers_gets_zeros() -> None:
    weights = linear_weights("Ant-v4", 1)
    seen: list[Array] = []

    def act(observations: Array) -> Array:
        seen.append(observations)
        return LinearPolicy(weights)(observations[..., :27])

    options: dict[str, Any] = {"seed_count": 1, "episode_count": 2, "maximum_steps": 20}
    expected = evaluate_policy(LinearPolicy(weights), "Ant-v4", **options)
    padded = evaluate_policy(act, "Ant-v4", observation_dim=111, **options)
    np.testing.assert_array_equal(padded.returns, expected.returns)
    assert all(observations.shape == (1, 2, 111) and not observations[..., 27:].any() for observations in seen)
    with pytest.raises(ValueError, match="at least the 27 of Ant-v4, got 26"):
        evaluate_policy(act, "Ant-v4", observation_dim=26, **options)


def test_without_reference_returns_there_is_no_score() -> None:
    result = evaluate_policy(
        LinearPolicy(linear_weights("InvertedPendulum-v4", 2)), "InvertedPendulum-v4", seed_count=2, episode_count=2
    )
    assert np.isnan(result.normalized_scores).all()
    assert np.isfinite(result.returns).all()


def test_a_policy_may_write_into_what_it_is_given() -> None:
    policy = LinearPolicy(linear_weights("HalfCheetah-v4", 1))

    def act(observations: Array) -> Array:
        actions = policy(observations)
        observations[:] = np.nan
        return actions

    options: dict[str, Any] = {"seed_count": 1, "episode_count": 2, "maximum_steps": 10}
    expected = evaluate_policy(policy, "HalfCheetah-v4", **options)
    np.testing.assert_array_equal(evaluate_policy(act, "HalfCheetah-v4", **options).returns, expected.returns)


def test_actions_are_clipped() -> None:
    def play(environment_id: str, value: float) -> NDArray[np.int64]:
        def act(observations: Array) -> Array:
            return np.full((*observations.shape[:2], ENVIRONMENTS[environment_id].action_dim), value, np.float32)

        result = evaluate_policy(act, environment_id, seed_count=1, episode_count=2, maximum_steps=20)
        return result.lengths if environment_id == "InvertedPendulum-v4" else result.returns

    np.testing.assert_array_equal(play("HalfCheetah-v4", 50.0), play("HalfCheetah-v4", 1.0))
    np.testing.assert_array_equal(play("InvertedPendulum-v4", 50.0), play("InvertedPendulum-v4", 3.0))
    assert (play("InvertedPendulum-v4", 3.0) < play("InvertedPendulum-v4", 1.0)).all()


def test_a_random_hopper_scores_what_random_hoppers_score() -> None:
    """Mean return 18.3 with deviation 16 (hopper-random-v1 in D4RL's issue 86): 300 episodes lie within 5 errors."""
    result = evaluate_policy(RandomPolicy("Hopper-v4", 3), "Hopper-v4", seed_count=3, episode_count=100)
    assert abs(result.returns.mean() - 18.3) < 5 * 16 / np.sqrt(300)


def test_a_result_says_where_it_comes_from() -> None:
    act = LinearPolicy(linear_weights("Hopper-v4", 2))
    result = evaluate_policy(act, "Hopper-v4", seed_count=2, episode_count=3, episode_seed=8, maximum_steps=7)
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(record["versions"]) == {"gymnasium", "mujoco", "numpy"}
    assert record["margin_fix"] is True
    assert {key: record[key] for key in ("environment_id", "episode_seed", "maximum_steps", "exact")} == {
        "environment_id": "Hopper-v4",
        "episode_seed": 8,
        "maximum_steps": 7,
        "exact": False,
    }
    np.testing.assert_array_equal(record["returns"], result.returns)
    np.testing.assert_array_equal(record["normalized_scores"], normalized_score("hopper", result.returns.mean(axis=1)))
    assert result.lengths.max() <= 7


@pytest.mark.parametrize("name", ["seed_count", "episode_count", "maximum_steps"])
def test_counts_below_one_are_refused(name: str) -> None:
    options: dict[str, Any] = {"seed_count": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        evaluate_policy(LinearPolicy(linear_weights("Hopper-v4", 1)), "Hopper-v4", **options)


def test_a_policy_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(S, E, A\) = \(2, 10, 3\), got \(20, 3\)"):
        evaluate_policy(lambda observations: np.zeros((20, 3), np.float32), "Hopper-v4", seed_count=2)


@given(series=st.integers(0, 2**63), count=st.integers(1, 30))
@settings(max_examples=50)
def test_episode_seeds_have_addresses(series: int, count: int) -> None:
    seeds = episode_seeds(series, count)
    assert seeds == episode_seeds(series, 40)[:count]
    assert len(set(seeds)) == count
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert not set(seeds) & set(episode_seeds(series + 1, count))


def test_episode_seeds_of_later_episodes() -> None:
    assert episode_seeds(7, 3, first=5) == episode_seeds(7, 8)[5:]


def test_episode_seeds_never_change() -> None:
    """Frozen: published evaluations name their episodes by these numbers."""
    assert episode_seeds(0, 3) == [4334430513956379144, 2440950710608614359, 8226343694796210948]
