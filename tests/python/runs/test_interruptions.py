"""Runs that are killed, stopped by signals, or started twice: resumed ones end with equal numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import METHODS, SCHEDULE, assert_equal_runs, checkpoint, each, tiny, train

from trajmill.cli import main
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import RunError
from trajmill.runs.signals import Interrupted, stop_signals
from trajmill.training.checkpoint import read_checkpoint

HERE = Path(__file__).parent
SINGLE = os.environ | {"OMP_NUM_THREADS": "1"}


def kill_often(method: str, directory: Path, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "kill_driver.py", method, directory, str(kills)],
        capture_output=True,
        text=True,
        env=SINGLE,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= kills


def test_a_run_killed_twice_ends_with_equal_numbers(tmp_path: Path) -> None:
    kill_often("forward_dynamics", tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", each(METHODS))
def test_a_run_killed_twenty_times_ends_with_equal_numbers(method: str, tmp_path: Path) -> None:
    kill_often(method, tmp_path, 20)


@pytest.mark.parametrize("method", each(METHODS))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_checkpoint(method: str, number: signal.Signals, tmp_path: Path, whole) -> None:
    """Between two checkpoints of the schedule."""
    config = tiny(method, schedule=replace(SCHEDULE, checkpoint_interval=50))

    def interrupt(task: str, done: int, total: int, unit: str) -> None:
        if done == 8:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"after update 12 of 40.* checkpoint in .*run$") as e:
        train(config, tmp_path / "run", interrupt)
    assert e.value.signal == number
    assert [path.name for path in RunDirectory(tmp_path / "run").checkpoints()] == ["step_000000012.safetensors"]
    train(config, tmp_path / "run", resume=True)
    assert_equal_runs(whole(config), tmp_path / "run")


def test_a_second_interrupt_does_not_wait_and_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_signals() as received:
        assert received() is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert received() == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_signal_ends_the_outer_run_too() -> None:
    """One that comes as a run within a run has just ended is not lost."""
    with stop_signals() as received:
        with stop_signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner() == signal.SIGTERM
        assert received() == signal.SIGTERM


WORDS = """train decision_transformer --dataset hopper-sac-replay-10k --compute.device cpu --seeds 0 1
    --method.batch-size 8 --method.context-length 4 --method.backbone.layer-count 1 --method.backbone.width 16
    --evaluation-episode-count 1 --schedule.updates 100000 --schedule.log-interval 8 --quiet"""


@pytest.mark.parametrize(
    ("number", "code", "processes"),
    [
        pytest.param(signal.SIGINT, 130, "1", marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "1"),
        pytest.param(signal.SIGTERM, 143, "2", marks=pytest.mark.slow),
    ],
)
def test_the_command_line_says_how_it_ended(number: int, code: int, processes: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "trajmill", *WORDS.split(), "--processes", processes, "--out", str(run)],
        stderr=subprocess.PIPE,
        text=True,
        env=SINGLE,
    )
    places = [run] if processes == "1" else [run / "processes" / place for place in ("0", "1")]
    logs = [place / "metrics.jsonl" for place in places]
    deadline = time.monotonic() + 300
    while not all(log.exists() and log.stat().st_size for log in logs) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    assert process.returncode == code, told
    assert told.count("\n") == 1 and "--resume" in told, told
    for place in places:
        assert len(RunDirectory(place).checkpoints()) == 1
        assert read_checkpoint(checkpoint(place))[1]["update"] > 1


@pytest.mark.parametrize(
    ("words", "resume"), [("train cql", True), ("reproduce quick", False), ("collect hopper", False)]
)
def test_what_to_do_next_is_the_command_s_own(
    words: str, resume: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("stopped after update 5 of 9, with a checkpoint in runs/a", signal.SIGTERM)

    monkeypatch.setattr("trajmill.cli.session.run_command", stopped)
    assert main(words.split()) == 143
    told = capsys.readouterr().err
    assert told.startswith("trajmill: stopped after update 5 of 9, with a checkpoint in runs/a; ")
    assert "same command" in told and resume == ("--resume" in told)
    assert "checkpoint is kept" in told or "last checkpoint are kept" in told


def test_a_directory_that_another_program_writes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    config = tiny("forward_dynamics")

    def again(task: str, done: int, total: int, unit: str) -> None:
        if done == 12:
            other = os.fork()
            if other == 0:
                try:
                    train(config, run, resume=True)
                except RunError as error:
                    os._exit(7 if "written by another process" in str(error) else 1)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 7
            with pytest.raises(RunError, match="written by another process"):
                train(config, run, resume=True)

    train(config, run, again)
    assert main(["train", "forward_dynamics", "--out", str(run), "--quiet"]) == 1
    assert "finished run" in capsys.readouterr().err
