"""`trajmill dataset` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from trajmill.cli import main
from trajmill.data import OFFICIAL_FILES, bundled_datasets, load_dataset, split_episodes

NAME = "hopper-sac-replay-10k"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["dataset", *map(str, words)])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def damaged(directory: Path) -> Path:
    path = directory / "hopper-mine.hdf5"
    path.write_bytes(load_dataset(NAME).path.read_bytes())
    with h5py.File(path, "a") as file:
        file["timeouts"][:] = False
        file["terminals"][100:3000] = False
    return path


def test_info_tells_the_numbers(capsys) -> None:
    code, out, err = run(capsys, "info", NAME)
    assert (code, err) == (0, "")
    for part in ("Hopper-v4", "9,930", "11, 3 numbers", "70, and 0 rows", "398.5 ± 399.8, normalized 12.9", "2,993.4"):
        assert part in out
    code, out, _ = run(capsys, "info", NAME, "--json")
    told = json.loads(out)
    assert (told["row_count"], told["episode_count"], told["terminal_count"]) == (9930, 70, 69)
    assert told["returns"][-1] == pytest.approx(2993.4, abs=0.05)
    assert told["normalized_score"] == pytest.approx(12.9, abs=0.05)
    assert told["sha256"].startswith("7a3f64d9") and told["release"] == "not one of D4RL's"


def test_validate_passes_or_names_the_fault(tmp_path: Path, capsys) -> None:
    code, out, _ = run(capsys, "validate", NAME)
    assert code == 0 and "valid, 9,930 rows, 0 warnings" in out
    path = damaged(tmp_path)
    code, out, err = run(capsys, "validate", path)
    assert (code, out) == (1, "")
    assert f"{path}: the stored next observation is not the next row's" in err and "--fix-timeouts" in err
    code, out, _ = run(capsys, "validate", path, "--fix-timeouts", "--json")
    told = json.loads(out)
    assert code == 0 and told["valid"] and "marked as timeouts" in told["warnings"][0]
    code, _, err = run(capsys, "validate", path, "--fix-timeouts", "--strict")
    assert code == 1 and "marked as timeouts" in err


def test_validate_repeats_steps_in_the_simulator(tmp_path: Path, capsys) -> None:
    pytest.importorskip("mujoco")
    code, out, _ = run(capsys, "validate", "halfcheetah-sac-replay-10k", "--dynamics", "--json")
    assert code == 0 and json.loads(out)["dynamics"]["row_count"] == 600
    code, _, err = run(capsys, "validate", NAME, "--dynamics", "--environment", "HalfCheetah-v4")
    assert code == 1 and "HalfCheetah-v4" in err


def test_convert_takes_a_part(tmp_path: Path, capsys) -> None:
    target = tmp_path / "part.hdf5"
    words = ("convert", NAME, target, "--subset", "trajectories:0.1", "--subset-seed", "3")
    code, out, _ = run(capsys, *words)
    part = load_dataset(target)
    assert code == 0 and out == f"{target}: {len(part):,} rows in d4rl format\n"
    assert len(split_episodes(part)) == 7
    assert json.loads(part.metadata["subset"])["seed"] == 3
    assert (part.metadata["source"], part.metadata["environment"]) == (NAME, "Hopper-v4")
    code, _, err = run(capsys, *words)
    assert code == 1 and "the file exists" in err
    assert run(capsys, *words, "--overwrite")[0] == 0


@pytest.mark.filterwarnings("default::trajmill.data.DatasetWarning")
def test_convert_to_every_format_and_back(tmp_path: Path, capsys) -> None:
    whole = load_dataset(NAME)
    assert run(capsys, "convert", NAME, tmp_path / "hopper-mine-v0")[0] == 0
    assert run(capsys, "convert", tmp_path / "hopper-mine-v0", tmp_path / "back.hdf5")[0] == 0
    assert run(capsys, "convert", tmp_path / "back.hdf5", tmp_path / "samples", "--to", "npz")[0] == 0
    for path in ("hopper-mine-v0", "back.hdf5", "samples"):
        dataset = load_dataset(tmp_path / path)
        for name in ("observations", "actions", "rewards", "terminals", "next_observations"):
            np.testing.assert_array_equal(getattr(dataset, name), getattr(whole, name))
    code, _, err = run(capsys, "convert", tmp_path / "samples", tmp_path / "unordered.hdf5")
    assert code == 0 and "qlearning_dataset does, misread the file" in err
    assert not load_dataset(tmp_path / "unordered.hdf5").ordered
    code, _, err = run(capsys, "convert", tmp_path / "samples", tmp_path / "no-v0")
    assert code == 1 and "Minari's layout needs episodes" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("info", "absent.hdf5"), "not a known dataset; bundled are"),
        (("convert", NAME, "x.pkl"), "its ending names no format"),
        (("convert", NAME, "x.hdf5", "--subset", "last:5"), "must be one of 'first'"),
        (("convert", NAME, "x.hdf5", "--observation-dim", "5"), "only columns of zeros can be dropped"),
        (("download", "hopper-v9"), "hopper-v9: not one of D4RL's -v2 files"),
        (("download", "hopper-medium-v2", "--out", ".", "--url", "http://127.0.0.1:9/x"), "cannot reach"),
    ],
)
def test_failures_are_one_message(words, message, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_download_says_what_it_fetches_before_it_does(tmp_path, capsys) -> None:
    _, _, err = run(capsys, "download", "hopper-medium-v2", "--out", tmp_path, "--url", "http://127.0.0.1:9/x")
    lines = err.splitlines()
    assert [line.split()[1] for line in lines[:4]] == ["from", "size", "SHA-256", "to"]
    assert "http://127.0.0.1:9/x" in lines[0] and "152,756,557" in lines[1] and str(tmp_path) in lines[3]


def test_every_name_is_listed_with_where_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJMILL_DATASETS", str(tmp_path))
    (tmp_path / "hopper_medium-v2.hdf5").write_bytes(b"12345")
    code, out, _ = run(capsys, "list", "--json")
    listed = {each["name"]: each for each in json.loads(out)["datasets"]}
    assert code == 0 and set(listed) == {*bundled_datasets(), *OFFICIAL_FILES}
    assert Path(listed[NAME]["path"]).exists() and not listed[NAME]["official"]
    assert listed["hopper-medium-v2"]["path"] == str(tmp_path / "hopper_medium-v2.hdf5")
    assert listed["hopper-medium-v2"]["bytes"] == 5 and listed["ant-expert-v2"]["path"] is None
    assert "to download" in run(capsys, "list")[1]
