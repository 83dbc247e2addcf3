"""Whole episodes kept on the training device; windows of steps are gathered there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PADDING_ACTION = -10.0
"""action of a padded step in the released code (arXiv 2310.00771; Chen et al. 2021)"""


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows of K steps, padded on the left; one batch per seed."""

    observation: Tensor  # (S, B, K, O), normalized
    action: Tensor  # (S, B, K, A)
    return_to_go: Tensor  # (S, B, K), scaled
    timestep: Tensor  # (S, B, K) int64, 0 to timestep_limit - 1
    mask: Tensor  # (S, B, K) bool: there is a step


@dataclass(frozen=True, slots=True)
class WindowTable:
    """Steps of whole episodes, one after another; the windows of arXiv 2310.00771's Decision Transformer.

    Every step begins a window of up to K steps of its episode: drawing a step uniformly is drawing an episode in
    proportion to its length and a start within it uniformly, as the released code does.
    """

    rows: Tensor
    """(N + 1, O + A + 1): observation, action, return-to-go; the last row is a padded step"""
    timestep: Tensor
    """(N + 1,) int64"""
    end: Tensor
    """(N,) int64: row after the last one of a step's episode"""
    observation_dim: int

    @classmethod
    def of(
        cls,
        observations: NDArray[np.float32],
        actions: NDArray[np.float32],
        rewards: NDArray[np.float32],
        lengths: Sequence[int],
        *,
        mean: NDArray[np.float32],
        deviation: NDArray[np.float32],
        return_scale: float,
        timestep_limit: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> WindowTable:
        """From episodes of the given lengths, one after another; observations become (o - mean) / deviation.

        A padded step has the observation 0 before normalization, the action -10, return-to-go and timestep 0; returns
        are sums of all later rewards divided by `return_scale`; timesteps stop at `timestep_limit` - 1.
        """
        count = len(rewards)
        if count == 0 or sum(lengths) != count or min(lengths) < 1:
            raise ValueError(f"lengths must be >= 1 and add up to the {count} > 0 steps, got {sum(lengths)}")
        bounds = np.cumsum([0, *lengths])
        returns = np.concatenate([rewards[a:b].astype(np.float64)[::-1].cumsum()[::-1] for a, b in pairwise(bounds)])
        timestep = np.minimum(np.arange(count) - np.repeat(bounds[:-1], lengths), timestep_limit - 1)
        width = observations.shape[1] + actions.shape[1] + 1
        rows = np.zeros((count + 1, width), np.float64)
        rows[:count, : observations.shape[1]] = observations
        rows[:, : observations.shape[1]] = (rows[:, : observations.shape[1]] - mean) / deviation
        rows[:count, observations.shape[1] : -1] = actions
        rows[count, observations.shape[1] : -1] = PADDING_ACTION
        rows[:count, -1] = returns / return_scale
        if not np.isfinite(rows).all():
            raise ValueError(f"step {int((~np.isfinite(rows)).any(1).argmax())} holds NaN or infinity; clean the data")
        return cls(
            rows=torch.from_numpy(rows).to(device, dtype),
            timestep=torch.from_numpy(np.append(timestep, 0)).to(device),
            end=torch.from_numpy(np.repeat(bounds[1:], lengths)).to(device),
            observation_dim=observations.shape[1],
        )

    def __len__(self) -> int:
        """Number of steps N."""
        return len(self.end)

    @property
    def action_dim(self) -> int:
        """How many numbers an action has."""
        return self.rows.shape[1] - self.observation_dim - 1

    def gather(self, start: Tensor, length: int) -> WindowBatch:
        """Windows of up to `length` steps from the steps `start` (S, B) int64 on."""
        place = torch.arange(length, device=start.device)
        taken = (self.end[start] - start).clamp_(max=length)
        mask = place >= length - taken[..., None]
        index = torch.where(mask, start[..., None] + place - (length - taken[..., None]), len(self))
        rows = self.rows[index]
        return WindowBatch(
            observation=rows[..., : self.observation_dim],
            action=rows[..., self.observation_dim : -1],
            return_to_go=rows[..., -1],
            timestep=self.timestep[index],
            mask=mask,
        )
