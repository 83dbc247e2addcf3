"""Loggers: every record once, whatever ends a run and however it goes on."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_runs import Killed, assert_equal_runs, killing, lines, tiny, train

from trajmill.cli import main
from trajmill.experiments import loggers
from trajmill.experiments.loggers import TensorBoard, Trackio, Wandb, curves, logger_named
from trajmill.runs.directory import RunDirectory
from trajmill.runs.watching import Record, Stopped, Watch

CONFIG = tiny("td3_bc")


class Notes:
    """A logger that notes what it is told, and fails when it is to."""

    name = "notes"

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.records: list[tuple[str, int]] = []
        self.begun: list[tuple[Path, str, Any]] = []
        self.ended = 0
        self.fails_at = fails_at

    def begin(self, path: Path, identity: str, settings: Any) -> None:
        self.begun.append((path, identity, settings))

    def log(self, record: Record) -> None:
        if record.update == self.fails_at:
            raise OSError("the network is gone")
        self.records.append((record.phase, record.update))

    def end(self) -> None:
        self.ended += 1


def told(run: Path) -> list[tuple[str, int]]:
    return [(line["phase"], line["update"]) for line in lines(run)]


def test_a_logger_gets_every_record_once_also_of_a_run_that_is_killed(
    whole: Callable[..., Path], tmp_path: Path
) -> None:
    """Records after the last checkpoint are made twice."""
    notes, run = Notes(), tmp_path / "run"
    with pytest.raises(Killed):
        train(CONFIG, run, killing(20), loggers=[notes])
    assert notes.records[-1] == ("evaluation", 20) and RunDirectory(run).update == 18
    train(CONFIG, run, resume=True, loggers=[notes])
    assert notes.records == told(run) and notes.ended == 2
    (path, identity, settings), again = notes.begun
    assert path == run and (path, identity) == again[:2] and len(identity) == 8
    assert settings["kind"] == "td3_bc" and settings["config"]["schedule"]["updates"] == 40
    assert_equal_runs(run, whole(CONFIG))


def test_a_logger_that_comes_late_gets_what_was_before(tmp_path: Path) -> None:
    notes, later, run = Notes(), Notes(), tmp_path / "run"
    train(CONFIG, run, callback=lambda record: record.update == 20)
    train(CONFIG, run, resume=True, loggers=[notes])
    assert notes.records == told(run) and len(notes.records) > 10
    train(CONFIG, run, resume=True, loggers=[notes])  # it has finished
    assert notes.records == told(run)
    later.name = "later"
    train(CONFIG, run, resume=True, loggers=[later])
    assert later.records == told(run)


def test_a_logger_that_fails_costs_no_run_and_gets_the_rest_later(whole: Callable[..., Path], tmp_path: Path) -> None:
    notes, run = Notes(fails_at=16), tmp_path / "run"
    with pytest.warns(RuntimeWarning, match="notes failed: the network is gone; the run goes on without it"):
        train(CONFIG, run, loggers=[notes])
    assert_equal_runs(run, whole(CONFIG))
    assert notes.records[-1] == ("train", 12)
    notes.fails_at = None
    train(CONFIG, run, resume=True, loggers=[notes])
    assert notes.records == told(run)


def test_a_logger_that_cannot_begin_ends_the_run_before_it_trains(tmp_path: Path) -> None:
    class Closed(Notes):
        def begin(self, *_: Any) -> None:
            raise PermissionError("no such account")

    open_one, run = Notes(), tmp_path / "run"
    with pytest.raises(RuntimeError, match="notes cannot begin to log: no such account; put that right and resume"):
        train(CONFIG, run, loggers=[open_one, Closed()])
    assert open_one.ended == 1 and lines(run) == []


def test_curves_are_of_each_seed_and_of_their_mean() -> None:
    record = Record.of("train", 7, 1.5, (5, 3), {"loss": [1.0, 3.0], "q": [2.0, None]})
    found = {(who, tag): value for who, tag, value in curves(record)}
    assert found[("mean", "train/loss")] == 2.0 and found[("seed_3", "train/loss")] == 3.0
    assert math.isnan(found[("mean", "train/q")]) and found[("seed_5", "train/q")] == 2.0
    alone = Record.of("train", 7, 1.5, (5,), {"loss": [1.0]})
    assert list(curves(alone)) == [("seed_5", "train/loss", 1.0)]


def test_records_of_processes_are_joined_and_a_watch_stops_at_true_alone() -> None:
    parts = [Record.of("train", 7, seconds, (seed,), {"loss": [seed]}) for seed, seconds in ((5, 1.0), (3, 2.0))]
    joined = Record.joined(parts)
    assert joined.seeds == (5, 3) and joined.wall_seconds == 2.0 and joined.metrics["loss"].tolist() == [5.0, 3.0]
    with pytest.raises(Stopped):
        Watch(lambda record: np.True_)(joined)
    Watch(lambda record: 1)(joined)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_each_seed_and_the_mean(whole: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(CONFIG, run, killing(20), loggers=[TensorBoard()])
    train(CONFIG, run, resume=True, loggers=[logger_named("tensorboard")])
    assert sorted(path.name for path in (run / "tensorboard").iterdir()) == ["mean", "seed_3", "seed_5"]
    for who, choose in {"seed_3": lambda row: row[1], "mean": np.mean}.items():
        events = EventAccumulator(str(run / "tensorboard" / who)).Reload()
        for phase, name in (("train", "q_loss"), ("evaluation", "return_mean")):
            written = lines(run, phase)
            points = [(event.step, event.value) for event in events.Scalars(f"{phase}/{name}")]
            assert [step for step, _ in points] == [line["update"] for line in written]
            wanted = [choose(line["metrics"][name]) for line in written]
            np.testing.assert_allclose([value for _, value in points], wanted, rtol=1e-6)


def test_tensorboard_is_given_updates_as_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not installed."""
    points: list[tuple[str, str, float, int]] = []

    class SummaryWriter:
        def __init__(self, place: str) -> None:
            self.who = Path(place).relative_to(tmp_path / "tensorboard").name
            self.flush = self.close = lambda: None

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            points.append((self.who, tag, value, step))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))  # type: ignore[arg-type]
    logger = TensorBoard()
    logger.begin(tmp_path, "", {})
    logger.log(Record.of("train", 7, 1.5, (5, 3), {"loss": [1.0, 3.0]}))
    logger.end()
    assert points == [(who, "train/loss", value, 7) for who, value in (("mean", 2.0), ("seed_5", 1.0), ("seed_3", 3.0))]


def fake(monkeypatch: pytest.MonkeyPatch, name: str) -> SimpleNamespace:
    """A library with W&B's interface, which keeps what it is told."""
    library = SimpleNamespace(options=[], points=[], finished=0)

    def init(**options: Any) -> SimpleNamespace:
        library.options.append(options)
        return SimpleNamespace(log=lambda values, step: library.points.append((step, values)), finish=finish)

    def finish() -> None:
        library.finished += 1

    library.init, library.finish = init, finish
    monkeypatch.setitem(sys.modules, name, library)  # type: ignore[arg-type]
    return library


@pytest.mark.parametrize("kind", [Wandb, Trackio])
def test_trackers_get_one_run_with_seeds_under_their_names(
    kind: type[Wandb], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = fake(monkeypatch, kind.name)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    run = tmp_path / "run"
    train(CONFIG, run, callback=lambda record: record.update == 8, loggers=[kind(group="mine")])
    train(CONFIG, run, resume=True, loggers=[kind(group="mine")])
    first, second = library.options
    assert first == second and library.finished == 2
    assert first["resume"] == "allow" and first["group"] == "mine" and first["config"]["kind"] == "td3_bc"
    if kind is Wandb:
        assert first["project"] == "theirs" and first["dir"] == str(run) and first["name"] == "run" and first["id"]
    else:
        assert first["project"] == "trajmill" and first["name"].startswith("run-")
    assert [step for step, _ in library.points] == [line["update"] for line in lines(run)]
    values, line = library.points[0][1], lines(run)[0]["metrics"]["q_loss"]
    assert values["seed_5/train/q_loss"] == line[0] and values["train/q_loss"] == np.mean(line)
    assert set(library.points[-1][1]) >= {"evaluation/return_mean", "seed_3/evaluation/normalized_score"}


@pytest.mark.parametrize("name", list(loggers._KINDS))
def test_a_missing_library_is_named_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [each for each in sys.modules if each.split(".")[0] == name or each == "torch.utils.tensorboard"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    words = ["train", "td3_bc", "--dataset", "hopper-sac-replay-10k", "--out", str(tmp_path / "run"), "--log", name]
    assert main(words) == 1
    told = f"the logger {name} needs {name}, which is not installed: pip install 'trajmill[{name}]'"
    assert told in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_the_command_has_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = [fake(monkeypatch, name) for name in ("wandb", "trackio")]
    words = ["train", "td3_bc", "--dataset", "hopper-sac-replay-10k", "--schedule.updates", "2", "--quiet"]
    words += ["--method.hidden-sizes", "8", "8", "--evaluation-episode-count", "1", "--out", str(tmp_path / "run")]
    assert main([*words, "--log", "wandb", "trackio"]) == 0
    for library in libraries:
        assert [step for step, _ in library.points] == [1, 2, 2]
        assert "train/q_loss" in library.points[0][1]
