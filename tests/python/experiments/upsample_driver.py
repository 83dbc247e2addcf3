"""Kills an upsampling at random moments, gives it again: ``upsample_driver.py DIRECTORY KILLS``; prints the kills."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from upsampling import contents, make, small_shards


def begin(output: Path) -> int:
    process = os.fork()
    if process == 0:
        status = 1
        try:
            make(output)
            status = 0
        finally:
            os._exit(status)
    return process


def main(directory: Path, kills: int) -> int:
    small_shards()
    chance = random.Random(7)
    started = time.monotonic()
    assert os.waitpid(begin(directory / "whole"), 0)[1] == 0
    whole_seconds = time.monotonic() - started
    killed = rounds = 0
    while killed < kills:
        rounds += 1
        output = directory / str(rounds)
        while True:
            process = begin(output)
            if killed < kills:
                time.sleep(chance.uniform(0.0, whole_seconds))
                if os.waitpid(process, os.WNOHANG)[0] == 0:
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
                    killed += 1
                    continue
            else:
                assert os.waitpid(process, 0)[1] == 0
            break
        again = begin(output)
        assert os.waitpid(again, 0)[1] == 0
        ours, theirs = contents(output), contents(directory / "whole")
        assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
        assert not [name for name in ours if ours[name] != theirs[name]]
    return killed


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2])))
