"""The work of the paper's released generators (arXiv 2310.00771) draw by draw, written here from their description.

Leaner than the programs themselves: no scikit-learn around the softmax of tokens, no processes, no files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _softmax_in_single_precision(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return torch.softmax(torch.tensor(logits, dtype=torch.float32), dim=0).numpy()


def authors_tokens(state_count: int, temperature: float, seed: int, rows: int, length: int) -> npt.NDArray[np.int64]:
    """One worker's block of a chain of order 1: a fresh generator and row for each token, a one-trial multinomial."""
    out = np.zeros((rows, length), np.int64)
    for step in range(length):
        sampler = np.random.default_rng(seed + step)
        if step == 0:
            first = _softmax(np.random.default_rng(seed).random(state_count) / temperature)
            out[:, 0] = sampler.choice(state_count, size=rows, p=first)
            continue
        for sequence in out:
            logits = np.random.default_rng([int(sequence[step - 1]) + 1 + seed]).random(state_count)
            sequence[step] = np.argmax(sampler.multinomial(1, _softmax(logits / temperature)))
    return out


def authors_transitions(
    trajectory_count: int, length: int, state_count: int, action_count: int, temperature: float
) -> npt.NDArray[np.int64]:
    """Transitions (3, trajectory_count * length): the legacy generator is seeded anew for each row and each draw."""
    random = np.random.mtrand._rand  # what np.random.seed and its like use
    out = np.zeros((3, trajectory_count, length), np.int64)
    for j in range(trajectory_count):
        random.seed(trajectory_count)
        state = random.randint(state_count)
        for t in range(length):
            random.seed(state)
            policy = _softmax_in_single_precision(random.rand(action_count) / temperature)
            random.seed(42 + 1000 * j + 333 * t)
            action = random.choice(action_count, p=policy)
            random.seed(888 * state + 777 * action)
            transition = _softmax_in_single_precision(random.rand(state_count) / temperature)
            random.seed(666 + 1000 * j + 333 * t)
            following = random.choice(state_count, p=transition)
            out[:, j, t] = state, action, following
            state = following
    return out.reshape(3, -1)
