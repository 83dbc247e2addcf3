"""The authors' own conventions, where results are to be compared with the paper's (arXiv 2310.00771)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trajmill.core import checks


def codebooks(
    state_count: int, action_count: int, observation_dim: int, action_dim: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The paper's fixed vectors of states and actions, bit for bit as its released code draws them.

    Both come from one legacy NumPy stream with seed 0, states first, so the action vectors depend on all four sizes.

    Returns
    -------
    float32 (state_count, observation_dim) and float32 (action_count, action_dim), Uniform(-1, 1).
    """
    states = checks.state_count("state_count", state_count)
    actions = checks.state_count("action_count", action_count)
    dimensions = [
        checks.integer(n, v, 1, 2**31) for n, v in (("observation_dim", observation_dim), ("action_dim", action_dim))
    ]
    stream = np.random.RandomState(0)
    vectors = [2 * stream.rand(n, d) - 1 for n, d in zip((states, actions), dimensions, strict=True)]
    return vectors[0].astype(np.float32), vectors[1].astype(np.float32)
