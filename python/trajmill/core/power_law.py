"""Power laws in whole numbers, alike on every machine."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray


def limits(count: int, power: float) -> NDArray[Any]:
    """How many of the 2**32 words propose a rank or one before it, modulo 2**32, uint32 (count,).

    Rank g, from 1 to `count`, has a weight of g**(power - 1). Sums are decimals with 28 digits, and limits are
    rounded down.
    """
    context = Context(prec=28, rounding=ROUND_HALF_EVEN)
    exponent = context.subtract(Decimal(power), Decimal(1))
    weights = [context.exp(context.multiply(exponent, context.ln(Decimal(g)))) for g in range(1, count + 1)]
    sums = list(accumulate(weights, context.add))
    ends = [int(context.divide(context.multiply(Decimal(2**32), part), sums[-1])) for part in sums[:-1]]
    return np.array([*ends, 0], np.uint32)


def chances(limits: NDArray[Any]) -> NDArray[np.float64]:
    """The chance of every rank, for these limits."""
    result: NDArray[np.float64] = np.diff(limits[:-1].astype(np.float64), prepend=0, append=2**32) / 2**32
    return result
