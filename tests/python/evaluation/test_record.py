"""Recorded episodes against episodes played one by one in Gymnasium."""

from __future__ import annotations

import numpy as np
import pytest

from trajmill.evaluation import ENVIRONMENTS, BatchedEnvironment, make_gymnasium, record_episodes

SEEDS = [5, 6, 7]


def scripted_actions(environment_id: str, step_count: int) -> np.ndarray:
    """(T, E, A), some beyond the limits."""
    definition = ENVIRONMENTS[environment_id]
    shape = (step_count, len(SEEDS), definition.action_dim)
    return (1.2 * definition.action_limit * np.random.default_rng(2).uniform(-1, 1, shape)).astype(np.float32)


class Scripted:
    def __init__(self, actions: np.ndarray) -> None:
        self.actions = iter(actions)

    def __call__(self, observations: np.ndarray, /) -> np.ndarray:
        return next(self.actions)[None]


@pytest.mark.parametrize("environment_id", sorted(ENVIRONMENTS))
def test_rows_are_gymnasiums_steps(environment_id: str) -> None:
    limit = 40
    actions = scripted_actions(environment_id, limit)
    with BatchedEnvironment(environment_id, 5) as environment:
        recording = record_episodes(Scripted(actions), environment, SEEDS, maximum_steps=limit)
    gymnasium = make_gymnasium(environment_id)
    row = 0
    for episode, seed in enumerate(SEEDS):
        observation, _ = gymnasium.reset(seed=seed)
        total = 0.0
        for timestep in range(limit):
            data = gymnasium.unwrapped.data
            np.testing.assert_array_equal(recording.qpos[row], data.qpos.astype(np.float32))
            np.testing.assert_array_equal(recording.qvel[row], data.qvel.astype(np.float32))
            np.testing.assert_array_equal(recording.observations[row], observation.astype(np.float32))
            action = recording.actions[row]
            bound = ENVIRONMENTS[environment_id].action_limit
            np.testing.assert_array_equal(action, np.clip(actions[timestep, episode], -bound, bound))
            observation, reward, terminal, _, _ = gymnasium.step(action)
            total += reward
            np.testing.assert_array_equal(recording.next_observations[row], observation.astype(np.float32))
            assert recording.rewards[row] == np.float32(reward)
            last = timestep == limit - 1
            assert (recording.terminals[row], recording.timeouts[row]) == (terminal and not last, last)
            row += 1
            if terminal:
                break
        assert (recording.lengths[episode], recording.returns[episode]) == (timestep + 1, total)
    assert row == len(recording.rewards)
    gymnasium.close()


def test_a_fall_in_the_last_step_is_a_timeout() -> None:
    """D4RL's rule: at the limit, timeout and never terminal."""
    actions = scripted_actions("Hopper-v4", 100)
    with BatchedEnvironment("Hopper-v4", 3) as environment:
        free = record_episodes(Scripted(actions), environment, SEEDS)
        length = int(free.lengths[0])
        cut = record_episodes(Scripted(actions), environment, SEEDS, maximum_steps=length)
    assert free.terminals[length - 1] and not free.timeouts.any()
    assert cut.timeouts[length - 1] and not cut.terminals[length - 1]


def test_a_broken_policy_is_refused() -> None:
    with (
        BatchedEnvironment("Hopper-v4", 1) as environment,
        pytest.raises(ValueError, match="NaN or infinity in step 0"),
    ):
        record_episodes(lambda observations: np.full((1, 1, 3), np.nan, np.float32), environment, [0])
