"""Forward-dynamics pre-training of CQL's critics on a synthetic MDP (arXiv 2310.00771 and its released code).

Each critic gets a second head that predicts the next state's vector from (s, a): loss = mean over batch and dimensions
of the squared error, summed over the two critics. The scalar value layer receives no gradient and keeps its initial
values; there are no rewards, targets or policies. What can be learned is small: on hopper sizes with 100 states and
actions at temperature 1, predicting zero costs 0.3425, the best constant 0.3394, the true law 0.3391.

The paper's controls (appendices F and J) predict a pair's vectors, concat(s, a), instead: of the pair itself (identity)
or of the pair a fixed map makes of it (mapping).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.models.critic import critic, predictions
from trajmill.models.stack import Stack
from trajmill.training.adam import Adam
from trajmill.training.hyperparameters import at_least, check_seeds, in_range, per_seed
from trajmill.training.metrics import MetricRing
from trajmill.training.philox import Draws, indexes
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


PairMap = Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]
"""states and actions of one shape -> states and actions of that shape"""


@dataclass(frozen=True, slots=True)
class IndexedTransitions:
    """Transitions of a discrete MDP as integers, and the vectors that stand for them; resident on one device."""

    rows: Tensor
    """int32 (N, 3): state, action, next state; or (N, 4): state, action, and the state and action to predict"""
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
        target: PairMap | None = None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> IndexedTransitions:
        """From trajectories: states (trajectories, L + 1), actions (trajectories, L), codebooks of vectors.

        `target` makes of all pairs (s, a) the pairs to predict; without it the next state is predicted.
        """
        if states.ndim != 2 or actions.shape != (states.shape[0], states.shape[1] - 1) or actions.size == 0:
            raise ValueError(f"states must be (n, L + 1) and actions (n, L), got {states.shape} and {actions.shape}")
        for name, indices, vectors in (("states", states, state_vectors), ("actions", actions, action_vectors)):
            if indices.min() < 0 or indices.max() >= len(vectors):
                raise ValueError(f"{name} must be in [0, {len(vectors)}), got {indices.min()} to {indices.max()}")
        predicted = (states[:, 1:],) if target is None else target(states[:, :-1], actions)
        columns = [column.astype(np.int32).ravel() for column in (states[:, :-1], actions, *predicted)]
        return cls(
            torch.from_numpy(np.stack(columns, -1)).to(device),
            torch.as_tensor(state_vectors).to(device, dtype),
            torch.as_tensor(action_vectors).to(device, dtype),
        )

    @property
    def predicted_dim(self) -> int:
        """Numbers to predict: O, or O + A for a pair."""
        return self.state_vectors.shape[1] + (self.action_vectors.shape[1] if self.rows.shape[1] == 4 else 0)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of rows `index` (S, B): concat(s, a) (S, B, O + A) and what to predict (S, B, `predicted_dim`)."""
        state, action, *predicted = self.rows.index_select(0, index.flatten()).unbind(-1)
        columns = (self._vectors(state, action), self._vectors(*predicted))
        inputs, target = (column.view(*index.shape, -1) for column in columns)
        return inputs, target

    def _vectors(self, state: Tensor, action: Tensor | None = None) -> Tensor:
        """Vectors of states, or of pairs: (n,) -> (n, O) or (n, O + A)."""
        found = self.state_vectors.index_select(0, state)
        return found if action is None else torch.cat([found, self.action_vectors.index_select(0, action)], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardDynamicsState:
    """Everything an update reads or writes; written in place only."""

    config: ForwardDynamicsConfig
    transitions: IndexedTransitions
    draws: Draws
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
    critics = critic(
        observation_dim, action_dim, seeds, predicted_dim=transitions.predicted_dim, orthogonal=config.orthogonal
    )
    critics = critics.to(device, dtype)
    rate = per_seed("learning_rate", config.learning_rate, len(seeds), device)
    return ForwardDynamicsState(
        config=config,
        transitions=transitions,
        draws=Draws.of(seeds, {"batch": config.batch_size}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        critic=critics,
        optimizer=Adam.of([critics], [rate.repeat_interleave(2)]),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def step(state: ForwardDynamicsState, count: int = 1) -> None:
    """Make `count` updates of every seed, in place."""
    index = indexes(state.draws.words(state.step, count)["batch"], len(state.transitions.rows))
    for one in index.unbind(0):
        update(state, one)


def update(state: ForwardDynamicsState, index: Tensor) -> None:
    """One update on the transitions `index` (S, B)."""
    inputs, target = state.transitions.gather(index)
    losses = (predictions(state.critic.parameters, inputs) - target.unsqueeze(1)).square().mean((2, 3))  # (S, 2)
    state.optimizer.minimize(losses.sum())
    state.metrics.write(state.step, dict(zip(METRICS, losses.detach().unbind(1), strict=True)))
    state.step.add_(1)


def pretrained_critics(
    flat: Tensor, observation_dim: int, action_dim: int, predicted_dim: int, position: int = 0
) -> list[dict[str, Tensor]]:
    """Both critics of one seed with their second heads, as `trajmill.algorithms.cql.load_critic` takes them.

    `flat` (2S, width) is the state's tensor ``"critic"``, from memory or from a checkpoint.
    """
    layout = critic(observation_dim, action_dim, [0], predicted_dim=predicted_dim)
    if flat.ndim != 2 or flat.shape[1] != layout.flat.shape[1]:
        raise ValueError(
            f"pre-trained critics for {observation_dim} observation and {action_dim} action numbers that predict "
            f"{predicted_dim} must have rows of {layout.flat.shape[1]}, got shape {tuple(flat.shape)}"
        )
    parameters = layout.like(flat).parameters
    return [
        {name: parameter[row] for name, parameter in parameters.items()} for row in (2 * position, 2 * position + 1)
    ]
