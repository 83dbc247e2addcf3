"""`trajmill quality` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trajmill.cli import main
from trajmill.data import load_dataset, write_npz

NAME = "halfcheetah-sac-replay-10k"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real rows with a little noise on the next state, as a model's samples."""
    dataset = load_dataset(NAME).rows(np.arange(0, 10_000, 20))
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("samples") / "samples.npz"
    columns = dataset.to_write()
    columns["next_observations"] = dataset.next_observations + rng.normal(0, 0.3, dataset.observations.shape)
    write_npz(path, **columns)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["quality", *map(str, words)])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_a_directory_is_refused_before_the_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["quality", "no such data", "none", "--out", str(tmp_path)]) == 1
    assert f"{tmp_path} is a directory, and a file is to be written; give a name in it" in capsys.readouterr().err


def test_a_table_for_people(samples: Path, capsys) -> None:
    code, out, err = run(capsys, NAME, samples, "--environment", "none", "--quiet")
    assert (code, err) == (0, "")
    assert "500 rows of each side; 10,000 real rows searched" in out
    for part in ("measure", "real (floor)", "verdict", "marginal score, states", "share memorized"):
        assert part in out
    assert "dynamics error" not in out


def test_numbers_for_machines_and_a_page(samples: Path, capsys, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    page = tmp_path / "quality.html"
    words = (NAME, samples, "--held-out", NAME, "--rows", 200, "--noise", "multiplicative", "--out", page)
    code, out, err = run(capsys, *words, "--json")
    told = json.loads(out)
    assert code == 0 and "simulator" in err and page.exists()
    assert told["row_count"] == 200 and told["held_out"] and told["real_count"] == 10_000
    assert told["dynamics"]["environment_id"] == "HalfCheetah-v4"  # the dataset names it
    assert told["dynamics"]["noise"]["kind"] == "multiplicative"
    # The noise of 0.3 is the error; the simulator's own is rounding.
    assert told["dynamics"]["observation_error"]["value"] == pytest.approx(0.09, rel=0.1)
    assert told["dynamics"]["observation_error"]["floor"] < 1e-6 and told["copied"] == {"value": 0.0, "floor": 1.0}


def test_datasets_that_do_not_fit_are_refused_in_one_line(samples: Path, capsys, tmp_path: Path) -> None:
    code, out, err = run(capsys, "hopper-sac-replay-10k", samples)
    assert (code, out) == (1, "") and "synthetic.observation must have shape (500, 11) as in real" in err
    code, _, err = run(capsys, NAME, tmp_path / "missing.npz")
    assert code == 1 and "missing.npz" in err
    code, _, err = run(capsys, NAME, samples, "--environment", "hopper")
    assert code == 1 and "Hopper-v4 has 11 observation and 3 action numbers" in err


def test_help_teaches(capsys) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for part in ("--held-out", "trajmill quality train.hdf5 samples.npz", "Floors come from real rows"):
        assert part in out
