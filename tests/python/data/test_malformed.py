"""Every known way in which a data file can be wrong, by number: refused, or warned about and dealt with.

One valid file (a terminal episode, one cut by a limit, an unfinished last one) is damaged in one stated way each time.
Each message must name the file, the key, the row where there is one, the fault, and what to do.
"""

from __future__ import annotations

import gzip
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from d4rl_files import walk_columns, write
from numpy.typing import NDArray

from trajmill.data import (
    Dataset,
    DatasetError,
    DatasetWarning,
    load_dataset,
    qlearning_transitions,
    read_d4rl,
    read_minari,
    split_episodes,
    write_minari,
)
from trajmill.data.official import CURRENT
from trajmill.experiments import datasets

Columns = dict[str, NDArray[Any]]
Change = Callable[[Columns], Columns]

ROWS = 300
TERMINAL, LIMIT = 100, 200  # the rows that end an episode


def edited(name: str, edit: Callable[[NDArray[Any]], NDArray[Any] | None]) -> Change:
    """Edit a copy of one column, in place or by what `edit` returns."""

    def change(columns: Columns) -> Columns:
        values = columns[name].copy()
        changed = edit(values)
        return columns | {name: values if changed is None else changed}

    return change


def put(name: str, row: Any, value: Any) -> Change:
    def edit(values: NDArray[Any]) -> None:
        values[row] = value

    return edited(name, edit)


def without(*names: str) -> Change:
    return lambda columns: {key: values for key, values in columns.items() if key not in names}


def rows(selection: Any) -> Change:
    return lambda columns: {name: values[selection] for name, values in columns.items()}


def both(first: Change, second: Change) -> Change:
    return lambda columns: second(first(columns))


def of_size(observation_dim: int, action_dim: int) -> Change:
    return lambda columns: walk_columns(ROWS, observation_dim, action_dim)


def shuffled(columns: Columns) -> Columns:
    order = np.random.default_rng(0).permutation(ROWS)
    return {name: values[order] for name, values in columns.items()}


def repeated(columns: Columns) -> Columns:
    return rows(np.repeat(np.arange(ROWS // 2), 2))(columns)


def limits_as_terminals(columns: Columns) -> Columns:
    long = walk_columns(2000)
    ends = np.arange(1, 2001) % 1000 == 0
    following = np.concatenate((long["observations"][1:], long["observations"][-1:]))
    return long | {"terminals": ends, "timeouts": np.zeros(2000, np.bool_), "next_observations": following}


def check_message(message: str, path: Path, *parts: str) -> None:
    assert message.startswith(f"{path}"), message
    for part in parts:
        assert part in message, f"{part!r} is not in: {message}"


# --- what stands in place of the file ---

IN_PLACE: dict[str, tuple[bytes, str]] = {
    "1 empty": (b"", "the file is empty; copy or download"),
    "1 web page": (b"\n<!DOCTYPE html><html><title>403 Forbidden</title></html>", "is a web page"),
    "1 Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "3 gzip": (gzip.compress(b"data"), "unpack it with `gunzip`"),
    "3 pickle": (pickle.dumps({"observations": [1.0]}), "pickle, which can run any code and is never loaded"),
    "3 npy": (b"\x93NUMPY\x01\x00", "NumPy .npy array"),
    "3 broken npz": (b"PK\x03\x04rest", "a zip archive (perhaps a NumPy .npz)"),
    "3 noise": (b"no data set at all", "not an HDF5 file, it starts with b'no data "),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_what_stands_in_place_of_the_file(tmp_path: Path, case: str) -> None:
    content, fault = IN_PLACE[case]
    path = tmp_path / "set.hdf5"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    check_message(str(error.value), path, fault, ";")


def test_2_a_half_downloaded_file(tmp_path: Path) -> None:
    path = write(tmp_path / "hopper_medium-v2.hdf5", walk_columns())
    size = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    cut = f"cut short at {size:,} bytes where D4RL's hopper-medium-v2 has 152,756,557"
    check_message(str(error.value), path, cut, "copy or download it again")


def test_4_flipped_bytes_under_a_checksum(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", without("rewards")(walk_columns()))
    with h5py.File(path, "a") as file:
        packing = {"chunks": (20,), "compression": "gzip", "fletcher32": True}
        chunk = file.create_dataset("rewards", data=walk_columns()["rewards"], **packing).id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    check_message(
        str(error.value), path, "key 'rewards' holds corrupted data in rows 20 to 39", "download the file again"
    )


def test_5_flipped_bytes_without_a_checksum(tmp_path: Path) -> None:
    columns = walk_columns()
    path = write(tmp_path / "set.hdf5", columns)
    place = columns["actions"][17].tobytes()
    path.write_bytes(path.read_bytes().replace(place, b"\xff" * len(place)))
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    check_message(str(error.value), path, "'actions' holds NaN or infinity in 1 rows, first in row 17", ";")


# --- what the file says: refused ---

REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "6 Minari's layout": (
        lambda columns: {f"episode_0/{name}": values for name, values in columns.items()},
        ("Minari's layout", "'episode_...'", "load_dataset or read_minari"),
    ),
    "7 no observations": (without("observations"), ("'observations' is missing", "present: 'actions'")),
    "7 no actions": (without("actions"), ("'actions' is missing",)),
    "7 no rewards": (without("rewards"), ("'rewards' is missing",)),
    "7 no terminals": (without("terminals"), ("'terminals' is missing",)),
    "8 short rewards": (edited("rewards", lambda v: v[:-1]), ("'rewards' has 299 rows where 'observations' has 300",)),
    "8 narrow next observations": (
        edited("next_observations", lambda v: v[:, :3]),
        ("'next_observations' has shape (300, 3), 'observations' (300, 11)", "need the same shape"),
    ),
    "10 wide rewards": (edited("rewards", lambda v: np.stack((v, v), 1)), ("'rewards' has shape (300, 2)",)),
    "11 scalar rewards": (edited("rewards", lambda v: v[0]), ("'rewards' has shape ()", "shape (N,)")),
    "11 string observations": (
        edited("observations", lambda v: np.full(v.shape, b"x")),
        ("'observations' has dtype |S1",),
    ),
    "11 complex rewards": (edited("rewards", lambda v: v.astype(complex)), ("'rewards' has dtype complex128",)),
    "11 boolean rewards": (edited("rewards", lambda v: v > 0), ("'rewards' has dtype bool",)),
    "11 records": (
        edited("rewards", lambda v: np.zeros(ROWS, [("a", "f4"), ("b", "f4")])),
        ("'rewards' has dtype [('a', '<f4'), ('b', '<f4')]",),
    ),
    "11 flat observations": (edited("observations", lambda v: v[:, 0]), ("'observations' has shape (300,)",)),
    "11 deep actions": (edited("actions", lambda v: v[:, None]), ("'actions' has shape (300, 1, 3)",)),
    "11 no columns": (edited("actions", lambda v: v[:, :0]), ("'actions' has shape (300, 0)",)),
    "12 NaN observation": (
        put("observations", 17, np.nan),
        ("'observations' holds NaN or infinity in 1 rows", "row 17"),
    ),
    "12 infinite reward": (put("rewards", 3, -np.inf), ("'rewards' holds NaN or infinity in 1 rows", "row 3")),
    "12 NaN next observation": (put("next_observations", (9, 2), np.nan), ("'next_observations' holds NaN", "row 9")),
    "12 NaN action": (put("actions", [4, 5], np.nan), ("'actions' holds NaN or infinity in 2 rows", "row 4")),
    "12 beyond float32": (edited("rewards", lambda v: v.astype("f8") * 1e300), ("'rewards' holds NaN or infinity",)),
    "12 NaN flag": (
        edited("terminals", lambda v: np.where(np.arange(ROWS) == 5, np.nan, v)),
        ("'terminals' holds nan in row 5",),
    ),
    "12 odd flag": (
        edited("timeouts", lambda v: v.astype("i8") * 2),
        ("'timeouts' holds 2 in row 200", "must be 0 or 1"),
    ),
    "16 no timeouts marked": (
        put("timeouts", LIMIT, False),
        ("not the next row's in 1 rows inside episodes, first in row 200", "'timeouts'", "--fix-timeouts"),
    ),
    "16 timeouts out of step": (
        both(put("timeouts", LIMIT, False), put("timeouts", LIMIT + 1, True)),
        ("in 1 rows inside episodes, first in row 200", "'timeouts'"),
    ),
    "15 neither timeouts nor next observations": (
        without("timeouts", "next_observations"),
        ("neither 'timeouts' nor 'next_observations' say where a limit cut episodes", "--limit"),
    ),
    "20 one row": (rows(slice(1)), ("'observations' has 1 rows", "at least 2")),
    "20 no rows": (rows(slice(0)), ("'observations' has 0 rows", "at least 2")),
    "20 single steps": (
        put("terminals", slice(None), True),
        ("every one of the 300 rows ends an episode", "'terminals'"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
def test_refused(tmp_path: Path, case: str) -> None:
    change, parts = REFUSED[case]
    path = write(tmp_path / "set.hdf5", change(walk_columns()))
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    check_message(str(error.value), path, *parts, ";")


SIZES: dict[str, tuple[str, tuple[int, int], tuple[str, ...]]] = {
    "Ant-v5": ("Ant-v4", (105, 8), ("'observations' has 105 columns, Ant-v4 has 27 or 111", "keep the first 27")),
    "x position": ("Hopper-v4", (12, 3), ("'observations' has 12 columns, Hopper-v4 has 11", "drop the first column")),
    "other task": (
        "Walker2d-v4",
        (11, 6),
        ("'observations' has 11 columns, Walker2d-v4 has 17", "another environment"),
    ),
    "other actions": ("Hopper-v4", (11, 6), ("'actions' has 6 columns, Hopper-v4 has 3", "another environment")),
}


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("told", ["attribute", "name"])
def test_9_sizes_of_another_environment(tmp_path: Path, case: str, told: str) -> None:
    environment, sizes, parts = SIZES[case]
    named = {"environment": environment} if told == "attribute" else {}
    stem = "set" if named else environment.lower().removesuffix("-v4")
    path = write(tmp_path / f"{stem}-mine.hdf5", walk_columns(ROWS, *sizes), **named)
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    check_message(str(error.value), path, *parts)


def test_11_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", without("rewards")(walk_columns()))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=["1.0"] * ROWS, dtype=h5py.string_dtype())
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    check_message(str(error.value), path, "key 'rewards' has dtype object, not numbers")


def test_23_absurd_declared_shapes(tmp_path: Path) -> None:
    path, count = tmp_path / "set.hdf5", 10**12
    with h5py.File(path, "w") as file:
        for name, shape in {"observations": (count, 11), "actions": (count, 3), "rewards": (count,)}.items():
            file.create_dataset(name, shape, np.float32, chunks=True)
        file.create_dataset("terminals", (count,), np.bool_, chunks=True)
    assert path.stat().st_size < 10_000
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    check_message(str(error.value), path, "memory budget", "largest is 'observations' with shape (1000000000000, 11)")


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.hdf5", "rewards"), h5py.SoftLink("/actions")])
def test_24_links(tmp_path: Path, link: object) -> None:
    write(tmp_path / "other.hdf5", walk_columns())
    path = write(tmp_path / "set.hdf5", without("rewards")(walk_columns()))
    with h5py.File(path, "a") as file:
        file["rewards"] = link
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    check_message(str(error.value), path, "key 'rewards' is a link", "write a plain copy")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (shuffled, ("'next_observations' is not the next row's in 297 rows", "first in row 0")),
        (
            both(repeated, without("next_observations")),
            ("rows repeat observation, action and reward of the row before, first row 1",),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
def test_25_no_order_for_sequence_models(tmp_path: Path, change: Change, parts: tuple[str, ...]) -> None:
    path = write(tmp_path / "set.hdf5", change(walk_columns()))
    dataset = load_dataset(path, fix_timeouts=True)
    assert len(qlearning_transitions(dataset)) >= ROWS - 3
    with pytest.raises(DatasetError) as error:
        split_episodes(dataset)
    check_message(str(error.value), path, *parts, "sequence methods need whole episodes in order")


# --- what the file says: warned about and dealt with ---


def same_rewards(dataset: Dataset) -> bool:
    return np.allclose(dataset.rewards, walk_columns()["rewards"], atol=1e-3)


def flags(**expected: list[int]) -> Callable[[Dataset], bool]:
    return lambda dataset: all(getattr(dataset, name).nonzero()[0].tolist() == at for name, at in expected.items())


TAIL = "the last 99 rows, from row 201 on, are an unfinished episode"
WARNED_ABOUT: dict[str, tuple[Change, str, tuple[str, ...], Callable[[Dataset], bool]]] = {
    "10 rewards (N, 1)": (
        edited("rewards", lambda v: v[:, None]),
        TAIL,
        ("key 'rewards' has shape (300, 1), read as (300,)",),
        same_rewards,
    ),
    "10 terminals (N, 1)": (
        edited("terminals", lambda v: v[:, None]),
        TAIL,
        ("key 'terminals' has shape (300, 1), read as (300,)",),
        flags(terminals=[TERMINAL]),
    ),
    "13 actions out of range": (
        put("actions", 5, (1.5, -2.0, 0.0)),
        TAIL,
        ("2 entries of 'actions' (0.2%) lie outside [-1, 1], first in row 5", "action_limit"),
        lambda dataset: bool(dataset.actions[5, 0] == 1.5),
    ),
    "15 no timeouts": (
        without("timeouts"),
        TAIL,
        ("no key 'timeouts'; the stored next observation is not the next row's in 1 rows", "first in row 200"),
        flags(terminals=[TERMINAL], timeouts=[LIMIT]),
    ),
    "17 limits stored as terminals": (
        limits_as_terminals,
        "",
        ("all 2 'terminals', first in row 999, end episodes of exactly 1000 steps", "--fix-timeouts"),
        flags(terminals=[999, 1999]),
    ),
    "18 both flags": (
        put("terminals", LIMIT, True),
        TAIL,
        ("'terminals' and 'timeouts' are both set in 1 rows, first in row 200", "read as timeouts"),
        flags(terminals=[TERMINAL], timeouts=[LIMIT]),
    ),
    "19 unfinished last episode": (
        lambda columns: columns,
        TAIL,
        (),
        lambda dataset: len(split_episodes(dataset)) == 2,
    ),
    "21 constant columns": (
        both(
            put("observations", (slice(None), [3, 4, 5, 9]), 0.0),
            put("next_observations", (slice(None), [3, 4, 5, 9]), 0),
        ),
        TAIL,
        ("'observations' never change in 4 columns (3-5, 9)", "epsilon"),
        lambda dataset: True,
    ),
    "22 float64": (
        edited("rewards", lambda v: v.astype("f8")),
        TAIL,
        ("cast to float32: rewards from float64",),
        same_rewards,
    ),
    "22 float16": (
        edited("rewards", lambda v: v.astype("f2")),
        TAIL,
        ("cast to float32: rewards from float16",),
        same_rewards,
    ),
    "22 integers": (
        edited("actions", lambda v: v.round().astype("u2") % 2),
        TAIL,
        ("cast to float32: actions from uint16",),
        lambda dataset: dataset.actions.dtype == np.float32,
    ),
    "22 big-endian": (edited("rewards", lambda v: v.astype(">f8")), TAIL, ("rewards from >f8",), same_rewards),
    "28 another next observation": (
        edited("next_observations", lambda v: v + np.float32(0.5)),
        TAIL,
        ("the stored next observation is not the next row's in 297 rows", "first in row 0", "two different tasks"),
        same_rewards,
    ),
}


@pytest.mark.parametrize("case", WARNED_ABOUT)
def test_warned_about(tmp_path: Path, case: str) -> None:
    change, tail, parts, dealt_with = WARNED_ABOUT[case]
    path = write(tmp_path / "set.hdf5", change(walk_columns()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = load_dataset(path)
    messages = [str(warning.message) for warning in caught]
    assert {warning.category for warning in caught} == {DatasetWarning}
    assert all(message.startswith(f"{path}: ") for message in messages)
    told = [message for message in messages if not tail or tail not in message]
    assert len(told) == (1 if parts else 0), messages
    assert not tail or len(messages) == len(told) + 1
    for part in parts:
        assert part in told[0]
    assert dealt_with(dataset)


def test_14_actions_at_their_limits_can_be_shrunk(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", put("actions", 5, (1.0, -1.0, 2.0))(walk_columns()))
    with pytest.warns(DatasetWarning):
        dataset = load_dataset(path, action_limit=1 - 1e-6)
    assert np.isfinite(np.arctanh(dataset.actions)).all()
    np.testing.assert_array_equal(dataset.actions[6], walk_columns()["actions"][6])


@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
@pytest.mark.parametrize(
    ("change", "terminals", "timeouts"),
    [
        (put("timeouts", LIMIT, False), [TERMINAL], [LIMIT]),
        (both(put("timeouts", LIMIT, False), put("timeouts", LIMIT + 1, True)), [TERMINAL], [LIMIT, LIMIT + 1]),
        (limits_as_terminals, [], [999, 1999]),
    ],
)
def test_16_17_timeouts_can_be_fixed(tmp_path: Path, change: Change, terminals: list[int], timeouts: list[int]) -> None:
    path = write(tmp_path / "set.hdf5", change(walk_columns()))
    assert flags(terminals=terminals, timeouts=timeouts)(load_dataset(path, fix_timeouts=True))


def test_26_an_official_name_on_another_file(tmp_path: Path) -> None:
    path = write(tmp_path / "hopper_medium_replay-v2.hdf5", walk_columns())
    with pytest.warns(DatasetWarning) as caught:
        load_dataset(path)
    message = next(str(warning.message) for warning in caught if "the name of D4RL" in str(warning.message))
    size = path.stat().st_size
    check_message(
        message, path, f"hopper-medium-replay-v2 but is another file ({size:,} bytes", "75,854,457", "e121c5f7"
    )


@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
def test_27_made_up_dynamics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")

    path = write(tmp_path / "set.hdf5", walk_columns(), environment="Hopper-v4")
    assert datasets.validate(path).dynamics is None
    with pytest.raises(DatasetError) as error:
        datasets.validate(path, dynamics=True)
    check_message(str(error.value), path, "'next_observations' or 'rewards' are not what Hopper-v4 does", "made up")
    monkeypatch.setattr(datasets, "recognize", lambda _: CURRENT)
    assert "recorded with an older simulator" in datasets.validate(path, dynamics=True).warnings[-1]


# --- Minari's layout ---


def minari_set(directory: Path) -> Path:
    columns = walk_columns()
    columns["timeouts"][-1] = True
    return write_minari(directory / "toy-v0", **columns)


def edit_file(edit: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        with h5py.File(data / "main_data.hdf5", "a") as file:
            edit(file)

    return change


def edit_metadata(**entries: Any) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = data / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


def replaced(name: str, values: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Path], None]:
    def edit(file: h5py.File) -> None:
        old = file[name][()]
        del file[name]
        file[name] = values(old)

    return edit_file(edit)


def as_d4rl(data: Path) -> None:
    write(data / "main_data.hdf5", walk_columns())


def as_dictionary(file: h5py.File) -> None:
    del file["episode_1/observations"]
    file["episode_1/observations/position"] = np.zeros((101, 2))


def text(space: Any) -> str:
    return json.dumps(space)


MINARI: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "6 D4RL's layout": (as_d4rl, ("D4RL's layout (key 'observations')", "read_d4rl")),
    "a missing file": (lambda data: (data / "metadata.json").unlink(), ("metadata.json: no such file", "beside")),
    "a missing key": (edit_file(lambda file: file.pop("episode_1/rewards")), ("episode_1", "'rewards' is missing")),
    "a missing episode": (edit_file(lambda file: file.pop("episode_1")), ("'episode_1' is missing among 2 episodes",)),
    "a lost episode": (
        edit_file(lambda file: file.pop("episode_2")),
        ("holds 2 episodes where metadata.json promises 3",),
    ),
    "lost steps": (edit_metadata(total_steps=301), ("300 steps where metadata.json promises 301",)),
    "another key": (edit_file(lambda file: file.create_group("extra")), ("key 'extra'", "'episode_<number>'")),
    "T observations": (
        replaced("episode_0/observations", lambda v: v[:-1]),
        ("episode_0", "'observations' has 101 rows where 'actions' has 101", "one observation more"),
    ),
    "short rewards": (replaced("episode_0/rewards", lambda v: v[1:]), ("episode_0", "'rewards' has 100 rows")),
    "20 an episode without steps": (
        edit_file(lambda file: [replace_values(file, f"episode_1/{key}") for key in list(file["episode_1"])]),
        ("episode_1", "'actions' has no rows: an episode without steps"),
    ),
    "an early end": (
        replaced("episode_1/terminations", lambda v: np.arange(len(v)) == 7),
        ("episode_1", "'terminations' is set in row 7, before the last of 100"),
    ),
    "12 NaN": (
        replaced("episode_2/rewards", lambda v: np.where(np.arange(len(v)) == 3, np.nan, v)),
        ("episode_2", "'rewards' holds NaN or infinity in 1 rows, first in row 3"),
    ),
    "11 text": (
        replaced("episode_2/actions", lambda v: np.full(v.shape, b"x")),
        ("episode_2", "'actions' has dtype |S1"),
    ),
    "other spaces": (
        replaced("episode_2/actions", lambda v: v[:, :2]),
        ("episode_2", "'actions' has rows of shape (2,)"),
    ),
    "a dictionary": (
        edit_file(as_dictionary),
        ("episode_1", "'observations' is a group, as Dict and Tuple spaces make"),
    ),
    "an array for an episode": (
        edit_file(lambda file: (file.pop("episode_1"), file.create_dataset("episode_1", data=1.0))),
        ("episode_1", "is an array"),
    ),
    "24 a link": (
        edit_file(lambda file: (file.pop("episode_1"), file.__setitem__("episode_1", h5py.SoftLink("/episode_0")))),
        ("key 'episode_1' is a link",),
    ),
    "a Dict space": (
        edit_metadata(observation_space=text({"type": "Dict", "subspaces": {}})),
        ("metadata.json: key 'observation_space' is a Dict space", "flatten"),
    ),
    "a Discrete space": (
        edit_metadata(observation_space=text({"type": "Discrete", "n": 3})),
        ("'observation_space' is a Discrete",),
    ),
    "an image space": (edit_metadata(observation_space=text({"type": "Box", "shape": [64, 64, 3]})), ("[64, 64, 3]",)),
    "Arrow": (edit_metadata(data_format="arrow"), ("key 'data_format' is 'arrow'", "HDF5")),
    "a space that is no text": (edit_metadata(action_space=5), ("key 'action_space'", "text is needed, got int")),
    "a count that is none": (edit_metadata(total_episodes="many"), ("key 'total_episodes' is 'many'",)),
    "broken JSON": (lambda data: (data / "metadata.json").write_text("{"), ("metadata.json: ", "JSON")),
    "a list": (lambda data: (data / "metadata.json").write_text("[]"), ("an object is needed, got list",)),
    "deep JSON": (lambda data: (data / "metadata.json").write_text("[" * 10**6), ("metadata.json: ", "JSON")),
    "long JSON": (lambda data: (data / "metadata.json").write_text(" " * (2**24 + 1)), ("16,777,217 bytes",)),
}


def replace_values(file: h5py.File, name: str) -> None:
    """Leave one observation, and nothing else, of an episode."""
    if name.endswith("infos"):
        return
    values = file[name][: int(name.endswith("observations"))]
    del file[name]
    file[name] = values


@pytest.mark.parametrize("case", MINARI)
def test_minari_refused(tmp_path: Path, case: str) -> None:
    damage, parts = MINARI[case]
    directory = minari_set(tmp_path)
    assert len(read_minari(directory)) == ROWS
    damage(directory / "data")
    with pytest.raises(DatasetError) as error:
        load_dataset(directory)
    check_message(str(error.value), directory / "data", *parts, ";")


def test_6_a_file_given_to_the_other_reader(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", walk_columns())
    with pytest.raises(DatasetError, match="not a Minari dataset"):
        read_minari(path)
    directory = minari_set(tmp_path)
    with pytest.raises(DatasetError, match="Minari's layout"):
        read_d4rl(directory / "data/main_data.hdf5")


def test_minari_both_flags_are_a_terminal_and_no_flag_is_a_limit(tmp_path: Path) -> None:
    directory = minari_set(tmp_path)
    with h5py.File(directory / "data/main_data.hdf5", "a") as file:
        file["episode_0/truncations"][-1] = True
        file["episode_2/truncations"][-1] = False
    with pytest.warns(DatasetWarning, match="1 episodes end with neither flag set, first 'episode_2/truncations'"):
        dataset = read_minari(directory)
    assert flags(terminals=[TERMINAL], timeouts=[LIMIT, ROWS - 1])(dataset)
