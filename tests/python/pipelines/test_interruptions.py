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
from tiny_runs import PIPELINES, SETTINGS, assert_equal_runs

from trajmill.cli import main
from trajmill.pipelines.interruption import Interrupted, stop_signals
from trajmill.pipelines.run_directory import RunDirectory, RunDirectoryError
from trajmill.training.checkpoint import read_checkpoint

DRIVER = Path(__file__).with_name("kill_driver.py")


def kill_often(pipeline: str, directory: Path, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, DRIVER, pipeline, directory, str(kills)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= kills


def test_a_run_killed_twice_ends_with_equal_numbers(tmp_path: Path) -> None:
    kill_often("pretrain_cql", tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_run_killed_twenty_times_ends_with_equal_numbers(pipeline: str, tmp_path: Path) -> None:
    kill_often(pipeline, tmp_path, 20)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_checkpoint(pipeline: str, number: signal.Signals, tmp_path: Path) -> None:
    """Between two checkpoints of the schedule, which has them every six updates."""
    config, train = SETTINGS[pipeline], PIPELINES[pipeline]

    def interrupt(task: str, done: int, total: int, unit: str) -> None:
        if done == 8:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"stopped after update 12 of 40, with a checkpoint in .*run$") as e:
        train(replace(config, schedule=replace(config.schedule, checkpoint_interval=50)), tmp_path / "run", interrupt)
    assert e.value.signal == number
    assert [path.name for path in RunDirectory(tmp_path / "run").checkpoints()] == ["step_000000012.safetensors"]
    config = replace(config, schedule=replace(config.schedule, checkpoint_interval=50))
    train(config, tmp_path / "run", resume=True)
    assert_equal_runs(train(config, tmp_path / "whole"), tmp_path / "run")


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


WORDS = """train dt --dataset hopper-sac-replay-10k --compute.device cpu --seeds 0 1 --method.batch-size 8
    --method.context-length 4 --method.backbone.layer-count 1 --method.backbone.width 16 --evaluation-episode-count 1
    --schedule.updates 100000 --schedule.log-interval 8 --quiet"""


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [
        pytest.param(signal.SIGINT, 130, "1", marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "1"),
        pytest.param(signal.SIGTERM, 143, "2", marks=pytest.mark.slow),
    ],
)
def test_the_command_line_says_how_it_ended(number: int, code: int, workers: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "trajmill", *WORDS.split(), "--workers", workers, "--out", str(run)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    logs = [run / "metrics.jsonl"] if workers == "1" else [run / "workers" / w / "metrics.jsonl" for w in ("0", "1")]
    deadline = time.monotonic() + 60
    while not all(log.exists() and log.stat().st_size for log in logs) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code, told
    assert told.count("\n") == 1 and "give the same command with --resume to go on" in told, told
    for log in logs:
        (checkpoint,) = RunDirectory(log.parent).checkpoints()
        assert read_checkpoint(checkpoint)[1]["gradient_step"] > 1


@pytest.mark.parametrize(("words", "advice"), [("train dt", "the same command with --resume"), ("reproduce quick", "")])
def test_what_to_do_next_is_the_command_s_own(
    words: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("stopped after update 5 of 9, with a checkpoint in runs/a", signal.SIGTERM)

    monkeypatch.setattr("trajmill.cli.session.run_command", stopped)
    assert main(words.split()) == 143
    told = capsys.readouterr().err
    assert told.startswith("trajmill: stopped after update 5 of 9, with a checkpoint in runs/a; ")
    assert (advice or "give the same command again") in told and bool(advice) == ("--resume" in told)


def test_a_directory_that_another_program_writes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    config = SETTINGS["pretrain_cql"]

    def again(task: str, done: int, total: int, unit: str) -> None:
        if done == 12:
            words = (
                f"import tiny_runs as t; t.pretrain_cql(t.SETTINGS['pretrain_cql'], t.Path({str(run)!r}), resume=True)"
            )
            other = subprocess.run([sys.executable, "-c", words], cwd=DRIVER.parent, capture_output=True, text=True)
            assert other.returncode == 1 and "run is being written by another process; wait for it" in other.stderr
            with pytest.raises(RunDirectoryError, match="is being written by another process"):
                PIPELINES["pretrain_cql"](config, run, resume=True)

    PIPELINES["pretrain_cql"](config, run, again)
    assert main(["pretrain", "cql", "--out", str(run), "--quiet"]) == 1
    assert "holds a finished run" in capsys.readouterr().err
