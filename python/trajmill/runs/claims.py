"""Who is making a run, so that programs on one machine or many never make one twice.

Whoever begins has a file of its own in ``.NAME.claims`` beside the run ``NAME``, with its machine and process, and
touches it every few seconds. A claim of the same machine lives as long as its process, one of another machine as long
as it is touched. No locks of the file system are needed, which not every shared one has.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from trajmill.core.json_input import read_json

TOUCH_SECONDS = 5.0
"""between two signs of life"""
DEAD_SECONDS = 60.0
"""without one, after which whoever made a claim on another machine is taken for dead"""
PROCESSES = Path("/proc")
"""where a system, if it is Linux, tells what runs"""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that makes something."""

    host: str
    machine: str
    """boot and process namespace, within which `process` is a name"""
    process: int
    started: str
    """when the process began, in ticks since the boot"""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@contextmanager
def claimed(path: Path) -> Iterator[Owner | None]:
    """Let this process alone make `path` until the end of the block; gives who is making it already, or None.

    What a process that died had claimed is taken over. A process whose claim was taken over, because it gave no sign of
    life for a minute, ends at once where it finds out, so that two never write in one place.
    """
    folder, owner = path.with_name(f".{path.name}.claims"), _owner(os.getpid())
    mine = _written(folder, json.dumps(asdict(owner)))
    try:
        # everybody writes first and then looks, so of two at the same time at least one sees the other
        others = [each for each in folder.iterdir() if each != mine]
        living = [found for each in others if (found := _living(each, mine, owner)) is not None]
        if living:
            yield living[0]
            return
        for each in others:
            each.unlink(missing_ok=True)
        with _touching(mine):
            yield None
    finally:
        mine.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's claim is in it
            folder.rmdir()


def _written(folder: Path, content: str) -> Path:
    """A new file in a folder, which others that end may remove in this moment."""
    mine = folder / f"{secrets.token_hex(8)}.json"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            mine.write_text(content, encoding="utf-8")
            return mine


def _living(claim: Path, mine: Path, me: Owner) -> Owner | None:
    """Who made a claim, if that process may still live."""
    try:
        # the file system has set both times, so clocks of machines need not agree
        silence = mine.stat().st_mtime - claim.stat().st_mtime
        owner = Owner(**read_json(claim))
    except FileNotFoundError:  # given up in this moment
        return None
    except (ValueError, TypeError):  # being written, or half-written by a machine that failed
        owner = Owner("another machine", "", 0, "")
    if owner.machine == me.machine:
        return owner if (_started(owner.process) or "") == owner.started else None
    return owner if silence < DEAD_SECONDS else None


@contextmanager
def _touching(claim: Path) -> Iterator[None]:
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(TOUCH_SECONDS):
            try:
                os.utime(claim)
            except FileNotFoundError:
                text = f"trajmill: {claim} is gone: another process took this run over, so this one ends\n"
                sys.stderr.write(text)
                sys.stderr.flush()
                os._exit(1)
            except OSError:  # the file system may come back
                continue

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@cache
def _owner(process: int) -> Owner:
    """Who we are; a forked process is another."""
    try:
        boot = (PROCESSES / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = (PROCESSES / "self/ns/pid").readlink()
    except OSError:  # a system that does not tell, as macOS: each process is judged by its signs of life
        return Owner(socket.gethostname(), secrets.token_hex(8), process, "")
    return Owner(socket.gethostname(), f"{boot} {namespace}", process, _started(process) or "")


def _started(process: int) -> str | None:
    """When a process of this machine began; None if there is none, or if it has ended."""
    try:
        fields = (
            (PROCESSES / f"{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
