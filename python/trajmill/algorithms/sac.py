"""SAC: a stochastic policy that learns online, and is paid for its entropy.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv 1812.05905, in the order and with the initial
values of the code base of REDQ (arXiv 2101.05982), on which Synthetic Experience Replay (arXiv 2303.06614) is built.
Every tensor leads with the seed axis S; losses are sums over seeds of per-seed means.

    a   = tanh(μ(s) + σ(s)·N(0, 1)),  while it learns                                        explore
    y   = r + γ(1−d)·(min_{i in a subset} Q'_i(s', a') − α·log π(a'|s')),  a' ~ π(s')        bellman_target
    L_Q = Σ_i mean (Q_i(s, a) − y)²                                                          critic_loss
    L_π = mean (α·log π(a_π|s) − V(s, a_π)),  a_π ~ π(s),  V the least or the mean Q_i       policy_loss
    L_α = −log α·mean (log π(a_π|s) + target entropy)                                        alpha_loss

All losses are of the networks and of the α before the update; then α, the critics and the policy move, and last the
target critics. The subset, of `subset_size` of the N critics, is drawn for each update and seed; by default it is both
of two. Policy and α move at every `policy_delay`-th update only, the target critics at each.

Haarnoja's program takes the least value in L_π too, which is the default here; what REDQ's program and paper C call SAC
takes the mean (``--method.policy-value mean``).

It may start from the networks of CQL (`start_from`), as Cal-QL (arXiv 2303.05479) and WSRL (arXiv 2412.07762) do.

Deviations, exact in real arithmetic: log(1 − tanh²) as in torch's TanhTransform, where many programs add 1e-6; the
critics that are not in the subset are not computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from trajmill.algorithms import td3
from trajmill.algorithms.td3 import errors_of, mean_values, of_its_seeds
from trajmill.core import checks
from trajmill.data import Transitions
from trajmill.models.critics import critics, join, values_of
from trajmill.models.mlp import HIDDEN_SIZES, xavier
from trajmill.models.policies import LOG_STD_RANGE, outputs, policies, squashed_sample, tanh_gaussian
from trajmill.models.stack import Stack
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws, even, shaped_normals
from trajmill.training.metrics import MetricRing
from trajmill.training.policy import Policy
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

LABEL = "SAC"
SCHEDULE = Schedule(updates=1_000_000)
INTERACTION = Interaction(random_steps=5000, updates_per_step=1)
SECONDS = (0.009, 1 / 10_000)
EXAMPLES = """
  trajmill train sac --environment hopper --seeds 0 1 2 3 --out runs/hopper
  trajmill train sac --environment hopper --init runs/cal-ql --interaction.warmup-steps 5000 --out runs/after-data
  trajmill train sac --environment halfcheetah --method.policy-value mean --out runs/as-paper-c
  trajmill train sac --environment hopper --seeds 0 1 2 --method.entropy-coefficient 0.05 0.1 0.2 --out runs/fixed
"""
CRITIC_METRICS = ("q_loss", "data_value", "target_value")
POLICY_METRICS = ("policy_loss", "log_probability", "entropy_coefficient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one update computes.

    Numbers of the type `PerSeed` are one for all seeds or one each, so that a whole ablation is one run.
    """

    batch_size: int = 256
    """transitions per update and seed, at least 1"""
    discount: PerSeed = 0.99
    """gamma: per-step factor, [0, 1)"""
    learning_rate: PerSeed = 3e-4
    """Adam step size of critics, policy and entropy coefficient, > 0"""
    polyak: PerSeed = 0.005
    """step of the target critics towards the critics, (0, 1], every update"""
    critic_count: int = 2
    """N: critics of each seed, at least 1"""
    subset_size: int = 2
    """M: target critics, drawn anew at each update, of which the target takes the least value, 1 to N"""
    policy_value: Literal["minimum", "mean"] = "minimum"
    """how the policy values its actions: by the least of all critics (Haarnoja et al.) or by their mean (REDQ)"""
    policy_delay: int = 1
    """updates of the critics per update of policy and entropy coefficient, at least 1"""
    target_entropy: PerSeed | None = None
    """entropy that the coefficient steers to; None is minus the action numbers. REDQ's own table, MBPO's, has -1 for
    Hopper, -3 for HalfCheetah, -3 for Walker2d, -4 for Ant, -2 for Humanoid"""
    entropy_coefficient: PerSeed | None = None
    """alpha, at least 0, which then stays; None learns it, from 1 on"""
    layer_norm: bool = False
    """normalize the hidden layers of the critics before their ReLU (RLPD, arXiv 2302.02948)"""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """widths of the hidden layers of critics and policy, each at least 1"""

    def __post_init__(self) -> None:
        checks.choice("policy_value", self.policy_value, ("minimum", "mean"))
        at_least(1, batch_size=self.batch_size, critic_count=self.critic_count, policy_delay=self.policy_delay)
        checks.integer("subset_size", self.subset_size, 1, self.critic_count)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        in_range("[0, 1)", discount=self.discount)
        in_range("(0, 1]", polyak=self.polyak)
        in_range("(0, inf)", learning_rate=self.learning_rate)
        in_range("(-inf, inf)", target_entropy=0.0 if self.target_entropy is None else self.target_entropy)
        in_range("[0, inf)", entropy_coefficient=0.0 if self.entropy_coefficient is None else self.entropy_coefficient)
        if self.target_entropy is not None and self.entropy_coefficient is not None:
            raise ValueError("target_entropy is what a learned coefficient steers to; leave out entropy_coefficient")


SMALL = Config(batch_size=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Config
    table: Table[TransitionBatch, TransitionFacts]
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    policy: Stack
    critic: Stack
    """S·N rows, seed by seed"""
    critic_target: Stack
    log_alpha: Stack
    policy_optimizer: Adam
    critic_optimizer: Adam
    alpha_optimizer: Adam | None
    """None if the entropy coefficient stays as it is"""
    settings: Mapping[str, Tensor]
    """the `PerSeed` settings, (S,) each"""
    metrics: MetricRing

    @property
    def period(self) -> int:
        """Updates after which the operations of a step repeat."""
        return self.config.policy_delay

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        found = (
            {"step": self.step, "metrics": self.metrics.values, "policy": self.policy.flat}
            | {"critic": self.critic.flat, "critic_target": self.critic_target.flat}
            | prefixed("policy_adam", self.policy_optimizer.moving())
            | prefixed("critic_adam", self.critic_optimizer.moving())
        )
        if self.alpha_optimizer is not None:
            found |= {"log_alpha": self.log_alpha.flat} | prefixed("alpha_adam", self.alpha_optimizer.moving())
        return found


def create(
    config: Config, table: Table[TransitionBatch, TransitionFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh networks, target critics equal to the critics; on the table's device, in its precision."""
    seeds, device, dtype = check_seeds(seeds), table.device, table.dtype
    o, a, n = table.facts.observation_dim, table.facts.action_dim, config.critic_count
    critic = _critics(o + a, seeds, n, config.hidden_sizes, config.layer_norm).to(device, dtype)
    policy = _policy(o, a, seeds, config.hidden_sizes).to(device, dtype)
    numbers = per_seed(config, len(seeds), device, torch.float64)
    rate, every = numbers["learning_rate"], torch.ones(len(seeds), dtype=torch.float64, device=device)
    log_alpha = Stack.of([{"log_alpha": each} for each in numbers.get("entropy_coefficient", every).log()])
    log_alpha = log_alpha.to(device, dtype)
    sites = {"batch": config.batch_size, "noise": even(2 * config.batch_size * a), "subset": n}
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, sites, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        policy=policy,
        critic=critic,
        critic_target=critic.copy(),
        log_alpha=log_alpha,
        policy_optimizer=Adam.of([policy], [rate], fused=True),
        critic_optimizer=Adam.of([critic], [rate.repeat_interleave(n)], fused=True),
        alpha_optimizer=Adam.of([log_alpha], [rate], fused=True) if config.entropy_coefficient is None else None,
        settings={"target_entropy": -a * every.to(dtype)} | per_seed(config, len(seeds), device, dtype),
        metrics=MetricRing.of((*CRITIC_METRICS, *POLICY_METRICS), len(seeds), metric_capacity, device),
    )


def _critics(input_dim: int, seeds: Sequence[int], count: int, hidden_sizes: Sequence[int], layer_norm: bool) -> Stack:
    """Fresh critics, `count` a seed."""
    shape: dict[str, Any] = {"hidden_sizes": hidden_sizes, "layers": (xavier, xavier), "layer_norm": layer_norm}
    return critics(input_dim, seeds, ensemble_size=count, **shape)


def _policy(o: int, a: int, seeds: Sequence[int], hidden_sizes: Sequence[int]) -> Stack:
    """Fresh policies."""
    return policies(o, 2 * a, seeds, hidden_sizes=hidden_sizes, layers=(xavier, _heads))


def _heads(input_dim: int, output_dim: int, generator: Generator) -> dict[str, Tensor]:
    """The heads of mean and log σ, each with initial values of its own, as the halves of one output layer."""
    mean, log_std = (xavier(input_dim, output_dim // 2, generator) for _ in range(2))
    return {name: torch.cat([mean[name], log_std[name]], -1) for name in mean}


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place; `first` is the number of the first one, modulo the period."""
    words = state.draws.words(state.step, count)
    batches = state.table.draw(words["batch"])
    shape = (2, state.config.batch_size, state.table.facts.action_dim)
    noise = shaped_normals(words["noise"], shape, state.table.dtype).transpose(1, 2)
    chosen = subset(words["subset"], state.config.subset_size)
    for index in range(count):
        moves_policy = (first + index + 1) % state.config.policy_delay == 0
        update(state, batches[index], noise[index], chosen[index], moves_policy=moves_policy)


def subset(words: Tensor, size: int) -> Tensor:
    """`size` of the numbers 0 ... N−1, those of the least of N random words (..., N): (..., size), in any order."""
    return words.topk(size, largest=False, sorted=False).indices


def update(state: State, batch: TransitionBatch, noise: Tensor, chosen: Tensor, *, moves_policy: bool) -> None:
    """One update of the critics, perhaps of α and the policy, then of the target critics.

    `noise` (2, S, B, a) is standard normal: of the actions at s' and of L_π; `chosen` (S, M) are the target critics.
    """
    target = bellman_target(state, batch, noise[0], chosen)
    q_loss, data_value = critic_loss(state, batch, target)
    metrics = dict(zip(CRITIC_METRICS, (q_loss.detach(), data_value, target.mean(-1)), strict=True))
    if moves_policy:  # all losses are computed before anything moves, so the order of the steps does not count
        loss, log_density = policy_loss(state, batch.observation, noise[1])
        found = (loss.detach(), log_density.mean(-1), alpha(state)[:, 0])
        metrics |= dict(zip(POLICY_METRICS, found, strict=True))
        state.policy_optimizer.minimize(loss)
        if state.alpha_optimizer is not None:
            state.alpha_optimizer.minimize(alpha_loss(state, log_density))
    state.critic_optimizer.minimize(q_loss)
    polyak = state.settings["polyak"].repeat_interleave(state.config.critic_count)[:, None]
    state.critic_target.flat.lerp_(state.critic.flat.detach(), polyak)
    state.metrics.write(state.step, metrics)
    state.step.add_(1)


def gaussian(parameters: Mapping[str, Tensor], observation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation before the tanh: (S, n, o) -> 2 × (S, n, a)."""
    mean, log_std = outputs(parameters, observation).chunk(2, -1)
    return mean, log_std.clamp(*LOG_STD_RANGE)


def alpha(state: State) -> Tensor:
    """The entropy coefficient: (S, 1)."""
    return state.log_alpha.detached()["log_alpha"].exp()[:, None]


@torch.no_grad()
def bellman_target(state: State, batch: TransitionBatch, noise: Tensor, chosen: Tensor) -> Tensor:
    """y, of the target critics `chosen` (S, M): (S, B)."""
    action, log_density = squashed_sample(*gaussian(state.policy.detached(), batch.next_observation), noise)
    value = values_of(members(state.critic_target, chosen), join(batch.next_observation, action)).amin(1)
    value = value - alpha(state) * log_density
    return batch.reward + state.settings["discount"][:, None] * (1.0 - batch.terminal) * value


def members(stack: Stack, chosen: Tensor) -> Mapping[str, Tensor]:
    """The parameters of the networks `chosen` (S, M) of the N of each seed, M a seed; of all if M is N."""
    count = len(stack.flat) // len(chosen)
    if count == chosen.shape[1]:
        return stack.parameters
    rows = torch.arange(0, len(stack.flat), count, device=chosen.device)[:, None] + chosen
    return stack.like(stack.flat.index_select(0, rows.flatten())).parameters


def critic_loss(state: State, batch: TransitionBatch, target: Tensor) -> tuple[Tensor, Tensor]:
    """L_Q and the mean value of the data: 2 × (S,)."""
    values = values_of(state.critic.parameters, join(batch.observation, batch.action))  # (S, N, B)
    errors = mse_loss(values, target.unsqueeze(1).expand_as(values), reduction="none")
    return errors.mean(-1).sum(1), values.detach().mean((1, 2))


def policy_loss(state: State, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """L_π (S,), reaching the policy only, and the log-densities (S, B) of its actions."""
    action, log_density = squashed_sample(*gaussian(state.policy.parameters, observation), noise)
    values = values_of(state.critic.detached(), join(observation, action))  # (S, N, B)
    value = values.amin(1) if state.config.policy_value == "minimum" else values.mean(1)
    return (alpha(state) * log_density - value).mean(-1), log_density.detach()


def alpha_loss(state: State, log_density: Tensor) -> Tensor:
    """L_α of log-densities (S, B): (S,)."""
    return -state.log_alpha.parameters["log_alpha"] * (log_density.mean(-1) + state.settings["target_entropy"])


@torch.no_grad()
def explore(state: State, observation: Tensor, noise: Tensor) -> Tensor:
    """Actions to learn from: (S, E, o), standardized as the table's, and standard normals (S, E, a) -> (S, E, a)."""
    mean, log_std = gaussian(state.policy.detached(), observation)
    return torch.addcmul(mean, log_std.exp(), noise).tanh()


@torch.no_grad()
def start_from(state: State, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> State:
    """The state with policy, critics, target critics and entropy coefficient of a run of CQL, seed by seed.

    CQL's policy multiplies and shifts its log σ by two numbers it learns; the output layer takes them in, so that the
    policy is the same. A coefficient that stays (`Config.entropy_coefficient`) is not taken over. ValueError as for
    `of_its_seeds`, and for other critics than CQL's.
    """
    config, facts = state.config, state.table.facts
    taken = of_its_seeds(state, tensors, known, "cql", ("policy", "critic", "target", "log_alpha"))
    if config.critic_count != 2 or config.layer_norm:
        raise ValueError(
            "cql has 2 critics without layer norm, so critic_count must be 2 and layer_norm off, got critic_count "
            f"{config.critic_count} and layer_norm {'on' if config.layer_norm else 'off'}"
        )
    layout = tanh_gaussian(facts.observation_dim, facts.action_dim, [0], hidden_sizes=config.hidden_sizes)
    theirs = layout.like(taken["policy"]).parameters
    for name, parameter in state.policy.detached().items():
        parameter.copy_(theirs[name])
        if name.startswith("output."):
            log_std = parameter.chunk(2, -1)[1]
            log_std.mul_(theirs["log_std_multiplier"].to(parameter)[:, None, None])
            if name == "output.bias":
                log_std.add_(theirs["log_std_offset"].to(parameter)[:, None, None])
    state.critic.flat.copy_(taken["critic"])
    state.critic_target.flat.copy_(taken["target"])
    if state.alpha_optimizer is not None:
        state.log_alpha.flat.copy_(taken["log_alpha"])
    return state


action_values = td3.action_values


def mean_action(parameters: Mapping[str, Tensor], observation: Tensor) -> Tensor:
    """Action taken in evaluation, tanh of the mean: (S, n, o) -> (S, n, a) in (-1, 1)."""
    return gaussian(parameters, observation)[0].tanh()


@torch.no_grad()
def data_values(
    tensors: Mapping[str, Tensor], known: Mapping[str, Any], transitions: Transitions
) -> NDArray[np.float32]:
    """Mean of each seed's critics at the state and action of each transition: (S, N)."""
    return mean_values(_critics_of(known).like(tensors["critic"]), known, transitions)


@torch.no_grad()
def relevance(tensors: Mapping[str, Tensor], known: Mapping[str, Any], transitions: Transitions) -> NDArray[np.float32]:
    """Error of the first seed's first critic on each transition, |y − Q_1(s, a)|: (N,).

    y is of the policy's mean action and the least of all target critics, without the entropy.
    """
    first = slice(known["method"]["critic_count"])
    later, now = (_critics_of(known).like(tensors[name][first]) for name in ("critic_target", "critic"))
    network = _policy_of(known).like(tensors["policy"][:1])
    return errors_of(network, mean_action, later, now, known, transitions)


def _critics_of(known: Mapping[str, Any]) -> Stack:
    """A critic of a checkpoint's sizes, with values of its own."""
    settings, inputs = known["method"], known["observation_dim"] + known["action_dim"]
    return _critics(inputs, [0], 1, settings["hidden_sizes"], settings["layer_norm"])


def _policy_of(known: Mapping[str, Any]) -> Stack:
    """A policy of a checkpoint's sizes, with values of its own."""
    return _policy(known["observation_dim"], known["action_dim"], [0], known["method"]["hidden_sizes"])


def policy(state: State) -> Policy:
    """The policies being trained, as they are at each call; they act by tanh of the mean."""
    return Policy(state.policy, mean_action, state.table.facts.normalizer)


def restore(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Policy:
    """The policies of a checkpoint."""
    return Policy.restored(_policy_of(known).like(tensors["policy"]), mean_action, known)
