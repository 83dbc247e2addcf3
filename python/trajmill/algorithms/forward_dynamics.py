"""Forward dynamics: critics of CQL, pre-trained to predict the next state of a random MDP.

arXiv 2310.00771, section 4, and its released code. Each critic gets a second head that predicts the next state's vector
from (s, a); the scalar value layer receives no gradient and keeps its initial values. There are no rewards, targets or
policies.

    L = Σ_i mean over batch and dimensions of (f_i(s, a) − s')²                              update

What can be learned is small: on hopper sizes with 100 states and actions at temperature 1, predicting zero costs
0.3425, the best constant 0.3394, the true law 0.3391. The paper's controls (appendices F and J) predict a pair's
vectors, concat(s, a), instead: of the pair itself (identity) or of the pair a fixed map makes of it (mapping).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.core.mapping import OneToOneMap
from trajmill.core.mdp import MDP
from trajmill.core.progress import Progress, silent
from trajmill.core.reference import codebooks, mdp_transitions
from trajmill.data.environments import task_of
from trajmill.models.critics import critics, join, predictions
from trajmill.models.mlp import HIDDEN_SIZES, linear, orthogonal, small_linear
from trajmill.models.stack import Stack
from trajmill.replay import MDPTransitions
from trajmill.replay.tables import CodedBatch, CodedFacts, CodedRows, Table
from trajmill.training.adam import Adam
from trajmill.training.checkpoint import Former
from trajmill.training.draws import Draws
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import PerSeed, Schedule, all_at_least, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "MDP"
SCHEDULE = Schedule(updates=100_000)
SECONDS = (0.0025, 1 / 12_000)
METRICS = ("loss_critic_1", "loss_critic_2")
SCALES = dict.fromkeys(METRICS, "mean squared error")
EXAMPLES = """
  trajmill train forward_dynamics --method.environment hopper --out runs/dynamics
  trajmill train forward_dynamics --method.environment hopper --method.target identity --out runs/identity
  trajmill train forward_dynamics --method.state-count 1000 --method.action-count 1000 --out runs/large
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The MDP and what one update computes; defaults are the paper's (arXiv 2310.00771 and its released code)."""

    environment: str = "hopper"
    """environment whose dimensions the critics get, as D4RL's files have them (Ant's 111 hold 84 zeros)"""
    observation_dim: int | None = None
    """numbers of an observation, at least 1; None takes the environment's"""
    action_dim: int | None = None
    """numbers of an action, at least 1; None takes the environment's"""
    law: Literal["mdp", "iid"] = "mdp"
    """where states and actions come from: a random MDP, or uniform draws"""
    target: Literal["next_state", "identity", "mapping"] = "next_state"
    """what is predicted: the next state, the pair of state and action itself, or what a fixed map makes of the pair"""
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
    batch_size: int = 256
    """transitions per update and seed, drawn with replacement, at least 1"""
    learning_rate: PerSeed = 3e-4
    """Adam step size, > 0"""
    orthogonal: bool = False
    """orthogonal instead of torch's default initial values"""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """widths of the hidden layers, each at least 1; those of the critics that start from here"""

    def __post_init__(self) -> None:
        at_least(1, observation_dim=self.dimensions[0], action_dim=self.dimensions[1])
        at_least(1, state_count=self.state_count, action_count=self.action_count, batch_size=self.batch_size)
        at_least(1, trajectory_count=self.trajectory_count, length=self.length)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        in_range("(0, inf]", policy_temperature=self.policy_temperature)
        in_range("(0, inf]", transition_temperature=self.transition_temperature)
        in_range("(0, inf)", learning_rate=self.learning_rate)
        if self.stream == "reference" and self.temperatures == (math.inf, math.inf):
            raise ValueError("stream reference has no IID data, since the authors' draws of them have no seed; use v1")

    @property
    def temperatures(self) -> tuple[float, float]:
        """Of the policy and of the transitions, both infinite for iid."""
        return (math.inf, math.inf) if self.law == "iid" else (self.policy_temperature, self.transition_temperature)

    @property
    def dimensions(self) -> tuple[int, int]:
        """Numbers of an observation and of an action."""
        task = task_of(self.environment)
        observation_dim = task.observation_dims[-1] if self.observation_dim is None else self.observation_dim
        return observation_dim, task.action_dim if self.action_dim is None else self.action_dim


SMALL = Config(trajectory_count=20)


def _former(settings: dict[str, Any]) -> dict[str, Any]:
    """Earlier versions had identity and mapping among the laws."""
    law = settings.get("law", "mdp")
    return settings | ({"law": "mdp", "target": law} if law in ("identity", "mapping") else {})


FORMER = Former(kind="pretrain_cql", settings=_former)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Config
    table: Table[CodedBatch, CodedFacts]
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    critic: Stack
    optimizer: Adam
    metrics: MetricRing
    period: int = 1

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return {"step": self.step, "metrics": self.metrics.values, "critic": self.critic.flat} | prefixed(
            "adam", self.optimizer.moving()
        )


def generate(config: Config, progress: Progress = silent) -> CodedRows:
    """Trajectories of the random MDP as integers, with the paper's vectors of its states and actions."""
    states, actions, next_states = _trajectories(config)
    state_vectors, action_vectors = codebooks(config.state_count, config.action_count, *config.dimensions)
    target, target_vectors = next_states, state_vectors
    if config.target != "next_state":
        pairs = states.astype(np.int64) * config.action_count + actions
        if config.target == "mapping":
            pairs = OneToOneMap(config.state_count * config.action_count, config.data_seed)(pairs).astype(np.int64)
        met, target = np.unique(pairs, return_inverse=True)
        state, action = met // config.action_count, met % config.action_count
        target_vectors = np.concatenate([state_vectors[state], action_vectors[action]], 1)
    return CodedRows(
        name=f"synthetic-{config.law if config.target == 'next_state' else config.target}",
        transitions=MDPTransitions.from_arrays(
            states,
            actions,
            target.reshape(states.shape),
            state_vectors=state_vectors,
            action_vectors=action_vectors,
            target_vectors=target_vectors,
        ),
    )


def _trajectories(config: Config) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """States, actions and next states of all transitions, trajectory by trajectory."""
    temperatures = config.temperatures
    if config.stream == "reference":
        columns = mdp_transitions(
            config.trajectory_count, config.length, config.state_count, config.action_count, *temperatures
        )
        return columns["observations"], columns["actions"], columns["next_observations"]
    mdp = MDP(
        state_count=config.state_count,
        action_count=config.action_count,
        policy_temperature=temperatures[0],
        transition_temperature=temperatures[1],
        seed=config.data_seed,
    )
    data = mdp.sample(trajectory_count=config.trajectory_count, length=config.length)
    return data.states[:, :-1].ravel(), data.actions.ravel(), data.states[:, 1:].ravel()


def create(
    config: Config, table: Table[CodedBatch, CodedFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh critics with dynamics heads, on the table's device, in its precision."""
    seeds = check_seeds(seeds)
    facts, device = table.facts, table.device
    critic = critics(
        facts.observation_dim + facts.action_dim,
        seeds,
        predicted_dim=facts.predicted_dim,
        hidden_sizes=config.hidden_sizes,
        layers=(orthogonal(math.sqrt(2.0)), orthogonal(0.01)) if config.orthogonal else (linear, small_linear),
    ).to(device, table.dtype)
    rate = per_seed(config, len(seeds), device, torch.float64)["learning_rate"]
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, {"batch": config.batch_size}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        critic=critic,
        optimizer=Adam.of([critic], [rate.repeat_interleave(2)]),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place."""
    batches = state.table.draw(state.draws.words(state.step, count)["batch"])
    for index in range(count):
        update(state, batches[index])


def update(state: State, batch: CodedBatch) -> None:
    """One update of every seed."""
    predicted = predictions(state.critic.parameters, join(batch.observation, batch.action))  # (S, 2, B, ·)
    losses = (predicted - batch.next_observation.unsqueeze(1)).square().mean((2, 3))
    state.optimizer.minimize(losses)
    state.metrics.write(state.step, dict(zip(METRICS, losses.detach().unbind(1), strict=True)))
    state.step.add_(1)


def describe(state: State) -> dict[str, Any]:
    """How many numbers the critics take and predict."""
    facts = state.table.facts
    return {name: getattr(facts, name) for name in ("observation_dim", "action_dim", "predicted_dim")}
