"""Direct I/O: large files are read and written past the page cache, where the file system supports it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmill.core import files

ALIGNMENT = 4096
"""bytes; direct I/O needs addresses, offsets and sizes in multiples of the device's block, which is never larger"""

Bytes = NDArray[np.uint8]

_DIRECT: int = getattr(os, "O_DIRECT", 0)  # macOS has none


def aligned_buffer(size: int) -> Bytes:
    """At least `size` bytes that direct I/O accepts, at an aligned address."""
    size = max(padded(size), ALIGNMENT)
    data = np.empty(size + ALIGNMENT, np.uint8)
    first = -data.ctypes.data % ALIGNMENT
    return data[first : first + size]


def padded(size: int) -> int:
    """`size` bytes as direct I/O writes them: a multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class DirectFile:
    """A new file of `size` bytes that several threads may write, with direct I/O where the file system supports it."""

    def __init__(self, path: Path, size: int, *, direct: bool = True) -> None:
        self._path, self._size = path, size
        self.descriptor = _open(path, os.O_CREAT | os.O_WRONLY, direct=direct)

    def write(self, data: Bytes, size: int, offset: int) -> None:
        """Put the first `size` bytes of `data`, which comes from `aligned_buffer`, at `offset`."""
        is_last = offset + size == self._size
        if offset % ALIGNMENT or (size % ALIGNMENT and not is_last):
            _drop_direct_flag(self.descriptor)
        view = data.data[: padded(size) if is_last else size]
        refused = False
        while view:
            try:
                count = os.pwrite(self.descriptor, view, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or refused:
                    raise
                refused = True
                _drop_direct_flag(self.descriptor)  # some file systems open for direct I/O but cannot do it
                continue
            if count == 0:
                raise OSError(errno.EIO, "nothing could be written", str(self._path))
            if count < len(view):
                _drop_direct_flag(self.descriptor)  # the rest starts anywhere
            view, offset = view[count:], offset + count

    def sync(self) -> None:
        """Cut off what the last write was padded with, and wait until the disk has the rest."""
        os.ftruncate(self.descriptor, self._size)
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Close the file; harmless if it is closed."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def read_into(path: Path, data: Bytes, size: int, offset: int) -> None:
    """Fill the first `size` bytes of `data`, which comes from `aligned_buffer`, from `offset` of a file on."""
    descriptor = _open(path, os.O_RDONLY, direct=offset % ALIGNMENT == 0)
    try:
        done = 0
        while done < size:
            view = data.data[done : done + padded(size - done)]
            try:
                count = os.preadv(descriptor, [view], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not _drop_direct_flag(descriptor):
                    raise
                continue
            if count == 0:
                raise OSError(errno.EIO, "the file ends early", str(path))
            done += count
    finally:
        os.close(descriptor)


def write_rate(directory: Path, *, seconds: float = 0.5) -> float:
    """Bytes a second that can be written into `directory` as a corpus is; leaves nothing behind."""
    data = aligned_buffer(2**24)
    data[:] = 7
    part = files.part_of(directory / "disk-test")
    try:
        with closing(DirectFile(part, 2**30)) as file:
            started = time.perf_counter()
            offset = 0
            while time.perf_counter() - started < seconds and offset < 2**30:
                file.write(data, data.size, offset)
                offset += data.size
            file.sync()
            return offset / (time.perf_counter() - started)
    finally:
        files.remove(part)


def _open(path: Path, flags: int, *, direct: bool) -> int:
    """Open a file, for direct I/O if that is wanted and the file system supports it."""
    flags |= os.O_CLOEXEC
    if direct:
        try:
            return os.open(path, flags | _DIRECT, 0o666)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return os.open(path, flags, 0o666)


def _drop_direct_flag(descriptor: int) -> bool:
    """Continue through the page cache; False if that is so already."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if flags & _DIRECT:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
    return bool(flags & _DIRECT)
