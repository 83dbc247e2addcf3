"""Diffusion: golden values, a plain twin, the battery; and that its sampler draws what theory says it draws."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from battery import Case, battery, battery_of_a_gpu, checkpoint_of
from capture_lint import OperationRecorder
from numpy.typing import NDArray
from plain_loops import Batches
from small_data import recording, transitions
from torch import Tensor, nn

from trajmill.algorithms import diffusion
from trajmill.data import Transitions
from trajmill.models import edm
from trajmill.models.denoiser import denoisers, trainable_count
from trajmill.models.mlp import export_network
from trajmill.replay.vectors import VectorCode, VectorRows
from trajmill.training.draws import Draws, indexes, shaped_normals, uniforms

CPU = torch.device("cpu")


class PlainDenoiser(nn.Module):
    """SynthER's residual MLP of nn.Linear modules, independent of ours."""

    def __init__(self, dimension: int, condition_dim: int, width: int, depth: int, embedding_dim: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(8), requires_grad=False)
        self.noise = nn.Sequential(nn.Linear(17, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim))
        self.input = nn.Linear(dimension + condition_dim, embedding_dim)
        self.projection = nn.Linear(embedding_dim, width)
        self.block = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.output = nn.Linear(width, dimension)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        angle = level[:, None] * self.frequencies[None] * 2 * math.pi
        time = self.noise(torch.cat([level[:, None], torch.sin(angle), torch.cos(angle)], 1))
        h = self.projection(self.input(x) + time)
        for layer in self.block:
            h = h + layer(torch.relu(h))
        return self.output(torch.relu(h))


class PlainLoop:
    """Diffusion in the manner of the released code: one seed, torch's AdamW, clip_grad_norm_ and scheduler."""

    def __init__(self, columns: dict[str, NDArray[Any]], config: diffusion.Config, seed: int) -> None:
        torch.manual_seed(seed)
        self.config, self.relevant = config, "relevance" in columns
        dimension = columns["vector"].shape[1]
        self.batches = Batches(columns, config.batch_size or 256, seed, ("vector",))
        self.network = PlainDenoiser(dimension, 2 * self.relevant, config.width, config.depth, config.embedding_dim)
        self.start()

    def start(self) -> None:
        """Fresh optimizer and average."""
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, self.config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.config.decay_updates)
        self.average = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.calls, self.started = 0, False

    def run(self, count: int) -> None:
        """Make `count` updates on random batches."""
        for _ in range(count):
            x = self.batches.draw()[0]
            self.update(x, (torch.randn(len(x)) * 1.2 - 1.2).exp(), torch.randn_like(x))

    def update(self, x: Tensor, sigma: Tensor, noise: Tensor, condition: Tensor | None = None) -> float:
        """One update on a batch."""
        s = sigma[:, None]
        noisy = x + s * noise
        inputs = noisy / (s**2 + 1).sqrt()
        if condition is not None:
            inputs = torch.cat([inputs, condition], 1)
        clean = noisy / (s**2 + 1) + s / (s**2 + 1).sqrt() * self.network(inputs, sigma.log() / 4)
        weight = (sigma**2 + 1) / sigma**2
        loss = (weight * (clean - x).square().mean(1)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.follow()
        return loss.item()

    def follow(self) -> None:
        """The average as ema-pytorch 0.1.2 makes it, with its counter and first use."""
        number, self.calls = self.calls, self.calls + 1
        if number % 10:
            return
        values = self.network.state_dict()
        if number <= 100 or not self.started:
            self.started = number > 100
            self.average = {name: value.clone() for name, value in values.items()}
            return
        epoch = self.calls - 100 - 1
        decay = min(max(1.0 - (1.0 + epoch) ** (-2.0 / 3.0), 0.0), self.config.average_decay)
        for name, value in values.items():
            self.average[name] = decay * self.average[name] + (1.0 - decay) * value


def plain_loop(columns: dict[str, NDArray[Any]], config: diffusion.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


SMALLER = replace(diffusion.SMALL, batch_size=16, width=24, embedding_dim=16)
CONDITIONED = replace(SMALLER, condition="return")


def conditioned_rows() -> VectorRows:
    data = transitions(60)
    return VectorRows(
        transitions=data, code=VectorCode.fit(data), relevance=np.linspace(-1.0, 1.0, 60, dtype=np.float32)
    )


CASES = {
    "standard": Case(method=diffusion, config=SMALLER),
    "minmax": Case(method=diffusion, config=replace(SMALLER, scaling="minmax", unbounded_actions=True)),
    "conditioned": Case(method=diffusion, config=CONDITIONED, rows=conditioned_rows()),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


# --- the network and an update ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimension", "width", "embedding_dim", "expected"),
    [  # methods.md §5.3 and methods-bc.md §8.4
        (27, 2048, 128, 25_520_027),
        (42, 2048, 128, 25_552_682),
        (232, 2048, 128, 25_966_312),
        (27, 1024, 128, 6_479_771),
        (42, 1024, 128, 6_497_066),
        (232, 1024, 128, 6_716_136),
        (42, 1024, 256, 6_685_226),
        (41, 1024, 256, 6_683_945),
        (169, 1024, 256, 6_847_913),
        (15, 1024, 256, 6_650_639),
    ],
)
def test_the_network_has_the_papers_size(dimension: int, width: int, embedding_dim: int, expected: int) -> None:
    stack = denoisers(dimension, [0], width=width, depth=6, embedding_dim=embedding_dim)
    assert trainable_count(stack) == expected


def into_modules(network: PlainDenoiser, values: dict[str, Tensor]) -> None:
    names = {"noise.1": "noise.2"} | {f"block.{i}": f"block.{i}" for i in range(len(network.block))}
    found = {"frequencies": values["frequencies"].flatten()}
    for name, value in values.items():
        layer, _, kind = name.rpartition(".")
        if kind in ("weight", "bias"):
            found[f"{names.get(layer, layer)}.{kind}"] = value
    network.double().load_state_dict(found)


@pytest.mark.parametrize("name", ["standard", "conditioned"])
def test_updates_equal_the_plain_loop(name: str) -> None:
    """Across the copies of the average, its first use, and its first averages."""
    rows = CASES[name].rows
    config = replace(CASES[name].settings([0]), batch_size=8, decay_updates=150, clip_norm=0.5)
    table = rows.table(CPU, torch.float64)
    state = diffusion.create(config, table, [3, 2**40 + 1])
    loops = []
    for k in range(2):
        loop = PlainLoop(rows.columns, config, k)
        into_modules(loop.network, export_network(state.denoiser.parameters, k))
        loop.start()
        loops.append(loop)
    for number in range(135):
        words = state.draws.words(state.step, 1)
        batch = table.draw(words["batch"])[0]
        sigma = (shaped_normals(words["level"], (8, 1), torch.float64)[0] * 1.2 - 1.2).exp()
        noise = shaped_normals(words["noise"], (8, batch.vector.shape[-1]), torch.float64)[0]
        condition = None
        if batch.relevance is not None:
            shown = (uniforms(words["condition"], torch.float64)[0] >= config.condition_dropout).double()
            condition = torch.stack([batch.relevance * shown, shown], -1)
        diffusion.step(state, 1, number % state.period)
        for k, loop in enumerate(loops):
            seen = None if condition is None else condition[k]
            logged = loop.update(batch.vector[k], sigma[k, :, 0], noise[k], seen)
            assert state.metrics.mean_of_last(number, number + 1)["loss"][k] == pytest.approx(logged, rel=1e-5)
    for k, loop in enumerate(loops):
        other = PlainLoop(rows.columns, config, k)
        for stack, theirs in ((state.denoiser, loop.network.state_dict()), (state.average, loop.average)):
            into_modules(other.network, export_network(stack.parameters, k))
            for parameter, value in other.network.state_dict().items():
                assert (value - theirs[parameter]).abs().max() < 1e-9, parameter


def test_the_average_has_the_pinned_versions_decays() -> None:
    """methods-bc.md §8.4: decays at counter c, and a toy whose weight is its counter."""
    config = diffusion.Config()
    expected = {101: 0.0, 111: 0.0, 121: 0.868623, 131: 0.898665, 201: 0.953891, 1001: 0.989280, 2921: 0.994991}
    for counter, decay in expected.items():
        assert float(diffusion.average_decay(config, torch.tensor(counter - 1))) == pytest.approx(decay, abs=5e-7)
    assert float(diffusion.average_decay(config, torch.tensor(2930))) == 0.995
    average = 0.0
    for update in range(0, 3000, 10):
        average += (update + 1 - average) * (1.0 - float(diffusion.average_decay(config, torch.tensor(update))))
    assert average == pytest.approx(1698.728, abs=5e-4)


def test_predicting_nothing_of_unit_normals_costs_one() -> None:
    """methods.md §5.4; a weight or a scale that is off shows."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x, noise, sigma = draw(1, 200_000, 4), draw(1, 200_000, 4), (draw(1, 200_000, 1) * 1.2 - 1.2).exp()
    clean = edm.denoised(lambda inputs, level: torch.zeros_like(inputs), x + sigma * noise, sigma)
    losses = (edm.loss_weight(sigma) * (clean - x).square()).mean(-1).flatten()
    assert abs(float(losses.mean()) - 1.0) < 4.0 * float(losses.std()) / math.sqrt(len(losses))


# --- golden values of EDM (methods.md §8.4) ---------------------------------------------------------------------------


def test_noise_levels() -> None:
    levels = edm.noise_levels(128)
    assert len(levels) == 129 and levels[-1] == 0.0
    golden = {0: 80, 1: 76.62365808, 2: 73.37019952, 3: 70.23587450, 63: 2.60519018, 64: 2.42792433}
    golden |= {125: 0.00292505, 126: 0.00242495, 127: 0.002}
    for index, value in golden.items():
        assert levels[index] == pytest.approx(value, rel=2e-6), index
    assert sum(levels) == pytest.approx(1668.63199, rel=1e-6)
    assert sum(edm.noise_levels(18)) == pytest.approx(260.10686, rel=1e-6)
    churned = [i for i, level in enumerate(levels[:-1]) if edm.Churn().gamma(level, 128) > 0.0]
    assert churned == list(range(11, 107))
    raised = levels[11] * (1.0 + edm.Churn().gamma(levels[11], 128))
    assert raised == pytest.approx(69.33849179, rel=2e-6)
    short = edm.noise_levels(32)
    assert short[1:4] == pytest.approx([66.93087378, 55.73621046, 46.18639153], rel=2e-6)
    assert [i for i, level in enumerate(short[:-1]) if edm.Churn().gamma(level, 32) > 0.0] == list(range(3, 26))


def test_scalings() -> None:
    sigma = torch.tensor([0.5, 1.0, 2.0, 80.0], dtype=torch.float64)
    skip, out, scale, level = edm.scalings(sigma)
    assert skip.tolist() == pytest.approx([0.8, 0.5, 0.2, 0.00015623], rel=1e-4)
    assert out.tolist() == pytest.approx([0.44721360, 0.70710678, 0.89442719, 0.99992188], rel=1e-7)
    assert scale.tolist() == pytest.approx([0.89442719, 0.70710678, 0.44721360, 0.01249902], rel=1e-6)
    assert level.tolist() == pytest.approx([-0.17328680, 0.0, 0.17328680, 1.09550666], rel=1e-7)
    assert edm.loss_weight(sigma).tolist() == pytest.approx([5.0, 2.0, 1.25, 1.000156], rel=1e-6)
    assert float(edm.loss_weight(torch.tensor(0.002, dtype=torch.float64))) == pytest.approx(250_001)


@pytest.mark.parametrize("steps", [2, 5, 32, 128])
@pytest.mark.parametrize("highest", [1e-3, 0.002, 0.05, 1.0, 40.0, 79.0])
def test_a_lower_start_is_exactly_there(steps: int, highest: float) -> None:
    """Not at the next level below, which is far away if there are few, or which there is none of."""
    levels, whole = edm.noise_levels(steps, highest), edm.noise_levels(steps)
    assert levels[0] == pytest.approx(highest, rel=1e-6) and levels[-1] == 0.0
    assert all(one > other for one, other in pairwise(levels))
    assert len(levels) == 2 + sum(level < highest for level in whole[:-1])
    ladder = np.array(levels[:-1]) ** (1.0 / 7.0)
    assert np.diff(ladder, 2) == pytest.approx(0.0, abs=1e-6)
    if highest > 0.002:
        assert levels[-2] == pytest.approx(0.002, rel=1e-6)


# --- samplers ---------------------------------------------------------------------------------------------------------

EXACT = [  # steps, churn, mean and deviation of the data, those of the samples (methods-bc.md §5.4)
    (128, 80.0, 0.0, 1.0, 0.0, 1.011476),
    (128, 80.0, 1.0, 0.5, 1.000000, 0.506316),
    (128, 80.0, 0.0, 0.1, 0.0, 0.102071),
    (32, 80.0, 0.0, 1.0, 0.0, 1.047324),
    (32, 80.0, 1.0, 0.5, 0.999987, 0.527126),
    (32, 80.0, 0.0, 0.1, 0.0, 0.108523),
    (16, 80.0, 0.0, 1.0, 0.0, 1.133350),
    (16, 80.0, 1.0, 0.5, 0.999588, 0.578467),
    (16, 80.0, 0.0, 0.1, 0.0, 0.124640),
    (128, 0.0, 0.0, 1.0, 0.0, 1.000647),
    (128, 0.0, 1.0, 0.5, 0.993745, 0.500430),
    (128, 0.0, 0.0, 0.1, 0.0, 0.100121),
    (32, 0.0, 0.0, 1.0, 0.0, 1.012716),
    (32, 0.0, 1.0, 0.5, 0.993652, 0.507838),
    (32, 0.0, 0.0, 0.1, 0.0, 0.102512),
    (16, 0.0, 0.0, 1.0, 0.0, 1.058349),
    (16, 0.0, 1.0, 0.5, 0.993299, 0.536078),
    (16, 0.0, 0.0, 0.1, 0.0, 0.111837),
    (8, 0.0, 0.0, 1.0, 0.0, 1.299565),
    (8, 0.0, 1.0, 0.5, 0.991288, 0.696994),
    (8, 0.0, 0.0, 0.1, 0.0, 0.163557),
]


def best_denoiser(mean: float, deviation: float) -> edm.Denoiser:
    """What is left of N(mean, deviation²) in a noisy x, on average."""

    def denoiser(x: Tensor, sigma: float) -> Tensor:
        total = deviation**2 + sigma**2
        return x * (deviation**2 / total) + mean * (sigma**2 / total)

    return denoiser


def assert_moments(found: Tensor, mean: float, deviation: float) -> None:
    """Within four standard errors."""
    values = found.double().flatten()
    count = len(values)
    assert abs(float(values.mean()) - mean) < 4.0 * deviation / math.sqrt(count) + 5e-7
    assert abs(float(values.std()) - deviation) < 4.0 * deviation / math.sqrt(2.0 * count) + 5e-7


@pytest.mark.parametrize(("steps", "churn", "mean", "deviation", "expected_mean", "expected_deviation"), EXACT)
def test_the_samplers_bias_is_exactly_that_of_theory(
    steps: int, churn: float, mean: float, deviation: float, expected_mean: float, expected_deviation: float
) -> None:
    generator = torch.Generator().manual_seed(steps)
    count, levels = 150_000, edm.noise_levels(steps)

    def noise(number: int) -> Tensor:
        return torch.randn(count, generator=generator)

    start = noise(0) * levels[0]
    found = edm.heun(best_denoiser(mean, deviation), noise, start, levels, edm.Churn(amount=churn), steps)
    assert_moments(found, expected_mean, expected_deviation)


@pytest.mark.parametrize("deviation", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("steps", [8, 16, 32, 64])
def test_the_fast_samplers_spread_is_that_of_theory(steps: int, deviation: float) -> None:
    ratios = {64: (1.0030, 1.0038, 1.0059), 32: (1.0137, 1.0170, 1.0269), 16: (1.0670, 1.0800, 1.0941)}
    ratios[8] = (1.181, 1.151, 0.974)
    levels = edm.noise_levels(steps)
    start = torch.tensor([1.0, -1.0], dtype=torch.float64) * levels[0]  # every step is linear
    found = edm.dpm_solver(best_denoiser(0.0, deviation), lambda _: start, start, levels, 0.0)
    expected = ratios[steps][(1.0, 0.5, 0.1).index(deviation)]
    assert float(found[0]) / deviation == pytest.approx(expected, abs=6e-4 if steps == 8 else 6e-5)
    assert float(found[1]) == -float(found[0])


@pytest.mark.parametrize("deviation", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("steps", [16, 32])
def test_fresh_noise_leaves_the_spread_that_its_equations_say(steps: int, deviation: float) -> None:
    """The spread by a recursion over the coefficients of x and of the last two denoised x, and by sampling."""
    levels, generator = edm.noise_levels(steps), torch.Generator().manual_seed(steps)
    covariance, share, length = np.zeros((2, 2)), 0.0, 0.0  # of x and the last denoised x
    covariance[0, 0] = levels[0] ** 2
    for sigma, following in pairwise(levels):
        share = deviation**2 / (deviation**2 + sigma**2)
        if following == 0.0:
            break
        passed = math.log(sigma / following)
        ahead = passed / (2.0 * length) if length else 0.0
        kept = math.exp(-2.0 * passed)
        step = np.array([[kept + (1.0 - kept) * (1.0 + ahead) * share, -(1.0 - kept) * ahead], [share, 0.0]])
        covariance = step @ covariance @ step.T
        covariance[0, 0] += following**2 * (1.0 - kept)
        length = passed
    expected = share * math.sqrt(covariance[0, 0])

    def noise(number: int) -> Tensor:
        return torch.randn(150_000, generator=generator)

    found = edm.dpm_solver(best_denoiser(0.0, deviation), noise, noise(0) * levels[0], levels, 1.0)
    assert_moments(found, 0.0, expected)
    assert abs(expected / deviation - 1.0) < (0.2 if steps == 16 else 0.08)


# --- making transitions -----------------------------------------------------------------------------------------------


def trained(config: diffusion.Config, rows: VectorRows, updates: int = 30) -> tuple[Any, Any]:
    state = diffusion.create(config, rows.table(CPU, torch.float32), [5])
    diffusion.step(state, updates)
    return checkpoint_of(diffusion, state, [5])


def small_model() -> tuple[Any, Any]:
    config = diffusion.adapt(SMALLER, recording(), None)
    return trained(config, diffusion.prepare(config, recording(range(1, 28))))


def same(one: Transitions, other: Transitions) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Transitions.__slots__)


def test_a_block_depends_on_its_seed_and_number_alone() -> None:
    tensors, known = small_model()
    sampling = diffusion.Sampling(levels=6)
    one, other = (diffusion.synthesize(tensors, known, sampling, device=CPU, block_size=64) for _ in range(2))
    first, second = one.block(0, 0), one.block(0, 1)
    assert same(other.block(0, 1), second) and same(other.block(0, 0), first)
    assert not same(first, second) and not same(one.block(1, 0), first)
    assert len(first) == 64 and first.observation.shape == (64, 5) and first.action.shape == (64, 2)
    assert first.observation.dtype == np.float32 and first.terminal.dtype == np.bool_


@pytest.mark.parametrize("sampling", [{}, {"sampler": "fast"}, {"noise_level": 1.0}, {"guidance": 2.0}])
def test_a_block_can_be_captured_in_a_graph(sampling: dict[str, Any]) -> None:
    """Nothing is read on the host, and every block is the same operations."""
    data = recording(range(2, 28), seed=1)
    following = np.append(~data.episode_ends[:-1], False)
    data.next_observations[following] = data.observations[1:][following[:-1]]  # type: ignore[index]
    config = replace(diffusion.adapt(SMALLER, data, None), condition="return" if "guidance" in sampling else "none")
    tensors, known = trained(config, rows := diffusion.prepare(config, data), 3)
    settings = diffusion.Sampling(levels=5, **sampling)
    maker = diffusion.synthesize(tensors, known, settings, device=CPU, block_size=16, data=rows.transitions)
    draws, block, seen = maker.draws(3), torch.zeros((), dtype=torch.int64), []
    for number in (0, 7):
        block.fill_(number)
        with patch.object(Draws, "_compiled", Draws.words_by_torch), OperationRecorder() as recorder:
            maker.vectors(draws, block)
        seen.append(recorder.operations)
    assert seen[0] == seen[1]


def test_no_two_draws_of_sampling_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of two blocks, nor of two steps of a block."""
    tensors, known = small_model()
    drawn: list[Tensor] = []

    def kept(*arguments: Any) -> Tensor:
        drawn.append(shaped_normals(*arguments))
        return drawn[-1]

    monkeypatch.setattr(diffusion, "shaped_normals", kept)
    maker = diffusion.synthesize(tensors, known, diffusion.Sampling(levels=6), device=CPU, block_size=8)
    for number in range(3):
        maker.block(5, number)
    churned = sum(edm.Churn().gamma(level, 6) > 0.0 for level in edm.noise_levels(6))
    assert len(drawn) == 3 * (1 + churned) > 3
    assert len(torch.stack(drawn).flatten().unique()) == torch.stack(drawn).numel()


@pytest.mark.parametrize("noise_level", [0.05, 1.0])
def test_partial_noise_stays_near_the_rows_it_starts_from(noise_level: float) -> None:
    """Little noise leaves little to an almost untrained network."""
    tensors, known = small_model()
    data = diffusion.prepare(SMALLER, recording(range(1, 28))).transitions
    sampling = diffusion.Sampling(levels=32, noise_level=noise_level, churn=0.0)
    maker = diffusion.synthesize(tensors, known, sampling, device=CPU, block_size=128, data=data)
    encoded = torch.from_numpy(maker.code.encode(data))
    found = maker.vectors(maker.draws(0), torch.tensor(0))
    nearest = torch.cdist(found, encoded).min(1).values.mean() / math.sqrt(encoded.shape[1])
    assert (nearest < 0.1) == (noise_level < 0.1)
    with pytest.raises(ValueError, match="rows of the data"):
        diffusion.synthesize(tensors, known, sampling, device=CPU)


def test_minmax_samples_and_unbounded_actions_stay_within_the_data() -> None:
    config = diffusion.adapt(replace(SMALLER, scaling="minmax", unbounded_actions=True), recording(), None)
    data = recording(range(1, 28))
    tensors, known = trained(config, diffusion.prepare(config, data))
    made = diffusion.synthesize(tensors, known, diffusion.Sampling(levels=8), device=CPU, block_size=256).block(0, 0)
    low, high = data.observations.min(0), data.observations.max(0)
    assert (made.observation >= low - 1e-3).all() and (made.observation <= high + 1e-3).all()
    assert np.abs(made.action).max() <= 1.0 / 0.999 + 1e-6


def test_what_is_asked_for_is_what_comes() -> None:
    """One number that is its relevance: guided samples are near what was asked for, unguided ones are spread."""
    count = 2000
    random = np.random.default_rng(0)
    value = random.normal(size=(count, 1)).astype(np.float32)
    data = replace(
        transitions(count, observation_dim=1, action_dim=1),
        observation=value,
        next_observation=value,
        action=np.zeros((count, 1), np.float32),
        reward=np.zeros(count, np.float32),
        terminal=np.zeros(count, bool),
    )
    rows = VectorRows(transitions=data, code=VectorCode.fit(data), relevance=value[:, 0])
    config = replace(
        diffusion.SMALL, condition="return", learning_rate=3e-3, decay_updates=600, batch_size=128, width=64
    )
    model = trained(config, rows, 600)
    means = {}
    for guidance in (0.0, 1.0):
        sampling = diffusion.Sampling(sampler="fast", least_quantile=0.9, guidance=guidance)
        made = diffusion.synthesize(*model, sampling, device=CPU, block_size=512).block(0, 0)
        means[guidance] = float(made.observation.mean())
    asked = float(value[value > np.quantile(value, 0.9)].mean())
    assert abs(means[1.0] - asked) < 0.25 and abs(means[0.0]) < 0.25


def conditioned_model(**settings: Any) -> tuple[Any, Any]:
    config = replace(CONDITIONED, **settings)
    return trained(config, conditioned_rows())


def test_what_is_asked_for_does_not_depend_on_the_row_it_starts_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first rows of a dataset would always be moved to little, and the last ones to much."""
    tensors, known = conditioned_model()
    seen: list[Tensor] = []

    def kept(words: Tensor, *more: Any) -> Tensor:
        seen.append(words.flatten().double())
        return uniforms(words, *more)

    def kept_too(words: Tensor, *more: Any) -> Tensor:
        seen.append(words.flatten().double())
        return indexes(words, *more)

    monkeypatch.setattr(diffusion, "uniforms", kept)
    monkeypatch.setattr(diffusion, "indexes", kept_too)
    sampling = diffusion.Sampling(levels=3, noise_level=1.0)
    data = conditioned_rows().transitions
    maker = diffusion.synthesize(tensors, known, sampling, device=CPU, block_size=1024, data=data)
    maker.block(0, 0)
    assert len(seen) == 2
    assert abs(float(torch.corrcoef(torch.stack(seen))[0, 1])) < 4.0 / math.sqrt(1024)


def test_what_a_model_cannot_be_asked_is_refused() -> None:
    tensors, known = conditioned_model(condition_dropout=0.0)
    diffusion.synthesize(tensors, known, diffusion.Sampling(least_quantile=0.9), device=CPU)
    for guidance in (0.0, 2.0):
        with pytest.raises(ValueError, match="condition_dropout is 0"):
            diffusion.synthesize(tensors, known, diffusion.Sampling(guidance=guidance), device=CPU)
    tensors, known = small_model()
    for asked in ({"guidance": 2.0}, {"least_quantile": 0.9}):
        with pytest.raises(ValueError, match="this model has none"):
            diffusion.synthesize(tensors, known, diffusion.Sampling(**asked), device=CPU)


def test_returns_to_go_are_those_of_each_episode() -> None:
    data = recording([3, 2])
    following = np.concatenate([data.observations[1:], data.observations[:1]])
    found = diffusion.returns_in_order(
        Transitions(
            observation=data.observations,
            action=data.actions,
            reward=np.float32([1, 2, 4, 8, 16]),
            next_observation=following,
            terminal=data.terminals,
            truncated=data.timeouts,
        )
    )
    assert found.tolist() == [7.0, 6.0, 4.0, 24.0, 16.0]


def test_returns_of_single_steps_are_rewards_and_rows_in_no_order_have_none() -> None:
    data = transitions(10)
    alone = replace(data, terminal=np.ones(10, bool))
    assert np.array_equal(diffusion.returns_in_order(alone), alone.reward.astype(np.float64))
    with pytest.raises(ValueError, match="episodes in order"):
        diffusion.returns_in_order(replace(data, terminal=np.zeros(10, bool)))


@pytest.mark.parametrize(
    ("setting", "value"), [("width", 0), ("batch_size", 0), ("clip_norm", 0.0), ("condition_dropout", 1.0)]
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        diffusion.Config(**{setting: value})


@pytest.mark.parametrize("change", [{"sampler": "fast", "churn": 3.0}, {"sampler": "paper", "freshness": 0.5}])
def test_each_sampler_has_its_own_noise(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="churn is for the paper's sampler and freshness for the fast one"):
        diffusion.Sampling(**change)
