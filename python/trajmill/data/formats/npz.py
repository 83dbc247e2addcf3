"""SynthER's ``samples.npz``: transitions in no order, one NumPy array a column, in a zip archive.

Headers are read first, then no more bytes than they declare. Pickled objects are never loaded.
Source: github.com/conglu1997/SynthER, whose trainer saves such files with `numpy.savez_compressed`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Unpack

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trajmill.core.paths import AnyPath, local_path
from trajmill.data.columns import MemoryBudget, check_columns, columns_to_write
from trajmill.data.errors import DatasetError, refuse, refusing, warn_about, where
from trajmill.data.formats import checked_dataset, new_file
from trajmill.data.records import COLUMNS, Columns, Dataset, Steps

SUFFIXES = (".npz",)
ORDERED = False
KEYS = ("observations", "actions", "rewards", "next_observations", "terminals")  # what SynthER writes
_MOST_MEMBERS = 64
_LONGEST_HEADER = 10_000
_DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)


class _Header(NamedTuple):
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def recognizes(path: Path) -> bool:
    """True for a zip archive, and for a file that should be one."""
    return path.suffix == ".npz" or (path.is_file() and zipfile.is_zipfile(path))


def read(
    path: AnyPath, *, fix_timeouts: bool = False, limit: int | None = None, memory_budget: int | None = None
) -> Dataset:
    """Read and check transitions as SynthER stores them; options as in `load_dataset`.

    An archive has `KEYS` and perhaps ``timeouts``; a warning names other arrays, which are not read. Terminals that a
    model has made need not be 0 or 1; they count above 0.5. The rows do not follow each other, so `fix_timeouts` and
    `limit` have no effect.
    """
    path = local_path(path)
    with refusing(path):
        if not path.is_file():
            raise refuse("no such file", "check the path")
        if not zipfile.is_zipfile(path):
            raise refuse("not a NumPy archive, or one cut short", "give the complete .npz file")
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = _read_arrays(archive, MemoryBudget(memory_budget))
        except DatasetError:
            raise
        except _DAMAGES as error:
            fault = f"the archive is damaged ({type(error).__name__}: {error})"
            raise refuse(fault, "copy or make it again") from error
        if arrays["terminals"].dtype.kind == "f":
            arrays["terminals"] = _threshold(arrays["terminals"])
        return checked_dataset(path, arrays, fix_timeouts=False, name=path.stem, ordered=False)


def _read_arrays(archive: zipfile.ZipFile, budget: MemoryBudget) -> dict[str, NDArray[Any]]:
    """The archive's columns; nothing is unpacked to a file, so the names of entries cannot do harm."""
    entries = archive.infolist()
    if len(entries) > _MOST_MEMBERS:
        raise refuse(f"the archive has {len(entries):,} entries", f"a dataset has at most {_MOST_MEMBERS}")
    members, headers, others = {}, {}, list[str]()
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name not in COLUMNS:
            others.append(name)
            continue
        if name in members:
            raise refuse(f"key {name!r} occurs twice", "write the archive again")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            fault = f"key {name!r} is encrypted or packed in a way that NumPy never uses"
            raise refuse(fault, "write the archive with numpy.savez_compressed")
        with archive.open(entry) as file:
            members[name], headers[name] = entry, _read_header(name, file)
    if others:
        warn_about(f"arrays that SynthER's format does not have are not read: {', '.join(map(repr, others[:20]))}")
    check_columns(headers, required=KEYS)
    budget.take(headers)
    return {name: _read_array(name, archive, member) for name, member in members.items()}


def _read_header(name: str, file: IO[bytes]) -> _Header:
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        header = _Header(*read_header(file, max_header_size=_LONGEST_HEADER))
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        fault = f"key {name!r} has no header of a NumPy array ({error})".replace("\n", " ")[:300]
        raise refuse(fault, "write the archive with numpy.savez_compressed") from error
    if header.dtype.hasobject:
        fault = f"key {name!r} has dtype {header.dtype}: pickled objects, which can run any code and are never loaded"
        raise refuse(fault, "store plain numbers")
    if any(length < 0 for length in header.shape):
        raise refuse(f"key {name!r} has shape {header.shape}", "lengths cannot be negative; write the archive again")
    return header


def _read_array(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array; memory is taken as bytes arrive, and no more than the header declares."""
    with archive.open(member) as file:
        try:
            values: NDArray[Any] = npy.read_array(file, allow_pickle=False, max_header_size=_LONGEST_HEADER)
        except ValueError as error:
            raise refuse(f"key {name!r} is cut short ({error})", "copy or make the file again") from error
        if file.read(1):  # at the end of the entry its checksum is compared
            raise refuse(f"key {name!r} holds more bytes than its shape {values.shape} needs", "make the file again")
    return values


def _threshold(terminals: NDArray[Any]) -> NDArray[Any]:
    """Read a model's terminals, anything around 0 and 1, as flags."""
    odd = (~np.isin(terminals, (0, 1)) & np.isfinite(terminals)).reshape(len(terminals), -1).any(axis=1)
    if not odd.any():
        return terminals
    warn_about(f"key 'terminals' is neither 0 nor 1 {where(odd)}; read as > 0.5")
    return np.where(np.isfinite(terminals), terminals > 0.5, terminals)


def write(path: AnyPath, *, overwrite: bool = False, **steps: Unpack[Steps]) -> Path:
    """Write transitions as SynthER does, a compressed NumPy archive of its five arrays; see `Format.write`.

    The format needs next observations and has no timeouts, infos or metadata; infos are left out with a warning.
    """
    path = local_path(path)
    with refusing(path):
        if steps.get("infos"):
            warn_about(f"SynthER's format holds no infos; {len(steps['infos'] or {})} are left out, use D4RL's (.hdf5)")
        columns = columns_to_write(steps, infos=(), next_observations=True)
        arrays: dict[str, Any] = {key: columns[key] for key in KEYS}
        arrays["terminals"] = arrays["terminals"].astype(np.float32)
        with new_file(path, overwrite=overwrite) as part, part.open("xb") as file:
            np.savez_compressed(file, **arrays)
    return path


def write_pieces(
    path: AnyPath, pieces: Iterable[Columns], row_count: int, *, metadata: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Write transitions in no order, in little memory; see `Format.write_pieces`. Equal rows give equal bytes.

    The format has no `metadata`. An array is one member of the archive, so `pieces` are read once for each of `KEYS`.
    """
    path = local_path(path)
    with (
        refusing(path),
        new_file(path, overwrite=overwrite) as part,
        zipfile.ZipFile(part, "x", compression=zipfile.ZIP_DEFLATED) as archive,
    ):
        for key in KEYS:
            entry = zipfile.ZipInfo(f"{key}.npy")  # of 1980, as every entry without a date
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                for number, piece in enumerate(pieces):
                    values = np.ascontiguousarray(piece[key], np.float32)
                    if number == 0:
                        shape = (row_count, *values.shape[1:])
                        npy.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
                    member.write(values.data)
    return path
