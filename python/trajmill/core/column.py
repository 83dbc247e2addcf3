"""One array of a corpus, and of the rows of a law."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from trajmill.core import checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One array of a corpus: `row_length` integers of `dtype` for each row."""

    name: str
    dtype: str
    row_length: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch("[a-z][a-z_]{0,63}", self.name):
            raise ValueError(f"a column's name must be of lower-case letters and _, got {self.name!r}")
        checks.choice(f"dtype of {self.name}", self.dtype, ("uint8", "uint16", "uint32"))
        checks.integer(f"row_length of {self.name}", self.row_length, 1, 2**40)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.row_length * np.dtype(self.dtype).itemsize

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The little-endian dtype of the bytes on disk."""
        return np.dtype(self.dtype).newbyteorder("<")

    def file_name(self, shard: int) -> str:
        """Name of the file that holds this column of `shard`."""
        return f"{self.name}-{shard:05d}.bin"
