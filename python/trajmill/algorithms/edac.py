"""EDAC: a soft actor-critic that trusts the least of many critics, which are kept diverse.

An et al., "Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble", arXiv 2110.01548, in the form
of tinkoff-ai/CORL and of Synthetic Experience Replay (arXiv 2303.06614), whose programs compute the same; with η = 0 it
is the paper's SAC-N. Every tensor leads with the seed axis S; losses are sums over seeds of per-seed means.

    L_α = −log α·mean (log π(a_π|s) − A),  a_π ~ π(s), A action dimensions                   alpha_loss
    L_π = mean (α·log π(a_π|s) − min_i Q_i(s, a_π)),  a_π ~ π(s)                             policy_loss
    y   = r + γ(1−d)·(min_i Q'_i(s', a') − α·log π(a'|s')),  a' ~ π(s')                      bellman_target
    L_Q = Σ_i mean (Q_i(s, a) − y)² + η·mean Σ_{i≠j} g_i·g_j / (N−1)                         critic_loss, diversity
    g_i = ∇_a Q_i(s, a) / (‖∇_a Q_i(s, a)‖ + 1e-10)

Each loss sees what the steps before it have changed: α, then the policy, then the critics, then their targets; in the
authors' order (snu-mllab/EDAC) all three are computed first, L_α and L_π of the same a_π. Some datasets have settings
of their own (`adapt`).

Deviations, the first two exact in real arithmetic: values and their gradients come from one chain of products
(`values_and_slopes`); the policy loss has no gradient with respect to the critics. log(1 − tanh²) is exact, where CORL
adds 1e-6 to 1 − tanh². The authors' program takes the diversity of min(N, A) critics drawn anew at each update, CORL's
and this of all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from trajmill.core import checks
from trajmill.data import Dataset, qlearning_transitions
from trajmill.models.critics import critics, join, values_and_slopes, values_of
from trajmill.models.mlp import linear, uniform
from trajmill.models.policies import outputs, policies, squashed_sample
from trajmill.models.stack import Stack
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts, TransitionRows
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws, even, shaped_normals
from trajmill.training.metrics import MetricRing
from trajmill.training.policy import Policy
from trajmill.training.settings import Bound, PerSeed, Schedule, all_at_least, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "EDAC"
SCHEDULE = Schedule(updates=3_000_000)
SECONDS = (0.06, 1 / 4000)
EXAMPLES = """
  trajmill train edac --dataset halfcheetah-sac-replay-10k --out runs/cheetah --schedule.updates 20000
  trajmill train edac --dataset hopper_medium-v2.hdf5 --seeds 0 1 2 3 --out runs/hopper-medium
  trajmill train edac --dataset A.hdf5 --seeds 0 1 2 --method.eta 0 1 5 --out runs/diversity
  trajmill train edac --dataset A.hdf5 --method.critic-count 100 --method.eta 0 --out runs/sac-n
"""
METRICS = (
    "q_loss",
    "diversity_loss",
    "policy_loss",
    "data_value",
    "target_value",
    "value_spread",
    "log_probability",
    "entropy_coefficient",
)
LOG_STD_RANGE = (-5.0, 2.0)
"""clamp of the log standard deviation (the authors' and CORL's)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one update computes; what is left open is filled in for the dataset (`adapt`).

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
    critic_count: int | None = None
    """N: critics of each seed, at least 1; 10, and 50 for hopper"""
    eta: PerSeed | None = None
    """weight of the diversity, at least 0; 1 but for some datasets; 0 is SAC-N"""
    order: Literal["corl", "authors"] = "corl"
    """corl steps after each loss: entropy coefficient, policy, critics; authors computes all three losses first"""
    hidden_sizes: tuple[int, ...] = (256, 256, 256)
    """widths of the hidden layers of critics and policy, each at least 1"""

    def __post_init__(self) -> None:
        checks.choice("order", self.order, ("corl", "authors"))
        at_least(1, batch_size=self.batch_size)
        at_least(1, critic_count=1 if self.critic_count is None else self.critic_count)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        in_range("[0, 1)", discount=self.discount)
        in_range("(0, 1]", polyak=self.polyak)
        in_range("(0, inf)", learning_rate=self.learning_rate)
        in_range("[0, inf)", eta=1.0 if self.eta is None else self.eta)


_DEFAULTS: dict[str, Any] = {"critic_count": 10, "eta": 1.0}
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "hopper-.*": {"critic_count": 50},
    "(halfcheetah|walker2d)-medium-expert": {"eta": 5.0},
    "maze2d-.*": {"eta": 0.1},
}
"""D4RL's name of a dataset without its version, and the settings for it (SynthER's scripts)"""

SMALL = Config(batch_size=64, critic_count=3, hidden_sizes=(64, 64, 64))


def adapt(config: Config, dataset: Dataset, environment: str) -> Config:
    """With the values for this dataset where none is given.

    They go by D4RL's name of the dataset, such as ``hopper-medium-v2``.
    """
    name = re.sub(r"-v\d+$", "", dataset.name.lower().replace("_", "-"))
    values = dict(_DEFAULTS)
    for pattern, exceptions in _EXCEPTIONS.items():
        if re.fullmatch(pattern, name):
            values |= exceptions
    return replace(config, **{key: value for key, value in values.items() if getattr(config, key) is None})


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
    alpha_optimizer: Adam
    settings: Mapping[str, Tensor]
    """the `PerSeed` settings, (S,) each"""
    is_diverse: bool
    """whether the diversity counts in any seed"""
    metrics: MetricRing
    period: int = 1

    @property
    def member_count(self) -> int:
        """N."""
        return len(self.critic.flat) // len(self.policy.flat)

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return (
            {"step": self.step, "metrics": self.metrics.values}
            | {"policy": self.policy.flat, "log_alpha": self.log_alpha.flat}
            | {"critic": self.critic.flat, "critic_target": self.critic_target.flat}
            | prefixed("policy_adam", self.policy_optimizer.moving())
            | prefixed("critic_adam", self.critic_optimizer.moving())
            | prefixed("alpha_adam", self.alpha_optimizer.moving())
        )


def prepare(config: Config, dataset: Dataset) -> TransitionRows:
    """D4RL's transitions as they are."""
    return TransitionRows(transitions=qlearning_transitions(dataset, "d4rl"))


def create(
    config: Config, table: Table[TransitionBatch, TransitionFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh networks, targets equal to the critics, entropy coefficient 1; on the table's device, in its precision.

    ValueError for settings that `adapt` has not filled in.
    """
    if config.critic_count is None or config.eta is None:
        raise ValueError("settings critic_count or eta are open; adapt(config, dataset, environment) fills them in")
    seeds, device, dtype = check_seeds(seeds), table.device, table.dtype
    o, a, n = table.facts.observation_dim, table.facts.action_dim, config.critic_count
    layers = (_critic_layer, uniform(3e-3))
    critic = critics(o + a, seeds, ensemble_size=n, hidden_sizes=config.hidden_sizes, layers=layers).to(device, dtype)
    policy = _policy(o, a, seeds, config.hidden_sizes).to(device, dtype)
    log_alpha = Stack.of([{"log_alpha": torch.zeros(())} for _ in seeds]).to(device, dtype)
    rate = per_seed(config, len(seeds), device, torch.float64)["learning_rate"]
    settings = per_seed(config, len(seeds), device, dtype)
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, {"batch": config.batch_size, "noise": even(3 * config.batch_size * a)}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        policy=policy,
        critic=critic,
        critic_target=critic.copy(),
        log_alpha=log_alpha,
        policy_optimizer=Adam.of([policy], [rate], fused=True),
        critic_optimizer=Adam.of([critic], [rate.repeat_interleave(n)], fused=True),
        alpha_optimizer=Adam.of([log_alpha], [rate], fused=True),
        settings=settings,
        is_diverse=n > 1 and bool(settings["eta"].any()),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def _policy(o: int, a: int, seeds: Sequence[int], hidden_sizes: Sequence[int]) -> Stack:
    """Fresh policies; the heads of mean and log σ are the halves of one output layer."""
    return policies(o, 2 * a, seeds, hidden_sizes=hidden_sizes, layers=(_policy_layer, uniform(1e-3)))


def _policy_layer(input_dim: int, output_dim: int, generator: Generator) -> dict[str, Tensor]:
    """Torch's weights, bias 0.1."""
    return linear(input_dim, output_dim, generator) | {"bias": torch.full((1, output_dim), 0.1)}


def _critic_layer(input_dim: int, output_dim: int, generator: Generator) -> dict[str, Tensor]:
    """Weights uniform on ±1/√out, as CORL's ensembles get them, since theirs are (in, out); bias 0.1."""
    values = uniform(1.0 / math.sqrt(output_dim))(input_dim, output_dim, generator)
    return values | {"bias": torch.full((1, output_dim), 0.1)}


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place."""
    words = state.draws.words(state.step, count)
    batches = state.table.draw(words["batch"])
    shape = (3, state.config.batch_size, state.table.facts.action_dim)
    noise = shaped_normals(words["noise"], shape, state.table.dtype).transpose(1, 2)
    for index in range(count):
        update(state, batches[index], noise[index])


def update(state: State, batch: TransitionBatch, noise: Tensor) -> None:
    """One update of α, policy and critics, then of the targets.

    `noise` (3, S, B, a) is standard normal: of the actions of L_α (in the authors' order not used), of L_π, and at s'.
    """
    losses = losses_in_turn(state, batch, noise)
    if state.config.order == "authors":
        losses = iter(list(losses))
    metrics: dict[str, Tensor] = {}
    for optimizer in (state.alpha_optimizer, state.policy_optimizer, state.critic_optimizer):
        loss, seen = next(losses)
        optimizer.minimize(loss)
        metrics |= seen
    polyak = state.settings["polyak"].repeat_interleave(state.member_count)[:, None]
    state.critic_target.flat.lerp_(state.critic.flat.detach(), polyak)
    state.metrics.write(state.step, metrics)
    state.step.add_(1)


def losses_in_turn(state: State, batch: TransitionBatch, noise: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """L_α, L_π, L_Q, (S,) each, and metrics: each of the networks as they are when it is asked for."""
    mean, log_std = gaussian(state.policy.parameters, batch.observation)
    action, log_density = squashed_sample(mean, log_std, noise[1])
    if state.config.order == "authors":
        yield alpha_loss(state, log_density.detach())
    else:
        yield alpha_loss(state, squashed_sample(mean.detach(), log_std.detach(), noise[0])[1])
    yield policy_loss(state, batch.observation, action, log_density)
    yield critic_loss(state, batch, bellman_target(state, batch, noise[2]))


def gaussian(parameters: Mapping[str, Tensor], observation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation before the tanh: (S, n, o) -> 2 × (S, n, a)."""
    mean, log_std = outputs(parameters, observation).chunk(2, -1)
    return mean, log_std.clamp(*LOG_STD_RANGE)


def alpha(state: State) -> Tensor:
    """The entropy coefficient as a number: (S, 1)."""
    return state.log_alpha.detached()["log_alpha"].exp()[:, None]


def alpha_loss(state: State, log_density: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """L_α of log-densities (S, B), target entropy −A."""
    target_entropy = -float(state.table.facts.action_dim)
    loss = -state.log_alpha.parameters["log_alpha"] * (log_density.mean(-1) + target_entropy)
    return loss, {"log_probability": log_density.mean(-1)}


def policy_loss(
    state: State, observation: Tensor, action: Tensor, log_density: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_π, reaching the policy only."""
    values = values_of(state.critic.detached(), join(observation, action))  # (S, N, B)
    loss = (alpha(state) * log_density - values.amin(1)).mean(-1)
    spread = values.detach().std(1, correction=0).mean(-1)
    return loss, {"policy_loss": loss.detach(), "value_spread": spread, "entropy_coefficient": alpha(state)[:, 0]}


@torch.no_grad()
def bellman_target(state: State, batch: TransitionBatch, noise: Tensor) -> Tensor:
    """y: (S, B)."""
    action, log_density = squashed_sample(*gaussian(state.policy.parameters, batch.next_observation), noise)
    value = values_of(state.critic_target.parameters, join(batch.next_observation, action)).amin(1)
    value = value - alpha(state) * log_density
    return batch.reward + state.settings["discount"][:, None] * (1.0 - batch.terminal) * value


def critic_loss(state: State, batch: TransitionBatch, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """L_Q."""
    inputs = join(batch.observation, batch.action)
    if state.is_diverse:
        values, slopes = values_and_slopes(state.critic.parameters, inputs)
        excess = diversity(slopes[..., batch.observation.shape[-1] :])
    else:
        values = values_of(state.critic.parameters, inputs)
        excess = torch.zeros_like(target[:, 0])
    errors = mse_loss(values, target.unsqueeze(1).expand_as(values), reduction="none").mean(-1).sum(1)
    found = (errors, excess, values.mean((1, 2)), target.mean(-1))
    names = ("q_loss", "diversity_loss", "data_value", "target_value")
    metrics = {name: tensor.detach() for name, tensor in zip(names, found, strict=True)}
    return errors + state.settings["eta"] * excess, metrics


def diversity(slopes: Tensor) -> Tensor:
    """The mean of Σ_{i≠j} g_i·g_j / (N−1), g_i the direction of ∇_a Q_i: (S, N, B, a) -> (S,), in [−N/(N−1), N].

    The sum over pairs is ‖Σ_i g_i‖² − Σ_i ‖g_i‖².
    """
    directions: Tensor = slopes / (torch.linalg.vector_norm(slopes, dim=-1, keepdim=True) + 1e-10)
    pairs = directions.sum(1).square().sum(-1) - directions.square().sum((1, -1))
    return pairs.mean(-1) / (slopes.shape[1] - 1)


def mean_action(parameters: Mapping[str, Tensor], observation: Tensor) -> Tensor:
    """Action taken in evaluation, tanh of the mean: (S, n, o) -> (S, n, a) in (-1, 1)."""
    return gaussian(parameters, observation)[0].tanh()


def policy(state: State) -> Policy:
    """The policies being trained, as they are at each call; they act by tanh of the mean."""
    return Policy(state.policy, mean_action)


def restore(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Policy:
    """The policies of a checkpoint."""
    layout = _policy(known["observation_dim"], known["action_dim"], [0], known["method"]["hidden_sizes"])
    return Policy.restored(layout.like(tensors["policy"]), mean_action, known)


def bounds(state: State) -> dict[str, Bound]:
    """Ten times what rewards and, at an entropy coefficient of 1, the entropy of a uniform policy can add up to."""
    facts = state.table.facts
    greatest = max(abs(facts.lowest_reward), abs(facts.greatest_reward)) + facts.action_dim * math.log(2.0)
    discount = per_seed(state.config, state.draws.seed_count, torch.device("cpu"), torch.float64)["discount"]
    bound = Bound(
        limits=(10.0 * greatest / (1.0 - discount)).tolist(),
        advice="ten times (the greatest reward + action numbers·ln 2) / (1 - discount): Q diverges. Try more critics "
        "(--method.critic-count), a greater --method.eta, or look for extreme rewards in the data",
    )
    return {"data_value": bound, "target_value": bound}
