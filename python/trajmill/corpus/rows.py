"""What every corpus can do, stored or virtual: rows by number, by slice, by a batch of numbers, in a shuffled order."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill.core import checks
from trajmill.corpus.layout import Column
from trajmill.corpus.order import Permutation

Array = npt.NDArray[Any]
Rows = Array | dict[str, Array]
"""one column: its array; several: a dictionary of arrays by column name"""


class Corpus(ABC):
    """A sequence of rows, and a map-style dataset for ``torch.utils.data.DataLoader``.

    A corpus of one column gives arrays, (row_length,) for a row and (n, row_length) for several; one of several columns
    gives dictionaries of such arrays. It can be pickled, so that loader workers have their own.
    """

    columns: tuple[Column, ...]
    row_count: int

    @abstractmethod
    def read(self, indexes: npt.NDArray[np.integer[Any]]) -> dict[str, Array]:
        """The rows at `indexes`, each in [0, row_count), in their order: an (n, row_length) array for each column."""

    def __len__(self) -> int:
        return self.row_count

    def __getitem__(self, key: int | slice) -> Rows:
        """Row `key`, or the rows of a slice."""
        if isinstance(key, slice):
            return self._rows(self.read(np.arange(*key.indices(len(self)))))
        index = operator.index(key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row must be between {-len(self)} and {len(self) - 1}, got {index}")
        arrays = self.read(np.array([index % len(self)]))
        return self._rows({name: array[0] for name, array in arrays.items()})

    def __getitems__(self, indexes: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Array | list[dict[str, Array]]:
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

    def shuffled(self, seed: int, *, epoch: int = 0) -> ShuffledCorpus:
        """The same rows in an order that is a pure function of `seed` and `epoch`; takes no memory."""
        return ShuffledCorpus(self, Permutation(len(self), seed=seed, epoch=epoch))

    def _rows(self, arrays: dict[str, Array]) -> Rows:
        return arrays[self.columns[0].name] if len(arrays) == 1 else arrays


class ShuffledCorpus(Corpus):
    """Row i is row ``permutation(i)`` of the corpus behind it."""

    def __init__(self, corpus: Corpus, permutation: Permutation) -> None:
        self.columns, self.row_count = corpus.columns, corpus.row_count
        self._corpus, self._permutation = corpus, permutation

    def read(self, indexes: npt.NDArray[np.integer[Any]]) -> dict[str, Array]:
        """See `Corpus.read`."""
        return self._corpus.read(self._permutation(indexes))


def empty_rows(columns: tuple[Column, ...], row_count: int) -> dict[str, Array]:
    """Arrays for `row_count` rows."""
    return {column.name: np.empty((row_count, column.row_length), column.dtype) for column in columns}
