"""TD3+BC: the battery, a plain loop of the published rule, and what it learns."""

from __future__ import annotations

import copy
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
from small_data import transitions
from torch import Tensor, nn

from trajmill.algorithms import td3, td3_bc
from trajmill.data import Normalizer
from trajmill.models.mlp import export_network
from trajmill.replay.tables import TransitionRows
from trajmill.training.draws import shaped_normals
from trajmill.training.settings import plain


class PlainLoop:
    """TD3+BC in the manner of CORL: one seed, a module a network, an optimizer each; independent of ours."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], config: td3_bc.Config, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        o, a = columns["observation"].shape[1], columns["action"].shape[1]
        self.batches = Batches(columns, config.batch_size, seed)
        self.start(
            mlp([o, *config.hidden_sizes, a], nn.Tanh()), [mlp([o + a, *config.hidden_sizes, 1]) for _ in range(2)]
        )

    def start(self, actor: nn.Module, critics: list[nn.Sequential]) -> None:
        """Take these networks, targets equal to them, and fresh optimizers."""
        self.actor, self.critics = actor, critics
        self.actor_target, self.critic_targets = copy.deepcopy(actor), copy.deepcopy(critics)
        rate = self.config.learning_rate
        self.actor_optimizer = torch.optim.Adam(actor.parameters(), lr=rate)
        self.critic_optimizers = [torch.optim.Adam(critic.parameters(), lr=rate) for critic in critics]
        self.made = 0

    def run(self, count: int) -> None:
        """Make `count` updates on random batches."""
        for _ in range(count):
            batch = self.batches.draw()
            self.update(batch, torch.randn_like(batch[1]))

    def update(self, batch: list[Tensor], noise: Tensor) -> dict[str, float]:
        """One update on a batch and standard normal noise."""
        config = self.config
        s, a, r, d, s2 = batch
        self.made += 1
        with torch.no_grad():
            noise = (noise * config.target_noise).clamp(-config.target_noise_clip, config.target_noise_clip)
            a2 = (self.actor_target(s2) + noise).clamp(-1.0, 1.0)
            q2 = torch.min(*[critic(torch.cat([s2, a2], 1))[:, 0] for critic in self.critic_targets])
            y = r + (1.0 - d) * config.discount * q2
        q_loss = sum(F.mse_loss(critic(torch.cat([s, a], 1))[:, 0], y) for critic in self.critics)
        logged = {"q_loss": q_loss.item()}
        for optimizer in self.critic_optimizers:
            optimizer.zero_grad()
        q_loss.backward()
        for optimizer in self.critic_optimizers:
            optimizer.step()
        if self.made % config.policy_delay == 0:
            policy_loss = self.policy_loss(s, a)
            logged["policy_loss"] = policy_loss.item()
            self.actor_optimizer.zero_grad()
            policy_loss.backward()
            self.actor_optimizer.step()
            pairs = [(self.actor_target, self.actor), *zip(self.critic_targets, self.critics, strict=True)]
            for target, source in pairs:
                soft_update(target, source, config.polyak)
        return logged

    def policy_loss(self, s: Tensor, a: Tensor) -> Tensor:
        """Of the policy as it is, against the first critic."""
        pi = self.actor(s)
        q = self.critics[0](torch.cat([s, pi], 1))[:, 0]
        weight = self.config.value_weight / q.abs().mean().detach()
        return -weight * q.mean() + F.mse_loss(pi, a)

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Actions of normalized observations."""
        return self.actor(observation)


def plain_loop(columns: Mapping[str, NDArray[Any]], config: td3_bc.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


SMALLER = replace(td3_bc.SMALL, batch_size=16, hidden_sizes=(24, 16))
CASES = {
    "delayed": Case(method=td3_bc, config=SMALLER, sensitivity=5.0),
    "every third": Case(method=td3_bc, config=replace(SMALLER, policy_delay=3, normalize=False), sensitivity=5.0),
    "own settings": Case(
        method=td3_bc,
        config=lambda seeds: replace(SMALLER, value_weight=tuple(2.0 + s % 5 for s in seeds)),
        sensitivity=5.0,
    ),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_updates_equal_the_plain_loop(delay: int) -> None:
    config = td3_bc.Config(batch_size=16, policy_delay=delay, hidden_sizes=(32, 24, 16))
    rows = TransitionRows(transitions=transitions())
    table = rows.table(torch.device("cpu"), torch.float64)
    state = td3_bc.create(config, table, [3, 2**40 + 1])
    loops = []
    for k in range(2):
        loop = PlainLoop(rows.columns, config, k)
        policy = export_network(state.policy.parameters, k)
        critics = [export_network(state.critic.parameters, 2 * k + member) for member in range(2)]
        loop.start(from_values(policy, "output", nn.Tanh()), [from_values(values, "value") for values in critics])
        loops.append(loop)
    for number in range(24):
        words = state.draws.words(state.step, 1)
        batch = table.draw(words["batch"])[0]
        noise = shaped_normals(words["noise"], (16, 2), torch.float64)[0]
        td3_bc.step(state, 1, number % state.period)
        for k, loop in enumerate(loops):
            columns = [getattr(batch, name)[k] for name in ("observation", "action", "reward", "terminal")]
            logged = loop.update([*columns, batch.next_observation[k]], noise[k])
            ours = state.metrics.mean_of_last(number, number + 1)
            assert ours["q_loss"][k] == pytest.approx(logged["q_loss"], rel=1e-5)
            if "policy_loss" in logged:
                policy_loss = ours["value_loss"][k] + ours["cloning_loss"][k]
                assert policy_loss == pytest.approx(logged["policy_loss"], rel=1e-4, abs=1e-5)
    for k, loop in enumerate(loops):
        pairs = [
            (export_network(state.policy.parameters, k), "output", loop.actor),
            (export_network(state.policy_target.parameters, k), "output", loop.actor_target),
            (export_network(state.critic.parameters, 2 * k), "value", loop.critics[0]),
            (export_network(state.critic_target.parameters, 2 * k + 1), "value", loop.critic_targets[1]),
        ]
        for values, head, network in pairs:
            linear = [layer for layer in network if isinstance(layer, nn.Linear)]
            for layer, name in zip(linear, [*(f"hidden.{i}" for i in range(3)), head], strict=True):
                assert (values[f"{name}.weight"] - layer.weight.detach()).abs().max() < 1e-9
                assert (values[f"{name}.bias"] - layer.bias.detach()).abs().max() < 1e-9


def test_values_of_the_data_are_those_of_its_rows() -> None:
    """Of more rows than are computed at once, raw ones, though the critics know them standardized."""
    made = transitions(9000)
    normalizer = Normalizer.fit(made.observation, 1e-3)
    rows = TransitionRows(transitions=made, normalizer=normalizer)
    table = rows.table(torch.device("cpu"), torch.float32)
    state = td3_bc.create(SMALLER, table, [3, 4])
    sizes = {"observation_dim": made.observation.shape[1], "action_dim": made.action.shape[1]}
    known = sizes | {"normalizer": normalizer.to_dict(), "method": plain(SMALLER), "seeds": [3, 4]}
    found = td3_bc.data_values(state.moving(), known, made)
    whole = table.gather(torch.arange(9000).expand(2, -1))
    _, means = td3.critic_loss(state, whole, torch.zeros(2, 9000))
    assert found.shape == (2, 9000) and found.mean(1) == pytest.approx(means.numpy(), rel=1e-4)
    loop = from_values(export_network(state.critic.parameters, 2), "value").float()
    other = from_values(export_network(state.critic.parameters, 3), "value").float()
    inputs = torch.cat([whole.observation[1, 8500:], whole.action[1, 8500:]], 1)
    with torch.no_grad():
        np.testing.assert_allclose(found[1, 8500:], ((loop(inputs) + other(inputs)) / 2)[:, 0], rtol=1e-4, atol=1e-5)


def test_it_prefers_what_pays_to_what_is_done() -> None:
    """One state; the data's actions are uniform, the reward is highest at 0.5: cloning alone would give 0."""
    count = 512
    random = np.random.default_rng(0)
    action = random.uniform(-1.0, 1.0, (count, 1)).astype(np.float32)
    reward = (1.0 - (action[:, 0] - 0.5) ** 2).astype(np.float32)
    zeros = np.zeros((count, 2), np.float32)
    made = replace(
        transitions(count),
        observation=zeros,
        action=action,
        reward=reward,
        next_observation=zeros,
        terminal=zeros[:, 0] == 0,
    )
    rows = TransitionRows(transitions=made)
    state = td3_bc.create(
        td3_bc.Config(value_weight=(20.0, 0.0), learning_rate=3e-3, batch_size=64, hidden_sizes=(32, 32)),
        rows.table(torch.device("cpu"), torch.float32),
        [0, 1],
    )
    td3_bc.step(state, 600)
    chosen = td3_bc.policy(state)(np.zeros((2, 1, 2), np.float32))[:, 0, 0]
    assert abs(chosen[0] - 0.5) < 0.15 and abs(chosen[1]) < 0.15


@pytest.mark.parametrize(
    ("setting", "value"),
    [("batch_size", 0), ("discount", 1.0), ("polyak", 0.0), ("policy_delay", 0), ("value_weight", -1.0)],
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        td3_bc.Config(**{setting: value})
