"""TD3: a deterministic policy that learns online, from the lesser of two critics and smoothed targets.

Fujimoto et al., "Addressing Function Approximation Error in Actor-Critic Methods", arXiv 1802.09477, as in sfujim/TD3.
Every tensor leads with the seed axis S; losses are sums over seeds of per-seed means. No deviations.

    a   = clip(π(s) + σ_e·N(0, 1), ±1),  while it learns                                     explore
    y   = r + γ(1−d)·min_i Q'_i(s', clip(π'(s') + ε, ±1)),  ε = clip(σ·N(0, 1), ±c)          bellman_target
    L_Q = Σ_i mean (Q_i(s, a) − y)²                                                          critic_loss
    L_π = −mean Q_1(s, π(s))                                                                 policy_losses

Policy and targets move at every second update only (`Rule.policy_delay`). It may start from the networks of TD3+BC
(`start_from`), whose update is this one but for the policy's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from trajmill.data import Normalizer, Transitions
from trajmill.data.actions import recorded_limit, to_policy
from trajmill.models.critics import critics, join, values_of
from trajmill.models.mlp import HIDDEN_SIZES
from trajmill.models.policies import deterministic, policies
from trajmill.models.stack import Stack
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts, TransitionRows
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws, even, shaped_normals
from trajmill.training.metrics import MetricRing
from trajmill.training.policy import Act, Policy
from trajmill.training.settings import (
    Interaction,
    PerSeed,
    Schedule,
    all_at_least,
    at_least,
    check_seeds,
    in_range,
    per_seed,
)
from trajmill.training.state import prefixed

LABEL = "TD3"
SCHEDULE = Schedule(updates=1_000_000)
INTERACTION = Interaction(random_steps=25_000, updates_per_step=1)
SECONDS = (0.006, 1 / 15_000)
EXAMPLES = """
  trajmill train td3 --environment hopper --seeds 0 1 2 3 --out runs/hopper
  trajmill train td3 --environment hopper --init runs/hopper-offline --out runs/hopper-online
"""
CRITIC_METRICS = ("q_loss", "data_value", "target_value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What TD3 and TD3+BC have in common.

    Numbers of the type `PerSeed` are one for all seeds or one each, so that a whole ablation is one run.
    """

    batch_size: int = 256
    """transitions per update and seed, at least 1"""
    discount: PerSeed = 0.99
    """gamma: per-step factor, [0, 1)"""
    learning_rate: PerSeed = 3e-4
    """Adam step size of critics and policy, > 0"""
    polyak: PerSeed = 0.005
    """step of the targets towards the networks, (0, 1], at every update of the policy"""
    target_noise: float = 0.2
    """sigma: spread of the noise on the target's actions, at least 0"""
    target_noise_clip: float = 0.5
    """c: bound of that noise, at least 0"""
    policy_delay: int = 2
    """updates of the critics per update of the policy, at least 1"""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """widths of the hidden layers of critics and policy, each at least 1"""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, policy_delay=self.policy_delay)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        in_range("[0, 1)", discount=self.discount)
        in_range("(0, 1]", polyak=self.polyak)
        in_range("(0, inf)", learning_rate=self.learning_rate)
        in_range("[0, inf)", target_noise=self.target_noise, target_noise_clip=self.target_noise_clip)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Rule):
    """What one update computes, and how it explores; defaults are those of sfujim/TD3."""

    exploration_noise: PerSeed = 0.1
    """spread of the noise on the actions taken while it learns, at least 0"""
    carry_moments: bool = False
    """start from another run with the moments of its Adam too; else with none, as the networks are new to the data"""

    def __post_init__(self) -> None:
        Rule.__post_init__(self)
        in_range("[0, inf)", exploration_noise=self.exploration_noise)


SMALL = Config(batch_size=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Rule
    table: Table[TransitionBatch, TransitionFacts]
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    policy: Stack
    policy_target: Stack
    critic: Stack
    critic_target: Stack
    first_critic: Mapping[str, Tensor]
    """Q_1 of every seed, in the memory of `critic`; no gradient flows through it"""
    policy_optimizer: Adam
    critic_optimizer: Adam
    settings: Mapping[str, Tensor]
    """the `PerSeed` settings, (S,) each"""
    metrics: MetricRing

    @property
    def period(self) -> int:
        """Updates after which the operations of a step repeat."""
        return self.config.policy_delay

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return (
            {"step": self.step, "metrics": self.metrics.values}
            | {"policy": self.policy.flat, "policy_target": self.policy_target.flat}
            | {"critic": self.critic.flat, "critic_target": self.critic_target.flat}
            | prefixed("policy_adam", self.policy_optimizer.moving())
            | prefixed("critic_adam", self.critic_optimizer.moving())
        )


def create(
    config: Rule,
    table: Table[TransitionBatch, TransitionFacts],
    seeds: Sequence[int],
    *,
    metric_capacity: int = 1000,
    policy_metrics: Sequence[str] = ("value_loss",),
) -> State:
    """Fresh networks, targets equal to them; on the table's device, in its precision.

    `policy_metrics` are the names of the terms of the policy's loss.
    """
    seeds, device, dtype = check_seeds(seeds), table.device, table.dtype
    o, a = table.facts.observation_dim, table.facts.action_dim
    policy = policies(o, a, seeds, hidden_sizes=config.hidden_sizes).to(device, dtype)
    critic = critics(o + a, seeds, hidden_sizes=config.hidden_sizes).to(device, dtype)
    rate = per_seed(config, len(seeds), device, torch.float64)["learning_rate"]
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, {"batch": config.batch_size, "noise": even(config.batch_size * a)}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        policy=policy,
        policy_target=policy.copy(),
        critic=critic,
        critic_target=critic.copy(),
        first_critic={name: parameter[::2] for name, parameter in critic.detached().items()},
        policy_optimizer=Adam.of([policy], [rate], fused=True),
        critic_optimizer=Adam.of([critic], [rate.repeat_interleave(2)], fused=True),
        settings=per_seed(config, len(seeds), device, dtype),
        metrics=MetricRing.of((*CRITIC_METRICS, *policy_metrics), len(seeds), metric_capacity, device),
    )


Losses = Callable[[State, TransitionBatch], Mapping[str, Tensor]]
"""the terms of a policy's loss by name, (S,) each"""


def policy_losses(state: State, batch: TransitionBatch) -> dict[str, Tensor]:
    """L_π, reaching the policy only: (S,)."""
    chosen = deterministic(state.policy.parameters, batch.observation)
    return {"value_loss": -values_of(state.first_critic, join(batch.observation, chosen))[:, 0].mean(-1)}


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place; `first` is the number of the first one, modulo the period."""
    updates(state, count, first, policy_losses)


def updates(state: State, count: int, first: int, losses: Losses) -> None:
    """`step` with a policy whose loss is the sum of `losses`."""
    words = state.draws.words(state.step, count)
    batches = state.table.draw(words["batch"])
    shape = (state.config.batch_size, state.table.facts.action_dim)
    noise = shaped_normals(words["noise"], shape, state.table.dtype).unbind()
    for index in range(count):
        moves_policy = (first + index + 1) % state.config.policy_delay == 0
        update(state, batches[index], noise[index], losses, moves_policy=moves_policy)


def update(
    state: State, batch: TransitionBatch, noise: Tensor, losses: Losses = policy_losses, *, moves_policy: bool
) -> None:
    """One update of the critics, then perhaps of the policy and all targets; `noise` (S, B, a) is standard normal."""
    target = bellman_target(state, batch, noise)
    q_loss, data_value = critic_loss(state, batch, target)
    state.critic_optimizer.minimize(q_loss)
    metrics = dict(zip(CRITIC_METRICS, (q_loss.detach(), data_value, target.mean(-1)), strict=True))
    if moves_policy:
        terms = losses(state, batch)
        state.policy_optimizer.minimize(reduce(add, terms.values()))
        metrics |= {name: term.detach() for name, term in terms.items()}
        polyak = state.settings["polyak"][:, None]
        state.policy_target.flat.lerp_(state.policy.flat.detach(), polyak)
        state.critic_target.flat.lerp_(state.critic.flat.detach(), polyak.repeat_interleave(2, 0))
    state.metrics.write(state.step, metrics)
    state.step.add_(1)


@torch.no_grad()
def bellman_target(state: State, batch: TransitionBatch, noise: Tensor) -> Tensor:
    """y: (S, B)."""
    clip = state.config.target_noise_clip
    smoothing = (noise * state.config.target_noise).clamp_(-clip, clip)
    action = (deterministic(state.policy_target.parameters, batch.next_observation) + smoothing).clamp_(-1.0, 1.0)
    value = values_of(state.critic_target.parameters, join(batch.next_observation, action)).amin(1)
    return batch.reward + state.settings["discount"][:, None] * (1.0 - batch.terminal) * value


def critic_loss(state: State, batch: TransitionBatch, target: Tensor) -> tuple[Tensor, Tensor]:
    """L_Q and the mean value of the data: 2 × (S,)."""
    values = values_of(state.critic.parameters, join(batch.observation, batch.action))  # (S, 2, B)
    errors = mse_loss(values, target.unsqueeze(1).expand_as(values), reduction="none")
    return errors.mean(-1).sum(1), values.detach().mean((1, 2))


@torch.no_grad()
def explore(state: State, observation: Tensor, noise: Tensor) -> Tensor:
    """Actions to learn from: (S, E, o), standardized as the table's, and standard normals (S, E, a) -> (S, E, a)."""
    spread = state.settings["exploration_noise"][:, None, None]
    return (deterministic(state.policy.detached(), observation) + spread * noise).clamp_(-1.0, 1.0)


@torch.no_grad()
def action_values(state: Any, observation: Tensor, action: Tensor) -> Tensor:
    """Mean of each seed's critics, as they are: (S, n, o), standardized as the table's, and (S, n, a) -> (S, n)."""
    return values_of(state.critic.detached(), join(observation, action)).mean(1)


def start_from(state: State, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> State:
    """The state with policy, critics and targets of a run of TD3+BC (arXiv 2312.09844), seed by seed.

    ValueError as for `of_its_seeds`.
    """
    config = state.config
    left = ("step", "metrics") if isinstance(config, Config) and config.carry_moments else ("step", "metrics", "adam")
    names = [name for name in state.moving() if not any(word in name for word in left)]
    taken = of_its_seeds(state, tensors, known, "td3_bc", names)
    with torch.no_grad():
        for name, tensor in taken.items():
            state.moving()[name].copy_(tensor)
    return state


def of_its_seeds(
    state: Any, tensors: Mapping[str, Tensor], known: Mapping[str, Any], kind: str, names: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors `names` of a checkpoint of the method `kind`, with the rows of the seeds of a fresh state.

    All seeds take those of that run's one seed if it has no more. ValueError if networks, seeds or the standardization
    of observations do not fit, or a seed diverged.
    """
    facts, config = state.table.facts, state.config
    sizes = (known.get("observation_dim"), known.get("action_dim"))
    if known["kind"] != kind or sizes != (facts.observation_dim, facts.action_dim):
        raise ValueError(
            f"policy and critics for {facts.observation_dim} observation and {facts.action_dim} action numbers start "
            f"from {kind} for as many, not from one of {known['kind']} for {sizes[0]} and {sizes[1]}"
        )
    hidden_sizes = tuple(known["method"].get("hidden_sizes", HIDDEN_SIZES))  # earlier versions had no others
    if hidden_sizes != config.hidden_sizes:
        raise ValueError(f"hidden_sizes must be {hidden_sizes}, as pre-trained, got {config.hidden_sizes}")
    if known.get("normalizer") != (None if facts.normalizer is None else facts.normalizer.to_dict()):
        raise ValueError("observations must be standardized as those that the networks were trained on, or not at all")
    seeds, theirs = state.draws.seeds, known["seeds"]
    if len(theirs) > 1 and not set(seeds) <= set(theirs):
        raise ValueError(f"each seed starts from its own of {theirs}, or all from one; got seeds {seeds}")
    places = [theirs.index(seed) if len(theirs) > 1 else 0 for seed in seeds]
    taken = {name: tensors[name] for name in names}
    for name, tensor in taken.items():
        if tensor.ndim:
            rows = tensor.unflatten(0, (len(theirs), -1))[places]
            sick = ~rows.flatten(1).isfinite().all(1)
            if sick.any():
                seed = theirs[places[int(sick.int().argmax())]]
                raise ValueError(f"{name} of seed {seed} has numbers that are not finite; start from seeds without")
            taken[name] = rows.flatten(0, 1)
    return taken


@torch.no_grad()
def data_values(
    tensors: Mapping[str, Tensor], known: Mapping[str, Any], transitions: Transitions
) -> NDArray[np.float32]:
    """Mean of each seed's two critics at the state and action of each transition: (S, N)."""
    return mean_values(_critics(known).like(tensors["critic"]), known, transitions)


@torch.no_grad()
def mean_values(critic: Stack, known: Mapping[str, Any], transitions: Transitions) -> NDArray[np.float32]:
    """Mean of each seed's `critic` at the state and action of each transition: (S, N)."""
    values = []
    for part in _parts(known, transitions):
        inputs = join(part["observation"], part["action"]).expand(len(known["seeds"]), -1, -1)
        values.append(values_of(critic.parameters, inputs).mean(1))
    found: NDArray[np.float32] = torch.cat(values, 1).numpy()
    return found


@torch.no_grad()
def relevance(tensors: Mapping[str, Tensor], known: Mapping[str, Any], transitions: Transitions) -> NDArray[np.float32]:
    """Error of the first seed's first critic on each transition, |y − Q_1(s, a)| without noise: (N,)."""
    sizes = (known["observation_dim"], known["action_dim"], [0])
    network = policies(*sizes, hidden_sizes=known["method"]["hidden_sizes"]).like(tensors["policy_target"][:1])
    later, now = (_critics(known).like(tensors[name][:2]) for name in ("critic_target", "critic"))
    return errors_of(network, deterministic, later, now, known, transitions)


@torch.no_grad()
def errors_of(
    network: Stack, act: Act, later: Stack, now: Stack, known: Mapping[str, Any], transitions: Transitions
) -> NDArray[np.float32]:
    """Error of the first of one seed's critics `now` on each transition, where its policy acts next: (N,).

    |y − Q_1(s, a)|, y of the least of its critics `later`.
    """
    discount = known["method"]["discount"]
    discount = discount[0] if isinstance(discount, list) else discount
    errors = []
    for part in _parts(known, transitions):
        chosen = act(network.parameters, part["next_observation"])
        value = values_of(later.parameters, join(part["next_observation"], chosen)).amin(1)
        target = part["reward"] + discount * (1.0 - part["terminal"]) * value
        errors.append((target - values_of(now.parameters, join(part["observation"], part["action"]))[:, 0]).abs()[0])
    found: NDArray[np.float32] = torch.cat(errors).numpy()
    return found


def _critics(known: Mapping[str, Any]) -> Stack:
    """Critics of a checkpoint's sizes, with values of their own."""
    return critics(known["observation_dim"] + known["action_dim"], [0], hidden_sizes=known["method"]["hidden_sizes"])


def _parts(known: Mapping[str, Any], transitions: Transitions) -> Iterator[dict[str, Tensor]]:
    """The columns of some transitions at a time, (1, n, ·), standardized as a checkpoint's data were."""
    action = to_policy(transitions.action, recorded_limit(known.get("action_limit", 1.0)))
    columns = TransitionRows(
        transitions=replace(transitions, action=action), normalizer=Normalizer.of_metadata(known)
    ).columns
    for first in range(0, len(transitions), 8192):
        yield {name: torch.from_numpy(column[first : first + 8192])[None] for name, column in columns.items()}


def policy(state: State) -> Policy:
    """The policies being trained, as they are at each call."""
    return Policy(state.policy, deterministic, state.table.facts.normalizer)


def restore(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Policy:
    """The policies of a checkpoint."""
    sizes = known["method"]["hidden_sizes"]
    layout = policies(known["observation_dim"], known["action_dim"], [0], hidden_sizes=sizes)
    return Policy.restored(layout.like(tensors["policy"]), deterministic, known)
