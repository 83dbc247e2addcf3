"""Cosines before and after fine-tuning: the snapshots are the right ones, the angle is the right one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dt_twin import Window, layer_norm, linear
from dt_twin import gpt2 as slow_gpt2
from tiny_runs import HOPPER, checkpoint, tiny, train

from trajmill.algorithms import decision_transformer, language_model
from trajmill.data import Subset, load_dataset, split_episodes, write_d4rl
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import language_model as network
from trajmill.models.mlp import seeded_generator
from trajmill.models.precision import use_bfloat16
from trajmill.replay import TrajectoryBuffer
from trajmill.report import read_run
from trajmill.runs.reading import RunRecord, read_start
from trajmill.studies.similarity import (
    Snapshots,
    _cosine,
    _starts_in_a_tenth,
    backbone_similarities,
    feature_similarities,
)
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
    weights = plain_weights(found, 1)
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
    assert [values[1] for values in measured] == pytest.approx(expected, abs=1e-12)
    assert abs(expected[0] - expected[1]) > 0.005 and expected.max() < 0.99  # the test can tell them apart


def plain_weights(found: Snapshots, seed: int) -> list[dict[str, torch.Tensor]]:
    """All parameters of a seed in float64: random start, pre-trained start, fine-tuned."""
    return [
        {
            name: parameter[seed].double()
            for stack in (each.embeddings, each.backbone)
            for name, parameter in stack.detached().items()
        }
        for each in (found.random, found.pretrained, found.tuned)
    ]


def test_released_cosines_equal_a_slow_computation(whole: Whole, tmp_path: Path) -> None:
    """Written after the authors' code/utils.py: names, draws, windows, batches, and padding, for the second seed."""
    path = write_d4rl(tmp_path / "part.hdf5", **load_dataset(HOPPER, subset=Subset("first", 2472)).to_write())
    config = tuned(whole(start()), context_length=20, batch_size=4, strict_budget=True)
    run = read_run(train(replace(config, dataset=str(path), environment="hopper"), tmp_path / "run"))
    found = Snapshots.of(run)
    snapshots = plain_weights(found, 1)

    names = [name for name in snapshots[0] if name.startswith(("h.", "ln_f.")) and "weight" in name]
    random, pretrained, trained = (torch.cat([each[name].view(-1) for name in names]) for each in snapshots)
    expected = [float(torch.cosine_similarity(one, trained, dim=0)) for one in (random, pretrained)]
    measured = backbone_similarities(run, "released")
    assert [values[1] for values in measured] == pytest.approx(expected, rel=1e-9)
    own = backbone_similarities(run)
    assert abs(own[1][1] - expected[1]) > 1e-5

    data = split_episodes(load_dataset(path))
    states = np.concatenate([trajectory.observation for trajectory in data])
    mean, deviation = states.mean(0), states.std(0) + 1e-6
    buffer = decision_transformer.prepare(replace(found.config, strict_budget=False), load_dataset(path)).source()
    legacy = np.random.RandomState(0)
    chosen = legacy.choice(np.arange(len(data), dtype=int), size=int(len(data) * 0.1), replace=False)
    batches, batch = [], []
    for number in chosen:
        rewards, start_pos = data[number].reward.astype(np.float64), 0
        while True:
            part = slice(start_pos, start_pos + 20)
            length = len(rewards[part])
            theirs = {
                "observation": (data[number].observation[part] - mean) / deviation,
                "action": data[number].action[part],
                "return_to_go": np.cumsum(rewards[::-1])[::-1][part] / 1000.0,
                "timestep": np.arange(start_pos, start_pos + length),
            }
            ours = buffer.windows([int(buffer.episodes[:number, 1].sum()) + start_pos])
            columns = {name: ours[name][0, -length:] for name in theirs}
            for name, column in columns.items():  # equal but for the rounding of float32
                np.testing.assert_allclose(column, theirs[name], rtol=1e-5, atol=1e-5)
            window = Window(*(torch.from_numpy(columns[name]) for name in theirs))
            batch.append([slow_features(each, window).view(length, -1) for each in snapshots])
            if len(batch) == 4:
                batches.append(batch)
                batch = []
            if start_pos + 20 >= len(rewards) - 1:
                break
            start_pos += 20
    assert batches and batch  # some windows are left over
    cosines = np.zeros((len(batches), 2, 4, 20))
    for row, windows in enumerate(batches):
        for place, (random, pretrained, trained) in enumerate(windows):
            for column, one in enumerate((random, pretrained)):
                found_here = torch.cosine_similarity(one, trained, dim=1).numpy()
                cosines[row, column, place, 20 - len(found_here) :] = found_here
    assert (cosines == 0.0).any()
    measured = feature_similarities(run, "released")
    assert [values[1] for values in measured] == pytest.approx(cosines.mean((0, 2, 3)), abs=1e-12)
    assert abs(feature_similarities(run)[1][1] - measured[1][1]) > 0.005


@pytest.mark.parametrize("length", [1, 2, 19, 20, 21, 22, 40, 41, 42, 1000])
def test_released_windows_begin_where_the_authors_loop_begins_them(length: int) -> None:
    wanted = [0]
    while wanted[-1] + 20 < length - 1:
        wanted.append(wanted[-1] + 20)
    episodes = np.array([[length * number, length] for number in range(19)], np.uint64)  # a tenth is one
    found = _starts_in_a_tenth(SimpleNamespace(episodes=episodes), decision_transformer.Config(batch_size=1))  # type: ignore[arg-type]
    drawn = int(np.random.RandomState(0).permutation(19)[0])
    assert [step - length * drawn for step in found] == wanted


def test_less_than_a_batch_of_windows_has_no_released_cosine(learning: RunRecord) -> None:
    few = decision_transformer.Config(batch_size=10_000)
    windows = decision_transformer.prepare(few, load_dataset(HOPPER)).source()
    assert _starts_in_a_tenth(windows, few) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trajmill.studies.similarity._starts_in_a_tenth", lambda *_: [])
        assert np.isnan(feature_similarities(learning, "released")).all()


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
