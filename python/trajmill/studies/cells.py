"""Runs the cells of a study: a variant on a dataset or in an environment, all seeds at once, each a run directory."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from trajmill.algorithms import method_named, name_of
from trajmill.core.files import sha256_of
from trajmill.core.paths import given_path
from trajmill.core.progress import Progress
from trajmill.data import (
    DatasetError,
    DatasetWarning,
    Subset,
    bundled_datasets,
    environment_of,
    load_dataset,
    qlearning_transitions,
    write_d4rl,
)
from trajmill.data.catalog import find_dataset
from trajmill.data.environments import Task
from trajmill.data.official import OfficialFile, official_file
from trajmill.experiments.datasets import convert
from trajmill.experiments.prediction import identity_of
from trajmill.experiments.settings import DatasetTrainConfig, OnlineTrainConfig, TrainConfig
from trajmill.experiments.train import train
from trajmill.experiments.upsample import UpsampleConfig, upsample
from trajmill.runs.engines import Engine, EngineConfig, RunJob, opened
from trajmill.studies.records import Model, Noise, Place, Variant, smaller
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Interaction, Schedule, at_least, check_seeds, in_range

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
    environments: tuple[str, ...] = ()
    """short names, such as hopper, to take instead of the study's own, in a study of agents that learn online"""
    seeds: tuple[int, ...] = ()
    """fine-tuning seeds; by default the paper's, or two with `quick`"""
    update_share: float = 1.0
    """share of every number of fine-tuning updates and of their warm-ups, in (0, 1]; of agents that learn online, of
    their steps too, of the steps between models and of the transitions that models make"""
    pretraining_share: float | None = None
    """the same for updates of pre-training and of models; by default `update_share`"""
    batch_share: float = 1.0
    """share of every batch size, in (0, 1]"""
    evaluation_count: int = 20
    """least number of evaluations of a run, >= 4; they are at most 5,000 updates apart"""
    quick: bool = False
    """bundled data, two seeds, small networks, few updates: takes minutes on two cores"""
    text: tuple[Path, ...] = ()
    """text files for variants pre-trained on text, such as wiki.train.raw of Wikitext-103"""
    vocabulary: Path | None = None
    """directory of the text's tokenizer, vocab.json and merges.txt (the paper's: GPT-2's); by default one is trained"""
    processes: int | None = None
    """processes, each with one run at a time, at least 1; by default one per core, or one in all on a GPU; with
    --engine ray, runs at a time, by default as many as the cluster has room for"""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.seeds:
            check_seeds(self.seeds)
        in_range("(0, 1]", update_share=self.update_share, batch_share=self.batch_share)
        in_range("(0, 1]", pretraining_share=1.0 if self.pretraining_share is None else self.pretraining_share)
        at_least(4, evaluation_count=self.evaluation_count)
        if self.vocabulary is not None and not self.text:
            raise ValueError(f"vocabulary {self.vocabulary} is for text; give --text too")
        at_least(1, processes=1 if self.processes is None else self.processes)

    @property
    def share_before(self) -> float:
        """Share of pre-training updates, and of those of models."""
        return self.update_share if self.pretraining_share is None else self.pretraining_share

    @property
    def episode_count(self) -> int:
        """Episodes of an evaluation and seed."""
        return 2 if self.quick else 10


QUICK_COUNT = 2000
"""transitions that a quick run makes"""
COUNTED = ("updates", "log_interval", "evaluation_interval", "checkpoint_interval")
"""what a schedule counts in updates"""
LEAST_ROWS = 16
"""steps between two models of what an agent has met, at least, however small the share"""


def missing_requirement(variant: Variant, config: ReproduceConfig) -> str:
    """Why a variant cannot be run; empty if it can."""
    if variant.start is not None and variant.start.needs_text and not config.text:
        return "give --text with the training text of Wikitext-103, wiki.train.raw"
    return ""


def scaled(method: Any, updates: int, share: float, whole: int, config: ReproduceConfig) -> tuple[Any, Schedule]:
    """Settings and schedule with a share of the updates.

    Evaluations are 5,000 updates apart, or closer, so that there are as many as asked for, or four of a quick run. A
    quick run shrinks all counts as if `whole` became `QUICK_UPDATES`.
    """
    if config.quick:
        share *= QUICK_UPDATES / whole
    count = max(1, round(updates * share))
    evaluations = 4 if config.quick else config.evaluation_count
    interval = min(Schedule(updates=count).evaluation_interval, max(1, count // evaluations))
    schedule = Schedule(updates=count, evaluation_interval=interval, log_interval=min(1000, max(1, count // 20)))
    return smaller(method, updates=share, batch=config.batch_share, small=config.quick), schedule


def _whole(variant: Variant) -> int:
    """What a quick run of a variant makes `QUICK_UPDATES` of: the paper's updates of its method."""
    paper: int = method_named(name_of(variant.method)).SCHEDULE.updates
    return paper


def pretraining_config(variant: Variant, sizes: tuple[int, int], config: ReproduceConfig) -> TrainConfig[Any]:
    """Settings of a variant's pre-training run, for data with observations and actions of these sizes."""
    start = variant.start
    assert start is not None
    sized = replace(start.method, **dict(zip(start.sized_by, sizes, strict=False)))
    method, schedule = scaled(sized, start.updates, config.share_before, _whole(variant), config)
    if start.needs_text:
        vocabulary = config.vocabulary and config.vocabulary.resolve()
        method = replace(method, text=tuple(path.resolve() for path in config.text), vocabulary=vocabulary)
    return TrainConfig(
        seeds=(42,),  # the paper has one pre-training seed
        method=method,
        schedule=schedule,
        compute=config.compute,
        variant=f"{start.name} pre-training" + (f", {sizes[0]}+{sizes[1]} numbers" if start.sized_by else ""),
    )


def training_config(
    variant: Variant, dataset: str, environment: str, init: Path | None, config: ReproduceConfig, output: Path = Path()
) -> TrainConfig[Any]:
    """Settings of a fine-tuning run; `output` is where models and what they made are.

    A variant that learns online has no use for the dataset.
    """
    if variant.meets is not None:
        return _online_config(variant, variant.meets, environment, init, config)
    method, schedule = scaled(variant.method, variant.updates, config.update_share, _whole(variant), config)
    if variant.ratio < 1.0 and variant.subset.endswith("transitions") and hasattr(method, "next_observation"):
        method = replace(method, next_observation="stored")  # rows in no order
    return DatasetTrainConfig(
        dataset=dataset,
        environment=environment,
        **_augmented(variant, dataset, output),
        init=init,
        seeds=config.seeds[: variant.seed_count],
        evaluation_episode_count=config.episode_count,
        method=method,
        schedule=schedule,
        compute=config.compute,
        variant=variant.name,
    )


def _online_config(
    variant: Variant, meets: Interaction, environment: str, init: Path | None, config: ReproduceConfig
) -> OnlineTrainConfig[Any]:
    """Settings of a run that learns online: a share of its steps of the environment, and all else in proportion.

    Everything is counted in steps first and then in the updates that belong to them, so variants with other
    update-to-data ratios make as many steps, and are scored after the same ones.
    """
    ratio, synthesis = meets.updates_per_step, variant.synthesis
    steps = max(1, round(variant.updates / ratio))
    method, schedule = scaled(variant.method, steps, config.update_share, steps, config)
    share = schedule.updates / steps

    def part(count: int, least: int = 0) -> int:
        return max(least, round(share * count))

    if synthesis.every is not None:
        model, training = scaled(synthesis.method, synthesis.updates, config.share_before, synthesis.updates, config)
        synthesis = replace(
            synthesis,
            every=part(synthesis.every, LEAST_ROWS),
            first=None if synthesis.first is None else part(synthesis.first, LEAST_ROWS),
            count=QUICK_COUNT if config.quick else part(synthesis.count, 1),
            updates=training.updates,
            method=model,
        )
    return OnlineTrainConfig(
        environment=environment,
        interaction=replace(meets, random_steps=part(meets.random_steps), warmup_steps=part(meets.warmup_steps)),
        synthesis=synthesis,
        init=init,
        seeds=config.seeds[: variant.seed_count],
        evaluation_episode_count=config.episode_count,
        method=method,
        schedule=replace(schedule, **{name: max(1, round(ratio * getattr(schedule, name))) for name in COUNTED}),
        compute=config.compute,
        variant=variant.name,
    )


def _augmented(variant: Variant, dataset: str, output: Path) -> dict[str, Any]:
    """Options of training for what models have made of the dataset."""
    options: dict[str, Any] = {}
    if variant.prediction is not None and variant.prediction.rate > 0.0:
        options = {
            "predict": model_place(output, "models", variant.prediction.model, dataset),
            "prediction_rate": variant.prediction.rate,
            "prediction_horizon": variant.prediction.horizon,
        }
    if variant.synthetic is not None:
        made = model_place(output, "upsampled", variant.synthetic.model, dataset) / "upsampled.hdf5"
        options["mix"] = (f"{made}={variant.synthetic.share}",)
    if variant.noise is not None:
        options["mix"] = (f"{_noised(variant.noise, dataset, output)}={variant.noise.share}",)
    return options


def _noised(noise: Noise, dataset: str, output: Path) -> Path:
    """A file of noisy copies of a dataset, which is written if it is missing."""
    name = f"{place_name(dataset)}-{noise.copies}-copies-{noise.kind}-{noise.strength:g}.hdf5"
    path = output / "datasets" / name
    if not path.exists():
        real, random = qlearning_transitions(load_dataset(dataset)), np.random.default_rng(0)
        before, after = (np.tile(each, (noise.copies, 1)) for each in (real.observation, real.next_observation))
        spread = real.observation.std(0) if noise.kind == "additive" else 1.0
        factors = (noise.strength * random.standard_normal(before.shape, np.float32) for _ in range(2))
        noisy = [
            each + spread * factor if noise.kind == "additive" else each * (1.0 + factor)
            for each, factor in zip((before, after), factors, strict=True)
        ]
        write_d4rl(
            path,
            observations=noisy[0],
            next_observations=noisy[1],
            actions=np.tile(real.action, (noise.copies, 1)),
            rewards=np.tile(real.reward, noise.copies),
            terminals=np.tile(real.terminal, noise.copies),
            timeouts=np.zeros(len(before), np.bool_),
            metadata={"ordered": False},
        )
    return path


def model_config(model: Model, dataset: str, config: ReproduceConfig) -> DatasetTrainConfig[Any]:
    """Settings of the run that trains a model of a dataset."""
    method, schedule = _model_scaled(model, config)
    return DatasetTrainConfig(
        dataset=dataset, method=method, schedule=schedule, compute=config.compute, variant=model.name
    )


def _model_scaled(model: Model, config: ReproduceConfig) -> tuple[Any, Schedule]:
    return scaled(model.method, model.updates, config.share_before, model.updates, config)


def upsample_config(variant: Variant, config: ReproduceConfig) -> UpsampleConfig[Any]:
    """Settings of the making of transitions."""
    synthetic = variant.synthetic
    assert synthetic is not None
    method, schedule = _model_scaled(synthetic.model, config)
    return UpsampleConfig(
        count=QUICK_COUNT if config.quick else synthetic.count,
        method=method,
        sampling=synthetic.sampling,
        schedule=schedule,
        compute=config.compute,
    )


def model_place(output: Path, folder: str, model: Model, dataset: str) -> Path:
    """Directory of a model of a dataset, or of what it made."""
    return output / folder / path_name(model.name) / place_name(dataset)


Cell = tuple[Variant, Place]


def run_cells(
    cells: list[Cell], output: Path, config: ReproduceConfig, progress: Progress, engine: Engine | None = None
) -> dict[tuple[str, Place], Path]:
    """Finished runs by variant and place; what several cells need is made once, before them.

    Runs that fail are left out and are in `Engine.failed`; where all do, the first failure is raised. Without an
    `engine` processes of this machine make them.
    """
    if engine is None:
        with opened(EngineConfig(), config.compute, output, config.processes) as local:
            return run_cells(cells, output, config, progress, local)
    if earlier := [(variant.after, place) for variant, place in cells if variant.after is not None]:
        run_cells(earlier, output, config, progress, engine)
    pretrained: dict[Path, tuple[str, Cell]] = {}
    models, upsampled = dict(pretrained), dict(pretrained)
    needs: dict[Path, tuple[Path, ...]] = {}
    for variant, place in cells:
        before: list[Path] = []
        if variant.after is not None:
            before.append(run_path(variant.after, place, output))
        if isinstance(place, str):  # agents that learn in an environment need nothing else before
            source = _share_of(variant, place, output)
            _augmented(variant, source, output)
            if variant.start is not None and (path := pretraining_path(variant, place, output)) is not None:
                pretrained[path] = variant.start.name, (variant, place)
                before.append(path)
            if variant.prediction is not None and variant.prediction.rate > 0.0:
                path = model_place(output, "models", variant.prediction.model, source)
                models[path] = variant.prediction.model.name, (variant, place)
                before.append(path)
            if variant.synthetic is not None:
                path = model_place(output, "upsampled", variant.synthetic.model, source)
                upsampled[path] = variant.synthetic.model.name, (variant, place)
                before.append(path)
        needs[run_path(variant, place, output)] = tuple(before)
    runs = {run_path(variant, place, output): (variant.name, (variant, place)) for variant, place in cells}
    stages: Sequence[tuple[str, Callable[..., Path], Mapping[Path, tuple[str, Cell]]]] = (
        ("pre-training", _pretrain, pretrained),
        ("models", _model, models),
        ("upsampling", _upsample, upsampled),
        ("training", _train, runs),
    )
    for task, work, todo in stages:
        jobs = [
            RunJob(
                name=f"{number}/{len(todo)} {name} on {short_name(place)}",
                work=work,
                arguments=(variant, place, output, config),
                makes=path,
                needs=needs.get(path, ()),
            )
            for number, (path, (name, (variant, place))) in enumerate(todo.items(), start=1)
        ]
        engine.make(task, jobs, progress)
    return {(name, place): path for path in engine.without_failed([*runs]) for name, (_, place) in [runs[path]]}


def pretraining_path(variant: Variant, dataset: str, output: Path) -> Path | None:
    """Run directory of a pre-training, if there is any: one for all data, or one for each pair of sizes."""
    if variant.start is None:
        return None
    observation_dim, action_dim = dataset_facts(dataset)[1]
    sizes = f"-{observation_dim}-{action_dim}" if variant.start.sized_by else ""
    return output / "pretraining" / (path_name(variant.start.name) + sizes)


def _pretrain(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress) -> Path:
    """The finished run that a cell starts from."""
    path = pretraining_path(variant, dataset, output)
    assert path is not None
    return finished_run(pretraining_config(variant, dataset_facts(dataset)[1], config), path, progress)


def _model(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress) -> Path:
    """The finished run of the model that predicts for a cell."""
    assert variant.prediction is not None
    model, source = variant.prediction.model, _share_of(variant, dataset, output)
    path = model_place(output, "models", model, source)
    return finished_run(model_config(model, source, config), path, progress)


def _upsample(variant: Variant, dataset: str, output: Path, config: ReproduceConfig, progress: Progress) -> Path:
    """The transitions that a model has made for a cell."""
    assert variant.synthetic is not None
    source = _share_of(variant, dataset, output)
    path = model_place(output, "upsampled", variant.synthetic.model, source)
    upsample(source, path, upsample_config(variant, config), progress)
    return path


def _train(variant: Variant, place: Place, output: Path, config: ReproduceConfig, progress: Progress) -> Path:
    """The finished run of a cell; what it needs is finished."""
    if isinstance(place, Task):
        settings = training_config(variant, "", place.environment_id, None, config)
    else:
        source, init = _share_of(variant, place, output), pretraining_path(variant, place, output)
        if variant.after is not None:
            init = run_path(variant.after, place, output)
        settings = training_config(variant, source, dataset_facts(place)[2], init, config, output)
    return finished_run(settings, run_path(variant, place, output), progress)


def run_path(variant: Variant, place: Place, output: Path) -> Path:
    """Run directory of a cell."""
    return output / "runs" / path_name(variant.name) / place_name(place)


def finished_run(settings: TrainConfig[Any], path: Path, progress: Progress) -> Path:
    """Train what is not finished yet; gives `path`, the run directory."""
    train(settings, path, progress, resume=True)
    return path


def short_name(place: Place) -> str:
    """A place in words: its name, or the name of its file."""
    if isinstance(place, Task):
        return place.name
    return Path(place).stem if "/" in place else place


def labels(places: Iterable[Place]) -> dict[Place, str]:
    """What tables and figures call each place: its short name, or all of its path where two have one name."""
    names = {place: short_name(place) for place in places}
    counts = Counter(names.values())
    return {place: name if counts[name] == 1 else str(place) for place, name in names.items()}


def place_name(dataset: Place) -> str:
    """A place as part of a path: its name, and of all but bundled and official files what tells their content.

    Any other name may stand for another file, here or tomorrow.
    """
    if isinstance(dataset, Task):
        return dataset.name
    name, short = path_name(short_name(dataset)), short_name(dataset)
    try:
        path = find_dataset(dataset)
    except DatasetError:
        return name  # there is nothing whose content could be taken for another's
    bundled = short in bundled_datasets() and path == find_dataset(short)
    content = "" if bundled else _content(path, official_file(short), _stamp(path))
    return f"{name}-{content}" if content else name


@cache
def _content(path: Path, official: OfficialFile | None, stamp: Any) -> str:
    """Digits that tell the content of a dataset from others'; none if it is that of D4RL's `official` file."""
    if official is not None and path.is_file() and sha256_of(path).startswith(official.sha256):
        return ""
    return hashlib.sha256("".join(identity_of(load_dataset(path)).values()).encode()).hexdigest()[:12]


def _stamp(path: Path) -> tuple[tuple[int, int], ...]:
    """Changes when a file, or one in a directory, is written again."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple((each.stat().st_mtime_ns, each.stat().st_size) for each in files)


def dataset_facts(dataset: str) -> tuple[str, tuple[int, int], str, int]:
    """Name or whole path, sizes of an observation and of an action, environment, number of rows."""
    return _facts(dataset, _stamp(find_dataset(dataset)))


@cache
def _facts(dataset: str, stamp: Any) -> tuple[str, tuple[int, int], str, int]:
    """`dataset_facts` of a file as it is."""
    loaded = load_dataset(dataset)
    path = given_path(dataset)
    source = str(path.resolve()) if path.exists() else dataset
    return source, (loaded.observation_dim, loaded.action_dim), environment_of(loaded), len(loaded)


def _share_of(variant: Variant, dataset: str, output: Path) -> str:
    """The dataset, or a file with a share of it, which is written if it is missing."""
    path, subset = share_path(variant, dataset, output)
    if subset.amount < 1.0 and not Path(path).exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DatasetWarning)  # others may misread rows in no order, we do not
            convert(dataset, path, to="d4rl", subset=subset)
    return path


def share_path(variant: Variant, dataset: str, output: Path) -> tuple[str, Subset]:
    """Where the share of a dataset is that a variant is trained on, and which; the dataset itself if all of it."""
    subset, what = Subset(variant.subset, variant.ratio), f"{100 * variant.ratio:g}%"
    if variant.rows is not None:
        share = min(1.0, variant.rows / dataset_facts(dataset)[3])
        subset, what = Subset("trajectories", share), f"{variant.rows}-rows"
    if subset.amount == 1.0:
        return dataset_facts(dataset)[0], subset
    name = f"{place_name(dataset)}-{what}-of-{subset.kind}.hdf5".replace("%", "pct")
    return str(output / "datasets" / name), subset


def path_name(name: str) -> str:
    """A name as part of a path."""
    kept = "".join(c if c.isalnum() or c in ".=-+" else "-" for c in name.replace("τ", "tau"))
    return "-".join(part for part in kept.split("-") if part).lower()
