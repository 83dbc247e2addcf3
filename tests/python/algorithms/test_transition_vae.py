"""Transition VAE: its updates equal a plain loop, its samples have the data's correlations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from battery import Case, battery, battery_of_a_gpu
from numpy.typing import NDArray
from plain_loops import Batches, from_values, mlp
from samples import check_correlations
from torch import Tensor, nn

from trajmill.algorithms import transition_vae
from trajmill.models.mlp import export_network, part_of
from trajmill.training.draws import shaped_normals

SMALLER = replace(transition_vae.SMALL, batch_size=16, hidden_sizes=(24, 16), latent_dim=4)
CASES = {"plain": Case(method=transition_vae, config=SMALLER)}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


class PlainLoop:
    """One seed as the equations are written, with torch's own distributions."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], config: transition_vae.Config, seed: int) -> None:
        torch.manual_seed(seed)
        self.config, width = config, columns["vector"].shape[1]
        self.batches = Batches(columns, config.batch_size, seed, ["vector"])
        encoder = mlp([width, *config.hidden_sizes, 2 * config.latent_dim])
        self.start(encoder, mlp([config.latent_dim, *config.hidden_sizes, width]), torch.zeros(width))

    def start(self, encoder: nn.Module, decoder: nn.Module, log_spread: Tensor) -> None:
        """Take these networks, and a fresh optimizer."""
        self.encoder, self.decoder, self.log_spread = encoder, decoder, log_spread.clone().requires_grad_()
        parameters = [*encoder.parameters(), *decoder.parameters(), self.log_spread]
        self.optimizer = torch.optim.Adam(parameters, self.config.learning_rate)

    def run(self, count: int) -> None:
        """Make `count` updates on random batches."""
        for _ in range(count):
            (x,) = self.batches.draw()
            self.update(x, torch.randn(len(x), self.config.latent_dim))

    def update(self, x: Tensor, noise: Tensor) -> float:
        """One update on a batch and standard normal noise."""
        mean, log_variance = self.encoder(x).chunk(2, -1)
        code = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        made = torch.distributions.Normal(self.decoder(mean + code.scale * noise), self.log_spread.exp())
        divergence = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0)).sum(-1)
        constant = 0.5 * np.log(2.0 * np.pi)  # ours leaves it out
        loss = (divergence - (made.log_prob(x) + constant).sum(-1)).mean() / x.shape[-1]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def plain_loop(columns: Mapping[str, NDArray[Any]], config: transition_vae.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


def parts(state: transition_vae.State, k: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """Encoder, decoder and ln σ of a seed."""
    stack = state.model.detached()
    networks = [from_values(export_network(part_of(stack, name), k), "output") for name in ("encoder", "decoder")]
    return networks[0], networks[1], stack["log_spread"][k]


def test_updates_equal_the_plain_loop() -> None:
    """Every parameter in float64, after 12 updates."""
    state = CASES["plain"].create([3, 2**40], torch.float64)
    loops = [PlainLoop(CASES["plain"].rows.columns, SMALLER, k) for k in range(2)]
    for k, loop in enumerate(loops):
        loop.start(*parts(state, k))
    for number in range(12):
        words = state.draws.words(state.step, 1)
        x = state.table.draw(words["batch"])[0].vector
        noise = shaped_normals(words["noise"], (16, 4), torch.float64)[0]
        transition_vae.step(state)
        for k, loop in enumerate(loops):
            logged = state.metrics.mean_of_last(number, number + 1)
            assert loop.update(x[k], noise[k]) == pytest.approx(logged["error"][k] + logged["kl"][k], rel=1e-5)
    for k, loop in enumerate(loops):
        encoder, decoder, log_spread = parts(state, k)
        assert (log_spread - loop.log_spread).abs().max() < 1e-9
        for ours, theirs in ((encoder, loop.encoder), (decoder, loop.decoder)):
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert (one - other).abs().max() < 1e-9


def test_samples_have_the_datas_correlations() -> None:
    check_correlations(transition_vae, replace(SMALLER, batch_size=128, latent_dim=12, hidden_sizes=(128,)))
