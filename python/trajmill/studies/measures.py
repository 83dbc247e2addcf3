"""Reads the runs of a study and puts their statistics beside what the paper printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmill.data.official import official_file
from trajmill.evaluation import statistics
from trajmill.report.comparison import Comparison, Entry
from trajmill.runs.reading import RunRecord, read_run
from trajmill.studies.cells import ReproduceConfig, short_name
from trajmill.studies.records import DIGITS, Column, Printed, Statistic, Study, Variant
from trajmill.studies.similarity import backbone_similarities, feature_similarities


@dataclass
class Results:
    """Run directories of a study, read as they are asked for."""

    study: Study
    output: Path
    config: ReproduceConfig
    runs: dict[tuple[str, str], Path] = field(default_factory=dict)
    _read: dict[Path, RunRecord] = field(default_factory=dict)
    _similarities: dict[tuple[Path, str], tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)

    def run(self, variant: Variant, dataset: str) -> RunRecord | None:
        """The run of a cell, if there is one."""
        path = self.runs.get((variant.name, dataset))
        if path is None:
            return None
        return self._record(path)

    def _record(self, path: Path) -> RunRecord:
        if path not in self._read:
            self._read[path] = read_run(path)
        return self._read[path]

    def pretraining(self, run: RunRecord) -> RunRecord:
        """The run that `run` started from."""
        return self._record(Path(run.settings["init"]))

    def values(self, column: Column, dataset: str) -> NDArray[np.float64] | None:
        """The column's statistic of each seed, (seed_count,), NaN where a seed has none; None if nothing was run."""
        assert column.variant is not None
        run = self.run(column.variant, dataset)
        if run is None:
            return None
        if column.statistic == "pre-training minutes":
            before = self.pretraining(run)
            return np.array([before.wall_seconds / 60 / len(before.seeds)])
        if column.statistic == "fine-tuning hours":
            return np.array([run.wall_seconds / 3600 / len(run.seeds)])
        if column.statistic.endswith(" start"):
            return self._similarity(run, column.statistic)
        scores = run.evaluation("normalized_score")
        assert scores is not None  # read_run refuses finished runs without
        if column.statistic == "best":
            return statistics.best(scores.values)
        if column.statistic == "average last four":
            return statistics.average_last_four(scores.values)
        target = self._baseline(dataset)
        if target is None:
            return np.full(len(run.seeds), np.nan)
        steps = [int(step) for step in scores.updates]
        return statistics.updates_to_fraction(steps, scores.values, target=target) / 1000

    def over(self, column: Column, datasets: list[str]) -> NDArray[np.float64] | None:
        """The column's statistic, (seed_count, dataset_count); None unless every seed has one on every dataset."""
        values = [self.values(column, dataset) for dataset in datasets]
        found = [value for value in values if value is not None and np.isfinite(value).all()]
        return np.stack(found, axis=1) if len(found) == len(datasets) else None

    def printed(self, column: Column) -> Printed | None:
        """What the paper printed in the column's place."""
        return (self.study.printed or {}).get(column.printed)

    def _similarity(self, run: RunRecord, statistic: Statistic) -> NDArray[np.float64]:
        measure = feature_similarities if statistic.startswith("feature") else backbone_similarities
        key = (run.path, measure.__name__)
        if key not in self._similarities:
            self._similarities[key] = measure(run)
        random, pretrained = self._similarities[key]
        return random if statistic.endswith("random start") else pretrained

    def _baseline(self, dataset: str) -> float | None:
        """Final score of the first column, over seeds."""
        first = self.study.columns[0].variant
        assert first is not None
        run = self.run(first, dataset)
        scores = None if run is None else run.evaluation("normalized_score")
        return None if scores is None else float(statistics.average_last_four(scores.values).mean())


def comparison_of(results: Results, missing: Mapping[str, str], not_yet: Mapping[str, str]) -> Comparison:
    """The table of a study; cells without a number say why."""
    study = results.study
    rows = {
        short_name(dataset): tuple(_entry(results, column, dataset, missing, not_yet) for column in study.columns)
        for dataset in study.datasets
    }
    run = [dataset for dataset in study.datasets if dataset not in missing]
    if len(run) > 1:
        label = f"Average over these {len(run)}" if len(run) == len(rows) else f"Average over the {len(run)} run here"
        rows[label] = tuple(_average(results, column, run) for column in study.columns)
    if any(column.printed for column in study.columns):
        rows["Average as printed"] = tuple(_printed_average(results, column) for column in study.columns)
    return Comparison(columns=tuple(_heading(column) for column in study.columns), rows=rows)


def _heading(column: Column) -> str:
    return f"{column.group}: {column.label}" if column.group and column.group not in column.label else column.label


def _entry(
    results: Results, column: Column, dataset: str, missing: Mapping[str, str], not_yet: Mapping[str, str]
) -> Entry:
    assert column.variant is not None
    digits = DIGITS.get(column.statistic, 1)
    official = official_file(dataset)
    printed = results.printed(column)
    theirs = None if printed is None or official is None else printed.means.get(official.name)
    spread = None if printed is None or official is None else printed.deviations.get(official.name)
    values = results.values(column, dataset)
    entry = Entry(digits=digits, printed=theirs, printed_deviation=spread)
    if values is None:
        reason = "no data" if dataset in missing else "not yet" if column.variant.name in not_yet else "not run"
        return replace(entry, why_empty=reason)
    absent = int(np.isnan(values).sum())
    if absent:
        word = "not reached" if column.statistic == "updates to 90 %" else "no finite score"
        return replace(entry, why_empty=f"{word}: {absent} of {len(values)} seeds")
    return replace(entry, ours=statistics.bootstrap_interval(values), seed_count=len(values))


def _average(results: Results, column: Column, datasets: list[str]) -> Entry:
    """Plain mean over the datasets that were run, theirs and ours alike."""
    digits = DIGITS.get(column.statistic, 1)
    printed = results.printed(column)
    names = [official.name if (official := official_file(name)) else "" for name in datasets]
    theirs = None if printed is None else [printed.means.get(name, math.nan) for name in names]
    mean = None if theirs is None or np.isnan(theirs).any() else float(np.mean(theirs))
    entry = Entry(digits=digits, printed=mean)
    stacked = results.over(column, datasets)
    if stacked is None:
        return replace(entry, why_empty="cells missing")
    return replace(entry, ours=statistics.bootstrap_interval(stacked), seed_count=len(stacked))


def _printed_average(results: Results, column: Column) -> Entry:
    printed = results.printed(column)
    if printed is None:
        return Entry()
    return Entry(
        digits=DIGITS.get(column.statistic, 1),
        printed=printed.average,
        printed_deviation=printed.average_deviation,
    )
