"""What is measured of a method: made-up data of the paper's shapes, ours, and batches for its peers.

All of it comes from the contract of `trajmill.algorithms`, so that a method file that is dropped in is measured too.
Data are random, never zeros: arithmetic on zeros draws less power, and may run faster than real data will.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import peers_of
from torch import Tensor

from trajmill.algorithms import learns_online, method_named
from trajmill.core.progress import silent
from trajmill.data import Dataset, qlearning_transitions
from trajmill.replay.tables import TransitionRows, table_of
from trajmill.replay.token_table import TokenRows
from trajmill.training.settings import decaying

ENVIRONMENT, OBSERVATION, ACTION = "HalfCheetah-v4", 17, 6  # Walker2d's sizes too
EPISODES = {"paper": (1000, 1000), "small": (20, 1000), "tiny": (20, 50)}
"""size -> episodes of the made-up dataset, and their steps; tiny also takes the method's `SMALL` settings"""
STORED_SEQUENCES = 4096


def made_up(size: str) -> Dataset:
    """Random steps; every second episode ends by a limit."""
    episodes, length = EPISODES[size]
    random, count = np.random.default_rng(0), episodes * length
    ends, cut = np.arange(count) % length == length - 1, np.arange(count) // length % 2 == 1
    observations, following = (random.standard_normal((count, OBSERVATION), np.float32) for _ in range(2))
    following[:-1][~ends[:-1]] = observations[1:][~ends[:-1]]  # inside episodes the next row
    return Dataset(
        name="made-up",
        path=Path("made-up"),
        observations=observations,
        actions=random.uniform(-0.99, 0.99, (count, ACTION)).astype(np.float32),
        rewards=random.standard_normal(count, np.float32),
        terminals=ends & ~cut,
        timeouts=ends & cut,
        next_observations=following,
    )


class Workload:
    """One method at one size: "paper", "small" (what a CPU does in seconds) or "tiny" (for tests)."""

    def __init__(self, name: str, size: str) -> None:
        self.name, self.size, self.method, self.peers = name, size, method_named(name), peers_of(name)
        config = self.method.SMALL if size == "tiny" else self.method.Config()
        if size == "small":
            config = replace(config, **self.offered("SMALL_SIZE", {}))
        makes_data = hasattr(self.method, "generate")
        self.dataset = None if makes_data else made_up(size)
        if hasattr(self.method, "adapt"):
            config = self.method.adapt(config, self.dataset, None if makes_data else ENVIRONMENT)
        self.config = config = decaying(config, self.method.SCHEDULE)
        if makes_data:
            self.rows = self.method.generate(config, silent)
        elif learns_online(self.method):
            self.rows = TransitionRows(transitions=qlearning_transitions(self.dataset, "d4rl"))
        else:
            self.rows = self.method.prepare(config, self.dataset)

    def offered(self, name: str, default: Any = None) -> Any:
        """What the method's peers offer under this name."""
        return getattr(self.peers, name, default)

    def ours(self, seeds: int, device: torch.device) -> Any:
        """A fresh state."""
        config, numbers = self.config, range(seeds)
        table = table_of(self.rows, "device", seeds=numbers, batch_size=config.batch_size, device=device)
        return self.method.create(config, table, list(numbers))

    @cached_property
    def stored(self) -> np.ndarray:
        """Sequences of tokens (N, T) for the peers, whose released code stores them first."""
        count = min(STORED_SEQUENCES, self.rows.row_count - self.rows.held_out_count)
        return self.rows.training(0, count)["tokens"].astype(np.int32)

    def host_batch(self) -> Callable[[], list[np.ndarray]]:
        """A call that makes a batch by the quickest path we have on a host, the replay engine."""
        size = self.config.batch_size
        if isinstance(self.rows, TokenRows):
            random, tokens = np.random.default_rng(0), self.stored
            return lambda: [tokens[random.integers(len(tokens), size=size)].astype(np.int64)]
        source = self.rows.source()
        names = [field.name for field in fields(self.rows.batch) if field.name in source.sample(1)]

        def batch() -> list[np.ndarray]:
            columns = source.sample(size)
            return [columns[name] for name in names]

        return batch

    def gather(self, device: torch.device) -> tuple[int, Callable[[Tensor], list[Tensor]]]:
        """How many rows there are, and a call that gathers those of an index on the device, column by column."""
        if isinstance(self.rows, TokenRows):
            tokens = torch.from_numpy(self.stored).to(device).long()
            return len(tokens), lambda index: [tokens[index]]
        table = self.rows.table(device, torch.float32)

        def gather(index: Tensor) -> list[Tensor]:
            batch = table.gather(index)
            columns = [getattr(batch, field.name) for field in fields(batch)]
            return [column for column in columns if column is not None]

        return len(self.rows), gather

    def device_batch(self, device: torch.device) -> Callable[[], list[Tensor]]:
        """A call that draws a batch on the device."""
        count, gather = self.gather(device)
        return lambda: gather(torch.randint(count, (self.config.batch_size,), device=device))


class Eager:
    """Updates of a state without a graph, one Python call each."""

    unroll = 1

    def __init__(self, method: Any, state: Any) -> None:
        self._method, self._state, self._done = method, state, 0
        parts = [getattr(state, field.name) for field in fields(state)]
        self._fed = [part for part in parts if hasattr(part, "feed")]
        for part in self._fed:
            part.reserve(1)

    def run(self, count: int) -> None:
        """Make `count` updates."""
        for _ in range(count):
            for part in self._fed:
                part.feed(self._done, 1)
            self._method.step(self._state, 1, self._done % self._state.period)
            self._done += 1
