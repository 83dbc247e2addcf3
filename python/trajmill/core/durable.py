"""Waiting until the disk has what was written."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes or a directory's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Wait until the disk has a file, or a directory with all that is in it."""
    for part in [*path.rglob("*"), path] if path.is_dir() else [path]:
        sync(part)
