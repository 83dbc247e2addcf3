"""Kills a run at random moments, resumes it, and compares: ``kill_driver.py METHOD DIRECTORY KILLS``.

Every run is a fork of this process, which itself computes nothing. Prints how many kills there were.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from tiny_runs import assert_equal_runs, tiny, train


def begin(method: str, run: Path) -> int:
    process = os.fork()
    if process == 0:
        status = 1
        try:
            train(tiny(method), run, resume=True)
            status = 0
        finally:
            os._exit(status)
    return process


def main(method: str, directory: Path, kills: int) -> int:
    chance = random.Random(7)
    started = time.monotonic()
    assert os.waitpid(begin(method, directory / "whole"), 0)[1] == 0
    whole_seconds = time.monotonic() - started
    killed = rounds = 0
    while killed < kills:
        rounds += 1
        run = directory / str(rounds)
        while True:
            process = begin(method, run)
            if killed < kills:
                time.sleep(chance.uniform(0.0, whole_seconds * 0.9))
                done, status = os.waitpid(process, os.WNOHANG)
                if done == 0:
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
                    killed += 1
                    continue
            else:
                status = os.waitpid(process, 0)[1]
            assert status == 0, f"exit status {status}"
            break
        assert_equal_runs(run, directory / "whole")
        assert not list(run.rglob("*.part"))
    return killed


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
