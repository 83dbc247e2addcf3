"""One process per CPU core: each trains some of a run's seeds as a run of its own, and all are joined into one.

No seed knows of another, so the joined run holds the numbers that one process would have written. Until then the parts
lie in ``workers/0``, ``workers/1`` and so on in the run directory, from where an interrupted run goes on.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from trajmill.core.progress import Progress
from trajmill.evaluation.simulators import usable_cores
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.pipelines.schedule import DivergenceError, DivergenceWarning, Trained, by_word
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.device import ComputeConfig
from trajmill.training.hyperparameters import at_least


class WorkerError(RuntimeError):
    """One of the processes failed; the message says which, and why."""


ConfigT_contra = TypeVar("ConfigT_contra", contravariant=True)
ConfigT = TypeVar("ConfigT")


class Train(Protocol[ConfigT_contra]):
    """A training pipeline, a function of a module (it is found by name in the other process)."""

    def __call__(self, config: ConfigT_contra, output: Path, progress: Progress, *, resume: bool, part: bool) -> Path:
        """Train into the run directory `output`, which is a `part` of a run with more seeds."""


def worker_count(wanted: int | None, compute: ComputeConfig, seed_count: int, output: Path) -> int:
    """Processes to train `seed_count` seeds with: those `wanted`, else one per CPU core, at most one per seed.

    On a GPU, where all seeds share each launch, the choice is one. A run that was begun keeps the number it has.
    """
    if wanted is not None:
        at_least("workers", wanted, 1)
    if output.is_dir() and any(output.iterdir()):
        return len(_parts(output)) or 1
    on_gpu = compute.device != "cpu" and torch.cuda.is_available()
    if wanted is None:
        wanted = 1 if on_gpu else max(1, usable_cores() // compute.threads)
    return min(wanted, seed_count)


def seed_groups(seed_count: int, workers: int) -> list[range]:
    """Positions of the seeds of each worker, which differ by one at most."""
    cuts = [seed_count * worker // workers for worker in range(workers + 1)]
    return [range(first, end) for first, end in pairwise(cuts)]


def of_seeds(config: ConfigT, positions: Sequence[int], per_seed: Sequence[str] = ("learning_rate",)) -> ConfigT:
    """The same run with the seeds at these positions; `per_seed` settings of its ``method`` may have a value each."""
    whole: Any = config

    def chosen(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(values[position] for position in positions)

    own = {name: chosen(value) for name in per_seed if isinstance(value := getattr(whole.method, name), tuple)}
    part: ConfigT = replace(whole, seeds=chosen(whole.seeds), method=replace(whole.method, **own))
    return part


def train_in_workers(
    run: RunDirectory, train: Train[ConfigT], configs: Sequence[ConfigT], progress: Progress
) -> Trained:
    """Train each of `configs` in a process of its own and join them into `run`; its wall seconds are the longest one's.

    DivergenceError ends it when no seed of any process is left.
    """
    paths = [run.path / "workers" / str(worker) for worker in range(len(configs))]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, SpawnProcess] = {}
    try:
        for config, path in zip(configs, paths, strict=True):
            # a pipe each: one that is killed in the middle of a report can neither hold nor garble those of others
            reports, writer = context.Pipe(duplex=False)
            workers[reports] = context.Process(target=_work, args=(writer, train, config, path), daemon=True)
            workers[reports].start()
            writer.close()  # the worker has its own; when that ends, so do the reports
        _follow(run, workers, progress)
    finally:
        started = [process for process in workers.values() if process.pid is not None]
        for process in started:
            process.terminate()  # one that trains writes a checkpoint first
        for process in started:
            process.join()
    return _join(run, [RunDirectory(path) for path in paths])


def train_seeds(
    run: RunDirectory,
    train: Train[ConfigT],
    config: ConfigT,
    workers: int,
    progress: Progress,
    here: Callable[[], Trained],
    per_seed: Sequence[str] = ("learning_rate",),
) -> Trained:
    """Train all seeds of `config` with `train` in so many processes, or by `here` in this one; see `of_seeds`."""
    if workers == 1:
        return here()
    seeds: Sequence[int] = config.seeds  # type: ignore[attr-defined]
    parts = [of_seeds(config, positions, per_seed) for positions in seed_groups(len(seeds), workers)]
    return train_in_workers(run, train, parts, progress)


def finish(
    run: RunDirectory, trained: Trained, results: Mapping[str, Any], *, gradient_steps: int, workers: int
) -> None:
    """Mark the run as finished, with its results, and forget the workers' own runs."""
    run.finish(trained.result() | dict(results) | {"gradient_steps": gradient_steps, "workers": workers})
    shutil.rmtree(run.path / "workers", ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Report:
    """What a worker tells: how far it is, a warning, or why it failed."""

    progress: tuple[str, int, int, str] | None = None
    warning: str | Warning | None = None
    error: str | None = None


def _work(reports: Connection, train: Train[ConfigT], config: ConfigT, path: Path) -> None:
    def tell(task: str, completed: int, total: int, unit: str) -> None:
        reports.send(_Report(progress=(task, completed, total, unit)))

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        reports.send(_Report(warning=message if isinstance(message, DivergenceWarning) else str(message)))

    end_with_parent()
    warnings.showwarning = warn
    try:
        train(config, path, tell, resume=any(path.iterdir()), part=True)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        reports.send(_Report(error=f"{type(error).__name__}: {error}"))


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, so that no one writes where a resumed run does."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _follow(run: RunDirectory, workers: Mapping[Connection, SpawnProcess], progress: Progress) -> None:
    """Pass on what the workers report, the slowest one's progress, until all have ended well."""
    diverged: dict[int, int] = {}
    numbers = {reports: number for number, reports in enumerate(workers)}
    completed = dict.fromkeys(workers, 0)
    working = set(workers)
    while working:
        for reports in wait(working):
            assert isinstance(reports, Connection)
            try:
                report: _Report = reports.recv()
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a report
                workers[reports].join()
                if exit_code := workers[reports].exitcode:
                    raise WorkerError(
                        f"worker {numbers[reports]} ended with exit code {exit_code}; if memory ran out, start again "
                        f"with fewer workers, else go on with --resume"
                    ) from None
                working.remove(reports)
                continue
            if report.error is not None:
                raise WorkerError(f"worker {numbers[reports]} failed: {report.error}")
            if report.warning is not None:
                if isinstance(report.warning, DivergenceWarning):
                    diverged[report.warning.seed] = report.warning.update
                warnings.warn(report.warning, RuntimeWarning, stacklevel=3)
                if len(diverged) == run.seed_count:
                    raise DivergenceError.of(diverged, run)
            elif report.progress is not None:
                task, completed[reports], total, unit = report.progress
                progress(f"{task} in {len(workers)} processes", min(completed.values()), total, unit)


@dataclass(frozen=True, slots=True)
class _Joined:
    """The states of all workers as one."""

    tensors: Mapping[str, Tensor]

    def moving(self) -> dict[str, Tensor]:
        return dict(self.tensors)


def _join(run: RunDirectory, parts: Sequence[RunDirectory]) -> Trained:
    """Write the metrics and the last checkpoint of all parts as those of one run, seeds in order."""
    checkpoints = [read_checkpoint(path) for part in parts if (path := part.newest_checkpoint())]
    states, metadata = zip(*checkpoints, strict=True)
    diverged = {int(seed): update for one in metadata for seed, update in one["diverged"].items()}
    if len(diverged) == run.seed_count:  # some of them before the run was resumed
        raise DivergenceError.of(diverged, run)
    run.forget_lines()
    wall_seconds = 0.0
    for lines in zip(*(part.lines() for part in parts), strict=True):
        wall_seconds = max(float(line["wall_seconds"]) for line in lines)
        metrics = {
            name: [math.nan if value is None else value for line in lines for value in line["metrics"][name]]
            for name in lines[0]["metrics"]
        }
        run.log(lines[0]["phase"], lines[0]["gradient_step"], wall_seconds, metrics)
    tensors = {name: _of_all_seeds(name, [state[name] for state in states]) for name in states[0]}
    joined = {"seeds": [seed for one in metadata for seed in one["seeds"]], "diverged": by_word(diverged)}
    run.save(_Joined(tensors), metadata[0]["gradient_step"], metadata[0] | joined)
    return Trained(wall_seconds=wall_seconds, diverged=diverged)


def _of_all_seeds(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Scalars are the same for all seeds; metrics have the seed axis second, everything else first."""
    if tensors[0].ndim == 0:
        return tensors[0]
    return torch.cat(list(tensors), 1 if name == "metrics" else 0)


def _parts(output: Path) -> list[Path]:
    return sorted((output / "workers").glob("[0-9]*"))  # a killed worker may leave a directory with another name
