"""Cosines before and after fine-tuning: the snapshots are the right ones, the angle is the right one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dt_twin import Window, layer_norm, linear
from dt_twin import gpt2 as slow_gpt2

from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.algorithms.language_model import LMConfig
from trajmill.data import load_dataset
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import language_model
from trajmill.models.mlp import seeded_generator
from trajmill.models.precision import use_bfloat16
from trajmill.pipelines.decision_transformer import TrainDTConfig, pretrained_backbone, train_dt
from trajmill.pipelines.language_model import PretrainDTConfig, pretrain_dt
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.pipelines.schedule import Schedule
from trajmill.pipelines.similarity import Snapshots, _cosine, backbone_similarities, feature_similarities
from trajmill.replay import TrajectoryBuffer
from trajmill.report import read_run
from trajmill.training.checkpoint import read_checkpoint, save_checkpoint
from trajmill.training.device import ComputeConfig

SMALL = GPTConfig(layer_count=1, head_count=1, width=16)
CPU = ComputeConfig(device="cpu")
PRETRAIN = PretrainDTConfig(
    state_count=7,
    sequence_count=40,
    held_out_count=8,
    seeds=(5,),
    method=LMConfig(batch_size=8, length=12, warmup_updates=0, decay_updates=50, learning_rate=1e-2, backbone=SMALL),
    schedule=Schedule(updates=20),
    compute=CPU,
)
TRAIN = TrainDTConfig(
    dataset="hopper-sac-replay-10k",
    seeds=(0, 1),
    evaluation_episode_count=1,
    method=DTConfig(batch_size=8, context_length=4, learning_rate=1e-12, backbone=SMALL),
    schedule=Schedule(updates=2),
    compute=CPU,
)
LEARNING = replace(TRAIN, method=replace(TRAIN.method, learning_rate=3e-2, warmup_updates=1))


@pytest.fixture(scope="module")
def init(tmp_path_factory) -> Path:
    return pretrain_dt(PRETRAIN, tmp_path_factory.mktemp("runs") / "init")


def test_what_hardly_moves_is_its_start(init: Path, tmp_path: Path) -> None:
    scratch = read_run(train_dt(TRAIN, tmp_path / "scratch"))
    pretrained_run = read_run(train_dt(replace(TRAIN, init=init), tmp_path / "run"))
    barely = pretrain_dt(replace(PRETRAIN, schedule=Schedule(updates=1)), tmp_path / "barely")
    near = read_run(train_dt(replace(TRAIN, init=barely), tmp_path / "near"))
    for measure in (backbone_similarities, feature_similarities):
        random, pretrained = measure(scratch)
        assert random == pytest.approx([1.0, 1.0]) and np.array_equal(random, pretrained)
        random, pretrained = measure(pretrained_run)
        assert pretrained == pytest.approx([1.0, 1.0], abs=1e-6)
        assert (random < 0.99).all()
        nearer, _ = measure(near)
        assert (nearer > random + 0.01).all()  # one update of pre-training moves less than twenty


@pytest.mark.parametrize("extended", [False, True])
def test_snapshots_are_those_of_the_seeds(extended: bool, init: Path, tmp_path: Path) -> None:
    config = replace(LEARNING, init=init, extend_positions=extended)
    found = Snapshots.of(read_run(train_dt(config, tmp_path / "run")))
    before = language_model(SMALL, 7, seeded_generator(5, "lm"))
    after, positions = pretrained_backbone(init, config.method)
    for row in range(2):
        for name, value in after.items():
            assert torch.equal(found.random.inner.parameters[name][row], before[name])
            assert torch.equal(found.pretrained.inner.parameters[name][row], value)
    table = "embed_timestep.weight"
    start = found.pretrained.outer.parameters[table][1]
    assert torch.equal(start, positions) == extended
    assert torch.equal(found.random.outer.parameters[table][1], before["wpe.weight"] if extended else start)
    fresh, tuned = found.pretrained.outer.parameters, found.tuned.outer.parameters
    assert torch.equal(fresh["embed_state.weight"][1], found.random.outer.parameters["embed_state.weight"][1])
    assert not torch.equal(fresh["embed_state.weight"][0], fresh["embed_state.weight"][1])
    assert not torch.equal(fresh["embed_state.weight"], tuned["embed_state.weight"])


def test_feature_cosines_equal_a_slow_computation(init: Path, tmp_path: Path) -> None:
    """One window at a time without padding, in float64, for the second seed."""
    run = read_run(train_dt(replace(LEARNING, init=init), tmp_path / "run"))
    found = Snapshots.of(run)
    weights = [
        {
            name: parameter[1].double()
            for stack in (each.outer, each.inner)
            for name, parameter in stack.detached().items()
        }
        for each in (found.random, found.pretrained, found.tuned)
    ]
    buffer = TrajectoryBuffer.from_dataset(load_dataset(TRAIN.dataset), context_length=4, return_scale=1000.0)
    cosines = []
    for number in range(64):
        start = math.floor((buffer.step_count - 1) * number / 63)
        batch = buffer.windows([start])
        real = batch["mask"][0]
        columns = (batch[name][0][real] for name in ("observation", "action", "return_to_go", "timestep"))
        window = Window(*(torch.from_numpy(column) for column in columns))
        random, pretrained, tuned = (slow_features(each, window) for each in weights)
        cosines.append([float(start @ tuned / start.norm() / tuned.norm()) for start in (random, pretrained)])
    expected = np.mean(cosines, axis=0)
    measured = feature_similarities(run)
    assert [values[1] for values in measured] == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 0.01 and expected.max() < 0.99  # the test can tell them apart


def test_a_diverged_seed_has_no_cosine_and_costs_the_others_none(init: Path, tmp_path: Path) -> None:
    path = train_dt(replace(LEARNING, init=init), tmp_path / "run")
    whole = read_run(path)
    expected = [*backbone_similarities(whole), *feature_similarities(whole)]
    checkpoint = RunDirectory(path).newest_checkpoint()
    tensors, metadata = read_checkpoint(checkpoint)
    tensors["inner"][0, 0] = math.nan
    save_checkpoint(checkpoint, SimpleNamespace(moving=lambda: tensors), metadata)
    found = [*backbone_similarities(whole), *feature_similarities(whole)]
    for values, before in zip(found, expected, strict=True):
        assert math.isnan(values[0]) and values[1] == before[1]


def test_features_are_exact_whatever_was_trained_before(init: Path, tmp_path: Path) -> None:
    run = read_run(train_dt(replace(LEARNING, init=init), tmp_path / "run"))
    expected = feature_similarities(run)
    try:
        use_bfloat16(True)
        assert np.array_equal(feature_similarities(run), expected)
    finally:
        use_bfloat16(False)


def slow_features(weights: dict[str, torch.Tensor], window: Window) -> torch.Tensor:
    """Outputs of the backbone at the observations, one after the other."""
    time = weights["embed_timestep.weight"][window.timestep]
    parts = [
        linear(window.return_to_go.double()[:, None], weights, "embed_return"),
        linear(window.observation.double(), weights, "embed_state"),
        linear(window.action.double(), weights, "embed_action"),
    ]
    tokens = [layer_norm(part[t], weights, "embed_ln") + time[t] for t in range(len(time)) for part in parts]
    length = len(tokens)
    sites = {"embedding": (length, 16), "h.0.attn.weights": (1, length, length)}
    sites |= {"h.0.attn": (length, 16), "h.0.mlp": (length, 16)}
    nothing = {site: torch.ones(shape, dtype=torch.float64) for site, shape in sites.items()}
    return slow_gpt2(weights, torch.stack(tokens), layers=1, heads=1, factors=nothing)[1::3].flatten()


def test_the_cosine_is_taken_row_by_row() -> None:
    one = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert _cosine(one, torch.tensor([[0.0, 2.0], [3.0, 0.0]])) == pytest.approx([0.0, 0.5**0.5])
