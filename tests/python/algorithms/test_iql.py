"""IQL: the battery, a plain loop of the published rules in three dialects, its datasets, and what it learns."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from battery import Case, battery, battery_of_a_gpu
from numpy.typing import NDArray
from plain_loops import Batches, from_values, mlp, soft_update
from small_data import recording, transitions
from torch import Tensor, nn
from torch.distributions import Normal

from trajmill.algorithms import iql
from trajmill.models.mlp import export_network
from trajmill.replay.tables import TransitionRows

DIALECTS = ("synther", "corl", "authors")


class GaussianPolicy(nn.Module):
    """Mean by a network, one log standard deviation a number of an action."""

    def __init__(self, network: nn.Sequential, action_dim: int, low: float) -> None:
        super().__init__()
        self.network, self.low = network, low
        self.log_std = nn.Parameter(torch.zeros(action_dim, dtype=network[0].weight.dtype))

    def forward(self, s: Tensor) -> Normal:
        return Normal(self.network(s), self.log_std.clamp(self.low, 2.0).exp())


class PlainLoop:
    """IQL in the manner of CORL: one seed, a module a network, an optimizer each; independent of ours."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], config: iql.Config, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        o, a = columns["observation"].shape[1], columns["action"].shape[1]
        self.batches = Batches(columns, config.batch_size, seed)
        networks = [mlp([o + a, *config.hidden_sizes, 1]) for _ in range(2)]
        if config.dialect == "authors":
            raise NotImplementedError("the plain loop has torch's initial values only")
        self.start(self.policy_of(mlp([o, *config.hidden_sizes, a]), a), mlp([o, *config.hidden_sizes, 1]), networks)

    def policy_of(self, network: nn.Sequential, action_dim: int) -> nn.Module:
        """The dialect's policy around a network that gives the means."""
        squashed = nn.Sequential(*network, nn.Tanh())
        if self.config.deterministic:
            return squashed
        network = network if self.config.dialect == "synther" else squashed
        return GaussianPolicy(network, action_dim, -20.0 if self.config.dialect == "corl" else -5.0)

    def start(self, policy: nn.Module, value: nn.Sequential, critics: list[nn.Sequential]) -> None:
        """Take these networks, target critics equal to them, and fresh optimizers."""
        self.policy, self.value, self.critics = policy, value, nn.ModuleList(critics)
        self.targets = copy.deepcopy(self.critics)
        rate, config = self.config.learning_rate, self.config
        self.value_optimizer = torch.optim.Adam(value.parameters(), lr=rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=rate)
        self.policy_optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.policy_optimizer, config.policy_decay_updates)

    def run(self, count: int) -> None:
        """Make `count` updates on random batches."""
        for _ in range(count):
            self.update(self.batches.draw())

    def update(self, batch: list[Tensor]) -> dict[str, float]:
        """One update on a batch."""
        config, (s, a, r, d, s2) = self.config, batch
        sa = torch.cat([s, a], 1)
        with torch.no_grad():
            q = torch.min(*[target(sa)[:, 0] for target in self.targets])
            next_value = self.value(s2)[:, 0]
        advantage = q - self.value(s)[:, 0]
        value_loss = (torch.abs(config.expectile - (advantage < 0).to(q)) * advantage**2).mean()
        self.step(self.value_optimizer, value_loss)
        advantage = advantage.detach()
        if config.dialect == "authors":
            with torch.no_grad():
                advantage = q - self.value(s)[:, 0]
                next_value = self.value(s2)[:, 0]
            policy_loss = self.clone(s, a, advantage)
            q_loss = self.fit(sa, r, d, next_value)
        else:
            q_loss = self.fit(sa, r, d, next_value)
            policy_loss = self.clone(s, a, advantage)
        return {"value_loss": value_loss.item(), "q_loss": q_loss, "policy_loss": policy_loss}

    def fit(self, sa: Tensor, r: Tensor, d: Tensor, next_value: Tensor) -> float:
        """The critics' update and their targets'."""
        y = r + (1.0 - d) * self.config.discount * next_value
        loss = sum(F.mse_loss(critic(sa)[:, 0], y) for critic in self.critics)
        loss = loss if self.config.dialect == "authors" else loss / 2
        self.step(self.critic_optimizer, loss)
        soft_update(self.targets, self.critics, self.config.polyak)
        return loss.item()

    def clone(self, s: Tensor, a: Tensor, advantage: Tensor) -> float:
        """The policy's update."""
        weight = torch.exp(self.config.inverse_temperature * advantage).clamp(max=self.config.greatest_weight)
        found = self.policy(s)
        losses = -found.log_prob(a).sum(-1) if isinstance(found, Normal) else ((found - a) ** 2).sum(1)
        loss = (weight * losses).mean()
        self.step(self.policy_optimizer, loss)
        self.schedule.step()
        return loss.item()

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Actions of normalized observations."""
        found = self.policy(observation)
        return (found.mean if isinstance(found, Normal) else found).clamp(-1.0, 1.0)


def plain_loop(columns: Mapping[str, NDArray[Any]], config: iql.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


SMALLER = replace(iql.SMALL, batch_size=16, hidden_sizes=(24, 16))
CASES = {
    "synther": Case(method=iql, config=SMALLER),
    "corl, deterministic": Case(method=iql, config=replace(SMALLER, dialect="corl", deterministic=True)),
    "authors": Case(method=iql, config=replace(SMALLER, dialect="authors")),
    "own settings": Case(
        method=iql, config=lambda seeds: replace(SMALLER, expectile=tuple(0.5 + s % 5 / 20 for s in seeds))
    ),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_updates_equal_the_plain_loop(dialect: str, deterministic: bool) -> None:
    config = replace(SMALLER, dialect=dialect, deterministic=deterministic, policy_decay_updates=40, polyak=0.05)
    config = iql.adapt(config, recording(), "Hopper-v4")
    rows = TransitionRows(transitions=transitions())
    table = rows.table(torch.device("cpu"), torch.float64)
    state = iql.create(config, table, [3, 2**40 + 1])
    loops = []
    for k in range(2):
        loop = PlainLoop(rows.columns, replace(config, dialect="corl"), k)
        loop.config = config
        policy = export_network(state.policy.parameters, k)
        made = loop.policy_of(from_values({n: v for n, v in policy.items() if n != "log_std"}, "output"), 2)
        critics = [export_network(state.critic.parameters, 2 * k + member) for member in range(2)]
        value = from_values(export_network(state.value.parameters, k), "value")
        loop.start(made, value, [from_values(values, "value") for values in critics])
        loops.append(loop)
    for number in range(24):
        batch = table.draw(state.draws.words(state.step, 1)["batch"])[0]
        iql.update(state, batch)
        ours = state.metrics.mean_of_last(number, number + 1)
        for k, loop in enumerate(loops):
            columns = [getattr(batch, name)[k] for name in ("observation", "action", "reward", "terminal")]
            for name, value in loop.update([*columns, batch.next_observation[k]]).items():
                assert ours[name][k] == pytest.approx(value, rel=1e-5), name
    for k, loop in enumerate(loops):
        policy = loop.policy if deterministic else loop.policy.network
        pairs = [
            (export_network(state.policy.parameters, k), "output", policy),
            (export_network(state.value.parameters, k), "value", loop.value),
            (export_network(state.critic.parameters, 2 * k), "value", loop.critics[0]),
            (export_network(state.critic_target.parameters, 2 * k + 1), "value", loop.targets[1]),
        ]
        for values, head, network in pairs:
            linear = [layer for layer in network if isinstance(layer, nn.Linear)]
            for layer, name in zip(linear, ["hidden.0", "hidden.1", head], strict=True):
                assert (values[f"{name}.weight"] - layer.weight.detach()).abs().max() < 1e-9
                assert (values[f"{name}.bias"] - layer.bias.detach()).abs().max() < 1e-9
        if not deterministic:
            log_std = state.policy.parameters["log_std"][k].detach()
            assert (log_std - loop.policy.log_std.detach()).abs().max() < 1e-9
            assert log_std.abs().min() > 1e-4, "the spread should be learned"
        seen = torch.randn(1, 5, 5, dtype=torch.float64)
        act = iql.policy(state)
        assert (act.act(act.network.detached(), seen.expand(2, 5, 5))[k] - loop.act(seen[0])).abs().max() < 1e-9


def test_the_authors_networks_are_orthogonal() -> None:
    config = iql.adapt(replace(SMALLER, dialect="authors"), recording(), "Hopper-v4")
    state = iql.create(config, TransitionRows(transitions=transitions()).table(torch.device("cpu"), torch.float64), [0])
    for stack in (state.policy, state.value, state.critic):
        for name, parameter in stack.detached().items():
            if name.endswith("weight"):
                small = parameter[0] if parameter.shape[1] <= parameter.shape[2] else parameter[0].T
                torch.testing.assert_close(small @ small.T, 2.0 * torch.eye(len(small)).double(), atol=1e-6, rtol=0)
            else:
                assert not parameter.any(), name


@pytest.mark.parametrize("windows", [True, False])
def test_returns_are_cut_as_the_dialect_cuts_them(windows: bool) -> None:
    """Beside a slow count row by row."""
    rng = np.random.default_rng(0)
    made = transitions(5000)
    terminal = rng.random(5000) < 0.002
    following = np.concatenate([made.observation[1:], made.observation[:1]])
    cut = rng.random(5000) < 0.002
    following[cut] += 1.0
    made = replace(made, terminal=terminal, next_observation=following)
    returns, total, length = [], 0.0, 0
    for row in range(5000):
        total, length = total + float(made.reward[row]), length + 1
        jump = row == 4999 or np.linalg.norm(made.observation[row + 1] - following[row]) > 1e-6
        if terminal[row] or (length == iql.WINDOW if windows else jump):
            returns.append(total)
            total, length = 0.0, 0
    assert iql.return_range(made, windows=windows) == pytest.approx(max(returns) - min(returns), rel=1e-6)


def test_rewards_that_cannot_be_normalized_are_refused() -> None:
    with pytest.raises(ValueError, match="no-normalize-rewards"):
        iql.return_range(replace(transitions(50), terminal=np.zeros(50, np.bool_)), windows=True)
    with pytest.raises(ValueError, match="no-normalize-rewards"):
        iql.return_range(replace(transitions(5), terminal=np.array([False] * 4 + [True])), windows=True)


@pytest.mark.parametrize(
    ("dialect", "dataset", "settings"),
    [
        ("synther", "hopper-medium-v2", {"deterministic": True, "normalize_rewards": True, "polyak": 0.001}),
        ("corl", "hopper_medium_replay-v2", {"deterministic": True, "normalize_rewards": True, "expectile": 0.7}),
        ("synther", "hopper-medium-expert-v2", {"inverse_temperature": 6.0, "expectile": 0.5, "polyak": 0.005}),
        ("synther", "walker2d-medium-v2", {"inverse_temperature": 3.0, "normalize_rewards": False}),
        ("authors", "hopper-medium-v2", {"deterministic": False, "normalize_rewards": True, "polyak": 0.005}),
        ("authors", "ant-medium-v2", {"normalize_rewards": False}),
        ("corl", "antmaze-umaze-v2", {"inverse_temperature": 10.0, "expectile": 0.9, "reward_shift": -1.0}),
    ],
)
def test_datasets_have_settings_of_their_own(dialect: str, dataset: str, settings: dict[str, Any]) -> None:
    adapted = iql.adapt(iql.Config(dialect=dialect), replace(recording(), name=dataset), "Hopper-v4")
    assert {name: getattr(adapted, name) for name in settings} == settings
    given = iql.adapt(iql.Config(dialect=dialect, expectile=0.6), replace(recording(), name=dataset), "Hopper-v4")
    assert given.expectile == 0.6, "what is given stays"


def test_rewards_and_observations_are_prepared_as_the_dialect_says() -> None:
    data = replace(recording(range(1, 28)), name="hopper-medium-v2")
    synther, authors = (
        iql.prepare(iql.adapt(iql.Config(dialect=dialect), data, "Hopper-v4"), data)
        for dialect in ("synther", "authors")
    )
    spread = iql.return_range(synther.transitions, windows=True)
    reward = synther.transitions.reward
    np.testing.assert_allclose(synther.columns["reward"], reward * np.float32(1000.0 / spread), rtol=1e-6)
    assert abs(synther.columns["observation"].mean()) < 1e-4 and authors.normalizer is None
    assert np.abs(authors.columns["action"]).max() <= 1.0 - 1e-5
    shifted = iql.prepare(iql.adapt(iql.Config(), replace(data, name="antmaze-umaze-v2"), "Hopper-v4"), data)
    np.testing.assert_array_equal(shifted.columns["reward"], reward - 1)


def test_it_clones_the_better_actions() -> None:
    """One state; actions of 0.5 pay, those of -0.5 do not: cloning alone would give 0."""
    count = 400
    good = np.arange(count) % 2 == 0
    zeros = np.zeros((count, 2), np.float32)
    made = replace(
        transitions(count),
        observation=zeros,
        next_observation=zeros,
        action=np.where(good, 0.5, -0.5)[:, None].astype(np.float32),
        reward=good.astype(np.float32),
        terminal=np.ones(count, np.bool_),
    )
    config = replace(SMALLER, batch_size=64, learning_rate=3e-3, inverse_temperature=(10.0, 0.0), polyak=0.05)
    config = iql.adapt(config, recording(), "Hopper-v4")
    state = iql.create(config, TransitionRows(transitions=made).table(torch.device("cpu"), torch.float32), [0, 1])
    iql.step(state, 500)
    chosen = iql.policy(state)(np.zeros((2, 1, 2), np.float32))[:, 0, 0]
    assert chosen[0] > 0.4 and abs(chosen[1]) < 0.2


def test_the_value_is_an_expectile_of_the_data() -> None:
    """One state, terminal steps of rewards 0 and 1 in equal parts: V is tau, as (1 − tau)·V = tau·(1 − V)."""
    count = 400
    zeros = np.zeros((count, 2), np.float32)
    made = replace(
        transitions(count),
        observation=zeros,
        next_observation=zeros,
        action=np.where(np.arange(count) % 2, 0.5, -0.5)[:, None].astype(np.float32),
        reward=(np.arange(count) % 2).astype(np.float32),
        terminal=np.ones(count, np.bool_),
    )
    config = replace(SMALLER, batch_size=64, learning_rate=3e-3, expectile=(0.5, 0.9), polyak=0.1)
    config = iql.adapt(config, recording(), "Hopper-v4")
    state = iql.create(config, TransitionRows(transitions=made).table(torch.device("cpu"), torch.float32), [0, 1])
    iql.step(state, 1500)
    value = state.metrics.mean_of_last(1400, 1500)["state_value"]
    assert value[0] == pytest.approx(0.5, abs=0.06) and value[1] == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("expectile", 1.0), ("inverse_temperature", -1.0), ("polyak", 0.0), ("dialect", "mine"), ("greatest_weight", 0.0)],
)
def test_settings_out_of_range_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        iql.Config(**{setting: value})


def test_open_settings_are_refused() -> None:
    table = TransitionRows(transitions=transitions()).table(torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="adapt"):
        iql.create(iql.Config(), table, [0])


def test_the_policys_step_size_falls_along_a_cosine() -> None:
    config = iql.Config(policy_decay_updates=1000)
    updates = torch.tensor([0, 250, 500, 1000, 2000])
    expected = [1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.0, 0.0]
    torch.testing.assert_close(iql.cosine(config, updates), torch.tensor(expected, dtype=torch.float64))
