"""Fetching official files: announced, resumed where it stopped, checked by size and hash, and never half there."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trajmill.core.files import sha256_of, sync
from trajmill.core.progress import Progress, silent
from trajmill.data.catalog import cache_directory
from trajmill.data.errors import DatasetError, refuse
from trajmill.data.official import OFFICIAL_FILES, OfficialFile, official_file

_PIECE = 2**20
_TIMEOUT = 60.0
"""seconds without a byte after which a connection counts as lost"""


def download_dataset(
    name: str,
    directory: str | Path | None = None,
    *,
    say: Callable[[str], None],
    progress: Progress = silent,
    url: str | None = None,
) -> Path:
    """Download one of D4RL's official -v2 files.

    What came before a connection was lost stays beside the target as ``*.part``, and the next call goes on from there.
    The target appears only when its size and SHA-256 are right.

    Parameters
    ----------
    name
        Such as ``hopper-medium-replay-v2``; `OFFICIAL_FILES` has them all.
    directory
        Where the file goes, under D4RL's file name; None is `cache_directory()`, where `load_dataset` looks.
    say
        Receives one line each about the address, the size, the hash and the target, before anything is fetched.
    progress
        Receives bytes.
    url
        Another address of the same bytes.

    Returns
    -------
    Path
        The file. It is not fetched again if it is there and right.

    Raises
    ------
    DatasetError
        If the name is unknown, the server cannot be reached or sends something else, or the disk is too small; the
        message says how to fetch the file by hand.
    """
    official = official_file(name)
    if official is None:
        raise DatasetError(f"{name}: not one of D4RL's -v2 files; they are: {', '.join(OFFICIAL_FILES)}")
    target = (cache_directory() if directory is None else Path(directory)) / official.file_name
    address = url or official.url
    if re.match(r"https?://", address) is None:
        raise DatasetError(f"{address}: an address must start with http:// or https://")
    if target.exists():
        _check(target, official)
        say(f"{target} is there and right")
        return target
    whole_hash = len(official.sha256) == 64
    say(f"from     {address}")
    say(f"size     {official.size:,} bytes")
    say(f"SHA-256  {official.sha256}" + ("" if whole_hash else "... (only these digits are known and compared)"))
    say(f"to       {target}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked_part(target) as part:
            _fetch(address, part, official, target, say, progress)
            _finish(Path(part.name), official, target)
    except OSError as error:
        raise refuse(target, f"cannot be written: {error}", "choose another directory with --out") from error
    return target


@contextmanager
def _locked_part(target: Path) -> Iterator[IO[bytes]]:
    """The unfinished file, open at its end, ours alone."""
    path = target.with_name(f"{target.name}.part")
    with path.open("ab") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refuse(path, "another process is downloading this file", "wait for it") from None
        try:
            yield part
        finally:
            if path.exists() and path.stat().st_size == 0:
                path.unlink()


def _fetch(
    address: str,
    part: IO[bytes],
    official: OfficialFile,
    target: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    """Append to `part` what it lacks."""
    done = part.seek(0, os.SEEK_END)
    if done > official.size:
        part.truncate(0)
        done = 0
    if done == official.size:
        return
    missing, free = official.size - done, shutil.disk_usage(target.parent).free
    if missing > free:
        fault = f"{missing:,} bytes are missing and the disk has {free:,} free"
        raise refuse(target, fault, "make room, or choose another directory with --out")
    try:
        with _open(address, done) as answer:
            if answer.status != http.HTTPStatus.PARTIAL_CONTENT and done:
                say(f"the server cannot go on from byte {done:,}; starting afresh")
                part.truncate(0)
                done = 0
            _check_answer(answer, official, target, done, address)
            while done < official.size and (piece := answer.read(min(_PIECE, official.size - done))):
                part.write(piece)
                done += len(piece)
                progress(f"download {official.name}", done, official.size, "bytes")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            part.truncate(0)
            return _fetch(address, part, official, target, say, progress)
        fault = f"the server answers {error.code} {error.reason} at {address}"
        raise refuse(target, fault, _by_hand(official, target, address)) from error
    except urllib.error.URLError as error:
        fault = f"cannot reach {address} ({error.reason})"
        raise refuse(target, fault, _by_hand(official, target, address)) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        _stopped(part, official, target, done, f" ({type(error).__name__})", error)
    if done < official.size:
        _stopped(part, official, target, done, "", None)


def _open(address: str, first: int) -> Any:
    headers = {"User-Agent": "trajmill"} | ({"Range": f"bytes={first}-"} if first else {})
    return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT)


def _check_answer(answer: Any, official: OfficialFile, target: Path, first: int, address: str) -> None:
    """Refuse an answer that is a web page or a file of another size, before any of it is kept."""
    by_hand = _by_hand(official, target, address)
    kind = answer.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise refuse(target, f"the server answers with a web page at {address}", by_hand)
    if first:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != first:
            raise refuse(target, f"the server does not go on from byte {first:,} as asked", by_hand)
        total = int(found[2])
    else:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else official.size
    if total != official.size:
        old = " (the old release, with wrong qpos and qvel)" if total == official.old_size else ""
        fault = f"the server has {total:,} bytes{old} where {official.size:,} are right"
        raise refuse(target, fault, by_hand)


def _stopped(
    part: IO[bytes], official: OfficialFile, target: Path, done: int, why: str, error: Exception | None
) -> None:
    part.flush()
    fault = f"the connection was lost{why} after {done:,} of {official.size:,} bytes, which are kept in {part.name}"
    raise refuse(target, fault, "give the same command again to go on from there") from error


def _finish(part: Path, official: OfficialFile, target: Path) -> None:
    """Check all bytes, then give them their name."""
    sync(part)
    try:
        _check(part, official)
    except DatasetError:
        part.unlink()
        raise
    part.replace(target)
    sync(target.parent)


def _check(path: Path, official: OfficialFile) -> None:
    size = path.stat().st_size
    if size != official.size:
        raise refuse(path, f"has {size:,} bytes where {official.size:,} are right", "remove it and download it again")
    found = sha256_of(path)
    if not found.startswith(official.sha256):
        raise refuse(
            path,
            f"has SHA-256 {found} where {official.sha256} is right",
            "download it again, from elsewhere if need be",
        )


def _by_hand(official: OfficialFile, target: Path, address: str) -> str:
    return (
        f"fetch {address} on a machine that can, and put the file ({official.size:,} bytes, SHA-256 {official.sha256}) "
        f"at {target}"
    )
