"""Commands in a copy of the package with a new method: ``driver.py FOLDER``; prints what they said as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import trajmill
from trajmill.cli import main

RUN = "train shrink --dataset hopper-sac-replay-10k --seeds 0 1 --compute.device cpu --method.batch-size 8 --quiet"
RUN += " --schedule.updates 21 --schedule.log-interval 4 --schedule.evaluation-interval 7"
RUN += " --schedule.checkpoint-interval 5 --schedule.unroll 4 --evaluation-episode-count 1"


def run(*words: str) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def killed(folder: Path) -> None:
    """The same run, ended after update 15 or little later: the last checkpoint is in the middle of a period."""
    from trajmill.experiments import train as training
    from trajmill.runs.schedule import run_schedule

    class Killed(Exception):
        pass

    def progress(task: str, done: int, total: int, unit: str) -> None:
        if done >= 15:
            raise Killed

    def schedule(*arguments: Any, **options: Any) -> Any:
        return run_schedule(*arguments, **options | {"progress": progress})

    training.run_schedule = schedule
    try:
        run_said = run(*RUN.split(), "--processes", "1", "--out", str(folder / "broken"))
    finally:
        training.run_schedule = run_schedule
    assert "Killed" in run_said["err"], run_said
    (newest, *_) = sorted((folder / "broken/checkpoints").iterdir(), reverse=True)
    assert newest.stem == "step_000000015", newest


def everything(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = {"package": trajmill.__file__}
    said["overview"] = run("train", "--help")
    said["help"] = run("train", "shrink", "--help")
    said["train"] = run(*RUN.split(), "--processes", "1", "--out", str(folder / "run"))
    killed(folder)
    said["resume"] = run(*RUN.split(), "--processes", "1", "--resume", "--out", str(folder / "broken"))
    stops = "--schedule.log-interval 3 --schedule.checkpoint-interval 50 --schedule.unroll 1 --processes 1"
    said["other stops"] = run(*RUN.split(), *stops.split(), "--out", str(folder / "other_stops"))
    said["evaluate"] = run("evaluate", str(folder / "run"), "--episode-count", "2", "--json", "--quiet")
    said["report"] = run("report", str(folder / "run"), "--out", str(folder / "report.html"), "--quiet")
    words = f"reproduce shrink --quick --processes 1 --compute.device cpu --json --quiet --out {folder / 'study'}"
    said["reproduce"] = run(*words.split())
    return said


def in_processes(folder: Path) -> dict[str, Any]:
    return {
        name: run(*RUN.split(), "--processes", count, "--out", str(folder / name))
        for name, count in (("one", "1"), ("two", "2"))
    }


if __name__ == "__main__":
    work = {"everything": everything, "in_processes": in_processes}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]))))
