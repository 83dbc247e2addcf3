"""Rows of chances, and the law that a chain of them leaves unchanged: the same bits on every machine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def tuples(table: Floats) -> Any:
    """An array as nested tuples."""

    def nested(values: Any) -> Any:
        return tuple(map(nested, values)) if isinstance(values, list) else values

    return nested(table.tolist())


def divided(table: Floats) -> Floats:
    """Rows divided by their sums, which are exactly rounded."""
    sums = [math.fsum(row) for row in table.reshape(-1, table.shape[-1]).tolist()]
    result: Floats = table / np.array(sums).reshape(*table.shape[:-1], 1)
    return result


def irreducible(chain: Floats) -> bool:
    """Whether every state leads to every other."""
    for edges in (chain > 0, chain.T > 0):
        reached = np.zeros(len(chain), bool)
        reached[0] = True
        newly = reached
        while newly.any():
            newly = edges[newly].any(0) & ~reached
            reached = reached | newly
        if not reached.all():
            return False
    return True


def stationary(chain: Floats) -> Floats:
    """The stationary law of an irreducible chain, by Grassmann's, Taksar's and Heyman's elimination."""
    rest = chain.copy()
    for last in range(len(rest) - 1, 0, -1):
        rest[:last, last] /= math.fsum(rest[last, :last].tolist())
        rest[:last, :last] += rest[:last, last, None] * rest[last, :last]
    law = [1.0]
    for state in range(1, len(rest)):
        law.append(math.fsum((np.array(law) * rest[:state, state]).tolist()))
    total = math.fsum(law)
    return np.array([chance / total for chance in law])
