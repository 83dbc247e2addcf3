"""Training goes on where its progress cannot be printed, and ends with a checkpoint where its terminal is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trajmill.cli import main
from trajmill.runs.directory import RunDirectory

MAIN = "import sys; from trajmill.cli import main; sys.exit(main())"
TRAIN = ["train", "td3_bc", "--dataset", "hopper-sac-replay-10k", "--evaluation-episode-count", "1"]
TRAIN += [
    "--method.hidden-sizes",
    "8",
    "8",
    "--schedule.log-interval",
    "1",
    "--schedule.evaluation-interval",
    "1000000",
]


def test_progress_that_cannot_be_printed(tmp_path: Path) -> None:
    words = [*TRAIN, "--schedule.updates", "20", "--out", str(tmp_path / "run")]
    reader, writer = os.pipe()
    os.close(reader)
    code = f"import trajmill.core.display as p; p.LINE_SECONDS = 0.0; {MAIN}"
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 0 and RunDirectory(tmp_path / "run").finished and b"20 updates" in done.stdout


def test_a_result_that_cannot_be_printed_is_a_failure(tmp_path: Path) -> None:
    words = ["generate", "iid", "--sequence-count", "8", "--length", "8", "--quiet", "--out", str(tmp_path / "c")]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1 and done.stderr == "trajmill: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("ignored", [False, True])
def test_a_lost_terminal(ignored: bool, tmp_path: Path) -> None:
    words = [*TRAIN, "--schedule.updates", "3000" if ignored else "10000000", "--out", str(tmp_path / "run")]
    handler = "SIG_IGN" if ignored else "SIG_DFL"  # whatever the tests themselves were started with
    code = f"import signal; signal.signal(signal.SIGHUP, signal.{handler}); {MAIN}"
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    metrics = tmp_path / "run/metrics.jsonl"
    with subprocess.Popen([sys.executable, "-c", code, *words], **pipes) as program:  # type: ignore[call-overload]
        while program.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
            time.sleep(0.05)
        if not ignored:
            program.stderr.close()  # as its terminal is
        program.send_signal(signal.SIGHUP)
        program.stdout.read()
    assert program.returncode == (0 if ignored else 128 + signal.SIGHUP)
    run = RunDirectory(tmp_path / "run")
    assert run.finished is ignored and run.newest_checkpoint() is not None


def test_main_leaves_streams_and_handlers_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr, sys.stdout, [signal.getsignal(number) for number in signal.valid_signals()]
    assert main(["--version"]) == 0 and capsys.readouterr().out
    assert before == (sys.stderr, sys.stdout, [signal.getsignal(number) for number in signal.valid_signals()])
