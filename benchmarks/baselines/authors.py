"""The work of the paper's released generator of transitions (arXiv 2310.00771), written here from its description.

That of tokens is `trajmill.bench.sampler.authors_tokens`. No processes, no files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch


def _softmax_in_single_precision(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return torch.softmax(torch.tensor(logits, dtype=torch.float32), dim=0).numpy()


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
