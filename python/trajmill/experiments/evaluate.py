"""What a run has learned, used again: scored on more or other episodes, or written for another program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trajmill.algorithms import method_of_kind
from trajmill.core.files import contents, replacing
from trajmill.core.paths import AnyPath, input_path, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data.actions import ActionLimit, recorded_limit
from trajmill.evaluation.rollout import EvaluationResult, Policy, evaluate_policy
from trajmill.models.precision import use_bfloat16
from trajmill.runs.reading import RunError, newest_checkpoints, read_config, read_state
from trajmill.training.device import torch_as_it_was
from trajmill.training.settings import at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """How to score; the defaults are the protocol of arXiv 2310.00771."""

    episode_count: int = 10
    """episodes per seed, at least 1"""
    episode_seed: int = 0
    """names the series of initial states, at least 0; all seeds play the same episodes"""
    exact: bool = False
    """step Gymnasium itself instead of batches that equal it: slower, the same to the last bit"""
    threads: int | None = None
    """threads to simulate on, at least 1; None takes every core; results do not depend on it"""

    def __post_init__(self) -> None:
        at_least(1, episode_count=self.episode_count, threads=1 if self.threads is None else self.threads)
        at_least(0, episode_seed=self.episode_seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvaluation:
    """Scores of the policies in a run's newest checkpoint."""

    run: Path
    seeds: tuple[int, ...]
    update: int
    """updates behind the policies; of processes that share a run, the fewest"""
    result: EvaluationResult


@torch_as_it_was()
def evaluate_run(run: AnyPath, config: EvaluateConfig | None = None, progress: Progress = silent) -> RunEvaluation:
    """Play episodes with every seed's policy.

    ValueError if `run` is not a training run, has no policies, or has no checkpoint yet.
    """
    config, run = config or EvaluateConfig(), local_path(run)
    settings = read_config(run)
    found = [(path, read_policy(path)) for path in newest_checkpoints(run)]
    compute = settings["config"]["compute"]  # as where it was evaluated while it trained
    use_bfloat16(compute["precision"] == "bf16")
    torch.set_num_threads(compute["threads"])
    seeds = tuple(seed for _, policy in found for seed in policy.seeds)
    total = len(seeds) * config.episode_count
    progress("evaluate", 0, total, "episodes")
    results = []
    for path, policy in found:
        if policy.environment not in (None, settings["environment"]):
            raise RunError(
                f"{path} holds policies for {policy.environment}, but {run}'s config.json says "
                f"{settings['environment']}; one of the two belongs to another run"
            )
        result = evaluate_policy(
            policy.act,
            settings["environment"],
            seed_count=len(policy.seeds),
            episode_count=config.episode_count,
            episode_seed=config.episode_seed,
            observation_dim=policy.observation_dim,
            action_limit=policy.action_limit,
            exact=config.exact,
            threads=config.threads,
        )
        results.append(result)
        progress("evaluate", sum(each.returns.size for each in results), total, "episodes")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(each, name) for each in results]) for name in ("returns", "lengths")
    }
    update = min(policy.update for _, policy in found)
    return RunEvaluation(run=run, seeds=seeds, update=update, result=replace(results[0], **joined))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPolicy:
    """The policies of a checkpoint."""

    act: Policy
    seeds: tuple[int, ...]
    update: int
    """updates behind the policies"""
    observation_dim: int
    """numbers of an observation that they take"""
    action_limit: ActionLimit = 1.0
    """the environment's, within which it gets what they give within ±1"""
    environment: str | None = None
    """Gymnasium id that they were trained for; earlier versions did not write it down"""


def read_policy(checkpoint: AnyPath) -> TrainedPolicy:
    """Read the policies of a checkpoint of any method that has some."""
    tensors, known = read_state(input_path(checkpoint))
    kind = known.get("kind", "")
    method = method_of_kind(kind)
    if method is None:
        raise RunError(f"{checkpoint} is of {kind!r}, which is not a method of this version of trajmill")
    if not hasattr(method, "restore"):
        raise RunError(f"{checkpoint} holds no policy: it is of {kind}, which is for other methods to start from")
    return TrainedPolicy(
        act=method.restore(tensors, known),
        seeds=tuple(known["seeds"]),
        update=int(known["update"]),
        observation_dim=int(known["observation_dim"]),
        action_limit=recorded_limit(known.get("action_limit", 1.0)),
        environment=known.get("environment"),
    )


def export_run(run: AnyPath, destination: AnyPath) -> int:
    """Write the newest checkpoint of a run into a new directory, as other programs read it; gives its update.

    ValueError if the run has no checkpoint, its method knows no other program's format, or `destination` exists and is
    not an empty directory.
    """
    run, destination = local_path(run), local_path(destination)
    read_config(run)
    tensors, known = read_state(newest_checkpoints(run)[0])  # the first seed is in the first process's
    method = method_of_kind(known["kind"])
    if method is None or not hasattr(method, "export"):
        also = "; its policy can be a file that ends in .pt2, .pt or .onnx" if hasattr(method, "restore") else ""
        raise RunError(f"{run} is of {known['kind']}, which no other program's format is known for{also}")
    if destination.is_file() or contents(destination):
        raise ValueError(f"{destination} exists; choose another name")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with replacing(destination) as part:
        method.export(tensors, known, part)
    return int(known["update"])
