"""Data that nobody asked for never refuses a file, and never goes without a word."""

from __future__ import annotations

import fcntl
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from d4rl_files import walk_columns, write
from numpy.typing import NDArray

from trajmill.data import (
    DatasetError,
    environment_of,
    hdf5,
    load_dataset,
    read_minari,
    read_npz,
    write_d4rl,
    write_minari,
    write_npz,
)
from trajmill.data.environments import TASKS, find_environment
from trajmill.experiments.datasets import convert

ROWS = 300
Columns = dict[str, NDArray[Any]]


def whole() -> Columns:
    columns = walk_columns()
    columns["timeouts"][-1] = True
    return columns


KEPT: dict[str, NDArray[Any]] = {
    dtype: np.zeros(ROWS, dtype) for dtype in ("?", "i1", "u1", ">i4", "i8", "f2", "f4", ">f8")
} | {
    "NaN": np.full(ROWS, np.nan),
    "infinite": np.full((ROWS, 2), -np.inf, "f4"),
    "deep": np.zeros((ROWS, 2, 3, 4)),
    "without columns": np.zeros((ROWS, 0)),
}
LEFT_OUT: dict[str, Any] = {
    "text": np.full(ROWS, b"walk"),
    "long text": np.array(["walk"] * ROWS, h5py.string_dtype()),
    "complex": np.zeros(ROWS, "c8"),
    "records": np.zeros(ROWS, [("a", "f4"), ("b", "f4")]),
    "a scalar": np.int64(5),
    "short": np.zeros(3),
    "long": np.zeros((ROWS + 1, 2)),
    "a summary": np.zeros((1, ROWS)),
    "nothing": np.zeros(0),
    "absent": h5py.Empty("f4"),
}


@pytest.mark.parametrize("case", KEPT)
def test_infos_are_kept_as_they_are(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", whole() | {"infos/x": KEPT[case]})
    dataset = load_dataset(path)
    np.testing.assert_array_equal(dataset.infos["x"], KEPT[case])
    if KEPT[case].size:
        again = load_dataset(write_d4rl(tmp_path / "again.hdf5", **dataset.to_write()))
        np.testing.assert_array_equal(again.infos["x"], KEPT[case])
        assert again.infos["x"].dtype == KEPT[case].dtype.newbyteorder("=")
        in_minari = read_minari(write_minari(tmp_path / "set-v0", **dataset.to_write()))
        np.testing.assert_array_equal(in_minari.infos["x"], KEPT[case])


@pytest.mark.parametrize("case", LEFT_OUT)
def test_infos_that_are_no_columns_are_left_out_with_a_warning(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", whole())
    with h5py.File(path, "a") as file:
        file["infos/x"] = LEFT_OUT[case]
        file["infos/y"] = np.arange(ROWS)
    with pytest.warns(match="1 keys are left out: key 'infos/x'") as told:
        dataset = load_dataset(path)
    assert (len(told), list(dataset.infos), len(dataset)) == (1, ["y"], ROWS)


def test_infos_that_the_caller_gives_are_not_left_out(tmp_path: Path) -> None:
    for case in ("text", "complex", "short", "a scalar"):
        for writer, name in ((write_d4rl, "set.hdf5"), (write_minari, "set-v0")):
            with pytest.raises(DatasetError, match="infos/x"):
                writer(tmp_path / name, **whole(), infos={"x": LEFT_OUT[case]})  # type: ignore[operator]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("other", [np.zeros((5, 2), "i8"), np.zeros(5, "f8"), np.zeros(5, "i4"), None, "unordered"])
def test_infos_that_episodes_do_not_share_are_left_out(other: Any, tmp_path: Path) -> None:
    columns = {name: values[:10] for name, values in walk_columns().items()}
    length = 1 if isinstance(other, str) else 5
    columns["timeouts"] = np.arange(10) % length == length - 1
    big = np.arange(10) + 2**53
    directory = write_minari(tmp_path / "set-v0", **columns, infos={"id": big, "same": big}, metadata={"x": 1})
    if isinstance(other, str):
        text = (directory / "data/metadata.json").read_text()
        (directory / "data/metadata.json").write_text(text.replace('"x": 1', '"ordered": false'))
    with h5py.File(directory / "data/main_data.hdf5", "a") as file:
        assert len(file) == 10 // length
        del file["episode_1/infos/id"]
        if isinstance(other, np.ndarray):
            file["episode_1/infos/id"] = other
    with pytest.warns(match="1 keys are left out: key 'infos/id'"):
        dataset = read_minari(directory)
    assert list(dataset.infos) == ["same"]
    np.testing.assert_array_equal(dataset.infos["same"], big)


@pytest.mark.parametrize("name", ["", ".", "..", "a//b", "a/..", "/a"])
def test_infos_of_impossible_names_are_refused(name: str, tmp_path: Path) -> None:
    for writer, file in ((write_d4rl, "set.hdf5"), (write_minari, "set-v0")):
        with pytest.raises(DatasetError, match="a name that no file can hold"):
            writer(tmp_path / file, **whole(), infos={name: np.zeros(ROWS)})  # type: ignore[operator]


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "next_observations", "timeouts", "infos"])
def test_masks_are_not_dropped(name: str, tmp_path: Path) -> None:
    columns: dict[str, Any] = whole() | {"infos": {"x": np.zeros(ROWS)}}
    values = columns["infos"]["x"] if name == "infos" else columns[name]
    masked = np.ma.array(values, mask=np.zeros(values.shape, bool))
    masked[3] = np.ma.masked
    columns |= {"infos": {"x": masked}} if name == "infos" else {name: masked}
    for writer, file in ((write_d4rl, "set.hdf5"), (write_minari, "set-v0"), (write_npz, "set.npz")):
        given = columns
        if writer is write_npz:  # which leaves infos out with a warning
            given = columns | {"infos": None}
            if name == "infos":
                continue
        with pytest.raises(DatasetError, match="masked values"):
            writer(tmp_path / file, **given)  # type: ignore[operator]
    assert not any(tmp_path.iterdir())


def test_infos_beyond_the_memory_budget_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", whole())
    with h5py.File(path, "a") as file:
        file.create_dataset("infos/huge", (ROWS, 10**9), "f4", chunks=(1, 10**4))
        file.create_dataset("video", (10**12,), "f4", chunks=(10**4,))
        packing = {"chunks": (20,), "compression": "gzip", "fletcher32": True}
        chunk = file.create_dataset("infos/bad", data=np.arange(float(ROWS)), **packing).id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.warns() as told:
        dataset = load_dataset(path, memory_budget=10**6)
    assert len(dataset) == ROWS and not dataset.infos
    messages = " ".join(str(warning.message) for warning in told)
    for words in ("'infos/huge'", "'infos/bad' holds corrupted data in rows 20 to 39", "not read: 'video'"):
        assert words in messages


def test_columns_of_other_names_are_named_when_they_are_not_read(tmp_path: Path) -> None:
    more = {"costs": np.ones(ROWS), "goals": np.ones((ROWS, 2))}
    path = write(tmp_path / "set.hdf5", whole() | more)
    with pytest.warns(match="keys that no dataset has are not read: 'costs', 'goals'"):
        load_dataset(path)
    archive = tmp_path / "set.npz"
    np.savez(archive, **whole(), **more)
    with pytest.warns(match="not read: 'costs', 'goals'"):
        read_npz(archive)


def test_what_a_format_does_not_hold_is_said(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "set.hdf5", **whole(), infos={"x": np.zeros(ROWS)})
    with pytest.warns(match="holds no infos; 1 are left out"):
        write_npz(tmp_path / "set.npz", **whole(), infos={"x": np.zeros(ROWS)})
    with pytest.warns() as told:
        convert(path, tmp_path / "other.npz")
    assert "holds no infos" in str(told[0].message)
    assert "become single transitions in no order" in str(told[1].message)
    columns = {name: values for name, values in whole().items() if name != "next_observations"}
    for writer, name in ((write_minari, "set-v0"), (write_npz, "third.npz")):
        with pytest.raises(DatasetError, match="needs 'next_observations'"):
            writer(tmp_path / name, **columns, next_observations=None)  # type: ignore[operator, arg-type]


# --- names ---

NAMES = {
    "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed": None,
    "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse": None,
    "antmaze-large-diverse-v2": None,
    "ant-maze-mine": None,
    "maze2d-umaze-sparse-v1": None,
    "kitchen_complete-v0": None,
    "pen-human-v1": None,
    "ant_medium_replay-v2": "Ant-v4",
    "hopper-mine": "Hopper-v4",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_environments_are_not_taken_for_tasks(name: str, tmp_path: Path) -> None:
    task = next((task for task in TASKS.values() if task.environment_id == NAMES[name]), None)
    sizes = (29, 8) if task is None else (task.observation_dim, task.action_dim)
    columns = walk_columns(ROWS, *sizes)
    columns["timeouts"][-1] = True
    path = write(tmp_path / f"{name}.hdf5", columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = load_dataset(path)
    assert find_environment(dataset) == NAMES[name]
    if task is not None:
        assert environment_of(dataset) == task.environment_id


# --- files that others hold ---


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BlockingIOError(11, "unable to lock file, errno = 11"), "another program has the HDF5 file open for writing"),
        (OSError("Unable to open file (file is already open for write (may use <h5clear file>))"), "another program"),
        (OSError("Unable to open file (file is already open for SWMR write)"), "another program"),
        (OSError("Unable to open file (truncated file: eof = 96)"), "probably cut short"),
    ],
)
def test_a_file_in_use_is_not_called_cut_short(
    error: OSError, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "set.hdf5", whole())

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(DatasetError, match=words):
        load_dataset(path)


def test_a_file_that_a_writer_holds_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", whole())
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as HDF5 locks what it writes
        with pytest.raises(DatasetError, match="another program has the HDF5 file open for writing"):
            load_dataset(path)
    assert len(load_dataset(path)) == ROWS


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "set.hdf5", whole())

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(DatasetError, match="Permission denied"):
        hdf5._sniff(path)
