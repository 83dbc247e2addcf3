"""Opening HDF5 files from strangers: find out what a file really is, and inspect every array before reading it.

A file can declare shapes of terabytes, chunks that unpack to gigabytes, links to other files, and groups that contain
themselves. All of that is refused before HDF5 acts on it.
"""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trajmill.core import hdf5_writing
from trajmill.data.columns import LARGEST_CHUNK
from trajmill.data.errors import DatasetError, refuse

if TYPE_CHECKING:
    import h5py

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_USER_BLOCK_OFFSETS = (0, 512, 1024, 2048)  # where the signature may be (HDF5 file format, section II.A)
_HTML_STARTS = (b"<!doctype html", b"<html", b"<?xml", b"<head")

# What is found in place of a dataset: the first bytes, what they mean, what to do.
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to", "fetch the file with `git lfs pull`"),
    (b"\x1f\x8b", "gzip-compressed", "unpack it with `gunzip` first"),
    (b"PK\x03\x04", "a zip archive (perhaps a NumPy .npz) under an HDF5 name", "give the HDF5 file itself"),
    (b"\x93NUMPY", "a NumPy .npy array under an HDF5 name", "give the HDF5 file itself"),
    (b"\x80", "a pickle, which can run any code and is never loaded", "convert it to HDF5 where you trust it"),
    (_HTML_STARTS, "a web page (an error page saved as data?)", "download the dataset again"),
)
_GZIP, _FLETCHER32 = 1, 3
_FILTERS = {_GZIP: "gzip", 2: "shuffle", _FLETCHER32: "fletcher32", 32000: "lzf"}
_EXPANSION = {_GZIP: 1032, 32000: 264}  # most bytes that one packed byte can become
_EXPECTED_RATIO = 2  # a chunk may unpack to this many times what its shape needs
_PIECE = 2**20
_DEEPEST = 8
_HEAP = b"GCOL\x01\x00\x00\x00"
_HEAP_OBJECT = struct.Struct("<H6xQ")
_CHUNK_BYTES = 2**19
_IN_USE = ("unable to lock file", "already open for write", "already open for SWMR write")  # in what HDF5 says
_LONGEST_TEXT, _LONGEST_ATTRIBUTE = 2**20, 2**10


def import_h5py() -> Any:
    """Import h5py, which only readers and writers of data files need."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 datasets need h5py; install it with: pip install 'trajmill[data]'") from error
    return h5py


@contextmanager
def open_hdf5(path: Path, expected: str = "") -> Iterator[h5py.File]:
    """Open `path` for reading; refuse what is missing, empty, cut short, not HDF5, or in the block found to be damaged.

    `expected` ends the sentence on the size of a file that is cut short.
    """
    _sniff(path)
    _check_heaps(path)
    h5py = import_h5py()
    try:
        file = h5py.File(path, "r", locking="best-effort")  # some file systems have no locks
    except Exception as error:  # h5py raises OSError here, and others on a structure that makes no sense
        if isinstance(error, BlockingIOError) or any(words in str(error) for words in _IN_USE):
            fault = f"another program has the HDF5 file open for writing ({error})"
            remedy = (
                "wait until it is closed; after a writer that was killed, `h5clear -s FILE` of the HDF5 tools helps"
            )
            raise refuse(fault, remedy) from error
        size = path.stat().st_size
        fault = f"the HDF5 file cannot be opened and is probably cut short at {size:,} bytes{expected} ({error})"
        raise refuse(fault, "copy or download it again and compare the size with the source") from error
    with file:
        try:
            yield file
        except DatasetError:
            raise
        except Exception as error:  # what h5py makes of damaged structures has a dozen types
            fault = f"the HDF5 structure is damaged ({type(error).__name__}: {error})"
            raise refuse(fault, "copy or download it again") from error


def _sniff(path: Path) -> None:
    """Refuse what is not an HDF5 file, and say what it is."""
    if not path.is_file():
        raise refuse("not a regular file" if path.exists() else "no such file", "give the path of one HDF5 file")
    try:
        with path.open("rb") as file:
            head = file.read(_USER_BLOCK_OFFSETS[-1] + len(_HDF5_SIGNATURE))
    except OSError as error:
        raise refuse(f"the file cannot be read ({error.strerror})", "check its permissions and its disk") from error
    if not head:
        raise refuse("the file is empty", "copy or download it again")
    if any(head.startswith(_HDF5_SIGNATURE, offset) for offset in _USER_BLOCK_OFFSETS):
        return
    for start, meaning, remedy in _IMPOSTORS:
        if head.startswith(start) or head.lstrip().lower().startswith(start):
            raise refuse(f"the file is {meaning}", remedy)
    raise refuse(f"not an HDF5 file, it starts with {head[:8]!r}", "give a file in D4RL's HDF5 schema")


def _check_heaps(path: Path) -> None:
    """Refuse a damaged heap of texts, in which HDF5 can loop forever (an object without end of free space).

    A heap is ``GCOL``, a version, its size, then objects: number, references, size, bytes padded to 8; number 0 is the
    free space, whose size counts its own header (HDF5 file format, section III.E). Heaps do not overlap, so together
    they have no more objects than fit into the file.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start, left = content.find(_HEAP), len(content) // 16
        while start >= 0:
            at = start + 16
            end = start + int.from_bytes(content[start + 8 : at], "little")
            sound = at <= end <= len(content)
            while sound and at + 16 <= end:
                number, length = _HEAP_OBJECT.unpack_from(content, at)
                step = length if number == 0 else 16 + -(-length // 8) * 8
                sound = 16 <= step <= end - at and left > 0
                at += step
                left -= 1
            if not sound:
                fault = f"the HDF5 structure is damaged (a heap of texts at byte {start:,})"
                raise refuse(fault, "copy or download it again")
            start = content.find(_HEAP, start + 8)


def list_arrays(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Map the full name of every array in `file` to its unread handle.

    Refuses groups that are reached twice or lie too deep, and links: reading could leave the file or never end.
    """
    import h5py

    arrays: dict[str, h5py.Dataset] = {}
    groups, seen = [("", file)], {h5py.h5o.get_info(file.id).addr}
    while groups:
        prefix, group = groups.pop()
        for key in group:
            name = f"{prefix}{key}"
            entry = open_entry(group, key, name)
            if isinstance(entry, h5py.Dataset):
                arrays[name] = entry
            elif isinstance(entry, h5py.Group):
                place = h5py.h5o.get_info(entry.id).addr
                if place in seen or name.count("/") > _DEEPEST:
                    fault = f"group {name!r} contains itself or lies more than {_DEEPEST} groups deep"
                    raise refuse(fault, "write the data again, without links between groups")
                seen.add(place)
                groups.append((f"{name}/", entry))
    return arrays


def open_entry(group: h5py.Group, key: str, name: str) -> h5py.Group | h5py.Dataset:
    """Open an entry of a group without reading it; refuse links and bytes in other files. Messages call it `name`."""
    import h5py

    if group.id.links.get_info(key.encode(errors="surrogateescape")).type != h5py.h5l.TYPE_HARD:
        raise refuse(f"key {name!r} is a link", "write a plain copy of the data, without links")
    entry = group[key]
    if isinstance(entry, h5py.Dataset) and (entry.external or entry.is_virtual):
        raise refuse(f"the bytes of key {name!r} lie in another file", "write a plain copy of the data")
    return entry


def read_array(name: str, array: h5py.Dataset) -> NDArray[Any]:
    """Read a whole array; refuse unknown filters, chunks that unpack to too much, and wrong checksums."""
    _check_chunks(name, array)
    try:
        return np.asarray(array[()])
    except OSError as error:
        fault = f"key {name!r} holds corrupted data{_first_unreadable_rows(array)} ({error})"
        raise refuse(fault, "copy or download the file again") from error


def _check_chunks(name: str, array: h5py.Dataset) -> None:
    """Refuse chunks that HDF5 would fail on, or unpack without a limit until the packed stream ends."""
    if not array.chunks:
        return
    properties = array.id.get_create_plist()
    filters = [int(properties.get_filter(i)[0]) for i in range(properties.get_nfilters())]
    unknown = set(filters) - set(_FILTERS)
    if unknown or len(set(filters)) < len(filters):
        fault = f"key {name!r} is packed by the HDF5 filters {filters}"
        raise refuse(fault, f"only {', '.join(_FILTERS.values())} are read, each once; pack it with gzip")
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    limit = max(LARGEST_CHUNK, _EXPECTED_RATIO * chunk_bytes)
    file_size = Path(array.file.filename).stat().st_size
    suspects: list[tuple[int, ...]] = []

    def look(chunk: Any) -> None:
        applied = [number for i, number in enumerate(filters) if not chunk.filter_mask >> i & 1]
        checksum = 4 if _FLETCHER32 in applied else 0
        expansion = max((_EXPANSION.get(number, 1) for number in applied), default=1)
        fits = chunk.size > checksum if expansion > 1 else chunk.size == chunk_bytes + checksum
        if not fits or chunk.byte_offset + chunk.size > file_size or chunk.filter_mask >> len(filters):
            where = f"at row {chunk.chunk_offset[0]} ({chunk.size:,} bytes at {chunk.byte_offset:,})"
            raise refuse(f"key {name!r} has a damaged chunk {where}", "copy or download the file again")
        if chunk.size * expansion > limit:
            suspects.append(chunk.chunk_offset)

    array.id.chunk_iter(look)
    for offset in suspects:
        if _GZIP not in filters or not _unpacks_within(array, offset, limit):
            fault = f"key {name!r} holds a chunk at row {offset[0]} that unpacks to more than its rows"
            raise refuse(fault, "the file was made to exhaust memory or is damaged; do not use it")


def _unpacks_within(array: h5py.Dataset, offset: tuple[int, ...], limit: int) -> bool:
    """True if a chunk packed by gzip unpacks to at most `limit` bytes; it is unpacked piece by piece."""
    stream, total, rest = zlib.decompressobj(), 0, array.id.read_direct_chunk(offset)[1]
    try:
        while rest and not stream.eof:
            total += len(stream.decompress(rest, _PIECE))
            rest = stream.unconsumed_tail
            if total > limit:
                return False
    except zlib.error:
        pass  # damage, which reading reports
    return True


def _first_unreadable_rows(array: h5py.Dataset) -> str:
    """Name the first chunk of rows that cannot be read, as `` in rows a to b``."""
    row_count, chunk = array.shape[0], array.chunks[0] if array.chunks else array.shape[0]
    for first in range(0, row_count, chunk):
        try:
            array[first : first + chunk]
        except OSError:
            return f" in rows {first} to {min(first + chunk, row_count) - 1}"
    return ""


def read_attributes(entry: h5py.File | h5py.Group) -> dict[str, Any]:
    """The short attributes of a file or group as plain Python values: numbers, text and small arrays of numbers."""

    def is_short(attribute: h5py.h5a.AttrID) -> bool:
        few = bool(attribute.shape) and math.prod(attribute.shape) <= _LONGEST_ATTRIBUTE
        return is_short_scalar(attribute) or (few and attribute.dtype.kind in "biuf")

    return {key: plain(entry.attrs[key]) for key in entry.attrs if is_short(entry.attrs.get_id(key))}


def is_short_scalar(array: h5py.Dataset | h5py.h5a.AttrID) -> bool:
    """True for one number, flag or text that can be read without harm."""
    readable = array.dtype.kind in "biufS" or import_h5py().check_string_dtype(array.dtype) is not None
    return array.shape == () and readable and int(array.dtype.itemsize) <= _LONGEST_TEXT


def plain(value: Any) -> Any:
    """Turn NumPy scalars, arrays and bytes into Python values."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def create_hdf5(path: Path) -> AbstractContextManager[tuple[h5py.File, Callable[[], None]]]:
    """`core.hdf5_writing.create_hdf5`: a new file to write, and the check to call between pieces."""
    return hdf5_writing.create_hdf5(import_h5py(), path)


def create_packed(group: h5py.Group, name: str, values: NDArray[Any], *, row_count: int | None = None) -> h5py.Dataset:
    """Create an array in chunks of whole rows, packed and with checksums, readable by every HDF5 library.

    With `row_count` it has so many rows, of which `values` are the first; the rest comes in pieces of as many rows.
    """
    row_bytes = max(1, values.nbytes // len(values))
    rows = min(len(values), max(1, _CHUNK_BYTES // row_bytes))
    content: dict[str, Any] = {"data": values}
    if row_count is not None and row_count > len(values):
        content = {"shape": (row_count, *values.shape[1:]), "dtype": values.dtype}
        while len(values) % rows:  # no chunk is written twice
            rows -= 1
    packing = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
    array = group.create_dataset(name, chunks=(rows, *values.shape[1:]), **content, **packing)
    if "data" not in content:
        array[: len(values)] = values
    return array
