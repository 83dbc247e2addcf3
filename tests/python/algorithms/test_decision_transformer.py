"""Decision Transformer: equality with a slow twin, sizes, padding, warm-up, and the battery."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from battery import CHECKS, GPU_CHECKS, Case, run_check
from dt_twin import Window, mean_squared_error
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


@pytest.mark.parametrize("check", CHECKS)
def test_battery(check: str, tmp_path: Path) -> None:
    run_check(CASE, check, tmp_path)


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
    for name, leaf in state.inner.fixed().items():
        if name.endswith("weight") and "ln" not in name:
            expected = 0.02 / math.sqrt(6) if "c_proj" in name else 0.02
            assert float(leaf.std()) == pytest.approx(expected, rel=0.05), name
        else:
            assert torch.equal(leaf, torch.full_like(leaf, float(name.endswith("weight")))), name


@pytest.mark.parametrize("order", ["normalize-first", "timestep-first"])
@pytest.mark.parametrize("shared", [False, True])
def test_updates_equal_the_twin(order: str, shared: bool) -> None:
    """20 updates of the second of two seeds in float64, dropout, clipping, decay and warm-up included."""
    config = replace(CONFIG, embedding_order=order, shared_projection=shared)
    data = table(torch.float64)
    state = dt.create(config, data, [3, 4])
    leaves = {name: leaf[1].clone() for stack in (state.outer, state.inner) for name, leaf in stack.fixed().items()}
    plain = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    groups = [
        {"params": [plain[name] for name in state.outer.leaves], "weight_decay": 1e-4},
        {"params": [plain[name] for name in state.inner.leaves], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-8)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1))
    sites = SMALL.dropout_shapes(6, 12)
    lengths = np.repeat(LENGTHS, LENGTHS)
    place = np.concatenate([np.arange(length) for length in LENGTHS])
    for _ in range(20):
        words = {site: rolled[0] for site, rolled in state.dice.roll(state.step, 1).items()}
        starts = indexes(words["window"], len(data))
        factors = dropout_factors(sites, words, torch.float64)
        dt.update(state, data.gather(starts, 4), factors)
        windows = []
        for start in starts[1].tolist():
            taken = data.rows[start : start + min(4, lengths[start] - place[start])]
            time = torch.from_numpy(place[start : start + len(taken)])
            windows.append(Window(taken[:, :3], taken[:, 3:5], taken[:, 5], time))
        loss = mean_squared_error(
            plain,
            windows,
            {site: values[1] for site, values in factors.items()},
            order=order,
            shared=shared,
            layers=2,
            heads=2,
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.values(), 0.25)
        optimizer.step()
        warmup.step()
    for stack in (state.outer, state.inner):
        for name, leaf in stack.fixed().items():
            torch.testing.assert_close(leaf[1], plain[name].detach(), rtol=1e-9, atol=1e-11, msg=name)
    logged = state.metrics.mean_of_last(19, 20)
    assert logged["loss"][1] == pytest.approx(float(loss.detach()))
    assert logged["gradient_norm"][1] == pytest.approx(float(norm))


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
    found = [torch.autograd.grad(dt.loss(state, one).sum(), [*state.inner.leaves.values()]) for one in (batch, other)]
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
    words = {site: rolled[0] for site, rolled in state.dice.roll(state.step, 1).items()}
    for site, factors in dropout_factors(sites, words, torch.float64).items():
        probability = sites[site][0]
        assert factors.max() == pytest.approx(1 / (1 - probability), rel=1e-4)
        error = math.sqrt(probability * (1 - probability) / factors.numel())
        assert abs(float((factors == 0).double().mean()) - probability) < 5 * error, site


def test_pretrained_backbone_and_positions_start_every_seed() -> None:
    data = table(torch.float32)
    donor = dt.create(CONFIG, data, [9])
    backbone = {name: leaf[0] for name, leaf in donor.inner.fixed().items()}
    positions = torch.arange(1024 * 8.0).view(1024, 8)
    state = dt.create(CONFIG, data, [1, 2], backbone=backbone, positions=positions)
    for name, leaf in state.inner.fixed().items():
        assert torch.equal(leaf[0], backbone[name]) and torch.equal(leaf[1], backbone[name])
    assert torch.equal(state.outer.fixed()["embed_timestep.weight"][1], positions)
    assert not torch.equal(*state.outer.fixed()["embed_state.weight"].unbind(0))


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
