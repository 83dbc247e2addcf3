"""Files and directories that appear under their name whole or not at all, also after a crash."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trajmill.core.paths import special_kind

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

PART_SUFFIX = ".part"
"""ends the name of what is still being written; such a name also begins with a dot"""
_OF_THE_SYSTEM = {"lost+found", ".DS_Store", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"}
_OF_THE_SYSTEM |= {".snapshot", ".snapshots", ".Trashes", ".fseventsd", ".Spotlight-V100", "@eaDir"}


def part_of(path: Path) -> Path:
    """A new name beside `path` to write at before the result takes its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART_SUFFIX}")


def leftovers(directory: Path, name: str | None = None) -> list[Path]:
    """What killed writers left half-done in `directory`, of the file called `name` or of any."""
    return sorted(directory.glob(f".{'*' if name is None else glob.escape(name)}.{'?' * 16}{PART_SUFFIX}"))


def contents(directory: Path) -> list[Path]:
    """What is in a directory, in order, but for parts, and for what systems put there unasked; [] if there is none.

    Such as ``lost+found`` in the root of a volume: it makes no directory "not empty".
    """
    if not directory.is_dir():
        return []
    ignored = _OF_THE_SYSTEM.union(part.name for part in leftovers(directory))
    return sorted(entry for entry in directory.iterdir() if entry.name not in ignored)


def replaceable(path: Path) -> Path:
    """Where something new at `path` goes: behind its links. FileExistsError unless that is a file, a directory, or new.

    So a link stays, and what it leads to is replaced; a device, a FIFO or a socket never is.
    """
    if kind := special_kind(path):
        raise FileExistsError(f"{path} is {kind}, which is never replaced; give the name of a file")
    try:
        return path.resolve()
    except RuntimeError as error:
        raise FileExistsError(f"{path} is a link that leads to itself; give another name") from error


def check_writable(path: Path, *, as_file: bool = False) -> None:
    """Try, before the work, whether `path` can be made or replaced after it; OSError that says why not.

    Nothing is left behind; parent directories that are missing count as writable if they could be made. What will be
    written `as_file` takes the place of no directory.
    """
    target = replaceable(path)
    if as_file:
        _check_kind(target, is_directory=False)
    place = next(each for each in (target, *target.parents) if os.path.lexists(each))
    probe = part_of((target.parent if target.is_file() else place) / "probe")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror} ({place}); choose another place") from error


def _check_kind(path: Path, *, is_directory: bool) -> None:
    if is_directory and path.is_file():
        raise FileExistsError(f"{path} is a file, and a directory is to be written; give another name")
    if not is_directory and path.is_dir():
        raise FileExistsError(f"{path} is a directory, and a file is to be written; give a name in it")


@contextmanager
def naming(path: Path, part: Path | None = None) -> Iterator[None]:
    """Let an OSError that names no file, as those of writes and closes do, or `part` or what is in it, name `path`."""
    try:
        yield
    except OSError as error:
        named = error.filename
        inside = part is not None and isinstance(named, str) and Path(named).is_relative_to(part)
        if error.errno is None or not (named is None or inside):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def replacing(path: Path, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """A name beside `path` to write a file or a directory at; it takes the place of `path` if the block ends well.

    `check` is called once what was written is on the disk, and may raise if something else has appeared at `path`.
    Whatever fails, nothing new is left, and what was at `path` stays. What a link leads to is replaced, not the link,
    and only files and directories are (`replaceable`), each by its own kind. A directory that exists stays, since it
    may be a volume or where somebody works: the new content is written in it and takes the place of the old one.
    """
    path = replaceable(path)
    part = part_of(path / path.name if path.is_dir() else path)
    try:
        with naming(path, part):
            yield part
            for written in [*part.rglob("*"), part] if part.is_dir() else [part]:
                sync(written)
            if check is not None:
                check()
            _check_kind(path, is_directory=part.is_dir())
            if path.is_dir() and part.is_dir():
                _fill(path, part)
            else:
                part.replace(path)
                sync(path.parent)
    finally:
        remove(part)


def _fill(directory: Path, part: Path) -> None:
    """Move what is in `part` into `directory`, and what was there away."""
    aside = part_of(directory / directory.name)
    aside.mkdir()
    with ExitStack() as undo:
        undo.callback(remove, aside)
        moves = [(entry, aside / entry.name) for entry in contents(directory)]
        moves += [(entry, directory / entry.name) for entry in sorted(part.iterdir(), reverse=True)]
        for source, target in moves:
            source.rename(target)
            undo.callback(target.rename, source)
        sync(directory)
        undo.pop_all()
    remove(aside)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that holds all of `content`, or stays as it was."""
    with replacing(path) as part:
        part.write_bytes(content)


def lock(file: FileDescriptorLike, *, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed, or the process ends: False if another holds it, None without locks.

    Some network file systems have none, and then nothing can keep another program out.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        return None
    return True


def unlock(file: FileDescriptorLike) -> None:
    """Give up the lock of an open file, also where forked children have the file open too."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_UN)


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes or a directory's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; of a directory, that of ``sha256sum *`` in it."""
    if path.is_dir():
        listed = "".join(f"{sha256_of(entry)}  {entry.name}\n" for entry in contents(path))
        return hashlib.sha256(listed.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
