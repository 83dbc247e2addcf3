"""Peers of the sampler, written here from their descriptions."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


@numba.njit
def numba_alias_chain(
    threshold: npt.NDArray[np.float32], alias: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8], seed: int
) -> None:
    """One alias draw a token from numba's generator: what a careful user writes today."""
    np.random.seed(seed)  # noqa: NPY002  (the only generator numba loops have)
    states = threshold.shape[0]
    for i in range(out.shape[0]):
        state = 0
        for t in range(out.shape[1]):
            scaled = np.random.random() * states  # noqa: NPY002
            column = int(scaled)
            state = column if scaled - column < threshold[state, column] else alias[state, column]
            out[i, t] = state


def alias_tables(rows: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Vose's tables of each row, for `numba_alias_chain`."""
    threshold, alias = np.ones(rows.shape, np.float32), np.zeros(rows.shape, np.uint8)
    for s, row in enumerate(rows * rows.shape[1]):
        scaled = row.copy()
        small, large = [list(np.flatnonzero(c)) for c in (scaled < 1, scaled >= 1)]
        while small and large:
            low, high = small.pop(), large[-1]
            threshold[s, low], alias[s, low] = scaled[low], high
            scaled[high] -= 1 - scaled[low]
            if scaled[high] < 1:
                small.append(large.pop())
    return threshold, alias


def authors_way(state_count: int, temperature: float, seed: int, rows: int, length: int) -> npt.NDArray[np.int64]:
    """The published generator's work per token: a fresh generator and softmax row, then a one-trial multinomial."""
    out = np.zeros((rows, length), np.int64)
    for t in range(length):
        sampler = np.random.default_rng(seed + t)
        for i in range(rows):
            key = seed if t == 0 else [int(out[i, t - 1]) + 1 + seed]
            logits = np.random.default_rng(key).random(state_count) / temperature
            weights = np.exp(logits - logits.max())
            out[i, t] = np.argmax(sampler.multinomial(1, weights / weights.sum()))
    return out
