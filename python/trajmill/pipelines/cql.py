"""CQL with and without synthetic pre-training, the second experiment of arXiv 2310.00771.

`pretrain_cql`: random MDP -> pre-training of the critics to predict its next state, or a control -> checkpoint.
`train_cql`: data set -> CQL from scratch or from that checkpoint -> evaluation -> scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import trajmill
from trajmill.algorithms import cql, forward_dynamics
from trajmill.algorithms.cql import CQLConfig
from trajmill.algorithms.forward_dynamics import ForwardDynamicsConfig, IndexedTransitions, PairMap
from trajmill.core.mapping import OneToOneMap
from trajmill.core.progress import Progress, silent
from trajmill.core.reference import codebooks, mdp_transitions
from trajmill.data import Dataset, environment_of, load_dataset, qlearning_transitions
from trajmill.data.environments import D4RL_TASKS
from trajmill.pipelines.finetuning import (
    checked_environment,
    final_scores,
    identity_of,
    metadata_of,
    pretrained_checkpoint,
    record,
    scoring,
)
from trajmill.pipelines.run_directory import RunDirectory, defaults
from trajmill.pipelines.schedule import Bound, Schedule, Trained, run_schedule
from trajmill.pipelines.workers import finish, train_seeds, worker_count
from trajmill.training.device import ComputeConfig
from trajmill.training.hyperparameters import at_least, check_seeds, in_range, per_seed
from trajmill.training.transitions import TransitionTable

PAPER_SEEDS = (*range(15), 42, 666, 1042, 2048, 4069)
"""the twenty fine-tuning seeds of arXiv 2310.00771"""

ENVIRONMENT_DIMENSIONS = {name: (task.observation_dims[-1], task.action_dim) for name, task in D4RL_TASKS.items()}
"""observation and action numbers of D4RL's locomotion data; Ant's 111 hold 84 zeros"""

LABELS = {"mdp": "MDP", "iid": "IID", "identity": "Identity", "mapping": "Mapping"}
"""what reports call pre-training by each law"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainCQLConfig:
    """Pre-training on a synthetic MDP; defaults are the paper's (arXiv 2310.00771 and its code)."""

    law: Literal["mdp", "iid", "identity", "mapping"] = "mdp"
    """mdp, iid: predict the next state, drawn by an MDP or uniformly; identity, mapping: the pair, or a map of it"""
    observation_dim: int
    """numbers of an observation in the data the critics are meant for (`ENVIRONMENT_DIMENSIONS`), at least 1"""
    action_dim: int
    """numbers of an action there, at least 1"""
    state_count: int = 100
    """states of the MDP, at least 1"""
    action_count: int = 100
    """actions of the MDP, at least 1"""
    policy_temperature: float = 1.0
    """temperature of the behavior policy's rows, > 0; inf is uniform, as it is for iid"""
    transition_temperature: float = 1.0
    """temperature of the transition rows, > 0; inf is uniform, as it is for iid"""
    trajectory_count: int = 1000
    """trajectories, at least 1"""
    length: int = 1000
    """transitions per trajectory, at least 1"""
    stream: Literal["v1", "reference"] = "v1"
    """v1: our own draws; reference: the authors' transitions, bit for bit, slow from 10,000 states on, never iid"""
    data_seed: int = 42
    """seed of the MDP and its trajectories, for v1 alone, and of the map"""
    seeds: tuple[int, ...] = (42,)
    """seeds of initial values and batches; the paper has one, and fine-tuning starts from the first"""
    method: ForwardDynamicsConfig = field(default_factory=ForwardDynamicsConfig)
    schedule: Schedule = field(default_factory=lambda: Schedule(updates=100_000))
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    variant: str = ""
    """label in reports; by default the law's: MDP, IID, Identity or Mapping"""

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        per_seed("learning_rate", self.method.learning_rate, len(self.seeds), torch.device("cpu"))
        counts = ("observation_dim", "action_dim", "state_count", "action_count", "trajectory_count", "length")
        for name in counts:
            at_least(name, getattr(self, name), 1)
        for name in ("policy_temperature", "transition_temperature"):
            in_range(name, getattr(self, name), 0.0, math.inf, open_low=True)
        if self.stream == "reference" and self.temperatures == (math.inf, math.inf):
            raise ValueError("stream reference has no IID data, since the authors' draws of them have no seed; use v1")

    @property
    def temperatures(self) -> tuple[float, float]:
        """Of the policy and of the transitions, both infinite for iid."""
        return (math.inf, math.inf) if self.law == "iid" else (self.policy_temperature, self.transition_temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCQLConfig:
    """CQL on a data set; defaults are the paper's (arXiv 2310.00771, Table 16)."""

    dataset: str
    """name of a bundled data set, or path of a file"""
    environment: str | None = None
    """Gymnasium id to evaluate in; None takes the data set's own"""
    init: Path | None = None
    """run directory or checkpoint of `pretrain_cql` to start the critics from; None starts from scratch"""
    load_value_layer: bool = True
    """with `init`, take over the untrained output layer too, as the released loader does; else one per seed"""
    next_observation: Literal["stored", "d4rl"] = "d4rl"
    """d4rl cuts the data as D4RL's own function does (the paper's); stored keeps the file's next observations"""
    seeds: tuple[int, ...] = (0,)
    """all trained in one program; the paper's are `PAPER_SEEDS`"""
    evaluation_episode_count: int = 10
    """episodes per evaluation and seed, at least 1 (the paper's)"""
    method: CQLConfig = field(default_factory=CQLConfig)
    schedule: Schedule = field(default_factory=lambda: Schedule(updates=1_000_000))
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    variant: str = "CQL"
    """label in reports"""

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        at_least("evaluation_episode_count", self.evaluation_episode_count, 1)
        for name in cql.PER_SEED:
            per_seed(name, getattr(self.method, name), len(self.seeds), torch.device("cpu"))


def pretrain_cql(
    config: PretrainCQLConfig,
    output: Path,
    progress: Progress = silent,
    *,
    resume: bool = False,
    workers: int | None = 1,
    part: bool = False,
) -> Path:
    """Pre-train critics on a random MDP; gives the run directory, which `train_cql` takes as ``init``.

    `workers` and `part` as for `train_cql`.
    """
    config = replace(config, variant=config.variant or LABELS[config.law])
    workers = worker_count(workers, config.compute, len(config.seeds), output)
    device = config.compute.apply()
    described = record("pretrain_cql", config, f"synthetic-{config.law}", None)
    run = RunDirectory.open(output, described, resume=resume, defaults=defaults(config))
    if run.finished:
        return output
    with run.locked():
        here = partial(_pretrain_here, run, config, device, progress, part=part)
        trained = train_seeds(run, pretrain_cql, config, workers, progress, here)
        last = {"last_metrics": run.lines("pretrain")[-1]["metrics"]}
        finish(run, trained, last, gradient_steps=config.schedule.updates, workers=workers)
    return output


def _pretrain_here(
    run: RunDirectory, config: PretrainCQLConfig, device: torch.device, progress: Progress, *, part: bool
) -> Trained:
    """Pre-train all seeds in this process."""
    transitions = synthetic_transitions(config, device)
    state = forward_dynamics.create(
        config.method, transitions, config.seeds, metric_capacity=config.schedule.log_interval
    )
    return run_schedule(
        run,
        forward_dynamics.step,
        state,
        config.schedule,
        phase="pretrain",
        seeds=config.seeds,
        metadata=metadata_of("pretrain_cql", config.seeds, config.observation_dim, config.action_dim)
        | {"predicted_dim": transitions.predicted_dim},
        progress=progress,
        part=part,
    )


def synthetic_transitions(config: PretrainCQLConfig, device: torch.device) -> IndexedTransitions:
    """Trajectories of the random MDP as integers, with the vectors its states and actions stand for."""
    states, actions = _trajectories(config)
    state_vectors, action_vectors = codebooks(
        config.state_count, config.action_count, config.observation_dim, config.action_dim
    )
    return IndexedTransitions.of(
        states,
        actions,
        state_vectors,
        action_vectors,
        target=_target(config),
        device=device,
        dtype=torch.float32,
    )


def _trajectories(config: PretrainCQLConfig) -> tuple[NDArray[Any], NDArray[Any]]:
    """States (trajectories, length + 1) and actions (trajectories, length)."""
    policy_temperature, transition_temperature = config.temperatures
    if config.stream == "v1":
        mdp = trajmill.MDP(
            state_count=config.state_count,
            action_count=config.action_count,
            policy_temperature=policy_temperature,
            transition_temperature=transition_temperature,
            seed=config.data_seed,
        )
        data = mdp.sample(trajectory_count=config.trajectory_count, length=config.length)
        return data.states, data.actions
    columns = mdp_transitions(
        config.trajectory_count,
        config.length,
        config.state_count,
        config.action_count,
        policy_temperature,
        transition_temperature,
    )
    here, actions, following = (
        columns[name].reshape(config.trajectory_count, config.length)
        for name in ("observations", "actions", "next_observations")
    )
    return np.concatenate([here[:, :1], following], 1), actions


def _target(config: PretrainCQLConfig) -> PairMap | None:
    """What pairs the critics predict; None if the next state."""
    if config.law == "identity":
        return lambda states, actions: (states, actions)
    if config.law == "mapping":
        pairs = OneToOneMap(config.state_count * config.action_count, config.data_seed)
        return lambda states, actions: pairs.pairs(states, actions, config.action_count)
    return None


def train_cql(
    config: TrainCQLConfig,
    output: Path,
    progress: Progress = silent,
    *,
    resume: bool = False,
    workers: int | None = 1,
    part: bool = False,
) -> Path:
    """Train CQL for every seed and score it; gives the run directory.

    `workers` processes share the seeds, with the same result; None chooses, see `workers.worker_count`. Each makes a
    `part` of the run: one that goes on where every seed of it has diverged.
    """
    workers = worker_count(workers, config.compute, len(config.seeds), output)
    device = config.compute.apply()
    dataset = load_dataset(config.dataset)
    environment = checked_environment(config.environment or environment_of(dataset), dataset)
    critics = None if config.init is None else _pretrained(config.init, dataset)
    described = record("train_cql", config, dataset.name, environment)
    run = RunDirectory.open(output, described, resume=resume, defaults=defaults(config))
    if run.finished:
        return output
    with run.locked():
        here = partial(_train_here, run, config, dataset, environment, critics, device, progress, part=part)
        trained = train_seeds(run, train_cql, config, workers, progress, here, cql.PER_SEED)
        finish(run, trained, final_scores(run, environment), gradient_steps=config.schedule.updates, workers=workers)
    return output


def _train_here(
    run: RunDirectory,
    config: TrainCQLConfig,
    dataset: Dataset,
    environment: str,
    critics: list[dict[str, Tensor]] | None,
    device: torch.device,
    progress: Progress,
    *,
    part: bool,
) -> Trained:
    """Train all seeds in this process."""
    transitions = qlearning_transitions(dataset, config.next_observation)
    table = TransitionTable.of(
        transitions,
        action_limit=config.method.action_limit,
        device=device,
        dtype=torch.float32,
    )
    state = cql.create(config.method, table, config.seeds, metric_capacity=config.schedule.log_interval)
    if critics is not None:
        cql.load_critic(state, critics, load_value_layer=config.load_value_layer)

    evaluate = scoring(
        lambda observation: cql.act(state, observation),
        environment,
        seed_count=len(config.seeds),
        episode_count=config.evaluation_episode_count,
        observation_dim=table.observation_dim,
    )

    return run_schedule(
        run,
        cql.step,
        state,
        config.schedule,
        phase="finetune",
        seeds=config.seeds,
        metadata=metadata_of("train_cql", config.seeds, table.observation_dim, table.action_dim)
        | identity_of(dataset, environment),
        progress=progress,
        evaluate=evaluate,
        bounds=_value_bounds(config, float(np.abs(transitions.reward).max())),
        part=part,
    )


def _value_bounds(config: TrainCQLConfig, greatest_reward: float) -> dict[str, Bound]:
    """Ten times what rewards can add up to, which is Safe Q's bound but for the sign."""
    discounts = per_seed("discount", config.method.discount, len(config.seeds), torch.device("cpu")).tolist()
    bound = Bound(
        limits=[10.0 * greatest_reward / (1.0 - discount) for discount in discounts],
        says="ten times the greatest reward / (1 - discount): Q diverges. Try a smaller --method.learning-rate, leave "
        "Safe Q on (no --method.no-safe-q), or look for extreme rewards in the data",
    )
    return {"data_value": bound, "target_value": bound}


def _pretrained(init: Path, dataset: Dataset) -> list[dict[str, Tensor]]:
    """Both critics of the first seed of a pre-training run, checked against the data."""
    tensors, metadata = pretrained_checkpoint(init, "pretrain_cql")
    sizes = (metadata["observation_dim"], metadata["action_dim"])
    if sizes != (dataset.observation_dim, dataset.action_dim):
        raise ValueError(
            f"init {init} was pre-trained for {sizes[0]} observation and {sizes[1]} action numbers, "
            f"data set {dataset.name} has {dataset.observation_dim} and {dataset.action_dim}"
        )
    return forward_dynamics.pretrained_critics(tensors["critic"], *sizes, metadata["predicted_dim"])
