"""EDAC: the battery, a plain loop in the manner of CORL, the diversity term, its datasets, and what it learns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
from battery import Case, battery, battery_of_a_gpu
from numpy.typing import NDArray
from plain_loops import Batches, from_values, mlp, soft_update
from small_data import recording, transitions
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions.transforms import TanhTransform

from trajmill.algorithms import edac
from trajmill.models.mlp import export_network
from trajmill.models.policies import outputs
from trajmill.replay.tables import TransitionRows


class Ensemble(nn.Module):
    """Many critics of one shape, a batched product a layer; weights (N, in, out), biases (N, 1, out)."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        x = torch.cat([s, a], -1)
        if x.dim() == 2:
            x = x.unsqueeze(0).repeat_interleave(len(self.biases[0]), 0)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.relu(x @ weight + bias)
        return (x @ self.weights[-1] + self.biases[-1])[..., 0]


class PlainLoop:
    """EDAC in the manner of CORL: one seed, a module a network, an optimizer each; independent of ours."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], config: edac.Config, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        o, a = columns["observation"].shape[1], columns["action"].shape[1]
        self.batches = Batches(columns, config.batch_size, seed)
        actor = mlp([o, *config.hidden_sizes, 2 * a])
        for layer in actor[:-1:2]:
            nn.init.constant_(layer.bias, 0.1)
        for parameter in actor[-1].parameters():
            nn.init.uniform_(parameter, -1e-3, 1e-3)
        sizes, n = [o + a, *config.hidden_sizes, 1], config.critic_count
        bounds = [size**-0.5 for size in config.hidden_sizes]
        weights = [torch.empty(n, i, j) for i, j in pairwise(sizes)]
        biases = [torch.full((n, 1, j), 0.1) for j in sizes[1:]]
        for weight, bound in zip([*weights, biases[-1]], [*bounds, 3e-3, 3e-3], strict=True):
            nn.init.uniform_(weight, -bound, bound)
        self.start(actor, Ensemble(weights, biases))

    def start(self, actor: nn.Module, critic: Ensemble) -> None:
        """Take these networks, target critics equal to them, and fresh optimizers."""
        self.actor, self.critic, self.target = actor, critic, copy.deepcopy(critic)
        self.log_alpha = critic.weights[0].new_zeros(1).requires_grad_()
        rate = self.config.learning_rate
        self.actor_optimizer = torch.optim.Adam(actor.parameters(), lr=rate)
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=rate)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=rate)

    def run(self, count: int) -> None:
        """Make `count` updates on random batches."""
        for _ in range(count):
            batch = self.batches.draw()
            self.update(batch, [torch.randn_like(batch[1]) for _ in range(3)])

    def sample(self, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-densities."""
        mean, log_std = self.actor(s).chunk(2, -1)
        std = log_std.clamp(-5.0, 2.0).exp()
        raw = mean + std * noise
        action = torch.tanh(raw)
        log_density = Normal(mean, std).log_prob(raw) - TanhTransform().log_abs_det_jacobian(raw, action)
        return action, log_density.sum(-1)

    def update(self, batch: list[Tensor], noise: list[Tensor]) -> dict[str, float]:
        """One update on a batch and standard normal noise, step by step as CORL orders them."""
        s, a, r, d, s2 = batch
        with torch.no_grad():
            log_density = self.sample(s, noise[0])[1]
        alpha_loss = (-self.log_alpha * (log_density - a.shape[1])).mean()
        self.step(self.alpha_optimizer, alpha_loss)
        policy_loss = self.policy_loss(s, noise[1])
        self.step(self.actor_optimizer, policy_loss)
        q_loss, diversity = self.critic_losses(s, a, self.bellman_target(r, d, s2, noise[2]))
        self.step(self.critic_optimizer, q_loss + self.config.eta * diversity)
        soft_update(self.target, self.critic, self.config.polyak)
        return {
            "policy_loss": policy_loss.item(),
            "q_loss": q_loss.item(),
            "diversity_loss": diversity.item(),
            "entropy_coefficient": self.log_alpha.exp().item(),
        }

    def update_as_the_authors(self, batch: list[Tensor], noise: list[Tensor]) -> None:
        """The same with all losses before any step, alpha's of the policy's own actions."""
        s, a, r, d, s2 = batch
        alpha_loss = (-self.log_alpha * (self.sample(s, noise[1])[1].detach() - a.shape[1])).mean()
        policy_loss = self.policy_loss(s, noise[1])
        q_loss, diversity = self.critic_losses(s, a, self.bellman_target(r, d, s2, noise[2]))
        self.step(self.alpha_optimizer, alpha_loss)
        self.step(self.actor_optimizer, policy_loss)
        self.step(self.critic_optimizer, q_loss + self.config.eta * diversity)
        soft_update(self.target, self.critic, self.config.polyak)

    def policy_loss(self, s: Tensor, noise: Tensor) -> Tensor:
        action, log_density = self.sample(s, noise)
        return (self.log_alpha.exp().detach() * log_density - self.critic(s, action).min(0).values).mean()

    @torch.no_grad()
    def bellman_target(self, r: Tensor, d: Tensor, s2: Tensor, noise: Tensor) -> Tensor:
        action, log_density = self.sample(s2, noise)
        value = self.target(s2, action).min(0).values - self.log_alpha.exp() * log_density
        return r + self.config.discount * (1.0 - d) * value

    def critic_losses(self, s: Tensor, a: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the errors, and the diversity by differentiating twice."""
        q_loss = ((self.critic(s, a) - y) ** 2).mean(1).sum()
        n = self.config.critic_count
        if n == 1 or self.config.eta == 0.0:
            return q_loss, torch.zeros(())
        s, a = (x.unsqueeze(0).repeat_interleave(n, 0) for x in (s, a))
        a.requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(s, a).sum(), a, create_graph=True)
        slope = (slope / (slope.norm(dim=2, keepdim=True) + 1e-10)).transpose(0, 1)
        cosines = slope @ slope.mT * (1.0 - torch.eye(n, dtype=slope.dtype))
        return q_loss, cosines.sum((1, 2)).mean() / (n - 1)

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Actions of observations."""
        return torch.tanh(self.actor(observation).chunk(2, -1)[0])


def plain_loop(columns: Mapping[str, NDArray[Any]], config: edac.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


SMALLER = edac.Config(batch_size=16, critic_count=4, eta=1.0, hidden_sizes=(24, 16))
CASES = {
    "diverse": Case(method=edac, config=lambda seeds: replace(SMALLER, eta=tuple(s % 5 / 2 for s in seeds))),
    "authors": Case(method=edac, config=replace(SMALLER, order="authors", hidden_sizes=(16,))),
    "one critic": Case(method=edac, config=replace(SMALLER, critic_count=1)),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


@pytest.mark.parametrize(
    "change",
    [{}, {"order": "authors"}, {"eta": 0.0}, {"critic_count": 1}, {"eta": 5.0, "hidden_sizes": (16,)}],
    ids=["corl", "authors", "SAC-N", "one critic", "one layer"],
)
def test_updates_equal_the_plain_loop(change: dict[str, Any]) -> None:
    config = replace(SMALLER, polyak=0.05, learning_rate=1e-3, hidden_sizes=(24, 16, 20))
    config = replace(config, **change)
    n = config.critic_count
    rows = TransitionRows(transitions=transitions())
    table = rows.table(torch.device("cpu"), torch.float64)
    state = edac.create(config, table, [3, 2**40 + 1])
    with torch.no_grad():  # so that log σ passes its bounds
        state.policy.parameters["output.weight"].mul_(10_000.0)
    log_std = outputs(state.policy.parameters, table.gather(torch.arange(400).expand(2, 400)).observation)[..., 2:]
    assert log_std.min() < -5.0 and log_std.max() > 2.0
    loops = []
    for k in range(2):
        loop = PlainLoop(rows.columns, config, k)
        critic = {name: value[k * n : (k + 1) * n].detach().clone() for name, value in state.critic.parameters.items()}
        weights, biases = ([v for name, v in critic.items() if name.endswith(end)] for end in (".weight", ".bias"))
        loop.start(from_values(export_network(state.policy.parameters, k), "output"), Ensemble(weights, biases))
        loops.append(loop)
    for number in range(24):
        words = state.draws.words(state.step, 1)
        batch = table.draw(words["batch"])[0]
        noise = edac.shaped_normals(words["noise"], (3, 16, 2), torch.float64)[0].transpose(0, 1)
        edac.update(state, batch, noise)
        ours = state.metrics.mean_of_last(number, number + 1)
        for k, loop in enumerate(loops):
            columns = [getattr(batch, name)[k] for name in ("observation", "action", "reward", "terminal")]
            theirs = [*columns, batch.next_observation[k]], noise[:, k]
            if config.order == "authors":
                loop.update_as_the_authors(*theirs)
                continue
            for name, value in loop.update(*theirs).items():
                assert ours[name][k] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for k, loop in enumerate(loops):
        for stack, ensemble in ((state.critic, loop.critic), (state.critic_target, loop.target)):
            for index, (name, found) in enumerate(stack.detached().items()):
                theirs = (ensemble.biases if index % 2 else ensemble.weights)[index // 2]
                assert (found[k * n : (k + 1) * n] - theirs.detach()).abs().max() < 1e-9, name
        values = export_network(state.policy.parameters, k)
        for value, theirs in zip(values.values(), loop.actor.parameters(), strict=True):
            assert (value - theirs.detach()).abs().max() < 1e-9
        log_alpha = state.log_alpha.detached()["log_alpha"][k]
        assert abs(log_alpha - loop.log_alpha.detach()) < 1e-9 and abs(log_alpha) > 1e-3
        seen = torch.randn(1, 5, 5, dtype=torch.float64)
        act = edac.policy(state)
        assert (act.act(act.network.detached(), seen.expand(2, 5, 5))[k] - loop.act(seen[0])).abs().max() < 1e-9


def test_diversity_is_the_sum_over_pairs() -> None:
    """Beside loops over seeds, rows and pairs i ≠ j; equal directions give N, two opposite ones −2."""
    slopes = torch.randn(3, 4, 5, 2, dtype=torch.float64)
    unit = slopes / (slopes.square().sum(-1, keepdim=True).sqrt() + 1e-10)
    for seed, found in enumerate(edac.diversity(slopes)):
        rows = [sum(unit[seed, i, row] @ unit[seed, j, row] for i, j in permutations(range(4), 2)) for row in range(5)]
        assert float(found) == pytest.approx(float(sum(rows)) / 5 / 3, rel=1e-12)
    same = torch.ones(1, 10, 1, 6)
    assert float(edac.diversity(same)) == pytest.approx(10.0)
    assert float(edac.diversity(torch.cat([same[:, :1], -same[:, :1]], 1))) == pytest.approx(-2.0)


def test_fresh_networks_have_the_published_values() -> None:
    table = TransitionRows(transitions=transitions()).table(torch.device("cpu"), torch.float32)
    state = edac.create(edac.Config(critic_count=2, eta=1.0), table, [0, 1])
    assert state.log_alpha.flat.count_nonzero() == 0
    bounds = {
        "critic hidden.0.weight": 256**-0.5,  # by the outputs, where torch goes by the inputs
        "critic hidden.2.weight": 256**-0.5,
        "critic value.weight": 3e-3,
        "policy hidden.0.weight": 5**-0.5,
        "policy hidden.2.weight": 256**-0.5,
        "policy output.weight": 1e-3,
        "policy output.bias": 1e-3,
    }
    for name, parameter in [
        (f"{kind} {name}", parameter)
        for kind in ("critic", "policy")
        for name, parameter in getattr(state, kind).detached().items()
    ]:
        if "hidden" in name and name.endswith("bias"):
            assert (parameter == 0.1).all(), name
        elif name in bounds:
            greatest = float(parameter.abs().max())
            assert (0.7 if "bias" in name else 0.98) * bounds[name] < greatest <= bounds[name] * (1 + 1e-6), name


@pytest.mark.parametrize(
    ("dataset", "critic_count", "eta"),
    [
        ("halfcheetah-medium-v2", 10, 1.0),
        ("halfcheetah_medium_expert-v2", 10, 5.0),
        ("walker2d-medium-expert-v2", 10, 5.0),
        ("hopper-medium-expert-v2", 50, 1.0),
        ("maze2d-umaze-v1", 10, 0.1),
        ("recording", 10, 1.0),
    ],
)
def test_datasets_have_settings_of_their_own(dataset: str, critic_count: int, eta: float) -> None:
    data = replace(recording(), name=dataset)
    adapted = edac.adapt(edac.Config(), data, "Hopper-v4")
    assert (adapted.critic_count, adapted.eta) == (critic_count, eta)
    given = edac.adapt(edac.Config(critic_count=7, eta=0.0), data, "Hopper-v4")
    assert (given.critic_count, given.eta) == (7, 0.0), "what is given stays"


def learn(action: NDArray[Any], reward: NDArray[Any], eta: tuple[float, ...], count: int) -> tuple[Any, Any]:
    """Actions and last metrics of seeds that learn from single steps, all from one state."""
    zeros = np.zeros((len(action), 2), np.float32)
    made = replace(
        transitions(len(action)),
        observation=zeros,
        action=action.astype(np.float32),
        reward=reward.astype(np.float32),
        next_observation=zeros,
        terminal=np.ones(len(action), np.bool_),
    )
    table = TransitionRows(transitions=made).table(torch.device("cpu"), torch.float32)
    config = replace(SMALLER, eta=eta, learning_rate=1e-2, batch_size=64, hidden_sizes=(32, 32))
    state = edac.create(config, table, range(len(eta)))
    edac.step(state, count)
    chosen = edac.policy(state)(np.zeros((len(eta), 1, 2), np.float32))[:, 0]
    return chosen, state.metrics.mean_of_last(count - count // 3, count)


def test_it_prefers_what_pays_at_the_entropy_it_shall_have() -> None:
    """Actions are uniform, the reward is highest at 0.5; log π is −0.69 at first and comes to 1, of one dimension."""
    action = np.random.default_rng(0).uniform(-1.0, 1.0, (512, 1))
    chosen, metrics = learn(action, -4.0 * (action[:, 0] - 0.5) ** 2, (0.0, 0.1), 600)
    assert (abs(chosen[:, 0] - 0.5) < 0.2).all()
    assert metrics["log_probability"] == pytest.approx([1.0, 1.0], abs=0.5)


def test_diverse_critics_keep_it_near_the_data() -> None:
    """Rewards grow with both numbers of an action, but no action of the data goes beyond 0.5."""
    action = np.random.default_rng(0).uniform(-0.5, 0.5, (512, 2))
    chosen, metrics = learn(action, action.sum(1), (0.0, 1.0), 300)
    assert (chosen[0] > 0.7).all() and (chosen[1] < 0.65).all()
    alike, opposed = metrics["diversity_loss"]
    assert alike > 3.9 and opposed < -1.2, "between N and -N / (N - 1)"
    assert metrics["value_spread"][1] > 3.0 * metrics["value_spread"][0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("batch_size", 0), ("discount", 1.0), ("critic_count", 0), ("eta", -1.0), ("order", "mine"), ("polyak", 0.0)],
)
def test_settings_out_of_range_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        edac.Config(**{setting: value})


def test_open_settings_are_refused() -> None:
    table = TransitionRows(transitions=transitions()).table(torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="adapt"):
        edac.create(edac.Config(eta=1.0), table, [0])
