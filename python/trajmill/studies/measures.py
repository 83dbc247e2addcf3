"""Reads the runs of a study and puts their statistics beside what the paper printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.algorithms import method_named
from trajmill.data import Transitions, load_dataset, qlearning_transitions
from trajmill.data.environments import Task
from trajmill.data.official import official_file
from trajmill.evaluation import statistics
from trajmill.evaluation.statistics import Interval
from trajmill.replay.ring import Turns
from trajmill.report.comparison import Comparison, Entry
from trajmill.runs.reading import RunRecord, Series, checkpoints, read_run, read_state
from trajmill.studies.authors import AuthorsRuns, authors_runs
from trajmill.studies.cells import ReproduceConfig, labels
from trajmill.studies.records import Column, CosineRule, Place, Printed, Quantity, Statistic, Study, Variant
from trajmill.studies.similarity import Cosines, backbone_similarities, feature_similarities
from trajmill.training.settings import Interaction, configured

SCORE_STATISTICS: tuple[Statistic, ...] = ("average last four", "average of all", "best", "updates to 90 %")
"""those that follow from scores alone"""


def score_statistic(statistic: Statistic, scores: Series, baseline: float) -> NDArray[np.float64]:
    """A statistic of each seed's scores, (seed_count,); `baseline` is the score of which 90 % are to be reached."""
    if statistic == "average of all":
        return np.asarray(scores.values.mean(axis=0))
    if statistic == "best":
        return statistics.best(scores.values)
    if statistic == "average last four":
        return statistics.average_last_four(scores.values)
    return statistics.updates_to_fraction(scores.updates.tolist(), scores.values, target=baseline) / 1000


def mean_series(series: list[Series]) -> Series:
    """Mean over datasets, seed by seed."""
    return Series(updates=series[0].updates, values=np.mean([each.values for each in series], axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Authors:
    """What the authors' own runs are for a study: the same statistics and curves as of ours."""

    study: Study
    runs: AuthorsRuns
    datasets: tuple[str, ...]
    """those that figures show"""

    def over(self, column: Column, datasets: Sequence[Place]) -> NDArray[np.float64] | None:
        """The column's statistic, (seed_count, dataset_count); None if it cannot be had of all datasets."""
        series = None if column.variant is None else self.runs.series(column.variant.authors_name, datasets)
        if series is None or column.statistic not in SCORE_STATISTICS:
            return None
        first = self.runs.series(self.study.columns[0].trained.authors_name, datasets)
        assert first is not None  # every study's baseline was run
        ends = [float(statistics.average_last_four(each.values).mean()) for each in first]
        values = [score_statistic(column.statistic, *each) for each in zip(series, ends, strict=True)]
        return np.stack(values, axis=1) if np.isfinite(values).all() else None

    def curve(self, column: Column, datasets: Sequence[Place], quantity: Quantity) -> Series | None:
        """Scores or losses over updates, mean over the datasets; None if one of them was not run."""
        variant = column.trained
        series = self.runs.series(variant.authors_name, datasets, losses=quantity == "losses")
        if series is None:
            return None
        mean, before = mean_series(series), variant.start.updates if column.shifted and variant.start else 0
        return replace(mean, updates=mean.updates + before)


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
    failed: Mapping[tuple[str, Place], str] = field(default_factory=dict)
    """cells whose run failed, with the reason"""
    left_to_others: int = 0
    """runs that other shards have still to make; until then no table is written"""
    _read: Callable[[Path], RunRecord] = field(default_factory=lambda: cache(read_run))
    _data_values: dict[Path, NDArray[np.float32]] = field(default_factory=dict)
    _transitions: dict[tuple[str, int | None], Transitions] = field(default_factory=dict)
    _similarities: dict[tuple[Path, str, CosineRule], tuple[Cosines, Cosines]] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The page."""
        return self.output / f"{self.study.name}.html"

    @property
    def markdown(self) -> Path:
        """The table in Markdown, with links to the figures."""
        return self.output / f"{self.study.name}.md"

    @cached_property
    def authors(self) -> Authors | None:
        """The paper's own runs on the same datasets, or on all of its own where none of ours is one of them."""
        if not self.study.authors:
            return None
        runs = authors_runs(self.study.authors)
        same = dict.fromkeys(_official_name(dataset) for _, dataset in self.runs)
        shown = tuple(dataset for dataset in same if dataset in runs.datasets)
        return Authors(study=self.study, runs=runs, datasets=shown or runs.datasets)

    @property
    def datasets(self) -> tuple[Place, ...]:
        """Those that something was run on."""
        return tuple(dict.fromkeys(dataset for _, dataset in self.runs))

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
            if (key := (run.path, kind, self.study.cosines)) not in self._similarities:
                measure = feature_similarities if kind == "feature" else backbone_similarities
                self._similarities[key] = measure(run, self.study.cosines)
            return self._similarities[key][int(start == "pre-trained start")]
        scores = run.evaluation("normalized_score")
        assert scores is not None  # read_run refuses finished runs without
        baseline = self._baseline(dataset) if column.statistic == "updates to 90 %" else math.nan
        return score_statistic(column.statistic, scores, baseline)

    def curve(self, column: Column, datasets: Sequence[Place], quantity: Quantity) -> Series | None:
        """Scores or losses over updates, or steps, mean over the datasets; None unless all of them were run."""
        runs = [run for dataset in datasets if (run := self.run(column.trained, dataset)) is not None]
        name = self.study.loss
        series = [run.evaluation("normalized_score") if quantity == "scores" else _losses(run, name) for run in runs]
        found = [each for each in series if each is not None]
        if len(found) < len(datasets) or len(found[0].updates) == 0:
            return None
        mean, before = mean_series(found), self.pretraining(runs[0]).update if column.shifted else 0
        return replace(mean, updates=_positions(runs[0], mean.updates) + before)

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

    def over(self, column: Column, datasets: Sequence[Place]) -> NDArray[np.float64] | None:
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


def _positions(run: RunRecord, updates: NDArray[np.int64]) -> NDArray[Any]:
    """Where updates are on the axis: those of agents that learn online at the steps of the environment before them."""
    known = run.config["config"].get("interaction")
    if known is None:
        return updates
    turns = Turns.of(configured(Interaction, known), 1, run.config["config"]["method"]["batch_size"])
    return np.array([turns.before(update - 1) for update in updates.tolist()])


def _losses(run: RunRecord, name: str) -> Series | None:
    """A metric of training without its first line, which holds the first update alone."""
    series = run.series.get("train", {}).get(name)
    return None if series is None else Series(updates=series.updates[1:], values=series.values[1:])


def _entry(results: Results, column: Column, dataset: Place) -> Entry:
    printed, name, values = results.printed(column), _official_name(dataset), results.values(column, dataset)
    entry = _beside(results, column, [name], printed.means.get(name), printed.deviations.get(name))
    if values is None:
        failed = (column.trained.name, dataset) in results.failed
        not_run = "failed" if failed else "not yet" if column.trained.name in results.not_yet else "not run"
        return replace(entry, why_empty="no data" if dataset in results.missing else not_run)
    absent = int(np.isnan(values).sum())
    if absent:
        why = "not reached" if column.statistic == "updates to 90 %" else "no finite score"
        return replace(entry, why_empty=f"{why}: {absent} of {len(values)} seeds")
    found = _interval(results, column, [dataset])
    why = "" if found or column.minus is None else f"no number of {column.minus.name}"
    return replace(entry, ours=found, seed_count=len(values), why_empty=why)


def _average(results: Results, column: Column, datasets: list[Place]) -> Entry:
    """Plain mean over the datasets that were run, theirs and ours alike."""
    means, names = results.printed(column).means, [_official_name(dataset) for dataset in datasets]
    printed = float(np.mean([means.get(name, math.nan) for name in names]))
    entry = _beside(results, column, names, None if math.isnan(printed) else printed)
    values, found = results.over(column, datasets), _interval(results, column, datasets)
    if values is None or found is None:
        return replace(entry, why_empty="cells missing")
    return replace(entry, ours=found, seed_count=len(values))


def _interval(source: Results | Authors, column: Column, datasets: Sequence[Place]) -> Interval | None:
    """Mean over seeds and datasets, or how much greater it is than that of `Column.minus`; None if one is missing."""
    values = source.over(column, datasets)
    if values is None or column.minus is None:
        return None if values is None else statistics.bootstrap_interval(values)
    baseline = source.over(replace(column, variant=column.minus, minus=None), datasets)
    return None if baseline is None else statistics.difference_interval(values, baseline)


def _printed_average(results: Results, column: Column) -> Entry:
    printed = results.printed(column)
    names = [] if results.authors is None else list(results.authors.runs.datasets)
    return _beside(results, column, names, printed.average, printed.average_deviation)


def _beside(
    results: Results, column: Column, names: list[str], printed: float | None, deviation: float | None = None
) -> Entry:
    """A cell with what a paper printed for the datasets of these names, and what its authors' runs on them give."""
    authors = None if results.authors is None else _interval(results.authors, column, names)
    return Entry(digits=column.digits, printed=printed, printed_deviation=deviation, authors=authors)


def _official_name(place: Place) -> str:
    """The name by which papers print numbers of a place; empty for a dataset that is not an official one."""
    if isinstance(place, Task):
        return place.name
    official = official_file(place)
    return "" if official is None else official.name
