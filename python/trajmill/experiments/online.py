"""Agents that learn while they act: a method's own state, and the ring that its environments fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.data import Normalizer
from trajmill.data.environments import EPISODE_LIMIT, task_of
from trajmill.evaluation.simulators import BatchedEnvironment
from trajmill.replay.ring import Ring
from trajmill.replay.tables import TransitionFacts
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import Interaction
from trajmill.training.state import prefixed


def ring_of(
    environment: str,
    seeds: Sequence[int],
    interaction: Interaction,
    *,
    environment_count: int,
    batch_size: int,
    capacity: int,
    normalizer: Normalizer | None,
    device: torch.device,
    threads: int | None = None,
    offline: Mapping[str, NDArray[np.float32]] | None = None,
    offline_ratio: float = 0.0,
    algorithm: str = "agent",
) -> Ring:
    """An empty ring with `environment_count` environments of each seed, stepped on `threads` threads (None: all).

    Its files say that they are from the environment and from `algorithm`.
    """
    task = task_of(environment)
    facts = TransitionFacts(
        observation_dim=task.observation_dim,
        action_dim=task.action_dim,
        lowest_reward=-float("inf"),
        greatest_reward=float("inf"),
        normalizer=normalizer,
    )
    environments = BatchedEnvironment(task.environment_id, len(seeds) * environment_count, threads=threads)
    return Ring(
        environments,
        seeds,
        interaction,
        environment_count=environment_count,
        batch_size=batch_size,
        capacity=capacity,
        episode_limit=EPISODE_LIMIT,
        action_limit=task.action_limit,
        facts=facts,
        device=device,
        offline=offline,
        offline_ratio=offline_ratio,
        described={
            "dataset": f"{task.name}-{algorithm}-replay",
            "environment": task.environment_id,
            "algorithm": algorithm,
            "margin_fix": environments.margin_fix,
        },
    )


@dataclass(frozen=True, slots=True)
class OnlineState:
    """What a run of an online method changes: the method's state, whose table is the ring, and the ring."""

    method: ModuleType
    agent: Any
    ring: Ring

    @classmethod
    def of(cls, method: ModuleType, agent: Any) -> OnlineState:
        """The agent explores from now on."""
        ring: Ring = agent.table
        ring.begin(lambda observation, noise: method.explore(agent, observation, noise))
        return cls(method, agent, ring)

    def step(self, state: OnlineState, count: int = 1, first: int = 0) -> None:
        """See `Step`."""
        self.method.step(state.agent, count, first)

    @property
    def metrics(self) -> MetricRing:
        """See `TrainingState`."""
        metrics: MetricRing = self.agent.metrics
        return metrics

    @property
    def period(self) -> int:
        """See `TrainingState`."""
        period: int = self.agent.period
        return period

    def moving(self) -> dict[str, Tensor]:
        """See `TrainingState`."""
        own: Mapping[str, Tensor] = self.agent.moving()
        return {**own, **prefixed("ring", self.ring.moving())}

    def store(self, directory: Path) -> None:
        """See `Growing`."""
        self.ring.store(directory)

    def load(self, directory: Path) -> None:
        """See `Growing`."""
        self.ring.load(directory)

    def report(self) -> dict[str, list[float]]:
        """See `Growing`."""
        return self.ring.report()
