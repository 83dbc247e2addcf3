"""Where a corpus lies: a local directory, or an object store through fsspec.

Both make files appear whole or not at all. A directory is written with direct I/O where the file system has it, since
a corpus is larger than the page cache; an object is put in one request.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from trajmill.core.files import sync
from trajmill.corpus.layout import CorpusError

ALIGNMENT = 4096
"""bytes: direct I/O wants addresses, offsets and sizes in multiples of the device's block, which is never larger"""
_TEMPORARY = ".tmp-"
_LOCK = ".lock"

Bytes = npt.NDArray[np.uint8]


class NewFile(Protocol):
    """A file in the making: nobody sees it before `commit`."""

    def write(self, data: Bytes, size: int, offset: int) -> None:
        """Put the first `size` bytes of `data` at `offset`; from several threads if need be.

        `data` comes from `aligned_buffer`.
        """

    def commit(self) -> None:
        """Make the file durable, then visible under its name."""

    def discard(self) -> None:
        """Leave nothing behind; harmless after `commit`."""


class OpenFile(Protocol):
    """A whole file."""

    def read(self, data: Bytes, size: int, offset: int) -> None:
        """Fill the first `size` bytes of `data`, which comes from `aligned_buffer`, from `offset` on."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Store(Protocol):
    """A flat set of named files."""

    def names(self) -> list[str]:
        """Every name, sorted; none if the place does not exist."""

    def size(self, name: str) -> int | None:
        """Bytes of `name`; None if it does not exist."""

    def read(self, name: str) -> bytes:
        """All of `name`."""

    def put(self, name: str, data: bytes) -> None:
        """Make `name` hold `data`, durably, all at once."""

    def create(self, name: str, size: int, *, direct: bool) -> NewFile:
        """Begin a file of `size` bytes; `direct`: all writes but the last start and end at `ALIGNMENT`."""

    def open(self, name: str) -> OpenFile:
        """Read `name` piece by piece."""

    def lock(self, *, shared: bool) -> AbstractContextManager[None]:
        """Keep other writers out; `shared` ones only keep out those that are not."""

    def sweep(self) -> None:
        """Remove what writers that are no more left half-done."""


def open_store(location: str | Path) -> Store:
    """The store at a path or URL; ``s3://bucket/corpus`` and the like need fsspec and its driver."""
    text = os.fspath(location)
    if "://" not in text:
        return _Directory(Path(text))
    if text.startswith("file://"):
        return _Directory(Path(text.removeprefix("file://")))
    return _ObjectStore(text)


def aligned_buffer(size: int) -> Bytes:
    """At least `size` bytes that direct I/O accepts, at an aligned address."""
    size = max(padded(size), ALIGNMENT)
    data = np.empty(size + ALIGNMENT, np.uint8)
    first = -data.ctypes.data % ALIGNMENT
    return data[first : first + size]


class _Directory:
    """A directory; see `Store`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __str__(self) -> str:
        return str(self.directory)

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.directory.iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise CorpusError(f"{self.directory} is a file, not a directory") from None

    def size(self, name: str) -> int | None:
        try:
            return (self.directory / name).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        file = self.create(name, len(data), direct=False)
        try:
            file.write(np.frombuffer(data, np.uint8), len(data), 0)
            file.commit()
        finally:
            file.discard()

    def create(self, name: str, size: int, *, direct: bool) -> _NewLocalFile:
        return _NewLocalFile(self.directory, name, size, direct=direct)

    def open(self, name: str) -> _OpenLocalFile:
        return _OpenLocalFile(self.directory / name)

    @contextmanager
    def lock(self, *, shared: bool) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / _LOCK
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            try:
                if not _try_lock(descriptor, shared=shared):
                    raise CorpusError(
                        f"{self.directory} is being written by another process; wait for it or choose another directory"
                    )
                if not _same_file(descriptor, path):
                    continue  # its last holder removed the file after we opened it
                try:
                    yield
                finally:
                    if _try_lock(descriptor, shared=False):  # nobody else holds it
                        path.unlink(missing_ok=True)
                return
            finally:
                os.close(descriptor)

    def sweep(self) -> None:
        for name in self.names():
            if name.startswith(_TEMPORARY):
                path = self.directory / name
                with suppress(FileNotFoundError), path.open("r+b") as file:
                    if _try_lock(file.fileno(), shared=False):  # a writer that lives holds a lock on its file
                        path.unlink()


class _NewLocalFile:
    """Written under a temporary name that only its writer knows; the name is taken by a rename."""

    def __init__(self, directory: Path, name: str, size: int, *, direct: bool) -> None:
        self._directory, self._name, self._size, self._direct = directory, name, size, direct
        self._temporary = directory / f"{_TEMPORARY}{name}-{uuid.uuid4().hex}"
        self._descriptor = -1
        while self._descriptor < 0:
            self._descriptor = self._open()
            if not (_try_lock(self._descriptor, shared=False) and _same_file(self._descriptor, self._temporary)):
                os.close(self._descriptor)  # a sweep came between open and lock
                self._descriptor = -1

    def write(self, data: Bytes, size: int, offset: int) -> None:
        end = offset + size
        view = data.data[: padded(size) if self._direct and end == self._size else size]
        refused = False
        while view:
            try:
                count = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or refused:
                    raise
                refused = True
                _drop_direct_flag(self._descriptor)  # the file system opens for direct I/O but cannot do it
                continue
            if count == 0:
                raise OSError(errno.EIO, "nothing could be written", str(self._temporary))
            if count < len(view):
                _drop_direct_flag(self._descriptor)  # the rest starts anywhere
            view, offset = view[count:], offset + count

    def sync(self) -> None:
        """Wait until the disk has it all."""
        os.ftruncate(self._descriptor, self._size)  # direct I/O has padded the end
        os.fsync(self._descriptor)

    def commit(self) -> None:
        self.sync()
        self._temporary.replace(self._directory / self._name)
        self._close()
        sync(self._directory)

    def discard(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):  # what has to be told is why we are here; the next run sweeps
                self._temporary.unlink()
            self._close()

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
        if self._direct:
            try:
                return os.open(self._temporary, flags | os.O_DIRECT, 0o666)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                self._direct = False
        return os.open(self._temporary, flags, 0o666)

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


class _OpenLocalFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, data: Bytes, size: int, offset: int) -> None:
        if offset % ALIGNMENT:
            _drop_direct_flag(self._descriptor)
        done = 0
        while done < size:
            view = data.data[done : done + padded(size - done)]
            try:
                count = os.preadv(self._descriptor, [view], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not _drop_direct_flag(self._descriptor):
                    raise
                continue
            if count == 0:
                raise OSError(errno.EIO, "the file ends early", str(self._path))
            done += count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class _ObjectStore:
    """A prefix of an object store; see `Store`.

    A shard is put in one request, so it must fit in memory. There is no lock: two writers put the same bytes.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError:
            raise CorpusError(f"{url} needs fsspec: pip install 'trajmill[remote]'") from None
        self._url = url
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def names(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in self._files.ls(self._root, detail=False))
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int | None:
        try:
            return int(self._files.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        return bytes(self._files.cat_file(self._path(name)))

    def put(self, name: str, data: bytes) -> None:
        self._files.pipe_file(self._path(name), data)

    def create(self, name: str, size: int, *, direct: bool) -> _NewObject:
        return _NewObject(self, name, size)

    def open(self, name: str) -> _OpenObject:
        return _OpenObject(self._files, self._path(name))

    def lock(self, *, shared: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def sweep(self) -> None:
        pass  # an object is there or it is not

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class _NewObject:
    def __init__(self, store: _ObjectStore, name: str, size: int) -> None:
        self._store, self._name = store, name
        self._data = np.empty(size, np.uint8)

    def write(self, data: Bytes, size: int, offset: int) -> None:
        self._data[offset : offset + size] = data[:size]

    def commit(self) -> None:
        self._store.put(self._name, self._data.tobytes())

    def discard(self) -> None:
        pass


class _OpenObject:
    def __init__(self, files: Any, path: str) -> None:
        self._files, self._path = files, path

    def read(self, data: Bytes, size: int, offset: int) -> None:
        piece = self._files.cat_file(self._path, start=offset, end=offset + size)
        if len(piece) != size:
            raise OSError(errno.EIO, "the object ends early", self._path)
        data[:size] = np.frombuffer(piece, np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def write_rate(directory: Path, *, seconds: float = 0.5) -> float:
    """Bytes a second that `directory` takes, written as shards are; leaves nothing behind."""
    data = aligned_buffer(2**24)
    data[:] = 7
    file = _NewLocalFile(directory, "disk-test", 2**30, direct=True)
    try:
        started = time.perf_counter()
        offset = 0
        while time.perf_counter() - started < seconds and offset < 2**30:
            file.write(data, data.size, offset)
            offset += data.size
        file.sync()
        return offset / (time.perf_counter() - started)
    finally:
        file.discard()


def padded(size: int) -> int:
    """`size` bytes as direct I/O writes them: a multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _try_lock(descriptor: int, *, shared: bool) -> bool:
    """Lock an open file; False if another holds it. The lock ends with the descriptor, so with the process."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _drop_direct_flag(descriptor: int) -> bool:
    """Go on through the page cache; False if we do so already."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if flags & os.O_DIRECT:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)
