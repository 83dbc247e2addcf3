"""What every pipeline that fine-tunes on a data set does alike: its environment, where to start from, final scores."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from trajmill.data import Dataset, reference_score
from trajmill.evaluation.environments import environment_definition
from trajmill.evaluation.rollout import Policy, evaluate_policy
from trajmill.evaluation.simulators import needs_margin_fix
from trajmill.evaluation.statistics import average_last_four, best
from trajmill.pipelines.run_directory import RunDirectory, finite_list, plain
from trajmill.pipelines.schedule import Evaluate, not_finite
from trajmill.training.checkpoint import read_checkpoint


class RunConfig(Protocol):
    """Settings of a pipeline, a dataclass."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Trained in one program."""

    @property
    def variant(self) -> str:
        """Label in reports."""


def record(kind: str, config: RunConfig, dataset: str, environment: str | None) -> dict[str, Any]:
    """What ``config.json`` says of a run."""
    return {
        "kind": kind,
        "seeds": list(config.seeds),
        "dataset": dataset,
        "environment": environment,
        "variant": config.variant,
        "config": plain(config),
    }


def metadata_of(kind: str, seeds: tuple[int, ...], observation_dim: int, action_dim: int) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {"kind": kind, "seeds": list(seeds), "observation_dim": observation_dim, "action_dim": action_dim}


def identity_of(dataset: Dataset, environment: str) -> dict[str, Any]:
    """What a checkpoint says of the data it was trained on and of the environment that its policies are for."""
    digest = hashlib.sha256()
    for column in (dataset.observations, dataset.actions, dataset.rewards, dataset.terminals, dataset.timeouts):
        digest.update(f"{column.shape} {column.dtype}".encode())
        digest.update(np.ascontiguousarray(column).data)
    return {"environment": environment, "dataset": dataset.name, "dataset_sha256": digest.hexdigest()}


def checked_environment(environment: str, dataset: Dataset) -> str:
    """The id, if its observations and actions fit; Ant's data have 84 zeros that the environment parameters out."""
    definition = environment_definition(environment)
    padding = dataset.observation_dim - definition.observation_dim
    fits = padding == 0 or (padding > 0 and not dataset.observations[:, definition.observation_dim :].any())
    if not fits or dataset.action_dim != definition.action_dim:
        raise ValueError(
            f"{environment} has {definition.observation_dim} observation and {definition.action_dim} action numbers, "
            f"data set {dataset.name} has {dataset.observation_dim} and {dataset.action_dim}"
        )
    return environment


def newest_state(init: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a run or a checkpoint of the pipeline `kind`."""
    path = init
    if init.is_dir():
        newest = RunDirectory(init).newest_checkpoint()
        if newest is None:
            raise ValueError(f"init {init} has no checkpoint; give a run directory of {kind}")
        path = newest
    tensors, metadata = read_checkpoint(path)
    if metadata.get("kind") != kind:
        raise ValueError(f"init {path} must be a checkpoint of {kind}, got one of {metadata.get('kind')}")
    return tensors, metadata


def pretrained_checkpoint(init: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same, to start from: its first seed must not have diverged."""
    tensors, metadata = newest_state(init, kind)
    if 0 in not_finite(tensors, len(metadata["seeds"])):
        raise ValueError(
            f"init {init} has numbers that are not finite: its first seed, {metadata['seeds'][0]}, diverged; "
            f"pre-train again with another seed or a smaller learning rate"
        )
    return tensors, metadata


def scoring(act: Policy, environment: str, *, seed_count: int, episode_count: int, observation_dim: int) -> Evaluate:
    """Evaluation for a schedule: mean return and score of every seed; the update names the series of episodes."""

    def evaluate(gradient_step: int) -> dict[str, list[float]]:
        result = evaluate_policy(
            act,
            environment,
            seed_count=seed_count,
            episode_count=episode_count,
            episode_seed=gradient_step,
            observation_dim=observation_dim,
        )
        returns = result.returns.mean(axis=1)
        return {"return_mean": returns.tolist(), "normalized_score": result.normalized_scores.tolist()}

    return evaluate


def final_scores(run: RunDirectory, environment: str) -> dict[str, Any]:
    """Average of the last four evaluations and the best one, per seed, None for a seed that diverged; and whence."""
    evaluations = [line["metrics"]["normalized_score"] for line in run.lines("evaluation")]
    curve = np.array(evaluations, dtype=np.float64)  # None becomes NaN
    return {
        "average_last_four": finite_list(average_last_four(curve).tolist()),
        "best": finite_list(best(curve).tolist()),
        "environment": environment,
        "reference_score": asdict(reference_score(environment)),
        "margin_fix": needs_margin_fix(environment_definition(environment)),
    }
