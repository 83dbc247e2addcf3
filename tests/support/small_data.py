"""Small made-up transitions for tests."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from trajmill.training.transitions import TransitionTable


def transitions(count: int = 400, observation_dim: int = 5, action_dim: int = 2) -> SimpleNamespace:
    rng = np.random.default_rng(3)
    return SimpleNamespace(
        observation=rng.normal(size=(count, observation_dim)).astype(np.float32),
        action=rng.uniform(-1, 1, (count, action_dim)).astype(np.float32),
        reward=rng.normal(size=count).astype(np.float32),
        next_observation=rng.normal(size=(count, observation_dim)).astype(np.float32),
        terminal=rng.random(count) < 0.1,
        truncated=np.zeros(count, bool),
    )


def table(dtype: torch.dtype = torch.float64, device: str = "cpu") -> TransitionTable:
    return TransitionTable.of(transitions(), action_limit=0.999, device=torch.device(device), dtype=dtype)
