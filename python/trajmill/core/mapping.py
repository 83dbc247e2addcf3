"""One-to-one maps of tokens and of numbered state-action pairs, for the paper's identity and mapping controls.

Source: arXiv 2310.00771, appendices F and J. The paper leaves the maps open; here they are keyed bijections.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill import _core
from trajmill.core import checks

_LARGEST_TABLE = 2**24


class OneToOneMap:
    """A bijection of [0, `size`), fixed by `size` and `seed`."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = checks.integer("size", size, 1, 2**63 - 1)
        self.seed = checks.seed(seed)
        numbers = np.arange(self.size if self.size <= _LARGEST_TABLE else 0, dtype=np.uint64)
        self._table = self._permute(numbers)

    def __call__(self, values: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """What `values`, integers of any shape in [0, size), are mapped to, in the smallest dtype that fits."""
        numbers = np.asarray(values)
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"values must be integers, got {numbers.dtype}")
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self.size):
            raise ValueError(f"values must lie in [0, {self.size}), got {numbers.min()} to {numbers.max()}")
        if len(self._table):
            return self._table[numbers]
        return self._permute(numbers.astype(np.uint64).ravel()).reshape(numbers.shape)

    def _permute(self, numbers: NDArray[np.uint64]) -> NDArray[Any]:
        permuted = _core.permute(numbers, size=self.size, seed=self.seed, epoch=0)
        return permuted.astype(checks.smallest_dtype(self.size))
