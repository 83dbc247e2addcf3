"""Run under faulty_calls: fails every call of a function in turn below a run's checkpoints, and resumes each run.

``disk_driver.py DIRECTORY FUNCTION KIND`` prints how many calls there were; an assertion ends it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from tiny_runs import assert_equal_runs, tiny, train

from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import RunError
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.settings import Schedule

shim = ctypes.CDLL(None)


def main(directory: Path, function: str, kind: int) -> int:
    config = tiny("forward_dynamics", schedule=Schedule(updates=12, log_interval=4, checkpoint_interval=6))
    whole, run = train(config, directory / "whole"), directory / "run"
    number = 0
    while True:
        number += 1
        shutil.rmtree(run, ignore_errors=True)
        shim.arm(function.encode(), number, kind, 1, os.fsencode(run / "checkpoints"))
        try:
            train(config, run)
        except RunError as error:
            count = shim.disarm()
            assert os.strerror(kind) in str(error) and "--resume" in str(error), error
            newest = RunDirectory(run).newest_checkpoint()
            assert f"the newest is {newest}:" in str(error) if newest else "there is none:" in str(error)
            for path in RunDirectory(run).checkpoints():
                read_checkpoint(path)
        else:
            count = shim.disarm()
        if count < number:
            assert_equal_runs(run, whole)
            return number - 1
        if not RunDirectory(run).finished:
            train(config, run, resume=True)
        assert_equal_runs(run, whole)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), sys.argv[2], getattr(errno, sys.argv[3])))
