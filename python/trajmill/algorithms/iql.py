"""IQL: implicit Q-learning, which values the data's own actions only, and clones the better ones.

Kostrikov, Nair & Levine, "Offline Reinforcement Learning with Implicit Q-Learning", arXiv 2110.06169, in three dialects
(`Config.dialect`): the authors' (ikostrikov/implicit_q_learning, JAX), CORL's (tinkoff-ai/CORL), and that of Synthetic
Experience Replay (arXiv 2303.06614, conglu1997/SynthER). Every tensor leads with the seed axis S; losses are sums over
seeds of per-seed means.

    A   = min_i Q'_i(s, a) − V(s)                                                            advantage
    L_V = mean |τ − 1{A < 0}|·A²                                                             value_loss
    L_Q = Σ_i mean (Q_i(s, a) − r − γ(1−d)·V(s'))²                                           q_loss
    L_π = mean min(exp(β·A), 100)·(−log π(a|s))                                              policy_loss

=================  =============================  =============================  =====================================
what               synther                        corl                           authors
=================  =============================  =============================  =====================================
order              all losses of the old V        all losses of the old V        V, then policy and Q of the new V
L_Q                half of the sum                half of the sum                the sum
policy's mean      as it is                       tanh                           tanh
log σ              clamped to [−5, 2]             clamped to [−20, 2]            clamped to [−5, 2]
initial values     torch's                        torch's                        orthogonal, gain √2, biases 0
observations       standardized                   standardized                   as they are
actions            as they are                    as they are                    clipped to ±(1 − 1e-5)
rewards            normalized for some datasets   normalized for some datasets   normalized on locomotion
=================  =============================  =============================  =====================================

Some datasets have settings of their own (`adapt`). Deviations: none in synther and corl; of the authors' program the
dropout for kitchen and adroit is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trajmill.core import checks
from trajmill.data import Dataset, Normalizer, Transitions, qlearning_transitions
from trajmill.data.episodes import followed
from trajmill.models.critics import critics, join, values_of
from trajmill.models.mlp import HIDDEN_SIZES, linear, orthogonal
from trajmill.models.policies import deterministic, outputs, policies
from trajmill.models.stack import Stack
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts, TransitionRows
from trajmill.training import adam
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws
from trajmill.training.metrics import MetricRing
from trajmill.training.policy import Policy
from trajmill.training.settings import PerSeed, Schedule, all_at_least, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "IQL"
SCHEDULE = Schedule(updates=1_000_000)
SECONDS = (0.009, 1 / 12_000)
EXAMPLES = """
  trajmill train iql --dataset hopper-sac-replay-10k --out runs/hopper --schedule.updates 20000
  trajmill train iql --dataset hopper_medium-v2.hdf5 --method.dialect authors --seeds 0 1 2 3 --out runs/hopper-medium
  trajmill train iql --dataset A.hdf5 --seeds 0 1 2 --method.expectile 0.5 0.7 0.9 --out runs/expectiles
"""
METRICS = ("q_loss", "value_loss", "policy_loss", "data_value", "state_value", "advantage_weight")

WINDOW = 1000
"""rows after which the return of an episode ends that no terminal has ended, where rewards are normalized"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one update computes; what is left open is filled in for the dataset (`adapt`).

    Numbers of the type `PerSeed` are one for all seeds or one each, so that a whole ablation is one run.
    """

    dialect: Literal["synther", "corl", "authors"] = "synther"
    """whose form of the method: SynthER's, CORL's or the authors'"""
    batch_size: int = 256
    """transitions per update and seed, at least 1"""
    discount: PerSeed = 0.99
    """gamma: per-step factor, [0, 1)"""
    learning_rate: PerSeed = 3e-4
    """Adam step size of Q, V and policy, > 0"""
    polyak: PerSeed | None = None
    """step of the target critics towards the critics, (0, 1], every update; 0.005 but for some datasets"""
    expectile: PerSeed | None = None
    """tau, (0, 1); 0.7 but for some datasets"""
    inverse_temperature: PerSeed | None = None
    """beta: sharpness of the weights of the policy's loss, at least 0; 3 but for some datasets"""
    greatest_weight: float = 100.0
    """bound of these weights, > 0"""
    deterministic: bool | None = None
    """a policy without spread, tanh of its mean, cloned by squared error; False but for some datasets"""
    normalize_rewards: bool | None = None
    """multiply rewards by 1000 / (greatest - lowest return); for some datasets, for authors on locomotion"""
    reward_shift: float | None = None
    """added to every reward; 0, and -1 for antmaze"""
    policy_decay_updates: int | None = None
    """updates over which the policy's step size falls to 0 along a cosine, at least 1; None is all of
    --schedule.updates"""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """widths of the hidden layers of all networks, each at least 1"""

    def __post_init__(self) -> None:
        checks.choice("dialect", self.dialect, tuple(_LOG_STD))
        at_least(1, batch_size=self.batch_size)
        at_least(1, policy_decay_updates=1 if self.policy_decay_updates is None else self.policy_decay_updates)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        in_range("[0, 1)", discount=self.discount)
        in_range("(0, inf)", learning_rate=self.learning_rate, greatest_weight=self.greatest_weight)
        in_range("(0, 1]", polyak=1.0 if self.polyak is None else self.polyak)
        in_range("(0, 1)", expectile=0.5 if self.expectile is None else self.expectile)
        in_range("[0, inf)", inverse_temperature=1.0 if self.inverse_temperature is None else self.inverse_temperature)


_LOG_STD = {"synther": (-5.0, 2.0), "corl": (-20.0, 2.0), "authors": (-5.0, 2.0)}
_DEFAULTS: dict[str, Any] = {
    "polyak": 0.005,
    "expectile": 0.7,
    "inverse_temperature": 3.0,
    "deterministic": False,
    "normalize_rewards": False,
    "reward_shift": 0.0,
}
_EXCEPTIONS: tuple[tuple[tuple[str, ...], str, dict[str, Any]], ...] = (
    (
        ("synther", "corl"),
        "hopper-medium(-replay)?",
        {"deterministic": True, "normalize_rewards": True, "polyak": 0.001},
    ),
    (("synther", "corl"), "hopper-medium-expert", {"inverse_temperature": 6.0, "expectile": 0.5}),
    (("authors",), ".*(hopper|halfcheetah|walker2d).*", {"normalize_rewards": True}),
    (
        ("synther", "corl", "authors"),
        "antmaze-.*",
        {"inverse_temperature": 10.0, "expectile": 0.9, "reward_shift": -1.0},
    ),
)
"""dialects, D4RL's name of a dataset without its version, and the settings for it"""

SMALL = Config(batch_size=64, policy_decay_updates=1_000_000)


def adapt(config: Config, dataset: Dataset, environment: str) -> Config:
    """With the values that the dialect has for this dataset where none is given.

    They go by D4RL's name of the dataset, such as ``hopper-medium-v2``.
    """
    name = re.sub(r"-v\d+$", "", dataset.name.lower().replace("_", "-"))
    values = dict(_DEFAULTS)
    for dialects, pattern, exceptions in _EXCEPTIONS:
        if config.dialect in dialects and re.fullmatch(pattern, name):
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
    value: Stack
    critic: Stack
    critic_target: Stack
    policy_optimizer: Adam
    value_optimizer: Adam
    critic_optimizer: Adam
    settings: Mapping[str, Tensor]
    """the `PerSeed` settings, (S,) each"""
    metrics: MetricRing
    period: int = 1

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return (
            {"step": self.step, "metrics": self.metrics.values, "policy": self.policy.flat, "value": self.value.flat}
            | {"critic": self.critic.flat, "critic_target": self.critic_target.flat}
            | prefixed("policy_adam", self.policy_optimizer.moving())
            | prefixed("value_adam", self.value_optimizer.moving())
            | prefixed("critic_adam", self.critic_optimizer.moving())
        )


def prepare(config: Config, dataset: Dataset) -> TransitionRows:
    """D4RL's transitions, prepared as the dialect does."""
    transitions = qlearning_transitions(dataset, "d4rl")
    authors = config.dialect == "authors"
    factor = None if config.normalize_rewards else 1.0
    if config.normalize_rewards and dataset.ordered:
        factor = 1000.0 / return_range(transitions, windows=not authors)
    return TransitionRows(
        transitions=transitions,
        normalizer=None if authors else Normalizer.fit(transitions.observation, 1e-3),
        reward_factor=factor,
        reward_shift=config.reward_shift or 0.0,
        action_limit=1.0 - 1e-5 if authors else None,
    )


def return_range(transitions: Transitions, *, windows: bool) -> float:
    """Greatest minus lowest return.

    CORL and SynthER cut the rows at terminals and else every `WINDOW` rows, which drifts across episodes, since D4RL's
    transitions lack the last row of an episode that a limit cut; what is left in the end does not count. The authors
    cut where the next observation is not the next row's, up to 1e-6; here it is wherever it differs.
    """
    ends = np.array(transitions.terminal)
    if windows:
        start = 0
        for end in [*(np.flatnonzero(ends) + 1), len(ends)]:
            ends[start + WINDOW - 1 : end : WINDOW] = True
            start = end
    else:
        ends = ~followed(transitions)
    stops = np.flatnonzero(ends) + 1
    if len(stops) == 0:
        raise ValueError(
            f"normalize_rewards needs whole episodes, none of the {len(ends)} rows ends one; give "
            "--method.no-normalize-rewards"
        )
    sums = np.concatenate(([0.0], np.cumsum(transitions.reward, dtype=np.float64)))[[0, *stops]]
    returns = np.diff(sums)
    if returns.max() == returns.min():
        raise ValueError("normalize_rewards needs episodes of different returns; give --method.no-normalize-rewards")
    return float(returns.max() - returns.min())


def create(
    config: Config, table: Table[TransitionBatch, TransitionFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh networks, target critics equal to the critics; on the table's device, in its precision.

    ValueError for settings that `adapt` has not filled in.
    """
    left_open = [name for name in _DEFAULTS if getattr(config, name) is None]
    if left_open:
        raise ValueError(f"settings {', '.join(left_open)} are open; adapt(config, dataset, environment) fills them in")
    if config.policy_decay_updates is None:
        raise ValueError("policy_decay_updates is open; give the number of updates that there will be")
    seeds, device, dtype = check_seeds(seeds), table.device, table.dtype
    o, a = table.facts.observation_dim, table.facts.action_dim
    layers = (orthogonal(math.sqrt(2.0)),) * 2 if config.dialect == "authors" else (linear, linear)
    shape: dict[str, Any] = {"hidden_sizes": config.hidden_sizes, "layers": layers}
    policy = _policy(config, o, a, seeds, shape).to(device, dtype)
    value = critics(o, seeds, ensemble_size=1, stream="value", **shape).to(device, dtype)
    critic = critics(o + a, seeds, **shape).to(device, dtype)
    rate = per_seed(config, len(seeds), device, torch.float64)["learning_rate"]
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, {"batch": config.batch_size}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        policy=policy,
        value=value,
        critic=critic,
        critic_target=critic.copy(),
        policy_optimizer=Adam.of([policy], [rate], fused=True),
        value_optimizer=Adam.of([value], [rate], fused=True),
        critic_optimizer=Adam.of([critic], [rate.repeat_interleave(2)], fused=True),
        settings=per_seed(config, len(seeds), device, dtype),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def _policy(config: Config, o: int, a: int, seeds: Sequence[int], shape: Mapping[str, Any]) -> Stack:
    """Fresh policies; a Gaussian one has a log σ for each number of an action, 0 at the start."""
    return policies(o, a, seeds, more={} if config.deterministic else {"log_std": torch.zeros(a)}, **shape)


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place."""
    batches = state.table.draw(state.draws.words(state.step, count)["batch"])
    for index in range(count):
        update(state, batches[index])


def update(state: State, batch: TransitionBatch) -> None:
    """One update of V, policy and Q, then of the target critics."""
    later = state.config.dialect == "authors"  # what follows V's step sees the new V
    inputs = join(batch.observation, batch.action)
    with torch.no_grad():
        target_value = values_of(state.critic_target.parameters, inputs).amin(1)  # (S, B)
        next_value = values_of(state.value.parameters, batch.next_observation)[:, 0]
    advantages = target_value - values_of(state.value.parameters, batch.observation)[:, 0]
    loss_of_value = value_loss(state, advantages)
    state.value_optimizer.minimize(loss_of_value)
    if later:
        with torch.no_grad():
            advantages = target_value - values_of(state.value.parameters, batch.observation)[:, 0]
            next_value = values_of(state.value.parameters, batch.next_observation)[:, 0]
    weight = advantage_weight(state, advantages.detach())
    loss_of_policy = policy_loss(state, batch, weight)
    state.policy_optimizer.minimize(loss_of_policy, cosine(state.config, state.step))
    loss_of_q, data_value = q_loss(state, batch, inputs, next_value)
    state.critic_optimizer.minimize(loss_of_q)
    state.critic_target.flat.lerp_(state.critic.flat.detach(), state.settings["polyak"].repeat_interleave(2)[:, None])
    means = (data_value, (target_value - advantages.detach()).mean(-1), weight.mean(-1))
    losses = (loss.detach() for loss in (loss_of_q, loss_of_value, loss_of_policy))
    state.metrics.write(state.step, dict(zip(METRICS, (*losses, *means), strict=True)))
    state.step.add_(1)


def value_loss(state: State, advantages: Tensor) -> Tensor:
    """L_V, reaching V only through the advantages (S, B): (S,)."""
    below = (advantages < 0.0).to(advantages.dtype)
    return ((state.settings["expectile"][:, None] - below).abs() * advantages.square()).mean(-1)


def q_loss(state: State, batch: TransitionBatch, inputs: Tensor, next_value: Tensor) -> tuple[Tensor, Tensor]:
    """L_Q in the dialect's scale and the mean value of the data: 2 × (S,)."""
    target = batch.reward + state.settings["discount"][:, None] * (1.0 - batch.terminal) * next_value
    values = values_of(state.critic.parameters, inputs)  # (S, 2, B)
    errors = (values - target.unsqueeze(1)).square().mean(-1)
    scaled = errors.sum(1) if state.config.dialect == "authors" else errors.mean(1)
    return scaled, values.detach().mean((1, 2))


def advantage_weight(state: State, advantages: Tensor) -> Tensor:
    """min(exp(β·A), 100): (S, B)."""
    scaled = state.settings["inverse_temperature"][:, None] * advantages
    return scaled.exp().clamp(max=state.config.greatest_weight)


def policy_loss(state: State, batch: TransitionBatch, weight: Tensor) -> Tensor:
    """L_π: (S,)."""
    mean = _mean_action(state.config)(state.policy.parameters, batch.observation)
    if state.config.deterministic:
        return (weight * (mean - batch.action).square().sum(-1)).mean(-1)
    log_std = state.policy.parameters["log_std"].clamp(*_LOG_STD[state.config.dialect])[:, None]  # (S, 1, a)
    normal = ((batch.action - mean) * (-log_std).exp()).square() + 2.0 * log_std + math.log(2.0 * math.pi)
    return (weight * 0.5 * normal.sum(-1)).mean(-1)


def cosine(config: Config, update: Tensor) -> Tensor:
    """Share of the policy's step size at `update` (int64), counted from 0: from 1 down to 0."""
    assert config.policy_decay_updates is not None
    return adam.cosine(update, config.policy_decay_updates)


def _mean_action(config: Config) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    """The policy's action, or the mean of its actions."""
    return outputs if config.dialect == "synther" and not config.deterministic else deterministic


def _act(parameters: Mapping[str, Tensor], observation: Tensor, *, mean: Callable[..., Tensor]) -> Tensor:
    """Action taken in evaluation: (S, n, o) -> (S, n, a) in [-1, 1]."""
    return mean(parameters, observation).clamp(-1.0, 1.0)


def policy(state: State) -> Policy:
    """The policies being trained, as they are at each call."""
    return Policy(state.policy, partial(_act, mean=_mean_action(state.config)), state.table.facts.normalizer)


def restore(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Policy:
    """The policies of a checkpoint."""
    config = replace(SMALL, **{name: known["method"][name] for name in ("dialect", "deterministic")})
    shape = {"hidden_sizes": known["method"]["hidden_sizes"]}
    layout = _policy(config, known["observation_dim"], known["action_dim"], [0], shape)
    return Policy.restored(layout.like(tensors["policy"]), partial(_act, mean=_mean_action(config)), known)
