"""Shrink: behaviour cloning by a linear policy whose weights are pulled to zero at every second update.

Nobody's paper: a method that tests throw into the folder, to see that everything knows it at once.

    L = mean (W s + b − a)²                                                 update
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trajmill.data import Dataset, qlearning_transitions
from trajmill.models.stack import Stack
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts, TransitionRows
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws
from trajmill.training.metrics import MetricRing
from trajmill.training.policy import Policy
from trajmill.training.settings import PerSeed, Schedule, at_least, check_seeds, in_range, per_seed

LABEL = "Shrink"
SCHEDULE = Schedule(updates=2000, evaluation_interval=500)
SCALES = {"loss": "mean squared error"}
EXAMPLES = """
  trajmill train shrink --dataset hopper-sac-replay-10k --out runs/shrink
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one update computes."""

    batch_size: int = 64
    """transitions per update and seed, at least 1"""
    learning_rate: PerSeed = 1e-2
    """Adam step size, > 0"""
    shrinkage: PerSeed = 0.01
    """share of the weights that every second update takes away, [0, 1)"""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size)
        in_range("(0, inf)", learning_rate=self.learning_rate)
        in_range("[0, 1)", shrinkage=self.shrinkage)


SMALL = Config(batch_size=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Config
    table: Table[TransitionBatch, TransitionFacts]
    draws: Draws
    step: Tensor
    policy: Stack
    optimizer: Adam
    shrinkage: Tensor
    metrics: MetricRing
    period: int = 2

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        moments = {f"adam/{name}": tensor for name, tensor in self.optimizer.moving().items()}
        return {"step": self.step, "metrics": self.metrics.values, "policy": self.policy.flat} | moments


def prepare(config: Config, dataset: Dataset) -> TransitionRows:
    """D4RL's transitions."""
    return TransitionRows(transitions=qlearning_transitions(dataset, "d4rl"))


def create(
    config: Config, table: Table[TransitionBatch, TransitionFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Weights near zero."""
    seeds, device = check_seeds(seeds), table.device
    numbers = per_seed(config, len(seeds), device, torch.float64)
    policy = Stack.of([_fresh(table.facts.observation_dim, table.facts.action_dim, seed) for seed in seeds])
    policy = policy.to(device, table.dtype)
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, {"batch": config.batch_size}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        policy=policy,
        optimizer=Adam.of([policy], [numbers["learning_rate"]]),
        shrinkage=numbers["shrinkage"].to(table.dtype)[:, None],
        metrics=MetricRing.of(("loss", "taken_away"), len(seeds), metric_capacity, device),
    )


def _fresh(observation_dim: int, action_dim: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = 0.01 * torch.randn(action_dim, observation_dim, generator=generator)
    return {"weight": weight, "bias": torch.zeros(action_dim)}


def act(parameters: Mapping[str, Tensor], observations: Tensor) -> Tensor:
    """Observations (S, E, O) to actions (S, E, A)."""
    return observations @ parameters["weight"].transpose(1, 2) + parameters["bias"][:, None]


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place."""
    batches = state.table.draw(state.draws.words(state.step, count)["batch"])
    for index in range(count):
        update(state, batches[index], shrinks=(first + index) % 2 == 1)


def update(state: State, batch: TransitionBatch, *, shrinks: bool) -> None:
    """One update of every seed."""
    losses = (act(state.policy.parameters, batch.observation) - batch.action).square().mean((1, 2))
    state.optimizer.minimize(losses.sum())
    metrics = {"loss": losses.detach()}
    if shrinks:
        with torch.no_grad():
            metrics["taken_away"] = state.shrinkage[:, 0] * state.policy.flat.norm(dim=1)
            state.policy.flat.mul_(1.0 - state.shrinkage)
    state.metrics.write(state.step, metrics)
    state.step.add_(1)


def policy(state: State) -> Policy:
    """The policies being trained, as they are at each call."""
    return Policy(state.policy, act)


def restore(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Policy:
    """The policies of a checkpoint."""
    layout = Stack.of([_fresh(known["observation_dim"], known["action_dim"], 0)])
    return Policy.restored(layout.like(tensors["policy"]), act, known)
