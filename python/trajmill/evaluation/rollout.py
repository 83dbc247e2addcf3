"""Scoring policies: a fixed number of whole episodes for each of many training seeds at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trajmill.data import normalized_score
from trajmill.evaluation.environments import environment_definition
from trajmill.evaluation.simulators import BatchedEnvironment, GymnasiumEnvironments, Simulator, simulator_versions


class Policy(Protocol):
    """S policies, one per training seed, that act on E episodes each."""

    def __call__(self, observations: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Map observations (S, E, O) to actions (S, E, A); seed k's actions may depend on ``observations[k]`` alone.

        Episodes that are over keep their last observation, and what is answered to it is ignored.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Returns of S seeds in the same E episodes, and where they come from."""

    environment_id: str
    returns: NDArray[np.float64]  # (S, E) undiscounted; NaN in the whole row of a seed that gave an action not finite
    lengths: NDArray[np.int64]  # (S, E) steps taken
    episode_seed: int
    maximum_steps: int
    exact: bool  # Gymnasium itself was stepped
    margin_fix: bool
    versions: dict[str, str]

    @property
    def normalized_scores(self) -> NDArray[np.float64]:
        """Score of each seed's mean return, (S,); 100 is D4RL's expert. NaN for a failed seed."""
        return normalized_score(self.environment_id, self.returns.mean(axis=1))

    @property
    def environment_steps(self) -> int:
        """Steps taken in all episodes together."""
        return int(self.lengths.sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; NaN becomes None."""
        return {
            "environment_id": self.environment_id,
            "returns": [[_finite_or_none(value) for value in row] for row in self.returns.tolist()],
            "lengths": self.lengths.tolist(),
            "normalized_scores": [_finite_or_none(value) for value in self.normalized_scores.tolist()],
            "environment_steps": self.environment_steps,
            "episode_seed": self.episode_seed,
            "maximum_steps": self.maximum_steps,
            "exact": self.exact,
            "margin_fix": self.margin_fix,
            "versions": dict(self.versions),
        }


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def episode_seeds(episode_seed: int, episode_count: int) -> list[int]:
    """Return the reset seeds of the first `episode_count` episodes of the series named by `episode_seed` (>= 0).

    Each is a 63-bit hash of its address (episode_seed, episode number), so a longer series begins with the shorter one
    and two series share no episode. Gymnasium's ``reset(seed=...)`` takes them as they are.
    """
    sequences = [np.random.SeedSequence(episode_seed, spawn_key=(episode,)) for episode in range(episode_count)]
    return [int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)) for sequence in sequences]


def evaluate_policy(
    act: Policy,
    environment_id: str,
    *,
    seed_count: int,
    episode_count: int = 10,
    episode_seed: int = 0,
    maximum_steps: int = 1000,
    exact: bool = False,
    threads: int = 1,
) -> EvaluationResult:
    """Play `episode_count` episodes with each of `seed_count` policies, all at once.

    Every seed plays the same episodes, from the same initial states, whatever the number of seeds. Each slot plays
    exactly one episode, so short episodes do not count more often than long ones; finished ones are not stepped.

    Parameters
    ----------
    act
        The policies of S seeds as one function (`Policy`); called once per step with all S × E observations.
    environment_id
        Such as ``"Hopper-v4"``; see `trajmill.evaluation.environments`.
    seed_count, episode_count
        S and E, >= 1. Published results use E = 10.
    episode_seed
        Names the series of episodes, >= 0.
    maximum_steps
        Steps after which an episode is cut, >= 1.
    exact
        Step Gymnasium itself, one environment after another: slower, and equal to the last bit.
    threads
        Threads to simulate on (not with `exact`); results do not depend on it.

    Returns
    -------
    EvaluationResult
        A seed that gives an action with NaN or infinity gets NaN returns and stops; the others play on untouched.

    Raises
    ------
    ValueError
        If a number is out of range, the environment is unknown, or `act` returns the wrong shape.
    ImportError
        If Gymnasium or MuJoCo is absent.
    """
    numbers = {"seed_count": seed_count, "episode_count": episode_count, "maximum_steps": maximum_steps}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    seeds = episode_seeds(episode_seed, episode_count) * seed_count
    simulator: Simulator
    if exact:
        simulator = GymnasiumEnvironments(environment_id, len(seeds))
    else:
        simulator = BatchedEnvironment(environment_id, len(seeds), threads=threads)
    try:
        returns, lengths = _play(act, simulator, seeds, (seed_count, episode_count), maximum_steps)
    finally:
        simulator.close()
    return EvaluationResult(
        environment_id=environment_definition(environment_id).environment_id,
        returns=returns,
        lengths=lengths,
        episode_seed=episode_seed,
        maximum_steps=maximum_steps,
        exact=exact,
        margin_fix=simulator.margin_fix,
        versions=simulator_versions(),
    )


def _play(
    act: Policy, simulator: Simulator, seeds: list[int], shape: tuple[int, int], maximum_steps: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Play one episode in every slot; returns and lengths (S, E). Slot of (seed k, episode e): ``k * E + e``."""
    slot_count, episode_count = len(seeds), shape[1]
    observations = simulator.reset(seeds).astype(np.float32)
    returns, lengths = np.zeros(slot_count), np.zeros(slot_count, np.int64)
    failed = np.zeros(shape[0], np.bool_)
    active = np.arange(slot_count)
    for _ in range(maximum_steps):
        actions = _act(act, observations.reshape(*shape, -1), simulator.definition.action_dim)[active]
        not_finite = ~np.isfinite(actions).all(axis=1)
        failed[active[not_finite] // episode_count] = True
        playing = ~failed[active // episode_count]
        actions, active = actions[playing], active[playing]
        if len(active) > 0:
            result = simulator.step(actions, active)
            observations[active] = result.observation
            returns[active] += result.reward
            lengths[active] += 1
            active = active[~result.terminal]
        if len(active) == 0:
            break
    returns = returns.reshape(shape)
    returns[failed] = np.nan
    return returns, lengths.reshape(shape)


def _act(act: Policy, observations: NDArray[np.float32], action_dim: int) -> NDArray[np.float32]:
    """Ask the policy, check the shape, and flatten the answer to (S * E, A); `act` gets a copy to keep."""
    actions = np.asarray(act(observations.copy()), np.float32)
    needed = (*observations.shape[:2], action_dim)
    if actions.shape != needed:
        raise ValueError(f"the policy must return actions of shape (S, E, A) = {needed}, got {actions.shape}")
    return actions.reshape(-1, action_dim)
