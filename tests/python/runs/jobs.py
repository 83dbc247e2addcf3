"""What the processes of these tests do: they end well, badly, or not at all."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path

from trajmill.core.progress import Progress
from trajmill.runs.schedule import DivergenceWarning
from trajmill.runs.signals import Interrupted


def good(value: int, progress: Progress) -> tuple[int, int]:
    """Gives back its value, and its process."""
    progress("work", 1, 2, "updates")
    warnings.warn(DivergenceWarning(value, 7, "its loss is nan"), stacklevel=1)
    warnings.warn(f"mind {value}", RuntimeWarning, stacklevel=1)
    progress("work", 2, 2, "updates")
    return value, os.getpid()


def bad(progress: Progress) -> None:
    """Fails."""
    raise ValueError("the floor is lava")


def torn(progress: Progress) -> None:
    """Dies in the middle of a report."""
    pipe = sys._getframe(1).f_locals["pipe"]
    os.write(pipe.fileno(), b"\0\0\1\0half of a rep")
    os.kill(os.getpid(), signal.SIGKILL)


def endless(path: Path, progress: Progress) -> None:
    """Writes down its process and never ends by itself."""
    path.write_text(str(os.getpid()))
    for number in range(60_000):
        progress("wait", number, 60_000, "updates")
        time.sleep(0.01)


def mute(path: Path, progress: Progress) -> None:
    """The same without a word, so that no broken pipe ends it."""
    endless(path, lambda *told: None)


def stopped(progress: Progress) -> None:
    """Ends as a run does that receives a signal."""
    raise Interrupted("stopped after update 5 of 9", signal.SIGINT)


def diverging(config: int, output: Path, progress: Progress) -> None:
    """Warns that the only seed of its run diverged."""
    warnings.warn(DivergenceWarning(config, 3, "its loss is inf"), stacklevel=1)
    time.sleep(60)


def orchestrate(folder: Path) -> None:
    """Two endless jobs, of which nothing is heard."""
    from trajmill.runs.processes import Job, run_jobs

    jobs = [Job(name, mute, (folder / name,)) for name in ("a", "b")]
    run_jobs(jobs, 2, report=lambda *told: None)


if __name__ == "__main__":
    sys.modules["jobs"] = sys.modules["__main__"]
    orchestrate(Path(sys.argv[1]))
