"""Transitions kept on the training device as one packed row matrix: one gather makes a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TransitionArrays(Protocol):
    """The columns `trajmill.data.qlearning_transitions` gives, N rows each."""

    @property
    def observation(self) -> NDArray[np.float32]:
        """(N, O)."""

    @property
    def action(self) -> NDArray[np.float32]:
        """(N, A)."""

    @property
    def reward(self) -> NDArray[np.float32]:
        """(N,)."""

    @property
    def next_observation(self) -> NDArray[np.float32]:
        """(N, O)."""

    @property
    def terminal(self) -> NDArray[np.bool_]:
        """(N,)."""


@dataclass(frozen=True, slots=True)
class TransitionBatch:
    """One batch per seed."""

    observation: Tensor  # (S, B, O)
    action: Tensor  # (S, B, A)
    reward: Tensor  # (S, B)
    terminal: Tensor  # (S, B), 0.0 or 1.0
    next_observation: Tensor  # (S, B, O)


@dataclass(frozen=True, slots=True)
class TransitionTable:
    """All transitions of one data set on one device."""

    rows: Tensor
    """(N, O + A + 2 + O): observation, action, reward, terminal, next observation"""
    observation_dim: int
    action_dim: int
    greatest_reward: float

    @classmethod
    def of(
        cls, transitions: TransitionArrays, *, action_limit: float, device: torch.device, dtype: torch.dtype
    ) -> TransitionTable:
        """Pack the columns, with actions clipped to ±`action_limit`."""
        if len(transitions.reward) == 0:
            raise ValueError("training needs at least one transition, got none")
        columns = [
            transitions.observation,
            np.clip(transitions.action, -action_limit, action_limit),
            transitions.reward[:, None],
            transitions.terminal[:, None],
            transitions.next_observation,
        ]
        rows = torch.cat([torch.as_tensor(np.asarray(column)).to(dtype) for column in columns], 1)
        if not torch.isfinite(rows).all():
            bad = int((~torch.isfinite(rows)).any(1).nonzero()[0])
            raise ValueError(f"transition {bad} holds NaN or infinity; clean the data set first")
        return cls(
            rows=rows.to(device),
            observation_dim=transitions.observation.shape[1],
            action_dim=transitions.action.shape[1],
            greatest_reward=float(transitions.reward.max()),
        )

    def gather(self, index: Tensor) -> TransitionBatch:
        """Rows `index` (S, B) int64."""
        rows = self.rows.index_select(0, index.flatten()).view(*index.shape, -1)
        o, a = self.observation_dim, self.action_dim
        observation, action, reward, terminal, next_observation = torch.split(rows, [o, a, 1, 1, o], -1)
        return TransitionBatch(observation, action, reward[..., 0], terminal[..., 0], next_observation)
