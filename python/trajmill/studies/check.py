"""Recomputes every number that a paper printed and that its authors' own runs give, by the rules of the authors.

What our tables call ``average last four`` and ``best`` is also theirs; a cell is the mean over seeds of it, and the
deviation is that of all seeds (divided by their number). An average is the plain mean of a column's twelve cells, or of
its twelve deviations. For Table 11 the target is 0.9 of a raw return, not of a normalized score: the return of the
first column's last evaluation, mean over seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmill.data.environments import D4RL_TASKS, normalized_score
from trajmill.studies.authors import authors_runs
from trajmill.studies.measures import score_statistic
from trajmill.studies.records import Column, Study

HALF = 0.05 + 1e-9
"""how far a number of one decimal is at most from what it was rounded from"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedNumber:
    """A number of a table, and what the runs give in its place."""

    column: str
    place: str
    """a dataset, or ``average``"""
    what: str
    """``mean`` or ``deviation``"""
    printed: float
    runs: float

    @property
    def agrees(self) -> bool:
        """Whether the printed number is the other one, rounded; a tie may go either way."""
        return abs(self.printed - self.runs) <= HALF


def checked_numbers(study: Study) -> list[CheckedNumber]:
    """Every number that the paper printed in this table and that runs of its authors give, column by column."""
    numbers, table = [], study.name.partition("-")[2]
    for column in study.columns:
        values = _of_runs(study, column) if column.printed.partition("/")[0] == table else {}
        if not values:
            continue
        printed = (study.printed or {})[column.printed]
        means = {dataset: float(each.mean()) for dataset, each in values.items()}
        deviations = {dataset: float(each.std()) for dataset, each in values.items()}
        for what, on_paper, average, of_runs in (
            ("mean", printed.means, printed.average, means),
            ("deviation", printed.deviations, printed.average_deviation, deviations),
        ):
            pairs = [(place, value, of_runs[place]) for place, value in on_paper.items()]
            if average is not None:
                pairs.append(("average", average, float(np.mean(list(of_runs.values())))))
            numbers += [
                CheckedNumber(column=column.label, place=place, what=what, printed=value, runs=theirs)
                for place, value, theirs in pairs
            ]
    return numbers


def _of_runs(study: Study, column: Column) -> dict[str, NDArray[np.float64]]:
    """The column's statistic of each seed, (seed_count,), by dataset; empty if the runs do not give it."""
    if not study.authors or column.statistic not in ("average last four", "best", "updates to 90 %"):
        return {}
    runs, values = authors_runs(study.authors), {}
    for dataset in runs.datasets:
        scores = runs.series(column.trained.authors_name, [dataset])
        baseline = runs.series(study.columns[0].trained.authors_name, [dataset])
        if scores is None or baseline is None:
            return {}
        target = _target(dataset, float(baseline[0].values[-1].mean()))
        values[dataset] = score_statistic(column.statistic, scores[0], target / 0.9)
    return values


def _target(dataset: str, score: float) -> float:
    """The normalized score of 0.9 of the return that `score` stands for."""
    task = D4RL_TASKS[dataset.partition("-")[0]]
    reference = task.reference_score
    assert reference is not None  # as of all tasks of D4RL
    mean_return = reference.minimum + score / 100 * (reference.maximum - reference.minimum)
    return float(normalized_score(task.environment_id, 0.9 * mean_return))
