"""What a run may change when it goes on: where its data lies, its label, its schedule; and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import HOPPER, killed, lines, tensors, tiny, train

from trajmill.data import load_dataset, write_d4rl
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import RunError, read_config
from trajmill.training.checkpoint import CheckpointError
from trajmill.training.metrics import MetricRing, resized
from trajmill.training.settings import Schedule

NEVER = 10**6
SHORT = Schedule(updates=12, log_interval=4, evaluation_interval=NEVER, checkpoint_interval=6)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and a copy of it."""
    first = write_d4rl(tmp_path / "hopper.hdf5", **load_dataset(HOPPER).to_write())
    (tmp_path / "elsewhere").mkdir()
    return first, Path(shutil.copy(first, tmp_path / "elsewhere/hopper-renamed.hdf5"))


def config_of(dataset: Path | str, **changes: Any) -> Any:
    return replace(tiny("td3_bc", dataset=str(dataset), environment="Hopper-v4"), schedule=SHORT, **changes)


def test_the_same_data_under_another_path(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another directory, by another name, with another label: the bytes are the same."""
    run = tmp_path / "run"
    killed(config_of(places[0]), run, 8)
    monkeypatch.chdir(places[1].parent)
    moved = config_of(places[1].name, variant="again")
    train(moved, run, resume=True)
    assert RunDirectory(run).finished and RunDirectory(run).update == 12
    assert read_config(run)["config"]["dataset"] == places[1].name
    assert (read_config(run)["dataset"], read_config(run)["variant"]) == ("hopper-renamed", "again")
    whole = train(config_of(places[0]), tmp_path / "whole")
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor, tensors(run)[name]), name


def test_other_data_is_no_other_path(places: tuple[Path, Path], tmp_path: Path) -> None:
    """Also if only what follows differs, which no earlier version looked at; and so in a mixture."""
    changed = load_dataset(places[1])
    assert changed.next_observations is not None
    changed.next_observations[-1] += 1.0
    other = write_d4rl(tmp_path / "hopper-other.hdf5", **changed.to_write())
    killed(config_of(places[0]), tmp_path / "run", 8)
    with pytest.raises(CheckpointError, match="another run: its following_sha256"):
        train(config_of(other), tmp_path / "run", resume=True)
    killed(config_of(HOPPER, mix=(f"{places[0]}=0.5",)), tmp_path / "mixed", 8)
    with pytest.raises(CheckpointError, match="another run: its mix"):
        train(config_of(HOPPER, mix=(f"{other}=0.5",)), tmp_path / "mixed", resume=True)
    train(config_of(HOPPER, mix=(f"{places[1]}=0.5",)), tmp_path / "mixed", resume=True)


@pytest.mark.parametrize("done", [8, 12])
@pytest.mark.parametrize("interval", [1, 3, 4, 100])
def test_a_longer_schedule_with_other_intervals_ends_as_one_run(done: int, interval: int, tmp_path: Path) -> None:
    """Killed or finished; a line of metrics is the mean since the one before, but of no more than an interval."""
    longer = Schedule(updates=20, log_interval=interval, evaluation_interval=NEVER, checkpoint_interval=5)
    run, config = tmp_path / "run", config_of(HOPPER)
    if done == 12:
        train(config, run)
    else:
        killed(config, run, done)
    train(replace(config, schedule=longer), run, resume=True)
    assert RunDirectory(run).finished and RunDirectory(run).update == 20
    whole = train(replace(config, schedule=replace(SHORT, updates=20, log_interval=1)), tmp_path / "whole")
    for name, tensor in tensors(whole).items():
        assert name == "metrics" or torch.equal(tensor, tensors(run)[name]), name
    single = {line["update"]: line["metrics"] for line in lines(whole, "train")}
    before, resumed = 0, 6 if done == 8 else 12
    for line in lines(run, "train"):
        if line["update"] > resumed:
            before = max(before, resumed - resumed % interval)
        for name, values in line["metrics"].items():
            for seed, value in enumerate(values):
                made = [single[update][name][seed] for update in range(before + 1, line["update"] + 1)]
                known = [number for number in made if number is not None]
                assert value is None or value == pytest.approx(sum(known) / len(known), rel=1e-5), (
                    line["update"],
                    name,
                )
        before = line["update"]


def test_fewer_updates_than_were_made_and_other_settings_are_refused(tmp_path: Path) -> None:
    config = config_of(HOPPER)
    run = train(config, tmp_path / "run")
    before = (run / "config.json").read_bytes(), (run / "result.json").read_bytes()
    with pytest.raises(RunError, match="has made 12 updates, 9 were asked for"):
        train(replace(config, schedule=replace(SHORT, updates=9)), run, resume=True)
    for changes in ({"seeds": (7,)}, {"evaluation_episode_count": 9}, {"mix": (f"{HOPPER}=0.5",)}):
        with pytest.raises(RunError, match="other settings"):
            train(replace(config, **changes), run, resume=True)
    train(replace(config, variant="another"), run, resume=True)  # nothing is left to do
    assert before == ((run / "config.json").read_bytes(), (run / "result.json").read_bytes())


@pytest.mark.parametrize(("was", "now"), [(4, 9), (9, 4), (5, 5), (1, 7)])
@pytest.mark.parametrize("end", [1, 3, 4, 11, 20])
def test_a_ring_of_another_size_holds_the_same_last_updates(was: int, now: int, end: int) -> None:
    ring = MetricRing.of(("a",), 2, was, torch.device("cpu"))
    for update in range(end):
        ring.write(torch.tensor(update), {"a": torch.full((2,), float(update))})
    larger = MetricRing(("a",), resized(ring.values, now, end))
    kept = min(was, now, end)
    assert larger.mean_of_last(end - kept, end) == ring.mean_of_last(end - kept, end)
    larger.write(torch.tensor(end), {"a": torch.full((2,), float(end))})
    assert larger.mean_of_last(end, end + 1) == {"a": [end, end]}
