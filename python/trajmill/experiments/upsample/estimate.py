"""What making transitions costs, from a probe of about two seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trajmill.core.progress import duration

PROBE_SHARE = 128
"""the first block that is timed is this part of a whole one; each further one is four times as large"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job costs, from a probe of about two seconds."""

    training_seconds: float
    """0 if there is a model"""
    sampling_seconds: float
    disk_bytes: int
    """at most"""
    memory_bytes: int

    def __str__(self) -> str:
        training = f"{duration(self.training_seconds)} to train the model, " if self.training_seconds else ""
        return (
            f"about {training}{duration(self.sampling_seconds)} to make the transitions; at most "
            f"{size(self.disk_bytes)} on disk and about {size(self.memory_bytes)} of memory"
        )


def block_seconds(maker_of: Callable[[int], Any], seed: int, block_rows: int) -> float:
    """Of a block, as a straight line through the times of two smaller ones says, or the time of one of as many.

    `maker_of` gives what makes blocks of so many rows.
    """
    points: list[tuple[int, float]] = []
    rows = max(1, block_rows // PROBE_SHARE)
    while rows < block_rows and (len(points) < 2 or sum(seconds for _, seconds in points) < 1.0):
        maker = maker_of(rows)
        if not points:
            maker.block(seed, 0)  # what is made once is not counted
        began = time.monotonic()
        maker.block(seed, 0)
        points.append((rows, time.monotonic() - began))
        rows *= 4
    (few, short), (many, long) = points[-2:]
    return max(long, long + (block_rows - many) * (long - short) / (many - few))


def size(byte_count: int) -> str:
    """Bytes for people."""
    return f"{byte_count / 1e9:.1f} GB" if byte_count >= 1e9 else f"{math.ceil(byte_count / 1e6)} MB"
