"""Laws over a list of values in whole numbers: Zipf's, and the cells of an alias table (docs/streams.md)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill import _core
from trajmill.core import checks

Floats = NDArray[Any]
LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # low bits zero, so that multiples of it are exact
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")


def zipf(count: int, exponent: float, shift: float) -> Floats:
    """Probabilities of ranks 1 to `count`, in proportion to (rank + shift)**-exponent; the same on every machine."""
    ranks: Floats = np.arange(1, count + 1, dtype=np.float64) + shift
    weights = 1 / ranks if exponent == 1 else exponential(exponent * (logarithm(ranks[:1]) - logarithm(ranks)))
    probabilities: Floats = weights / math.fsum(weights)
    return probabilities


def alias_cells(rows: Floats) -> NDArray[np.uint32]:
    """The cells of an alias table for each row of probabilities (n, columns); see docs/streams.md."""
    return _core.alias_cells(np.ascontiguousarray(rows), memory_limit=checks.memory_limit())


def alias_parts(probabilities: Floats) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """The cells of the alias table of a law: for each column its threshold out of 2**32, and its alias."""
    (cells,) = alias_cells(probabilities[None])
    if len(probabilities) <= 256:
        return (cells >> 8 << 8).astype(np.uint64), cells & np.uint32(0xFF)
    return cells[::2].astype(np.uint64), cells[1::2]


def alias_law(thresholds: NDArray[Any], aliases: NDArray[Any]) -> Floats:
    """The exact probabilities that the cells of an alias table draw with."""
    kept = thresholds / 2**32
    law: Floats = (kept + np.bincount(aliases, 1 - kept, len(kept))) / len(kept)
    return law


def logarithm(x: Floats) -> Floats:
    """The natural logarithm of numbers >= 1 by additions, multiplications and divisions in a fixed order."""
    fraction, exponent = np.frexp(x)
    small = fraction < math.sqrt(0.5)
    fraction, exponent = np.where(small, 2 * fraction, fraction), exponent - small
    s = (fraction - 1) / (fraction + 1)
    square, series = s * s, np.zeros_like(s)
    for k in range(25, 0, -2):
        series = series * square + 1 / k
    result: Floats = exponent * LN2_HIGH + (exponent * LN2_LOW + 2 * s * series)
    return result


def exponential(x: Floats) -> Floats:
    """e^x of numbers <= 0 likewise; below -708 it is 0."""
    bounded = np.maximum(x, -708.0)
    whole = np.floor(bounded * 1.4426950408889634 + 0.5)
    rest = (bounded - whole * LN2_HIGH) - whole * LN2_LOW
    series = np.ones_like(x)
    for k in range(13, 0, -1):
        series = 1.0 + series * rest / k
    return np.where(x < -708.0, 0.0, np.ldexp(series, whole.astype(np.int64)))
