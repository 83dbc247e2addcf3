"""What the rows that were made are like, beside the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from trajmill.core.files import write_whole
from trajmill.core.progress import Progress
from trajmill.data import Transitions
from trajmill.data.environments import simulated_environment
from trajmill.data.records import Columns
from trajmill.evaluation.quality import measure_quality
from trajmill.experiments.upsample.real import RealData
from trajmill.report.quality import write_quality_report

QUALITY_ROWS = 50_000
"""transitions that are measured"""


def measurable(real: RealData, count: int) -> bool:
    """Whether there are rows enough to be compared."""
    return count >= 2 and len(real.transitions) >= 4


def write_quality(
    real: RealData, pieces: Iterable[Columns], count: int, page: Path, numbers: Path, title: str, progress: Progress
) -> None:
    """Measure the first of `count` rows; a page for people, and the numbers."""
    count = min(count, QUALITY_ROWS)
    sides = {"real": real.with_numbers(real.transitions), "synthetic": _first(pieces, count)}
    quality = measure_quality(
        *sides.values(),
        environment_id=None if real.category_count else simulated_environment(real.dataset),
        progress=progress,
    )
    write_whole(numbers, json.dumps(asdict(quality), indent=1).encode())
    write_quality_report(quality, page, title=title, examples=sides)


def _first(pieces: Iterable[Columns], count: int) -> Transitions:
    """The first rows of the pieces."""
    kept: list[Columns] = []
    missing = count
    for piece in pieces:
        kept.append({name: column[:missing] for name, column in piece.items()})
        missing -= len(kept[-1]["rewards"])
        if missing == 0:
            break
    columns = {name: np.concatenate([piece[name] for piece in kept]) for name in kept[0]}
    return Transitions(
        observation=columns["observations"],
        action=columns["actions"],
        reward=columns["rewards"],
        next_observation=columns["next_observations"],
        terminal=columns["terminals"],
        truncated=np.zeros(count, np.bool_),
    )


def count_outside(real: RealData, pieces: Iterable[Columns], count: int) -> tuple[int, dict[str, float]]:
    """Number of terminals in `count` rows, and the share of their numbers outside the range of the data."""
    terminals, counts = 0, dict.fromkeys(("observations", "actions", "rewards"), 0)
    ends = np.cumsum([0, *real.widths]).tolist()
    limits = {key: slice(*ends) for key, ends in zip(counts, pairwise(ends), strict=False)}
    for piece in pieces:
        terminals += int(piece["terminals"].sum())
        for key, columns in limits.items():
            values = piece[key].reshape(len(piece[key]), -1)
            counts[key] += int(((values < real.low[columns]) | (values > real.high[columns])).sum())
    sizes = {key: count * (limits[key].stop - limits[key].start) for key in counts}
    return terminals, {key: counts[key] / sizes[key] for key in counts}
