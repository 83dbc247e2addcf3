"""What a path means that somebody gives, to a command or to a function: the same everywhere."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote

AnyPath = str | os.PathLike[str]
"""a path on this machine: relative, absolute, from ``~`` on, or ``file://...``"""

_URL = re.compile(r"([a-z][a-z0-9+.-]+):[/:]", re.IGNORECASE)  # with one slash too: Path makes s3:/b/x of s3://b/x
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def is_url(location: AnyPath) -> bool:
    """Whether something stands for a place that is not on this machine, such as ``s3://bucket/corpus``."""
    found = _URL.match(os.fspath(location))
    return found is not None and found[1].lower() != "file"


def given_path(path: AnyPath) -> Path:
    """The path as it was given, with ``~`` and ``file://`` resolved; ValueError for what is not on this machine."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a path must be text, got {path!r}; os.fsdecode makes text of bytes")
    if not text or "\0" in text:
        raise ValueError(f"a path must have characters, none of them zero, got {text!r}")
    if is_url(text):
        raise ValueError(f"{text} is not a path on this machine, which is needed here; copy it here, or give a path")
    if text.lower().startswith("file:"):
        host, slash, rest = text[5:].removeprefix("//").partition("/")
        if not slash or host not in ("", "localhost"):
            raise ValueError(f"{text} is not a path on this machine; it should begin with file:/// ")
        text = unquote(f"/{rest}")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no home is known
        if text.partition("/")[0] != "~":
            return Path(text)  # of no user: a file of that name
        raise ValueError(f"{text} cannot be found, since no home directory is known; set HOME or give a path") from None


def local_path(path: AnyPath) -> Path:
    """The absolute path, which stays the same when the working directory changes; see `given_path`."""
    try:
        return given_path(path).absolute()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is in the working directory, which was removed; give an absolute path"
        ) from None


def input_path(path: AnyPath) -> Path:
    """`local_path` of something to read; ValueError for a FIFO, a socket or a device, which could keep us waiting."""
    found = local_path(path)
    if kind := special_kind(found):
        raise ValueError(f"{path} is {kind}, of which nothing is read; copy its content to a file, and give that")
    return found


def special_kind(path: Path) -> str | None:
    """What is at `path`, in words, if it is neither a file nor a directory; links are followed."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except OSError:
        return None
