"""Fetching official files: announced first, resumed where it stopped, and checked by size and hash."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from trajmill.core.files import lock, sha256_of, sync
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data.catalog import cache_directory
from trajmill.data.errors import DatasetError, refuse, refusing
from trajmill.data.official import OFFICIAL_FILES, OfficialFile, official_file

_PIECE = 2**20
_PAUSES = (1, 4)
"""seconds before what was lost is tried again; a try that brings a piece begins them anew"""
_SLOWEST = 1000
"""bytes a second, on average over the timeout, below which a connection counts as lost"""
_TIMEOUT = 60.0  # seconds without a byte after which a connection counts as lost


def download_dataset(
    name: str,
    directory: AnyPath | None = None,
    *,
    say: Callable[[str], None],
    progress: Progress = silent,
    url: str | None = None,
) -> Path:
    """Download one of D4RL's official -v2 files (`OFFICIAL_FILES`), unless it is already there; returns its path.

    If the connection is lost, what was received stays beside the target as ``*.part``, and the next call resumes from
    there. The target appears only when its size and SHA-256 are right. If the server cannot be reached or sends
    something else, the `DatasetError` says how to fetch the file by hand.

    The file goes into `directory`, or into `cache_directory()`, where `load_dataset` looks. `say` receives one line
    each about the address, the size, the hash and the target, before anything is fetched; `progress` receives bytes.
    `url` is another address of the same bytes.
    """
    official = official_file(name)
    if official is None:
        raise DatasetError(f"{name}: not one of D4RL's -v2 files; they are: {', '.join(OFFICIAL_FILES)}")
    address = url or official.url
    if re.match(r"https?://", address) is None:
        raise DatasetError(f"{address}: an address must start with http:// or https://")
    target = (cache_directory() if directory is None else local_path(directory)) / official.file_name
    with refusing(target):
        if target.exists():
            _check(target, official)
            say(f"{target} is already there, with the right size and hash")
            return target
        known = "" if len(official.sha256) == 64 else "... (only these digits are known and compared)"
        say(f"from     {address}")
        say(f"size     {official.size:,} bytes")
        say(f"SHA-256  {official.sha256}{known}")
        say(f"to       {target}")
        file = f"the file ({official.size:,} bytes, SHA-256 {official.sha256})"
        by_hand = f"fetch {address} on another machine and put {file} at {target}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked_part(target) as part:
                _fetch(part, official, address, by_hand, say, progress)
                whole = Path(part.name)
                sync(whole)
                try:
                    _check(whole, official)
                except DatasetError:
                    whole.unlink()
                    raise
                whole.replace(target)
                sync(target.parent)
        except OSError as error:
            raise refuse(f"cannot be written: {error}", "choose another directory with --out") from error
    return target


@contextmanager
def _locked_part(target: Path) -> Iterator[IO[bytes]]:
    """The unfinished file, open at its end and locked for this process."""
    path = target.with_name(f"{target.name}.part")
    with path.open("ab") as part:
        if lock(part) is False:
            raise refuse("another process is downloading this file", "wait for it")
        try:
            yield part
        finally:
            if path.exists() and path.stat().st_size == 0:
                path.unlink()


def _fetch(
    part: IO[bytes], official: OfficialFile, address: str, by_hand: str, say: Callable[[str], None], progress: Progress
) -> None:
    """Append what `part` lacks of the official file; `by_hand` says what to do if the server does not send it.

    What is lost or slow is tried again, with pauses, as long as it brings something. No byte is removed
    that may be right.
    """
    size, done = official.size, part.seek(0, os.SEEK_END)
    if done > size:
        part.truncate(0)  # of another file
        done = 0
    free = shutil.disk_usage(Path(part.name).parent).free
    if size - done > free:
        fault = f"{size - done:,} bytes are missing and the disk has {free:,} free"
        raise refuse(fault, "make room, or choose another directory with --out")
    pauses, resuming = iter(_PAUSES), True
    while done < size:
        why = ""
        before = done
        try:
            with closing(_opened(address, done if resuming else 0)) as answer:
                if wrong := _fault(answer, official, address, done):
                    raise refuse(wrong, by_hand)
                same = done if answer.status != http.HTTPStatus.PARTIAL_CONTENT else 0  # bytes that come once more
                if same:
                    say(f"the server cannot resume from byte {done:,}; reading from the first")
                with Path(part.name).open("rb") as known:
                    for piece in _pieces(answer, size - done + same):
                        again, new = piece[:same], piece[same:]
                        if known.read(len(again)) != again:
                            remedy = f"remove {part.name} to start again, or {by_hand}"
                            raise refuse("the server sends other bytes than those already downloaded", remedy)
                        same -= len(again)
                        part.write(new)
                        done += len(new)
                        progress(f"download {official.name}", done, size, "bytes")
        except urllib.error.HTTPError as error:
            error.close()
            resuming = resuming and error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            if error.code < 500 and error.code not in (408, 416, 429):
                raise refuse(f"the server answers {error.code} {error.reason!a} at {address}", by_hand) from error
            why = f"the server answers {error.code} {error.reason!a}"
        except DatasetError:
            raise
        except urllib.error.URLError as error:
            why = f"cannot reach {address} ({error.reason})"
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            why = f"the connection was lost ({type(error).__name__})"
        except ValueError as error:  # an address that makes no sense, perhaps of a redirection
            raise refuse(f"cannot reach {address} ({error})", by_hand) from error
        finally:
            part.flush()
        if done - before >= _PIECE:
            pauses = iter(_PAUSES)
        if done < size:
            pause = next(pauses, None)
            if pause is None:
                kept = f" after {done:,} of {size:,} bytes, which are kept in {part.name}" if done else ""
                remedy = "give the same command again to resume from there" if done else by_hand
                raise refuse((why or "the connection was lost") + kept, remedy)
            say(f"{why or 'the connection was lost'}; trying again in {pause} s")
            time.sleep(pause)


def _opened(address: str, first: int) -> Any:
    """The answer from byte `first` on; TimeoutError if its head is not there in time, even if it keeps coming."""
    request = urllib.request.Request(address, headers={"User-Agent": "trajmill"})
    if first:
        request.add_header("Range", f"bytes={first}-")
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(urllib.request.urlopen(request, timeout=_TIMEOUT))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * _TIMEOUT)
    if not found:
        raise TimeoutError
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _pieces(answer: Any, count: int) -> Iterator[bytes]:
    """At most `count` bytes as they come; TimeoutError where so few come that there is no end to it."""
    began, received = time.monotonic(), 0
    while count > 0 and (piece := answer.read1(min(_PIECE, count))):
        yield piece
        count -= len(piece)
        received += len(piece)
        if (passed := time.monotonic() - began) > _TIMEOUT:
            if received < _SLOWEST * passed:
                raise TimeoutError
            began, received = time.monotonic(), 0


def _fault(answer: Any, official: OfficialFile, address: str, first: int) -> str | None:
    """What is wrong with an answer from byte `first` on, if it is a web page or a file of another size."""
    if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        return f"the server answers with a web page at {address}"
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        return f"the server sends the file packed at {address}"
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != first:
            return f"the server does not resume from byte {first:,} as asked"
        total = int(found[2])
    else:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else official.size
    if total == official.size:
        return None
    old = " (the old release, with wrong qpos and qvel)" if total == official.old_size else ""
    return f"the server has {total:,} bytes{old} instead of {official.size:,}"


def _check(path: Path, official: OfficialFile) -> None:
    size = path.stat().st_size
    if size != official.size:
        raise refuse(f"has {size:,} bytes instead of {official.size:,}", "remove it and download it again")
    found = sha256_of(path)
    if not found.startswith(official.sha256):
        fault = f"has SHA-256 {found} instead of {official.sha256}"
        raise refuse(fault, "download it again, if need be from another address (--url)")
