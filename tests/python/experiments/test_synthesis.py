"""Synthetic transitions for agents that learn online: exact shares, untouched observations, stops at any moment."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import CPU, Killed, assert_equal_runs, lines, tiny, train
from walks import BATCH, batches, equal, ring

from trajmill.algorithms import method_named, synthesizing_methods
from trajmill.core.progress import silent
from trajmill.data import Dataset
from trajmill.experiments.settings import SynthesisConfig
from trajmill.experiments.synthesis import COLUMNS, Synthesis, cost, model_seed, upsampling
from trajmill.experiments.upsample import NotFiniteError, upsample
from trajmill.runs.directory import RunDirectory
from trajmill.runs.signals import Interrupted
from trajmill.training.checkpoint import CheckpointError, read_checkpoint

MAKER = method_named(synthesizing_methods()[0])
SEEDS = (3, 2**63 + 5)
COUNT = 1100
"""transitions of a model, two blocks"""


def models(method: dict[str, Any] | None = None, **changes: Any) -> SynthesisConfig[Any, Any]:
    """Models of a few updates, after 20 and 36 of the 52 environment steps of a tiny run."""
    settings = {"batch_size": 8, "width": 16, "depth": 1, "embedding_dim": 8, "decay_updates": None} | (method or {})
    sizes: dict[str, Any] = {"every": 16, "first": 20, "updates": 4, "count": COUNT}
    sizes |= {"method": replace(MAKER.SMALL, **settings), "sampling": MAKER.Sampling(levels=3)}
    return SynthesisConfig(**sizes | changes)


def run_of(**changes: Any) -> Any:
    return tiny("sac", **{"synthesis": models()} | changes)


def ring_with_models(path: Path, seeds: tuple[int, ...] = SEEDS, capacity: int = 1000, **changes: Any) -> Any:
    """A ring that has synthetic rows, and what makes them."""
    made = ring(seeds, limit=5, capacity=capacity)
    grows = Synthesis(models(**changes), made, seeds, CPU, path, silent)
    assert made._explore is not None
    made.begin(made._explore, grows.before_step)
    return made, grows


# --- what batches hold, and what is not touched -----------------------------------------------------------------------


@pytest.mark.parametrize(("first", "marks"), [(None, (10, 20, 30)), (3, (3, 13, 23)), (15, (15, 25, 35))])
def test_models_are_due_after_so_many_environment_steps(first: int | None, marks: tuple[int, ...]) -> None:
    config = models(every=10, first=first)
    for number, mark in enumerate(marks):
        assert (config.due(mark - 1), config.due(mark)) == (number, number + 1)
    assert models(every=None).due(10**9) == 0


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("offline", [False, True])
def test_batches_have_exactly_these_counts(share: float, offline: bool) -> None:
    """The ring's rows first, then others, each seed's its own, drawn from all of them; before, those are not there."""
    made, widths = ring(), {"observation": (3,), "action": (2,), "reward": (), "terminal": (), "next_observation": (3,)}
    if offline:
        made.mix("offline", {name: np.full((1, 9, *size), 500.0, "f4") for name, size in widths.items()}, 0.2)
    before = batches(made, 3)
    number = np.arange(40, dtype="f4") + np.array([[1000.0], [2000.0]], "f4")
    columns = {
        name: np.broadcast_to(number.reshape(2, 40, *[1] * len(size)), (2, 40, *size)) for name, size in widths.items()
    }
    made.mix("synthetic", columns, share)
    after = batches(made, 30, 3)
    own_before, others = BATCH - int(BATCH * 0.2) * offline, int(BATCH * share)
    seen = set()
    for found, own, count in [(before, own_before, 0), (after, own_before - others, others)]:
        for batch in found:
            for name, column in batch.items():
                numbers = column.reshape(2, BATCH, -1)
                assert (numbers[:, :own].abs() < 400.0).all(), name
                assert (numbers[:, own : BATCH - count] == 500.0).all(), name
                for position in range(2):
                    made_up = numbers[position, BATCH - count :]
                    assert (made_up >= 1000.0 * (position + 1)).all() and (made_up < 1000.0 * (position + 1) + 40).all()
                    assert torch.equal(made_up, batch["reward"][position, BATCH - count :, None].expand_as(made_up))
                    seen |= set(made_up[:, 0].tolist())
    assert len(seen) > 40 * others / BATCH


def test_real_observations_are_never_overwritten(tmp_path: Path) -> None:
    """In the authors' program, until April 2026, the agent went on from a synthetic observation after each model."""
    plain, (made, grows) = ring(limit=5), ring_with_models(tmp_path)
    without, found = batches(plain, 18), batches(made, 18)
    assert grows.report() == {"synthetic_model": [2.0, 2.0]}
    assert equal(without[:3], found[:3]) and not equal(without[-1:], found[-1:])
    for position in range(2):
        rows, wanted = made.rows(position), plain.rows(position)
        for name, column in wanted.items():
            np.testing.assert_array_equal(rows[name], column, err_msg=name)
    for name, tensor in plain.moving().items():
        assert torch.equal(made.moving()[name], tensor), name


@pytest.mark.parametrize("limit", [1, 5])
def test_rows_of_a_seed_are_whole_episodes_of_each_environment(limit: int) -> None:
    made = ring(environments=3, updates_per_step=1 / 3, limit=limit)
    batches(made, 12)
    rows = made.rows(1)
    steps = rows["observation"][:, 1].reshape(3, -1)
    ends = (rows["terminal"] | rows["truncated"]).reshape(3, -1)
    assert steps.shape[1] == made.steps and ends[:, -1].all()
    assert not (rows["terminal"] & rows["truncated"]).any()
    np.testing.assert_array_equal(steps[:, 1:], np.where(ends[:, :-1], 0, steps[:, :-1] + 1))


@pytest.mark.parametrize("capacity", [24, 1000])
def test_a_model_learns_all_rows_of_its_seed_that_are_there(
    capacity: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it makes is what `upsample` makes, whatever seeds stand beside."""
    seen = {}

    def make(self: Synthesis, dataset: Dataset, seed: int, model: int, work: Path) -> Any:
        seen[seed, model] = dataset
        return real(self, dataset, seed, model, work)

    real = Synthesis._make
    monkeypatch.setattr(Synthesis, "_make", make)
    made, _ = ring_with_models(tmp_path / "both", capacity=capacity)
    both = batches(made, 18)
    plain = ring(limit=5, capacity=capacity)
    done = 0
    for number, update in ((1, 7), (2, 15)):  # updates that are made with 20 and with 36 environment steps
        batches(plain, update - done, done)
        done = update
        for position, seed in enumerate(SEEDS):
            rows, dataset = plain.rows(position), seen[seed, number]
            for name in COLUMNS:
                np.testing.assert_array_equal(getattr(dataset, f"{name}s"), rows[name])
    if capacity == 24:
        assert len(seen[3, 2]) == 24
    alone, _ = ring_with_models(tmp_path / "alone", SEEDS[1:], capacity=capacity)
    assert equal(both, batches(alone, 18), slice(1, 2))
    job = upsample(seen[3, 2], tmp_path / "job", upsampling(models(), CPU, model_seed(3, 2)))
    pieces = [np.load(path) for path in sorted((job.directory / "shards").iterdir())]
    stored, _ = read_checkpoint(tmp_path / "both/replay/synthetic-3/000002.safetensors")
    np.testing.assert_array_equal(np.concatenate(pieces)[:, :3], stored["observation"])
    assert len(stored["reward"]) == COUNT and set(stored) == set(COLUMNS) and stored["terminal"].dtype == torch.bool


# --- stops ------------------------------------------------------------------------------------------------------------


def killed(run: Path, moment: tuple[str, int], times: int = 1, number: int | None = None) -> None:
    """Let a run be killed when it reports a moment so often; or ended by a signal of this number."""
    left = [times]

    def progress(task: str, done: int, total: int, unit: str) -> None:
        if task.endswith(moment[0]) and done == moment[1]:
            left[0] -= 1
            if left[0] == 0 and number is None:
                raise Killed
            if left[0] == 0:
                os.kill(os.getpid(), number)

    with pytest.raises(Killed if number is None else Interrupted):
        train(run_of(), run, progress)


MOMENTS = [
    ("seed 3, train", 1, 1),
    ("seed 3, train", 4, 1),
    ("seed 5, sample", 1024, 2),
    ("train", 20, 1),
    ("train", 30, 1),
]
FEW = [("seed 3, train", 1, 1, None), ("seed 5, sample", 1024, 2, signal.SIGTERM), ("train", 30, 1, None)]


@pytest.mark.parametrize(
    ("task", "done", "times", "number"),
    [
        *FEW,
        *(pytest.param(*each, number, marks=pytest.mark.slow) for each in MOMENTS for number in (None, signal.SIGTERM)),
    ],
)
def test_stopped_and_resumed_is_never_stopped(
    task: str, done: int, times: int, number: int | None, whole, tmp_path: Path
) -> None:
    """Also in the middle of a model, or of its rows, or after these were made and before a checkpoint."""
    run = tmp_path / "run"
    killed(run, (task, done), times, number)
    assert bool(list(run.glob("synthesis-*/*/*"))) == ("seed" in task)
    train(run_of(), run, resume=True)
    assert_equal_runs(run, whole(run_of()))
    assert not list(run.glob("synthesis*"))


def test_the_newest_rows_survive_and_older_ones_do_not(whole, tmp_path: Path) -> None:
    finished = whole(run_of())
    assert [line["metrics"]["synthetic_model"][0] for line in lines(finished, "train")][-1] == 2.0
    assert {path.name for path in finished.glob("replay/synthetic-*/*")} == {"000002.safetensors"}
    run = tmp_path / "run"
    killed(run, ("train", 36))
    for path in run.glob("replay/synthetic-3/*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*synthetic-3"):
        train(run_of(), run, resume=True)


def test_a_damaged_checkpoint_finds_the_rows_of_the_one_before(whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(run, ("train", 24))
    newest, older = RunDirectory(run).checkpoints()
    assert (newest.stem[-2:], older.stem[-2:]) == ("24", "18")
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="going on from update 18"):
        train(run_of(), run, resume=True)
    assert_equal_runs(run, whole(run_of()))


@pytest.mark.slow
def test_processes_and_other_seeds_change_nothing(whole, tmp_path: Path) -> None:
    both = whole(run_of())
    two = train(run_of(), tmp_path / "two", processes=2)
    assert_equal_runs(two, both)
    alone = train(run_of(seeds=(3,)), tmp_path / "alone")
    for ours, theirs in zip(lines(alone), lines(both), strict=True):
        assert ours["metrics"] == {name: values[1:] for name, values in theirs["metrics"].items()}
    for run in (two, alone):
        (rows,), (wanted,) = (list(each.glob("replay/synthetic-3/*")) for each in (run, both))
        (ours, known), (theirs, told) = read_checkpoint(rows), read_checkpoint(wanted)
        assert rows.name == wanted.name and known == told
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::trajmill.runs.schedule.DivergenceWarning")
def test_a_seed_whose_model_diverges_is_named_and_the_others_go_on(
    whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Synthesis._make

    def broken(self: Synthesis, dataset: Any, seed: int, *rest: Any) -> Any:
        if seed == 5:
            raise NotFiniteError("made for the test")
        return make(self, dataset, seed, *rest)

    monkeypatch.setattr(Synthesis, "_make", broken)
    with pytest.warns(RuntimeWarning, match="seed 5 has failed at step 20: model 1 .* diverged .*the others go on"):
        run = train(run_of(), tmp_path / "run")
    for ours, theirs in zip(lines(run), lines(whole(run_of())), strict=True):
        assert {name: values[1] for name, values in ours["metrics"].items()} == {
            name: values[1] for name, values in theirs["metrics"].items()
        }
    assert lines(run, "train")[-1]["metrics"]["q_loss"][0] is None


def test_a_model_that_diverges_ends_its_seed_alone(tmp_path: Path) -> None:
    """Of a seed of a model, which nobody knows, there is no word."""
    made, _ = ring_with_models(tmp_path, method={"learning_rate": 1e38}, updates=20)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = batches(made, 30)
    assert [str(each.message).partition(" at step")[0] for each in told] == [
        f"seed {seed} has failed" for seed in SEEDS
    ]
    assert found[-1]["reward"].isnan().all() and not found[0]["reward"].isnan().any()
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"synthesis": models(every=None)}, "give --synthesis.every"),
        ({"synthesis": models(method={"condition": "run"})}, "condition return"),
        ({"synthesis": models(sampling=MAKER.Sampling(guidance=2.0))}, "this model has none"),
        ({"synthesis": models(count=2**39)}, "make room, or ask for fewer"),
        ({"dataset": "hopper-sac-replay-10k", "synthesis": models()}, "leave no rows"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        train(run_of(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", [{"every": 1}, {"first": 1}, {"share": 1.0}, {"count": 0}, {"updates": 0}])
def test_settings_have_ranges(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        models(**setting)


def test_conditions_are_settings_of_the_model(tmp_path: Path) -> None:
    made, grows = ring_with_models(
        tmp_path, method={"condition": "return"}, sampling=MAKER.Sampling(levels=3, guidance=2)
    )
    assert all(column.isfinite().all() for batch in batches(made, 30) for column in batch.values())
    assert grows.report()["synthetic_model"] == [3.0, 3.0]


@pytest.mark.slow
def test_the_cost_is_said(tmp_path: Path) -> None:
    assert cost(run_of(), tmp_path / "run").startswith("2 models of each of 2 seeds, each about ")
    assert not (tmp_path / "run").exists()
