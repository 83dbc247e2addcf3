"""Seeds that are made of another one and an address."""

from __future__ import annotations

import numpy as np


def hashed_seed(seed: int, *address: int) -> int:
    """A 64-bit hash of a seed and an address, numbers of at least 0; addresses of other lengths share no seeds."""
    return int(np.random.SeedSequence(seed, spawn_key=address).generate_state(1, np.uint64)[0])
