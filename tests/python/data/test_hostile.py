"""Files made to do harm: they must not exhaust memory, read other files, run code, or never end."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from d4rl_files import valid_columns, walk_columns, write

from trajmill.data import (
    DatasetError,
    load_dataset,
    read_d4rl,
    read_minari,
    read_npz,
    read_policy_weights,
    read_token_csv,
    write_d4rl,
    write_minari,
    write_npz,
)

SECRET = "the content of another file"


def without_rewards(path: Path) -> Path:
    return write(path, {key: values for key, values in valid_columns().items() if key != "rewards"})


# --- other files ---


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_arrays_stored_in_other_files(tmp_path: Path, kind: str) -> None:
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(240))
    path = without_rewards(tmp_path / "set.hdf5")
    with h5py.File(path, "a") as file:
        if kind == "external":
            file.create_dataset("rewards", (60,), np.float32, external=[(str(raw), 0, 240)])
        else:
            layout = h5py.VirtualLayout((60,), np.float32)
            layout[:] = h5py.VirtualSource("elsewhere.hdf5", "rewards", (60,))
            file.create_virtual_dataset("rewards", layout)
    with pytest.raises(DatasetError, match=r"set\.hdf5: the bytes of key 'rewards' lie in another file"):
        load_dataset(path)


@pytest.mark.parametrize("where", ["episode_0", "episode_0/rewards", "episode_0/infos", "episode_0/infos/qpos"])
def test_minari_links_to_other_files(tmp_path: Path, where: str) -> None:
    columns = valid_columns()
    directory = write_minari(tmp_path / "toy-v0", **columns, infos={"qpos": np.zeros((60, 2))})
    other = write_minari(tmp_path / "other-v0", **columns) / "data/main_data.hdf5"
    with h5py.File(directory / "data/main_data.hdf5", "a") as file:
        del file[where]
        file[where] = h5py.ExternalLink(str(other), where)
    with pytest.raises(DatasetError, match=f"episode_0: key '{where.partition('/')[2] or where}' is a link"):
        read_minari(directory)


def test_archives_with_paths_for_names_write_nothing(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "in/set.npz", **valid_columns())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.npy", b"x")
        archive.writestr("/tmp/escaped.npy", b"x")
    with pytest.warns(match="not read: '../escaped', '/tmp/escaped'"):
        assert len(read_npz(path)) == 60
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["in", "set.npz"]


# --- no end ---


def test_groups_that_contain_themselves(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", valid_columns())
    with h5py.File(path, "a") as file:
        file["loop"] = file["/"]
    with pytest.raises(DatasetError, match="'loop' contains itself"):
        read_d4rl(path)


def test_deep_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", valid_columns())
    with h5py.File(path, "a") as file:
        file.create_group("/".join("g" * 500))
    with pytest.raises(DatasetError, match="more than 8 groups deep"):
        read_d4rl(path)


def test_a_heap_of_texts_in_which_hdf5_would_go_round_for_ever(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", valid_columns(), text="words")
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    free = heap + 16 + 16 + 8  # behind the heap's header, the text's header, and "words" padded
    assert content[free : free + 2] == b"\0\0" and content[free + 8] > 0
    content[free + 8 : free + 16] = bytes(8)
    path.write_bytes(content)
    assert f"damaged (a heap of texts at byte {heap:,})" in read_with_little_memory(path)
    content[heap + 8 : heap + 16] = (2**40).to_bytes(8, "little")
    path.write_bytes(content)
    assert "a heap of texts" in read_with_little_memory(path)
    path.write_bytes(bytes(content) + b"GCOL\x01\0\0\0")  # cut within its header
    assert "a heap of texts" in read_with_little_memory(path)


def test_a_chunk_without_room_for_its_checksum(tmp_path: Path) -> None:
    """HDF5 2.0 reads far out of bounds."""
    path = without_rewards(tmp_path / "set.hdf5")
    with h5py.File(path, "a") as file:
        rewards = file.create_dataset("rewards", (60,), np.float32, chunks=(60,), compression="gzip", fletcher32=True)
        rewards.id.write_direct_chunk((0,), b"x")
    assert "key 'rewards' has a damaged chunk at row 0 (1 bytes at" in read_with_little_memory(path)


@pytest.mark.parametrize("name", ["set.hdf5", "set.npz", "main_data.hdf5"])
def test_a_pipe_that_nobody_writes_to(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    assert f"{path}: no" in read_with_little_memory(path)


# --- memory ---


def test_the_memory_budget_counts_all_arrays(tmp_path: Path) -> None:
    columns = valid_columns()
    path, need = write(tmp_path / "set.hdf5", columns), sum(values.nbytes for values in columns.values())
    assert len(read_d4rl(path, memory_budget=need)) == 60
    with pytest.raises(DatasetError, match=f"declare {need:,} bytes"):
        read_d4rl(path, memory_budget=need - 1)


def test_the_memory_budget_counts_all_episodes(tmp_path: Path) -> None:
    columns = valid_columns()
    directory = write_minari(tmp_path / "toy-v0", **columns)
    need = sum(values.nbytes for name, values in columns.items() if name != "next_observations") + 3 * 16
    assert len(read_minari(directory, memory_budget=need)) == 60
    with pytest.raises(DatasetError, match=f"declare {need:,} bytes"):
        read_minari(directory, memory_budget=need - 1)


def test_the_memory_budget_of_archives_and_tokens(tmp_path: Path) -> None:
    columns = valid_columns()
    path = tmp_path / "set.npz"
    np.savez(path, **columns)
    need = sum(values.nbytes for values in columns.values())
    assert len(read_npz(path, memory_budget=need)) == 60
    with pytest.raises(DatasetError, match=f"declare {need:,} bytes.*largest is 'observations'"):
        read_npz(path, memory_budget=need - 1)
    tokens = tmp_path / "tokens.csv"
    tokens.write_bytes(b"1,2\r\n")
    with pytest.raises(DatasetError, match="has 5 bytes, too many for the memory budget of 79"):
        read_token_csv(tokens, memory_budget=79)


def test_chunks_larger_than_all_memory(tmp_path: Path) -> None:
    path = without_rewards(tmp_path / "set.hdf5")
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (60,), np.float32, maxshape=(None,), chunks=(2**28,), compression="gzip")
    with pytest.raises(DatasetError, match=r"'rewards' with shape \(60,\) is stored in chunks of \(268435456,\)"):
        read_d4rl(path, memory_budget=10**8)


LIMITED = """
import resource, sys, warnings
from trajmill.data import DatasetError, load_dataset, read_token_csv
warnings.simplefilter("ignore")
base = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (base + 2**28, base + 2**28))
try:
    read_token_csv(sys.argv[1]) if sys.argv[1].endswith("csv") else load_dataset(sys.argv[1])
    print("read")
except DatasetError as error:
    print(error)
"""


def read_with_little_memory(path: Path) -> str:
    """What reading says in a process of its own that may take a quarter of a gigabyte."""
    ran = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@cache
def packed_zeros() -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**24)) for _ in range(32)) + packer.flush()


@pytest.mark.unsanitized
@pytest.mark.parametrize("fletcher32", [False, True])
def test_a_chunk_that_unpacks_to_half_a_gigabyte(tmp_path: Path, fletcher32: bool) -> None:
    path = without_rewards(tmp_path / "set.hdf5")
    with h5py.File(path, "a") as file:
        rewards = file.create_dataset(
            "rewards", (60,), np.float32, chunks=(60,), compression="gzip", fletcher32=fletcher32
        )
        rewards.id.write_direct_chunk((0,), packed_zeros())
    assert path.stat().st_size < 4_000_000
    assert "key 'rewards' holds a chunk at row 0 that unpacks to more" in read_with_little_memory(path)


def archive_of(path: Path, name: str, content: bytes, *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A valid archive but for one entry."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, values in valid_columns().items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            archive.writestr(f"{key}.npy", content if key == name else buffer.getvalue(), compresslevel=1)
    return path


def header(shape: str, dtype: str = "'<f4'") -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.unsanitized
def test_an_entry_that_unpacks_to_half_a_gigabyte(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "set.npz", "rewards", header("(60,)") + bytes(2**29))
    assert path.stat().st_size < 4_000_000
    assert "key 'rewards' holds more bytes than its shape (60,) needs" in read_with_little_memory(path)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("rewards", header("(60,)") + bytes(200), "'rewards' .*expected 240 bytes got 200"),
        ("rewards", header("(10**12,)") + bytes(240), "'rewards' has no header"),
        ("rewards", header("(1000000000000,)") + bytes(240), "'rewards' has 1000000000000 rows"),
        ("rewards", header("(-60,)") + bytes(240), r"'rewards' has shape \(-60,\)"),
        ("rewards", header("(60,)", "'O'") + bytes(480), "'rewards' has dtype object: pickled objects"),
        ("rewards", header("(60,)", "[('a', 'O')]") + bytes(480), "pickled objects"),
        ("rewards", header("(60,)", "'<U1'") + bytes(240), "'rewards' has dtype <U1, not numbers"),
        ("rewards", header("(" * 5000 + ")" * 5000), "'rewards' has no header"),
        ("rewards", header("(60,)" + " " * 20_000) + bytes(240), "'rewards' has no header"),
        ("rewards", header("(__import__('os').abort(),)") + bytes(240), "'rewards' has no header"),
        ("rewards", b"\x93NUMPY\x03\x00", "'rewards' has no header"),
        ("rewards", pickle.dumps([1.0]), "'rewards' has no header"),
        ("rewards", b"", "'rewards' has no header"),
    ],
)
def test_damaged_entries(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    path = archive_of(tmp_path / "set.npz", name, content)
    with pytest.raises(DatasetError, match=fault) as error:
        read_npz(path)
    assert str(error.value).startswith(f"{path}: ")


def test_archives_that_numpy_never_writes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, valid_columns()["rewards"])
    path = archive_of(tmp_path / "set.npz", "rewards", buffer.getvalue(), compression=zipfile.ZIP_LZMA)
    with pytest.raises(DatasetError, match="encrypted or packed in a way that NumPy never uses"):
        read_npz(path)
    path = write_npz(tmp_path / "twice.npz", **valid_columns())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("rewards.npy", buffer.getvalue())
    with pytest.raises(DatasetError, match="'rewards' occurs twice"):
        read_npz(path)
    path = write_npz(tmp_path / "many.npz", **valid_columns())
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(100):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(DatasetError, match="the archive has 105 entries"):
        read_npz(path)


def test_a_line_of_one_long_token_and_many_short_ones(tmp_path: Path) -> None:
    """An array of strings as wide as the widest would take a terabyte."""
    path = tmp_path / "tokens.csv"
    path.write_bytes(b"9" * 1_000_000 + b",1" * 500_000)
    assert "line 1 has an empty field or a number above" in read_with_little_memory(path)


# --- code ---


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("format", ["npz", "npy", "pickle", "attribute"])
def test_pickles_are_never_loaded(tmp_path: Path, format: str) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "set.hdf5"
    if format == "npz":
        np.savez(path.with_suffix(".npz"), **(valid_columns() | {"rewards": np.array([Bomb(trace)], object)}))
        path = path.with_suffix(".npz")
    elif format == "npy":
        with path.open("wb") as file:
            np.save(file, np.array([Bomb(trace)], object), allow_pickle=True)
    elif format == "pickle":
        path.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        attribute = np.void(pickle.dumps(Bomb(trace)))
        assert read_d4rl(write(path, valid_columns(), policy=attribute)).metadata == {}
        return
    with pytest.raises(DatasetError):
        load_dataset(path)
    assert not trace.exists()


# --- metadata ---


def test_odd_attributes_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "set.hdf5", valid_columns())
    with h5py.File(path, "a") as file:
        file.attrs["environment"] = "Pendulum-v1"
        file.attrs["reference"] = file["rewards"].ref
        file.attrs["texts"] = ["a" * 1000] * 1000
        file.attrs["many"] = np.zeros(5000)
        file.attrs["few"] = np.arange(3)
        file.attrs["record"] = np.zeros((), [("a", "f4")])
        file.attrs["bytes"] = np.bytes_(b"\xff\x00text")
        file.attrs["ordered"] = "no"
        file["metadata/objects"] = np.array(["a", "b"], h5py.string_dtype())
        file["metadata/algorithm"] = "SAC"
        file["metadata/policy/nonlinearity"] = "relu"
    metadata = read_d4rl(path).metadata
    assert metadata.pop("bytes").startswith("\ufffd")
    assert metadata == {
        "environment": "Pendulum-v1",
        "few": [0, 1, 2],
        "ordered": "no",
        "algorithm": "SAC",
        "policy/nonlinearity": "relu",
    }


def test_minari_metadata_of_odd_types(tmp_path: Path) -> None:
    directory = write_minari(tmp_path / "toy-v0", **valid_columns())
    path = directory / "data/metadata.json"
    entries = json.loads(path.read_text()) | {
        "dataset_id": "../../etc/passwd",
        "env_spec": json.dumps({"id": ["Hopper-v4"], "entry_point": "os:abort"}),
        "author": {"deep": [[[]]]},
        "trajmill": ["not", "an", "object"],
        "description": "x" * 10**6,
    }
    path.write_text(json.dumps(entries))
    dataset = read_minari(directory)
    assert dataset.name == "toy-v0"
    assert not {"environment", "author", "trajmill", "description"} & set(dataset.metadata)


def test_filters_of_plugins_are_refused(tmp_path: Path) -> None:
    path = without_rewards(tmp_path / "set.hdf5")
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=np.arange(60, dtype="f4"), chunks=(60,), scaleoffset=3)
    with pytest.raises(DatasetError, match=r"'rewards' is packed by the HDF5 filters \[6\]"):
        read_d4rl(path)


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_honest_ways_of_packing_are_read(tmp_path: Path, compression: str | None) -> None:
    columns = walk_columns()
    columns["timeouts"][-1] = True
    path = tmp_path / "set.hdf5"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, compression=compression, chunks=(7, *values.shape[1:]))
    np.testing.assert_array_equal(read_d4rl(path).observations, columns["observations"])


def test_policy_weights(tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    policy = {"metadata/policy/fc0/weight": weight, "metadata/policy/nonlinearity": np.array(b"relu")}
    path = write(tmp_path / "set.hdf5", valid_columns() | policy)
    weights = read_policy_weights(path)
    assert list(weights) == ["fc0/weight"]
    np.testing.assert_array_equal(weights["fc0/weight"], weight)
    assert read_d4rl(path).metadata == {"policy/nonlinearity": "relu"}
    assert read_policy_weights(write_d4rl(tmp_path / "none.hdf5", **valid_columns())) == {}
    with h5py.File(path, "a") as file:
        file["metadata/policy/fc0/weight"][1, 2] = np.nan
    with pytest.raises(
        DatasetError, match="'metadata/policy/fc0/weight' holds NaN or infinity in 1 rows, first in row 1"
    ):
        read_policy_weights(path)
