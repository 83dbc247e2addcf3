"""Peers of the replay buffer, each set up as its own documentation shows, on one thread.

Every peer is a function that takes the columns of a data set and gives a call to be timed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import windows_twin

Columns = Mapping[str, np.ndarray]
Call = Callable[[], Any]


def numpy_indexing(columns: Columns, batch_size: int) -> Call:
    """Five or six arrays, one fancy index each."""
    random = np.random.default_rng(0)
    count = len(columns["reward"])

    def sample() -> dict[str, np.ndarray]:
        indexes = random.integers(count, size=batch_size)
        return {name: array[indexes] for name, array in columns.items()}

    return sample


def _cpprb_buffer(columns: Columns, kind: str = "ReplayBuffer", **options: Any) -> Any:
    import cpprb

    schema = {name: {"shape": array.shape[1:] or 1, "dtype": array.dtype} for name, array in columns.items()}
    buffer = getattr(cpprb, kind)(len(columns["reward"]), schema, **options)
    buffer.add(**columns)
    return buffer


def cpprb(columns: Columns, batch_size: int) -> Call:
    buffer = _cpprb_buffer(columns)
    return lambda: buffer.sample(batch_size)


def cpprb_add(columns: Columns, batch: Columns) -> Call:
    buffer = _cpprb_buffer(columns)
    return lambda: buffer.add(**batch)


def cpprb_prioritized(columns: Columns, batch_size: int, priorities: np.ndarray) -> Call:
    """Sample, then update; `priorities` (batch_size,) float32."""
    buffer = _cpprb_buffer(columns, "PrioritizedReplayBuffer", alpha=0.6)

    def sample_and_update() -> None:
        batch = buffer.sample(batch_size, beta=0.4)
        buffer.update_priorities(batch["indexes"], priorities)

    return sample_and_update


def _torchrl_buffer(columns: Columns, batch_size: int) -> Any:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    logging.getLogger("torchrl").setLevel(logging.ERROR)
    count = len(columns["reward"])
    buffer = ReplayBuffer(storage=LazyTensorStorage(count), batch_size=batch_size)
    buffer.extend(TensorDict({name: torch.from_numpy(array) for name, array in columns.items()}, batch_size=[count]))
    return buffer


def torchrl(columns: Columns, batch_size: int) -> Call:
    return _torchrl_buffer(columns, batch_size).sample


def torchrl_ensemble(real: Columns, synthetic: Columns, batch_size: int) -> Call:
    from torchrl.data import ReplayBufferEnsemble

    halves = [_torchrl_buffer(columns, batch_size // 2) for columns in (real, synthetic)]
    return ReplayBufferEnsemble(*halves, p=[0.5, 0.5], batch_size=batch_size).sample


def stable_baselines3(columns: Columns, batch_size: int) -> Call:
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer

    count = len(columns["reward"])
    spaces = [Box(-np.inf, np.inf, columns[name].shape[1:]) for name in ("observation", "action")]
    buffer = ReplayBuffer(count, *spaces, device="cpu")
    for name, array in (
        ("observations", columns["observation"]),
        ("actions", columns["action"]),
        ("next_observations", columns["next_observation"]),
        ("rewards", columns["reward"]),
        ("dones", columns["terminal"] | columns["truncated"]),
        ("timeouts", columns["truncated"]),
    ):
        getattr(buffer, name)[:, 0] = array  # filling it step by step takes minutes
    buffer.full = True
    return lambda: buffer.sample(batch_size)


def looped_windows(columns: Columns, batch_size: int, context_length: int) -> Call:
    """Windows of steps by the released Python loop."""
    episodes = windows_twin.split(columns)
    chosen, moments = windows_twin.select(episodes), windows_twin.mean_and_deviation(episodes)
    random = np.random.default_rng(0)

    def sample() -> dict[str, np.ndarray]:
        choices = windows_twin.draw(episodes, chosen, batch_size, random)
        return windows_twin.windows(episodes, choices, context_length, *moments, flags=())

    return sample
