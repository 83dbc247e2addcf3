"""Where a corpus is stored: a local directory, or an object store through fsspec.

Both make files appear whole or not at all. A directory is written with direct I/O where the file system supports it,
since a corpus is larger than the page cache; an object is put in one request.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from trajmill.core import files
from trajmill.core.direct_io import Bytes, DirectFile, read_into
from trajmill.core.paths import AnyPath, is_url, local_path
from trajmill.core.threads import Task, Threads
from trajmill.corpus.errors import CorpusError, library

WAITING_THREADS = 2
"""threads beyond those that compute: enough for one block on its way to or from the disk and one behind it"""
_TEMPORARY = ".tmp-"
_LOCK = ".lock"

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


class Directory:
    """A local directory as a flat set of named files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __str__(self) -> str:
        return str(self._directory)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file by its name, in the order of names; empty if the directory does not exist."""
        sizes = {}
        if self._directory.exists() and not self._directory.is_dir():
            raise CorpusError(f"{self} is a file, not a directory")
        for path in files.contents(self._directory):
            with suppress(FileNotFoundError):  # another job has renamed what it wrote
                sizes[path.name] = path.stat().st_size
        return sizes

    def read(self, name: str) -> bytes:
        """All of `name`."""
        return (self._directory / name).read_bytes()

    def read_into(self, name: str, data: Bytes, size: int, offset: int) -> None:
        """Fill the first `size` bytes of `data`, which comes from `aligned_buffer`, from `offset` of `name` on."""
        read_into(self._directory / name, data, size, offset)

    def put(self, name: str, data: bytes) -> None:
        """Make `name` hold `data`, durably, all at once."""
        with files.naming(self._directory / name):
            file = _LockedFile(self._directory / name, len(data), direct=False)
            try:
                file.write(np.frombuffer(data, np.uint8), len(data), 0)
                file.commit()
            finally:
                file.discard()

    def create(self, name: str, size: int) -> _LockedFile:
        """Begin a file of `size` bytes."""
        return _LockedFile(self._directory / name, size)

    @contextmanager
    def lock(self, *, shared: bool) -> Iterator[None]:
        """Keep other writers out; writers that lock it `shared` let each other in."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / _LOCK
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            try:
                if files.lock(descriptor, shared=shared) is False:
                    remedy = "wait for it or choose another directory"
                    raise CorpusError(f"{self} is being written by another process; {remedy}")
                if not _is_at(path, descriptor):
                    continue  # its last holder removed the file after we opened it
                try:
                    yield
                finally:
                    if files.lock(descriptor) is not False:  # nobody else holds it
                        path.unlink(missing_ok=True)
                return
            finally:
                os.close(descriptor)

    def sweep(self) -> None:
        """Remove what writers that have ended left half-done."""
        for path in self._directory.glob(f"{_TEMPORARY}*"):
            with suppress(FileNotFoundError), path.open("r+b") as file:
                if files.lock(file):  # a writer that runs holds a lock on its file
                    path.unlink()


class _LockedFile(DirectFile):
    """A file that nobody sees before `commit`: it has a temporary name, and is locked so that no sweep removes it."""

    def __init__(self, path: Path, size: int, *, direct: bool = True) -> None:
        self._target = path
        self._temporary = path.with_name(f"{_TEMPORARY}{path.name}-{uuid.uuid4().hex}")
        super().__init__(self._temporary, size, direct=direct)
        while files.lock(self.descriptor) is False or not _is_at(self._temporary, self.descriptor):
            self.close()  # a sweep came between open and lock
            super().__init__(self._temporary, size, direct=direct)

    def commit(self) -> None:
        """Make the file durable, then visible under its name."""
        self.sync()
        self._temporary.replace(self._target)
        self.close()
        files.sync(self._target.parent)

    def discard(self) -> None:
        """Leave nothing behind; harmless after `commit`."""
        if self.descriptor >= 0:
            with suppress(OSError):  # the error that led here is the one to report; the next run sweeps
                self._temporary.unlink()
            self.close()


class _ObjectStore:
    """A prefix of an object store as a flat set of named files; see `Directory`.

    A shard is put in one request, so it must fit in memory. There is no lock: two writers put the same bytes.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        fsspec = library("fsspec", url, "remote")
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # no driver, or no such protocol
            raise CorpusError(f"{url} cannot be opened: {error}") from error
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def sizes(self) -> dict[str, int]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return dict(sorted((file["name"].rstrip("/").rsplit("/", 1)[-1], file["size"]) for file in found))

    def read(self, name: str) -> bytes:
        return bytes(self._files.cat_file(self._path(name)))

    def read_into(self, name: str, data: Bytes, size: int, offset: int) -> None:
        piece = self._files.cat_file(self._path(name), start=offset, end=offset + size)
        if len(piece) != size:
            raise OSError(errno.EIO, "the object ends early", self._path(name))
        data[:size] = np.frombuffer(piece, np.uint8)

    def put(self, name: str, data: bytes) -> None:
        self._files.pipe_file(self._path(name), data)

    def create(self, name: str, size: int) -> _NewObject:
        return _NewObject(self, name, size)

    def lock(self, *, shared: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def sweep(self) -> None:
        pass  # an object is there or it is not

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class _NewObject:
    """An object that is put when it is committed; see `_LockedFile`."""

    def __init__(self, store: _ObjectStore, name: str, size: int) -> None:
        self._store, self._name = store, name
        self._data = np.empty(size, np.uint8)

    def write(self, data: Bytes, size: int, offset: int) -> None:
        self._data[offset : offset + size] = data[:size]

    def commit(self) -> None:
        self._store.put(self._name, self._data.tobytes())

    def discard(self) -> None:
        pass


NewFile = _LockedFile | _NewObject
Store = Directory | _ObjectStore


def open_store(location: AnyPath) -> Store:
    """The store at a path or URL; ``s3://bucket/corpus`` and the like need fsspec and its driver."""
    text = os.fspath(location)
    if is_url(text) and "://" in text:
        return _ObjectStore(text)
    return Directory(local_path(text))


def in_order(work: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], threads: int) -> Generator[ResultT, None, None]:
    """Results of `work` on `threads` threads, in the order of `tasks`, with few of them under way at any time.

    When the iterator is closed, tasks that have not begun are dropped and those under way are waited for.
    """
    ahead = threads + min(threads, 16)
    waiting: deque[Task[ResultT]] = deque()
    with Threads(threads) as pool:
        for task in tasks:
            waiting.append(pool.submit(partial(work, task)))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
