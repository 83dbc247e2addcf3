"""SynthER's ``samples.npz``: transitions in no order, one NumPy array each, in a zip archive.

The archive is read by hand: a header first, then no more bytes than it declares. Pickled objects are never loaded.
Source: github.com/conglu1997/SynthER, what its trainer saves with `numpy.savez_compressed`.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from trajmill.data.columns import (
    MATRICES,
    VECTORS,
    check_contents,
    check_dtypes,
    check_keys,
    check_shapes,
    clean_column,
    columns_to_write,
)
from trajmill.data.episodes import settle_flags
from trajmill.data.errors import DatasetError, refuse, remark
from trajmill.data.hdf5 import check_budget, memory_budget_of
from trajmill.data.records import Dataset
from trajmill.data.writing import whole

KEYS = ("observations", "actions", "rewards", "next_observations", "terminals")
"""what SynthER writes"""
_MOST_MEMBERS = 64
_LONGEST_HEADER = 10_000
_PIECE = 2**20


class _Header:
    """Shape and type of a stored array, before it is read."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran: bool) -> None:
        self.shape, self.dtype, self.fortran = shape, dtype, fortran
        self.byte_count = math.prod(shape) * dtype.itemsize


def read_npz(path: str | Path, *, memory_budget: int | None = None) -> Dataset:
    """Read and check transitions as SynthER stores them.

    Parameters
    ----------
    path
        A NumPy archive with ``observations`` (N, O), ``actions`` (N, A), ``rewards`` (N,), ``next_observations`` (N, O)
        and ``terminals`` (N,), and if it has them ``timeouts`` (N,). Other arrays are not read. Terminals that a model
        has made need not be 0 or 1; they count from 0.5 on.
    memory_budget
        Most bytes the arrays may declare; None is half of the machine's memory.

    Returns
    -------
    Dataset
        With `ordered` false: its rows do not follow each other.

    Raises
    ------
    DatasetError
        If the file is not what it should be; the message names the file, the key, the fault and what to do.
    """
    path = Path(path)
    try:
        arrays = _read_arrays(path, memory_budget)
    except DatasetError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError) as error:
        fault = f"the archive is damaged ({type(error).__name__}: {error})"
        raise refuse(path, fault, "copy or make it again") from error
    if arrays["terminals"].dtype.kind == "f":
        arrays["terminals"] = _threshold(path, arrays["terminals"])
    columns = {name: clean_column(path, name, values) for name, values in arrays.items()}
    no_limits = np.zeros(len(columns["rewards"]), np.bool_)
    terminals, timeouts = settle_flags(path, columns["terminals"], columns.get("timeouts", no_limits))
    dataset = Dataset(
        name=path.stem,
        path=path,
        observations=columns["observations"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        terminals=terminals,
        timeouts=timeouts,
        next_observations=columns["next_observations"],
        ordered=False,
    )
    check_contents(dataset)
    return dataset


def _read_arrays(path: Path, memory_budget: int | None) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise refuse(path, "no such file", "check the path")
    if not zipfile.is_zipfile(path):
        raise refuse(path, "not a NumPy archive, or one cut short", "give the .npz file, copied whole")
    with zipfile.ZipFile(path) as archive:
        members = _members(path, archive)
        headers = {}
        for name, member in members.items():
            with archive.open(member) as file:
                headers[name] = _read_header(path, name, file)
        check_keys(path, headers)
        if "next_observations" not in headers:
            fault = "key 'next_observations' is missing"
            raise refuse(path, fault, f"single transitions need all of {', '.join(KEYS)}")
        check_dtypes(path, headers)
        check_shapes(path, headers)
        check_budget(path, headers, memory_budget_of(memory_budget))
        return {name: _read_array(path, name, archive, member) for name, member in members.items()}


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries of a data set by key; nothing is ever unpacked to a file, so names lead nowhere."""
    entries = archive.infolist()
    if len(entries) > _MOST_MEMBERS:
        raise refuse(path, f"the archive has {len(entries):,} entries", f"a data set has at most {_MOST_MEMBERS}")
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name not in MATRICES + VECTORS:
            continue
        if name in members:
            raise refuse(path, f"key {name!r} occurs twice", "write the archive again")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            fault = f"key {name!r} is encrypted or packed in a way that NumPy never uses"
            raise refuse(path, fault, "write the archive with numpy.savez_compressed")
        members[name] = entry
    return members


def _read_header(path: Path, name: str, file: IO[bytes]) -> _Header:
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file, max_header_size=_LONGEST_HEADER)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        fault = f"key {name!r} has no header of a NumPy array ({error})".replace("\n", " ")[:300]
        raise refuse(path, fault, "write the archive with numpy.savez_compressed") from error
    if dtype.hasobject:
        fault = f"key {name!r} has dtype {dtype}: pickled objects, which can run any code and are never loaded"
        raise refuse(path, fault, "store plain numbers")
    if any(length < 0 for length in shape):
        raise refuse(path, f"key {name!r} has shape {shape}", "lengths cannot be negative; write the archive again")
    return _Header(shape, dtype, fortran=fortran)


def _read_array(path: Path, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array; memory is taken only as bytes arrive, and no more than the header declares."""
    with archive.open(member) as file:
        header = _read_header(path, name, file)
        data = np.empty(header.byte_count, np.uint8)
        view, done = data.data, 0
        while done < header.byte_count:
            piece = file.read(min(_PIECE, header.byte_count - done))
            if not piece:
                fault = f"key {name!r} ends after {done:,} of {header.byte_count:,} bytes"
                raise refuse(path, fault, "copy or make the file again")
            view[done : done + len(piece)] = piece
            done += len(piece)
        if file.read(1):  # at the end of the entry its checksum is compared
            fault = f"key {name!r} holds more bytes than its shape {header.shape} needs"
            raise refuse(path, fault, "make the file again")
    return data.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _threshold(path: Path, terminals: NDArray[Any]) -> NDArray[Any]:
    """Read a model's terminals, anything around 0 and 1, as flags."""
    odd = ~np.isin(terminals, (0, 1)) & np.isfinite(terminals)
    if not odd.any():
        return terminals
    row = int(odd.reshape(len(terminals), -1).any(axis=1).argmax())
    remark(path, f"key 'terminals' is neither 0 nor 1 in {int(odd.sum())} rows, first in row {row}; read as > 0.5")
    return np.where(np.isfinite(terminals), terminals > 0.5, terminals)


def write_npz(
    path: str | Path,
    *,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminals: ArrayLike,
    timeouts: ArrayLike,
    next_observations: ArrayLike,
    overwrite: bool = False,
) -> Path:
    """Write transitions as SynthER does: a compressed NumPy archive of its five arrays, whole or not at all.

    The format has no timeouts and no infos: steps that a limit cut are stored as any other.

    Parameters
    ----------
    path
        The file to create, ending in ``.npz``.
    observations, actions, rewards, terminals, timeouts, next_observations
        As `trajmill.data.write_d4rl` takes them.
    overwrite
        Replace a file at `path`.

    Raises
    ------
    DatasetError
        If a column is wrong or `path` exists; nothing is written.
    """
    path = Path(path)
    columns = columns_to_write(
        path,
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=timeouts,
        next_observations=next_observations,
        infos=None,
    )
    arrays: dict[str, Any] = {key: columns[key] for key in KEYS}
    arrays["terminals"] = arrays["terminals"].astype(np.float32)
    with whole(path, overwrite=overwrite) as part, part.open("xb") as file:
        np.savez_compressed(file, **arrays)
    return path
