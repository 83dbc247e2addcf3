from __future__ import annotations

import errno
from pathlib import Path

import h5py
import numpy as np
import pytest
from d4rl_files import ROW_COUNT, valid_columns

from trajmill.data import DatasetError, read_d4rl, write_d4rl


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    columns = valid_columns()
    qpos = np.arange(ROW_COUNT * 3, dtype=np.float64).reshape(ROW_COUNT, 3)
    metadata = {"environment": "Pendulum-v1", "seed": 7, "margin_fix": True, "policy": {"noise": [0.1, 0.2]}}
    path = write_d4rl(tmp_path / "new/set.hdf5", **columns, infos={"qpos": qpos}, metadata=metadata)
    assert path == tmp_path / "new/set.hdf5"
    dataset = read_d4rl(path)  # without a warning: they are errors here
    for name, values in columns.items():
        np.testing.assert_array_equal(getattr(dataset, name), values)
    np.testing.assert_array_equal(dataset.infos["qpos"], qpos)
    assert dataset.metadata == metadata | {"policy": '{"noise": [0.1, 0.2]}'}


def test_the_schema_is_d4rls(tmp_path: Path) -> None:
    columns = {name: values.astype(np.float64) for name, values in valid_columns().items()}
    path = write_d4rl(tmp_path / "set.hdf5", **columns, infos={"qvel": np.zeros((ROW_COUNT, 2), ">f8")})
    with h5py.File(path) as file:
        types = {name: file[name].dtype for name in columns}
        assert types == {name: np.dtype("?" if name in ("terminals", "timeouts") else "<f4") for name in columns}
        assert file["rewards"].shape == file["terminals"].shape == (ROW_COUNT,)
        for name in (*columns, "infos/qvel"):
            assert (file[name].compression, file[name].fletcher32) == ("gzip", True)


def test_columns_of_many_chunks(tmp_path: Path) -> None:
    count = 100_000
    columns = valid_columns(count)
    path = write_d4rl(tmp_path / "set.hdf5", **(columns | {"next_observations": None}))
    with h5py.File(path) as file:
        assert 1 < file["observations"].id.get_num_chunks() < 10
        assert "next_observations" not in file
    np.testing.assert_array_equal(read_d4rl(path).observations, columns["observations"])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("rewards", np.zeros(ROW_COUNT - 1), "'rewards' has 59 rows where 'observations' has 60"),
        ("rewards", np.full(ROW_COUNT, np.nan), "'rewards' holds NaN or infinity in 60 rows, first in row 0"),
        ("actions", np.zeros(ROW_COUNT), r"'actions' has shape \(60,\)"),
        ("actions", np.full((ROW_COUNT, 2), "x"), "'actions' has dtype <U1"),
        ("terminals", np.ones(ROW_COUNT), "both set in 1 rows, first in row 30"),
        ("timeouts", np.full(ROW_COUNT, 2), "'timeouts' holds 2 in row 0"),
        ("infos", {"qpos": np.zeros(3)}, "'infos/qpos' has 3 rows"),
        ("metadata", {"policy": object()}, "metadata 'policy' cannot be written"),
    ],
)
def test_what_no_reader_would_take_is_not_written(tmp_path: Path, name: str, values: object, message: str) -> None:
    path = tmp_path / "set.hdf5"
    with pytest.raises(DatasetError, match=message) as error:
        write_d4rl(path, **(valid_columns() | {name: values}))
    assert str(path) in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_if_asked(tmp_path: Path) -> None:
    columns = valid_columns()
    path = write_d4rl(tmp_path / "set.hdf5", **columns)
    before = path.read_bytes()
    with pytest.raises(DatasetError, match="exists"):
        write_d4rl(path, **(columns | {"rewards": columns["rewards"] + 1}))
    assert path.read_bytes() == before
    write_d4rl(path, **(columns | {"rewards": columns["rewards"] + 1}), overwrite=True)
    np.testing.assert_array_equal(read_d4rl(path).rewards, columns["rewards"] + 1)


def test_the_same_data_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_d4rl(tmp_path / name, **valid_columns()).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("step", ["sync", "create"])
def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = write_d4rl(tmp_path / "set.hdf5", **valid_columns())
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    if step == "sync":
        monkeypatch.setattr("trajmill.core.files.sync", fail)
    else:
        monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="no space left"):
        write_d4rl(path, **valid_columns(), overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
