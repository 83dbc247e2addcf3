"""Score the trained policies of a run again: more episodes, other initial states, or Gymnasium itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.core.progress import Progress, silent
from trajmill.evaluation.rollout import EvaluationResult, Policy, evaluate_policy
from trajmill.models.precision import use_bfloat16
from trajmill.models.tanh_gaussian import deterministic_action, tanh_gaussian
from trajmill.pipelines.decision_transformer import trained_policy
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.hyperparameters import at_least


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
        at_least("episode_count", self.episode_count, 1)
        at_least("episode_seed", self.episode_seed, 0)
        at_least("threads", 1 if self.threads is None else self.threads, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvaluation:
    """Scores of the policies in a run's newest checkpoint."""

    run: Path
    seeds: tuple[int, ...]
    gradient_step: int
    """updates behind the policies"""
    result: EvaluationResult


def evaluate_run(run: Path, config: EvaluateConfig | None = None, progress: Progress = silent) -> RunEvaluation:
    """Play episodes with every seed's deterministic policy.

    Raises
    ------
    ValueError
        If `run` is no training run or has no checkpoint yet.
    """
    config = config or EvaluateConfig()
    described = run / "config.json"
    if not described.is_file():
        raise ValueError(f"{run} is not a run directory: it has no config.json")
    settings = RunDirectory(run).described()
    environment = settings["environment"]
    checkpoint = RunDirectory(run).newest_checkpoint()
    if checkpoint is None:
        raise ValueError(f"{run} has no checkpoint yet; let it run further")
    policy = load_policy(checkpoint)
    use_bfloat16(settings["config"]["compute"]["precision"] == "bf16")  # as where it was evaluated while it trained
    if policy.environment not in (None, environment):
        raise ValueError(
            f"{checkpoint} holds policies for {policy.environment}, but {described} says {environment}; one of the two "
            f"belongs to another run"
        )
    progress("evaluate", 0, len(policy.seeds) * config.episode_count, "episodes")
    result = evaluate_policy(
        policy.act,
        environment,
        seed_count=len(policy.seeds),
        episode_count=config.episode_count,
        episode_seed=config.episode_seed,
        observation_dim=policy.observation_dim,
        exact=config.exact,
        threads=config.threads,
    )
    progress("evaluate", result.returns.size, result.returns.size, "episodes")
    return RunEvaluation(run=run, seeds=policy.seeds, gradient_step=policy.gradient_step, result=result)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPolicy:
    """The deterministic policies of a checkpoint."""

    act: Policy
    seeds: tuple[int, ...]
    gradient_step: int
    """updates behind the policies"""
    observation_dim: int
    """numbers of an observation that they take"""
    environment: str | None = None
    """Gymnasium id that they were trained for; earlier versions did not put it down"""


def load_policy(checkpoint: Path) -> TrainedPolicy:
    """Read the policies of a checkpoint of `train_cql` or `train_dt`."""
    tensors, metadata = read_checkpoint(checkpoint)
    if metadata.get("kind") not in _POLICIES:
        kinds = " or ".join(_POLICIES)
        raise ValueError(f"{checkpoint} holds no policy: it is of {metadata.get('kind')}, not of {kinds}")
    return TrainedPolicy(
        act=_POLICIES[metadata["kind"]](tensors, metadata),
        seeds=tuple(metadata["seeds"]),
        gradient_step=int(metadata["gradient_step"]),
        observation_dim=int(metadata["observation_dim"]),
        environment=metadata.get("environment"),
    )


def _cql_policy(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Policy:
    stack = tanh_gaussian(metadata["observation_dim"], metadata["action_dim"], metadata["seeds"])
    with torch.no_grad():
        stack.flat.copy_(tensors["policy"])

    def act(observation: NDArray[np.floating]) -> NDArray[np.float32]:
        with torch.no_grad():
            action = deterministic_action(stack.detached(), torch.as_tensor(observation, dtype=torch.float32))
        return np.asarray(action)

    return act


_POLICIES: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Policy]] = {
    "train_cql": _cql_policy,
    "train_dt": trained_policy,
}
