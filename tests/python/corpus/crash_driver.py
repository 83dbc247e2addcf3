"""Kills a writer at random points: ``crash_driver.py DIRECTORY SPEC ROUNDS SEED``; an assertion ends it.

Children are forked, so that a round costs what its writing costs. What a reader may believe at any time is checked
after every kill, then the same call goes on to the end.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from small_corpus import SPECS, files

import trajmill as tm
from trajmill.corpus import CorpusError
from trajmill.corpus.build import build
from trajmill.corpus.survey import verify


def main() -> None:
    directory, spec, rounds, rng = Path(sys.argv[1]), SPECS[sys.argv[2]], int(sys.argv[3]), random.Random(sys.argv[4])
    spec = spec | {"row_count": 93}  # twelve shards
    started = time.perf_counter()
    if Child(lambda: build(spec, directory / "whole", threads=1)).wait() != 0:
        raise SystemExit("the uninterrupted run failed")
    duration = time.perf_counter() - started
    whole = files(directory / "whole")
    out = directory / "out"
    finished = unfinished = left_over = 0
    for _ in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        child = Child(lambda: build(spec, out, threads=2))
        time.sleep(rng.uniform(0, 1.1 * duration))
        child.kill()
        done = check_what_is_there(out, whole, spec)
        finished, unfinished = finished + done, unfinished + (not done)
        left_over += any(path.name.startswith(".tmp") for path in out.glob(".*"))
        assert Child(lambda: build(spec, out, threads=2)).wait() == 0
        assert files(out) == whole
    print(json.dumps({"finished": finished, "unfinished": unfinished, "left_over": left_over}))


class Child:
    """A process that does `work` and ends with 0, or 1 after an exception."""

    def __init__(self, work):
        self._id = os.fork()
        if self._id == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._id, 0)[1])

    def kill(self) -> None:
        os.kill(self._id, signal.SIGKILL)
        self.wait()


def check_what_is_there(out: Path, whole: dict[str, bytes], spec: dict) -> bool:
    """Records and the files they stand for are whole; says whether the corpus is."""
    if not out.exists():
        return False
    there = files(out)
    for name in there:
        if name.startswith(("receipt-", "manifest")):
            assert there[name] == whole[name], name
        if name.startswith("receipt-"):
            shard = name.removeprefix("receipt-").removesuffix(".json")
            for other, data in whole.items():
                if other.endswith(f"-{shard}.bin"):
                    assert there[other] == data, other
    complete = sum(name.startswith("receipt-") for name in there) == 12
    opened = False
    with suppress(CorpusError):
        opened = len(tm.open_corpus(out)) == 93
    assert opened == complete
    if "manifest.json" in there:
        assert complete and not verify(out, threads=1).problems
    return complete


if __name__ == "__main__":
    main()
