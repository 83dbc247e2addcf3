"""Forward-dynamics pre-training of CQL's critics on a synthetic MDP (arXiv 2310.00771 and its released code).

Each critic gets a second head that predicts the next state's vector from (s, a): loss = mean over batch and dimensions
of the squared error, summed over the two critics. The scalar value layer receives no gradient and keeps its initial
values; there are no rewards, targets or policies. What can be learned is small: on hopper sizes with 100 states and
actions at temperature 1, predicting zero costs 0.3425, the best constant 0.3394, the true law 0.3391.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.models.critic import critic, join, predicted_observations
from trajmill.models.stack import Stack
from trajmill.training.adam import Adam
from trajmill.training.hyperparameters import at_least, check_seeds, in_range, per_seed
from trajmill.training.metrics import MetricRing
from trajmill.training.philox import Dice, indexes
from trajmill.training.state import prefixed

METRICS = ("loss_critic_1", "loss_critic_2")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardDynamicsConfig:
    """What one pre-training update computes; defaults are the paper's (arXiv 2310.00771 and its released code)."""

    batch_size: int = 256
    """transitions per update and seed, drawn with replacement, at least 1"""
    learning_rate: float | tuple[float, ...] = 3e-4
    """Adam step size, > 0; one for all seeds or one each"""
    orthogonal: bool = False
    """orthogonal instead of torch's default initial values"""

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
        in_range("learning_rate", self.learning_rate, 0.0, math.inf, open_low=True, open_high=True)


@dataclass(frozen=True, slots=True)
class IndexedTransitions:
    """Transitions of a discrete MDP as integers, and the vectors that stand for them; resident on one device."""

    triples: Tensor
    """(N, 3) int32: state, action, next state"""
    state_vectors: Tensor
    """(state_count, O)"""
    action_vectors: Tensor
    """(action_count, A)"""

    @classmethod
    def of(
        cls,
        states: NDArray[np.integer],
        actions: NDArray[np.integer],
        state_vectors: NDArray[np.float32],
        action_vectors: NDArray[np.float32],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> IndexedTransitions:
        """From trajectories: states (trajectories, L + 1), actions (trajectories, L), codebooks of vectors."""
        if states.ndim != 2 or actions.shape != (states.shape[0], states.shape[1] - 1) or actions.size == 0:
            raise ValueError(f"states must be (n, L + 1) and actions (n, L), got {states.shape} and {actions.shape}")
        for name, indices, vectors in (("states", states, state_vectors), ("actions", actions, action_vectors)):
            if indices.min() < 0 or indices.max() >= len(vectors):
                raise ValueError(f"{name} must be in [0, {len(vectors)}), got {indices.min()} to {indices.max()}")
        triples = np.stack([states[:, :-1], actions, states[:, 1:]], -1).reshape(-1, 3).astype(np.int32)
        return cls(
            torch.from_numpy(triples).to(device),
            torch.as_tensor(state_vectors).to(device, dtype),
            torch.as_tensor(action_vectors).to(device, dtype),
        )

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of rows `index` (S, B): observation (S, B, O), action (S, B, A), next observation (S, B, O)."""
        state, action, next_state = self.triples.index_select(0, index.flatten()).unbind(-1)
        return (
            self.state_vectors.index_select(0, state).view(*index.shape, -1),
            self.action_vectors.index_select(0, action).view(*index.shape, -1),
            self.state_vectors.index_select(0, next_state).view(*index.shape, -1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardDynamicsState:
    """Everything an update reads or writes; written in place only."""

    config: ForwardDynamicsConfig
    transitions: IndexedTransitions
    dice: Dice
    step: Tensor
    """int64 scalar: updates made"""
    critic: Stack
    optimizer: Adam
    metrics: MetricRing

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return {
            "step": self.step,
            "metrics": self.metrics.values,
            "critic": self.critic.flat,
        } | prefixed("adam", self.optimizer.moving())


def create(
    config: ForwardDynamicsConfig,
    transitions: IndexedTransitions,
    seeds: Sequence[int],
    *,
    metric_capacity: int = 1000,
) -> ForwardDynamicsState:
    """Fresh critics with dynamics heads, on the transitions' device, in their precision."""
    seeds = check_seeds(seeds)
    device, dtype = transitions.state_vectors.device, transitions.state_vectors.dtype
    observation_dim, action_dim = transitions.state_vectors.shape[1], transitions.action_vectors.shape[1]
    critics = critic(observation_dim, action_dim, seeds, dynamics_head=True, orthogonal=config.orthogonal)
    critics = critics.to(device, dtype)
    rate = per_seed("learning_rate", config.learning_rate, len(seeds), device)
    return ForwardDynamicsState(
        config=config,
        transitions=transitions,
        dice=Dice.of(seeds, {"batch": config.batch_size}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        critic=critics,
        optimizer=Adam.of([critics], [rate.repeat_interleave(2)]),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def step(state: ForwardDynamicsState, count: int = 1) -> None:
    """Make `count` updates of every seed, in place."""
    index = indexes(state.dice.roll(state.step, count)["batch"], len(state.transitions.triples))
    for one in index.unbind(0):
        update(state, one)


def update(state: ForwardDynamicsState, index: Tensor) -> None:
    """One update on the transitions `index` (S, B)."""
    observation, action, next_observation = state.transitions.gather(index)
    predicted = predicted_observations(state.critic.leaves, join(observation, action))
    losses = (predicted - next_observation.unsqueeze(1)).square().mean((2, 3))  # (S, 2)
    state.optimizer.minimize(losses.sum())
    state.metrics.write(state.step, dict(zip(METRICS, losses.detach().unbind(1), strict=True)))
    state.step.add_(1)


def pretrained_critics(
    flat: Tensor, observation_dim: int, action_dim: int, position: int = 0
) -> list[dict[str, Tensor]]:
    """Both critics of one seed with their dynamics heads, as `trajmill.algorithms.cql.load_critic` takes them.

    `flat` (2S, width) is the state's tensor ``"critic"``, from memory or from a checkpoint.
    """
    layout = critic(observation_dim, action_dim, [0], dynamics_head=True)
    if flat.ndim != 2 or flat.shape[1] != layout.flat.shape[1]:
        raise ValueError(
            f"pre-trained critics for {observation_dim} observation and {action_dim} action numbers must have rows of "
            f"{layout.flat.shape[1]}, got shape {tuple(flat.shape)}"
        )
    leaves = layout.like(flat).leaves
    return [{name: leaf[row] for name, leaf in leaves.items()} for row in (2 * position, 2 * position + 1)]
