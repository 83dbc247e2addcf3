"""SAC: the battery, a plain loop in the order of REDQ's program, the subset, the entropy, and what it learns."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from battery import Case, battery, battery_of_a_gpu, checkpoint_of
from numpy.typing import NDArray
from plain_loops import Batches, mlp, soft_update
from small_data import transitions
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions.transforms import TanhTransform

from trajmill.algorithms import cql, redq, sac
from trajmill.data import Normalizer
from trajmill.models.mlp import export_network
from trajmill.models.policies import gaussian, outputs, tanh_gaussian
from trajmill.replay.tables import TransitionRows

CPU = torch.device("cpu")


def critic_network(sizes: list[int], layer_norm: bool) -> nn.Sequential:
    """A critic as modules."""
    plain = mlp(sizes)
    if not layer_norm:
        return plain
    layers: list[nn.Module] = []
    for layer in plain:
        layers += [nn.LayerNorm(sizes[len(layers) // 3 + 1]), layer] if isinstance(layer, nn.ReLU) else [layer]
    return nn.Sequential(*layers)


class PlainLoop:
    """SAC, or REDQ, in the manner of REDQ's program: one seed, a module and an optimizer a network, of torch alone."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], config: sac.Config, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        o, a = columns["observation"].shape[1], columns["action"].shape[1]
        self.batches = Batches(columns, config.batch_size, seed)
        sizes = [o + a, *config.hidden_sizes, 1]
        actor = mlp([o, *config.hidden_sizes, 2 * a])
        critics = [critic_network(sizes, config.layer_norm) for _ in range(config.critic_count)]
        for network in (actor, *critics):
            for layer in network:
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
        self.start(actor, critics)

    def start(self, actor: nn.Sequential, critics: list[nn.Sequential]) -> None:
        """Take these networks, targets equal to the critics, and fresh optimizers."""
        self.actor, self.critics, self.targets = actor, critics, copy.deepcopy(critics)
        fixed = self.config.entropy_coefficient
        self.log_alpha = actor[0].bias.new_tensor([0.0 if fixed is None else math.log(fixed)]).requires_grad_()
        rate = self.config.learning_rate
        self.actor_optimizer = torch.optim.Adam(actor.parameters(), lr=rate)
        self.critic_optimizers = [torch.optim.Adam(critic.parameters(), lr=rate) for critic in critics]
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=rate)
        self.made = 0

    def run(self, count: int) -> None:
        """Make `count` updates on random batches."""
        for _ in range(count):
            batch = self.batches.draw()
            chosen = np.random.choice(self.config.critic_count, self.config.subset_size, replace=False)  # noqa: NPY002
            self.update(batch, [torch.randn_like(batch[1]) for _ in range(2)], chosen.tolist())

    def sample(self, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-densities."""
        mean, log_std = self.actor(s).chunk(2, -1)
        std = log_std.clamp(-20.0, 2.0).exp()
        raw = mean + std * noise
        action = torch.tanh(raw)
        log_density = Normal(0.0, 1.0).log_prob(noise) - std.log()  # of σ = e⁻²⁰, raw − μ would have few digits left
        return action, (log_density - TanhTransform().log_abs_det_jacobian(raw, action)).sum(-1)

    def update(self, batch: list[Tensor], noise: list[Tensor], chosen: list[int]) -> dict[str, float]:
        """One update on a batch, standard normal noise (at s', at s) and the target critics that are chosen."""
        config = self.config
        s, a, r, d, s2 = batch
        self.made += 1
        coefficient = self.log_alpha.detach().exp()
        with torch.no_grad():
            a2, log_density2 = self.sample(s2, noise[0])
            q2 = torch.stack([self.targets[i](torch.cat([s2, a2], 1))[:, 0] for i in chosen]).min(0).values
            y = r + config.discount * (1.0 - d) * (q2 - coefficient * log_density2)
        q_loss = sum(F.mse_loss(critic(torch.cat([s, a], 1))[:, 0], y) for critic in self.critics)
        for optimizer in self.critic_optimizers:
            optimizer.zero_grad()
        q_loss.backward()
        logged = {"q_loss": q_loss.item()}
        moves_policy = self.made % config.policy_delay == 0
        if moves_policy:
            for critic in self.critics:
                critic.requires_grad_(False)
            pi, log_density = self.sample(s, noise[1])
            q = torch.stack([critic(torch.cat([s, pi], 1))[:, 0] for critic in self.critics])
            value = q.mean(0) if config.policy_value == "mean" else q.min(0).values
            policy_loss = (coefficient * log_density - value).mean()
            self.actor_optimizer.zero_grad()
            policy_loss.backward()
            for critic in self.critics:
                critic.requires_grad_(True)
            wanted = -a.shape[1] if config.target_entropy is None else config.target_entropy
            if config.entropy_coefficient is None:
                alpha_loss = -(self.log_alpha * (log_density.detach() + wanted)).mean()
                self.alpha_optimizer.zero_grad()
                alpha_loss.backward()
                self.alpha_optimizer.step()
            logged |= {"policy_loss": policy_loss.item(), "entropy_coefficient": coefficient.item()}
        for optimizer in self.critic_optimizers:
            optimizer.step()
        if moves_policy:
            self.actor_optimizer.step()
        for target, critic in zip(self.targets, self.critics, strict=True):
            soft_update(target, critic, config.polyak)
        return logged

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Actions of observations."""
        return torch.tanh(self.actor(observation).chunk(2, -1)[0])


def plain_loop(columns: Mapping[str, NDArray[Any]], config: sac.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


def tensors_of(network: nn.Sequential) -> list[Tensor]:
    """Its parameters as ours are laid out: of a layer weight and bias, then scale and shift of its layer norm."""
    return [parameter.detach() for parameter in network.parameters()]


def copied(values: Mapping[str, Tensor], network: nn.Sequential) -> nn.Sequential:
    """The modules with the values that `export_network` gave."""
    with torch.no_grad():
        for parameter, value in zip(network.to(torch.float64).parameters(), values.values(), strict=True):
            parameter.copy_(value)
    return network


SMALLER = replace(sac.SMALL, batch_size=16, hidden_sizes=(24, 16))
CASES = {
    "plain": Case(method=sac, config=SMALLER),
    "many": Case(
        method=sac,
        config=lambda seeds: replace(
            SMALLER,
            critic_count=4,
            subset_size=3,
            policy_value="mean",
            policy_delay=2,
            layer_norm=True,
            target_entropy=tuple(-1.0 - s % 5 for s in seeds),
            discount=tuple(0.9 + s % 5 / 100 for s in seeds),
        ),
        sensitivity=5.0,
    ),
    "fixed, after CQL": Case(
        method=sac,
        config=lambda seeds: replace(SMALLER, entropy_coefficient=tuple(0.1 + s % 5 / 10 for s in seeds)),
        start=lambda: conservative(0),
    ),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)

VARIANTS: dict[str, dict[str, Any]] = {
    "SAC": {},
    "paper C": {"policy_value": "mean"},
    "delayed": {"policy_delay": 3, "critic_count": 1, "subset_size": 1},
    "subset": {"critic_count": 5, "subset_size": 2, "policy_value": "mean", "policy_delay": 2, "target_entropy": -1.0},
    "all of many": {"critic_count": 3, "subset_size": 3},
    "fixed": {"entropy_coefficient": 0.3},
    "layer norm": {"layer_norm": True, "critic_count": 3, "subset_size": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_the_plain_loop(name: str) -> None:
    config = sac.Config(batch_size=16, polyak=0.05, learning_rate=1e-3, hidden_sizes=(24, 16, 20))
    agree(sac, replace(config, **VARIANTS[name]), 24)


def agree(method: Any, config: sac.Config, count: int) -> None:
    """`count` updates of two seeds, beside plain loops that are told the same noise and subsets."""
    n = config.critic_count
    rows = TransitionRows(transitions=transitions())
    table = rows.table(CPU, torch.float64)
    state = method.create(config, table, [3, 2**40 + 1])
    with torch.no_grad():  # so that log σ passes its bounds
        state.policy.parameters["output.bias"][:, 0, 2:] += torch.tensor([-20.0, 2.0], dtype=torch.float64)
    log_std = outputs(state.policy.parameters, table.gather(torch.arange(400).expand(2, 400)).observation)[..., 2:]
    assert log_std.min() < -20.0 and log_std.max() > 2.0
    loops = []
    for k in range(2):
        loop = PlainLoop(rows.columns, config, k)
        values = [export_network(state.critic.parameters, k * n + member) for member in range(n)]
        critics = [copied(one, critic) for one, critic in zip(values, loop.critics, strict=True)]
        loop.start(copied(export_network(state.policy.parameters, k), loop.actor), critics)
        loops.append(loop)
    for number in range(count):
        words = state.draws.words(state.step, 1)
        batch = table.draw(words["batch"])[0]
        noise = sac.shaped_normals(words["noise"], (2, 16, 2), torch.float64)[0].transpose(0, 1)
        chosen = words["subset"][0].argsort(-1)[:, : config.subset_size].tolist()
        method.step(state, 1, number % state.period)
        ours = state.metrics.mean_of_last(number, number + 1)
        for k, loop in enumerate(loops):
            columns = [getattr(batch, name)[k] for name in ("observation", "action", "reward", "terminal")]
            logged = loop.update([*columns, batch.next_observation[k]], list(noise[:, k]), chosen[k])
            for name, value in logged.items():
                assert ours[name][k] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for k, loop in enumerate(loops):
        pairs = [(export_network(state.policy.parameters, k), loop.actor)]
        for stack, networks in ((state.critic, loop.critics), (state.critic_target, loop.targets)):
            pairs += [(export_network(stack.parameters, k * n + i), network) for i, network in enumerate(networks)]
        for values, network in pairs:
            for (name, value), theirs in zip(values.items(), tensors_of(network), strict=True):
                assert (value - theirs).abs().max() < 1e-9, name
        assert abs(sac.alpha(state)[k, 0] - loop.log_alpha.detach().exp()[0]) < 1e-9
        seen = torch.randn(1, 5, 5, dtype=torch.float64)
        act = method.policy(state)
        assert (act.act(act.network.detached(), seen.expand(2, 5, 5))[k] - loop.act(seen[0])).abs().max() < 1e-9


def test_subsets_are_uniform_and_of_their_address_alone() -> None:
    """All ten pairs of five, in every seed, as often; the same for the same update, whoever else trains."""
    config = replace(SMALLER, critic_count=5)
    table = TransitionRows(transitions=transitions()).table(CPU, torch.float32)
    state, alone = sac.create(config, table, [3, 4]), sac.create(config, table, [4])
    count = 20_000
    drawn, again = (sac.subset(one.draws.words(one.step, count)["subset"], 2).sort(-1).values for one in (state, alone))
    assert torch.equal(drawn[:, 1:], again) and not torch.equal(drawn[:, 0], drawn[:, 1])
    for seed in range(2):
        found = Counter(map(tuple, drawn[:, seed].tolist()))
        assert set(found) == set(combinations(range(5), 2))
        expected = count / 10
        assert sum((each - expected) ** 2 / expected for each in found.values()) < 27.9, "χ² of 9, at 0.1 %"
    later = state.draws.words(state.step + 7, 5)["subset"]
    assert torch.equal(sac.subset(later, 2).sort(-1).values, drawn[7:12])
    assert len({tuple(pair) for pair in drawn[:50, 0].tolist()}) > 5, "it differs by update"


def test_targets_take_the_least_of_the_subset_alone() -> None:
    """A NaN in a target critic reaches the targets of the seeds that drew it, and the critics of none."""
    config = replace(SMALLER, critic_count=4, subset_size=2)
    table = TransitionRows(transitions=transitions()).table(CPU, torch.float64)
    state = sac.create(config, table, [3, 4, 5])
    with torch.no_grad():
        state.critic_target.flat[1::4] = torch.nan
    batch = table.gather(torch.arange(16).expand(3, 16))
    chosen = torch.tensor([[0, 2], [3, 1], [1, 0]])
    target = sac.bellman_target(state, batch, torch.zeros(3, 16, 2, dtype=torch.float64), chosen)
    assert target.isnan().all(1).tolist() == [False, True, True] and target[0].isfinite().all()


def test_fresh_networks_have_the_published_values() -> None:
    """Xavier's bounds by layer, mean and log σ being layers of their own, and no biases."""
    table = TransitionRows(transitions=transitions(action_dim=16)).table(CPU, torch.float32)
    state = sac.create(sac.Config(), table, [0, 1])
    sizes = {"critic hidden.0": (21, 256), "critic hidden.1": (256, 256), "critic value": (256, 1)}
    sizes |= {"policy hidden.0": (5, 256), "policy output": (256, 16)}
    for name, (inputs, width) in sizes.items():
        kind, layer = name.split()
        parameters = getattr(state, kind).detached()
        greatest, bound = float(parameters[f"{layer}.weight"].abs().max()), math.sqrt(6.0 / (inputs + width))
        assert 0.98 * bound < greatest <= bound * (1 + 1e-6), name
        assert not parameters[f"{layer}.bias"].any()
    assert torch.equal(sac.alpha(state), torch.ones(2, 1))
    assert torch.equal(state.critic.flat, state.critic_target.flat)


def single_steps() -> Any:
    """A table of steps from one state that end there: actions are uniform, the reward is highest at 0.5."""
    action = np.random.default_rng(0).uniform(-1.0, 1.0, (512, 1)).astype(np.float32)
    zeros = np.zeros((512, 2), np.float32)
    made = replace(
        transitions(512),
        observation=zeros,
        action=action,
        reward=(-4.0 * (action[:, 0] - 0.5) ** 2).astype(np.float32),
        next_observation=zeros,
        terminal=np.ones(512, np.bool_),
    )
    return TransitionRows(transitions=made).table(CPU, torch.float32)


def test_a_fixed_coefficient_stays_and_a_learned_one_steers_the_entropy() -> None:
    """log π comes to minus the target entropy of each seed; it is −0.69, of uniform actions, if it is not steered."""
    table = single_steps()
    config = replace(SMALLER, learning_rate=2e-2, batch_size=32, target_entropy=(-0.4, 0.3))
    learned = sac.create(config, table, [0, 1])
    sac.step(learned, 300)
    assert learned.metrics.mean_of_last(200, 300)["log_probability"] == pytest.approx([0.4, -0.3], abs=0.25)
    fixed = sac.create(replace(config, target_entropy=None, entropy_coefficient=(0.25, 0.0)), table, [0, 1])
    sac.step(fixed, 20)
    assert sac.alpha(fixed)[:, 0].tolist() == pytest.approx([0.25, 0.0]) and "log_alpha" not in fixed.moving()


@cache
def conservative(*seeds: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The checkpoint of a run of CQL after some updates, in float64."""
    config = cql.Config(batch_size=16, hidden_sizes=(24, 16), learning_rate=0.02)
    state = cql.create(config, TransitionRows(transitions=transitions()).table(CPU, torch.float64), seeds)
    cql.step(state, 20)
    return checkpoint_of(cql, state, seeds)


def test_it_starts_from_the_networks_of_a_conservative_run() -> None:
    """Seed by seed: the law of actions, the values, targets that are not the critics, the coefficient."""
    tensors, known = conservative(7, 8, 9)
    table = TransitionRows(transitions=transitions()).table(CPU, torch.float64)
    state = sac.create(SMALLER, table, [9, 7])
    assert sac.start_from(state, tensors, known) is state
    for name, theirs in (("critic", "critic"), ("critic_target", "target"), ("log_alpha", "log_alpha")):
        assert torch.equal(state.moving()[name].view(2, -1), tensors[theirs].view(3, -1)[[2, 0]]), name
    assert not torch.equal(state.critic.flat, state.critic_target.flat) and sac.alpha(state).max() < 0.9
    seen = torch.randn(2, 50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layout = tanh_gaussian(5, 2, [0], hidden_sizes=(24, 16))
    theirs = layout.like(tensors["policy"][[2, 0]]).parameters
    for name, first in (("log_std_multiplier", 1.0), ("log_std_offset", -1.0)):
        assert (theirs[name] - first).abs().min() > 1e-4, "it has learned this number"
    for found, wanted in zip(sac.gaussian(state.policy.detached(), seen), gaussian(theirs, seen), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    former = cql.restore(tensors, known)(np.ones((3, 1, 5), np.float32))
    np.testing.assert_allclose(sac.policy(state)(np.ones((2, 1, 5), np.float32)), former[[2, 0]], rtol=1e-6)
    assert not any(tensor.any() for name, tensor in state.moving().items() if "_adam/" in name and "moment" in name)
    sac.step(state)
    one = sac.start_from(sac.create(replace(SMALLER, entropy_coefficient=0.25), table, [1, 2]), *conservative(4))
    assert sac.alpha(one)[:, 0].tolist() == pytest.approx([0.25, 0.25]), "one that stays is that of the settings"
    assert torch.equal(one.critic.flat[:2], one.critic.flat[2:])


def test_what_does_not_fit_is_refused() -> None:
    tensors, known = conservative(7, 8)
    rows = TransitionRows(transitions=transitions())
    table = rows.table(CPU, torch.float32)
    scaled = replace(rows, normalizer=Normalizer.fit(rows.transitions.observation, 1e-3)).table(CPU, torch.float32)
    larger = TransitionRows(transitions=transitions(observation_dim=6)).table(CPU, torch.float32)
    for wrong, changes, there, seeds, said in (
        ("from cql for as many, not from one of td3_bc", {}, table, [7], {"kind": "td3_bc"}),
        ("6 observation .* for 5 and 2", {}, larger, [7], {}),
        ("hidden_sizes must be", {"hidden_sizes": (24, 24)}, table, [7], {}),
        ("standardized", {}, scaled, [7], {}),
        (r"\[7, 8\].* got seeds \[7, 9\]", {}, table, [7, 9], {}),
        ("critic_count 3 and layer_norm off", {"critic_count": 3}, table, [7], {}),
        ("critic_count 2 and layer_norm on", {"layer_norm": True}, table, [7], {}),
    ):
        state = sac.create(replace(SMALLER, **changes), there, seeds)
        before = {name: tensor.clone() for name, tensor in state.moving().items()}
        with pytest.raises(ValueError, match=wrong):
            sac.start_from(state, tensors, known | said)
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.moving().items() if name != "metrics")


def test_it_prefers_what_pays() -> None:
    """But a large coefficient keeps it random."""
    config = replace(SMALLER, learning_rate=1e-2, batch_size=64, entropy_coefficient=(0.01, 100.0))
    state = sac.create(config, single_steps(), [0, 1])
    sac.step(state, 300)
    seen, noise = torch.zeros(2, 1000, 2), torch.randn(2, 1000, 1, generator=torch.Generator().manual_seed(0))
    taken = sac.explore(state, seen, noise)[..., 0]
    assert abs(float(taken[0].mean()) - 0.5) < 0.15 and float(taken[0].std()) < 0.3
    assert float(taken[1].std()) > 0.5


def test_values_of_the_data_are_the_mean_of_all_critics() -> None:
    made = transitions(300)
    normalizer = Normalizer.fit(made.observation, 1e-3)
    rows = TransitionRows(transitions=made, normalizer=normalizer)
    config = replace(SMALLER, critic_count=5, layer_norm=True)
    state = sac.create(config, rows.table(CPU, torch.float32), [3, 4])
    found = sac.data_values(*checkpoint_of(sac, state, [3, 4]), made)
    whole = state.table.gather(torch.arange(300).expand(2, -1))
    _, means = sac.critic_loss(state, whole, torch.zeros(2, 300))
    assert found.shape == (2, 300) and found.mean(1) == pytest.approx(means.numpy(), rel=1e-4)
    plain = copied(export_network(state.critic.parameters, 7), critic_network([7, 24, 16, 1], True))
    with torch.no_grad():
        theirs = plain(torch.cat([whole.observation[1], whole.action[1]], 1).double())[:, 0]
    ours = sac.values_of(state.critic.detached(), sac.join(whole.observation, whole.action))[1, 2]
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def test_relevance_is_the_error_of_the_first_critic_of_the_first_seed() -> None:
    """Against the definition, for a target policy without noise; data as the critics know it."""
    made = transitions(300)
    rows = TransitionRows(transitions=made, normalizer=Normalizer.fit(made.observation, 1e-3))
    config = replace(SMALLER, critic_count=5, layer_norm=True, discount=(0.9, 0.5))
    state = sac.create(config, rows.table(CPU, torch.float32), [3, 4])
    sac.step(state, 3)
    found = sac.relevance(*checkpoint_of(sac, state, [3, 4]), made)
    whole = state.table.gather(torch.arange(300).expand(2, -1))
    with torch.no_grad():
        action = sac.mean_action(state.policy.detached(), whole.next_observation)
        later = sac.values_of(state.critic_target.parameters, sac.join(whole.next_observation, action))[0].amin(0)
        now = sac.values_of(state.critic.detached(), sac.join(whole.observation, whole.action))[0, 0]
        wanted = whole.reward[0] + 0.9 * (1.0 - whole.terminal[0]) * later - now
    np.testing.assert_allclose(found, wanted.abs().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [sac, redq])
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"subset_size": 11}, "subset_size"),
        ({"subset_size": 0}, "subset_size"),
        ({"critic_count": 1}, "subset_size"),
        ({"policy_delay": 0}, "policy_delay"),
        ({"policy_value": "median"}, "policy_value"),
        ({"entropy_coefficient": -0.1}, "entropy_coefficient"),
        ({"target_entropy": (-1.0, math.inf)}, "target_entropy"),
        ({"target_entropy": -1.0, "entropy_coefficient": 0.1}, "target_entropy"),
        ({"discount": 1.0}, "discount"),
        ({"polyak": 0.0}, "polyak"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_out_of_range_are_refused(method: Any, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        method.Config(**settings)
