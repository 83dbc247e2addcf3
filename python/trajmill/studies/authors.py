"""A paper's own runs, as its authors published them, measured by the statistics that ours are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from trajmill.runs.reading import Series
from trajmill.studies.records import Place

SCALES = {"score": 100, "loss": 100_000}
"""stored whole numbers to one of the quantity: scores have two decimals, losses five"""
MISSING_SCORE, MISSING_LOSS = -(2**15), 0
"""stands for what was not run"""
INTERVAL = 5000
"""updates between evaluations"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorsRuns:
    """Scores and training losses of every variant, float64 (dataset, seed, evaluation), NaN where nothing was run."""

    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: dict[str, NDArray[np.float64]]
    """by variant; normalized as D4RL does, of ten episodes each"""
    losses: dict[str, NDArray[np.float64]]
    """by variant; mean over the updates since the last evaluation"""

    def series(self, variant: str, datasets: Sequence[Place], *, losses: bool = False) -> list[Series] | None:
        """Scores or losses on each dataset, of the seeds that were run on all of them; None if there are none.

        Values are (evaluation_count, seed_count), the same seeds in the same order on every dataset.
        """
        found = (self.losses if losses else self.scores).get(variant)
        numbers = [
            self.datasets.index(place) for place in datasets if isinstance(place, str) and place in self.datasets
        ]
        if found is None or not numbers or len(numbers) < len(datasets):
            return None
        found = found[numbers]
        count = np.isfinite(found).sum(2).max()
        found = found[:, np.isfinite(found[:, :, :count]).all((0, 2)), :count]
        updates = INTERVAL * np.arange(1, count + 1)
        return [Series(updates=updates, values=each.T) for each in found] if found.size else None


@cache
def authors_runs(name: str) -> AuthorsRuns:
    """The runs in a file beside this one."""
    with (files(__package__) / name).open("rb") as file, np.load(file) as content:
        scores, losses = content["scores"], content["losses"]
        scores = np.where(scores == MISSING_SCORE, np.nan, scores / SCALES["score"])
        losses = np.where(losses == MISSING_LOSS, np.nan, losses / SCALES["loss"])
        variants = content["variants"].tolist()
        return AuthorsRuns(
            datasets=tuple(content["datasets"].tolist()),
            seeds=tuple(content["seeds"].tolist()),
            scores=dict(zip(variants, scores, strict=True)),
            losses=dict(zip(variants, losses, strict=True)),
        )
