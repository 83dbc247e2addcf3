"""Corpora that are not stored: any row of any of 10^12 sequences is made when it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill.core import MDP, MarkovChain, checks
from trajmill.corpus.rows import Array, Corpus, empty_rows
from trajmill.corpus.sources import rows_of


class VirtualCorpus(Corpus):
    """`sequence_count` rows of `length` tokens of a chain, or transitions of an MDP.

    Row i is what ``law.sample(1, length, first_sequence=i)`` returns and what a stored corpus of this law holds.

    Parameters
    ----------
    law
        A MarkovChain (column ``tokens``) or an MDP (columns ``states``, of length + 1, and ``actions``).
    sequence_count
        Rows, 1 to 2**63 - 1.
    length
        Tokens or transitions of a row, >= 1.
    threads
        Threads that draw a batch; default 1, since loaders have workers of their own.
    """

    def __init__(self, law: MarkovChain | MDP, *, sequence_count: int, length: int, threads: int = 1) -> None:
        self.law = law
        self.row_count = checks.integer("sequence_count", sequence_count, 1, 2**63 - 1)
        self.length = checks.integer("length", length, 1, 2**32 - 1)
        self._source = rows_of(law, self.length)
        self._threads = checks.thread_count(threads)
        self.columns = self._source.columns

    def read(self, indexes: npt.NDArray[np.integer[Any]]) -> dict[str, Array]:
        """See `Corpus.read`."""
        arrays = empty_rows(self.columns, len(indexes))
        self._source.pick(indexes, arrays, self._threads)
        return arrays

    def __repr__(self) -> str:
        return f"VirtualCorpus({self.law!r}, sequence_count={self.row_count}, length={self.length})"
