"""Where an export goes: written under another name, flushed, renamed last, so what has the name is whole."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trajmill.core.files import sync, sync_tree
from trajmill.corpus.export.reading import ExportError

RECORD = ".trajmill-export.json"
"""file in every exported directory: what it was made from, and which files belong to it; hidden from readers that take
every file of a directory for data"""


@contextmanager
def staged(destination: Path, *, overwrite: bool) -> Iterator[Path]:
    """A path beside `destination` to create a file or a directory at; it takes its place if the block ends well.

    `overwrite` allows to replace an earlier export: a directory that holds nothing but what its record lists, or a
    file by a file. Whatever fails, the earlier export stays and nothing new does.
    """
    destination = destination.resolve()
    part = destination.with_name(f".{destination.name}.part")
    try:
        _check_free(destination, part, overwrite=overwrite)
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        try:
            yield part
            if destination.exists() and destination.is_dir() != part.is_dir():
                kind = "a directory" if destination.is_dir() else "a file"
                raise ExportError(f"{destination} is {kind}, which this format does not write; choose another name")
            sync_tree(part)
            _take_place(part, destination)
        except BaseException:
            _remove(part)
            raise
    except OSError as error:
        raise ExportError(f"cannot export to {destination}: {error}") from error


def _check_free(destination: Path, part: Path, *, overwrite: bool) -> None:
    if os.path.lexists(part) and not overwrite:
        raise ExportError(
            f"{part} is left of an export that was killed, or one that still runs; remove it or pass --overwrite"
        )
    if not destination.exists():
        return
    if not overwrite:
        raise ExportError(f"{destination} exists; choose another name or pass --overwrite")
    if destination.is_dir() and (foreign := _foreign_files(destination)):
        raise ExportError(
            f"{destination} holds files that no export put there ({', '.join(foreign[:3])}); choose another name"
        )


def _foreign_files(directory: Path) -> list[str]:
    """Names in a directory that its record does not list; all of them if it has none."""
    names = {path.name for path in directory.iterdir()}
    try:
        known = set(json.loads((directory / RECORD).read_bytes())["files"]) | {RECORD}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    return sorted(names - known)


def _take_place(part: Path, destination: Path) -> None:
    if destination.is_dir():  # a directory cannot be renamed over another: the old one steps aside first
        aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
        destination.rename(aside)
        part.rename(destination)
        sync(destination.parent)
        _remove(aside)
    else:
        part.rename(destination)
        sync(destination.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
