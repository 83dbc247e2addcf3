"""Corpora on disk, as memory maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill.corpus.layout import CorpusError, file_name
from trajmill.corpus.records import MANIFEST, Manifest
from trajmill.corpus.rows import Array, Corpus, empty_rows
from trajmill.corpus.storage import Store, open_store
from trajmill.corpus.survey import size_problems, summary, survey


def open_corpus(directory: str | Path) -> StoredCorpus:
    """The corpus in `directory`.

    Looks at the manifest (or, without one, at the receipts) and at the size of every file; `trajmill corpus verify`
    also reads them.

    Raises
    ------
    CorpusError
        If something is missing, cut off or damaged, or a newer version has written it; the message says what.
    """
    return StoredCorpus(directory)


class StoredCorpus(Corpus):
    """A whole corpus on disk, read through memory maps; see `open_corpus`."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        manifest = _manifest_of(open_store(self.directory))
        self.manifest: dict[str, Any] = manifest.to_record()
        self.layout = manifest.layout
        self.columns = self.layout.columns
        self.row_count = self.layout.row_count
        self._maps: dict[tuple[str, int], Array] = {}

    def shard_paths(self, column: str = "tokens") -> list[Path]:
        """The file of each shard: `column` of its rows and nothing else."""
        found = self.layout.column(column)
        return [self.directory / file_name(found, shard) for shard in range(self.layout.shard_count)]

    def shards(self, column: str = "tokens") -> list[Array]:
        """Each shard's `column` as a read-only memory map (rows, row_length)."""
        return [self._map(column, shard) for shard in range(self.layout.shard_count)]

    def read(self, indexes: npt.NDArray[np.integer[Any]]) -> dict[str, Array]:
        """See `Corpus.read`."""
        shards, rows = np.divmod(indexes.astype(np.int64), self.layout.shard_rows)
        arrays = empty_rows(self.columns, len(indexes))
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            for name, array in arrays.items():
                array[here] = self._map(name, shard)[rows[here]]
        return arrays

    def close(self) -> None:
        """Give the memory maps back; rows that were read stay."""
        self._maps.clear()

    def _map(self, column: str, shard: int) -> Array:
        if (column, shard) not in self._maps:
            found = self.layout.column(column)
            shape = (len(self.layout.rows(shard)), found.row_length)
            path = self.directory / file_name(found, shard)
            self._maps[column, shard] = np.memmap(path, found.stored_dtype, "r", shape=shape)
        return self._maps[column, shard]

    def __reduce__(self) -> tuple[type[StoredCorpus], tuple[Path]]:
        return StoredCorpus, (self.directory,)

    def __repr__(self) -> str:
        return f"StoredCorpus({str(self.directory)!r})"


def _manifest_of(store: Store) -> Manifest:
    try:
        manifest = Manifest.parse(store.read(MANIFEST), f"{store}/{MANIFEST}")
    except FileNotFoundError:
        manifest = survey(store).rebuilt_manifest()
    layout = manifest.layout
    problems = [problem for shard in range(layout.shard_count) for problem in size_problems(store, layout, shard)]
    if problems:
        raise CorpusError(f"{store} is not whole: {summary(problems)}")
    return manifest
