"""The baselines of diffusion: each equals plain equations, and learns a distribution that is known."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from battery import Case, battery, battery_of_a_gpu, checkpoint_of
from plain_loops import from_values
from small_data import transitions
from torch import Tensor, nn

from trajmill.algorithms import transition_gan, transition_vae
from trajmill.models.mlp import export_network, part_of
from trajmill.replay.vectors import VectorCode, VectorRows
from trajmill.training.draws import shaped_normals, uniforms

CPU = torch.device("cpu")
VAE = replace(transition_vae.SMALL, batch_size=16, hidden_sizes=(24, 16), latent_dim=4)
GAN = replace(transition_gan.SMALL, batch_size=16, hidden_sizes=(24, 16), latent_dim=4)
CASES = {
    "vae": Case(method=transition_vae, config=VAE),
    "gan": Case(method=transition_gan, config=GAN),
    "gan, every second": Case(method=transition_gan, config=replace(GAN, generator_delay=2)),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


def rows() -> VectorRows:
    data = transitions(100)
    return VectorRows(transitions=data, code=VectorCode.fit(data))


def plain_vae_loss(encoder: nn.Module, decoder: nn.Module, log_spread: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    mean, log_variance = encoder(x).chunk(2, -1)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    likelihood = torch.distributions.Normal(decoder(mean + normal.scale * noise), log_spread.exp()).log_prob(x)
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    constant = 0.5 * np.log(2.0 * np.pi)  # ours leaves it out
    return (divergence - (likelihood + constant).sum(-1)).mean() / x.shape[-1]


def test_updates_of_the_vae_equal_plain_ones() -> None:
    table = rows().table(CPU, torch.float64)
    state = transition_vae.create(VAE, table, [3, 2**40])
    models = []
    for k in range(2):
        values = {name: value[k] for name, value in state.model.detached().items()}
        networks = [
            from_values(export_network(part_of(state.model.parameters, name), k), "output")
            for name in ("encoder", "decoder")
        ]
        spread = values["log_spread"].clone().requires_grad_()
        parameters = [*networks[0].parameters(), *networks[1].parameters(), spread]
        models.append((networks, spread, torch.optim.Adam(parameters, VAE.learning_rate)))
    for _ in range(12):
        words = state.draws.words(state.step, 1)
        x = table.draw(words["batch"])[0].vector
        noise = shaped_normals(words["noise"], (16, 4), torch.float64)[0]
        transition_vae.step(state)
        for k, (networks, spread, optimizer) in enumerate(models):
            optimizer.zero_grad()
            plain_vae_loss(*networks, spread, x[k], noise[k]).backward()
            optimizer.step()
    for k, (networks, spread, _) in enumerate(models):
        assert (state.model.detached()["log_spread"][k] - spread).abs().max() < 1e-9
        for name, network in zip(("encoder", "decoder"), networks, strict=True):
            theirs = from_values(export_network(part_of(state.model.parameters, name), k), "output").state_dict()
            assert max((theirs[key] - value).abs().max() for key, value in network.state_dict().items()) < 1e-9


def test_updates_of_the_gan_equal_plain_ones() -> None:
    table = rows().table(CPU, torch.float64)
    state = transition_gan.create(GAN, table, [3, 2**40])
    models = []
    for k in range(2):
        critic = from_values(export_network(state.critic.parameters, k), "value")
        generator = from_values(export_network(state.generator.parameters, k), "output")
        optimizers = [torch.optim.Adam(each.parameters(), 1e-4, betas=(0.0, 0.9)) for each in (critic, generator)]
        models.append((critic, generator, optimizers))
    for number in range(11):
        words = state.draws.words(state.step, 1)
        x = table.draw(words["batch"])[0].vector
        z = shaped_normals(words["latent"], (16, 4), torch.float64)[0]
        u = uniforms(words["place"], torch.float64)[0]
        transition_gan.step(state, 1, number % 5)
        for k, (critic, generator, (critic_optimizer, generator_optimizer)) in enumerate(models):
            false = generator(z[k]).detach()
            between = (u[k][:, None] * x[k] + (1 - u[k][:, None]) * false).requires_grad_()
            slope = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
            penalty = (slope.norm(2, dim=1) - 1).square().mean()
            critic_optimizer.zero_grad()
            (critic(false).mean() - critic(x[k]).mean() + 10.0 * penalty).backward()
            critic_optimizer.step()
            if number % 5 == 4:
                generator_optimizer.zero_grad()
                (-critic(generator(z[k])).mean()).backward()
                generator_optimizer.step()
    for k, (critic, generator, _) in enumerate(models):
        for stack, head, network in ((state.critic, "value", critic), (state.generator, "output", generator)):
            ours = from_values(export_network(stack.parameters, k), head).state_dict()
            assert max((ours[key] - value).abs().max() for key, value in network.state_dict().items()) < 1e-9


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (transition_vae, replace(VAE, batch_size=128, latent_dim=12, hidden_sizes=(128,))),
        pytest.param(
            transition_gan,
            replace(GAN, batch_size=128, learning_rate=1e-3, hidden_sizes=(32, 32)),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_samples_have_the_datas_correlations(method: ModuleType, config: Any) -> None:
    """The next observation is the observation and a little noise; the reward is the first number of the action."""
    random = np.random.default_rng(0)
    data = transitions(3000)
    data = replace(
        data,
        next_observation=data.observation + random.normal(0.0, 0.2, data.observation.shape).astype(np.float32),
        reward=data.action[:, 0].copy(),
    )
    made_of = VectorRows(transitions=data, code=VectorCode.fit(data))
    state = method.create(config, made_of.table(CPU, torch.float32), [1])
    method.step(state, 1500)
    maker = method.synthesize(*checkpoint_of(method, state, [1]), device=CPU, block_size=2048)
    made = maker.block(0, 0)
    assert maker.block(0, 1).reward[0] != made.reward[0] and np.array_equal(maker.block(0, 0).reward, made.reward)
    for k in range(5):
        assert np.corrcoef(made.observation[:, k], made.next_observation[:, k])[0, 1] > 0.7
    assert np.corrcoef(made.action[:, 0], made.reward)[0, 1] > 0.7
    assert abs(np.corrcoef(made.observation[:, 0], made.observation[:, 1])[0, 1]) < 0.25
    assert made.terminal.mean() < 0.4
