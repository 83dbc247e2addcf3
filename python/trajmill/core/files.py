"""Files and directories that appear under their name whole or not at all, also after a crash."""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PART_SUFFIX = ".part"
"""ends the name of what is still being written; such a name also begins with a dot"""


def part_of(path: Path) -> Path:
    """A new name beside `path` to write at before the result takes its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART_SUFFIX}")


def leftovers(directory: Path, name: str | None = None) -> list[Path]:
    """What killed writers left half-done in `directory`, of the file called `name` or of any."""
    return sorted(directory.glob(f".{'*' if name is None else glob.escape(name)}.{'?' * 16}{PART_SUFFIX}"))


@contextmanager
def replacing(path: Path, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """A name beside `path` to write a file or a directory at; it takes the place of `path` if the block ends well.

    `check` is called once what was written is on the disk, and may raise if something else has appeared at `path`.
    Whatever fails, nothing new is left, and what was at `path` stays.
    """
    part = part_of(path)
    try:
        yield part
        for written in [*part.rglob("*"), part] if part.is_dir() else [part]:
            sync(written)
        if check is not None:
            check()
        if path.is_dir() and not path.is_symlink() and part.is_dir():
            aside = part_of(path)  # a directory cannot be renamed over one that is not empty
            path.rename(aside)
            part.rename(path)
            remove(aside)
        else:
            part.replace(path)
        sync(path.parent)
    finally:
        remove(part)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that holds all of `content`, or stays as it was."""
    with replacing(path) as part:
        part.write_bytes(content)


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
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
