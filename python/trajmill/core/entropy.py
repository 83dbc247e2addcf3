"""The entropy rate of a chain, in nats a token: no predictor's mean loss can be lower."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stationary(transition: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The law (S,) that rows (S, S) leave unchanged; None if, in float64, some states never reach some others.

    Elimination without subtractions (Grassmann, Taksar and Heyman 1985), accurate even for chains that hardly move.
    """
    rest = np.array(transition, dtype=np.float64)
    for state in range(len(rest) - 1, 0, -1):
        leaving = rest[state, :state].sum()
        if leaving == 0.0:
            return None
        rest[:state, state] /= leaving
        rest[:state, :state] += np.outer(rest[:state, state], rest[state, :state])
    law = np.ones(len(rest))
    for state in range(1, len(rest)):
        law[state] = law[:state] @ rest[:state, state]
    law /= law.sum()
    return law


def entropy_rate(transition: NDArray[np.float64]) -> float | None:
    """Entropy rate of a chain of order 1 with rows (S, S), in nats a token; None where `stationary` is None."""
    law = stationary(transition)
    if law is None:
        return None
    surprise = -np.log(transition, out=np.zeros_like(transition), where=transition > 0.0)
    return float(law @ (transition * surprise).sum(1))
