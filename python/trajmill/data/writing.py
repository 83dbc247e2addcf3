"""Writing a file or a directory so that it appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trajmill.core.files import replacing
from trajmill.data.errors import refuse


@contextmanager
def whole(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A name beside `path` to write a file or a directory at; flushed and renamed to `path` if the block ends well.

    Whatever fails, nothing new is left, and what was at `path` stays.

    Raises
    ------
    DatasetError
        If `path` exists and `overwrite` is false, or it is a directory that is not empty.
    """
    _check_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, lambda: _check_free(path, overwrite=overwrite)) as part:
        yield part


def _check_free(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        if any(path.iterdir()):
            raise refuse(path, "the directory exists and is not empty", "choose another name or remove it")
    elif os.path.lexists(path) and not overwrite:
        raise refuse(path, "the file exists", "choose another name, or say overwrite=True (--overwrite)")
