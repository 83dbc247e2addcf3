"""Transition GAN: its updates equal a plain loop, its samples have the data's correlations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from battery import Case, battery, battery_of_a_gpu
from numpy.typing import NDArray
from plain_loops import Batches, from_values, mlp
from samples import check_correlations
from torch import Tensor, nn

from trajmill.algorithms import transition_gan
from trajmill.models.mlp import export_network
from trajmill.training.draws import shaped_normals, uniforms

SMALLER = replace(transition_gan.SMALL, batch_size=16, hidden_sizes=(24, 16), latent_dim=4)
CASES = {
    "plain": Case(method=transition_gan, config=SMALLER),
    "every second": Case(method=transition_gan, config=replace(SMALLER, generator_delay=2)),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


class PlainLoop:
    """One seed of Algorithm 1, with a batch of the critic's at each update of the generator."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], config: transition_gan.Config, seed: int) -> None:
        torch.manual_seed(seed)
        self.config, self.made, width = config, 0, columns["vector"].shape[1]
        self.batches = Batches(columns, config.batch_size, seed, ["vector"])
        critic = mlp([width, *config.hidden_sizes, 1])
        self.start(critic, mlp([config.latent_dim, *config.hidden_sizes, width]))

    def start(self, critic: nn.Module, generator: nn.Module) -> None:
        """Take these networks, and fresh optimizers."""
        self.critic, self.generator = critic, generator
        self.critic_optimizer, self.generator_optimizer = (
            torch.optim.Adam(network.parameters(), self.config.learning_rate, betas=(0.0, 0.9))
            for network in (critic, generator)
        )

    def run(self, count: int) -> None:
        """Make `count` updates on random batches."""
        for _ in range(count):
            (x,) = self.batches.draw()
            self.update(x, torch.randn(len(x), self.config.latent_dim), torch.rand(len(x), 1))

    def update(self, x: Tensor, z: Tensor, u: Tensor) -> dict[str, float]:
        """One update on a batch, standard normal z and uniform u."""
        self.made += 1
        false = self.generator(z).detach()
        between = (u * x + (1 - u) * false).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(2, dim=1) - 1).square().mean()
        distance = self.critic(x).mean() - self.critic(false).mean()
        self.critic_optimizer.zero_grad()
        (self.config.penalty_weight * penalty - distance).backward()
        self.critic_optimizer.step()
        if self.made % self.config.generator_delay == 0:
            self.generator_optimizer.zero_grad()
            (-self.critic(self.generator(z)).mean()).backward()
            self.generator_optimizer.step()
        return {"distance": distance.item(), "penalty": penalty.item()}


def plain_loop(columns: Mapping[str, NDArray[Any]], config: transition_gan.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


def parts(state: transition_gan.State, k: int) -> tuple[nn.Module, nn.Module]:
    """Critic and generator of a seed."""
    critic = from_values(export_network(state.critic.parameters, k), "value")
    return critic, from_values(export_network(state.generator.parameters, k), "output")


@pytest.mark.parametrize("name", CASES)
def test_updates_equal_the_plain_loop(name: str) -> None:
    """Every parameter in float64, after 11 updates."""
    state = CASES[name].create([3, 2**40], torch.float64)
    loops = [PlainLoop(CASES[name].rows.columns, state.config, k) for k in range(2)]
    for k, loop in enumerate(loops):
        loop.start(*parts(state, k))
    for number in range(11):
        words = state.draws.words(state.step, 1)
        x = state.table.draw(words["batch"])[0].vector
        z = shaped_normals(words["latent"], (16, 4), torch.float64)[0]
        u = uniforms(words["place"], torch.float64)[0]
        transition_gan.step(state, 1, number % state.period)
        for k, loop in enumerate(loops):
            ours = {name: values[k] for name, values in state.metrics.mean_of_last(number, number + 1).items()}
            assert loop.update(x[k], z[k], u[k][:, None]) == pytest.approx(ours, rel=1e-5)
    for k, loop in enumerate(loops):
        for ours, theirs in zip(parts(state, k), (loop.critic, loop.generator), strict=True):
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert (one - other).abs().max() < 1e-9


@pytest.mark.slow
def test_samples_have_the_datas_correlations() -> None:
    check_correlations(transition_gan, replace(SMALLER, batch_size=128, learning_rate=1e-3, hidden_sizes=(32, 32)))
