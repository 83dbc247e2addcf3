"""Reads the runs of a study and puts their statistics beside what the paper printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmill.algorithms import method_named
from trajmill.data import Transitions, load_dataset, qlearning_transitions
from trajmill.data.environments import Task
from trajmill.data.official import official_file
from trajmill.evaluation import statistics
from trajmill.report.comparison import Comparison, Entry
from trajmill.runs.reading import RunRecord, checkpoints, read_run, read_state
from trajmill.studies.cells import ReproduceConfig, labels
from trajmill.studies.records import Column, Place, Printed, Study, Variant
from trajmill.studies.similarity import Cosines, backbone_similarities, feature_similarities


@dataclass
class Results:
    """What a study left behind: its files, and run directories, each read when it is first needed."""

    study: Study
    output: Path
    config: ReproduceConfig
    runs: Mapping[tuple[str, Place], Path]
    """by variant and place"""
    missing: Mapping[str, str] = field(default_factory=dict)
    """datasets that were not found, with the reason"""
    not_yet: Mapping[str, str] = field(default_factory=dict)
    """variants that could not be run, with the reason"""
    _read: Callable[[Path], RunRecord] = field(default_factory=lambda: cache(read_run))
    _data_values: dict[Path, NDArray[np.float32]] = field(default_factory=dict)
    _transitions: dict[tuple[str, int | None], Transitions] = field(default_factory=dict)
    _similarities: dict[tuple[Path, str], tuple[Cosines, Cosines]] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The page."""
        return self.output / f"{self.study.name}.html"

    @property
    def markdown(self) -> Path:
        """The table in Markdown, with links to the figures."""
        return self.output / f"{self.study.name}.md"

    @cached_property
    def comparison(self) -> Comparison:
        """The table; cells without a number say why."""
        study = self.study
        rows = {
            label: tuple(_entry(self, column, data) for column in study.columns)
            for data, label in labels(study.places).items()
        }
        found = [place for place in study.places if place not in self.missing]
        if len(found) > 1:
            which = f"these {len(found)}" if len(found) == len(rows) else f"the {len(found)} run here"
            rows[f"Average over {which}"] = tuple(_average(self, column, found) for column in study.columns)
        if any(column.printed for column in study.columns):
            rows["Average as printed"] = tuple(_printed_average(self, column) for column in study.columns)
        heads = (
            f"{each.group}: {each.label}" if each.group not in each.label else each.label for each in study.columns
        )
        return Comparison(columns=tuple(heads), rows=rows, place=study.kind.removesuffix("s"))

    def run(self, variant: Variant, dataset: Place) -> RunRecord | None:
        """The run of a cell, if there is one."""
        path = self.runs.get((variant.name, dataset))
        return None if path is None else self._read(path)

    def pretraining(self, run: RunRecord) -> RunRecord:
        """The run that `run` started from."""
        return self._read(Path(run.settings["init"]))

    @property
    def run_paths(self) -> list[Path]:
        """All runs, and then those that they started from."""
        inits = dict.fromkeys(self._read(path).settings["init"] for path in self.runs.values())
        return [*self.runs.values(), *(Path(init) for init in inits if init is not None)]

    def values(self, column: Column, dataset: Place) -> NDArray[np.float64] | None:
        """The column's statistic of each seed, (seed_count,), NaN where a seed has none; None if nothing was run."""
        run = self.run(column.trained, dataset)
        if run is None:
            return None
        if column.statistic == "pre-training minutes":
            before = self.pretraining(run)
            return np.array([before.wall_seconds / 60 / len(before.seeds)])
        if column.statistic == "fine-tuning hours":
            return np.array([run.wall_seconds / 3600 / len(run.seeds)])
        if column.statistic == "mean value of the data":
            return np.asarray(self.data_values(run).mean(1), np.float64)
        kind, _, start = column.statistic.partition(" cosine with ")
        if start:
            if (key := (run.path, kind)) not in self._similarities:
                measure = feature_similarities if kind == "feature" else backbone_similarities
                self._similarities[key] = measure(run)
            return self._similarities[key][int(start == "pre-trained start")]
        scores = run.evaluation("normalized_score")
        assert scores is not None  # read_run refuses finished runs without
        if column.statistic == "best":
            return statistics.best(scores.values)
        if column.statistic == "average last four":
            return statistics.average_last_four(scores.values)
        updates = scores.updates.tolist()
        return statistics.updates_to_fraction(updates, scores.values, target=self._baseline(dataset)) / 1000

    def data_values(self, run: RunRecord) -> NDArray[np.float32]:
        """What the critics of a finished run say its real data are worth, (seed_count, row_count)."""
        if run.path not in self._data_values:
            tensors, known = read_state(checkpoints(run.path)[0])
            source = run.settings["dataset"], run.settings.get("limit")
            if source not in self._transitions:
                self._transitions[source] = qlearning_transitions(load_dataset(source[0], limit=source[1]))
            values = method_named(run.kind).data_values(tensors, known, self._transitions[source])
            self._data_values[run.path] = values
        return self._data_values[run.path]

    def over(self, column: Column, datasets: list[Place]) -> NDArray[np.float64] | None:
        """The column's statistic, (seed_count, dataset_count); None unless every seed has one on every dataset."""
        values = [self.values(column, dataset) for dataset in datasets]
        found = [value for value in values if value is not None and np.isfinite(value).all()]
        return np.stack(found, axis=1) if len(found) == len(datasets) else None

    def printed(self, column: Column) -> Printed:
        """What the paper printed in the column's place, as far as it is on record."""
        return (self.study.printed or {}).get(column.printed, Printed())

    def _baseline(self, dataset: Place) -> float:
        """Final score of the first column, averaged over seeds; NaN if it was not run."""
        scores = self.values(replace(self.study.columns[0], statistic="average last four"), dataset)
        return math.nan if scores is None else float(scores.mean())


def _entry(results: Results, column: Column, dataset: Place) -> Entry:
    printed, name, values = results.printed(column), _official_name(dataset), results.values(column, dataset)
    entry = Entry(digits=column.digits, printed=printed.means.get(name), printed_deviation=printed.deviations.get(name))
    if values is None:
        not_run = "not yet" if column.trained.name in results.not_yet else "not run"
        return replace(entry, why_empty="no data" if dataset in results.missing else not_run)
    absent = int(np.isnan(values).sum())
    if absent:
        why = "not reached" if column.statistic == "updates to 90 %" else "no finite score"
        return replace(entry, why_empty=f"{why}: {absent} of {len(values)} seeds")
    return replace(entry, ours=statistics.bootstrap_interval(values), seed_count=len(values))


def _average(results: Results, column: Column, datasets: list[Place]) -> Entry:
    """Plain mean over the datasets that were run, theirs and ours alike."""
    means = results.printed(column).means
    printed = float(np.mean([means.get(_official_name(dataset), math.nan) for dataset in datasets]))
    entry = Entry(digits=column.digits, printed=None if math.isnan(printed) else printed)
    values = results.over(column, datasets)
    if values is None:
        return replace(entry, why_empty="cells missing")
    return replace(entry, ours=statistics.bootstrap_interval(values), seed_count=len(values))


def _printed_average(results: Results, column: Column) -> Entry:
    printed = results.printed(column)
    return Entry(digits=column.digits, printed=printed.average, printed_deviation=printed.average_deviation)


def _official_name(place: Place) -> str:
    """The name by which papers print numbers of a place; empty for a dataset that is not an official one."""
    if isinstance(place, Task):
        return place.name
    official = official_file(place)
    return "" if official is None else official.name
