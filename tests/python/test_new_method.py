"""A method is one file: thrown into a copy of the package, it is trained, scored, reported, studied and measured.

It has a period of two updates, and a metric that only the second one of each has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import assert_equal_runs, tensors

import trajmill
from trajmill import _core
from trajmill.runs.directory import RunDirectory

FILES = Path(__file__).parents[1] / "support" / "new_method"
BENCHMARK = Path(__file__).parents[2] / "benchmarks/bench_training.py"
WITHOUT_EDITABLE_INSTALL = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from: the package with its compiled module, and two files more."""
    folder = tmp_path_factory.mktemp("copy")
    package, core = Path(trajmill.__file__).parent, Path(_core.__file__)
    shutil.copytree(package, folder / "trajmill", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(core, folder / "trajmill")
    shutil.copy(FILES / "shrink.py", folder / "trajmill" / "algorithms")
    shutil.copy(FILES / "shrink_study.py", folder / "trajmill" / "studies")
    (folder / "sitecustomize.py").write_text(WITHOUT_EDITABLE_INSTALL)  # also for processes that it starts
    return folder


def program(copy: Path, *words: str | Path) -> str:
    """What a program prints that imports the copy."""
    variables = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def driven(copy: Path, what: str, folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(program(copy, FILES / "driver.py", what, folder))
    return said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def said(copy: Path, place: Path) -> dict[str, Any]:
    """What each command said."""
    found = driven(copy, "everything", place)
    assert found["package"] == str(copy / "trajmill" / "__init__.py")
    for name, outcome in found.items():
        assert name == "package" or outcome["code"] == 0, (name, outcome)
    return found


def test_help_knows_it(said: dict[str, Any]) -> None:
    assert "Shrink: behaviour cloning by a linear policy" in said["overview"]["out"]
    text = " ".join(said["help"]["out"].replace("│", " ").split())
    assert "--method.shrinkage" in text and "share of the weights that every second update takes away" in text
    assert "trajmill train shrink --dataset hopper-sac-replay-10k" in text and "(default: 2000)" in text


def test_it_is_trained_and_scored(said: dict[str, Any], place: Path) -> None:
    assert "21 updates of 2 seeds" in said["train"]["out"] and "normalized score" in said["train"]["out"]
    config = json.loads((place / "run" / "config.json").read_text())
    assert (config["kind"], config["variant"], config["environment"]) == ("shrink", "Shrink", "Hopper-v4")
    assert config["config"]["method"] == {"batch_size": 8, "learning_rate": 0.01, "shrinkage": 0.01}


def test_a_metric_of_every_second_update_is_logged_as_it_is_known(said: dict[str, Any], place: Path) -> None:
    lines = RunDirectory(place / "run").lines("train")
    assert [line["update"] for line in lines] == [1, 4, 8, 12, 16, 20, 21]
    assert lines[0]["metrics"]["taken_away"] == [None, None], "the first update takes nothing away"
    assert all(value > 0 for line in lines[1:] for value in line["metrics"]["taken_away"])
    assert all(value > 0 for line in lines for value in line["metrics"]["loss"])
    assert json.loads((place / "run" / "result.json").read_text())["diverged"] == {}


def test_it_is_resumed_in_the_middle_of_a_period_to_the_same_numbers(said: dict[str, Any], place: Path) -> None:
    assert_equal_runs(place / "broken", place / "run")


def test_where_a_run_stops_to_log_or_save_changes_no_update(said: dict[str, Any], place: Path) -> None:
    """The second update of each period is the same one, whatever the schedule."""
    ours, theirs = tensors(place / "run"), tensors(place / "other_stops")
    for name, tensor in ours.items():
        assert name == "metrics" or tensor.equal(theirs[name]), name


def test_it_is_evaluated(said: dict[str, Any]) -> None:
    told = json.loads(said["evaluate"]["out"])
    assert told["update"] == 21 and told["seeds"] == [0, 1] and len(told["returns"]) == 2


def test_it_is_reported(said: dict[str, Any], place: Path) -> None:
    page = (place / "report.html").read_text()
    assert 'data-variant="Shrink"' in page and 'data-finished="yes"' in page
    assert "taken away" in page and "Learning curves on hopper-sac-replay-10k" in page


def test_it_is_studied(said: dict[str, Any], place: Path) -> None:
    told = json.loads(said["reproduce"]["out"])["shrink"]
    assert told["study"] == "shrink" and not told["missing"] and not told["not_yet"]
    (first, second) = told["rows"]["hopper-sac-replay-10k"]
    assert first["ours"] is not None and second["ours"] is not None and first["seed_count"] == 2
    run = json.loads((place / "study/runs/shrink-10/hopper-sac-replay-10k/config.json").read_text())
    assert run["config"]["method"] == {"batch_size": 16, "learning_rate": 0.01, "shrinkage": 0.1}
    assert run["config"]["schedule"]["updates"] == 100, "a quick run, as short for every method"
    assert len(list((place / "study").glob("shrink-*.svg"))) == 2


@pytest.mark.skipif(not BENCHMARK.exists(), reason="there is no folder benchmarks/ beside these tests")
def test_it_is_measured(copy: Path, tmp_path: Path) -> None:
    size = ("--device", "cpu", "--size", "tiny", "--rounds", "2", "--block-seconds", "0.02", "--seeds", "1")
    words = ("--methods", "shrink", "--contenders", "ours", "--out", str(tmp_path / "training.json"))
    program(copy, BENCHMARK, *size, *words)
    record = json.loads((tmp_path / "training.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["shrink fp32 ours, S = 1"]
    assert record["finished"] == ["shrink fp32"] and not record["failed"]


@pytest.mark.slow
def test_processes_share_its_seeds(copy: Path, tmp_path: Path) -> None:
    for outcome in driven(copy, "in_processes", tmp_path).values():
        assert outcome["code"] == 0, outcome
    assert_equal_runs(tmp_path / "two", tmp_path / "one")
    assert json.loads((tmp_path / "two" / "result.json").read_text())["processes"] == 2
