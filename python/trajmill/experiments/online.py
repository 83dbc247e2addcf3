"""Agents that learn while they act: a method's own state, and the ring that its environments fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.data import Normalizer
from trajmill.data.environments import task_of
from trajmill.evaluation.simulators import open_environments
from trajmill.replay.ring import Ring
from trajmill.replay.tables import TransitionFacts
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import Interaction
from trajmill.training.state import Growing, prefixed

if TYPE_CHECKING:
    from trajmill.experiments.synthesis import Synthesis


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
    facts = TransitionFacts(observation_dim=task.observation_dim, action_dim=task.action_dim, normalizer=normalizer)
    environments = open_environments(task.environment_id, len(seeds) * environment_count, threads=threads)
    return Ring(
        environments,
        seeds,
        interaction,
        environment_count=environment_count,
        batch_size=batch_size,
        capacity=capacity,
        episode_limit=task.episode_limit,
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


ROWS_AT_START = 2048
"""rows of each source, at most, over which the values at the start are means"""


def values_at_start(
    method: ModuleType, agent: Any, offline: Mapping[str, NDArray[np.float32]] | None
) -> dict[str, list[float]]:
    """What an agent's critics say before its first update, whose steps are made first: means, one a seed.

    ``q_replay`` is of the actions in the rows of its ring, ``q_replay_policy`` of what its policy does there without
    chance, ``q_dataset`` and ``q_dataset_policy`` the same of the rows `offline`, if there are any.
    """
    ring: Ring = agent.table
    ring.feed(0, 1)
    seeds = range(len(agent.draws.seeds))
    sources: dict[str, list[Mapping[str, NDArray[Any]]]] = {"q_replay": [ring.rows(position) for position in seeds]}
    if offline is not None:
        sources["q_dataset"] = [offline for _ in seeds]
    normalizer, found = ring.facts.normalizer, dict[str, list[float]]()
    for source, parts in sources.items():
        count = len(parts[0]["action"])
        spread = np.linspace(0, count - 1, min(count, ROWS_AT_START)).astype(np.intp)
        observation, action = (np.stack([rows[name][spread] for rows in parts]) for name in ("observation", "action"))
        seen = observation if normalizer is None else normalizer.normalize(observation)
        for name, taken in ((source, action), (f"{source}_policy", method.policy(agent)(observation))):
            inputs = (torch.from_numpy(each).to(ring.device, ring.dtype) for each in (seen, taken))
            found[name] = method.action_values(agent, *inputs).mean(1).tolist()
    return found


@dataclass(frozen=True, slots=True)
class OnlineState:
    """What a run of an online method changes: the method's state, whose table is the ring, and what grows."""

    method: ModuleType
    agent: Any
    ring: Ring
    growing: Sequence[Growing]
    """the ring, and what else grows with it"""

    @classmethod
    def of(
        cls,
        method: ModuleType,
        agent: Any,
        synthesis: Synthesis | None = None,
        watch: Callable[[int], None] = lambda steps: None,
    ) -> OnlineState:
        """The agent explores from now on, and perhaps has synthetic transitions in its batches.

        `watch` is that of `Ring.begin`.
        """
        ring: Ring = agent.table
        explore = partial(method.explore, agent)
        if synthesis is None:
            ring.begin(explore, watch=watch)
            return cls(method, agent, ring, (ring,))
        ring.begin(explore, synthesis.before_step, watch)
        return cls(method, agent, ring, (ring, synthesis))

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
        for part in self.growing:
            part.store(directory)

    def load(self, directory: Path) -> None:
        """See `Growing`."""
        for part in self.growing:
            part.load(directory)

    def report(self) -> dict[str, list[float]]:
        """See `Growing`."""
        return {name: values for part in self.growing for name, values in part.report().items()}
