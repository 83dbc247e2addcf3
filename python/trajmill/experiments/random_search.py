"""Augmented random search: linear policies from nothing but the returns of perturbed ones. NumPy only.

H. Mania, A. Guy, B. Recht, "Simple random search provides a competitive approach to reinforcement learning", NeurIPS
2018, arXiv:1803.07055; algorithm 2, variant V2-t: observations are whitened by the statistics of all observations seen,
and only the best directions count. As the paper does, the reward for being alive is left out of the returns that guide
the search. One deviation: all policies of an iteration play from the same initial state, which takes noise out of their
differences.

Deterministic on one machine: sums run row by row, so no number depends on how many policies act at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmill.data.environments import Task

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ARSConfig:
    """Settings of one environment; symbols are the paper's."""

    direction_count: int = 8
    """N: directions tried per iteration, each forwards and backwards, at least 1"""
    top_direction_count: int = 4
    """b: how many of the best directions the step follows, 1 to N"""
    step_size: float = 0.02
    """alpha, > 0"""
    perturbation: float = 0.025
    """nu: size of the perturbations, > 0"""
    episode_length: int = 1000
    """H: steps of an episode in the search, at least 1"""
    survival_bonus: float = 0.0
    """part of each step's reward that only rewards being alive, and that the search leaves out"""

    def __post_init__(self) -> None:
        if not 1 <= self.top_direction_count <= self.direction_count:
            counts = f"{self.top_direction_count} and {self.direction_count}"
            raise ValueError(f"top_direction_count must be 1 to direction_count, got {counts}")
        if self.episode_length < 1:
            raise ValueError(f"episode_length must be at least 1, got {self.episode_length}")
        if not (self.step_size > 0 and self.perturbation > 0):
            raise ValueError(f"step_size and perturbation must be > 0, got {self.step_size} and {self.perturbation}")


CONFIGS = {
    "Hopper-v4": ARSConfig(survival_bonus=1.0),
    "HalfCheetah-v4": ARSConfig(direction_count=16, top_direction_count=8, perturbation=0.03, episode_length=400),
    "Walker2d-v4": ARSConfig(direction_count=40, top_direction_count=30, step_size=0.03, survival_bonus=1.0),
    "Ant-v4": ARSConfig(direction_count=60, top_direction_count=20, step_size=0.015, survival_bonus=1.0),
    "InvertedPendulum-v4": ARSConfig(step_size=0.1, perturbation=0.1),
}
"""Settings known to work, by `Task.environment_id`; Walker2d's and Ant's are the paper's and need millions of steps."""


def config_of(task: Task) -> ARSConfig:
    """The settings of a task; of one that nobody has tried the defaults, with its own limit of an episode."""
    return CONFIGS.get(task.environment_id) or ARSConfig(episode_length=task.episode_limit)


class LinearPolicies:
    """S policies ``action = matrix @ ((observation - mean) / deviation)``, one per seed of an evaluation.

    Parameters
    ----------
    matrix
        (S, A, O).
    mean, deviation
        (S, O), or (O,) for all; a dimension of deviation zero is left out.
    """

    def __init__(self, matrix: Float64Array, mean: Float64Array, deviation: Float64Array) -> None:
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        mean, scale = (np.broadcast_to(values, (len(matrix), matrix.shape[2])) for values in (mean, scale))
        self._weights = (matrix * scale[:, None])[:, None]  # (S, 1, A, O)
        self._mean = mean[:, None]  # (S, 1, O)

    def __call__(self, observations: Float32Array, /) -> Float32Array:
        """Observations (S, E, O) to actions (S, E, A)."""
        actions: Float64Array = (self._weights * (observations - self._mean)[:, :, None]).sum(axis=3)
        return actions.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and spread of the observations seen."""

    count: int
    mean: Float64Array  # (O,)
    squares: Float64Array  # (O,) sum of squared distances from the mean

    @classmethod
    def of(cls, observations: Float32Array) -> Moments:
        """Moments of observations (B, O), B >= 1."""
        values = observations.astype(np.float64)
        mean = values.mean(axis=0)
        return cls(count=len(values), mean=mean, squares=np.square(values - mean).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of observations together (Chan, Golub, LeVeque 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + step * (other.count / count),
            squares=self.squares + other.squares + np.square(step) * (self.count * other.count / count),
        )

    def deviation(self) -> Float64Array:
        """Standard deviation (O,); one before there are two observations, zero where they hardly differ."""
        if self.count < 2:
            return np.ones_like(self.mean)
        deviation: Float64Array = np.sqrt(self.squares / (self.count - 1))
        deviation[deviation < 1e-7] = 0.0
        return deviation


class ObservationMoments:
    """Policies that keep the moments of the observations of all episodes still played (an `EpisodicPolicy`)."""

    def __init__(self, policies: Callable[[Float32Array], Float32Array], moments: Moments) -> None:
        self._policies = policies
        self.moments = moments

    def start(self, seed_count: int, episode_count: int) -> None:
        """All episodes begin."""
        self._playing = np.ones((seed_count, episode_count), np.bool_)

    def __call__(self, observations: Float32Array, /) -> Float32Array:
        """Observations (S, E, O) to actions (S, E, A)."""
        self.moments = self.moments + Moments.of(observations[self._playing])
        return self._policies(observations)

    def observe(self, rewards: Float32Array, playing: NDArray[np.bool_]) -> None:
        """Note which episodes go on."""
        self._playing = playing


@dataclass(frozen=True, slots=True, kw_only=True)
class ARSState:
    """Where the search stands."""

    matrix: Float64Array  # (A, O)
    moments: Moments
    iteration: int
    environment_steps: int

    def policies(self) -> LinearPolicies:
        """The policy found so far, S = 1."""
        return LinearPolicies(self.matrix[None], self.moments.mean, self.moments.deviation())


def create(observation_dim: int, action_dim: int) -> ARSState:
    """The search begins at the policy that does nothing."""
    zeros = np.zeros(observation_dim)
    return ARSState(
        matrix=np.zeros((action_dim, observation_dim)),
        moments=Moments(count=0, mean=zeros, squares=zeros),
        iteration=0,
        environment_steps=0,
    )


def draw_directions(state: ARSState, config: ARSConfig, seed: int) -> Float64Array:
    """Standard normal directions (N, A, O) of the next iteration, addressed by seed and iteration."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(state.iteration,)))
    return generator.standard_normal((config.direction_count, *state.matrix.shape))


def perturbed_policies(state: ARSState, config: ARSConfig, directions: Float64Array) -> LinearPolicies:
    """The 2N policies of an iteration: all directions forwards, then all backwards."""
    offsets = config.perturbation * np.concatenate((directions, -directions))
    return LinearPolicies(state.matrix + offsets, state.moments.mean, state.moments.deviation())


def update(
    state: ARSState,
    config: ARSConfig,
    directions: Float64Array,
    returns: Float64Array,
    lengths: NDArray[np.int64],
    moments: Moments,
) -> ARSState:
    """Step along the best directions, weighted by their differences of returns (line 7 of algorithm 2).

    Parameters
    ----------
    directions
        (N, A, O) of `draw_directions`.
    returns, lengths
        (2N,) return and number of steps of each of `perturbed_policies`.
    moments
        Of all observations so far, as `ObservationMoments` keeps them.
    """
    forwards, backwards = (returns - config.survival_bonus * lengths).reshape(2, -1)
    top = np.argsort(-np.maximum(forwards, backwards), kind="stable")[: config.top_direction_count]
    deviation = np.concatenate((forwards[top], backwards[top])).std()
    matrix = state.matrix
    if deviation > 0:  # else the returns say nothing
        differences = (forwards - backwards)[top]
        step = (differences[:, None, None] * directions[top]).sum(axis=0)
        matrix = matrix + config.step_size / (config.top_direction_count * deviation) * step
    return ARSState(
        matrix=matrix,
        moments=moments,
        iteration=state.iteration + 1,
        environment_steps=state.environment_steps + int(lengths.sum()),
    )
