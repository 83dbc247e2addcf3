"""How the policies of a run are scored as it learns, and what its result says of the scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from trajmill.algorithms import method_named
from trajmill.data import has_reference_score, reference_score
from trajmill.data.actions import recorded_limit
from trajmill.data.environments import is_ours, task_of
from trajmill.evaluation.environments import environment_definition
from trajmill.evaluation.rollout import Policy, evaluate_policy
from trajmill.evaluation.statistics import average_last_four, best
from trajmill.runs.directory import RunDirectory
from trajmill.training.device import ComputeConfig
from trajmill.training.metrics import finite_or_none
from trajmill.training.state import TrainingState

PROBE_STEPS = (5, 45)
"""lengths of the episodes that tell how long whole ones take"""


def snapshot(state: TrainingState) -> dict[str, Tensor]:
    """Copies on the CPU of what a policy may be made of: all that moves but optimizers and metrics."""
    moving = {name: tensor for name, tensor in state.moving().items() if "_adam/" not in name and name != "metrics"}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in moving.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Scores policies: mean return and score of every seed; the update names the series of episodes."""

    method: str
    known: Mapping[str, Any]
    """what checkpoints say beside their tensors"""
    environment: str
    episode_count: int
    compute: ComputeConfig

    def __call__(self, tensors: Mapping[str, Tensor], update: int) -> dict[str, list[float]]:
        """`scores`, in a process that nothing has set up yet."""
        self.compute.apply()
        return self.scores(tensors, update)

    def scores(self, tensors: Mapping[str, Tensor], update: int) -> dict[str, list[float]]:
        """The scores of a `snapshot`."""
        return self.scores_of(method_named(self.method).restore(tensors, self.known), update)

    def seconds(self, tensors: Mapping[str, Tensor]) -> float:
        """About how long scoring a `snapshot` takes where all episodes are as long as they can be; plays some steps."""
        act = method_named(self.method).restore(tensors, self.known)
        times = []
        for count in PROBE_STEPS:
            began = time.monotonic()
            self.scores_of(act, 0, maximum_steps=count)
            times.append(time.monotonic() - began)
        few, more = PROBE_STEPS
        return times[0] + max(0.0, times[1] - times[0]) / (more - few) * (task_of(self.environment).episode_limit - few)

    def scores_of(self, act: Policy, update: int, maximum_steps: int | None = None) -> dict[str, list[float]]:
        """The scores of policies."""
        result = evaluate_policy(
            act,
            self.environment,
            seed_count=len(self.known["seeds"]),
            episode_count=self.episode_count,
            episode_seed=update,
            maximum_steps=maximum_steps,
            observation_dim=self.known["observation_dim"],
            action_limit=recorded_limit(self.known.get("action_limit", 1.0)),
        )
        returns = result.returns.mean(axis=1)
        return {"return_mean": returns.tolist(), "normalized_score": result.normalized_scores.tolist()}


def stepped_by(environment: str) -> dict[str, Any]:
    """What steps an environment, for the record, and whether the margins of its contacts are repaired."""
    if is_ours(environment):
        return {"stepped_by": "trajmill", "margin_fix": environment_definition(environment).margin_fix}
    return {"stepped_by": "gymnasium", "margin_fix": False}


def final_scores(run: RunDirectory, environment: str) -> dict[str, Any]:
    """Average of the last four evaluations and the best one, per seed, None for a seed that diverged; and whence."""
    evaluations = [line["metrics"] for line in run.lines("evaluation")]
    curve, returns = (  # None becomes NaN
        np.array([metrics[name] for metrics in evaluations], np.float64) for name in ("normalized_score", "return_mean")
    )
    return {
        "average_return": [finite_or_none(value) for value in average_last_four(returns).tolist()],
        "average_last_four": [finite_or_none(value) for value in average_last_four(curve).tolist()],
        "best": [finite_or_none(value) for value in best(curve).tolist()],
        "environment": environment,
        "reference_score": asdict(reference_score(environment)) if has_reference_score(environment) else None,
        **stepped_by(environment),
    }
