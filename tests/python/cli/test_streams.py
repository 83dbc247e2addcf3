"""Closed streams, terminals of any width and encoding: none of them takes a result away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = "import sys; from trajmill.cli import main; sys.exit(main())"


def run(words: list[str], shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f'exec "$0" -c "{MAIN}" {" ".join(words)} {shell}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable], capture_output=True, check=False, env=os.environ | environment
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    done = run(["generate", "iid", "--sequence-count", "8", "--length", "8", "--out", str(tmp_path / "c")], closed)
    assert done.returncode == 0 and (tmp_path / "c/manifest.json").is_file()
    assert (b"8 " in done.stdout or b"shards made" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    for path in (tmp_path / "c").iterdir():
        assert b"milling" not in path.read_bytes()
    assert b"milling" not in done.stdout


@pytest.mark.parametrize("columns", ["0", "3"])
def test_widths_of_nothing(columns: str) -> None:
    info = run(["dataset", "info", "hopper-sac-replay-10k"], COLUMNS=columns)
    assert info.returncode == 0 and b"HalfCheetah" not in info.stdout and b"Hopper" in info.stdout
    help_ = run(["generate", "iid", "--help"], "; ulimit -v 8000000", COLUMNS=columns)
    assert help_.returncode == 0 and b"--state-count" in help_.stdout


@pytest.mark.parametrize("encoding", ["ascii"])
def test_terminals_that_do_not_know_a_character(encoding: str, tmp_path: Path) -> None:
    words = ["collect", "hopper", "--kind", "random", "--rows", "20", "--quiet", "--out", str(tmp_path / "x.hdf5")]
    done = run(words, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and b"in 1 episodes" in done.stdout, done.stderr
    for variables in ({"PYTHONIOENCODING": encoding}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        done = run(["dataset", "info", "hopper-sac-replay-10k"], **variables)
        assert done.returncode == 0 and b"Hopper" in done.stdout, done.stderr
