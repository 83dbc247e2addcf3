"""Decision Transformer: equality with a slow twin, sizes, padding, warm-up, and the battery."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from battery import CHECKS, GPU_CHECKS, Case, run_check
from dt_twin import Window, cluster_cosine, language_loss, mean_squared_error
from gpu import NEEDS_GPU

import trajmill as tm
from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.models.gpt import GPTConfig
from trajmill.training.dropout import dropout_factors
from trajmill.training.philox import indexes
from trajmill.training.windows import WindowTable

torch.set_num_threads(1)
CPU = torch.device("cpu")
LENGTHS = (1, 3, 4, 5, 9)
SMALL = GPTConfig(layer_count=2, head_count=2, width=8, residual_dropout=0.2)
CONFIG = DTConfig(batch_size=6, context_length=4, warmup_updates=10, backbone=SMALL)


def episodes(observation_dim: int = 3, action_dim: int = 2, **options: object) -> tm.TrajectoryBuffer:
    rng = np.random.default_rng(0)
    count = sum(LENGTHS)
    return tm.TrajectoryBuffer(
        observation=rng.normal(1.0, 2.0, (count, observation_dim)).astype(np.float32),
        action=rng.uniform(-1, 1, (count, action_dim)).astype(np.float32),
        reward=rng.normal(size=count).astype(np.float32),
        terminal=np.isin(np.arange(count), np.cumsum(LENGTHS) - 1),
        truncated=np.zeros(count, bool),
        **options,
    )


def table(dtype: torch.dtype, device: str = "cpu", observation_dim: int = 3, action_dim: int = 2) -> WindowTable:
    buffer = episodes(observation_dim, action_dim, context_length=2)
    return WindowTable.of(buffer.windows(range(buffer.step_count)), device=torch.device(device), dtype=dtype)


def poison(state: dt.DTState, position: int) -> None:
    state.inner.flat[position, 0] = math.nan


CASE = Case(
    create=lambda seeds, dtype, device="cpu": dt.create(CONFIG, table(dtype, device), seeds, metric_capacity=8),
    step=dt.step,
    poison=poison,
)


TERMS = replace(
    CONFIG,
    cluster_weight=0.3,
    cluster_count=3,
    cluster_updates=20,
    language_weight=0.7,
    backbone_weight_decay=1e-3,
)


def with_terms(
    seeds: list[int], dtype: torch.dtype, device: str = "cpu", *, extended: bool = False, **changes: float
) -> dt.DTState:
    """With both terms of Reid et al.: three centers, five tokens, sequences of seven in the first slot."""
    config = replace(TERMS, **changes)
    generator = torch.Generator().manual_seed(1)
    language = {
        name: torch.randn(count, 8, generator=generator) for name, count in (("wte.weight", 5), ("wpe.weight", 12))
    }
    positions = language.pop("wpe.weight") if extended else None
    state = dt.create(
        config,
        table(dtype, device),
        seeds,
        positions=positions,
        centers=F.normalize(torch.randn(3, 8, generator=generator), dim=-1) if config.cluster_weight else None,
        language=language if config.language_weight else None,
        language_length=7 if config.language_weight else 0,
        metric_capacity=8,
    )
    if state.tokens is not None:
        state.tokens.copy_(torch.randint(5, state.tokens.shape[2:], generator=generator))
    return state


def step_with_terms(state: dt.DTState, count: int = 1) -> None:
    """Always the first slot: what is fed does not depend on how many updates are made at once."""
    for _ in range(count):
        dt.step(state)


TERMS_CASE = Case(create=with_terms, step=step_with_terms, poison=poison)


@pytest.mark.parametrize("case", [CASE, TERMS_CASE], ids=["plain", "terms"])
@pytest.mark.parametrize("check", CHECKS)
def test_battery(check: str, case: Case, tmp_path: Path) -> None:
    run_check(case, check, tmp_path)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("check", GPU_CHECKS)
def test_battery_of_a_gpu(check: str, device: str) -> None:
    GPU_CHECKS[check](CASE, device)


@pytest.mark.parametrize(
    ("observation_dim", "action_dim", "count"), [(11, 3, 726_019), (17, 6, 727_558), (111, 8, 740_104)]
)
def test_parameter_counts_are_the_papers(observation_dim: int, action_dim: int, count: int) -> None:
    state = dt.create(DTConfig(), table(torch.float32, "cpu", observation_dim, action_dim), [0])
    assert state.inner.parameter_count() == 595_072
    assert state.inner.parameter_count() + state.outer.parameter_count() == count


def test_initial_deviations() -> None:
    state = dt.create(DTConfig(), table(torch.float32), [0])
    for name, parameter in state.inner.detached().items():
        if name.endswith("weight") and "ln" not in name:
            expected = 0.02 / math.sqrt(6) if "c_proj" in name else 0.02
            assert float(parameter.std()) == pytest.approx(expected, rel=0.05), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name


@pytest.mark.parametrize("order", ["normalize-first", "timestep-first"])
@pytest.mark.parametrize("shared", [False, True])
def test_updates_equal_the_twin(order: str, shared: bool) -> None:
    """20 updates of the second of two seeds in float64, dropout, clipping, decay and warm-up included."""
    config = replace(CONFIG, embedding_order=order, shared_projection=shared)
    compare_with_twin(dt.create(config, table(torch.float64), [3, 4]))


@pytest.mark.parametrize("terms", ["cluster", "language", "both"])
@pytest.mark.parametrize("extended", [False, True])
def test_updates_with_terms_equal_the_twin(terms: str, extended: bool) -> None:
    """The same with the terms of Reid et al.; with extended positions one table is positions and timesteps at once."""
    off = {"cluster": {"language_weight": 0.0}, "language": {"cluster_weight": 0.0}, "both": {}}[terms]
    compare_with_twin(with_terms([3, 4], torch.float64, extended=extended, clip_norm=1.0, **off), atol=1e-9)


def compare_with_twin(state: dt.DTState, atol: float = 1e-11) -> None:
    """20 updates of the second of two seeds."""
    config, data = state.config, state.table
    order, shared = config.embedding_order, config.shared_projection
    stacks = [stack for stack in (state.outer, state.inner, state.language) if stack is not None]
    plain = {
        name: parameter[1].clone().requires_grad_() for stack in stacks for name, parameter in stack.detached().items()
    }
    positions = "wpe.weight" if "wpe.weight" in plain else "embed_timestep.weight"
    decays = (config.weight_decay, config.backbone_weight_decay, config.backbone_weight_decay)
    groups = [
        {"params": [plain[name] for name in stack.parameters], "weight_decay": decay}
        for stack, decay in zip(stacks, decays, strict=False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-8)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1))
    sites = state.dropout_sites
    lengths = np.repeat(LENGTHS, LENGTHS)
    place = np.concatenate([np.arange(length) for length in LENGTHS])
    for update in range(20):
        words = {site: rolled[0] for site, rolled in state.draws.words(state.step, 1).items()}
        starts = indexes(words["window"], len(data))
        factors = dropout_factors(sites, words, torch.float64)
        tokens = None if state.tokens is None else state.tokens[0]
        dt.update(state, data.gather(starts, 4), factors, tokens)
        windows = []
        for start in starts[1].tolist():
            taken = data.rows[start : start + min(4, lengths[start] - place[start])]
            time = torch.from_numpy(place[start : start + len(taken)])
            windows.append(Window(taken[:, :3], taken[:, 3:5], taken[:, 5], time))
        mine = {site: values[1] for site, values in factors.items() if not site.startswith("language.")}
        error = mean_squared_error(plain, windows, mine, order=order, shared=shared, layers=2, heads=2)
        loss, terms = error, {}
        if state.centers is not None:
            terms["cluster_cosine"] = cluster_cosine(plain, windows, state.centers)
            left = 1 / (1 + math.exp(-((20 - update) / 2 - 5)))
            loss = loss - 0.3 * left * terms["cluster_cosine"]
        if tokens is not None:
            theirs = {site[9:]: values[1] for site, values in factors.items() if site.startswith("language.")}
            terms["language_loss"] = language_loss(plain, tokens[1].long(), theirs, positions, layers=2, heads=2)
            loss = loss + 0.7 * terms["language_loss"]
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.values(), config.clip_norm)
        optimizer.step()
        warmup.step()
    for stack in stacks:
        for name, parameter in stack.detached().items():
            torch.testing.assert_close(parameter[1], plain[name].detach(), rtol=1e-9, atol=atol, msg=name)
    logged = {name: values[1] for name, values in state.metrics.mean_of_last(19, 20).items()}
    expected = {"loss": error, "gradient_norm": norm} | terms
    assert logged == pytest.approx({name: float(value.detach()) for name, value in expected.items()})


def test_terms_fade_and_padded_steps_change_none_of_them() -> None:
    left = dt.fading(DTConfig(), torch.tensor([0, 2500, 5000]))
    assert left.tolist() == pytest.approx([0.9933, 0.5, 0.0067], abs=1e-4)
    state = with_terms([0], torch.float64)
    batch = state.table.gather(torch.tensor([[0, 3, 7, 21, 12, 5]]), 4)
    other = replace(batch, observation=torch.where(batch.mask[..., None], batch.observation, 77.0))
    assert torch.equal(dt.cluster_cosine(state, batch), dt.cluster_cosine(state, other))


def test_what_the_terms_need_is_asked_for() -> None:
    with pytest.raises(ValueError, match="centers go with cluster_weight above 0"):
        dt.create(replace(CONFIG, cluster_weight=0.1), table(torch.float32), [0])
    with pytest.raises(ValueError, match="language and language_length go with language_weight above 0"):
        dt.create(replace(CONFIG, language_weight=1.0), table(torch.float32), [0])
    with pytest.raises(ValueError, match="cluster_weight is for embedding_order normalize-first"):
        replace(CONFIG, cluster_weight=0.1, embedding_order="timestep-first")


def test_padded_steps_change_nothing() -> None:
    data = table(torch.float64)
    state = dt.create(CONFIG, data, [0])
    batch = data.gather(torch.tensor([[0, 3, 7, 21, 12, 5]]), 4)
    assert not batch.mask.all() and (batch.mask.sum(-1) == 1).any()
    other = replace(
        batch,
        observation=torch.where(batch.mask[..., None], batch.observation, 77.0),
        action=torch.where(batch.mask[..., None], batch.action, -55.0),
        return_to_go=torch.where(batch.mask, batch.return_to_go, 9e5),
        timestep=torch.where(batch.mask, batch.timestep, 999),
    )
    found = [
        torch.autograd.grad(dt.loss(state, one).sum(), [*state.inner.parameters.values()]) for one in (batch, other)
    ]
    assert torch.equal(dt.loss(state, batch), dt.loss(state, other))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("options", [{}, {"observation_padding": "after", "action_padding": 0.0, "timestep_limit": 3}])
def test_windows_are_those_of_the_trajectory_buffer(options: dict[str, object]) -> None:
    pairs = episodes(context_length=2, **options)
    steps = range(pairs.step_count)
    data = WindowTable.of(pairs.windows(steps), device=CPU, dtype=torch.float32)
    for length in (1, 2, 4, 12):
        expected = episodes(context_length=length, **options).windows(steps)
        batch = data.gather(torch.arange(len(data))[None], length)
        for name in ("observation", "action", "return_to_go", "timestep", "mask"):
            assert torch.equal(getattr(batch, name)[0], torch.from_numpy(expected[name])), (name, length)


def test_rate_of_dropping_and_expectation_are_exact() -> None:
    state = dt.create(replace(CONFIG, batch_size=64), table(torch.float32), [0])
    sites = SMALL.dropout_shapes(64, 12)
    words = {site: rolled[0] for site, rolled in state.draws.words(state.step, 1).items()}
    for site, factors in dropout_factors(sites, words, torch.float64).items():
        probability = sites[site][0]
        assert factors.max() == pytest.approx(1 / (1 - probability), rel=1e-4)
        error = math.sqrt(probability * (1 - probability) / factors.numel())
        assert abs(float((factors == 0).double().mean()) - probability) < 5 * error, site


def test_pretrained_backbone_and_positions_start_every_seed() -> None:
    data = table(torch.float32)
    donor = dt.create(CONFIG, data, [9])
    backbone = {name: parameter[0] for name, parameter in donor.inner.detached().items()}
    positions = torch.arange(1024 * 8.0).view(1024, 8)
    state = dt.create(CONFIG, data, [1, 2], backbone=backbone, positions=positions)
    for name, parameter in state.inner.detached().items():
        assert torch.equal(parameter[0], backbone[name]) and torch.equal(parameter[1], backbone[name])
    assert torch.equal(state.outer.detached()["embed_timestep.weight"][1], positions)
    assert not torch.equal(*state.outer.detached()["embed_state.weight"].unbind(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, r"learning_rate must be in \(0"),
        ({"clip_norm": math.nan}, "clip_norm must be in"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0"),
    ],
)
def test_bad_settings_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
