"""A process that looks at laws, within limits of time and memory: whatever is asked for, the page goes on.

``python -m trajmill.cli.explorer.worker`` is that process: a line of JSON in, a line of JSON out.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SECONDS = 10.0
"""time that an answer may take"""
MEMORY = 4 * 2**30
"""bytes of addresses that the process may use"""
OWN = f"{__package__}.worker"


class Late(Exception):
    """There was no answer in time, and the process has been ended."""


class Worker:
    """The process, which is started when it is first asked, and again after it was ended."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._seconds, self._memory = seconds, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def ask(self, what: str, asked: Any) -> Any:
        """The answer of a function of `subjects`; an object with ``error`` and ``field`` where no law is made.

        `Late` if it took too long; RuntimeError if the process ended, as it does where memory runs out.
        """
        if not self._turn.acquire(timeout=self._seconds):
            raise Late("other requests are being answered; try again")
        try:
            return self._ask(what, asked)
        finally:
            self._turn.release()

    def _ask(self, what: str, asked: Any) -> Any:
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([what, asked]).encode() + b"\n")
            self._process.stdin.flush()
            line = _line(self._process.stdout.fileno(), time.monotonic() + self._seconds)
        except OSError:
            line = b""
        if line is None:
            self.close()
            told = f"this law takes more than {self._seconds:g} s, the time that this page gives it"
            raise Late(f"{told}; choose a smaller one, or use `trajmill law`")
        if not line:
            self.close()
            raise RuntimeError(
                "the process that looks at laws has ended, perhaps for want of memory; choose a smaller law"
            )
        return json.loads(line)

    def _start(self) -> None:
        variables = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TRAJMILL_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", OWN, str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | variables,
        )
        assert self._process.stdout is not None
        if _line(self._process.stdout.fileno(), time.monotonic() + 60) != b"ready":
            self.close()
            raise RuntimeError("the process that looks at laws did not start")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _line(file: int, until: float) -> bytes | None:
    """A line; nothing if the file ends before it does, None if it is not there in time."""
    read = b""
    while not read.endswith(b"\n"):
        ready, _, _ = select.select([file], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(file, 2**20)
        if not part:
            return b""
        read += part
    return read[:-1]


def main() -> None:
    """Answer until nothing is asked any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too, and it ends with its owner
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    from trajmill.cli.explorer import subjects

    answers: dict[str, Callable[[Any], Any]] = {
        "forms": lambda _: subjects.forms(),
        "see": subjects.see,
        "rate": subjects.rate,
    }
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    out.write(b"ready\n")
    out.flush()
    for line in sys.stdin.buffer:
        what, asked = json.loads(line)
        try:
            answer = answers[what](asked)
        except subjects.Refused as error:
            answer = {"error": str(error), "field": error.field}
        except MemoryError:
            told = f"this law needs more than the {limit / 2**30:.3g} GiB of memory that this page gives it"
            answer = {"error": f"{told}; choose a smaller one, or use `trajmill law`", "field": None}
        except (ValueError, TypeError, NotImplementedError) as error:
            answer = {"error": str(error), "field": None}
        out.write(json.dumps(answer, allow_nan=False).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
