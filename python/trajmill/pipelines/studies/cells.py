"""Runs the cells of a study: a variant on a data set, all seeds at once, each a run directory of its own."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from trajmill.core.progress import Progress, silent
from trajmill.data import DatasetWarning, Subset, environment_of, load_dataset, write_d4rl
from trajmill.data.subsets import SubsetKind
from trajmill.evaluation.simulators import usable_cores
from trajmill.models.gpt import GPTConfig
from trajmill.pipelines.cql import PretrainCQLConfig, TrainCQLConfig, pretrain_cql, train_cql
from trajmill.pipelines.decision_transformer import TrainDTConfig, train_dt
from trajmill.pipelines.language_model import PretrainDTConfig, pretrain_dt
from trajmill.pipelines.schedule import Schedule
from trajmill.pipelines.studies.records import Pretraining, Variant
from trajmill.pipelines.workers import end_with_parent
from trajmill.training.device import ComputeConfig
from trajmill.training.hyperparameters import at_least, check_seeds, in_range

QUICK_SEEDS = (0, 1)
EVALUATION_INTERVAL = 5000
QUICK_UPDATES = {"dt": 100, "cql": 200}
"""fine-tuning updates that stand for the paper's 100,000 and 1,000,000; other counts shrink alike"""
QUICK_LABEL = "QUICK CHECK, NOT A RESULT: far fewer updates, small networks, two seeds."


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
    evaluation_count: int = 20
    """least evaluations of a run of fewer than the paper's updates, which are at most 5,000 updates apart; 4 or more"""
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
        share = 1.0 if self.pretraining_share is None else self.pretraining_share
        in_range("pretraining_share", share, 0.0, 1.0, open_low=True)
        in_range("batch_share", self.batch_share, 0.0, 1.0, open_low=True)
        at_least("evaluation_count", self.evaluation_count, 4)
        at_least("workers", 1 if self.workers is None else self.workers, 1)

    @property
    def worker_count(self) -> int:
        """Processes to use on this machine."""
        if self.workers is not None:
            return self.workers
        gpu = self.compute.device != "cpu" and torch.cuda.is_available()
        return 1 if gpu else max(1, usable_cores() // self.compute.threads)


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
    """Evaluations every 5,000 updates as in the paper; with fewer updates no fewer than asked for, or four if quick."""
    few = max(1, updates // (4 if config.quick else config.evaluation_count))
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
        **variant.settings,
    )
    made = replace(made, method=replace(made.method, **variant.update_settings))  # type: ignore[arg-type]
    batch_size = _smaller_batch(made.method.batch_size, config)
    if isinstance(made, TrainCQLConfig):
        made = replace(made, method=replace(made.method, batch_size=64 if config.quick else batch_size))
        return replace(made, next_observation="stored") if variant.ratio < 1.0 else made  # rows in no order
    method = replace(
        made.method, batch_size=batch_size, warmup_updates=scaled(made.method.warmup_updates, "dt", config)
    )
    if config.quick:
        method = replace(method, context_length=5, backbone=replace(SMALL, residual_dropout=0.2))
    return replace(made, method=method)


def run_cells(
    cells: list[tuple[Variant, str]], output: Path, config: ReproduceConfig, progress: Progress
) -> dict[tuple[str, str], Path]:
    """Finished runs by variant and data set; what several cells need is made once, before them."""
    before = {_pretraining_place(v, d, output): (v, d) for v, d in cells if v.pretraining is not None}
    for variant, dataset in cells:
        if variant.ratio < 1.0:
            _part(variant, dataset, output)
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
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        try:
            first = [pool.submit(_job, _pretrain, v, d, output, config) for v, d in before.values()]
            _await(first, "pre-training", progress)
            jobs = {(v.name, d): pool.submit(_job, _train, v, d, output, config) for v, d in cells}
            _await(list(jobs.values()), "training", progress)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                for child in multiprocessing.active_children():
                    child.terminate()  # one that trains writes a checkpoint first
            pool.shutdown(cancel_futures=True)  # what runs is finished, what waits is not begun
            raise
    return {cell: job.result() for cell, job in jobs.items()}


_stopped = False


def _job(work: Callable[..., Path], *arguments: Any) -> Path:
    """Work of a process of the pool, which begins no more of it once it was told to stop."""
    global _stopped  # noqa: PLW0603
    if _stopped:
        raise KeyboardInterrupt
    try:
        return work(*arguments)
    except KeyboardInterrupt:
        _stopped = True  # jobs that already wait in the pool's queue cannot be cancelled
        raise


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
    sizes = facts(dataset)[1]
    return place.with_name(f"{place.name}-{sizes[0]}-{sizes[1]}") if variant.method == "cql" else place


def _pretrain(
    variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress = silent
) -> Path:
    """The finished run that a cell starts from."""
    assert variant.pretraining is not None
    place = _parents(_pretraining_place(variant, dataset, output))
    settings = pretraining_config(variant.pretraining, facts(dataset)[1], config)
    if isinstance(settings, PretrainCQLConfig):
        return pretrain_cql(settings, place, progress, resume=True)
    return pretrain_dt(settings, place, progress, resume=True)


def short_name(dataset: str) -> str:
    """A data set in tables and paths: its name, or the name of its file."""
    return Path(dataset).stem if "/" in dataset else dataset


def _train(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress = silent) -> Path:
    """The finished run of a cell, whose pre-training is there."""
    source, _, environment = facts(dataset)
    init = None if variant.pretraining is None else _pretraining_place(variant, dataset, output)
    if variant.ratio < 1.0:
        source = _part(variant, dataset, output)
    place = _parents(output / "runs" / slug(variant.name) / slug(short_name(dataset)))
    training = training_config(variant, source, environment, init, config)
    if isinstance(training, TrainDTConfig):
        return train_dt(training, place, progress, resume=True)
    return train_cql(training, place, progress, resume=True)


def _parents(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@cache
def facts(dataset: str) -> tuple[str, tuple[int, int], str]:
    """Name or whole path, observation and action numbers, environment."""
    loaded = load_dataset(dataset)
    source = str(Path(dataset).resolve()) if Path(dataset).exists() else dataset
    return source, (loaded.observation_dim, loaded.action_dim), environment_of(loaded)


def _part(variant: Variant, dataset: str, output: Path) -> str:
    """File with a share of a data set: trajectories for DT, transitions for CQL, as in the authors' code."""
    kind: SubsetKind = "trajectories" if variant.method == "dt" else "transitions"
    name = f"{slug(Path(dataset).stem)}-{variant.ratio:.0%}-of-{kind}.hdf5".replace("%", "pct")
    path = _parents(output / "datasets" / name)
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DatasetWarning)  # `facts` has shown them
            part = load_dataset(dataset, subset=Subset(kind, variant.ratio))
        write_d4rl(path, **replace(part, metadata={"source": part.name, **part.metadata}).to_write())
    return str(path)


def slug(name: str) -> str:
    """A name as part of a path."""
    kept = "".join(c if c.isalnum() or c in ".=-+" else "-" for c in name.replace("τ", "tau"))
    return "-".join(part for part in kept.split("-") if part).lower()


def _named(progress: Progress, label: str) -> Progress:
    def named(task: str, completed: int, total: int, unit: str) -> None:
        progress(f"{label}: {task}", completed, total, unit)

    return named
