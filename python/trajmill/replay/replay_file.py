"""Replay buffers in files: a copy that `save` writes, and storage that a buffer works in.

A file is a header and the parts of the buffer's memory (cpp/include/trajmill/replay_buffer.hpp), each at a multiple of
4,096 bytes. The header is ``TRAJRPLY``, the length and the CRC-32 of a JSON text (two little-endian uint64), and that
text: format version, settings, which extents of the memory follow, and their XXH3. A copy holds the extents in use;
storage holds all of the memory, and has a check of each row, one of the priorities and one of the state instead, since
they change. Nothing is pickled. Version 2 did not say whose the rows of several environments are, which came of all of
them together, and had a check of the state only. Version 1 had none.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import zlib
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trajmill.core import files
from trajmill.core.direct_io import Bytes, DirectFile, aligned_buffer, padded, read_into
from trajmill.core.json_input import parse_json
from trajmill.core.threads import Threads
from trajmill.corpus.errors import library

_MAGIC = b"TRAJRPLY"
_PREAMBLE = struct.Struct("<8sQQ")  # magic, length and CRC-32 of the text
_VERSIONS = (1, 2, 3)  # that are read; the last one is written
_LARGEST_TEXT = 2**24
_PIECE = 2**24  # bytes written or read at a time

Settings = dict[str, Any]
Extents = list[tuple[int, int]]


class ReplayFileError(ValueError):
    """A file is not what it should be: not a replay buffer, damaged, or of other settings."""


class Header(NamedTuple):
    """What a file says about itself."""

    settings: Settings
    extents: Extents  # begin and size in memory; in the file they follow each other, padded to ALIGNMENT
    checksum: str | None  # None: storage
    size: int  # bytes of the header
    version: int


def save(path: Path, settings: Settings, memory: Bytes, extents: Extents) -> None:
    """Write a copy, which appears under its name whole or not at all; the first extent is the state."""
    parts = _in_pieces(memory, extents)
    state = aligned_buffer(parts[0].size)  # a copy: draws continue meanwhile and are counted in the buffer's own
    state[:] = parts[0]
    parts[0] = state
    blank = _header(settings, extents, "0" * 32)
    digest = _digest()
    size = blank.size + sum(part.size for part in parts)
    with files.replacing(path) as target, contextlib.closing(DirectFile(target, size)) as file:
        offset = blank.size
        with Threads(1) as hasher:
            for part in parts:
                hasher.submit(partial(digest.update, part.data))  # while the disk is busy
                file.write(part, part.size, offset)
                offset += part.size
        header = _header(settings, extents, digest.hexdigest())
        file.write(header, header.size, 0)


def load(path: Path, header: Header, memory: Bytes, bounds: list[int]) -> None:
    """Read a copy into a new buffer's memory; extent k must begin at ``bounds[k]`` and end by ``bounds[k + 1]``.

    ReplayFileError if the file is not what was saved.
    """
    begins = [begin for begin, _ in header.extents]
    ends = zip(header.extents, bounds[1:], strict=False)
    if begins != bounds[: 4 if header.version < 3 else 5] or not all(
        0 <= size <= end - begin for (begin, size), end in ends
    ):
        raise ReplayFileError(f"{path} is damaged: its extents are not those of its settings")
    parts = _in_pieces(memory, header.extents)
    offsets = accumulate((part.size for part in parts), initial=header.size)
    digest = _digest()
    with Threads(4) as readers, Threads(1) as hasher:
        places = zip(parts, offsets, strict=False)
        reads = [readers.submit(partial(read_into, path, part, part.size, offset)) for part, offset in places]
        for part, read in zip(parts, reads, strict=True):
            read.result()
            hasher.submit(partial(digest.update, part.data))
    if digest.hexdigest() != header.checksum:
        raise ReplayFileError(f"{path} is damaged: its checksum does not match; restore it from another copy")


def read_header(path: Path) -> Header:
    """The header of a file; ReplayFileError if it is not one of ours or not whole."""
    file_size = path.stat().st_size
    with path.open("rb") as file:
        preamble = file.read(_PREAMBLE.size)
        if len(preamble) < _PREAMBLE.size or not preamble.startswith(_MAGIC):
            fault = f"it does not begin with {_MAGIC.decode()}"
            raise ReplayFileError(f"{path} is not a replay buffer of trajmill: {fault}")
        _, length, crc = _PREAMBLE.unpack(preamble)
        text = file.read(min(length, _LARGEST_TEXT))
    if len(text) != length or zlib.crc32(text) != crc:
        raise ReplayFileError(f"{path} is damaged: its header is not whole")
    try:
        fields = parse_json(text)
        version = int(fields["version"])
        if version in _VERSIONS:
            extents = [(int(begin), int(size)) for begin, size in fields["extents"]]
            header = Header(
                dict(fields["settings"]), extents, fields["checksum"], padded(_PREAMBLE.size + length), version
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ReplayFileError(f"{path} is damaged: its header lacks something ({error!r})") from error
    if version not in _VERSIONS:
        raise ReplayFileError(
            f"{path} has format version {version}, this trajmill reads up to {_VERSIONS[-1]}; use a newer one"
        )
    wanted = header.size + sum(padded(size) for _, size in extents)
    if file_size != wanted:
        raise ReplayFileError(f"{path} is cut short or was added to: it should have {wanted} bytes, has {file_size}")
    return header


def open_storage(path: Path, settings: Settings, byte_count: int) -> tuple[Bytes, int]:
    """The memory of a buffer that lives in a file, made if there is none, and a descriptor that keeps it locked."""
    if not path.exists():
        _make_storage(path, settings, byte_count)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if files.lock(descriptor) is False:
            raise ReplayFileError(f"{path} is in use by another buffer; close that one first")
        found = read_header(path)
        if found.checksum is not None:
            raise ReplayFileError(f"{path} is a copy that save() wrote; read it with ReplayBuffer.load()")
        if found.version != _VERSIONS[-1]:
            fault = f"is storage of format version {found.version}, of an earlier trajmill"
            raise ReplayFileError(f"{path} {fault}; save() a copy with that one, and load() it here")
        for name, value in json.loads(json.dumps(settings)).items():
            if found.settings.get(name) != value:
                fault = f"holds a buffer with {name}={found.settings.get(name)}, asked for {value}"
                remedy = "open it with the settings it was made with, or choose another path"
                raise ReplayFileError(f"{path} {fault}; {remedy}")
        return np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)[found.size :], descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _make_storage(path: Path, settings: Settings, byte_count: int) -> None:
    """Make the file, all of its blocks with it, unless another program has made it meanwhile."""
    header = _header(settings, [(0, byte_count)], None)
    part = files.part_of(path)
    with files.naming(path, part):
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with files.naming(path, part):  # a mapped write to a full disk kills the process, so all is taken here
            os.posix_fallocate(descriptor, 0, header.size + byte_count)
            os.pwrite(descriptor, header.data, 0)
            os.fsync(descriptor)
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            part.rename(path)
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)


def _header(settings: Settings, extents: Extents, checksum: str | None) -> Bytes:
    fields = {"version": _VERSIONS[-1], "settings": settings, "extents": extents, "checksum": checksum}
    text = json.dumps(fields, allow_nan=False).encode()
    data = _PREAMBLE.pack(_MAGIC, len(text), zlib.crc32(text)) + text
    header = aligned_buffer(len(data))
    header[:] = np.frombuffer(data.ljust(header.size, b"\0"), np.uint8)
    return header


def _digest() -> Any:
    return library("xxhash", "a replay file", "corpus").xxh3_128()


def _in_pieces(memory: Bytes, extents: Extents) -> list[Bytes]:
    """The extents, padded as they are in a file, in pieces of at most `_PIECE` bytes."""
    return [
        memory[first : min(first + _PIECE, begin + padded(size))]
        for begin, size in extents
        for first in range(begin, begin + padded(size), _PIECE)
    ]
