"""World model: the battery, a plain loop written from the equations, its held-out rows, and what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from battery import Case, assert_same, battery, battery_of_a_gpu, checkpoint_of
from numpy.typing import NDArray
from plain_loops import Batches, from_values, mlp
from small_data import recording
from torch import Tensor, nn

from trajmill.algorithms import world_model
from trajmill.data import load_dataset
from trajmill.models.mlp import export_network
from trajmill.models.vae import divergence_from_normal, sampled
from trajmill.training.draws import shaped_normals

PARTS = ("encoder", "transition", "decoder")


class PlainLoop:
    """The same model as modules of one seed; independent of ours."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], config: world_model.Config, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        o, a, size = columns["observation"].shape[1], columns["action"].shape[1], config.latent_dim
        self.batches = Batches(columns, config.batch_size, seed)
        ends = {"encoder": (o, 2 * size), "transition": (size + a, size), "decoder": (size, o)}
        self.start({name: mlp([first, *config.hidden_sizes, last]) for name, (first, last) in ends.items()})

    def start(self, networks: Mapping[str, nn.Sequential]) -> None:
        """Take these networks, and a fresh optimizer."""
        self.networks = nn.ModuleDict(networks)
        parameters = [parameter for network in networks.values() for parameter in network.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=self.config.learning_rate)

    def run(self, count: int) -> None:
        """Make `count` updates on random batches."""
        for _ in range(count):
            batch = self.batches.draw()
            self.update(batch, torch.randn(self.config.batch_size, self.config.latent_dim))

    def update(self, batch: list[Tensor], noise: Tensor) -> dict[str, float]:
        """One update on a batch and standard normal noise."""
        s, a, _, _, s2 = batch
        encoder, transition, decoder = (self.networks[name] for name in PARTS)
        mu, log_variance = encoder(s).split(self.config.latent_dim, 1)
        z = mu + torch.sqrt(torch.exp(log_variance)) * noise
        prediction = F.mse_loss(decoder(z + transition(torch.cat([z, a], 1))), s2)
        reconstruction = F.mse_loss(decoder(z), s)
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mu, torch.exp(log_variance / 2)), normal(0.0, 1.0))
        kl = kl.sum(1).mean()
        self.optimizer.zero_grad()
        (prediction + reconstruction + self.config.kl_weight * kl).backward()
        self.optimizer.step()
        return {"prediction_loss": prediction.item(), "reconstruction_loss": reconstruction.item(), "kl": kl.item()}


def plain_loop(columns: Mapping[str, NDArray[Any]], config: world_model.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


SMALLER = replace(world_model.SMALL, batch_size=16, latent_dim=5, hidden_sizes=(24, 16))
CASES = {
    "plain": Case(method=world_model, config=SMALLER),
    "own settings": Case(
        method=world_model,
        config=lambda seeds: replace(
            SMALLER,
            kl_weight=tuple(1e-3 * (1 + seed % 5) for seed in seeds),
            learning_rate=tuple(1e-4 * (1 + seed % 3) for seed in seeds),
        ),
    ),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


def created(config: world_model.Config = SMALLER, dtype: torch.dtype = torch.float32) -> world_model.State:
    """A state of two seeds on a small recording."""
    return Case(method=world_model, config=config).create([3, 2**40 + 1], dtype)


def test_updates_equal_the_plain_loop() -> None:
    """Every parameter in float64, after each of 20 updates."""
    state = created(replace(SMALLER, kl_weight=0.02, hidden_sizes=(24, 16, 8)), torch.float64)
    columns = CASES["plain"].rows.columns
    loops = [PlainLoop(columns, state.config, k) for k in range(2)]
    for k, loop in enumerate(loops):
        loop.start({name: from_values(network(state, name, k), "output") for name in PARTS})
    for number in range(20):
        words = state.draws.words(state.step, 1)
        batch = state.table.draw(words["batch"])[0]
        noise = shaped_normals(words["noise"], (16, 5), torch.float64)[0]
        world_model.update(state, batch, noise)
        for k, loop in enumerate(loops):
            rows = [getattr(batch, name)[k] for name in ("observation", "action", "reward", "terminal")]
            logged = loop.update([*rows, batch.next_observation[k]], noise[k])
            ours = state.metrics.mean_of_last(number, number + 1)
            assert {name: values[k] for name, values in ours.items()} == pytest.approx(logged, rel=1e-5)
            for name in PARTS:
                linear = [layer for layer in loop.networks[name] if isinstance(layer, nn.Linear)]
                values = network(state, name, k)
                for layer, part in zip(linear, ["hidden.0", "hidden.1", "hidden.2", "output"], strict=True):
                    assert (values[f"{part}.weight"] - layer.weight.detach()).abs().max() < 1e-9
                    assert (values[f"{part}.bias"] - layer.bias.detach()).abs().max() < 1e-9


def network(state: world_model.State, part: str, row: int) -> dict[str, Tensor]:
    """One of the three networks of a seed, by the names of a network of its own."""
    values = export_network(state.model.parameters, row)
    return {key.removeprefix(f"{part}."): value for key, value in values.items() if key.startswith(f"{part}.")}


def test_divergence_of_known_gaussians() -> None:
    """Closed form and torch's own; N(0, 1) has none, N(1, 1) has a half, N(0, 4) has (4 − 1 − ln 4) / 2."""
    mean = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    log_variance = torch.tensor([[1.0, 1.0], [1.0, 1.0], [4.0, 1.0]], dtype=torch.float64).log()
    found = divergence_from_normal(mean, log_variance)
    assert found.tolist() == pytest.approx([0.0, 0.5, (3.0 - np.log(4.0)) / 2.0])


def test_sampled_codes_have_their_mean_and_variance() -> None:
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = sampled(torch.full_like(noise, 2.0), torch.full_like(noise, 9.0).log(), noise)
    assert float(codes.mean()) == pytest.approx(2.0, abs=5 * 3 / 200_000**0.5)
    assert float(codes.std()) == pytest.approx(3.0, abs=0.03)


# --- held-out rows ---


def test_no_update_sees_a_held_out_row() -> None:
    """With other numbers in the held-out rows, the same parameters come out, also where rows are on the host."""
    dataset = recording(range(1, 28))
    rows = world_model.prepare(SMALLER, dataset)
    mask = rows.held_out
    assert mask is not None and mask.sum() == round(0.1 * len(mask)) and len(rows) == (~mask).sum()
    columns = dataset.to_write()
    poisoned = {name: np.where(mask[:, None], 1e6, columns[name]).astype(np.float32) for name in ("observations",)}
    poisoned |= {
        name: np.where(mask[:, None], -1e6, columns[name]).astype(np.float32) for name in ("next_observations",)
    }
    other = world_model.prepare(SMALLER, replace(dataset, **poisoned))
    for place in ("device", "host"):
        states = [
            Case(method=world_model, config=SMALLER, rows=each).create([1, 2], place=place) for each in (rows, other)
        ]
        for state in states:
            Case(method=world_model, config=SMALLER).run(state, 30)
        assert_same(states[0].moving(), states[1].moving())
        errors = [world_model.measure(state)["holdout_error"][0] for state in states]
        assert errors[1] > 1e3 * errors[0], "the held-out rows are those that are measured"


def test_the_draw_of_the_held_out_rows_has_a_seed() -> None:
    dataset = recording(range(1, 28))
    masks = [world_model.prepare(replace(SMALLER, holdout_seed=seed), dataset).held_out for seed in (0, 0, 1)]
    assert np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[0], masks[2])
    few = world_model.prepare(replace(SMALLER, holdout=0.999), recording([2]))
    assert few.held_out is not None and few.held_out.sum() == 1
    with pytest.raises(ValueError, match="at least two steps"):
        world_model.prepare(SMALLER, recording([1]))


def test_every_terminal_is_kept_if_what_followed_it_is_known() -> None:
    dataset = recording()
    assert world_model.prepare(SMALLER, dataset).transitions.terminal.sum() == dataset.terminals.sum() > 0
    known = world_model.prepare(SMALLER, replace(dataset, next_observations=None)).transitions
    assert not known.terminal.any() and len(known) == len(dataset) - dataset.episode_ends.sum()
    inside = np.flatnonzero(~dataset.episode_ends)
    assert np.array_equal(known.next_observation, dataset.observations[inside + 1])


def test_the_best_parameters_so_far_are_kept_and_predict() -> None:
    """Spoilt parameters change neither what is kept nor what is predicted; each seed keeps its own."""
    state = created()
    world_model.step(state, 30)
    first = world_model.measure(state)
    assert torch.equal(state.best, state.model.flat)
    assert state.best_error.tolist() == first["holdout_error"]
    kept = state.best.clone()
    with torch.no_grad():
        state.model.flat[0].mul_(3.0)
        state.model.flat[1].fill_(torch.nan)
    worse = world_model.measure(state)
    assert worse["holdout_error"][0] > first["holdout_error"][0] and np.isnan(worse["holdout_error"][1])
    assert torch.equal(state.best, kept) and state.best_error.tolist() == first["holdout_error"]
    tensors, known = checkpoint_of(world_model, state, [3, 2**40 + 1])
    rows = CASES["plain"].rows
    taken = rows.transitions.observation[rows.held_out], rows.transitions.action[rows.held_out]
    predicted = rows.normalizer.normalize(world_model.predict(tensors, known)(*taken))
    wanted = rows.normalizer.normalize(rows.transitions.next_observation[rows.held_out])
    assert np.square(predicted - wanted).mean() == pytest.approx(first["holdout_error"][0], rel=1e-5)


def test_identity_error_is_that_of_predicting_no_change() -> None:
    state, rows = created(), CASES["plain"].rows
    change = (rows.transitions.next_observation - rows.transitions.observation)[rows.held_out] / rows.normalizer.scale
    assert world_model.measure(state)["identity_error"] == pytest.approx([np.square(change).mean()] * 2, rel=1e-5)


# --- predictions ---


def test_predictions_do_not_depend_on_blocks_and_draws_have_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    state, rows = created(), CASES["plain"].rows.transitions
    world_model.step(state, 5)
    world_model.measure(state)
    checkpoint = checkpoint_of(world_model, state, [3, 2**40 + 1])
    taken = rows.observation, rows.action

    def found(seed: int | None, draw: int = 0) -> NDArray[np.float32]:
        return world_model.predict(*checkpoint, seed=seed)(*taken, draw)

    expected, drawn = found(None), found(7)
    assert expected.dtype == np.float32 and expected.shape == rows.observation.shape
    assert np.array_equal(found(None, 1), expected)
    assert np.array_equal(found(7), drawn) and not np.array_equal(drawn, expected)
    assert not np.array_equal(found(7, 1), drawn) and not np.array_equal(found(8), drawn)
    monkeypatch.setattr(world_model, "BLOCK", 100)
    np.testing.assert_allclose(found(None), expected, atol=1e-5)
    np.testing.assert_allclose(found(7), drawn, atol=1e-5)


def test_it_learns_a_linear_system() -> None:
    """s' = s + 0.5·(a − s): the error falls to a small share of the identity's."""
    dataset, random = recording([400], observation_dim=2, action_dim=2), np.random.default_rng(0)
    s = random.normal(size=(400, 2)).astype(np.float32)
    a = random.uniform(-1, 1, (400, 2)).astype(np.float32)
    dataset = replace(dataset, observations=s, actions=a, next_observations=(s + 0.5 * (a - s)).astype(np.float32))
    config = replace(SMALLER, learning_rate=3e-3, batch_size=64, kl_weight=1e-4, hidden_sizes=(32, 32))
    case = Case(method=world_model, config=config, rows=world_model.prepare(config, dataset))
    state = case.create([0])
    world_model.step(state, 600)
    measured = world_model.measure(state)
    assert measured["holdout_error"][0] < 0.1 * measured["identity_error"][0]


@pytest.mark.slow
def test_it_beats_the_identity_on_hopper() -> None:
    """On rows that it has not seen, after a short training."""
    config = world_model.Config()
    case = Case(
        method=world_model, config=config, rows=world_model.prepare(config, load_dataset("hopper-sac-replay-10k"))
    )
    state = case.create([0])
    world_model.step(state, 1500)
    measured = world_model.measure(state)
    assert measured["holdout_error"][0] < 0.5 * measured["identity_error"][0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 0),
        ("latent_dim", 0),
        ("kl_weight", -1.0),
        ("holdout", 0.0),
        ("holdout", 1.0),
        ("holdout_seed", -1),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        world_model.Config(**{setting: value})
