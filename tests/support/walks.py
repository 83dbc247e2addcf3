"""Environments that are told by their observations, and a ring that they fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.data import Normalizer
from trajmill.replay.ring import Ring
from trajmill.replay.tables import TransitionFacts
from trajmill.training.settings import Interaction

CPU = torch.device("cpu")
BATCH = 6


@dataclass
class Result:
    observation: NDArray[np.float64]
    reward: NDArray[np.float64]
    terminal: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class Walks:
    """Environments whose observation is (where an episode began, steps made in it, sum of its actions).

    An episode ends by itself after the number of steps that its reset seed names, if that is below 9.
    """

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.states = np.zeros((count, 4))
        self.broken = broken

    def reset(self, seeds: Sequence[int], slots: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        slots = np.arange(len(seeds)) if slots is None else slots
        self.states[slots] = [[seed % 1009 / 1009, 0, 0, 2 + seed % 11] for seed in seeds]
        return self.states[slots, :3]

    def step(self, actions: NDArray[np.float32]) -> Result:
        self.states[:, 1] += 1
        self.states[:, 2] += actions.sum(1)
        observation = self.states[:, :3].copy()
        if self.broken is not None and self.states[self.broken, 1] > 1:
            observation[self.broken] = np.nan
        ends = self.states[:, 1] >= self.states[:, 3]
        return Result(observation, self.states[:, 2] * 0.5, ends, np.zeros_like(ends))

    def snapshot(self) -> NDArray[np.float64]:
        return self.states.copy()

    def resume(self, snapshot: NDArray[np.float64]) -> None:
        self.states[:] = snapshot


def explore(observation: Tensor, noise: Tensor) -> Tensor:
    return torch.tanh(observation[..., 1:] * 0.1 + noise)


def ring(
    seeds: Sequence[int] = (3, 2**63 + 5),
    environments: int = 2,
    *,
    updates_per_step: float = 0.5,
    random_steps: int = 7,
    capacity: int = 1000,
    limit: int = 9,
    broken: int | None = None,
    normalizer: Normalizer | None = None,
    warmup_steps: int = 0,
    device: torch.device = CPU,
    **more: Any,
) -> Ring:
    made = Ring(
        Walks(len(seeds) * environments, broken),
        seeds,
        Interaction(random_steps=random_steps, warmup_steps=warmup_steps, updates_per_step=updates_per_step),
        environment_count=environments,
        batch_size=BATCH,
        capacity=capacity,
        episode_limit=limit,
        action_limit=2.0,
        facts=TransitionFacts(
            observation_dim=3, action_dim=2, lowest_reward=-1.0, greatest_reward=1.0, normalizer=normalizer
        ),
        device=device,
        **more,
    )
    made.begin(explore)
    return made


def batches(made: Ring, count: int, first: int = 0) -> list[dict[str, Tensor]]:
    """What updates see, fed in periods."""
    made.reserve(made.period)
    found = []
    for update in range(first, first + count):
        made.feed(update, 1)
        batch = made.draw(torch.zeros(1, 1, 1))
        names = ("observation", "action", "reward", "terminal", "next_observation")
        found.append({name: getattr(batch, name)[0].clone() for name in names})
    return found


def equal(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]], seeds: Any = slice(None)) -> bool:
    pairs = [(a[name][seeds], b[name]) for a, b in zip(one, other, strict=True) for name in a]
    return all(torch.equal(a, b) for a, b in pairs)
