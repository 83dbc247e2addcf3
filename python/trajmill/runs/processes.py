"""Work shared by processes of this machine: one orchestrator for the seeds of a run, the runs of a study, the demo.

`run_jobs` runs jobs, a few at a time. `train_in_processes` splits a run by its seeds: each process trains some of them
as a run of its own, and all are joined into one. No seed knows of another, so the joined run holds the numbers that one
process would have written. Until then the parts lie in ``processes/0``, ``processes/1`` and so on in the run directory,
from where an interrupted run goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmill.core.limits import usable_cores
from trajmill.core.progress import Progress
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import METRICS, PROCESSES, REPLAY, parts_of, read_state
from trajmill.runs.schedule import DivergenceError, DivergenceWarning, Trained, with_text_keys
from trajmill.runs.watching import Record, Watch
from trajmill.training.device import ComputeConfig
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import at_least


class ProcessError(RuntimeError):
    """One of the processes failed; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work for another process: a function of a module, which takes a `Progress` after its arguments."""

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    tells: bool = False
    """whether it takes, after the `Progress`, a function that sends records to the process that waits for it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended: with a result, or with an error, or its process with it."""

    name: str
    result: Any = None
    error: str | None = None
    lost: str | None = None
    """what ended its process"""


@dataclass(frozen=True, slots=True)
class _Report:
    """What a process sends: how far its job is, a warning, a record, its result, or why it failed."""

    progress: tuple[str, int, int, str] | None = None
    warning: str | Warning | None = None
    record: Record | None = None
    result: Any = None
    error: str | None = None


class Processes:
    """At most `count` processes, each with one job at a time; the end of the block ends them all.

    `report` receives a job's name and what the job tells its `Progress`; `warn` its warnings; `tell` its name and its
    records.
    """

    def __init__(
        self,
        count: int,
        report: Callable[[str, str, int, int, str], None],
        warn: Callable[[str | Warning], None],
        tell: Callable[[str, Record], None] = lambda name, record: None,
    ) -> None:
        self._count, self._report, self._warn, self._tell = count, report, warn, tell
        self._running: dict[Connection, tuple[str, SpawnProcess]] = {}
        self._idle: list[tuple[Connection, SpawnProcess]] = []
        self._started: list[SpawnProcess] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.join()

    @property
    def has_room(self) -> bool:
        """Whether another job can be started."""
        return len(self._running) < self._count

    @property
    def is_busy(self) -> bool:
        """Whether any job runs."""
        return bool(self._running)

    def start(self, job: Job) -> None:
        """Give a job to a process."""
        pipe, process = self._idle.pop() if self._idle else self._new()
        self._running[pipe] = (job.name, process)
        pipe.send(job)

    def ended(self, seconds: float | None = None) -> list[Ended]:
        """Pass on what jobs tell, and give those that have ended; waits until one tells something, or for `seconds`."""
        found = []
        for pipe in wait(list(self._running), seconds):
            assert isinstance(pipe, Connection)
            name, process = self._running[pipe]
            try:
                received: _Report = pipe.recv()
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a report
                process.join()
                del self._running[pipe]
                found.append(Ended(name=name, lost=f"ended with exit code {process.exitcode}"))
                continue
            if received.warning is not None:
                self._warn(received.warning)
            elif received.progress is not None:
                self._report(name, *received.progress)
            elif received.record is not None:
                self._tell(name, received.record)
            else:
                del self._running[pipe]
                if received.error is None:
                    self._idle.append((pipe, process))
                found.append(Ended(name=name, result=received.result, error=received.error))
        return found

    def dismiss(self) -> None:
        """End the processes that have no job."""
        while self._idle:
            self._idle.pop()[0].close()

    def _new(self) -> tuple[Connection, SpawnProcess]:
        # a pipe each: a process that is killed in the middle of a report can neither hold nor garble those of others
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        with without_script():
            process.start()
        theirs.close()  # the process has its own; when that ends, so do the reports
        self._started.append(process)
        return ours, process


def warn_here(warning: str | Warning) -> None:
    """Pass a warning of another process on."""
    warnings.warn(warning, RuntimeWarning, stacklevel=4)


def run_jobs(
    jobs: Sequence[Job],
    process_count: int,
    *,
    report: Callable[[str, str, int, int, str], None],
    warn: Callable[[str | Warning], None] = warn_here,
    tell: Callable[[str, Record], None] = lambda name, record: None,
) -> dict[str, Any]:
    """Run all jobs in at most `process_count` processes; gives their results by name.

    For `report`, `warn` and `tell` see `Processes`. The first failure ends all processes and is raised as
    `ProcessError`, and so does what these functions raise; a process that trains writes a checkpoint before it ends.
    """
    waiting, results = list(reversed(jobs)), dict[str, Any]()
    with Processes(process_count, report, warn, tell) as processes:
        while len(results) < len(jobs):
            while waiting and processes.has_room:
                processes.start(waiting.pop())
            for ended in processes.ended():
                if ended.lost is not None:
                    raise ProcessError(
                        f"{ended.name} {ended.lost}; if memory ran out, start again with fewer processes, else go on "
                        f"with --resume"
                    )
                if ended.error is not None:
                    raise ProcessError(f"{ended.name} failed: {ended.error}")
                results[ended.name] = ended.result
            if not waiting:
                processes.dismiss()
    return {job.name: results[job.name] for job in jobs}


def _work(pipe: Connection) -> None:
    """Body of a process: one job after another, until the pipe is closed."""

    def progress(task: str, completed: int, total: int, unit: str) -> None:
        pipe.send(_Report(progress=(task, completed, total, unit)))

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        pipe.send(_Report(warning=message if isinstance(message, DivergenceWarning) else str(message)))

    end_with_parent()
    warnings.showwarning = warn
    try:
        while True:
            job: Job = pipe.recv()
            told = [lambda record: pipe.send(_Report(record=record))] if job.tells else []
            pipe.send(_Report(result=job.work(*job.arguments, progress, *told)))
    except EOFError:
        return
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        pipe.send(_Report(error=f"{type(error).__name__}: {error}"))


@contextmanager
def without_script() -> Iterator[None]:
    """Processes that start in the block do not run the user's script again: what they do is all in modules.

    So a script may train in several processes without ``if __name__ == "__main__":``, and so may standard input.
    """
    main: Any = sys.modules["__main__"]
    hidden = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


def is_one_of_several() -> bool:
    """Whether this process is one of those that `run_jobs` has started, which cannot start others."""
    return multiprocessing.current_process().daemon


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, so that no one writes where a resumed run does."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# --- the seeds of one run ---------------------------------------------------------------------------------------------


def process_count(wanted: int | None, compute: ComputeConfig, most: int, output: Path | None = None) -> int:
    """Processes to use: those `wanted`, else one per CPU core, at most `most`.

    On a GPU, where all seeds share each launch, the choice is one. A run that was begun in `output` keeps its number.
    """
    if wanted is not None:
        at_least(1, processes=wanted)
    if output is not None and output.is_dir() and any(output.iterdir()):
        return len(parts_of(output)) or 1
    on_gpu = compute.device != "cpu" and torch.cuda.is_available()
    if wanted is None:
        wanted = 1 if on_gpu else max(1, usable_cores() // compute.threads)
    return max(1, min(wanted, most))


def seed_groups(seed_count: int, processes: int) -> list[range]:
    """Positions of the seeds of each process, which differ by one at most."""
    cuts = [seed_count * number // processes for number in range(processes + 1)]
    return [range(first, end) for first, end in pairwise(cuts)]


def train_in_processes(
    run: RunDirectory, train: Callable[..., Any], configs: Sequence[Any], progress: Progress, watch: Watch | None = None
) -> Trained:
    """Train each of `configs` in a process of its own and join them into `run`; its wall seconds are the longest one's.

    `train(config, path, progress)` is a function of a module; with `watch` it takes a function of records too, and
    `watch` gets those that all processes have. DivergenceError ends it when no seed is left.
    """
    former = run.path / "workers"  # as earlier versions called it
    if former.is_dir():
        former.rename(run.path / PROCESSES)
    paths = [run.path / PROCESSES / str(number) for number in range(len(configs))]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
    diverged: dict[int, int] = {}
    names = [f"process {number}" for number in range(len(configs))]
    completed: dict[str, dict[str, int]] = {}

    def report(name: str, task: str, done: int, total: int, unit: str) -> None:
        of_task = completed.setdefault(
            task, {} if "seed" in task else dict.fromkeys(names, 0)
        )  # one process has a seed
        of_task[name] = done
        progress(f"{task} in {len(configs)} processes", min(of_task.values()), total, unit)

    def warn(warning: str | Warning) -> None:
        if isinstance(warning, DivergenceWarning):
            diverged[warning.seed] = warning.update
        warnings.warn(warning, RuntimeWarning, stacklevel=4)
        if len(diverged) == run.seed_count:
            raise DivergenceError.of(diverged, run)

    pairs = zip(names, configs, paths, strict=True)
    jobs = [Job(name, train, (config, path), tells=watch is not None) for name, config, path in pairs]
    parts = [RunDirectory(path) for path in paths]
    run_jobs(jobs, len(jobs), report=report, warn=warn, tell=_joining(watch or Watch(), names, parts))
    return _join(run, parts)


def _joining(watch: Watch, names: Sequence[str], parts: Sequence[RunDirectory]) -> Callable[[str, Record], None]:
    """Take records of single processes, and give them to `watch` joined, each once all processes have it."""
    known = {name: _records(part) for name, part in zip(names, parts, strict=True)}
    first = min(part.update for part in parts)  # a process that goes on from there makes later ones again
    common = [row for row in zip(*known.values(), strict=False) if row[0].update <= first]
    watch.known(map(Record.joined, common))
    waiting: dict[tuple[str, int], dict[str, Record]] = {}
    told = {(row[0].phase, row[0].update) for row in common}
    for name, records in known.items():
        for record in records[len(common) :]:
            waiting.setdefault((record.phase, record.update), {})[name] = record

    def tell(name: str, record: Record) -> None:
        key = record.phase, record.update
        if key in told:
            return
        found = waiting.setdefault(key, {})
        found[name] = record
        if len(found) == len(names):
            told.add(key)
            watch(Record.joined([waiting[key][name] for name in names]))
            del waiting[key]

    return tell


def _records(part: RunDirectory) -> list[Record]:
    """What a process has measured so far; nothing if it has not begun."""
    if not (part.path / METRICS).is_file():
        return []
    seeds = part.described()["seeds"]
    return [Record.of_line(line, seeds) for line in part.lines()]


def finish(run: RunDirectory, trained: Trained, results: Mapping[str, Any]) -> None:
    """Mark the run as finished, with its results, and remove the processes' own runs."""
    run.finish(trained.result() | dict(results))
    shutil.rmtree(run.path / PROCESSES, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Joined:
    """The states of all processes as one."""

    tensors: Mapping[str, Tensor]
    metrics: MetricRing
    period: int = 1

    def moving(self) -> dict[str, Tensor]:
        return dict(self.tensors)


def _join(run: RunDirectory, parts: Sequence[RunDirectory]) -> Trained:
    """Write the metrics and the last checkpoint of all parts as those of one run, seeds in order."""
    states, metadata = zip(*(read_state(part.checkpoints()[0]) for part in parts), strict=True)
    diverged = {int(seed): update for one in metadata for seed, update in one["diverged"].items()}
    if len(diverged) == run.seed_count:  # some of them before the run was resumed
        raise DivergenceError.of(diverged, run)
    run.clear_metrics()
    wall_seconds = 0.0
    for record in map(Record.joined, zip(*map(_records, parts), strict=True)):
        wall_seconds = record.wall_seconds
        run.log(record.phase, record.update, wall_seconds, {name: row.tolist() for name, row in record.metrics.items()})
    tensors = {name: _of_all_seeds(name, [state[name] for state in states]) for name in states[0]}
    joined = {
        "seeds": [seed for one in metadata for seed in one["seeds"]],
        "diverged": with_text_keys(diverged),
        "method": run.described()["config"]["method"],
    }
    run.save(_Joined(tensors, MetricRing((), tensors["metrics"])), metadata[0]["update"], metadata[0] | joined)
    for part in parts:
        for path in (part.path / REPLAY).glob("*/*"):  # each seed has a folder
            _share(path, run.path / REPLAY / path.parent.name / path.name)
    return Trained(wall_seconds=wall_seconds, diverged=diverged)


def _of_all_seeds(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Scalars are the same for all seeds; metrics have the seed axis second, everything else first."""
    if tensors[0].ndim == 0:
        return tensors[0]
    return torch.cat(list(tensors), 1 if name == "metrics" else 0)


def _share(path: Path, target: Path) -> None:
    """Have a file in two places: its processes may be resumed until the run is finished."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(path)
    except OSError:  # not every file system has links
        shutil.copy2(path, target)
