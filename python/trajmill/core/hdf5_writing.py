"""Writing HDF5 files so that a full or broken disk is an error, and nothing worse.

After a write that failed, HDF5 (2.0) crashes the process when the file or one of its arrays is closed. So it never sees
one: its bytes go through `_Disk`, which keeps in memory what the disk does not take, and we raise the error between two
pieces or at the end. A signal's exception waits for that too, since it would be raised inside HDF5's write.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajmill.core.signals import held_signals

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


@contextmanager
def create_hdf5(h5py: Any, path: Path) -> Iterator[tuple[Any, Any]]:
    """A new HDF5 file, and a function to call between pieces: it raises what has gone wrong, as the end does at last.

    OSError if the disk is full or broken; KeyboardInterrupt or what else the handler of a signal raises.
    """
    with held_signals() as deliver, _Disk(path) as disk:

        def check() -> None:
            deliver()
            if disk.error is not None:
                raise disk.error

        with h5py.File(disk, "w") as file:
            yield file, check
        disk.finish()
        check()


class _Disk(io.RawIOBase):
    """A file that takes every write: from the first that fails on they are kept in memory, where reads find them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._path = path
        self._position = self._size = 0
        self._kept: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._position = offset + (self._size if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: ReadableBuffer, /) -> int:
        content = memoryview(data).cast("B")
        done = 0
        with self._noting_errors():
            while self.error is None and done < len(content):
                done += os.pwrite(self._descriptor, content[done:], self._position + done)
        if self.error is not None:
            self._kept.append((self._position, bytes(content)))
        self._position += len(content)
        self._size = max(self._size, self._position)
        return len(content)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        content = memoryview(buffer).cast("B")
        content[:] = os.pread(self._descriptor, len(content), self._position).ljust(len(content), b"\0")
        end = self._position + len(content)
        for first, data in self._kept:
            start, stop = max(first, self._position), min(first + len(data), end)
            if start < stop:
                content[start - self._position : stop - self._position] = data[start - first : stop - first]
        self._position = end
        return len(content)

    def truncate(self, size: int | None = None, /) -> int:
        self._size = self._position if size is None else size
        return self._size

    def finish(self) -> None:
        """Give the file the size that HDF5 wants."""
        with self._noting_errors():
            os.ftruncate(self._descriptor, self._size)

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or OSError(error.errno, error.strerror, str(self._path))

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
