"""How many nats a token of a chain brings, which no predictor's mean loss goes below."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def stationary(transition: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """The law (S,) that rows (S, S) keep; None if, in float64, there are states that some others never reach.

    Elimination without subtractions (Grassmann, Taksar and Heyman 1985), right even for chains that hardly move.
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


def entropy_rate(transition: npt.NDArray[np.float64]) -> float | None:
    """Nats a token of a chain of order 1 with rows (S, S); None where `stationary` has none."""
    law = stationary(transition)
    if law is None:
        return None
    surprise = -np.log(transition, out=np.zeros_like(transition), where=transition > 0.0)
    return float(law @ (transition * surprise).sum(1))
