"""SynthER's ``samples.npz``: transitions in no order, one NumPy array each, in a zip archive.

The archive is read by hand: a header first, then no more bytes than it declares. Pickled objects are never loaded.
Source: github.com/conglu1997/SynthER, what its trainer saves with `numpy.savez_compressed`.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Unpack

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trajmill.data.columns import (
    MATRICES,
    VECTORS,
    MemoryBudget,
    check_columns,
    check_keys,
    clean_column,
    columns_to_write,
    warn_about_casts,
)
from trajmill.data.errors import DatasetError, refuse, refusing, warn_about
from trajmill.data.formats import checked_dataset, new_file
from trajmill.data.records import Dataset, Steps

SUFFIXES = (".npz",)
ORDERED = False
KEYS = ("observations", "actions", "rewards", "next_observations", "terminals")
"""what SynthER writes"""
_MOST_MEMBERS = 64
_LONGEST_HEADER = 10_000
_PIECE = 2**20
_DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class _Header:
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def byte_count(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def recognizes(path: Path) -> bool:
    """True for a zip archive, and for a file that should be one."""
    return path.suffix == ".npz" or (path.is_file() and zipfile.is_zipfile(path))


def read(path: str | Path, *, fix_timeouts: bool = False, memory_budget: int | None = None) -> Dataset:
    """Read and check transitions as SynthER stores them.

    Parameters
    ----------
    path
        A NumPy archive with ``observations`` (N, O), ``actions`` (N, A), ``rewards`` (N,), ``next_observations`` (N, O)
        and ``terminals`` (N,), and if it has them ``timeouts`` (N,). Other arrays are not read. Terminals that a model
        has made need not be 0 or 1; they count from 0.5 on.
    fix_timeouts
        Without effect: single transitions have no episodes.
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
    with refusing(path):
        try:
            arrays = _read_arrays(path, MemoryBudget(memory_budget))
        except DatasetError:
            raise
        except _DAMAGES as error:
            fault = f"the archive is damaged ({type(error).__name__}: {error})"
            raise refuse(fault, "copy or make it again") from error
        if arrays["terminals"].dtype.kind == "f":
            arrays["terminals"] = _threshold(arrays["terminals"])
        columns = {name: clean_column(name, values) for name, values in arrays.items()}
        columns.setdefault("timeouts", np.zeros(len(columns["rewards"]), np.bool_))
        return checked_dataset(path, columns, fix_timeouts=False, name=path.stem, ordered=False)


def _read_arrays(path: Path, budget: MemoryBudget) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise refuse("no such file", "check the path")
    if not zipfile.is_zipfile(path):
        raise refuse("not a NumPy archive, or one cut short", "give the .npz file, copied whole")
    with zipfile.ZipFile(path) as archive:
        members = _members(archive)
        headers = {}
        for name, member in members.items():
            with archive.open(member) as file:
                headers[name] = _read_header(name, file)
        check_keys(headers)
        if "next_observations" not in headers:
            fault = "key 'next_observations' is missing"
            raise refuse(fault, f"single transitions need all of {', '.join(KEYS)}")
        check_columns(headers)
        warn_about_casts({name: header.dtype for name, header in headers.items()})
        budget.take(headers)
        return {name: _read_array(name, archive, member) for name, member in members.items()}


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries of a dataset by key; nothing is ever unpacked to a file, so names lead nowhere."""
    entries = archive.infolist()
    if len(entries) > _MOST_MEMBERS:
        raise refuse(f"the archive has {len(entries):,} entries", f"a dataset has at most {_MOST_MEMBERS}")
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name not in MATRICES + VECTORS:
            continue
        if name in members:
            raise refuse(f"key {name!r} occurs twice", "write the archive again")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            fault = f"key {name!r} is encrypted or packed in a way that NumPy never uses"
            raise refuse(fault, "write the archive with numpy.savez_compressed")
        members[name] = entry
    return members


def _read_header(name: str, file: IO[bytes]) -> _Header:
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read_header(file, max_header_size=_LONGEST_HEADER)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        fault = f"key {name!r} has no header of a NumPy array ({error})".replace("\n", " ")[:300]
        raise refuse(fault, "write the archive with numpy.savez_compressed") from error
    if dtype.hasobject:
        fault = f"key {name!r} has dtype {dtype}: pickled objects, which can run any code and are never loaded"
        raise refuse(fault, "store plain numbers")
    if any(length < 0 for length in shape):
        raise refuse(f"key {name!r} has shape {shape}", "lengths cannot be negative; write the archive again")
    return _Header(shape, dtype, fortran)


def _read_array(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array; memory is taken only as bytes arrive, and no more than the header declares."""
    with archive.open(member) as file:
        header = _read_header(name, file)
        data = np.empty(header.byte_count, np.uint8)
        view, done = data.data, 0
        while done < header.byte_count:
            piece = file.read(min(_PIECE, header.byte_count - done))
            if not piece:
                fault = f"key {name!r} ends after {done:,} of {header.byte_count:,} bytes"
                raise refuse(fault, "copy or make the file again")
            view[done : done + len(piece)] = piece
            done += len(piece)
        if file.read(1):  # at the end of the entry its checksum is compared
            fault = f"key {name!r} holds more bytes than its shape {header.shape} needs"
            raise refuse(fault, "make the file again")
    return data.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _threshold(terminals: NDArray[Any]) -> NDArray[Any]:
    """Read a model's terminals, anything around 0 and 1, as flags."""
    odd = ~np.isin(terminals, (0, 1)) & np.isfinite(terminals)
    if not odd.any():
        return terminals
    row = int(odd.reshape(len(terminals), -1).any(axis=1).argmax())
    warn_about(f"key 'terminals' is neither 0 nor 1 in {int(odd.sum())} rows, first in row {row}; read as > 0.5")
    return np.where(np.isfinite(terminals), terminals > 0.5, terminals)


def write(path: str | Path, *, overwrite: bool = False, **steps: Unpack[Steps]) -> Path:
    """Write transitions as SynthER does: a compressed NumPy archive of its five arrays, whole or not at all.

    The format has no timeouts, infos or metadata: steps that a limit cut are stored as any other.

    Parameters
    ----------
    path
        The file to create, ending in ``.npz``.
    overwrite
        Replace a file at `path`.
    steps
        As `Steps` describes them, with next observations.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    DatasetError
        If a column is wrong or `path` exists; nothing is written.
    """
    path = Path(path)
    with refusing(path):
        columns = columns_to_write(steps, infos=(), next_observations=True)
        arrays: dict[str, Any] = {key: columns[key] for key in KEYS}
        arrays["terminals"] = arrays["terminals"].astype(np.float32)
        with new_file(path, overwrite=overwrite) as part, part.open("xb") as file:
            np.savez_compressed(file, **arrays)
    return path
