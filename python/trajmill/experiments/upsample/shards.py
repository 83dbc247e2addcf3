"""Rows in files of bounded size: each is a number of blocks, which is what a model makes at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trajmill.core.files import replacing, sha256_of

BLOCK_ROWS = 1024
SHARD_BLOCKS = 16
"""blocks of a shard, 16,384 rows: what a stop loses, six minutes of a core at width 1,024"""
SHARD_BYTES = 2**26
"""most bytes of a shard, so that memory stays bounded also where rows are long; a shard has at least one block"""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """`count` rows of `width` numbers in a folder."""

    folder: Path
    width: int
    count: int
    block_rows: int
    shard_rows: int
    """rows of a shard but the last, a multiple of `block_rows`"""

    @classmethod
    def of(cls, folder: Path, width: int, count: int) -> Shards:
        """As many blocks a shard as bytes allow."""
        blocks = max(1, min(SHARD_BLOCKS, SHARD_BYTES // (4 * width * BLOCK_ROWS)))
        return cls(folder=folder, width=width, count=count, block_rows=BLOCK_ROWS, shard_rows=BLOCK_ROWS * blocks)

    def __len__(self) -> int:
        """Number of shards."""
        return math.ceil(self.count / self.shard_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return 4 * self.width

    def path(self, shard: int) -> Path:
        """Where a shard is."""
        return self.folder / f"{shard:05d}.npy"

    def span(self, shard: int) -> range:
        """Rows of a shard."""
        first = shard * self.shard_rows
        return range(first, min(first + self.shard_rows, self.count))

    def write(self, shard: int, block: Callable[[int], FloatArray], made: Callable[[int], None]) -> str:
        """Write a shard of the blocks with its numbers, and give its SHA-256; `made` is told the rows there are now."""
        span = self.span(shard)
        array = np.empty((len(span), self.width), np.float32)
        for start in range(0, len(span), self.block_rows):
            number = (span.start + start) // self.block_rows
            array[start : start + self.block_rows] = block(number)[: len(span) - start]
            made(min(span.start + start + self.block_rows, span.stop))
        with replacing(self.path(shard)) as part, part.open("xb") as file:
            npy.write_array(file, array, allow_pickle=False)
        return sha256_of(self.path(shard))

    def read(self) -> Iterator[FloatArray]:
        """The rows of one shard after another."""
        for shard in range(len(self)):
            yield np.load(self.path(shard), allow_pickle=False)
