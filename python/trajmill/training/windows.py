"""Whole episodes kept on the training device; windows of steps are gathered there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
    def of(cls, pairs: Mapping[str, NDArray[Any]], *, device: torch.device, dtype: torch.dtype) -> WindowTable:
        """From the windows of two steps that begin at every step, in order.

        `pairs` is what a `TrajectoryBuffer` with ``context_length=2`` makes of them: its options, normalization and
        padding are those of the windows here, of any length.
        """
        alone = ~pairs["mask"][:, 0]  # the last step of an episode has a padded one before it
        if not alone[-1]:
            raise ValueError("pairs must hold the windows of all steps of whole episodes")
        every, padded = np.arange(len(alone)), (np.array([len(alone) - 1]), np.array([0]))

        def steps(name: str) -> NDArray[Any]:
            return np.concatenate([pairs[name][every, alone.astype(np.intp)], pairs[name][padded]])

        columns = [steps("observation"), steps("action"), steps("return_to_go")[:, None]]
        ends = np.flatnonzero(alone) + 1
        return cls(
            rows=torch.from_numpy(np.concatenate(columns, 1)).to(device, dtype),
            timestep=torch.from_numpy(steps("timestep")).to(device),
            end=torch.from_numpy(ends[np.searchsorted(ends, every, side="right")]).to(device),
            observation_dim=pairs["observation"].shape[2],
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
