"""How a corpus is cut: columns, rows, shards and blocks; arithmetic only, so it holds at any size.

Row i is in shard ``i >> k`` at row ``i & (2**k - 1)``: no index has to be loaded to find it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK_BYTES = 2**24
"""most bytes of a column that one hash covers, unless a row is longer"""
SHARD_VALUES = 2**28
"""most values of a column in a shard, unless asked for otherwise or a row is longer"""


class CorpusError(ValueError):
    """A directory that is not a whole corpus, or cannot become one."""


class NewerFormatError(CorpusError):
    """A corpus that a newer version has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One array of a corpus: `row_length` integers of `dtype` for each row."""

    name: str
    dtype: str
    row_length: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch("[a-z][a-z_]{0,63}", self.name):
            raise CorpusError(f"a column's name must be of lower-case letters and _, got {self.name!r}")
        if self.dtype not in ("uint8", "uint16", "uint32"):
            raise CorpusError(f"a column's dtype must be uint8, uint16 or uint32, got {self.dtype!r}")
        whole_number(f"row_length of {self.name}", self.row_length, 1, 2**40)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.row_length * np.dtype(self.dtype).itemsize

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The little-endian dtype of the bytes on disk."""
        return np.dtype(self.dtype).newbyteorder("<")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`row_count` rows of `columns`, in shards of `shard_rows` rows, hashed in blocks of `block_rows` rows.

    Both are powers of two; the last shard and block may be short.
    """

    columns: tuple[Column, ...]
    row_count: int
    shard_rows: int
    block_rows: int

    def __post_init__(self) -> None:
        if not self.columns or len({column.name for column in self.columns}) != len(self.columns):
            raise CorpusError(f"a corpus needs columns of different names, got {[c.name for c in self.columns]}")
        whole_number("row_count", self.row_count, 1, 2**63 - 1)
        for name, value in (("shard_rows", self.shard_rows), ("block_rows", self.block_rows)):
            whole_number(name, value, 1, 2**62)
            if value & (value - 1):
                raise CorpusError(f"{name} must be a power of two, got {value}")
        if self.block_rows > self.shard_rows:
            raise CorpusError(f"block_rows must not exceed shard_rows = {self.shard_rows}, got {self.block_rows}")

    @classmethod
    def of(cls, spec: Mapping[str, Any], columns: Sequence[Column]) -> Layout:
        """The layout that `spec` asks for."""
        sizes = {name: spec.get(name) for name in ("row_count", "shard_rows", "block_rows")}
        return cls(columns=tuple(columns), **sizes)  # type: ignore[arg-type]  # checked above

    @property
    def shard_count(self) -> int:
        """Number of shards."""
        return -(-self.row_count // self.shard_rows)

    def rows(self, shard: int) -> range:
        """The rows of the corpus that are in `shard`."""
        first = shard * self.shard_rows
        return range(first, min(first + self.shard_rows, self.row_count))

    def blocks(self, shard: int) -> Iterator[range]:
        """The rows of each block of `shard`, counted from the shard's first."""
        count = len(self.rows(shard))
        for first in range(0, count, self.block_rows):
            yield range(first, min(first + self.block_rows, count))

    def block_count(self, shard: int) -> int:
        """Number of blocks of `shard`."""
        return -(-len(self.rows(shard)) // self.block_rows)

    def file_bytes(self, column: Column, shard: int) -> int:
        """Size of the file that holds `column` of `shard`."""
        return len(self.rows(shard)) * column.row_bytes

    def shard_bytes(self, shard: int) -> int:
        """Bytes of all columns of `shard`."""
        return sum(self.file_bytes(column, shard) for column in self.columns)

    @property
    def byte_count(self) -> int:
        """Bytes of all rows."""
        return self.row_count * sum(column.row_bytes for column in self.columns)

    def column(self, name: str) -> Column:
        """The column called `name`."""
        for column in self.columns:
            if column.name == name:
                return column
        raise CorpusError(f"there is no column {name!r}; columns are {', '.join(c.name for c in self.columns)}")


def file_name(column: Column, shard: int) -> str:
    """Name of the file that holds `column` of `shard`."""
    return f"{column.name}-{shard:05d}.bin"


def default_shard_rows(columns: Sequence[Column]) -> int:
    """Rows of a shard when nobody asks: the largest power of two that keeps to `SHARD_VALUES`."""
    return _largest_power(SHARD_VALUES // max(column.row_length for column in columns))


def default_block_rows(columns: Sequence[Column]) -> int:
    """Rows of a block: the largest power of two that keeps to `BLOCK_BYTES`."""
    return _largest_power(BLOCK_BYTES // max(column.row_bytes for column in columns))


def whole_number(name: str, value: object, smallest: int, largest: int) -> int:
    """`value` if it is an int in [smallest, largest]; CorpusError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise CorpusError(f"{name} must be a whole number between {smallest} and {largest}, got {value!r}")
    return value


def _largest_power(limit: int) -> int:
    return 1 << max(0, limit.bit_length() - 1)
