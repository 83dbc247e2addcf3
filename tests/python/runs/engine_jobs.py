"""Runs that are only told of: what their processes do, written down line by line where everybody can count it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from trajmill.core.progress import Progress, silent
from trajmill.runs.engines import EngineConfig, RunJob, opened
from trajmill.training.device import ComputeConfig

UPDATES = 5
CPU = ComputeConfig(device="cpu")


def write(folder: Path, line: str) -> None:
    """Add a line to the log that all processes share, in one call."""
    descriptor = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def updates(folder: Path) -> list[str]:
    """The updates that were made, of all runs."""
    log = folder / "log"
    return [line for line in log.read_text().splitlines() if line[0] == "u"] if log.exists() else []


def run(folder: Path, name: str, pause: float, progress: Progress) -> None:
    """Make what is left of `UPDATES`, each of which is kept at once, as if after each there were a checkpoint."""
    kept, finished = folder / f"{name}.kept", folder / f"{name}.finished"
    if finished.exists():
        return
    for number in range(int(kept.read_text()) if kept.exists() else 0, UPDATES):
        write(folder, f"u {name} {number}")
        part = folder / f"{name}.part"
        part.write_text(str(number + 1))
        part.rename(kept)
        progress("train", number + 1, UPDATES, "updates")
        time.sleep(pause)
    finished.touch()


def killing(folder: Path, name: str, deaths: int, progress: Progress) -> None:
    """A run whose process dies after its second update, so many times."""
    died = len(list(folder.glob(f"{name}.died-*")))

    def die(task: str, completed: int, total: int, unit: str) -> None:
        if completed == 2 + died and died < deaths:
            (folder / f"{name}.died-{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    run(folder, name, 0.0, die)


def failing(folder: Path, name: str, progress: Progress) -> None:
    """A run that cannot be."""
    raise ValueError("the floor is lava")


def job(work: Any, folder: Path, name: str, *more: Any, needs: tuple[Path, ...] = ()) -> RunJob:
    """A job of this module."""
    return RunJob(name=name, work=work, arguments=(folder, name, *more), makes=folder / name, needs=needs)


def drive(folder: Path, names: str, pause: float, processes: int) -> None:
    """A driver of its own: all runs of these names."""
    with opened(EngineConfig(), CPU, folder, processes) as engine:
        engine.make("training", [job(run, folder, name, pause) for name in names], silent)


if __name__ == "__main__":
    sys.modules["engine_jobs"] = sys.modules["__main__"]
    import engine_jobs

    engine_jobs.drive(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
