"""Runs a study of a paper: every cell that this machine has data for, then the paper's numbers beside ours.

A cell is one variant on one data set, all seeds at once. It is a run directory of its own under ``runs/``, a
pre-training one under ``pretraining/``; studies share both, and what is finished is never run again. Nothing is
invented: a cell that was not run stays empty and says why.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import trajmill as tm
from trajmill.core.progress import Progress, silent
from trajmill.data import DatasetError, Subset, environment_of, load_dataset
from trajmill.data.catalog import find_dataset
from trajmill.data.official import official_file
from trajmill.evaluation import statistics
from trajmill.evaluation.simulators import usable_cores
from trajmill.models.gpt import GPTConfig
from trajmill.pipelines.cql import PAPER_SEEDS, PretrainCQLConfig, TrainCQLConfig, pretrain_cql, train_cql
from trajmill.pipelines.dataset import convert_dataset
from trajmill.pipelines.decision_transformer import PretrainDTConfig, TrainDTConfig, pretrain_dt, train_dt
from trajmill.pipelines.run_directory import plain
from trajmill.pipelines.schedule import Schedule
from trajmill.pipelines.similarity import backbone_similarities
from trajmill.pipelines.studies.paper_a import BUNDLED, STUDIES
from trajmill.pipelines.studies.records import DIGITS, Column, Pretraining, Study, Variant, printed_columns
from trajmill.report import RunRecord, Section, figures, read_run, write_report
from trajmill.report.comparison import Comparison, Entry
from trajmill.training.checkpoint import write_atomically
from trajmill.training.device import ComputeConfig
from trajmill.training.hyperparameters import at_least, check_seeds, in_range

QUICK_SEEDS = (0, 1)
EVALUATION_INTERVAL = 5000
QUICK_UPDATES = {"dt": 100, "cql": 200}
"""fine-tuning updates that stand for the paper's 100,000 and 1,000,000; other counts shrink alike"""
QUICK_LABEL = "QUICK CHECK, NOT A RESULT: far fewer updates, small networks, two seeds."
SECONDS = {
    "cpu": {"pretrain dt": 7.0, "train dt": 0.15, "pretrain cql": 0.0025, "train cql": 0.04},
    "gpu": {"pretrain dt": 1 / 250, "train dt": 1 / 4500, "pretrain cql": 1 / 12_000, "train cql": 1 / 10_000},
}
"""rough seconds for one update of one seed: on a core of a small server; on one H200 with twenty seeds at once"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceConfig:
    """How much of a study to run; all but the defaults is said loudly in what is written."""

    datasets: tuple[str, ...] = ()
    """names or paths to take instead of the study's own"""
    seeds: tuple[int, ...] = ()
    """fine-tuning seeds; by default the paper's twenty, with `quick` two"""
    update_share: float = 1.0
    """share of every number of fine-tuning updates and of their warm-ups, in (0, 1]"""
    pretraining_share: float | None = None
    """the same of pre-training updates; by default `update_share`"""
    batch_share: float = 1.0
    """share of every batch, in (0, 1]"""
    quick: bool = False
    """bundled data, two seeds, small networks, few updates: minutes on two cores"""
    text: tuple[Path, ...] = ()
    """text files for variants pre-trained on text, such as wiki.train.raw of Wikitext-103"""
    workers: int | None = None
    """processes, one cell each, at least 1; by default one a core, or with a GPU one, which all seeds share"""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.seeds:
            check_seeds(self.seeds)
        in_range("update_share", self.update_share, 0.0, 1.0, open_low=True)
        in_range("pretraining_share", self.pretraining_share or 1.0, 0.0, 1.0, open_low=True)
        in_range("batch_share", self.batch_share, 0.0, 1.0, open_low=True)
        at_least("workers", 1 if self.workers is None else self.workers, 1)

    @property
    def worker_count(self) -> int:
        """Processes to use on this machine."""
        if self.workers is not None:
            return self.workers
        gpu = self.compute.device != "cpu" and torch.cuda.is_available()
        return 1 if gpu else max(1, usable_cores() // self.compute.threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """What a study left behind."""

    study: Study
    comparison: Comparison
    missing: Mapping[str, str]
    """data sets that are not here, with the reason"""
    not_yet: Mapping[str, str]
    """variants that could not be run, with the reason"""
    report: Path
    markdown: Path

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the table."""
        return self.comparison.columns


def reproduce(
    name: str, output: Path, config: ReproduceConfig | None = None, progress: Progress = silent
) -> Reproduced:
    """Run what is missing of a study and write ``NAME.md``, ``NAME.html``, ``NAME.json`` and figures into `output`.

    Raises
    ------
    ValueError
        If there is no such study, or runs in `output` were started with other settings.
    DatasetError
        If none of the data sets is here.
    """
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    study = STUDIES[name]
    config = config or ReproduceConfig()
    if config.quick or name == "quick":
        config = replace(config, quick=True, seeds=config.seeds or QUICK_SEEDS)
        study = replace(study, datasets=(config.datasets or BUNDLED) if study.datasets else ())
    config = replace(config, seeds=config.seeds or PAPER_SEEDS)
    study = replace(study, datasets=config.datasets or study.datasets) if study.datasets else study
    missing = _missing(study)
    if study.datasets and len(missing) == len(study.datasets):
        raise DatasetError(
            f"{name} needs {', '.join(missing)}, none of which is here. Get them: {' '.join(advice(missing))}"
        )
    not_yet = {name: why for name, variant in study.variants.items() if (why := obstacle(variant, config))}
    results = _Results(study, output.resolve(), config)
    cells = [
        (variant, dataset)
        for dataset in study.datasets
        for variant in study.variants.values()
        if dataset not in missing and variant.name not in not_yet
    ]
    results.runs.update(_run(cells, results.output, config, progress))
    return _write(results, missing, not_yet)


def _named(progress: Progress, label: str) -> Progress:
    def named(task: str, completed: int, total: int, unit: str) -> None:
        progress(f"{label}: {task}", completed, total, unit)

    return named


def _missing(study: Study) -> dict[str, str]:
    missing = {}
    for dataset in study.datasets:
        try:
            find_dataset(dataset)
        except DatasetError as error:
            missing[dataset] = str(error)
    return missing


def advice(missing: Mapping[str, str]) -> list[str]:
    """How to get what is not here: a command each, or why there is none."""
    return [
        f"`trajmill dataset download {official_file(name).name}`"  # type: ignore[union-attr]
        if official_file(name)
        else reason
        for name, reason in missing.items()
    ]


# --- running ---


def obstacle(variant: Variant, config: ReproduceConfig) -> str:
    """Why a variant cannot be run; empty if it can."""
    pretraining = variant.pretraining
    if pretraining is None:
        return ""
    kind: Any = PretrainDTConfig if pretraining.method == "dt" else PretrainCQLConfig
    wanted = {*pretraining.settings, *(["text"] if pretraining.needs_text else [])}
    unknown = wanted - {known.name for known in fields(kind)}
    if unknown:
        return f"not yet: {kind.__name__} has no setting {', '.join(sorted(unknown))}"
    if pretraining.needs_text and not config.text:
        return "give --text with the training text of Wikitext-103, wiki.train.raw"
    return ""


def scaled(updates: int, method: str, config: ReproduceConfig, share: float | None = None) -> int:
    """So many updates at the scale of `config`, at least 1; `share` replaces its share of fine-tuning updates."""
    full = {"dt": 100_000, "cql": 1_000_000}[method]
    share = (share or config.update_share) * (QUICK_UPDATES[method] / full if config.quick else 1.0)
    return max(1, round(updates * share))


def _smaller_batch(batch_size: int, config: ReproduceConfig) -> int:
    return max(1, round(batch_size * config.batch_share))


def _schedule(updates: int, config: ReproduceConfig) -> Schedule:
    """The paper's evaluations, every 5,000 updates; with fewer updates twenty in all, in a quick check four."""
    few = max(1, updates // (4 if config.quick else 20))
    interval = EVALUATION_INTERVAL if config.update_share == 1.0 and not config.quick else min(EVALUATION_INTERVAL, few)
    return Schedule(updates=updates, evaluation_interval=interval, log_interval=min(1000, max(1, updates // 20)))


SMALL = GPTConfig(layer_count=1, head_count=1, width=32)


def pretraining_config(
    pretraining: Pretraining, sizes: tuple[int, int], config: ReproduceConfig
) -> PretrainDTConfig | PretrainCQLConfig:
    """Settings of a pre-training run, for data of `sizes` observation and action numbers."""
    updates = scaled(pretraining.updates, pretraining.method, config, config.pretraining_share)
    changes = dict(pretraining.settings) | {"compute": config.compute}
    if pretraining.method == "cql":
        if config.quick:
            changes |= {"trajectory_count": 20}
        label = f"{pretraining.name} pre-training, {sizes[0]}+{sizes[1]} numbers"
        made = PretrainCQLConfig(
            observation_dim=sizes[0], action_dim=sizes[1], variant=label, schedule=_schedule(updates, config), **changes
        )
        return replace(made, method=replace(made.method, batch_size=_smaller_batch(made.method.batch_size, config)))
    default = PretrainDTConfig()
    method = replace(
        default.method,
        batch_size=_smaller_batch(default.method.batch_size, config),
        warmup_updates=scaled(default.method.warmup_updates, "dt", config, config.pretraining_share),
        decay_updates=scaled(default.method.decay_updates, "dt", config, config.pretraining_share),
    )
    schedule = replace(_schedule(updates, config), evaluation_interval=default.schedule.evaluation_interval)
    if config.quick:
        method = replace(method, batch_size=8, length=64, backbone=SMALL)
        changes |= {"sequence_count": 2000, "held_out_count": 32}
    if pretraining.needs_text:
        changes |= {"text": tuple(path.resolve() for path in config.text)}
    return PretrainDTConfig(variant=f"{pretraining.name} pre-training", method=method, schedule=schedule, **changes)


def training_config(
    variant: Variant, dataset: str, environment: str, init: Path | None, config: ReproduceConfig
) -> TrainDTConfig | TrainCQLConfig:
    """Settings of a fine-tuning run."""
    kind: Any = TrainDTConfig if variant.method == "dt" else TrainCQLConfig
    made: TrainDTConfig | TrainCQLConfig = kind(
        dataset=dataset,
        environment=environment,
        init=init,
        seeds=config.seeds,
        evaluation_episode_count=2 if config.quick else 10,
        schedule=_schedule(scaled(variant.updates, variant.method, config), config),
        compute=config.compute,
        variant=variant.name,
    )
    batch_size = _smaller_batch(made.method.batch_size, config)
    if isinstance(made, TrainCQLConfig):
        return replace(made, method=replace(made.method, batch_size=64 if config.quick else batch_size))
    method = replace(
        made.method, batch_size=batch_size, warmup_updates=scaled(made.method.warmup_updates, "dt", config)
    )
    if config.quick:
        method = replace(method, context_length=5, backbone=replace(SMALL, residual_dropout=0.2))
    return replace(made, method=method)


def _run(
    cells: list[tuple[Variant, str]], output: Path, config: ReproduceConfig, progress: Progress
) -> dict[tuple[str, str], Path]:
    """Finished runs by variant and data set; what several cells need is made once, before them."""
    before = {_pretraining_place(v, d, output): (v, d) for v, d in cells if v.pretraining is not None}
    for variant, dataset in cells:
        if variant.ratio < 1.0:
            _part(dataset, variant.ratio, output)
    workers = min(config.worker_count, max(1, len(cells)))
    if workers == 1:
        for number, (variant, dataset) in enumerate(before.values(), start=1):
            label = f"{number}/{len(before)} before {variant.name}"
            _pretrain(variant, dataset, output, config, _named(progress, label))
        runs = {}
        for number, (variant, dataset) in enumerate(cells, start=1):
            label = f"{number}/{len(cells)} {variant.name} on {dataset}"
            runs[variant.name, dataset] = _train(variant, dataset, output, config, _named(progress, label))
        return runs
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            first = [pool.submit(_pretrain, variant, dataset, output, config) for variant, dataset in before.values()]
            _await(first, "pre-training", progress)
            jobs = {(v.name, d): pool.submit(_train, v, d, output, config) for v, d in cells}
            _await(list(jobs.values()), "training", progress)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                for child in multiprocessing.active_children():
                    child.terminate()  # one that trains writes a checkpoint first
            pool.shutdown(cancel_futures=True)  # what runs is finished, what waits is not begun
            raise
    return {cell: job.result() for cell, job in jobs.items()}


def _await(jobs: list[Future[Any]], task: str, progress: Progress) -> None:
    """Wait for all; the first failure ends the waiting."""
    progress(task, 0, len(jobs), "runs")
    for number, job in enumerate(as_completed(jobs), start=1):
        job.result()
        progress(task, number, len(jobs), "runs")


def _pretraining_place(variant: Variant, dataset: str, output: Path) -> Path:
    """Run directory of the pre-training: one for all data, or for CQL one for each pair of sizes."""
    assert variant.pretraining is not None
    place = output / "pretraining" / slug(variant.pretraining.name)
    sizes = _facts(dataset)[1]
    return place.with_name(f"{place.name}-{sizes[0]}-{sizes[1]}") if variant.method == "cql" else place


def _pretrain(
    variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress = silent
) -> Path:
    """The finished run that a cell starts from."""
    assert variant.pretraining is not None
    place = _parents(_pretraining_place(variant, dataset, output))
    settings = pretraining_config(variant.pretraining, _facts(dataset)[1], config)
    if isinstance(settings, PretrainCQLConfig):
        return pretrain_cql(settings, place, progress, resume=True)
    return pretrain_dt(settings, place, progress, resume=True)


def _train(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress = silent) -> Path:
    """The finished run of a cell, whose pre-training is there."""
    source, _, environment = _facts(dataset)
    init = None if variant.pretraining is None else _pretraining_place(variant, dataset, output)
    if variant.ratio < 1.0:
        source = _part(dataset, variant.ratio, output)
    place = _parents(output / "runs" / slug(variant.name) / slug(Path(dataset).stem if "/" in dataset else dataset))
    training = training_config(variant, source, environment, init, config)
    if isinstance(training, TrainDTConfig):
        return train_dt(training, place, progress, resume=True)
    return train_cql(training, place, progress, resume=True)


def _parents(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@cache
def _facts(dataset: str) -> tuple[str, tuple[int, int], str]:
    """Name or whole path, observation and action numbers, environment."""
    loaded = load_dataset(dataset)
    source = str(Path(dataset).resolve()) if Path(dataset).exists() else dataset
    return source, (loaded.observation_dim, loaded.action_dim), environment_of(loaded)


def _part(dataset: str, ratio: float, output: Path) -> str:
    """File with a share of a data set's trajectories."""
    path = _parents(output / "datasets" / f"{slug(Path(dataset).stem)}-{ratio:.0%}.hdf5".replace("%", "pct"))
    if not path.exists():
        convert_dataset(dataset, path, to="d4rl", subset=Subset("trajectories", ratio))
    return str(path)


def slug(name: str) -> str:
    """A name as part of a path."""
    kept = "".join(c if c.isalnum() or c in ".=-+" else "-" for c in name.replace("τ", "tau"))
    return "-".join(part for part in kept.split("-") if part).lower()


# --- measuring ---


@dataclass
class _Results:
    """Run directories of a study, read as they are asked for."""

    study: Study
    output: Path
    config: ReproduceConfig
    runs: dict[tuple[str, str], Path] = field(default_factory=dict)
    _read: dict[Path, RunRecord] = field(default_factory=dict)

    def run(self, variant: Variant, dataset: str) -> RunRecord | None:
        path = self.runs.get((variant.name, dataset))
        if path is None:
            return None
        return self._record(path)

    def _record(self, path: Path) -> RunRecord:
        if path not in self._read:
            self._read[path] = read_run(path)
        return self._read[path]

    def pretraining(self, run: RunRecord) -> RunRecord:
        return self._record(Path(run.config["config"]["init"]))

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
        if column.statistic in ("cosine with random start", "cosine with pre-trained start"):
            init = run.config["config"]["init"]
            random, pretrained = backbone_similarities(run.path, None if init is None else Path(init))
            return random if column.statistic == "cosine with random start" else pretrained
        scores = run.evaluation("normalized_score")
        assert scores is not None  # read_run refuses finished runs without
        if column.statistic == "best":
            return statistics.best(scores.values)
        if column.statistic == "average last four":
            return statistics.average_last_four(scores.values)
        target = self._baseline(dataset)
        if target is None:
            return np.full(len(run.seeds), np.nan)
        steps = [int(step) for step in scores.gradient_steps]
        return statistics.updates_to_fraction(steps, scores.values, target=target) / 1000

    def _baseline(self, dataset: str) -> float | None:
        """Final score of the first column, over seeds."""
        first = self.study.columns[0].variant
        assert first is not None
        run = self.run(first, dataset)
        scores = None if run is None else run.evaluation("normalized_score")
        return None if scores is None else float(statistics.average_last_four(scores.values).mean())


def _comparison(results: _Results, missing: Mapping[str, str], not_yet: Mapping[str, str]) -> Comparison:
    study = results.study
    rows = {
        dataset: tuple(_entry(results, column, dataset, missing, not_yet) for column in study.columns)
        for dataset in study.datasets
    }
    run = [dataset for dataset in study.datasets if dataset not in missing]
    if len(run) > 1:
        label = f"Average over these {len(run)}" if len(run) == len(rows) else f"Average over the {len(run)} run here"
        rows[label] = tuple(_average(results, column, run) for column in study.columns)
    if any(column.printed for column in study.columns):
        rows["Average as printed"] = tuple(_printed_average(column) for column in study.columns)
    return Comparison(columns=tuple(_heading(column) for column in study.columns), rows=rows)


def _heading(column: Column) -> str:
    return f"{column.group}: {column.label}" if column.group and column.group not in column.label else column.label


def _entry(
    results: _Results, column: Column, dataset: str, missing: Mapping[str, str], not_yet: Mapping[str, str]
) -> Entry:
    assert column.variant is not None
    digits = DIGITS.get(column.statistic, 1)
    official = official_file(dataset)
    printed = printed_columns().get(column.printed)
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


def _average(results: _Results, column: Column, datasets: list[str]) -> Entry:
    """Plain mean over the data sets that were run, theirs and ours alike."""
    digits = DIGITS.get(column.statistic, 1)
    values = [results.values(column, dataset) for dataset in datasets]
    printed = printed_columns().get(column.printed)
    names = [official.name if (official := official_file(name)) else "" for name in datasets]
    theirs = None if printed is None else [printed.means.get(name, math.nan) for name in names]
    mean = None if theirs is None or np.isnan(theirs).any() else float(np.mean(theirs))
    entry = Entry(digits=digits, printed=mean)
    if any(value is None or np.isnan(value).any() for value in values):
        return replace(entry, why_empty="cells missing")
    stacked = np.stack([value for value in values if value is not None], axis=1)
    return replace(entry, ours=statistics.bootstrap_interval(stacked), seed_count=len(stacked))


def _printed_average(column: Column) -> Entry:
    printed = printed_columns().get(column.printed)
    if printed is None:
        return Entry()
    return Entry(
        digits=DIGITS.get(column.statistic, 1),
        printed=printed.average,
        printed_deviation=printed.average_deviation,
    )


# --- drawing ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    title: str
    x_label: str
    y_label: str
    curves: tuple[figures.Curve, ...]


def _panels(results: _Results) -> list[_Panel]:
    study = results.study
    if study.figure == "transition rows":
        return [_rows_panel(column) for column in study.columns]
    datasets = list(dict.fromkeys(dataset for _, dataset in results.runs))
    if not datasets:
        return []
    over = f"average over {len(datasets)} data sets" if len(datasets) > 1 else datasets[0]
    if study.figure == "data ratios":
        groups = list(dict.fromkeys(column.group for column in study.columns))
        lines = [_ratio_curve(results, group, datasets, style) for style, group in enumerate(groups)]
        return [_Panel(title=over, x_label="share of the data, %", y_label="normalized score", curves=_drawn(lines))]
    x_label = "updates, pre-training counted" if study.figure == "shifted curves" else "fine-tuning updates"
    panels = []
    for group in dict.fromkeys(column.group for column in study.columns):
        columns = [column for column in study.columns if column.group == group]
        unique = {column.variant.name: column for column in columns if column.variant is not None}
        lines = [_score_curve(results, column, datasets, style) for style, column in enumerate(unique.values())]
        title = f"{group}, {over}" if group else over
        panels.append(_Panel(title=title, x_label=x_label, y_label="normalized score", curves=_drawn(lines)))
    return [panel for panel in panels if panel.curves]


def _drawn(lines: list[figures.Curve | None]) -> tuple[figures.Curve, ...]:
    return tuple(line for line in lines if line is not None)


def _score_curve(results: _Results, column: Column, datasets: list[str], style: int) -> figures.Curve | None:
    """Mean over data sets and seeds; None unless every data set was run."""
    assert column.variant is not None
    runs = [run for dataset in datasets if (run := results.run(column.variant, dataset)) is not None]
    series = [scores for run in runs if (scores := run.evaluation("normalized_score")) is not None]
    if len(series) < len(datasets):
        return None
    steps = series[0].gradient_steps.astype(np.float64)
    if results.study.figure == "shifted curves" and column.variant.pretraining is not None:
        steps = steps + results.pretraining(runs[0]).gradient_step
    center, low, high = statistics.curve_band(np.mean([scores.values for scores in series], axis=0))
    return figures.Curve(style=style, x=steps, center=center, low=low, high=high, label=column.label)


def _ratio_curve(results: _Results, group: str, datasets: list[str], style: int) -> figures.Curve | None:
    points = []
    for column in results.study.columns:
        values = [results.values(column, dataset) for dataset in datasets] if column.group == group else [None]
        if column.variant is not None and all(value is not None for value in values):
            scores = np.stack([value for value in values if value is not None], axis=1)
            if np.isfinite(scores).all():
                points.append((column.variant.ratio * 100, statistics.bootstrap_interval(scores)))
    if not points:
        return None
    return figures.Curve(
        style=style,
        x=np.array([x for x, _ in points]),
        center=np.array([interval.estimate for _, interval in points]),
        low=np.array([interval.low for _, interval in points]),
        high=np.array([interval.high for _, interval in points]),
        label=group,
    )


def _rows_panel(column: Column) -> _Panel:
    chain = tm.MarkovChain(state_count=100, order=1, temperature=column.temperature, seed=42)
    row = np.sort(chain.probabilities([0]))
    curve = figures.Curve(style=0, x=np.arange(1.0, 101.0), center=row)
    return _Panel(title=column.label, x_label="next state, by probability", y_label="probability", curves=(curve,))


def _figures(study: Study, panels: list[_Panel]) -> list[str]:
    return [
        figures.curves_svg(
            f"{study.name}-{number}",
            panel.curves,
            title=panel.title,
            x_label=panel.x_label,
            y_label=panel.y_label,
            alternative=f"{study.title}: {panel.title}. "
            + "; ".join(f"{c.label or 'line'} ends at {c.center[-1]:.3g}" for c in panel.curves),
            width=figures.FULL if len(panels) == 1 else figures.HALF,
            height=4.2 if len(panels) == 1 else 3.4,
            markers=study.figure != "transition rows",
        )
        for number, panel in enumerate(panels, start=1)
    ]


# --- writing ---


def _write(results: _Results, missing: Mapping[str, str], not_yet: Mapping[str, str]) -> Reproduced:
    study, config, output = results.study, results.config, results.output
    output.mkdir(parents=True, exist_ok=True)
    comparison = _comparison(results, missing, not_yet)
    drawings = _figures(study, _panels(results))
    warnings = _warnings(config) if study.columns[0].variant is not None else []
    lines = [*warnings, *study.notes, *[f"{name}: {why}." for name, why in not_yet.items()]]
    if missing:
        lines.append(f"Data sets that are not here leave their cells empty. {' '.join(advice(missing))}")
    for number, drawing in enumerate(drawings, start=1):
        write_atomically(output / f"{study.name}-{number}.svg", figures.standalone(drawing).encode())
    markdown = "\n".join(
        [
            f"# {study.name}: {study.title}\n",
            *[f"**{line}**\n" for line in warnings],
            *([comparison.markdown(), ""] if comparison.rows else []),
            *[f"![{study.title}]({study.name}-{number}.svg)\n" for number in range(1, len(drawings) + 1)],
            *[f"- {line}" for line in lines[len(warnings) :]],
            "",
        ]
    )
    write_atomically(output / f"{study.name}.md", markdown.encode())
    facts = {
        "study": study.name,
        "title": study.title,
        "quick": config.quick,
        "config": plain(config),
        "columns": comparison.columns,
        "rows": {label: [asdict(entry) for entry in row] for label, row in comparison.rows.items()},
        "missing": dict(missing),
        "not_yet": dict(not_yet),
        "runs": {
            f"{variant} on {dataset}": os.path.relpath(p, output) for (variant, dataset), p in results.runs.items()
        },
    }
    write_atomically(output / f"{study.name}.json", (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())
    report = write_report(
        [*results.runs.values(), *dict.fromkeys(_pretraining_paths(results))],
        output / f"{study.name}.html",
        title=f"{study.name}: {study.title}",
        summary="\n".join(lines),
        extra_sections=[
            Section(
                name="comparison",
                title=HEADINGS[len(comparison.sides) if comparison.rows else 0],
                text=CAPTION if comparison.rows else "",
                comparison=comparison if comparison.rows else None,
                figures=tuple(drawings),
                leading=True,
            )
        ],
    )
    return Reproduced(
        study=study,
        comparison=comparison,
        missing=missing,
        not_yet=not_yet,
        report=report,
        markdown=output / f"{study.name}.md",
    )


HEADINGS = ("Figure", "Our numbers", "The paper's numbers and ours")
CAPTION = (
    "Paper: mean over twenty seeds, with its standard deviation where on record. Ours: mean over seeds, with its 95 % "
    "bootstrap interval. An empty cell says why it is empty."
)


def _warnings(config: ReproduceConfig) -> list[str]:
    lines = [QUICK_LABEL] if config.quick else []
    shares = {
        "updates, warm-ups included": config.update_share,
        "pre-training updates": config.update_share if config.pretraining_share is None else config.pretraining_share,
        "batches": config.batch_share,
    }
    lines += [f"Not the paper's experiment: {share:.3g} of its {of}." for of, share in shares.items() if share != 1.0]
    if not config.quick and config.seeds != PAPER_SEEDS:
        lines.append(f"{len(config.seeds)} seed{'s' * (len(config.seeds) > 1)} where the paper has twenty.")
    return lines


def _pretraining_paths(results: _Results) -> list[Path]:
    inits = (read_run(path).config["config"]["init"] for path in results.runs.values())
    return [Path(init) for init in inits if init is not None]


# --- listing ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a study asks of a machine when nothing of it is there yet."""

    cells: int
    pretrainings: int
    cpu_core_hours: float
    gpu_hours: float


def estimate(study: Study, seed_count: int = len(PAPER_SEEDS)) -> Estimate:
    """Rough work of a whole study, from `SECONDS`; evaluation in MuJoCo comes on top."""
    cells = [(variant, dataset) for variant in study.variants.values() for dataset in study.datasets]
    sizes = len({dataset.split("-")[0] for dataset in study.datasets})

    def seconds(machine: str) -> float:
        rates = SECONDS[machine]
        training = sum(v.updates * rates[f"train {v.method}"] for v, _ in cells) * seed_count
        pretraining = sum(
            p.updates * rates[f"pretrain {p.method}"] * (sizes if p.method == "cql" else 1)
            for p in study.pretrainings.values()
        )
        return training + pretraining

    return Estimate(
        cells=len(cells),
        pretrainings=sum(sizes if p.method == "cql" else 1 for p in study.pretrainings.values()),
        cpu_core_hours=seconds("cpu") / 3600,
        gpu_hours=seconds("gpu") / 3600,
    )
