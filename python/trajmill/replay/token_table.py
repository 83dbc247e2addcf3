"""Sequences of tokens: made or read on the host in order, and fed to the device batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.core.column import Column
from trajmill.core.law import Arrays
from trajmill.corpus.rows import empty_rows
from trajmill.training.distributed import current_ranks


class Rows(Protocol):
    """What makes or reads rows: the `Source` of a law, a stored corpus, a text."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """``tokens``, and perhaps ``targets`` or a ``loss_mask``."""

    @property
    def fill(self) -> Callable[[int, Arrays, int | None], None]:
        """``fill(first_row, arrays, threads)`` fills each column's array with the rows from `first_row` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRows:
    """Sequences of a law, a corpus or a text; the last ones are held out from training."""

    name: str
    vocabulary_size: int
    rows: Rows
    row_count: int
    held_out_count: int
    entropy_rate: float | None = None
    """nats a token: no held-out loss stays below it; None if it is not known"""
    optimal_loss: float | None = None
    """nats a target: what the best predictor loses on the held-out sequences; None if it is not known"""

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.rows.columns[0].row_length

    @property
    def has_targets(self) -> bool:
        """Whether the tokens to predict are given."""
        return self.has_mask or "targets" in self._names

    @property
    def has_mask(self) -> bool:
        """Whether some tokens are not to be predicted."""
        return "loss_mask" in self._names

    @property
    def _names(self) -> list[str]:
        return [column.name for column in self.rows.columns]

    def training(self, first: int, count: int) -> dict[str, NDArray[Any]]:
        """`count` training sequences from number `first` on; the first one follows the last."""
        training_count = self.row_count - self.held_out_count
        first %= training_count
        head = min(count, training_count - first)
        parts = [self.read(first, head)] + ([self.read(0, count - head)] if head < count else [])
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def read(self, first: int, count: int) -> dict[str, NDArray[Any]]:
        """`count` sequences from number `first` on, held-out ones included."""
        arrays = empty_rows(self.rows.columns, count)
        self.rows.fill(first, arrays, 1)
        return arrays


class TokenTable:
    """Batches of sequences, the same for every seed, in the order of the rows.

    Update n reads `batch_size` sequences from number ``n * batch_size`` on. When several processes train together,
    each reads its own part of them.
    """

    def __init__(
        self, rows: TokenRows, seed_count: int, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.rows, self.ranks, self.device, self.dtype = rows, current_ranks(), device, dtype
        self._seed_count, self._batch_size, self._share = seed_count, batch_size, self.ranks.share(batch_size)
        self.reserve(1)

    def reserve(self, count: int) -> None:
        """See `Fed`."""
        shape = (count, self._seed_count, self._share, self.rows.length)
        self.tokens = torch.zeros(shape, dtype=torch.int32, device=self.device)
        """(slots, S, B, T) int32: this process's sequences of the next updates"""
        self.targets = torch.zeros_like(self.tokens) if self.rows.has_targets else None
        """the same shape: what to predict, where it is given; -1: nothing"""

    def feed(self, first: int, count: int) -> None:
        """See `Fed`."""
        for slot in range(count):
            start = (first + slot) * self._batch_size + self.ranks.rank * self._share
            self._copy_into_slot(slot, self.rows.training(start, self._share))

    def close(self) -> None:
        """See `Fed`."""

    def held_out(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Tokens and targets (S, B, T) of the held-out sequences, in whole batches."""
        first = self.rows.row_count - self.rows.held_out_count + self.ranks.rank * self._share
        for number in range(self.rows.held_out_count // self._batch_size):
            self._copy_into_slot(0, self.rows.read(first + number * self._batch_size, self._share))
            yield self.tokens[0], None if self.targets is None else self.targets[0]

    def _copy_into_slot(self, slot: int, batch: dict[str, NDArray[Any]]) -> None:
        tokens = batch["tokens"].astype(np.int32)
        self.tokens[slot].copy_(torch.from_numpy(tokens))
        if self.targets is not None:
            targets = _masked(tokens, batch["loss_mask"]) if self.rows.has_mask else batch["targets"].astype(np.int32)
            self.targets[slot].copy_(torch.from_numpy(targets))


def _masked(tokens: NDArray[np.int32], mask: NDArray[Any]) -> NDArray[np.int32]:
    """What to predict at each position: the next token if it is a target, else -1 for nothing."""
    targets = np.full_like(tokens, -1)
    np.copyto(targets[:, :-1], tokens[:, 1:], where=mask[:, 1:] != 0)
    return targets
