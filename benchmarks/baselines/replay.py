"""The released Python loop that makes windows; other peers of replay buffers are in `trajmill.bench.replay`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import windows_twin

Columns = Mapping[str, np.ndarray]
Call = Callable[[], Any]


def looped_windows(columns: Columns, batch_size: int, context_length: int) -> Call:
    """Windows of steps by the released Python loop."""
    episodes = windows_twin.split(columns)
    chosen, moments = windows_twin.select(episodes), windows_twin.mean_and_deviation(episodes)
    random = np.random.default_rng(0)

    def sample() -> dict[str, np.ndarray]:
        choices = windows_twin.draw(episodes, chosen, batch_size, random)
        return windows_twin.windows(episodes, choices, context_length, *moments, flags=())

    return sample
