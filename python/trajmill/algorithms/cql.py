"""Conservative Q-Learning, CQL(H), for many seeds at once.

Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning", arXiv 2006.04779, in the form of
young-geng/CQL that arXiv 2310.00771 (Table 16) fine-tunes: N = 3 sampled actions, weight 5, Safe Q. The code's other
options are here too, off as they are there. Every tensor leads with the seed axis S; losses are sums over seeds of
per-seed means, so no seed knows of another.

Deviations, all exact in real arithmetic: the policy's trunk runs once per unique state and is sampled N + 1 times; all
action values at s come from one chain; the policy loss has no gradient with respect to the critics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.models.critic import action_values, critic, join
from trajmill.models.stack import Stack
from trajmill.models.tanh_gaussian import action_density, deterministic_action, gaussian, squashed_sample, tanh_gaussian
from trajmill.training.adam import Adam
from trajmill.training.hyperparameters import at_least, check_seeds, in_range, per_seed
from trajmill.training.metrics import MetricRing
from trajmill.training.philox import Draws, indexes, normals, uniforms
from trajmill.training.state import prefixed
from trajmill.training.transitions import TransitionBatch, TransitionTable

METRICS = (
    "q_loss",
    "bellman_loss",
    "conservative_loss",
    "policy_loss",
    "data_value",
    "target_value",
    "log_probability",
    "entropy_coefficient",
    "conservative_weight",
)

GREATEST_MULTIPLIER = 1e6
"""bound of the learned multiplier (young-geng/CQL)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CQLConfig:
    """What one CQL update computes; defaults are those of arXiv 2310.00771 (Table 16) over young-geng/CQL.

    Numbers that may be a tuple are one for all seeds or one each, so that a whole ablation is one run.
    """

    batch_size: int = 256
    """transitions per update and seed, at least 1 (Table 16)"""
    discount: float | tuple[float, ...] = 0.99
    """per-step factor, [0, 1); one for all seeds or one each (Table 16)"""
    learning_rate: float | tuple[float, ...] = 3e-4
    """Adam step size of critics, policy and entropy coefficient, > 0; one for all seeds or one each (Table 16)"""
    polyak: float | tuple[float, ...] = 0.005
    """step of the target critics towards the critics, (0, 1], every update; one for all seeds or one each (Table 16)"""
    cql_weight: float | tuple[float, ...] = 5.0
    """weight of the conservative term, at least 0; one for all seeds or one each (min-Q weight, Table 16)"""
    cql_temperature: float | tuple[float, ...] = 1.0
    """temperature of the log-sum-exp, > 0; one for all seeds or one each (young-geng/CQL)"""
    sampled_action_count: int = 3
    """actions N drawn from each of: uniform, policy(s), policy(s'); at least 1 (Table 16; the code's default is 10)"""
    importance_sampling: bool = True
    """correct the log-sum-exp by the density of each sampled action; else include the data's action (young-geng/CQL)"""
    safe_q: bool = True
    """bound targets by greatest reward / (1 - discount), 100·r_max (arXiv 2310.00771, "Safe Q")"""
    lagrange: bool = False
    """learn a multiplier of the weight, e at the start, that holds each critic's conservative term at `action_gap`"""
    action_gap: float | tuple[float, ...] = 1.0
    """with `lagrange`, what the conservative term is held at; one for all seeds or one each (young-geng/CQL)"""
    difference_range: tuple[float, float] = (-math.inf, math.inf)
    """bounds of log-sum-exp minus the data's value, row by row before the mean; low < high (young-geng/CQL)"""
    max_target_backup: bool = False
    """back up the best of N actions at s' instead of one (young-geng/CQL)"""
    backup_entropy: bool = False
    """subtract the entropy coefficient times the log-density of the backed-up action (young-geng/CQL)"""
    bc_updates: int = 0
    """first updates in which the policy clones the data, at least 0 (young-geng/CQL)"""
    action_limit: float = 0.999
    """the data's actions are clipped to ± this, (0, 1] (young-geng/CQL)"""
    orthogonal: bool = False
    """orthogonal instead of torch's default initial values (an option of young-geng/CQL)"""

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
        at_least("sampled_action_count", self.sampled_action_count, 1)
        in_range("discount", self.discount, 0.0, 1.0, open_high=True)
        in_range("polyak", self.polyak, 0.0, 1.0, open_low=True)
        in_range("learning_rate", self.learning_rate, 0.0, math.inf, open_low=True, open_high=True)
        in_range("cql_weight", self.cql_weight, 0.0, math.inf, open_high=True)
        in_range("cql_temperature", self.cql_temperature, 0.0, math.inf, open_low=True, open_high=True)
        in_range("action_limit", self.action_limit, 0.0, 1.0, open_low=True)
        in_range("action_gap", self.action_gap, -math.inf, math.inf, open_low=True, open_high=True)
        at_least("bc_updates", self.bc_updates, 0)
        if not self.difference_range[0] < self.difference_range[1]:
            raise ValueError(f"difference_range must be low < high, got {self.difference_range}")
        if self.bc_updates and self.action_limit == 1.0:
            raise ValueError("bc_updates needs action_limit < 1, since a tanh policy has no density at 1; got 1.0")


@dataclass(frozen=True, slots=True)
class Settings:
    """The numbers of `CQLConfig` that may differ from seed to seed, but for the learning rate; each (S,)."""

    discount: Tensor
    polyak: Tensor
    cql_weight: Tensor
    cql_temperature: Tensor
    action_gap: Tensor

    @classmethod
    def of(cls, config: CQLConfig, seed_count: int, device: torch.device, dtype: torch.dtype) -> Settings:
        """One number per seed."""
        names = [field.name for field in fields(cls)]
        return cls(*(per_seed(name, getattr(config, name), seed_count, device).to(dtype) for name in names))


PER_SEED = ("learning_rate", *(field.name for field in fields(Settings)))
"""settings of `CQLConfig` that may differ from seed to seed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CQLState:
    """Everything an update reads or writes; written in place only."""

    config: CQLConfig
    table: TransitionTable
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    policy: Stack
    critic: Stack
    target: Stack
    log_alpha: Stack
    log_multiplier: Stack | None
    """of the weight, with `CQLConfig.lagrange`"""
    optimizer: Adam
    settings: Settings
    metrics: MetricRing

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        networks = {
            "policy": self.policy.flat,
            "critic": self.critic.flat,
            "target": self.target.flat,
            "log_alpha": self.log_alpha.flat,
        }
        if self.log_multiplier is not None:
            networks["log_multiplier"] = self.log_multiplier.flat
        return (
            {"step": self.step, "metrics": self.metrics.values} | networks | prefixed("adam", self.optimizer.moving())
        )


@dataclass(frozen=True, slots=True)
class CQLDraws:
    """All the chance of `U` updates."""

    index: Tensor
    """(U, S, B) int64: rows of the data"""
    noise: Tensor
    """(U, S, 1 + N, B, a) standard normal: of a_π, then of the N actions at s"""
    next_noise: Tensor
    """(U, S, 1 + N, B, a) standard normal: of the target's action, then of the N actions at s'; with
    `CQLConfig.max_target_backup` (U, S, N + N, B, a), since the target has N actions of its own"""
    random_action: Tensor
    """(U, S, N, B, a) uniform on (-1, 1)"""

    def of_update(self, update: int) -> CQLDraws:
        """The draws of one update, without the axis U."""
        return CQLDraws(self.index[update], self.noise[update], self.next_noise[update], self.random_action[update])


def create(config: CQLConfig, table: TransitionTable, seeds: Sequence[int], *, metric_capacity: int = 1000) -> CQLState:
    """Fresh networks, targets equal to the critics, entropy coefficient 1; on the table's device, in its precision."""
    seeds = check_seeds(seeds)
    device, dtype = table.rows.device, table.rows.dtype
    o, a = table.observation_dim, table.action_dim
    policy = tanh_gaussian(o, a, seeds, orthogonal=config.orthogonal).to(device, dtype)
    critics = critic(o, a, seeds, orthogonal=config.orthogonal).to(device, dtype)
    log_alpha = Stack.of([{"log_alpha": torch.zeros(())} for _ in seeds]).to(device, dtype)
    log_multiplier = Stack.of([{"log_multiplier": torch.ones(())} for _ in seeds]).to(device, dtype)
    rate = per_seed("learning_rate", config.learning_rate, len(seeds), device)
    learned, rates = [log_alpha, policy, critics], [rate, rate, rate.repeat_interleave(2)]
    if config.lagrange:
        learned, rates = [*learned, log_multiplier], [*rates, rate]
    sizes = {name: count * config.batch_size * a for name, count in _action_counts(config).items()}
    return CQLState(
        config=config,
        table=table,
        # normals come in pairs, so an odd number of them has one to spare
        draws=Draws.of(seeds, {"batch": config.batch_size} | {n: size + size % 2 for n, size in sizes.items()}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        policy=policy,
        critic=critics,
        target=critics.copy(),
        log_alpha=log_alpha,
        log_multiplier=log_multiplier if config.lagrange else None,
        optimizer=Adam.of(learned, rates),
        settings=Settings.of(config, len(seeds), device, dtype),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def _action_counts(config: CQLConfig) -> dict[str, int]:
    """Actions drawn for one row of a batch, by site."""
    n = config.sampled_action_count
    return {"noise": 1 + n, "next_noise": (n if config.max_target_backup else 1) + n, "random_action": n}


def step(state: CQLState, count: int = 1) -> None:
    """Make `count` updates of every seed, in place."""
    draws = draw(state, count)
    for index in range(count):
        update(state, draws.of_update(index))


def draw(state: CQLState, count: int) -> CQLDraws:
    """Chance of the next `count` updates; depends on seed and update number only."""
    words = state.draws.words(state.step, count)
    dtype, batch, a = state.table.rows.dtype, state.config.batch_size, state.table.action_dim
    counts = _action_counts(state.config)

    def shaped(site: str, numbers: Tensor) -> Tensor:
        return numbers[..., : counts[site] * batch * a].reshape(count, -1, counts[site], batch, a)

    return CQLDraws(
        index=indexes(words["batch"], state.table.rows.shape[0]),
        noise=shaped("noise", normals(words["noise"], dtype)),
        next_noise=shaped("next_noise", normals(words["next_noise"], dtype)),
        random_action=shaped("random_action", 2.0 * uniforms(words["random_action"], dtype) - 1.0),
    )


def update(state: CQLState, draws: CQLDraws) -> None:
    """One update: all losses at the old parameters, then Adam on everything learned, then the target critics."""
    config, settings = state.config, state.settings
    batch = state.table.gather(draws.index)
    mean, log_std = gaussian(state.policy.parameters, batch.observation)
    action, log_probability = squashed_sample(mean, log_std, draws.noise[:, 0])

    entropy_loss = alpha_loss(state, log_probability)
    actor_loss = policy_loss(state, batch.observation, action, log_probability)
    if config.bc_updates:
        cloning = cloning_loss(state, log_probability, action_density(mean, log_std, batch.action))
        actor_loss = torch.where(state.step < config.bc_updates, cloning, actor_loss)
    sampled = sample_actions(state, batch, mean, log_std, draws)
    bellman, conservative, data_value = critic_losses(state, batch, sampled)
    weight = conservative_weight(state)
    excess = conservative - 2.0 * settings.action_gap if config.lagrange else conservative  # a gap for each critic
    q_loss = bellman + weight.detach() * excess
    loss = entropy_loss + actor_loss + q_loss
    if config.lagrange:
        loss = loss - 0.5 * weight * excess.detach()

    state.metrics.write(
        state.step,
        {
            "q_loss": q_loss,
            "bellman_loss": bellman,
            "conservative_loss": conservative,
            "policy_loss": actor_loss,
            "data_value": data_value,
            "target_value": sampled.target.mean(-1),
            "log_probability": log_probability.mean(-1),
            "entropy_coefficient": state.log_alpha.parameters["log_alpha"].exp(),
            "conservative_weight": weight,
        },
    )

    # each loss reaches only its own parameters, so one backward pass serves all
    state.optimizer.minimize(loss.sum())
    state.target.flat.lerp_(state.critic.flat.detach(), settings.polyak.repeat_interleave(2)[:, None])
    state.step.add_(1)


def alpha_loss(state: CQLState, log_probability: Tensor) -> Tensor:
    """−log α · mean(log π − a), target entropy −a (2310.00771 uses the automatic coefficient): (S, B) -> (S,)."""
    target_entropy = -float(state.table.action_dim)
    return -state.log_alpha.parameters["log_alpha"] * (log_probability.detach().mean(-1) + target_entropy)


def policy_loss(state: CQLState, observation: Tensor, action: Tensor, log_probability: Tensor) -> Tensor:
    """mean(α·log π − min(Q1, Q2)(s, a_π)), reaching the policy only: (S,)."""
    value = action_values(state.critic.detached(), join(observation, action)).amin(1)
    return (_alpha(state)[:, None] * log_probability - value).mean(-1)


def cloning_loss(state: CQLState, log_probability: Tensor, data_log_density: Tensor) -> Tensor:
    """mean(α·log π − log π(a)) with the data's actions a, reaching the policy only: 2 × (S, B) -> (S,)."""
    return (_alpha(state)[:, None] * log_probability - data_log_density).mean(-1)


def conservative_weight(state: CQLState) -> Tensor:
    """Weight of the conservative term, with `CQLConfig.lagrange` times the learned multiplier: (S,)."""
    if state.log_multiplier is None:
        return state.settings.cql_weight
    multiplier = state.log_multiplier.parameters["log_multiplier"].exp().clamp(max=GREATEST_MULTIPLIER)
    return state.settings.cql_weight * multiplier


def _alpha(state: CQLState) -> Tensor:
    """The entropy coefficient as a number: (S,)."""
    return state.log_alpha.parameters["log_alpha"].detach().exp()


@dataclass(frozen=True, slots=True)
class SampledActions:
    """What the critic losses need from the policy; nothing in it carries a gradient."""

    target: Tensor
    """(S, B): the Bellman target"""
    action: Tensor
    """(S, 3N, B, a): uniform, at s', at s; all to be valued at s"""
    log_density: Tensor
    """(S, 3N, B): log-density each was drawn with"""


@torch.no_grad()
def sample_actions(
    state: CQLState, batch: TransitionBatch, mean: Tensor, log_std: Tensor, draws: CQLDraws
) -> SampledActions:
    """The Bellman target and the 3N actions of the conservative term."""
    next_mean, next_log_std = gaussian(state.policy.parameters, batch.next_observation)
    at_next, at_next_log = squashed_sample(next_mean[:, None], next_log_std[:, None], draws.next_noise)
    at_state, at_state_log = squashed_sample(mean[:, None], log_std[:, None], draws.noise[:, 1:])
    backed_up = at_next.shape[1] - state.config.sampled_action_count
    uniform_log = torch.full_like(at_state_log, -state.table.action_dim * math.log(2.0))
    return SampledActions(
        target=bellman_target(state, batch, at_next[:, :backed_up], at_next_log[:, :backed_up]),
        action=torch.cat([draws.random_action, at_next[:, backed_up:], at_state], 1),
        log_density=torch.cat([uniform_log, at_next_log[:, backed_up:], at_state_log], 1),
    )


def bellman_target(state: CQLState, batch: TransitionBatch, action: Tensor, log_density: Tensor) -> Tensor:
    """Target r + γ(1−d)·V(s'), bounded by Safe Q: actions (S, K, B, a) at s', log-densities (S, K, B) -> (S, B).

    V is the greatest of the K values min(Q1', Q2')(s', a'), K = 1 but for the max-target backup.
    """
    config, discount = state.config, state.settings.discount[:, None]
    inputs = join(batch.next_observation.unsqueeze(1), action).flatten(1, 2)
    values = action_values(state.target.parameters, inputs).amin(1).view_as(log_density)
    next_value = values.amax(1)
    if config.backup_entropy:
        chosen = log_density.gather(1, values.argmax(1, keepdim=True)).squeeze(1)
        next_value = next_value - _alpha(state)[:, None] * chosen
    target = batch.reward + discount * (1.0 - batch.terminal) * next_value
    return target.minimum(state.table.greatest_reward / (1.0 - discount)) if config.safe_q else target


def critic_losses(state: CQLState, batch: TransitionBatch, sampled: SampledActions) -> tuple[Tensor, Tensor, Tensor]:
    """Bellman error, conservative term (both summed over the two critics) and mean value of the data: 3 × (S,)."""
    actions = torch.cat([batch.action.unsqueeze(1), sampled.action], 1)
    inputs = join(batch.observation.unsqueeze(1), actions).flatten(1, 2)
    values = action_values(state.critic.parameters, inputs).view(
        len(inputs), -1, *actions.shape[1:3]
    )  # (S, 2, 1 + 3N, B)

    data_value = values[:, :, 0]
    bellman = (data_value - sampled.target.unsqueeze(1)).square().mean(-1).sum(1)
    soft_maximum = log_sum_exp(
        values,
        sampled.log_density,
        state.settings.cql_temperature,
        importance_sampling=state.config.importance_sampling,
    )
    difference = soft_maximum - data_value
    low, high = state.config.difference_range
    if (low, high) != (-math.inf, math.inf):
        difference = difference.clamp(low, high)
    return bellman, difference.mean(-1).sum(1), data_value.detach().mean((1, 2))


def log_sum_exp(values: Tensor, log_density: Tensor, temperature: Tensor, *, importance_sampling: bool) -> Tensor:
    """T·log Σ exp(·/T) of CQL(H): values (S, E, 1 + 3N, B), the data's action first, temperatures (S,) -> (S, E, B).

    With importance sampling the sum runs over the 3N sampled actions, each divided by its density, and is not divided
    by their number; without, over all 1 + 3N values as they are.
    """
    temperature = temperature[:, None, None]
    corrected = values[:, :, 1:] - log_density.unsqueeze(1) if importance_sampling else values
    return temperature * torch.logsumexp(corrected / temperature.unsqueeze(2), 2)


@torch.no_grad()
def act(state: CQLState, observation: NDArray[np.floating]) -> NDArray[np.float32]:
    """Deterministic actions tanh(mean) of every seed: (S, E, O) -> (S, E, A) float32."""
    inputs = torch.as_tensor(np.asarray(observation)).to(state.table.rows)
    action: NDArray[np.float32] = deterministic_action(state.policy.detached(), inputs).float().cpu().numpy()
    return action


def load_critic(state: CQLState, networks: Sequence[Mapping[str, Tensor]], *, load_value_layer: bool) -> None:
    """Start the critics of every seed from pre-trained ones, and the targets as their copies.

    Parameters
    ----------
    networks
        one per ensemble member, the same for all seeds: tensors in the layout of `trajmill.models.mlp`; those the
        critics do not have (the dynamics head) are left out
    load_value_layer
        take over the untrained output layer too, equal for all seeds, as the released loader does; else every seed
        keeps its own fresh one. Which of the two the paper used is not known.
    """
    with torch.no_grad():
        for name, parameter in state.critic.parameters.items():
            if load_value_layer or not name.startswith("value."):
                source = torch.stack([network[name] for network in networks]).to(parameter)
                parameter.copy_(source.repeat(len(parameter) // len(networks), *(1 for _ in parameter.shape[1:])))
        state.target.flat.copy_(state.critic.flat)
