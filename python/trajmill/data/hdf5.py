"""Opening HDF5 files that strangers wrote: say what a file really is, and read no array before it was looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trajmill.data.errors import refuse

if TYPE_CHECKING:
    import h5py

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_USER_BLOCK_OFFSETS = (0, 512, 1024, 2048)  # where the signature may stand (HDF5 file format, section II.A)

# What is found in place of a data set: the first bytes, what they mean, what to do.
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to", "fetch the file with `git lfs pull`"),
    (b"\x1f\x8b", "gzip-compressed", "unpack it with `gunzip` first"),
    (b"PK\x03\x04", "a zip archive (perhaps a NumPy .npz) under an HDF5 name", "give the HDF5 file itself"),
    (b"\x93NUMPY", "a NumPy .npy array under an HDF5 name", "give the HDF5 file itself"),
    (b"\x80", "a pickle, which can run any code and is never loaded", "convert it to HDF5 where you trust it"),
)
_HTML_STARTS = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def import_h5py() -> Any:
    """Import h5py, which only readers of data files need.

    Raises
    ------
    ImportError
        If it is absent; the message names the extra that brings it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("reading HDF5 data sets needs h5py; install it with: pip install 'trajmill[data]'") from error
    return h5py


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open `path` for reading after a look at its first bytes.

    Raises
    ------
    DatasetError
        If the file is missing, empty, cut short, or no HDF5 file; the message says what it is instead.
    """
    _sniff(path)
    library = import_h5py()
    try:
        file = library.File(path, "r")
    except OSError as error:
        size = path.stat().st_size
        fault = f"the HDF5 file cannot be opened and is probably cut short at {size:,} bytes ({error})"
        raise refuse(path, fault, "copy or download it again and compare the size with the source") from error
    with file:
        yield file


def _sniff(path: Path) -> None:
    """Refuse what is not an HDF5 file, saying what it is."""
    if not path.exists():
        raise refuse(path, "no such file", "check the path")
    if not path.is_file():
        raise refuse(path, "not a regular file", "give the path of one HDF5 file")
    with path.open("rb") as file:
        head = file.read(_USER_BLOCK_OFFSETS[-1] + len(_HDF5_SIGNATURE))
    if not head:
        raise refuse(path, "the file is empty", "copy or download it again")
    if any(head.startswith(_HDF5_SIGNATURE, offset) for offset in _USER_BLOCK_OFFSETS):
        return
    for start, meaning, remedy in _IMPOSTORS:
        if head.startswith(start):
            raise refuse(path, f"the file is {meaning}", remedy)
    if head.lstrip().lower().startswith(_HTML_STARTS):
        raise refuse(path, "the file is a web page (an error page saved as data?)", "download the data set again")
    raise refuse(path, f"not an HDF5 file, it starts with {head[:8]!r}", "give a file in D4RL's HDF5 schema")


def list_arrays(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """Map the full name of every array in `file` to its unread handle.

    Raises
    ------
    DatasetError
        At a soft or external link, or an array whose bytes lie in another file: reading could leave the file.
    """
    library = import_h5py()
    arrays: dict[str, h5py.Dataset] = {}
    groups = [("", file)]
    while groups:
        prefix, group = groups.pop()
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), library.HardLink):
                raise refuse(path, f"key {name!r} is a link", "write a plain copy of the data, without links")
            entry = group[key]
            if isinstance(entry, library.Group):
                groups.append((f"{name}/", entry))
            elif entry.external or entry.is_virtual:
                raise refuse(path, f"the bytes of key {name!r} lie in another file", "write a plain copy of the data")
            else:
                arrays[name] = entry
    return arrays


def check_memory(path: Path, arrays: dict[str, h5py.Dataset], memory_budget: int | None) -> None:
    """Refuse a file whose declared shapes need more than `memory_budget` bytes (None: half of the machine's memory).

    A file of some hundred bytes can declare terabytes.
    """
    budget = _physical_memory() // 2 if memory_budget is None else memory_budget
    need = sum(int(array.size) * int(array.dtype.itemsize) for array in arrays.values())
    if need > budget:
        largest = max(arrays, key=lambda name: int(arrays[name].size) * int(arrays[name].dtype.itemsize))
        fault = (
            f"the arrays declare {need:,} bytes, more than the memory budget of {budget:,}; "
            f"the largest is {largest!r} with shape {arrays[largest].shape}"
        )
        raise refuse(path, fault, "check that the file is genuine, or pass a larger memory_budget")


def _physical_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_array(path: Path, name: str, array: h5py.Dataset) -> NDArray[Any]:
    """Read a whole array.

    Raises
    ------
    DatasetError
        If stored bytes fail to decompress or to match their checksum; the message names the rows.
    """
    try:
        return np.asarray(array[()])
    except OSError as error:
        fault = f"key {name!r} holds corrupted data{_first_unreadable_rows(array)} ({error})"
        raise refuse(path, fault, "copy or download the file again") from error


def _first_unreadable_rows(array: h5py.Dataset) -> str:
    """Name the first block of rows that cannot be read, as `` in rows a to b``."""
    if not array.chunks:
        return ""
    rows_per_chunk = array.chunks[0]
    for first in range(0, array.shape[0], rows_per_chunk):
        last = min(first + rows_per_chunk, array.shape[0])
        try:
            array[first:last]
        except OSError:
            return f" in rows {first} to {last - 1}"
    return ""
