"""Corpora as sequences of rows, virtual and stored: by number, by slice, by a batch of numbers, in a shuffled order."""

from __future__ import annotations

import resource
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt

from trajmill.core import checks, pictures
from trajmill.core.column import Column
from trajmill.core.law import RowLaw
from trajmill.core.paths import AnyPath, local_path
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.order import Permutation
from trajmill.corpus.records import MANIFEST, Manifest
from trajmill.corpus.storage import open_store
from trajmill.corpus.survey import size_problems, summary, survey

Array = npt.NDArray[Any]
Indexes = npt.NDArray[np.integer[Any]]
Rows = Array | dict[str, Array]
"""one column: its array; several: a dictionary of arrays by column name"""
_MANY = 10_000_000
"""rows of which a list is no matter"""
_LISTED_BYTES = 44
"""memory that torch's RandomSampler takes for each row: eight bytes in a tensor, and 36 in a list of numbers"""
MOST_MAPS = 1024
"""memory maps that a corpus keeps, or a quarter of the file descriptors that a process may have"""


class Corpus(ABC):
    """A sequence of rows, and a map-style dataset for ``torch.utils.data.DataLoader``.

    A corpus of one column gives arrays, (row_length,) for a row and (n, row_length) for several; one of several columns
    gives dictionaries of such arrays. It can be pickled, so that loader workers have their own.
    """

    columns: tuple[Column, ...]
    row_count: int

    @abstractmethod
    def read(self, indexes: Indexes) -> dict[str, Array]:
        """The rows at `indexes`, each in [0, row_count), in their order: an (n, row_length) array for each column."""

    def __len__(self) -> int:
        """Number of rows; ValueError to the sampler of ``DataLoader(corpus, shuffle=True)`` if it would list too many.

        That sampler asks for nothing but the length before it makes a list of all numbers below it.
        """
        if self.row_count > _MANY:
            asking = sys._getframe(1)
            if asking.f_globals.get("__name__") == "torch.utils.data.sampler":
                sampler: Any = asking.f_locals.get("self")
                if type(sampler).__name__ == "RandomSampler" and not sampler.replacement:
                    checks.require_memory(
                        f"a list of {self.row_count:,} rows, which shuffle=True makes,",
                        self.row_count * _LISTED_BYTES,
                        f"leave it out and give DataLoader batch_sampler=trajmill.CorpusSampler({self.row_count}, "
                        "batch_size=..., seed=...), or corpus.shuffled(seed) as the corpus",
                    )
        return self.row_count

    @property
    def shape(self) -> tuple[int, int]:
        """(row_count, row_length) of a corpus of one column; AttributeError of one of several."""
        return self.row_count, self._only("shape").row_length

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a corpus of one column; AttributeError of one of several."""
        return np.dtype(self._only("dtype").dtype)

    @property
    def ndim(self) -> int:
        """As of an array of one column: 2."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows and columns."""
        return self.row_count * sum(column.row_bytes for column in self.columns)

    def _only(self, wanted: str) -> Column:
        if len(self.columns) > 1:
            names = ", ".join(column.name for column in self.columns)
            raise AttributeError(f"a corpus of several columns ({names}) has no {wanted}; see its columns")
        return self.columns[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None) -> Array:
        """All rows as one array, of a corpus of one column that fits into half of the memory; ValueError otherwise."""
        if len(self.columns) > 1:
            raise TypeError("a corpus of several columns is no array; take corpus[:], a dictionary of arrays")
        checks.require_memory(f"{len(self):,} rows as an array", self.nbytes, "take some rows, as in corpus[:1000]")
        if copy is False:
            raise ValueError("the rows of a corpus are made or read when they are asked for: copy=False cannot be had")
        rows = cast("Array", self[:])
        return rows if dtype is None else rows.astype(dtype)

    def __getitem__(self, key: int | slice | Sequence[int] | Indexes) -> Rows:
        """Row `key`, or the rows of a slice, a list, a range, an array or a tensor (n,) of numbers below the length."""
        if isinstance(key, slice):
            wanted = range(*key.indices(len(self)))
            size = len(wanted) * sum(column.row_bytes for column in self.columns)
            checks.require_memory(f"{len(wanted):,} rows", size, "take fewer at a time, as in corpus[:1000]")
            arrays = self.read(np.arange(wanted.start, wanted.stop, wanted.step))
        elif isinstance(key, list | range) or getattr(key, "ndim", None):
            if getattr(key, "dtype", None) == np.bool_:
                key = self._masked(cast("Array", key))
            numbers = checks.indexes("rows", cast("Sequence[int] | Indexes", key))
            if len(numbers) and numbers.max() >= len(self):
                raise IndexError(f"rows must be between 0 and {len(self) - 1}, got {numbers.max()}")
            arrays = self.read(numbers)
        else:
            index = checks.integer("row", key)
            if not -len(self) <= index < len(self):
                raise IndexError(f"row must be between {-len(self)} and {len(self) - 1}, got {index}")
            arrays = {name: array[0] for name, array in self.read(np.array([index % len(self)])).items()}
        return arrays[self.columns[0].name] if len(arrays) == 1 else arrays

    def _masked(self, mask: Array) -> Array:
        if mask.shape != (len(self),):
            raise IndexError(f"a mask must have the shape ({len(self)},), got {mask.shape}")
        return np.flatnonzero(mask)

    def __getitems__(self, indexes: Sequence[int] | Indexes) -> Array | list[dict[str, Array]]:
        """The rows at `indexes` as a loader wants them: something whose elements are rows.

        A corpus of one column returns one (n, row_length) array, so ``collate_fn=torch.from_numpy`` copies nothing.
        """
        numbers = checks.indexes("rows", indexes)
        if len(numbers) and numbers.max() >= len(self):
            raise IndexError(f"rows must be between 0 and {len(self) - 1}, got {numbers.max()}")
        arrays = self.read(numbers)
        if len(arrays) == 1:
            return arrays[self.columns[0].name]
        return [{name: array[i] for name, array in arrays.items()} for i in range(len(numbers))]

    def __iter__(self) -> Iterator[Rows]:
        return (self[index] for index in range(len(self)))

    def _repr_html_(self) -> str:
        column = self.columns[0]
        drawn = ""
        if column.row_length * pictures.ROWS <= pictures.MOST_TOKENS:
            rows = self.read(np.arange(min(pictures.ROWS, len(self))))
            drawn = pictures.token_cells(rows[column.name])
        return pictures.html(repr(self), drawn)

    def shuffled(self, seed: int, *, epoch: int = 0) -> ShuffledCorpus:
        """The same rows in an order that is a pure function of `seed` and `epoch`; takes no memory."""
        return ShuffledCorpus(self, Permutation(len(self), seed=seed, epoch=epoch))


class ShuffledCorpus(Corpus):
    """Row i is row ``permutation(i)`` of another corpus."""

    def __init__(self, corpus: Corpus, permutation: Permutation) -> None:
        self.columns, self.row_count = corpus.columns, corpus.row_count
        self._corpus, self._permutation = corpus, permutation

    def read(self, indexes: Indexes) -> dict[str, Array]:
        """See `Corpus.read`."""
        return self._corpus.read(self._permutation(indexes))

    def __repr__(self) -> str:
        epoch = f", epoch={self._permutation.epoch}" if self._permutation.epoch else ""
        return f"{self._corpus!r}.shuffled({self._permutation.seed}{epoch})"


class VirtualCorpus(Corpus):
    """`sequence_count` rows of `length` tokens of a law, or transitions of an MDP, made when they are asked for.

    Row i is what ``law.sample(1, length, first_sequence=i)`` returns and what a stored corpus of this law holds: the
    column ``tokens`` and those of `columns` (see `Law.extra_columns`), or of an MDP the columns ``states``, of length
    + 1, and ``actions``. There are 1 to 2**63 - 1 rows. A batch is drawn by `threads` threads, by default one, since
    loaders have workers of their own.
    """

    def __init__(
        self, law: RowLaw, *, sequence_count: int, length: int, columns: Sequence[str] = (), threads: int = 1
    ) -> None:
        if not isinstance(law, RowLaw):
            raise TypeError(f"law must be a law such as a MarkovChain, an MDP or a Dyck, got {law!r}")
        self.law = law
        self.row_count = checks.integer("sequence_count", sequence_count, 1, 2**63 - 1)
        self.length = checks.integer("length", length, 1, 2**32 - 1)
        self.columns = law.columns(self.length, columns)
        self._extra = tuple(columns)
        self._threads = checks.thread_count(threads)

    def read(self, indexes: Indexes) -> dict[str, Array]:
        """See `Corpus.read`."""
        arrays = empty_rows(self.columns, len(indexes))
        self.law.pick(indexes, arrays, self._threads)
        return arrays

    def __repr__(self) -> str:
        extra = f", columns={self._extra}" if self._extra else ""
        return f"VirtualCorpus({self.law!r}, sequence_count={self.row_count}, length={self.length}{extra})"


class StoredCorpus(Corpus):
    """A whole corpus in a directory, read through memory maps.

    Opening it looks at the manifest (or, without one, at the receipts) and at the size of every file. CorpusError says
    what is missing, cut off or damaged, or that a newer version has written the corpus.
    """

    def __init__(self, directory: AnyPath) -> None:
        self.directory = local_path(directory)
        store = open_store(self.directory)
        try:
            manifest = Manifest.parse(store.read(MANIFEST), f"{store}/{MANIFEST}")
        except FileNotFoundError:
            manifest = survey(store).rebuilt_manifest()
        self.spec, self.layout = manifest.spec, manifest.layout
        self.columns, self.row_count = self.layout.columns, self.layout.row_count
        if problems := size_problems(store.sizes(), self.layout, range(self.layout.shard_count)):
            raise CorpusError(f"{store} is not whole: {summary(problems)}")
        self._maps: dict[tuple[str, int], Array] = {}
        """by column and shard, the latest last"""
        self._most_maps = min(MOST_MAPS, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))

    def shard_paths(self, column: str = "tokens") -> list[Path]:
        """The file of each shard: `column` of its rows and nothing else."""
        found = self.layout.column(column)
        return [self.directory / found.file_name(shard) for shard in range(self.layout.shard_count)]

    def shards(self, column: str = "tokens") -> Sequence[Array]:
        """Each shard's `column` as a read-only memory map (rows, row_length), which is made when it is asked for."""
        self.layout.column(column)  # that there is one
        return _Shards(self, column)

    def read(self, indexes: Indexes) -> dict[str, Array]:
        """See `Corpus.read`."""
        shards, rows = np.divmod(indexes.astype(np.int64), self.layout.shard_rows)
        arrays = empty_rows(self.columns, len(indexes))
        for shard in np.unique(shards).tolist():
            wanted = np.flatnonzero(shards == shard)
            for name, array in arrays.items():
                array[wanted] = self.map(name, shard)[rows[wanted]]
        return arrays

    def close(self) -> None:
        """Release the memory maps; rows that were read stay valid."""
        self._maps.clear()

    def map(self, column: str, shard: int) -> Array:
        """A column of one shard, see `shards`; the latest ones are kept, since each takes a file descriptor."""
        kept = self._maps.pop((column, shard), None)
        if kept is None:
            found = self.layout.column(column)
            shape, path = (len(self.layout.rows(shard)), found.row_length), self.directory / found.file_name(shard)
            kept = np.memmap(path, found.stored_dtype, "r", shape=shape)
            while len(self._maps) >= self._most_maps:
                self._maps.pop(next(iter(self._maps)), None)
        self._maps[column, shard] = kept
        return kept

    def __reduce__(self) -> tuple[type[StoredCorpus], tuple[Path]]:
        return StoredCorpus, (self.directory,)

    def __repr__(self) -> str:
        return f"StoredCorpus({str(self.directory)!r})"


class _Shards(Sequence[Array]):
    """A column of a corpus, shard by shard."""

    def __init__(self, corpus: StoredCorpus, column: str) -> None:
        self._corpus, self._column = corpus, column

    def __len__(self) -> int:
        return self._corpus.layout.shard_count

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        wanted = range(len(self))[index]
        if isinstance(wanted, range):
            return [self._corpus.map(self._column, shard) for shard in wanted]
        return self._corpus.map(self._column, wanted)


class StoredTokens:
    """A stored corpus of tokens as a source of rows for training: ``tokens``, and ``targets`` or ``loss_mask``."""

    def __init__(self, corpus: StoredCorpus) -> None:
        wanted = ("tokens", "targets", "loss_mask")
        self.columns = tuple(column for name in wanted for column in corpus.columns if column.name == name)
        self._corpus = corpus

    def fill(self, first_row: int, arrays: Mapping[str, Array], threads: int | None) -> None:
        """Fill the columns with the rows from `first_row` on."""
        count = len(next(iter(arrays.values())))
        shard_rows = self._corpus.layout.shard_rows
        row = 0
        while row < count:
            shard, first = divmod(first_row + row, shard_rows)
            end = min(first + count - row, shard_rows)
            for name, array in arrays.items():
                array[row : row + end - first] = self._corpus.map(name, shard)[first:end]
            row += end - first

    def largest(self) -> int:
        """The greatest token."""
        return max(int(shard.max()) for shard in self._corpus.shards("tokens"))


open_corpus = StoredCorpus  # as in tm.open_corpus("corpus")


def empty_rows(columns: tuple[Column, ...], row_count: int) -> dict[str, Array]:
    """Arrays for `row_count` rows."""
    return {column.name: np.empty((row_count, column.row_length), column.dtype) for column in columns}
