"""A buffer's transitions on a device, drawn there with the numbers that the buffer itself would draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.core import checks
from trajmill.replay.feed import torch_dtype
from trajmill.training.draws import philox

_MASK = 0xFFFF_FFFF
_DRAWS_AT_ONCE = 32


class ResidentReplay:
    """A copy of the transitions of a `ReplayBuffer` on one device, sampled without the host; made by `ReplayBuffer.to`.

    Draw d gives the rows that draw d of the buffer gave when it was copied (``cpp/include/trajmill/replay_buffer.hpp``
    says how draws are numbered); ``draw_count`` is the number of the next one. One row is one run of memory, gathered
    as int64, so a batch is one gather.
    """

    def __init__(
        self, columns: Mapping[str, NDArray[Any]], *, key: int, draw_count: int, device: str | torch.device
    ) -> None:
        """Pack `columns` (N, ...), in the order in which draws count rows; `key` is the buffer's."""
        self.draw_count = draw_count
        self._size = len(next(iter(columns.values())))
        if not 0 < self._size < 2**31:
            raise ValueError(f"a resident copy needs 1 to 2**31 - 1 transitions, got {self._size}")
        row = np.dtype([(name, array.dtype, array.shape[1:]) for name, array in columns.items()], align=True)
        rows = np.zeros((self._size, -(-row.itemsize // 8)), np.int64)
        packed = np.ndarray(self._size, row, rows, strides=rows.strides[:1])
        assert row.fields is not None
        self._places = {}
        for name, array in columns.items():
            packed[name] = array
            column, start = row.fields[name][:2]
            self._places[name] = (slice(start, start + column.itemsize), torch_dtype(array.dtype), array.shape[1:])
        self._rows = torch.from_numpy(rows).to(device)
        self._key = tuple(torch.tensor(word, device=device) for word in (key & _MASK, key >> 32))
        self._ahead: tuple[int, Tensor] = (0, torch.empty(0, 0, dtype=torch.int64))  # first draw, indexes of some draws

    def __len__(self) -> int:
        """Number of transitions."""
        return self._size

    def sample(self, batch_size: int) -> dict[str, Tensor]:
        """The next draw: column -> (batch_size, ...) on the device; uniform, with replacement."""
        size = checks.integer("batch_size", batch_size, 1, 2**32)
        first, indexes = self._ahead
        if indexes.shape[1] != size or not first <= self.draw_count < first + len(indexes):
            first = self.draw_count
            indexes = self.indexes(torch.tensor(first, device=self._rows.device), _DRAWS_AT_ONCE, size)
            self._ahead = (first, indexes)
        self.draw_count += 1
        return self.gather(indexes[self.draw_count - 1 - first])

    def indexes(self, draw: Tensor, count: int, batch_size: int) -> Tensor:
        """The rows that `count` draws take from draw `draw` (int64 scalar on the device) on: int64 (count, batch_size).

        Reads nothing back to the host, so it can be captured in a CUDA graph, whose `draw` is advanced in place.
        """
        device = self._rows.device
        draws = (draw + torch.arange(count, device=device))[:, None]
        pairs = torch.arange(-(-batch_size // 2), device=device)
        words = philox((pairs, draws & _MASK, draws >> 32, torch.zeros_like(draws)), self._key)
        high, low = torch.stack(words[::2], -1).flatten(-2), torch.stack(words[1::2], -1).flatten(-2)
        return ((high * self._size + (low * self._size >> 32)) >> 32)[:, :batch_size]

    def gather(self, indexes: Tensor) -> dict[str, Tensor]:
        """The rows of the given indexes (...): column -> (..., *row shape), views of one block of memory."""
        rows = self._rows[indexes].view(torch.uint8)
        return {
            name: rows[..., place].view(dtype).reshape(*indexes.shape, *shape)
            for name, (place, dtype, shape) in self._places.items()
        }
