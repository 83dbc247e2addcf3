"""Any environment of Gymnasium's: what it says of itself, how it is played, and what is refused in which words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from trajmill.data.actions import bounds_of, to_environment, to_policy
from trajmill.data.environments import has_reference_score, normalized_score, task_of
from trajmill.evaluation import environment_definition, episode_seeds, evaluate_policy
from trajmill.evaluation.simulators import BatchedEnvironment, GymnasiumEnvironments, open_environments

VALVE = "valves:Valve-v0"
FACTS = {
    "Pendulum-v1": (3, 1, 2.0, 200),
    "MountainCarContinuous-v0": (2, 1, 1.0, 999),
    "Hopper-v5": (11, 3, 1.0, 1000),
    VALVE: (3, 2, ((0.0, -2.0), (1.0, 1.0)), 20),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_are_gymnasiums(name: str) -> None:
    task = task_of(name)
    assert task.environment_id == name and task.reference_score is None
    assert (task.observation_dim, task.action_dim, task.action_limit, task.episode_limit) == FACTS[name]


def test_an_id_without_a_version_is_the_newest_and_pinned() -> None:
    assert task_of("Pendulum").environment_id == "Pendulum-v1"
    assert task_of("hopper").environment_id == "Hopper-v4" == task_of("Hopper").environment_id


def test_what_is_ours_is_batched_and_what_is_not_is_gymnasiums() -> None:
    for name, kind in (("hopper", BatchedEnvironment), ("Hopper-v5", GymnasiumEnvironments)):
        with open_environments(name, 1) as environment:
            assert isinstance(environment, kind)
    with pytest.raises(ValueError, match=r"Hopper-v5 is Gymnasium's: .*Hopper-v4"):
        environment_definition("Hopper-v5")


def acting(limit: Any) -> Callable[[Any], Any]:
    """Actions within ±1 that follow from the observation."""
    action_dim = len(np.atleast_1d(bounds_of(limit)[0]))

    def act(observations: Any) -> Any:
        return np.sin(observations.sum(axis=-1, keepdims=True) * np.arange(1, action_dim + 1)).astype(np.float32)

    return act


@pytest.mark.parametrize("name", ["Pendulum-v1", "MountainCarContinuous-v0", VALVE])
def test_returns_are_those_of_a_plain_loop(name: str) -> None:
    act, limit = acting(task_of(name).action_limit), task_of(name).action_limit
    found = evaluate_policy(act, name, seed_count=2, episode_count=3, episode_seed=4, action_limit=limit)
    environment = gymnasium.make(name)
    for episode, seed in enumerate(episode_seeds(4, 3)):
        observation, _ = environment.reset(seed=seed)
        total, length, over = 0.0, 0, False
        while not over:
            action = to_environment(act(observation.astype(np.float32)), limit)
            observation, reward, terminal, truncated, _ = environment.step(action)
            total, length, over = total + float(reward), length + 1, terminal or truncated
        np.testing.assert_allclose(found.returns[:, episode], total, rtol=1e-12)
        assert found.lengths[:, episode].tolist() == [length] * 2
    assert np.isnan(found.normalized_scores).all() and found.exact and not found.margin_fix
    assert {"gymnasium", "numpy"} <= found.versions.keys()


def test_v5_is_not_v4() -> None:
    """A Hopper that falls gets a last reward for being alive in v4 only."""
    both = [
        evaluate_policy(lambda seen: np.zeros((1, 2, 3), np.float32), name, seed_count=1, episode_count=2)
        for name in ("Hopper-v4", "Hopper-v5")
    ]
    assert (both[0].returns != both[1].returns).all()
    assert np.isfinite(both[0].normalized_scores).all() and np.isnan(both[1].normalized_scores).all()
    assert "mujoco" in both[1].versions


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Hopper-v5", False),
        ("HalfCheetah-v10", False),
        ("Hopper-Big-v0", False),
        ("package:Hopper-v0", False),
        ("space/Hopper-v0", False),
        ("Pendulum-v1", False),
        ("Hopper-v2", True),
        ("hopper-medium-v2", True),
        ("hopper-sac-replay-10k", True),
    ],
)
def test_no_made_up_scores(name: str, known: bool) -> None:
    assert has_reference_score(name) == known
    if not known:
        with pytest.raises(ValueError, match="no reference scores"):
            normalized_score(name, 1.0)


def test_units_of_actions() -> None:
    limit = ((0.0, -2.0), (1.0, 1.0))
    acted = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], np.float32)
    np.testing.assert_array_equal(to_environment(acted, limit), [[0.0, -2.0], [0.5, -0.5], [1.0, 1.0]])
    np.testing.assert_allclose(to_policy(to_environment(acted, limit), limit), acted)
    odd = ((0.1, -0.7), (0.3, 0.1))
    for end in to_environment(np.array([[-1, -1], [1, 1]], np.float32), odd):
        assert (end >= bounds_of(odd)[0]).all() and (end <= bounds_of(odd)[1]).all()


def played(environments: GymnasiumEnvironments, steps: int, seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        result = environments.step(generator.uniform(-2, 1, (2, environments.definition.action_dim)).astype("f4"))
        found.append((result.observation, result.reward, result.terminal, result.truncated))
    return found


@pytest.mark.parametrize("name", ["Pendulum-v1", "Hopper-v5", VALVE])
def test_an_episode_goes_on_where_it_was(name: str) -> None:
    seeds = [2**62 + 12345, 7]
    with open_environments(name, 2) as one, open_environments(name, 2) as other:
        assert isinstance(one, GymnasiumEnvironments) and isinstance(other, GymnasiumEnvironments)
        one.reset(seeds)
        played(one, 5)
        kept = one.snapshot()
        other.reset([1, 2])
        other.resume(kept)
        for mine, theirs in zip(played(one, 3, 1), played(other, 3, 1), strict=True):
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(one.snapshot(), other.snapshot())


def test_chance_that_no_seed_decides_is_noticed() -> None:
    with open_environments("valves:Chancy-v0", 2) as one, open_environments("valves:Chancy-v0", 2) as other:
        assert isinstance(one, GymnasiumEnvironments) and isinstance(other, GymnasiumEnvironments)
        one.reset([1, 2])
        played(one, 2)
        with pytest.raises(ValueError, match=r"Chancy-v0 does not repeat an episode: .*2 equal actions.*--init"):
            other.resume(one.snapshot())


# --- what is refused ---

ONE = spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize(
    ("observed", "acted", "words"),
    [
        (spaces.Dict({"a": ONE, "b": ONE}), ONE, r"shows Dict\(.*FlattenObservation"),
        (spaces.Box(0, 255, (9, 9, 3), np.uint8), ONE, "which is an image.*FlattenObservation"),
        (spaces.Discrete(5), ONE, r"shows Discrete\(5\)"),
        (ONE, spaces.Discrete(2), r"actions of Discrete\(2\); .*Box"),
        (ONE, spaces.Box(0, 5, (2,), np.int64), "actions of Box.*int64.*floats"),
        (ONE, spaces.Box(-np.inf, np.inf, (2,)), "finite limits.*TransformAction"),
        (ONE, spaces.Box(-1, 1, (2, 2)), r"actions of Box.*\(2, 2\)"),
    ],
)
def test_spaces_that_do_not_fit(observed: Any, acted: Any, words: str) -> None:
    class Odd(gymnasium.Env[Any, Any]):
        observation_space, action_space = observed, acted

    gymnasium.register("Odd-v0", entry_point=Odd)
    try:
        with pytest.raises(ValueError, match=f"^Odd-v0 .*{words}"):
            task_of("Odd-v0")
    finally:
        gymnasium.registry.pop("Odd-v0")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("hoper", ValueError, "unknown environment 'hoper'; did you mean Hopper-v4 or Hopper-v5"),
        ("Pendulm-v1", ValueError, r"did you mean Pendulum-v1\?"),
        ("valves:Vlve-v0", ValueError, r"did you mean Valve-v0\?"),
        ("xq", ValueError, "trajmill's own are .*hopper.*Pendulum-v1.*package:Name-v0"),
        ("Hopper-v2", ValueError, "no Hopper-v2 any more; name Hopper-v4"),
        ("no_such:My-v0", ImportError, "package 'no_such', which is not found; install it, .*PYTHONPATH"),
    ],
)
def test_ids_that_nobody_knows(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        task_of(name)


def test_without_gymnasium_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert task_of("hopper").observation_dim == 11
    with pytest.raises(ImportError, match=r"Pendulum-v1 needs Gymnasium.*pip install 'trajmill\[train\]'"):
        task_of("Pendulum-v1")


def test_an_environment_that_cannot_be_made_says_why() -> None:
    class Asks(gymnasium.Env[Any, Any]):
        def __init__(self, size: int) -> None:
            """Needs a number."""

    gymnasium.register("Asks-v0", entry_point=Asks)
    try:
        with pytest.raises(ValueError, match=r"cannot make Asks-v0: TypeError: .*'size'"):
            task_of("Asks-v0")
    finally:
        gymnasium.registry.pop("Asks-v0")


def test_policies_of_other_sizes() -> None:
    with pytest.raises(ValueError, match="observation_dim must be the 3 of Pendulum-v1, got 5"):
        evaluate_policy(lambda seen: seen, "Pendulum-v1", seed_count=1, observation_dim=5)
    with pytest.raises(ValueError, match=r"actions of shape \(S, E, A\) = \(1, 1, 1\), got \(1, 1, 3\)"):
        evaluate_policy(lambda seen: seen, "Pendulum-v1", seed_count=1, episode_count=1)
