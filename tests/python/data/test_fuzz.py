"""Randomly damaged files of every format end in a dataset or a DatasetError, never in a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("fuzz_driver.py")
KINDS = ("plain", "latest", "packed", "minari", "metadata", "archive", "stored", "tokens")


def fuzz(directory: Path, seed: int, count: int) -> dict[str, int]:
    words = [sys.executable, DRIVER, directory, str(seed), "0", str(count), "1e9"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=600)
    case = (directory / "case").read_text()
    assert ran.returncode == 0, f"case {case} ended with {ran.returncode}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"
    outcomes: dict[str, int] = json.loads(ran.stdout)
    return outcomes


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, seed=0, count=300)
    assert sum(outcomes.values()) == 300
    assert all(outcomes[f"{kind} refused"] > 10 for kind in KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_damaged_files_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    assert sum(fuzz(tmp_path, seed, count=5000).values()) == 5000
