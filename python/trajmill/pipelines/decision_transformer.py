"""Decision Transformer with and without pre-training, the second half of arXiv 2310.00771's first experiment.

`train_dt`: data set -> Decision Transformer from scratch, or on a backbone of
`trajmill.pipelines.language_model.pretrain_dt` -> evaluation -> scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.core.progress import Progress, silent
from trajmill.data import TASKS, Dataset, Normalizer, environment_of, load_dataset
from trajmill.models.decision_transformer import embeddings
from trajmill.models.gpt import GPTConfig, gpt
from trajmill.models.mlp import seeded_generator
from trajmill.models.spherical_kmeans import spherical_kmeans
from trajmill.models.stack import Stack
from trajmill.pipelines.finetuning import (
    checked_environment,
    final_scores,
    identity_of,
    metadata_of,
    record,
    scoring,
)
from trajmill.pipelines.language_model import TokenBatches, place, pretrained_leaves, tokens_learned
from trajmill.pipelines.run_directory import RunDirectory, defaults, plain
from trajmill.pipelines.schedule import Schedule, Trained, run_schedule
from trajmill.pipelines.workers import finish, train_seeds, worker_count
from trajmill.replay import TrajectoryBuffer
from trajmill.training.device import ComputeConfig
from trajmill.training.hyperparameters import at_least, check_seeds, per_seed
from trajmill.training.windows import WindowTable

TARGET_RETURNS = {task.environment_id: task.target_return for task in TASKS.values()}
"""what the paper asks of its policies (arXiv 2310.00771, Table 10)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainDTConfig:
    """Decision Transformer on a data set; defaults are the paper's (arXiv 2310.00771, Table 10)."""

    dataset: str
    """name of a bundled data set, or path of a file"""
    environment: str | None = None
    """Gymnasium id to evaluate in; None takes the data set's own"""
    init: Path | None = None
    """run directory or checkpoint of `pretrain_dt` to take the backbone from; None starts from scratch"""
    extend_positions: bool = False
    """with `init`, also take its position embeddings, as the table of timesteps"""
    target_return: float | None = None
    """return to ask for; None takes the paper's for the environment (`TARGET_RETURNS`)"""
    return_scale: float = 1000.0
    """what returns are divided by, > 0"""
    top_fraction: float = 1.0
    """share of the data's steps to keep, in episodes of highest return, in (0, 1]"""
    strict_budget: bool = False
    """never train on the episode of lowest return, as the released code does"""
    seeds: tuple[int, ...] = (0,)
    """all trained in one program"""
    evaluation_episode_count: int = 10
    """episodes per evaluation and seed, at least 1 (the paper's)"""
    method: DTConfig = field(default_factory=DTConfig)
    schedule: Schedule = field(default_factory=lambda: Schedule(updates=100_000))
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    variant: str = "DT"
    """label in reports"""

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        per_seed("learning_rate", self.method.learning_rate, len(self.seeds), torch.device("cpu"))
        at_least("evaluation_episode_count", self.evaluation_episode_count, 1)
        if self.init is None and (self.method.cluster_weight or self.method.language_weight):
            raise ValueError("cluster_weight and language_weight are for a pre-trained backbone; give init too")


def train_dt(
    config: TrainDTConfig,
    output: Path,
    progress: Progress = silent,
    *,
    resume: bool = False,
    workers: int | None = 1,
    part: bool = False,
) -> Path:
    """Train the Decision Transformer for every seed and score it; gives the run directory.

    `workers` processes share the seeds, with the same result; None chooses, see `workers.worker_count`. Each makes a
    `part` of the run: one that goes on where every seed of it has diverged.
    """
    workers = worker_count(workers, config.compute, len(config.seeds), output)
    device = config.compute.apply()
    dataset = load_dataset(config.dataset)
    environment = checked_environment(config.environment or environment_of(dataset), dataset)
    target_return = config.target_return if config.target_return is not None else TARGET_RETURNS.get(environment)
    if target_return is None:
        raise ValueError(f"the paper names no target return for {environment}; give --target-return")
    start: dict[str, Any] = {}
    tokens = None
    if config.init is not None:
        parameters, donor = pretrained_leaves(config.init)
        start["backbone"] = _fitting_backbone(config.init, parameters, donor, config.method)
        start |= {"positions": parameters["wpe.weight"]} if config.extend_positions else {}
        start |= _language_terms(config.init, parameters, config)
        if config.method.language_weight:
            tokens = tokens_learned(config.init, config.method.language_batch_size, progress)
            start["language_length"] = tokens.length
    described = record("train_dt", config, dataset.name, environment)
    run = RunDirectory.open(output, described, resume=resume, defaults=defaults(config))
    if run.finished:
        return output
    with run.locked():
        here = partial(
            _train_here, run, config, dataset, environment, target_return, start, tokens, device, progress, part=part
        )
        trained = train_seeds(run, train_dt, config, workers, progress, here)
        results = final_scores(run, environment) | {"target_return": target_return}
        finish(run, trained, results, gradient_steps=config.schedule.updates, workers=workers)
    return output


def _train_here(
    run: RunDirectory,
    config: TrainDTConfig,
    dataset: Dataset,
    environment: str,
    target_return: float,
    start: Mapping[str, Any],
    tokens: TokenBatches | None,
    device: torch.device,
    progress: Progress,
    *,
    part: bool,
) -> Trained:
    """Train all seeds in this process."""
    pairs = TrajectoryBuffer.from_dataset(
        dataset,
        context_length=2,
        return_scale=config.return_scale,
        top_fraction=config.top_fraction,
        strict_budget=config.strict_budget,
    )
    assert pairs.normalizer is not None
    table = WindowTable.of(pairs.windows(range(pairs.step_count)), device=device, dtype=torch.float32)
    state = dt.create(
        config.method,
        table,
        config.seeds,
        **start,
        slots=config.schedule.unroll,
        metric_capacity=config.schedule.log_interval,
    )
    policy = dt.Policy(
        state.network,
        state.outer,
        state.inner,
        context_length=config.method.context_length,
        normalizer=pairs.normalizer,
        target_return=target_return,
        return_scale=config.return_scale,
    )

    evaluate = scoring(
        policy,
        environment,
        seed_count=len(config.seeds),
        episode_count=config.evaluation_episode_count,
        observation_dim=table.observation_dim,
    )

    def feed(first: int, count: int) -> None:
        assert tokens is not None and state.tokens is not None
        for slot in range(count):
            place(state.tokens, None, slot, tokens.training(first + slot))

    return run_schedule(
        run,
        dt.step,
        state,
        config.schedule,
        phase="finetune",
        seeds=config.seeds,
        metadata=metadata_of("train_dt", config.seeds, table.observation_dim, table.action_dim)
        | identity_of(dataset, environment)
        | {
            "method": plain(config.method),
            "timestep_count": state.network.timestep_count,
            "normalizer": pairs.normalizer.to_dict(),
            "target_return": target_return,
            "return_scale": config.return_scale,
        },
        progress=progress,
        evaluate=evaluate,
        feed=None if tokens is None else feed,
        part=part,
    )


def trained_policy(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> dt.Policy:
    """The policies of a checkpoint of `train_dt`."""
    method = trained_method(metadata)
    network = method.network(metadata["observation_dim"], metadata["action_dim"], metadata["timestep_count"])
    layouts = Stack.of([embeddings(network, torch.Generator())]), Stack.of([gpt(method.backbone, torch.Generator())])
    outer, inner = (layout.like(tensors[name]) for layout, name in zip(layouts, ("outer", "inner"), strict=True))
    return dt.Policy(
        network,
        outer,
        inner,
        context_length=method.context_length,
        normalizer=Normalizer.from_dict(metadata["normalizer"]),
        target_return=metadata["target_return"],
        return_scale=metadata["return_scale"],
    )


def trained_method(metadata: Mapping[str, Any]) -> DTConfig:
    """What the updates of a checkpoint of `train_dt` computed, but for the step size."""
    described = dict(metadata["method"])
    return DTConfig(**described | {"backbone": GPTConfig(**described["backbone"]), "learning_rate": 1.0})


def pretrained_backbone(init: Path, method: DTConfig) -> tuple[dict[str, Tensor], Tensor]:
    """Backbone and position embeddings of the first seed of a pre-training run.

    The blocks and the last normalization carry over; token embeddings and output layer stay behind
    (arXiv 2310.00771's released code; Reid et al. 2022).
    """
    parameters, donor = pretrained_leaves(init)
    return _fitting_backbone(init, parameters, donor, method), parameters["wpe.weight"]


def _fitting_backbone(
    init: Path, parameters: Mapping[str, Tensor], donor: GPTConfig, method: DTConfig
) -> dict[str, Tensor]:
    """The part of what was learned that a Decision Transformer takes, if it has that shape."""
    for name in ("layer_count", "head_count", "width", "activation"):
        have, want = getattr(donor, name), getattr(method.backbone, name)
        if have != want:
            raise ValueError(f"init {init} has a backbone with {name} {have}, the Decision Transformer wants {want}")
    return {name: parameter for name, parameter in parameters.items() if name.startswith(("h.", "ln_f."))}


def _language_terms(init: Path, parameters: Mapping[str, Tensor], config: TrainDTConfig) -> dict[str, Any]:
    """What the two terms of Reid et al. need of a pre-training run, as `dt.create` takes it."""
    method = config.method
    needed: dict[str, Any] = {}
    if method.cluster_weight:
        count = len(parameters["wte.weight"])
        if method.cluster_count > count:
            raise ValueError(f"cluster_count must be at most {count}, the tokens of {init}, got {method.cluster_count}")
        generator = seeded_generator(0, "dt.clusters")
        needed["centers"] = spherical_kmeans(parameters["wte.weight"], method.cluster_count, generator)
    if method.language_weight:
        names = ("wte.weight",) if config.extend_positions else ("wte.weight", "wpe.weight")
        needed["language"] = {name: parameters[name] for name in names}
    return needed
