"""Runs the cells of a study: a variant on a dataset, all seeds at once, each a run directory of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from trajmill.algorithms import method_named, name_of
from trajmill.core.progress import Progress
from trajmill.data import DatasetWarning, Subset, environment_of, load_dataset
from trajmill.experiments.datasets import convert
from trajmill.experiments.train import DatasetTrainConfig, TrainConfig, train
from trajmill.runs.processes import Job, process_count, run_jobs
from trajmill.studies.records import Pretraining, Variant, smaller
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule, at_least, check_seeds, in_range

QUICK_SEEDS = (0, 1)
QUICK_UPDATES = 100
"""fine-tuning updates of a quick run, where a paper makes 100,000 or a million; other counts shrink alike"""
QUICK_LABEL = "QUICK CHECK, NOT A RESULT: far fewer updates, small networks, two seeds."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceConfig:
    """How much of a study to run; all but the defaults is said loudly in what is written."""

    datasets: tuple[str, ...] = ()
    """names or paths to take instead of the study's own"""
    seeds: tuple[int, ...] = ()
    """fine-tuning seeds; by default the paper's, with `quick` two"""
    update_share: float = 1.0
    """share of every number of fine-tuning updates and of their warm-ups, in (0, 1]"""
    pretraining_share: float | None = None
    """the same of pre-training updates; by default `update_share`"""
    batch_share: float = 1.0
    """share of every batch, in (0, 1]"""
    evaluation_count: int = 20
    """least evaluations of a run of fewer than the paper's updates, which are at most 5,000 updates apart; 4 or more"""
    quick: bool = False
    """bundled data, two seeds, small networks, few updates: minutes on two cores"""
    text: tuple[Path, ...] = ()
    """text files for variants pre-trained on text, such as wiki.train.raw of Wikitext-103"""
    processes: int | None = None
    """processes, one cell each, at least 1; by default one a core, or with a GPU one, which all seeds share"""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.seeds:
            check_seeds(self.seeds)
        in_range("(0, 1]", update_share=self.update_share, batch_share=self.batch_share)
        in_range("(0, 1]", pretraining_share=1.0 if self.pretraining_share is None else self.pretraining_share)
        at_least(4, evaluation_count=self.evaluation_count)
        at_least(1, processes=1 if self.processes is None else self.processes)


def missing_requirement(variant: Variant, config: ReproduceConfig) -> str:
    """Why a variant cannot be run; empty if it can."""
    if variant.start is not None and variant.start.needs_text and not config.text:
        return "give --text with the training text of Wikitext-103, wiki.train.raw"
    return ""


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of a cell: what `config` leaves of the paper's numbers."""

    config: ReproduceConfig
    variant: Variant

    @property
    def quick_share(self) -> float:
        """Share of all numbers of updates that a quick run makes."""
        usual: int = method_named(name_of(self.variant.method)).SCHEDULE.updates
        return QUICK_UPDATES / usual if self.config.quick else 1.0

    def updates(self, count: int, share: float) -> int:
        """So many updates at this scale, at least 1."""
        return max(1, round(count * share * self.quick_share))

    def method(self, method: Any, share: float) -> Any:
        """A method's settings at this scale."""
        quick, batch = self.config.quick, self.config.batch_share
        return smaller(method, updates=share * self.quick_share, batch=batch, small=quick)

    def schedule(self, updates: int) -> Schedule:
        """Evaluations every 5,000 updates; with fewer updates no fewer than asked for, or four if quick."""
        few = max(1, updates // (4 if self.config.quick else self.config.evaluation_count))
        full = self.config.update_share == 1.0 and not self.config.quick
        interval = Schedule(updates=1).evaluation_interval
        return Schedule(
            updates=updates,
            evaluation_interval=interval if full else min(interval, few),
            log_interval=min(1000, max(1, updates // 20)),
        )


def pretraining_config(start: Pretraining, sizes: tuple[int, int], scale: Scale) -> TrainConfig[Any]:
    """Settings of a pre-training run, for data of `sizes` observation and action numbers."""
    config = scale.config
    share = config.update_share if config.pretraining_share is None else config.pretraining_share
    method = scale.method(replace(start.method, **dict(zip(start.sized_by, sizes, strict=False))), share)
    label = f"{start.name} pre-training" + (f", {sizes[0]}+{sizes[1]} numbers" if start.sized_by else "")
    if start.needs_text:
        method = replace(method, text=tuple(path.resolve() for path in config.text))
    updates = scale.updates(start.updates, share)
    return TrainConfig(
        seeds=(42,),  # the paper has one pre-training seed
        method=method,
        schedule=scale.schedule(updates),
        compute=config.compute,
        variant=label,
    )


def training_config(
    variant: Variant, dataset: str, environment: str, init: Path | None, config: ReproduceConfig
) -> DatasetTrainConfig[Any]:
    """Settings of a fine-tuning run."""
    scale = Scale(config, variant)
    method = scale.method(variant.method, config.update_share)
    if variant.ratio < 1.0 and variant.subset == "transitions":
        method = replace(method, next_observation="stored")  # rows in no order
    return DatasetTrainConfig(
        dataset=dataset,
        environment=environment,
        init=init,
        seeds=config.seeds,
        evaluation_episode_count=2 if config.quick else 10,
        method=method,
        schedule=scale.schedule(scale.updates(variant.updates, config.update_share)),
        compute=config.compute,
        variant=variant.name,
    )


Cell = tuple[Variant, str]


def run_cells(
    cells: list[Cell], output: Path, config: ReproduceConfig, progress: Progress
) -> dict[tuple[str, str], Path]:
    """Finished runs by variant and dataset; what several cells need is made once, before them."""
    before = {_pretraining_place(*cell, output): cell for cell in cells if cell[0].start is not None}
    for variant, dataset in cells:
        if variant.ratio < 1.0:
            _share_of(variant, dataset, output)
    stages: tuple[tuple[str, Callable[..., Path], list[Cell]], ...] = (
        ("pre-training", _pretrain, list(before.values())),
        ("training", _train, cells),
    )
    runs = {}
    for task, work, chosen in stages:
        jobs = [
            Job(
                f"{number}/{len(chosen)} {variant.name} on {short_name(dataset)}",
                work,
                (variant, dataset, output, config),
            )
            for number, (variant, dataset) in enumerate(chosen, start=1)
        ]
        runs = _run(jobs, task, config, progress)
    return {(variant.name, dataset): run for (variant, dataset), run in zip(cells, runs.values(), strict=True)}


def _run(jobs: list[Job], task: str, config: ReproduceConfig, progress: Progress) -> dict[str, Path]:
    """Results of the jobs by name, which run in this process if there is to be one only."""
    count = process_count(config.processes, config.compute, len(jobs))
    finished: set[str] = set()

    def report(name: str, part: str, completed: int, total: int, unit: str) -> None:
        if count == 1:
            progress(f"{name}: {part}", completed, total, unit)
        elif part == DONE:
            finished.add(name)
            progress(task, len(finished), len(jobs), "runs")

    if count == 1:
        named = {job.name: lambda *told, name=job.name: report(name, *told) for job in jobs}
        return {job.name: job.work(*job.arguments, named[job.name]) for job in jobs}
    progress(task, 0, len(jobs), "runs")
    return run_jobs(jobs, count, report=report)


DONE = "done"
"""what a cell reports last"""


def _pretraining_place(variant: Variant, dataset: str, output: Path) -> Path:
    """Run directory of the pre-training: one for all data, or one for each pair of sizes."""
    assert variant.start is not None
    place = output / "pretraining" / path_name(variant.start.name)
    sizes = dataset_facts(dataset)[1]
    return place.with_name(f"{place.name}-{sizes[0]}-{sizes[1]}") if variant.start.sized_by else place


def _pretrain(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress) -> Path:
    """The finished run that a cell starts from."""
    assert variant.start is not None
    settings = pretraining_config(variant.start, dataset_facts(dataset)[1], Scale(config, variant))
    place = train(settings, _pretraining_place(variant, dataset, output), progress, resume=True)
    progress(DONE, 1, 1, "runs")
    return place


def _train(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress) -> Path:
    """The finished run of a cell, whose pre-training is there."""
    source, _, environment = dataset_facts(dataset)
    init = None if variant.start is None else _pretraining_place(variant, dataset, output)
    if variant.ratio < 1.0:
        source = _share_of(variant, dataset, output)
    place = output / "runs" / path_name(variant.name) / path_name(short_name(dataset))
    train(training_config(variant, source, environment, init, config), place, progress, resume=True)
    progress(DONE, 1, 1, "runs")
    return place


def short_name(dataset: str) -> str:
    """A dataset in tables and paths: its name, or the name of its file."""
    return Path(dataset).stem if "/" in dataset else dataset


@cache
def dataset_facts(dataset: str) -> tuple[str, tuple[int, int], str]:
    """Name or whole path, observation and action numbers, environment."""
    loaded = load_dataset(dataset)
    source = str(Path(dataset).resolve()) if Path(dataset).exists() else dataset
    return source, (loaded.observation_dim, loaded.action_dim), environment_of(loaded)


def _share_of(variant: Variant, dataset: str, output: Path) -> str:
    """File with a share of a dataset."""
    name = f"{path_name(Path(dataset).stem)}-{variant.ratio:.0%}-of-{variant.subset}.hdf5".replace("%", "pct")
    path = output / "datasets" / name
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DatasetWarning)  # that others may misread rows in no order; we do not
            convert(dataset, path, to="d4rl", subset=Subset(variant.subset, variant.ratio))
    return str(path)


def path_name(name: str) -> str:
    """A name as part of a path."""
    kept = "".join(c if c.isalnum() or c in ".=-+" else "-" for c in name.replace("τ", "tau"))
    return "-".join(part for part in kept.split("-") if part).lower()
