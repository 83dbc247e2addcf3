"""A stored corpus as exporters see it: rows in pieces of bounded size, and files that may be linked or copied."""

from __future__ import annotations

import bisect
import errno
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from trajmill.core import checks
from trajmill.core.column import Column
from trajmill.core.progress import Progress
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.rows import Array, StoredCorpus
from trajmill.corpus.sources import vocabulary_size

BLOCK_BYTES = 2**24
"""what is held in memory at a time, unless one row is larger"""
_ENTRIES = 2**20  # of a ramp, written at a time
_MAPPED = ("tokens", "targets")
"""columns that a map of tokens changes"""
_UNSUPPORTED = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EINVAL}
"""how a file system says that it has no hard links, or no copies within the kernel"""


class CorpusRows:
    """The rows of a corpus, in the pieces that exporters ask for; every row written is reported to `progress`.

    With `token_map`, a list of whole numbers below 2**32, a token t is written as ``token_map[t]``.
    """

    def __init__(self, corpus: StoredCorpus, progress: Progress, token_map: Sequence[int] | None = None) -> None:
        if corpus.row_count < 1 or not corpus.columns:
            raise CorpusError(f"{corpus.directory} holds no rows; there is nothing to export")
        self.directory, self.spec, self.count = corpus.directory, corpus.spec, corpus.row_count
        self.columns = {column.name: column for column in corpus.columns}
        self._maps: dict[str, Array] = {}
        """by column, what to write for each of its values"""
        self._shards = {name: corpus.shards(name) for name in self.columns}
        self._paths = {name: corpus.shard_paths(name) for name in self.columns}
        shards = next(iter(self._shards.values()))
        self._bounds = list(itertools.accumulate((len(shard) for shard in shards), initial=0))
        self.shard_ranges = list(itertools.pairwise(self._bounds))
        """first row and end row of every shard"""
        self._progress, self._done = progress, 0
        if token_map is not None:
            self._map_tokens(token_map)

    def _map_tokens(self, token_map: Sequence[int]) -> None:
        if "tokens" not in self.columns:
            raise CorpusError(f"a map of tokens is for a corpus with the column tokens, {self.directory} has none")
        numbers = np.array([checks.integer("a token in the map", number, 0, 2**32 - 1) for number in token_map])
        if (needed := self.value_count("state_count", "tokens")) > len(numbers):
            raise CorpusError(
                f"the map of tokens must name all {needed:,} tokens of {self.directory}, got {len(numbers):,}"
            )
        dtype = checks.smallest_dtype(int(numbers.max(initial=0)) + 1)
        for name in set(_MAPPED) & set(self.columns):
            self._maps[name] = numbers.astype(dtype)
            self.columns[name] = replace(self.columns[name], dtype=dtype.name)

    def shard_files(self, directory: Path, suffix: str) -> list[tuple[Path, int, int]]:
        """A file ``data-00000-of-00004.SUFFIX`` for every shard, with its first row and end row."""
        count = len(self.shard_ranges)
        names = (f"data-{number:05d}-of-{count:05d}.{suffix}" for number in range(count))
        return [(directory / name, *rows) for name, rows in zip(names, self.shard_ranges, strict=True)]

    def only(self, wanted: Sequence[str], need: str, optional: Sequence[str] = ()) -> list[Column]:
        """The columns named `wanted`; CorpusError that begins with `need` if the corpus lacks one, or has others.

        It may have those that are `optional`.
        """
        if not set(wanted) <= set(self.columns) <= {*wanted, *optional}:
            raise CorpusError(f"{need}; {self.directory} has the columns {', '.join(sorted(self.columns))}")
        return [self.columns[name] for name in wanted]

    def value_count(self, key: str, column: str) -> int:
        """How many values a column may take: what the spec says under `key`, else the largest value there plus one.

        Under ``state_count``, that is the law's vocabulary; of mapped tokens, what the map makes of it.
        """
        if column in self._maps:
            return self._largest(column) + 1
        known = vocabulary_size(self.spec) if key == "state_count" else self.spec.get(key)
        return int(known or self._largest(column) + 1)

    def check_values(self, column: Column, dtype: npt.DTypeLike, reader: str) -> None:
        """CorpusError if a value of `column` does not fit `dtype`; the values are read only if their dtype may not."""
        limits = np.iinfo(np.dtype(dtype))
        if not np.can_cast(column.dtype, dtype) and (largest := self._largest(column.name)) > limits.max:
            raise CorpusError(
                f"{reader} reads {limits.dtype} (at most {limits.max:,}), but {self.directory} holds the value "
                f"{largest:,} in column {column.name!r}; choose a wider format"
            )

    def _largest(self, column: str) -> int:
        if column in self._maps:
            return int(self._maps[column].max())
        return max(int(shard.max()) for shard in self._shards[column])

    def blocks(
        self, first: int, end: int, row_bytes: int = 0, columns: Sequence[Column] = ()
    ) -> Iterator[Mapping[str, Array]]:
        """Rows `first` to `end` in blocks of `BLOCK_BYTES` at most that cross no shard: column -> (rows, row_length).

        Of all columns, or only `columns`; `row_bytes` is the size of an exported row, where that is larger than here.
        """
        columns = columns or list(self.columns.values())
        step = max(1, BLOCK_BYTES // max(row_bytes, sum(column.row_bytes for column in columns)))
        for shard, start, stop in self._pieces(first, end):
            for row in range(start, stop, step):
                cut = slice(row, min(row + step, stop))
                yield {column.name: self._values(column.name, shard, cut) for column in columns}
                self._report(cut.stop - row)

    def _values(self, column: str, shard: int, cut: slice) -> Array:
        stored = np.asarray(self._shards[column][shard][cut])
        return self._maps[column][stored] if column in self._maps else stored

    def write_values(
        self, column: Column, dtype: npt.DTypeLike, first: int, end: int, target: Path, *, link: bool
    ) -> None:
        """Write rows `first` to `end` of a column back to back as `dtype`, which `check_values` found wide enough.

        If the bytes are those of one whole shard and `link` allows it, `target` becomes a hard link to that shard. If
        they are parts of shards, the kernel copies them; otherwise they are converted block by block.
        """
        wanted = np.dtype(dtype).newbyteorder("<")
        same_bytes = column.stored_dtype.itemsize == wanted.itemsize and column.name not in self._maps
        shard = bisect.bisect_left(self._bounds, first)
        if link and same_bytes and self._bounds[shard : shard + 2] == [first, end]:
            with _where_supported():
                os.link(self._paths[column.name][shard].resolve(), target)
                self._report(end - first)
                return
        with target.open("xb") as file:
            if same_bytes:
                self.copy_columns([column], first, end, file)
                return
            for block in self.blocks(first, end, column.row_length * wanted.itemsize, [column]):
                file.write(np.ascontiguousarray(block[column.name], wanted).data.cast("B"))

    def copy_columns(self, columns: Sequence[Column], first: int, end: int, file: BinaryIO) -> None:
        """Append the bytes of rows `first` to `end` of one column after the other to `file`."""
        for column in columns:
            size = column.row_bytes
            for shard, start, stop in self._pieces(first, end):
                if column.name in self._maps:
                    step = max(1, BLOCK_BYTES // size)
                    for row in range(start, stop, step):
                        values = self._values(column.name, shard, slice(row, min(row + step, stop)))
                        file.write(np.ascontiguousarray(values, column.stored_dtype).data.cast("B"))
                else:
                    _copy_bytes(self._paths[column.name][shard], start * size, stop * size, file)
                if column is columns[-1]:
                    self._report(stop - start)

    def _pieces(self, first: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first row, end row within it) that make up rows `first` to `end` of the corpus."""
        shard = bisect.bisect_right(self._bounds, first) - 1
        while first < end:
            start, stop = self._bounds[shard], min(end, self._bounds[shard + 1])
            yield shard, first - start, stop - start
            first, shard = stop, shard + 1

    def _report(self, row_count: int) -> None:
        """Report that `row_count` more rows are written."""
        self._done += row_count
        self._progress("exporting", min(self._done, self.count), self.count, "rows")  # a mask is written after its rows


def write_ramp(file: BinaryIO, dtype: npt.DTypeLike, count: int, *, start: int = 0, step: int = 0) -> None:
    """Append ``start + step * i`` for i below `count` to `file`, in bounded memory."""
    for first in range(0, count, _ENTRIES):
        numbers = np.arange(first, min(first + _ENTRIES, count), dtype=np.int64)
        file.write((numbers * step + start).astype(dtype).data.cast("B"))


@contextmanager
def _where_supported() -> Iterator[None]:
    """Go on after the block, which makes a link or copies in the kernel, where the file system cannot do that."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _copy_bytes(source: Path, begin: int, end: int, file: BinaryIO) -> None:
    """Append bytes `begin` to `end` of `source` to `file`, within the kernel where it can."""
    file.flush()
    with source.open("rb") as origin:
        with _where_supported():
            while begin < end:
                moved = os.copy_file_range(origin.fileno(), file.fileno(), min(end - begin, 2**30), begin)
                if not moved:
                    break
                begin += moved
        origin.seek(begin)
        while begin < end:
            data = origin.read(min(BLOCK_BYTES, end - begin))
            if not data:
                raise CorpusError(f"{source} ended {end - begin:,} bytes early; check the corpus")
            file.write(data)
            begin += len(data)
