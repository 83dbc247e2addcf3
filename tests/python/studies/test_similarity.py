"""Cosines before and after fine-tuning: the snapshots are the right ones, the angle is the right one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dt_twin import Window, layer_norm, linear
from dt_twin import gpt2 as slow_gpt2
from tiny_runs import HOPPER, checkpoint, tiny, train

from trajmill.algorithms import language_model
from trajmill.data import load_dataset
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import language_model as network
from trajmill.models.mlp import seeded_generator
from trajmill.models.precision import use_bfloat16
from trajmill.replay import TrajectoryBuffer
from trajmill.report import read_run
from trajmill.runs.reading import RunRecord, read_start
from trajmill.studies.similarity import Snapshots, _cosine, backbone_similarities, feature_similarities
from trajmill.training.checkpoint import read_checkpoint, save_checkpoint
from trajmill.training.settings import Schedule

SMALL = GPTConfig(layer_count=1, head_count=1, width=16)
Whole = Callable[..., Path]


def start(updates: int = 20) -> Any:
    method = {"warmup_updates": 0, "decay_updates": 50, "learning_rate": 1e-2, "backbone": SMALL}
    return tiny("language_model", seeds=(5,), method=method, schedule=Schedule(updates=updates))


def tuned(init: Path | None = None, rate: float = 3e-2, **method: Any) -> Any:
    method = {"learning_rate": rate, "warmup_updates": 1, "backbone": SMALL} | method
    return tiny("decision_transformer", seeds=(0, 1), init=init, method=method, schedule=Schedule(updates=2))


@pytest.fixture
def learning(whole: Whole) -> RunRecord:
    """A run that went far from its pre-trained start."""
    return read_run(whole(tuned(whole(start()))))


def test_what_hardly_moves_is_its_start(whole: Whole) -> None:
    scratch = read_run(whole(tuned(rate=1e-12)))
    pretrained_run = read_run(whole(tuned(whole(start()), rate=1e-12)))
    near = read_run(whole(tuned(whole(start(updates=1)), rate=1e-12)))
    for measure in (backbone_similarities, feature_similarities):
        random, pretrained = measure(scratch)
        assert random == pytest.approx([1.0, 1.0]) and np.array_equal(random, pretrained)
        random, pretrained = measure(pretrained_run)
        assert pretrained == pytest.approx([1.0, 1.0], abs=1e-6)
        assert (random < 0.99).all()
        nearer, _ = measure(near)
        assert (nearer > random + 0.01).all()  # one update of pre-training moves less than twenty


@pytest.mark.parametrize("extended", [False, True])
def test_snapshots_are_those_of_the_seeds(extended: bool, whole: Whole) -> None:
    init = whole(start())
    found = Snapshots.of(read_run(whole(tuned(init, extend_positions=extended))))
    before = network(SMALL, 7, seeded_generator(5, "lm"))
    _, after = language_model.learned(*read_start(init))
    for row in range(2):
        for name, value in found.random.backbone.parameters.items():
            assert torch.equal(value[row], before[name])
            assert torch.equal(found.pretrained.backbone.parameters[name][row], after[name])
    table = "embed_timestep.weight"
    first = found.pretrained.embeddings.parameters[table][1]
    assert torch.equal(first, after["wpe.weight"]) == extended
    assert torch.equal(found.random.embeddings.parameters[table][1], before["wpe.weight"] if extended else first)
    fresh, trained = found.pretrained.embeddings.parameters, found.tuned.embeddings.parameters
    state = "embed_state.weight"
    assert torch.equal(fresh[state][1], found.random.embeddings.parameters[state][1])
    assert not torch.equal(fresh[state][0], fresh[state][1])
    assert not torch.equal(fresh[state], trained[state])


def test_feature_cosines_equal_a_slow_computation(learning: RunRecord) -> None:
    """One window at a time without padding, in float64, for the second seed."""
    found = Snapshots.of(learning)
    weights = [
        {
            name: parameter[1].double()
            for stack in (each.embeddings, each.backbone)
            for name, parameter in stack.detached().items()
        }
        for each in (found.random, found.pretrained, found.tuned)
    ]
    buffer = TrajectoryBuffer.from_dataset(load_dataset(HOPPER), context_length=4, return_scale=1000.0)
    cosines = []
    for number in range(64):
        begin = math.floor((buffer.step_count - 1) * number / 63)
        batch = buffer.windows([begin])
        real = batch["mask"][0]
        columns = (batch[name][0][real] for name in ("observation", "action", "return_to_go", "timestep"))
        window = Window(*(torch.from_numpy(column) for column in columns))
        random, pretrained, trained = (slow_features(each, window) for each in weights)
        cosines.append([float(one @ trained / one.norm() / trained.norm()) for one in (random, pretrained)])
    expected = np.mean(cosines, axis=0)
    measured = feature_similarities(learning)
    assert [values[1] for values in measured] == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 0.005 and expected.max() < 0.99  # the test can tell them apart


def test_a_diverged_seed_has_no_cosine_and_costs_the_others_none(whole: Whole, tmp_path: Path) -> None:
    path = train(tuned(whole(start())), tmp_path / "run")
    run = read_run(path)
    expected = [*backbone_similarities(run), *feature_similarities(run)]
    moving, metadata = read_checkpoint(checkpoint(path))
    moving["backbone"][0, 0] = math.nan
    stored: Any = SimpleNamespace(moving=lambda: moving)
    save_checkpoint(checkpoint(path), stored, metadata)
    found = [*backbone_similarities(run), *feature_similarities(run)]
    for values, before in zip(found, expected, strict=True):
        assert math.isnan(values[0]) and values[1] == before[1]


def test_features_are_exact_whatever_was_trained_before(learning: RunRecord) -> None:
    expected = feature_similarities(learning)
    try:
        use_bfloat16(True)
        assert np.array_equal(feature_similarities(learning), expected)
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
