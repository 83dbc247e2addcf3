"""Runs the cells of a study: a variant on a dataset, all seeds at once, each a run directory of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from trajmill.algorithms import method_named, name_of
from trajmill.core.progress import Progress
from trajmill.data import DatasetWarning, Subset, environment_of, load_dataset
from trajmill.experiments.datasets import convert
from trajmill.experiments.train import DatasetTrainConfig, TrainConfig, train
from trajmill.runs.processes import Job, process_count, run_jobs
from trajmill.studies.records import Variant, smaller
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule, at_least, check_seeds, in_range

QUICK_DATASETS = ("halfcheetah-sac-replay-10k", "hopper-sac-replay-10k")
"""the bundled ones that are most like the papers'"""
QUICK_SEEDS = (0, 1)
QUICK_UPDATES = 100
"""fine-tuning updates of a quick run, where a paper makes 100,000 or a million; other counts shrink in proportion"""
QUICK_LABEL = "QUICK CHECK, NOT A RESULT: far fewer updates, small networks, two seeds."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceConfig:
    """How much of a study to run; results begin with what differs from the paper."""

    datasets: tuple[str, ...] = ()
    """names or paths to take instead of the study's own"""
    seeds: tuple[int, ...] = ()
    """fine-tuning seeds; by default the paper's, or two with `quick`"""
    update_share: float = 1.0
    """share of every number of fine-tuning updates and of their warm-ups, in (0, 1]"""
    pretraining_share: float | None = None
    """the same for pre-training updates; by default `update_share`"""
    batch_share: float = 1.0
    """share of every batch size, in (0, 1]"""
    evaluation_count: int = 20
    """least number of evaluations of a run with fewer updates than the paper's, >= 4; at most 5,000 updates apart"""
    quick: bool = False
    """bundled data, two seeds, small networks, few updates: takes minutes on two cores"""
    text: tuple[Path, ...] = ()
    """text files for variants pre-trained on text, such as wiki.train.raw of Wikitext-103"""
    processes: int | None = None
    """processes, each with one run at a time, at least 1; by default one per core, or one in all on a GPU"""
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


def _scaled(method: Any, updates: int, share: float, variant: Variant, config: ReproduceConfig) -> tuple[Any, Schedule]:
    """Settings and schedule with a share of the updates.

    Evaluations are 5,000 updates apart; a run with fewer updates than the paper's has at least as many evaluations as
    asked for, or four if it is quick. A quick run shrinks all counts as it does those of the variant's method.
    """
    if config.quick:
        share *= QUICK_UPDATES / method_named(name_of(variant.method)).SCHEDULE.updates
    count = max(1, round(updates * share))
    interval = Schedule(updates=count).evaluation_interval
    if config.quick or config.update_share < 1.0:
        interval = min(interval, max(1, count // (4 if config.quick else config.evaluation_count)))
    schedule = Schedule(updates=count, evaluation_interval=interval, log_interval=min(1000, max(1, count // 20)))
    return smaller(method, updates=share, batch=config.batch_share, small=config.quick), schedule


def pretraining_config(variant: Variant, sizes: tuple[int, int], config: ReproduceConfig) -> TrainConfig[Any]:
    """Settings of a variant's pre-training run, for data with observations and actions of these sizes."""
    start = variant.start
    assert start is not None
    share = config.update_share if config.pretraining_share is None else config.pretraining_share
    sized = replace(start.method, **dict(zip(start.sized_by, sizes, strict=False)))
    method, schedule = _scaled(sized, start.updates, share, variant, config)
    if start.needs_text:
        method = replace(method, text=tuple(path.resolve() for path in config.text))
    return TrainConfig(
        seeds=(42,),  # the paper has one pre-training seed
        method=method,
        schedule=schedule,
        compute=config.compute,
        variant=f"{start.name} pre-training" + (f", {sizes[0]}+{sizes[1]} numbers" if start.sized_by else ""),
    )


def training_config(
    variant: Variant, dataset: str, environment: str, init: Path | None, config: ReproduceConfig
) -> DatasetTrainConfig[Any]:
    """Settings of a fine-tuning run."""
    method, schedule = _scaled(variant.method, variant.updates, config.update_share, variant, config)
    if variant.ratio < 1.0 and variant.subset == "transitions":
        method = replace(method, next_observation="stored")  # rows in no order
    return DatasetTrainConfig(
        dataset=dataset,
        environment=environment,
        init=init,
        seeds=config.seeds,
        evaluation_episode_count=2 if config.quick else 10,
        method=method,
        schedule=schedule,
        compute=config.compute,
        variant=variant.name,
    )


Cell = tuple[Variant, str]
DONE = "done"
"""what a cell reports last"""


def run_cells(
    cells: list[Cell], output: Path, config: ReproduceConfig, progress: Progress
) -> dict[tuple[str, str], Path]:
    """Finished runs by variant and dataset; what several cells need is made once, before them."""
    before = {}
    for variant, dataset in cells:
        if (path := _pretraining_path(variant, dataset, output)) is not None:
            before[path] = variant, dataset
        _share_of(variant, dataset, output)
    _run("pre-training", _pretrain, list(before.values()), output, config, progress)
    runs = _run("training", _train, cells, output, config, progress)
    return {(variant.name, dataset): run for (variant, dataset), run in zip(cells, runs, strict=True)}


def _run(
    task: str, work: Callable[..., Path], cells: list[Cell], output: Path, config: ReproduceConfig, progress: Progress
) -> list[Path]:
    """What `work` makes of each cell; if there is to be only one process, it is this one."""
    jobs = [
        Job(f"{number}/{len(cells)} {variant.name} on {short_name(dataset)}", work, (variant, dataset, output, config))
        for number, (variant, dataset) in enumerate(cells, start=1)
    ]
    count = process_count(config.processes, config.compute, len(jobs))
    finished = 0

    def report(name: str, part: str, completed: int, total: int, unit: str) -> None:
        nonlocal finished
        if count == 1:
            progress(f"{name}: {part}", completed, total, unit)
        elif part == DONE:
            finished += 1
            progress(task, finished, len(jobs), "runs")

    if count == 1:
        return [job.work(*job.arguments, partial(report, job.name)) for job in jobs]
    progress(task, 0, len(jobs), "runs")
    return list(run_jobs(jobs, count, report=report).values())


def _pretraining_path(variant: Variant, dataset: str, output: Path) -> Path | None:
    """Run directory of a pre-training, if there is any: one for all data, or one for each pair of sizes."""
    if variant.start is None:
        return None
    observation_dim, action_dim = dataset_facts(dataset)[1]
    sizes = f"-{observation_dim}-{action_dim}" if variant.start.sized_by else ""
    return output / "pretraining" / (path_name(variant.start.name) + sizes)


def _pretrain(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress) -> Path:
    """The finished run that a cell starts from."""
    path = _pretraining_path(variant, dataset, output)
    assert path is not None
    return _finished(pretraining_config(variant, dataset_facts(dataset)[1], config), path, progress)


def _train(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress) -> Path:
    """The finished run of a cell, whose pre-training is finished."""
    source, init = _share_of(variant, dataset, output), _pretraining_path(variant, dataset, output)
    settings = training_config(variant, source, dataset_facts(dataset)[2], init, config)
    return _finished(settings, output / "runs" / path_name(variant.name) / path_name(short_name(dataset)), progress)


def _finished(settings: TrainConfig[Any], path: Path, progress: Progress) -> Path:
    train(settings, path, progress, resume=True)
    progress(DONE, 1, 1, "runs")
    return path


def short_name(dataset: str) -> str:
    """A dataset in tables and paths: its name, or the name of its file."""
    return Path(dataset).stem if "/" in dataset else dataset


@cache
def dataset_facts(dataset: str) -> tuple[str, tuple[int, int], str]:
    """Name or whole path, sizes of an observation and of an action, environment."""
    loaded = load_dataset(dataset)
    source = str(Path(dataset).resolve()) if Path(dataset).exists() else dataset
    return source, (loaded.observation_dim, loaded.action_dim), environment_of(loaded)


def _share_of(variant: Variant, dataset: str, output: Path) -> str:
    """The dataset, or a file with a share of it, which is written if it is missing."""
    if variant.ratio == 1.0:
        return dataset_facts(dataset)[0]
    name = f"{path_name(Path(dataset).stem)}-{variant.ratio:.0%}-of-{variant.subset}.hdf5".replace("%", "pct")
    path = output / "datasets" / name
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DatasetWarning)  # others may misread rows in no order, we do not
            convert(dataset, path, to="d4rl", subset=Subset(variant.subset, variant.ratio))
    return str(path)


def path_name(name: str) -> str:
    """A name as part of a path."""
    kept = "".join(c if c.isalnum() or c in ".=-+" else "-" for c in name.replace("τ", "tau"))
    return "-".join(part for part in kept.split("-") if part).lower()
