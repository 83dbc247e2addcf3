"""Batches out of replay buffers, beside the same from NumPy, cpprb, TorchRL and Stable-Baselines3."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.bench import limits
from trajmill.bench.group import Builder, Group, Options
from trajmill.replay import MixedReplay, ReplayBuffer, TrajectoryBuffer

Columns = Mapping[str, NDArray[Any]]
SCHEMA: dict[str, tuple[tuple[int, ...], str]] = {
    "observation": ((17,), "f4"),
    "action": ((6,), "f4"),
    "reward": ((), "f4"),
    "next_observation": ((17,), "f4"),
    "terminal": ((), "?"),
    "truncated": ((), "?"),
}
"""of HalfCheetah and Walker2d"""
ROW_BYTES, STEP_BYTES = 4 * (17 + 6 + 1 + 17) + 2, 4 * (17 + 6 + 1) + 2
"""of a transition, and of a step in a window, which has no next observation"""
EPISODE = 1000
UNIT = "M rows/s"
READS, LOOKUPS, WRITES = "memory reads", "a look-up a row", "memory writes"


def groups(options: Options) -> list[Builder]:
    """Small and large batches, mixtures, priorities, windows, adding."""
    return [*(partial(uniform, size) for size in (256, 4096, 65_536)), mixed, prioritized, windows, adding]


@lru_cache(maxsize=2)
def transitions(seed: int, count: int) -> dict[str, NDArray[Any]]:
    """Random rows, with episodes that a limit cuts."""
    random = np.random.default_rng(seed)
    columns: dict[str, NDArray[Any]] = {
        name: random.standard_normal((count, *shape), np.float32) for name, (shape, _) in SCHEMA.items()
    }
    columns["terminal"] = np.zeros(count, bool)
    columns["truncated"] = np.arange(count) % EPISODE == EPISODE - 1
    return columns


def filled(columns: Columns, **options: Any) -> ReplayBuffer:
    """A full buffer."""
    buffer = ReplayBuffer(len(columns["reward"]), SCHEMA, seed=0, **options)
    buffer.add(**columns)
    return buffer


def reusing(source: Any, batch_size: int) -> Callable[[], object]:
    """Draws into the same batch again."""
    batch = source.sample(batch_size)
    return lambda: source.sample(batch_size, out=batch)


def add_limits(group: Group, options: Options) -> tuple[str, str]:
    """All rows read in order, and a look-up for each row: whoever draws at random makes both, and more of them."""
    work, amount = limits.memory_reads(options.rows * ROW_BYTES)
    group.limit(READS, work, amount / ROW_BYTES)
    group.limit(LOOKUPS, *limits.lookups(options.rows * ROW_BYTES))
    return READS, LOOKUPS


def uniform(batch_size: int, options: Options, stack: ExitStack) -> Group:
    """Uniform draws."""
    columns = transitions(0, options.rows)
    group = Group(f"uniform, batch {batch_size:,} of {options.rows:,} rows", UNIT, 1e-6)
    group.ours("trajmill", reusing(filled(columns), batch_size), batch_size, limits=(READS, LOOKUPS))
    group.peer("NumPy, an index a column", lambda: numpy_indexing(columns, batch_size), batch_size)
    group.peer("cpprb", lambda: cpprb(columns, batch_size), batch_size, needs=("cpprb",))
    group.peer("TorchRL", lambda: torchrl(columns, batch_size), batch_size, needs=("torchrl",))
    group.peer(
        "Stable-Baselines3", lambda: stable_baselines3(columns, batch_size), batch_size, needs=("stable-baselines3",)
    )
    add_limits(group, options)
    return group


def mixed(options: Options, stack: ExitStack) -> Group:
    """Two buffers, half of each batch from each."""
    real, other = transitions(0, options.rows), transitions(1, options.rows)
    group = Group(f"half real, half synthetic, batch 256 of 2 x {options.rows:,} rows", UNIT, 1e-6)
    mixture = MixedReplay({"real": (filled(real), 0.5), "synthetic": (filled(other), 0.5)})
    group.ours("trajmill", reusing(mixture, 256), 256, limits=(READS, LOOKUPS))
    group.peer("NumPy, an index a column", lambda: numpy_mixture(real, other, 256), 256)
    group.peer("TorchRL, an ensemble", lambda: torchrl_ensemble(real, other, 256), 256, needs=("torchrl",))
    add_limits(group, options)
    return group


def prioritized(options: Options, stack: ExitStack) -> Group:
    """A prioritized draw, then new priorities of its rows."""
    columns = transitions(0, options.rows)
    buffer, priorities = filled(columns, prioritized=True), np.random.default_rng(2).random(256, np.float32)
    batch = buffer.sample(256)

    def sample_and_update() -> None:
        buffer.sample(256, out=batch)
        buffer.update_priorities(batch["indexes"], priorities)

    group = Group(f"prioritized, draw and update, batch 256 of {options.rows:,} rows", UNIT, 1e-6)
    group.ours("trajmill", sample_and_update, 256, limits=(READS, LOOKUPS))
    group.peer("cpprb", lambda: cpprb_prioritized(columns, 256, priorities), 256, needs=("cpprb",))
    add_limits(group, options)
    return group


def windows(options: Options, stack: ExitStack) -> Group:
    """Windows of 20 steps, as a Decision Transformer reads them."""
    columns, length, batch_size = transitions(0, options.rows), 20, 64
    steps: dict[str, Any] = {
        name: columns[name] for name in ("observation", "action", "reward", "terminal", "truncated")
    }
    buffer = TrajectoryBuffer(**steps, context_length=length, seed=0)
    group = Group(f"windows of {length} steps, batch {batch_size} of {options.rows:,} rows", UNIT, 1e-6)
    # the rows of a window lie side by side, so that look-ups are no limit
    work, amount = limits.memory_reads(options.rows * STEP_BYTES)
    group.ours("trajmill", reusing(buffer, batch_size), batch_size * length, limits=(READS,))
    group.peer("NumPy, a slice a window", lambda: numpy_windows(steps, batch_size, length), batch_size * length)
    group.limit(READS, work, amount / STEP_BYTES)
    return group


def adding(options: Options, stack: ExitStack) -> Group:
    """A thousand rows at a time into a full buffer."""
    columns = transitions(0, options.rows)
    batch = {name: array[:1000] for name, array in columns.items()}
    buffer = filled(columns)
    group = Group(f"adding 1,000 rows to {options.rows:,}", UNIT, 1e-6)
    group.ours("trajmill", lambda: buffer.add(**batch), len(batch["reward"]), limits=(WRITES,))
    group.peer("cpprb", lambda: cpprb_add(columns, batch), len(batch["reward"]), needs=("cpprb",))
    work, amount = limits.memory_writes(stack, np.zeros(options.rows * ROW_BYTES, np.uint8))
    group.limit(WRITES, work, amount / ROW_BYTES)
    return group


# --- peers, each set up as its own documentation shows, on one thread -------------------------------------------------


def numpy_indexing(columns: Columns, batch_size: int) -> limits.Call:
    """Six arrays, one fancy index each."""
    random, count = np.random.default_rng(0), len(columns["reward"])

    def sample() -> dict[str, NDArray[Any]]:
        indexes = random.integers(count, size=batch_size)
        return {name: array[indexes] for name, array in columns.items()}

    return sample


def numpy_mixture(real: Columns, synthetic: Columns, batch_size: int) -> limits.Call:
    """Half a batch of each, put together column by column."""
    one, other = (numpy_indexing(columns, batch_size // 2) for columns in (real, synthetic))

    def sample() -> dict[str, NDArray[Any]]:
        first: Any = one()
        second: Any = other()
        return {name: np.concatenate([first[name], second[name]]) for name in first}

    return sample


def numpy_windows(columns: Columns, batch_size: int, length: int) -> limits.Call:
    """A slice of each array a window, padded in front where an episode has begun, then stacked."""
    random, count = np.random.default_rng(0), len(columns["reward"])
    begins = np.arange(count) // EPISODE * EPISODE

    def window(array: NDArray[Any], end: int) -> NDArray[Any]:
        part = array[max(begins[end], end + 1 - length) : end + 1]
        return np.concatenate([np.zeros((length - len(part), *array.shape[1:]), array.dtype), part])

    def sample() -> dict[str, NDArray[Any]]:
        ends = random.integers(count, size=batch_size)
        return {name: np.stack([window(array, end) for end in ends]) for name, array in columns.items()}

    return sample


def _cpprb_buffer(columns: Columns, kind: str = "ReplayBuffer", **options: Any) -> Any:
    import cpprb

    schema = {name: {"shape": array.shape[1:] or 1, "dtype": array.dtype} for name, array in columns.items()}
    buffer = getattr(cpprb, kind)(len(columns["reward"]), schema, **options)
    buffer.add(**columns)
    return buffer


def cpprb(columns: Columns, batch_size: int) -> limits.Call:
    """Uniform draws of cpprb."""
    buffer = _cpprb_buffer(columns)
    return lambda: buffer.sample(batch_size)


def cpprb_add(columns: Columns, batch: Columns) -> limits.Call:
    """Adding a batch to a full buffer of cpprb."""
    buffer = _cpprb_buffer(columns)
    return lambda: buffer.add(**batch)


def cpprb_prioritized(columns: Columns, batch_size: int, priorities: NDArray[np.float32]) -> limits.Call:
    """Sample, then update; `priorities` (batch_size,) float32."""
    buffer = _cpprb_buffer(columns, "PrioritizedReplayBuffer", alpha=0.6)

    def sample_and_update() -> None:
        batch = buffer.sample(batch_size, beta=0.4)
        buffer.update_priorities(batch["indexes"], priorities)

    return sample_and_update


def _torchrl_buffer(columns: Columns, batch_size: int) -> Any:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    logging.getLogger("torchrl").setLevel(logging.ERROR)
    count = len(columns["reward"])
    buffer = ReplayBuffer(storage=LazyTensorStorage(count), batch_size=batch_size)
    buffer.extend(TensorDict({name: torch.from_numpy(array) for name, array in columns.items()}, batch_size=[count]))
    return buffer


def torchrl(columns: Columns, batch_size: int) -> limits.Call:
    """Uniform draws of TorchRL."""
    return _torchrl_buffer(columns, batch_size).sample  # type: ignore[no-any-return]


def torchrl_ensemble(real: Columns, synthetic: Columns, batch_size: int) -> limits.Call:
    """Half of each batch from each of two buffers of TorchRL."""
    from torchrl.data import ReplayBufferEnsemble

    halves = [_torchrl_buffer(columns, batch_size // 2) for columns in (real, synthetic)]
    return ReplayBufferEnsemble(*halves, p=[0.5, 0.5], batch_size=batch_size).sample  # type: ignore[no-any-return]


def stable_baselines3(columns: Columns, batch_size: int) -> limits.Call:
    """Uniform draws of Stable-Baselines3, which gives torch's tensors."""
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer

    count = len(columns["reward"])
    spaces: Any = [Box(-np.inf, np.inf, columns[name].shape[1:]) for name in ("observation", "action")]
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
