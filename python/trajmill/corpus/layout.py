"""How a corpus is cut: columns, rows, shards and blocks; arithmetic only, so it holds at any size.

Row i is in shard ``i >> k`` at row ``i & (2**k - 1)``: no index has to be loaded to find it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trajmill.core import checks
from trajmill.core.column import Column
from trajmill.corpus.errors import CorpusError


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
            raise ValueError(f"a corpus needs columns of different names, got {[c.name for c in self.columns]}")
        checks.integer("row_count", self.row_count, 1, 2**63 - 1)
        for name, value in (("shard_rows", self.shard_rows), ("block_rows", self.block_rows)):
            if checks.integer(name, value, 1, 2**62).bit_count() != 1:
                raise ValueError(f"{name} must be a power of two, got {value}")
        if self.block_rows > self.shard_rows:
            raise ValueError(f"block_rows must not exceed shard_rows = {self.shard_rows}, got {self.block_rows}")

    @classmethod
    def of(cls, spec: Mapping[str, Any], columns: Sequence[Column]) -> Layout:
        """The layout that `spec` asks for."""
        sizes = {name: spec[name] for name in ("row_count", "shard_rows", "block_rows")}
        return cls(columns=tuple(columns), **sizes)

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
        """How many blocks `shard` has."""
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
