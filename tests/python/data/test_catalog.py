"""Finding datasets by name, telling formats apart, and the official releases."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from d4rl_files import valid_columns, walk_columns, write

from trajmill.data import (
    OFFICIAL_FILES,
    DatasetError,
    DatasetWarning,
    clip_actions,
    keep_observations,
    load_dataset,
    read_d4rl,
    write_minari,
    write_npz,
)

NAME = "hopper-medium-replay-v2"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("D4RL_DATASET_DIR", "MINARI_DATASETS_PATH", "TRAJMILL_DATASETS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def official(path: Path, monkeypatch: pytest.MonkeyPatch, *, old: bool = False, unmarked: int | None = None) -> Path:
    """A small file that passes for D4RL's; the end in row `unmarked` is not marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = walk_columns() | {f"infos/{name}": np.ones((300, 6)) for name in ("qpos", "qvel", "action_log_probs")}
    columns["timeouts"][-1] = True
    if unmarked is not None:
        columns["timeouts"][unmarked] = False
    write(path, columns)
    size, sha256 = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    entry = OFFICIAL_FILES[NAME]
    entry = replace(entry, old_size=size) if old else replace(entry, size=size, sha256=sha256)
    monkeypatch.setitem(OFFICIAL_FILES, NAME, entry)
    return path


PLACES = {
    "D4RL_DATASET_DIR": "mine",
    "": ".d4rl/datasets",
    "TRAJMILL_DATASETS": "own",
    "XDG_CACHE_HOME": "xdg/trajmill/datasets",
    "none": ".cache/trajmill/datasets",
}


@pytest.mark.parametrize("variable", PLACES)
@pytest.mark.parametrize("file_name", ["hopper_medium_replay-v2.hdf5", "hopper-medium-replay-v2.hdf5"])
def test_official_names_are_found_in_the_usual_places(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, file_name: str
) -> None:
    if variable not in ("", "none"):
        monkeypatch.setenv(variable, str(home / PLACES[variable].split("/")[0]))
    path = official(home / PLACES[variable] / file_name, monkeypatch)
    for name in (NAME, "hopper_medium_replay-v2", "Hopper-medium-replay-v2"):
        assert load_dataset(name).path == path  # without a warning: they are errors here


def test_a_missing_official_file_says_where_it_was_looked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", "/data/d4rl")
    with pytest.raises(DatasetError) as error:
        load_dataset(NAME)
    places = f"/data/d4rl, {home}/.d4rl/datasets, {home}/.cache/trajmill/datasets"
    assert f"hopper_medium_replay-v2.hdf5 (75,854,457 bytes) is in none of {places}" in str(error.value)
    assert f"`trajmill dataset download {NAME}`" in str(error.value)


@pytest.mark.parametrize("configured", [False, True])
def test_minari_ids(home: Path, monkeypatch: pytest.MonkeyPatch, configured: bool) -> None:
    root = home / ("sets" if configured else ".minari/datasets")
    if configured:
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    write_minari(root / "mujoco/toy/mine-v0", **valid_columns(), dataset_id="mujoco/toy/mine-v0")
    assert load_dataset("mujoco/toy/mine-v0").name == "mujoco/toy/mine-v0"
    with pytest.raises(DatasetError, match=f"not a known dataset.*{root}/mujoco/toy.*bundled are"):
        load_dataset("mujoco/toy/other-v0")
    with pytest.raises(DatasetError, match=r"no such file, and not a known dataset.*bundled are"):
        load_dataset("../datasets/mujoco/toy/mine-v0")


def test_formats_are_told_apart(tmp_path: Path) -> None:
    columns = valid_columns()
    archive = write_npz(tmp_path / "samples.npz", **columns)
    directory = write_minari(tmp_path / "toy-v0", **columns)
    renamed = tmp_path / "samples.hdf5"
    renamed.write_bytes(archive.read_bytes())
    places = [write(tmp_path / "set.hdf5", columns), directory, directory / "data", archive, renamed]
    places += [directory / "data/main_data.hdf5", directory / "data/metadata.json"]
    for place in places:
        np.testing.assert_array_equal(load_dataset(place).observations, columns["observations"])
    (tmp_path / "tokens.csv").write_text("1,2\r\n")
    with pytest.raises(DatasetError, match="read_token_csv"):
        load_dataset(tmp_path / "tokens.csv")
    with pytest.raises(DatasetError, match=r"a directory, but not a dataset"):
        load_dataset(tmp_path)


# --- releases ---


def test_the_current_release_has_its_infos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(official(tmp_path / "hopper_medium_replay-v2.hdf5", monkeypatch))
    assert sorted(dataset.infos) == ["action_log_probs", "qpos", "qvel"]


@pytest.mark.parametrize("file_name", ["hopper_medium_replay-v2.hdf5", "renamed.hdf5"])
def test_the_old_release_is_read_without_qpos_and_qvel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_name: str
) -> None:
    path = official(tmp_path / file_name, monkeypatch, old=True)
    with pytest.warns(
        DatasetWarning, match="old release of D4RL's file.*'infos/qpos' and 'infos/qvel' are wrong"
    ) as told:
        dataset = load_dataset(path)
    assert len(told) == 1
    assert list(dataset.infos) == ["action_log_probs"]
    np.testing.assert_array_equal(dataset.rewards, walk_columns()["rewards"])


def test_unmarked_ends_of_official_files_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = official(tmp_path / "hopper_medium_replay-v2.hdf5", monkeypatch, unmarked=200)
    with pytest.warns(DatasetWarning, match="first in row 200: 'timeouts' leaves ends unmarked; marked as timeouts"):
        dataset = load_dataset(path)
    assert dataset.timeouts.nonzero()[0].tolist() == [200, 299]
    other = tmp_path / "other.hdf5"
    other.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DatasetError, match="--fix-timeouts"):
        load_dataset(other)


def test_one_changed_byte_makes_a_file_unofficial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = official(tmp_path / "hopper_medium_replay-v2.hdf5", monkeypatch)
    with h5py.File(path, "a") as file:
        file["rewards"][5] = 0.5
    with pytest.warns(DatasetWarning, match="the name of D4RL's hopper-medium-replay-v2 but is another file"):
        load_dataset(path)


# --- changes while loading ---


def ant(path: Path, *, force: float = 0.0) -> Path:
    columns = walk_columns(300, 27, 8)
    columns["timeouts"][-1] = True
    for name in ("observations", "next_observations"):
        columns[name] = np.pad(columns[name], ((0, 0), (0, 84)))
    columns["next_observations"][100, 30] = force  # where an episode ends
    return write(path, columns, environment="Ant-v4")


def test_ant_has_111_numbers_or_27(tmp_path: Path) -> None:
    path = ant(tmp_path / "set.hdf5")
    with pytest.warns(DatasetWarning, match=r"never change in 84 columns \(27-110\)"):
        whole, part = load_dataset(path), load_dataset(path, observation_dim=27)
    assert (whole.observation_dim, part.observation_dim) == (111, 27)
    assert part.next_observations is not None and part.next_observations.shape == (300, 27)
    np.testing.assert_array_equal(part.observations, walk_columns(300, 27, 8)["observations"])


@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
def test_only_zeros_are_dropped(tmp_path: Path) -> None:
    path = ant(tmp_path / "set.hdf5", force=1e-4)
    with pytest.raises(DatasetError, match=r"'next_observations' holds .*e-05|1e-04|0\.0001.* in row 100, column 30"):
        load_dataset(path, observation_dim=27)
    for size in (0, 112):
        with pytest.raises(DatasetError, match=f"has 111 columns, {size} were asked for"):
            load_dataset(path, observation_dim=size)


def test_without_next_observations(tmp_path: Path) -> None:
    columns = {name: values for name, values in valid_columns().items() if name != "next_observations"}
    columns["observations"][:, 2:] = 0
    with pytest.warns(DatasetWarning, match="never change"):
        dataset = keep_observations(read_d4rl(write(tmp_path / "set.hdf5", columns)), 2)
    assert dataset.observation_dim == 2 and dataset.next_observations is None


def test_clipping_needs_a_limit(tmp_path: Path) -> None:
    dataset = read_d4rl(write(tmp_path / "set.hdf5", valid_columns()))
    assert np.abs(clip_actions(dataset, 0.25).actions).max() == 0.25
    for limit in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="action limit must be"):
            clip_actions(dataset, limit)
