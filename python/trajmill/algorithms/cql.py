"""Conservative Q-Learning: critics learn low values for actions that the data does not have.

CQL(H) of Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning", arXiv 2006.04779, in the form of
young-geng/CQL that arXiv 2310.00771 (Table 16) fine-tunes: N = 3 sampled actions, weight 5, Safe Q. The code's other
options are here too, off as they are there. Every tensor leads with the seed axis S; losses are sums over seeds of
per-seed means, so no seed knows of another.

    y   = r + γ(1−d)·min_i Q'_i(s', a'),  a' ~ π(s')                                        bellman_target
    L_Q = Σ_i mean (Q_i(s, a) − y)² + w·Σ_i mean (T·log Σ_k exp(Q_i(s, a_k)/T) − Q_i(s, a))  critic_losses
    L_π = mean (α·log π(a_π|s) − min_i Q_i(s, a_π)),  a_π ~ π(s)                             policy_loss
    L_α = −log α·mean (log π(a_π|s) − A)                                                     alpha_loss

With `Config.calibrated` it is Cal-QL (Nakamoto et al., arXiv 2303.05479, nakamotoo/Cal-QL): in the log-sum-exp
max(Q_i(s, a_k), G) stands for the values of the policy's actions, those drawn at s and at s', where G is the return of
the data's episode from s on (`calibrated_values`). Critics that start an agent online are then not far below what the
data shows to be possible.

Deviations, all exact in real arithmetic: the policy's trunk runs once per unique state and is sampled N + 1 times; all
action values at s come from one chain; the policy loss has no gradient with respect to the critics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trajmill.data import Dataset, DatasetError, qlearning_transitions
from trajmill.data.episodes import check_order, returns_to_go
from trajmill.models.critics import critics, join, values_by_sum
from trajmill.models.mlp import HIDDEN_SIZES, linear, orthogonal, small_linear
from trajmill.models.policies import action_density, gaussian, squashed_sample, tanh_gaussian, tanh_gaussian_action
from trajmill.models.stack import Stack
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts, TransitionRows
from trajmill.training.adam import Adam
from trajmill.training.checkpoint import Former
from trajmill.training.draws import Draws, even, shaped_normals, uniforms
from trajmill.training.metrics import MetricRing
from trajmill.training.policy import Policy
from trajmill.training.settings import Bound, PerSeed, Schedule, all_at_least, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "CQL"
SCHEDULE = Schedule(updates=1_000_000)
SECONDS = (0.04, 1 / 10_000)
FORMER = Former(kind="train_cql")
EXAMPLES = """
  trajmill train cql --dataset hopper-sac-replay-10k --out runs/hopper --schedule.updates 20000
  trajmill train cql --dataset hopper-sac-replay-10k --init runs/dynamics --variant pre-trained --out runs/pretrained
  trajmill train cql --dataset hopper-sac-replay-10k --seeds 0 1 2 --method.cql-weight 1 5 10 --out runs/weights
  trajmill train cql --dataset hopper-sac-replay-10k --method.calibrated --out runs/cal-ql
"""

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
CALIBRATED_METRICS = ("replaced_share",)
"""with `Config.calibrated`: of the values of the policy's actions, those that the return replaces"""

GREATEST_MULTIPLIER = 1e6
"""bound of the learned multiplier (young-geng/CQL)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one CQL update computes; defaults are those of arXiv 2310.00771 (Table 16) over young-geng/CQL.

    Numbers of the type `PerSeed` are one for all seeds or one each, so that a whole ablation is one run.
    """

    batch_size: int = 256
    """transitions per update and seed, at least 1 (Table 16)"""
    discount: PerSeed = 0.99
    """per-step factor, [0, 1) (Table 16)"""
    learning_rate: PerSeed = 3e-4
    """Adam step size of critics, policy and entropy coefficient, > 0 (Table 16)"""
    polyak: PerSeed = 0.005
    """step of the target critics towards the critics, (0, 1], every update (Table 16)"""
    cql_weight: PerSeed = 5.0
    """weight of the conservative term, at least 0 (min-Q weight, Table 16)"""
    cql_temperature: PerSeed = 1.0
    """temperature of the log-sum-exp, > 0 (young-geng/CQL)"""
    sampled_action_count: int = 3
    """actions N drawn from each of: uniform, policy(s), policy(s'); at least 1 (Table 16; the code's default is 10)"""
    importance_sampling: bool = True
    """correct the log-sum-exp by the density of each sampled action; else include the data's action (young-geng/CQL)"""
    safe_q: bool = True
    """bound targets by greatest reward / (1 - discount), 100·r_max (arXiv 2310.00771, "Safe Q"); needs r_max >= 0"""
    safe_q_bound: Literal["target", "released"] = "target"
    """with `safe_q`, what is bounded: the target; or the value at s', before reward and entropy, as released"""
    lagrange: bool = False
    """learn a multiplier of the weight, e at the start, that holds each critic's conservative term at `action_gap`"""
    action_gap: PerSeed = 1.0
    """with `lagrange`, what the conservative term is held at (young-geng/CQL)"""
    difference_range: tuple[float, float] = (-math.inf, math.inf)
    """bounds of log-sum-exp minus the data's value, row by row before the mean; low < high (young-geng/CQL)"""
    max_target_backup: bool = False
    """back up the best of N actions at s' instead of one (young-geng/CQL)"""
    backup_entropy: bool = False
    """subtract the entropy coefficient times the log-density of the backed-up action (young-geng/CQL)"""
    calibrated: bool = False
    """Cal-QL (arXiv 2303.05479): count no action of the policy below the return of the data's episode from its state
    on; needs a dataset of whole episodes, and one discount for all seeds"""
    bc_updates: int = 0
    """first updates in which the policy clones the data, at least 0 (young-geng/CQL)"""
    action_limit: float = 0.999
    """the data's actions are clipped to ± this, (0, 1] (young-geng/CQL)"""
    orthogonal: bool = False
    """orthogonal instead of torch's default initial values (an option of young-geng/CQL)"""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """widths of the hidden layers of critics and policy, each at least 1"""
    next_observation: Literal["stored", "d4rl"] = "d4rl"
    """d4rl cuts the data as D4RL's own function does (the paper's); stored keeps the file's next observations"""
    load_value_layer: bool = True
    """of pre-trained critics take the untrained output layer too, as the released loader does; else keep each seed's"""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, sampled_action_count=self.sampled_action_count)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        at_least(0, bc_updates=self.bc_updates)
        in_range("[0, 1)", discount=self.discount)
        in_range("(0, 1]", polyak=self.polyak, action_limit=self.action_limit)
        in_range("(0, inf)", learning_rate=self.learning_rate, cql_temperature=self.cql_temperature)
        in_range("[0, inf)", cql_weight=self.cql_weight)
        in_range("(-inf, inf)", action_gap=self.action_gap)
        if not self.difference_range[0] < self.difference_range[1]:
            raise ValueError(f"difference_range must be low < high, got {self.difference_range}")
        if self.safe_q and self.safe_q_bound == "released" and self.max_target_backup:
            raise ValueError(
                "the released code bounds nothing in the max-target backup; leave out safe_q_bound released, or Safe Q "
                "(--method.no-safe-q)"
            )
        if self.bc_updates and self.action_limit == 1.0:
            raise ValueError("bc_updates needs action_limit < 1, since a tanh policy has no density at 1; got 1.0")
        if self.calibrated and isinstance(self.discount, tuple) and len(set(self.discount)) > 1:
            raise ValueError(
                f"calibrated needs one discount for all seeds, since all learn from one column of returns; got "
                f"{self.discount}: make a run for each discount"
            )


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
    target: Stack
    log_alpha: Stack
    log_multiplier: Stack | None
    """of the weight, with `Config.lagrange`"""
    optimizer: Adam
    settings: Mapping[str, Tensor]
    """the `PerSeed` settings, (S,) each"""
    metrics: MetricRing
    period: int = 1

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
class Chance:
    """All random numbers of an update but for the rows of its batch; perhaps behind an axis of updates."""

    noise: Tensor
    """(S, 1 + N, B, a) standard normal: of a_π, then of the N actions at s"""
    next_noise: Tensor
    """(S, 1 + N, B, a) standard normal: of the target's action, then of the N actions at s'; with
    `Config.max_target_backup` (S, N + N, B, a), since the target has N actions of its own"""
    random_action: Tensor
    """(S, N, B, a) uniform on (-1, 1)"""

    def __getitem__(self, update: int) -> Chance:
        """The numbers of one update."""
        return Chance(self.noise[update], self.next_noise[update], self.random_action[update])


def prepare(config: Config, dataset: Dataset) -> TransitionRows:
    """D4RL's transitions, actions clipped; with `Config.calibrated` also the return of the episode from each on.

    With it, ValueError for a dataset whose rows do not follow each other.
    """
    transitions, returns = qlearning_transitions(dataset, config.next_observation), None
    if config.calibrated:
        try:
            check_order(dataset)
        except DatasetError as error:
            fault = f"calibrated needs the returns of whole episodes: {error}"
            raise ValueError(f"{fault}, with --method.no-calibrated") from error
        discount = config.discount[0] if isinstance(config.discount, tuple) else config.discount
        returns = returns_to_go(transitions, discount).astype(np.float32)
    return TransitionRows(transitions=transitions, action_limit=config.action_limit, return_to_go=returns)


def create(
    config: Config, table: Table[TransitionBatch, TransitionFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh networks, targets equal to the critics, entropy coefficient 1; on the table's device, in its precision."""
    seeds = check_seeds(seeds)
    if config.safe_q and table.facts.greatest_reward < 0.0:
        raise ValueError(
            "Safe Q takes greatest reward / (1 - discount) for the most that rewards can add up to, which is wrong for "
            f"episodes that end where all rewards are below 0: the greatest is {table.facts.greatest_reward:.6g}; "
            "leave it out (--method.no-safe-q), or add a constant to the rewards"
        )
    device, dtype = table.device, table.dtype
    o, a = table.facts.observation_dim, table.facts.action_dim
    layers = (orthogonal(math.sqrt(2.0)), orthogonal(0.01)) if config.orthogonal else (linear, small_linear)
    shape: dict[str, Any] = {"hidden_sizes": config.hidden_sizes, "layers": layers}
    policy = tanh_gaussian(o, a, seeds, **shape).to(device, dtype)
    critic = critics(o + a, seeds, **shape).to(device, dtype)
    log_alpha = Stack.of([{"log_alpha": torch.zeros(())} for _ in seeds]).to(device, dtype)
    log_multiplier = Stack.of([{"log_multiplier": torch.ones(())} for _ in seeds]).to(device, dtype)
    rate = per_seed(config, len(seeds), device, torch.float64)["learning_rate"]
    learned, rates = [log_alpha, policy, critic], [rate, rate, rate.repeat_interleave(2)]
    if config.lagrange:
        learned, rates = [*learned, log_multiplier], [*rates, rate]
    sizes = {site: even(count * config.batch_size * a) for site, count in _action_counts(config).items()}
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, {"batch": config.batch_size} | sizes, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        policy=policy,
        critic=critic,
        target=critic.copy(),
        log_alpha=log_alpha,
        log_multiplier=log_multiplier if config.lagrange else None,
        optimizer=Adam.of(learned, rates),
        settings=per_seed(config, len(seeds), device, dtype),
        metrics=MetricRing.of(METRICS + CALIBRATED_METRICS * config.calibrated, len(seeds), metric_capacity, device),
    )


def _action_counts(config: Config) -> dict[str, int]:
    """Actions drawn for one row of a batch, by site."""
    n = config.sampled_action_count
    return {"noise": 1 + n, "next_noise": (n if config.max_target_backup else 1) + n, "random_action": n}


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place."""
    words = state.draws.words(state.step, count)
    batches, chance = state.table.draw(words["batch"]), chance_of(state, words)
    for index in range(count):
        update(state, batches[index], chance[index])


def chance_of(state: State, words: Mapping[str, Tensor]) -> Chance:
    """Random numbers from the words of their sites, each (..., size)."""
    dtype, batch, a = state.table.dtype, state.config.batch_size, state.table.facts.action_dim
    shapes = {site: (count, batch, a) for site, count in _action_counts(state.config).items()}
    size = math.prod(shapes["random_action"])
    random_action = (2.0 * uniforms(words["random_action"], dtype) - 1.0)[..., :size]
    return Chance(
        noise=shaped_normals(words["noise"], shapes["noise"], dtype),
        next_noise=shaped_normals(words["next_noise"], shapes["next_noise"], dtype),
        random_action=random_action.unflatten(-1, shapes["random_action"]),
    )


def update(state: State, batch: TransitionBatch, chance: Chance) -> None:
    """One update: all losses at the old parameters, then Adam on everything learned, then the target critics."""
    config, settings = state.config, state.settings
    mean, log_std = gaussian(state.policy.parameters, batch.observation)
    action, log_probability = squashed_sample(mean, log_std, chance.noise[:, 0])

    entropy_loss = alpha_loss(state, log_probability)
    actor_loss = policy_loss(state, batch.observation, action, log_probability)
    if config.bc_updates:
        cloning = cloning_loss(state, log_probability, action_density(mean, log_std, batch.action))
        actor_loss = torch.where(state.step < config.bc_updates, cloning, actor_loss)
    sampled = sample_actions(state, batch, mean, log_std, chance)
    bellman, conservative, about_values = critic_losses(state, batch, sampled)
    weight = conservative_weight(state)
    excess = conservative - 2.0 * settings["action_gap"] if config.lagrange else conservative  # a gap for each critic
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
            "target_value": sampled.target.mean(-1),
            "log_probability": log_probability.mean(-1),
            "entropy_coefficient": state.log_alpha.parameters["log_alpha"].exp(),
            "conservative_weight": weight,
            **about_values,
        },
    )

    # each loss reaches only its own parameters, so one backward pass serves all
    state.optimizer.minimize(loss)
    state.target.flat.lerp_(state.critic.flat.detach(), settings["polyak"].repeat_interleave(2)[:, None])
    state.step.add_(1)


def alpha_loss(state: State, log_probability: Tensor) -> Tensor:
    """−log α · mean(log π − a), target entropy −a (2310.00771 uses the automatic coefficient): (S, B) -> (S,)."""
    target_entropy = -float(state.table.facts.action_dim)
    return -state.log_alpha.parameters["log_alpha"] * (log_probability.detach().mean(-1) + target_entropy)


def policy_loss(state: State, observation: Tensor, action: Tensor, log_probability: Tensor) -> Tensor:
    """mean(α·log π − min(Q1, Q2)(s, a_π)), reaching the policy only: (S,)."""
    value = values_by_sum(state.critic.detached(), join(observation, action)).amin(1)
    return (_alpha(state)[:, None] * log_probability - value).mean(-1)


def cloning_loss(state: State, log_probability: Tensor, data_log_density: Tensor) -> Tensor:
    """mean(α·log π − log π(a)) with the data's actions a, reaching the policy only: 2 × (S, B) -> (S,)."""
    return (_alpha(state)[:, None] * log_probability - data_log_density).mean(-1)


def conservative_weight(state: State) -> Tensor:
    """Weight of the conservative term, with `Config.lagrange` times the learned multiplier: (S,)."""
    if state.log_multiplier is None:
        return state.settings["cql_weight"]
    multiplier = state.log_multiplier.parameters["log_multiplier"].exp().clamp(max=GREATEST_MULTIPLIER)
    return state.settings["cql_weight"] * multiplier


def _alpha(state: State) -> Tensor:
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
    state: State, batch: TransitionBatch, mean: Tensor, log_std: Tensor, chance: Chance
) -> SampledActions:
    """The Bellman target and the 3N actions of the conservative term."""
    next_mean, next_log_std = gaussian(state.policy.parameters, batch.next_observation)
    at_next, at_next_log = squashed_sample(next_mean[:, None], next_log_std[:, None], chance.next_noise)
    at_state, at_state_log = squashed_sample(mean[:, None], log_std[:, None], chance.noise[:, 1:])
    backed_up = at_next.shape[1] - state.config.sampled_action_count
    uniform_log = torch.full_like(at_state_log, -state.table.facts.action_dim * math.log(2.0))
    return SampledActions(
        target=bellman_target(state, batch, at_next[:, :backed_up], at_next_log[:, :backed_up]),
        action=torch.cat([chance.random_action, at_next[:, backed_up:], at_state], 1),
        log_density=torch.cat([uniform_log, at_next_log[:, backed_up:], at_state_log], 1),
    )


def bellman_target(state: State, batch: TransitionBatch, action: Tensor, log_density: Tensor) -> Tensor:
    """Target r + γ(1−d)·V(s'), bounded by Safe Q: actions (S, K, B, a) at s', log-densities (S, K, B) -> (S, B).

    V is the greatest of the K values min(Q1', Q2')(s', a'), K = 1 but for the max-target backup.
    """
    config, discount = state.config, state.settings["discount"][:, None]
    inputs = join(batch.next_observation.unsqueeze(1), action).flatten(1, 2)
    values = values_by_sum(state.target.parameters, inputs).amin(1).view_as(log_density)
    next_value, greatest = values.amax(1), state.table.facts.greatest_reward / (1.0 - discount)
    if config.safe_q and config.safe_q_bound == "released":
        next_value = next_value.minimum(greatest)
    if config.backup_entropy:
        chosen = log_density.gather(1, values.argmax(1, keepdim=True)).squeeze(1)
        next_value = next_value - _alpha(state)[:, None] * chosen
    target = batch.reward + discount * (1.0 - batch.terminal) * next_value
    return target.minimum(greatest) if config.safe_q and config.safe_q_bound == "target" else target


def critic_losses(
    state: State, batch: TransitionBatch, sampled: SampledActions
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Bellman error and conservative term (both summed over the two critics), and metrics of the values: (S,) each."""
    actions = torch.cat([batch.action.unsqueeze(1), sampled.action], 1)
    inputs = join(batch.observation.unsqueeze(1), actions).flatten(1, 2)
    values = values_by_sum(state.critic.parameters, inputs).view(
        len(inputs), -1, *actions.shape[1:3]
    )  # (S, 2, 1 + 3N, B)

    data_value = values[:, :, 0]
    metrics = {"data_value": data_value.detach().mean((1, 2))}
    bellman = (data_value - sampled.target.unsqueeze(1)).square().mean(-1).sum(1)
    if state.config.calibrated:
        assert batch.return_to_go is not None, "the rows of prepare() have it"
        values, metrics["replaced_share"] = calibrated_values(values, batch.return_to_go)
    soft_maximum = log_sum_exp(
        values,
        sampled.log_density,
        state.settings["cql_temperature"],
        importance_sampling=state.config.importance_sampling,
    )
    difference = soft_maximum - data_value
    low, high = state.config.difference_range
    if (low, high) != (-math.inf, math.inf):
        difference = difference.clamp(low, high)
    return bellman, difference.mean(-1).sum(1), metrics


def calibrated_values(values: Tensor, return_to_go: Tensor) -> tuple[Tensor, Tensor]:
    """Values (S, E, 1 + 3N, B) with max(Q, G) for the policy's actions, the last 2N, and the share where G is greater.

    G is the return to go (S, B), the share (S,). The data's action and the uniform ones keep their values.
    """
    others = 1 + values.shape[2] // 3
    reference = return_to_go[:, None, None]
    of_policy = values[:, :, others:]
    share = (of_policy.detach() < reference).to(values.dtype).mean((1, 2, 3))
    return torch.cat([values[:, :, :others], of_policy.maximum(reference)], 2), share


def log_sum_exp(values: Tensor, log_density: Tensor, temperature: Tensor, *, importance_sampling: bool) -> Tensor:
    """T·log Σ exp(·/T) of CQL(H): values (S, E, 1 + 3N, B), the data's action first, temperatures (S,) -> (S, E, B).

    With importance sampling the sum runs over the 3N sampled actions, each divided by its density, and is not divided
    by their number; without, over all 1 + 3N values as they are.
    """
    temperature = temperature[:, None, None]
    corrected = values[:, :, 1:] - log_density.unsqueeze(1) if importance_sampling else values
    return temperature * torch.logsumexp(corrected / temperature.unsqueeze(2), 2)


def policy(state: State) -> Policy:
    """The policies being trained, as they are at each call; they act by tanh of the mean."""
    return Policy(state.policy, tanh_gaussian_action)


def restore(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Policy:
    """The policies of a checkpoint."""
    hidden_sizes = known.get("method", {}).get("hidden_sizes", HIDDEN_SIZES)  # earlier versions had no others
    layout = tanh_gaussian(known["observation_dim"], known["action_dim"], [0], hidden_sizes=hidden_sizes)
    return Policy.restored(layout.like(tensors["policy"]), tanh_gaussian_action, known)


def start_from(state: State, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> State:
    """Start the critics of every seed from the first seed's critics of `forward_dynamics`, the targets as copies.

    Parameters that these critics do not have (the dynamics head) are left out. Which of the two ways the paper treated
    the untrained output layer (`Config.load_value_layer`) is not known.
    """
    facts = state.table.facts
    sizes = (known.get("observation_dim"), known.get("action_dim"))  # a language model has none
    if known["kind"] != "forward_dynamics" or sizes != (facts.observation_dim, facts.action_dim):
        raise ValueError(
            f"critics for {facts.observation_dim} observation and {facts.action_dim} action numbers start from "
            f"forward_dynamics for as many, not from one of {known['kind']} for {sizes[0]} and {sizes[1]}"
        )
    hidden_sizes = tuple(known["method"].get("hidden_sizes", HIDDEN_SIZES))
    if hidden_sizes != state.config.hidden_sizes:
        raise ValueError(f"hidden_sizes must be {hidden_sizes}, as pre-trained, got {state.config.hidden_sizes}")
    layout = critics(sum(sizes), [0], predicted_dim=known["predicted_dim"], hidden_sizes=hidden_sizes)
    pretrained = layout.like(tensors["critic"][:2]).parameters
    with torch.no_grad():
        for name, parameter in state.critic.parameters.items():
            if state.config.load_value_layer or not name.startswith("value."):
                source = pretrained[name].to(parameter)
                parameter.copy_(source.repeat(len(parameter) // 2, *(1 for _ in parameter.shape[1:])))
        state.target.flat.copy_(state.critic.flat)
    return state


def bounds(state: State) -> dict[str, Bound]:
    """Ten times what rewards can add up to, which is Safe Q's bound but for the sign."""
    facts = state.table.facts
    greatest = max(abs(facts.lowest_reward), abs(facts.greatest_reward))
    discount = per_seed(state.config, state.draws.seed_count, torch.device("cpu"), torch.float64)["discount"]
    bound = Bound(
        limits=(10.0 * greatest / (1.0 - discount)).tolist(),
        advice="ten times the greatest reward / (1 - discount): Q diverges. Try a smaller --method.learning-rate, "
        "leave Safe Q on (no --method.no-safe-q), or look for extreme rewards in the data",
    )
    return {"data_value": bound, "target_value": bound}
