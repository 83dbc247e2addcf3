from __future__ import annotations

import gzip
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from d4rl_files import ROW_COUNT, valid_columns, write
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmill.data import Dataset, DatasetError, DatasetWarning, qlearning_transitions, read_d4rl, split_episodes

Columns = dict[str, NDArray[Any]]


def toy(terminals: list[int], timeouts: list[int], *, stored: bool = True) -> Dataset:
    """Rows whose observation is their number and whose stored next observation is their number plus a half."""
    count = len(terminals)
    rows = np.arange(count, dtype=np.float32)[:, None]
    return Dataset(
        name="toy",
        path=Path("toy.hdf5"),
        observations=rows,
        actions=rows / count,
        rewards=rows[:, 0] * 2,
        terminals=np.array(terminals, np.bool_),
        timeouts=np.array(timeouts, np.bool_),
        next_observations=rows + 0.5 if stored else None,
    )


def qlearning_reference(dataset: Dataset) -> list[tuple[float, float, float, float, bool]]:
    """D4RL's `qlearning_dataset`, row by row: the slow twin."""
    rows = []
    for i in range(len(dataset) - 1):
        if dataset.timeouts[i]:
            continue
        rows.append(
            (
                float(dataset.observations[i, 0]),
                float(dataset.actions[i, 0]),
                float(dataset.rewards[i]),
                float(dataset.observations[i + 1, 0]),
                bool(dataset.terminals[i]),
            )
        )
    return rows


def test_a_valid_file_is_read_without_a_warning(tmp_path: Path) -> None:
    columns = valid_columns()
    qpos = np.arange(ROW_COUNT * 3, dtype=np.float64).reshape(ROW_COUNT, 3)
    path = write(
        tmp_path / "toy-v2.hdf5",
        columns | {"infos/qpos": qpos, "metadata/algorithm": np.array(b"SAC"), "metadata/policy/fc0/weight": qpos},
        environment="Pendulum-v1",
        margin_fix=np.True_,
    )
    dataset = read_d4rl(path)
    for name, values in columns.items():
        read = getattr(dataset, name)
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)
    assert dataset.name == "toy-v2"
    assert dataset.metadata == {"algorithm": "SAC", "environment": "Pendulum-v1", "margin_fix": True}
    assert list(dataset.infos) == ["qpos"]
    np.testing.assert_array_equal(dataset.infos["qpos"], qpos)
    assert (len(dataset), dataset.observation_dim, dataset.action_dim) == (ROW_COUNT, 4, 2)


# --- refused: what stands in place of the file ---

IMPOSTORS = {
    "empty": (b"", "empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html><title>403 Forbidden</title></html>", "web page"),
    "gzip": (gzip.compress(b"data"), "gunzip"),
    "npz": (b"PK\x03\x04rest", "npz"),
    "npy": (b"\x93NUMPY\x01\x00", "npy"),
    "pickle": (pickle.dumps({"observations": [1.0]}), "pickle"),
    "noise": (b"no data set at all", "not an HDF5 file"),
}


@pytest.mark.parametrize("case", IMPOSTORS)
def test_impostors_are_named(tmp_path: Path, case: str) -> None:
    content, expected = IMPOSTORS[case]
    path = tmp_path / "set.hdf5"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=expected) as error:
        read_d4rl(path)
    assert str(path) in str(error.value)


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_d4rl(tmp_path / "absent.hdf5")
    with pytest.raises(DatasetError, match="not a regular file"):
        read_d4rl(tmp_path)


def test_a_half_copied_file_is_refused_with_its_size(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", valid_columns())
    size = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DatasetError, match=f"cut short at {size:,} bytes"):
        read_d4rl(path)


def test_a_user_block_before_the_signature_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in valid_columns().items():
            file[name] = values
    assert len(read_d4rl(path)) == ROW_COUNT


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "set.hdf5", valid_columns())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'trajmill\[data\]'"):
        read_d4rl(path)


# --- refused: what the file says ---


def without(name: str) -> Callable[[Columns], Columns]:
    return lambda columns: {key: values for key, values in columns.items() if key != name}


def replaced(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Columns], Columns]:
    return lambda columns: columns | {name: change(columns[name].copy())}


def with_value(name: str, row: int, value: float) -> Callable[[Columns], Columns]:
    def change(values: NDArray[Any]) -> NDArray[Any]:
        values[row] = value
        return values

    return replaced(name, change)


REFUSED: dict[str, tuple[Callable[[Columns], Columns], str]] = {
    "no observations": (without("observations"), "'observations' is missing"),
    "no actions": (without("actions"), "'actions' is missing"),
    "no rewards": (without("rewards"), "'rewards' is missing"),
    "no terminals": (without("terminals"), "'terminals' is missing"),
    "unequal lengths": (replaced("rewards", lambda v: v[:-1]), "'rewards' has 59 rows where 'observations' has 60"),
    "unequal infos": (
        lambda columns: columns | {"infos/qpos": np.zeros((3, 2))},
        "'infos/qpos' has 3 rows where 'observations' has 60",
    ),
    "unequal observation size": (replaced("next_observations", lambda v: v[:, :3]), "need the same shape"),
    "flat observations": (replaced("observations", lambda v: v[:, 0]), r"'observations' has shape \(60,\)"),
    "deep actions": (replaced("actions", lambda v: v[:, None]), r"'actions' has shape \(60, 1, 2\)"),
    "no columns": (replaced("actions", lambda v: v[:, :0]), r"'actions' has shape \(60, 0\)"),
    "wide rewards": (replaced("rewards", lambda v: np.stack((v, v), 1)), r"'rewards' has shape \(60, 2\)"),
    "scalar rewards": (replaced("rewards", lambda v: v[0]), r"'rewards' has shape \(\)"),
    "scalar infos": (lambda columns: columns | {"infos/x": np.array(1.0)}, "'infos/x' is a single value"),
    "complex rewards": (replaced("rewards", lambda v: v.astype(complex)), "dtype complex128"),
    "string observations": (replaced("observations", lambda v: np.full(v.shape, b"x")), "dtype .S1"),
    "boolean rewards": (replaced("rewards", lambda v: v > 0), "dtype bool"),
    "string infos": (lambda columns: columns | {"infos/x": np.full(ROW_COUNT, b"x")}, "'infos/x' has dtype"),
    "NaN": (with_value("observations", 17, np.nan), "'observations' holds NaN or infinity in 1 rows, first in row 17"),
    "infinity": (with_value("rewards", 3, -np.inf), "'rewards' holds NaN or infinity in 1 rows, first in row 3"),
    "NaN infos": (
        lambda columns: columns | {"infos/qpos": np.full((ROW_COUNT, 2), np.nan)},
        "'infos/qpos' holds NaN or infinity in 60 rows",
    ),
    "NaN flag": (
        replaced("terminals", lambda v: np.where(np.arange(len(v)) == 5, np.nan, v)),
        "'terminals' holds nan in row 5; flags must be 0 or 1",
    ),
    "odd flag": (replaced("timeouts", lambda v: v.astype(np.int64) * 2), "flags must be 0 or 1"),
    "one row": (lambda columns: {key: values[:1] for key, values in columns.items()}, "'observations' has 1 rows"),
    "no rows": (lambda columns: {key: values[:0] for key, values in columns.items()}, "'observations' has 0 rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_contents_are_refused(tmp_path: Path, case: str) -> None:
    damage, expected = REFUSED[case]
    path = write(tmp_path / "set.hdf5", damage(valid_columns()))
    with pytest.raises(DatasetError, match=expected) as error:
        read_d4rl(path)
    assert str(path) in str(error.value)


@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
def test_a_number_beyond_float32_is_refused_not_made_infinite(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", replaced("rewards", lambda v: v.astype(np.float64) * 1e300)(valid_columns()))
    with pytest.raises(DatasetError, match="'rewards' holds NaN or infinity"):
        read_d4rl(path)


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", without("rewards")(valid_columns()))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=["1.0"] * ROW_COUNT, dtype=h5py.string_dtype())
    with pytest.raises(DatasetError, match="'rewards' has dtype object"):
        read_d4rl(path)


def test_minari_layout_is_refused(tmp_path: Path) -> None:
    columns = valid_columns()
    path = write(tmp_path / "main_data.hdf5", {f"episode_0/{name}": values for name, values in columns.items()})
    with pytest.raises(DatasetError, match="Minari"):
        read_d4rl(path)


def test_links_out_of_and_inside_the_file_are_refused(tmp_path: Path) -> None:
    other = write(tmp_path / "other.hdf5", valid_columns())
    for link in (h5py.ExternalLink(other.name, "rewards"), h5py.SoftLink("/actions")):
        path = write(tmp_path / "set.hdf5", without("rewards")(valid_columns()))
        with h5py.File(path, "a") as file:
            file["rewards"] = link
        with pytest.raises(DatasetError, match="'rewards' is a link"):
            read_d4rl(path)


def test_arrays_stored_in_other_files_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(4 * ROW_COUNT))
    for kind in ("external", "virtual"):
        path = write(tmp_path / "set.hdf5", without("rewards")(valid_columns()))
        with h5py.File(path, "a") as file:
            if kind == "external":
                file.create_dataset("rewards", (ROW_COUNT,), np.float32, external=[(str(raw), 0, 4 * ROW_COUNT)])
            else:
                layout = h5py.VirtualLayout((ROW_COUNT,), np.float32)
                layout[:] = h5py.VirtualSource("elsewhere.hdf5", "rewards", (ROW_COUNT,))
                file.create_virtual_dataset("rewards", layout)
        with pytest.raises(DatasetError, match="another file"):
            read_d4rl(path)


def test_absurd_declared_shapes_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    rows = 10**12
    with h5py.File(path, "w") as file:
        for name, shape in {"observations": (rows, 11), "actions": (rows, 3), "rewards": (rows,)}.items():
            file.create_dataset(name, shape, np.float32, chunks=True)
        file.create_dataset("terminals", (rows,), np.bool_, chunks=True)
    assert path.stat().st_size < 10_000
    with pytest.raises(DatasetError, match=r"memory budget.*the largest is 'observations'"):
        read_d4rl(path)


def test_the_memory_budget_counts_all_arrays(tmp_path: Path) -> None:
    columns = valid_columns()
    path = write(tmp_path / "set.hdf5", columns)
    need = sum(values.nbytes for values in columns.values())
    assert len(read_d4rl(path, memory_budget=need)) == ROW_COUNT
    with pytest.raises(DatasetError, match=f"declare {need:,} bytes"):
        read_d4rl(path, memory_budget=need - 1)


def test_a_flipped_byte_is_found_and_its_rows_named(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", without("rewards")(valid_columns()))
    with h5py.File(path, "a") as file:
        rewards = file.create_dataset(
            "rewards", data=valid_columns()["rewards"], chunks=(20,), compression="gzip", fletcher32=True
        )
        chunk = rewards.id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="'rewards' holds corrupted data in rows 20 to 39"):
        read_d4rl(path)


# --- repaired or remarked ---


def read_remarked(path: Path, expected: str) -> Dataset:
    with pytest.warns(DatasetWarning, match=expected) as caught:
        dataset = read_d4rl(path)
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    return dataset


@pytest.mark.parametrize("name", ["rewards", "terminals", "timeouts"])
def test_columns_of_one_are_squeezed(tmp_path: Path, name: str) -> None:
    columns = valid_columns()
    path = write(tmp_path / "set.hdf5", columns | {name: columns[name][:, None]})
    dataset = read_remarked(path, rf"'{name}' has shape \(60, 1\)")
    np.testing.assert_array_equal(getattr(dataset, name), columns[name])


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f2", "<i8"])
def test_other_numbers_are_cast(tmp_path: Path, dtype: str) -> None:
    columns = valid_columns()
    stored = columns["rewards"].astype(dtype)
    dataset = read_remarked(
        write(tmp_path / "set.hdf5", columns | {"rewards": stored}), "cast to float32: rewards from"
    )
    assert dataset.rewards.dtype == np.float32
    np.testing.assert_array_equal(dataset.rewards, stored.astype(np.float32))


def test_byte_order_is_no_remark_but_becomes_native(tmp_path: Path) -> None:
    columns = valid_columns()
    infos = np.arange(ROW_COUNT, dtype=">f8")
    stored = columns | {"rewards": columns["rewards"].astype(">f4"), "infos/qpos": infos}
    dataset = read_d4rl(write(tmp_path / "set.hdf5", stored))
    assert dataset.rewards.dtype.isnative
    assert dataset.infos["qpos"].dtype.isnative
    np.testing.assert_array_equal(dataset.rewards, columns["rewards"])
    np.testing.assert_array_equal(dataset.infos["qpos"], infos)


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_flags_of_any_type_become_bool_silently(tmp_path: Path, dtype: str) -> None:
    columns = valid_columns()
    stored = columns | {"terminals": columns["terminals"].astype(dtype)}
    np.testing.assert_array_equal(read_d4rl(write(tmp_path / "set.hdf5", stored)).terminals, columns["terminals"])


def test_actions_out_of_range_are_counted_and_kept(tmp_path: Path) -> None:
    columns = valid_columns()
    columns["actions"][5] = (1.5, -2.0)
    dataset = read_remarked(
        write(tmp_path / "set.hdf5", columns), r"2 entries of 'actions' \(1\.7%\) lie outside \[-1, 1\], first in row 5"
    )
    assert dataset.actions[5, 0] == 1.5


def test_where_both_flags_are_set_the_limit_wins(tmp_path: Path) -> None:
    columns = valid_columns()
    columns["terminals"][ROW_COUNT // 2] = True
    dataset = read_remarked(write(tmp_path / "set.hdf5", columns), "both set in 1 rows")
    assert not dataset.terminals[ROW_COUNT // 2]
    assert dataset.timeouts[ROW_COUNT // 2]


def test_missing_timeouts_are_inferred_from_the_limit(tmp_path: Path) -> None:
    columns = valid_columns(4001)
    columns["terminals"][:] = False
    columns["terminals"][[499, 2499, 4000]] = True  # ends after 500, 1000 + 1000 (at the limit itself), 1000 + 501
    path = write(tmp_path / "set.hdf5", without("next_observations")(without("timeouts")(columns)))
    dataset = read_remarked(path, "no key 'timeouts'")
    assert dataset.timeouts.nonzero()[0].tolist() == [1499, 3499]
    assert [len(episode) for episode in split_episodes(dataset)] == [500, 1000, 1000, 1000, 501]


def test_an_unfinished_tail_is_remarked(tmp_path: Path) -> None:
    columns = valid_columns()
    columns["terminals"][-1] = False
    read_remarked(write(tmp_path / "set.hdf5", columns), "last 29 rows, from row 31 on, are an unfinished episode")


def test_next_observations_of_another_mdp_are_remarked(tmp_path: Path) -> None:
    columns = valid_columns()
    columns["next_observations"][[8, 9]] += 0.5
    read_remarked(write(tmp_path / "set.hdf5", columns), r"in 2 rows inside episodes, first in row 8, by up to 0\.5")


# --- D4RL's two rules ---


def test_the_toy_file_of_d4rl() -> None:
    """Limits in row 2, a terminal in row 4: transitions 0, 1, 3, 4; episodes of 3 and 2 rows, tail dropped."""
    dataset = toy([0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0])
    transitions = qlearning_transitions(dataset, "d4rl")
    assert transitions.observation[:, 0].tolist() == [0, 1, 3, 4]
    assert transitions.next_observation[:, 0].tolist() == [1, 2, 4, 5]
    assert transitions.terminal.tolist() == [False, False, False, True]
    assert not transitions.truncated.any()
    episodes = split_episodes(dataset)
    assert [(episode.start, len(episode), episode.terminal) for episode in episodes] == [(0, 3, False), (3, 2, True)]
    assert [episode.undiscounted_return for episode in episodes] == [6.0, 14.0]


def test_stored_next_observations_keep_every_row() -> None:
    dataset = toy([0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0])
    transitions = qlearning_transitions(dataset)
    assert transitions.observation[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert transitions.next_observation[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert transitions.terminal.nonzero()[0].tolist() == [4]
    assert transitions.truncated.nonzero()[0].tolist() == [2]


def test_without_stored_next_observations_the_rule_is_d4rls() -> None:
    dataset = toy([0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0], stored=False)
    assert qlearning_transitions(dataset, "stored").observation[:, 0].tolist() == [0, 1, 3, 4]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'stored' or 'd4rl', got 'other'"):
        qlearning_transitions(toy([0, 1], [0, 0]), "other")  # type: ignore[arg-type]


def test_without_a_finished_episode_there_is_nothing_to_split() -> None:
    with pytest.raises(DatasetError, match="no row ends an episode"):
        split_episodes(toy([0, 0], [0, 0]))


@given(st.lists(st.sampled_from(["", "terminal", "timeout"]), min_size=2, max_size=60))
def test_rules_equal_their_slow_twins(ends: list[str]) -> None:
    dataset = toy([end == "terminal" for end in ends], [end == "timeout" for end in ends])
    transitions = qlearning_transitions(dataset, "d4rl")
    columns = (
        transitions.observation[:, 0],
        transitions.action[:, 0],
        transitions.reward,
        transitions.next_observation[:, 0],
        transitions.terminal,
    )
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == qlearning_reference(dataset)
    assert len(transitions) == len(ends) - 1 - ends[:-1].count("timeout")
    if any(ends):
        episodes = split_episodes(dataset)
        assert [ends[episode.start + len(episode) - 1] for episode in episodes] == [end for end in ends if end]
        kept = np.concatenate([episode.observation[:, 0] for episode in episodes])
        assert kept.tolist() == list(range(len(kept)))
        assert not any(ends[len(kept) :])


def test_a_million_rows_take_a_moment() -> None:
    """D4RL's own loop takes 5.6 s for them."""
    count = 1_000_000
    dataset = toy([0] * count, [0] * count)
    start = time.perf_counter()
    assert len(qlearning_transitions(dataset, "d4rl")) == count - 1
    assert time.perf_counter() - start < 1.0  # 0.02 s on a quiet machine
