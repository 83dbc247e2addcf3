"""What is measured of a method with its peers: `trajmill.bench.training`, and batches for the peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from baselines import peers_of
from torch import Tensor

from trajmill.bench import training
from trajmill.replay.token_table import TokenRows

STORED_SEQUENCES = 4096


class Workload(training.Workload):
    """One method at one size, with the peers that `baselines` has of it."""

    def __init__(self, name: str, size: str) -> None:
        self.peers = peers_of(name)
        super().__init__(name, size, self.offered("SMALL_SIZE", {}))

    def offered(self, name: str, default: Any = None) -> Any:
        """What the method's peers offer under this name."""
        return getattr(self.peers, name, default)

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
