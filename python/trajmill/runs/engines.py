"""Who makes the runs of a study or of a sweep: this process, several of this machine, or the tasks of a Ray cluster.

An `Engine` takes jobs, each of which makes one run. A run that another program is making is left to it and looked at
again later (`trajmill.runs.claims`); one whose process or machine died is begun again elsewhere, and goes on from its
last checkpoint; one that fails is remembered, and the others go on.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch.distributed as dist

from trajmill.core import checks
from trajmill.core.progress import Progress
from trajmill.corpus.build import Part
from trajmill.runs.claims import Owner, claimed
from trajmill.runs.directory import RunDirectory
from trajmill.runs.processes import Ended, Job, ProcessError, Processes, process_count, warn_here
from trajmill.training.device import ComputeConfig

CellT = TypeVar("CellT")
MadeT = TypeVar("MadeT")

LOSSES = 4
"""deaths of its process after which a run has failed"""
PATIENCE_SECONDS = 2.0
"""before a run that another program makes is looked at again"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Who makes runs, and which of them; changes no result."""

    engine: Literal["local", "ray"] = "local"
    """processes of this machine, or the tasks of a Ray cluster"""
    ray_address: str | None = None
    """address of a running Ray cluster; by default one is started on this machine"""
    cpus_per_cell: float | None = None
    """CPUs that Ray keeps for a run, > 0; by default --compute.threads"""
    gpus_per_cell: float | None = None
    """GPUs that Ray keeps for a run, >= 0, such as 0.25 for four runs on one; by default 1 where the cluster has any, 0
    with --compute.device cpu"""
    shard: str = "0/1"
    """which part of the runs this job makes, k/N with 0 <= k < N, as for a Slurm array; the job that ends last writes
    the tables, and so does the same command without --shard"""

    def __post_init__(self) -> None:
        checks.choice("engine", self.engine, ("local", "ray"))
        if self.cpus_per_cell is not None:
            checks.number("cpus_per_cell", self.cpus_per_cell, "(0, inf)")
        if self.gpus_per_cell is not None:
            checks.number("gpus_per_cell", self.gpus_per_cell, "[0, inf)")
        of_ray = {"ray_address": self.ray_address, "cpus_per_cell": self.cpus_per_cell}
        given = [name for name, value in (of_ray | {"gpus_per_cell": self.gpus_per_cell}).items() if value is not None]
        if self.engine == "local" and given:
            raise ValueError(
                f"{', '.join(given)} are for a Ray cluster: give --engine ray too, or leave them out; on this machine "
                "--processes says how many runs are made at once"
            )

    @property
    def part(self) -> Part:
        """`shard` as numbers; CorpusError if it is none."""
        return Part.parse(self.shard)


def positions_of(part: Part, costs: Sequence[float]) -> list[int]:
    """Which of the runs with these costs are this part's, in order: a function of the costs alone.

    The most costly first, each goes to the part that has least so far. Every run is in exactly one part.
    """
    loads, mine = [0.0] * part.count, list[int]()
    for position in sorted(range(len(costs)), key=lambda position: (-costs[position], position)):
        least = min(range(part.count), key=lambda number: (loads[number], number))
        loads[least] += costs[position]
        if least == part.number:
            mine.append(position)
    return sorted(mine)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob(Job):
    """A job that makes one run; its work gets a `Progress` after its arguments."""

    makes: Path
    """what no two processes make at the same time"""
    needs: tuple[Path, ...] = ()
    """what has been made before it"""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run was not made."""

    job: str
    why: str
    error: Exception | None = None
    """what was raised, if it was in this process"""

    def raised(self) -> Exception:
        """As an exception."""
        return self.error or ProcessError(f"{self.job} failed: {self.why}")


class Backend(Protocol):
    """Where jobs run. What came of one is an owner, an exception or its words, or nothing if its run is finished."""

    @property
    def has_room(self) -> bool:
        """Whether another job can be started."""

    def start(self, job: RunJob) -> None:
        """Begin an `attempt` of a job, or make it."""

    def ended(self, seconds: float | None = None) -> list[Ended]:
        """Jobs that have ended; waits until something happens, or for `seconds`."""


def attempt(job: RunJob, progress: Progress) -> Owner | Exception | None:
    """Do a job; gives who else is making the run, so that it was left alone, or what was raised."""
    with claimed(job.makes) as owner:
        if owner is not None:
            return owner
        try:
            job.work(*job.arguments, progress)
        except Exception as error:
            return error
        return None


def attempt_in_words(job: RunJob, progress: Progress) -> Owner | str | None:
    """The same for another process; not every exception can be sent."""
    found = attempt(job, progress)
    return in_words(found) if isinstance(found, Exception) else found


def in_words(error: Exception) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {error}"


@dataclass
class Engine:
    """Makes runs, remembers those that could not be made."""

    config: EngineConfig
    backend: Callable[[int, Callable[..., None]], AbstractContextManager[Backend]]
    """for a number of jobs, and what receives a job's name and its progress"""
    failed: dict[Path, Failure] = field(default_factory=dict)

    def make(self, task: str, jobs: Sequence[RunJob], progress: Progress) -> None:
        """Do all jobs that have what they need; `task` is what to call them together."""
        able = {job.name: job for job in jobs if not self._lacks(job)}
        if not able:
            return
        alone, finished, losses = True, 0, Counter[str]()

        def report(name: str, part: str, completed: int, total: int, unit: str) -> None:
            if alone:  # of several that are made at once, only how many are finished
                progress(f"{name}: {part}", completed, total, unit)

        with self.backend(len(able), report) as backend:
            alone = isinstance(backend, _InThisProcess)
            if not alone:
                progress(task, 0, len(able), "runs")
            waiting, later = deque(able.values()), list[tuple[float, RunJob]]()
            while finished < len(able):
                now = time.monotonic()
                waiting.extend(job for due, job in later if due <= now)
                later = [(due, job) for due, job in later if due > now]
                while waiting and backend.has_room:
                    backend.start(waiting.popleft())
                for ended in backend.ended(min((due - now for due, _ in later), default=None)):
                    job, result = able[ended.name], ended.result
                    if ended.lost is not None:
                        losses[job.name] += 1
                        if losses[job.name] < LOSSES:
                            waiting.append(job)
                            continue
                        advice = "if memory ran out, make fewer runs at once"
                        self._fail(job, f"its process {ended.lost}, {LOSSES} times; {advice}")
                    elif isinstance(result, Owner):
                        later.append((time.monotonic() + random.uniform(0.5, 1.5) * PATIENCE_SECONDS, job))
                        progress(f"{task}, waiting for {result}", finished, len(able), "runs")
                        continue
                    elif isinstance(result, Exception):
                        self._fail(job, in_words(result), result)
                    elif ended.error or result:
                        self._fail(job, ended.error or str(result))
                    finished += 1
                    if not alone:
                        progress(task, finished, len(able), "runs")

    def _lacks(self, job: RunJob) -> bool:
        """Whether something that a job needs has failed, and so the job."""
        for need in job.needs:
            if (failure := self.failed.get(need)) is not None:
                self._fail(job, f"{failure.job}, which it needs, failed: {failure.why}", failure.error)
                return True
        return False

    def _fail(self, job: RunJob, why: str, error: Exception | None = None) -> None:
        self.failed[job.makes] = Failure(job.name, why, error)

    def make_part(
        self,
        cells: Sequence[CellT],
        paths: Sequence[Path],
        costs: Sequence[float],
        make: Callable[[Sequence[CellT]], MadeT],
    ) -> tuple[MadeT, int]:
        """Make this shard's part of the cells, whose run directories are `paths`; gives how many others have to make.

        Where they have made theirs, `make` gets all cells, to see that they were made with the same settings.
        """
        part = self.config.part
        made, left = make([cells[position] for position in positions_of(part, costs)]), 0
        if part.count > 1:
            left = sum(not RunDirectory(path).finished for path in paths if path not in self.failed)
            if not left:
                made = make([cell for cell, path in zip(cells, paths, strict=True) if path not in self.failed])
        return made, left

    def without_failed(self, paths: Sequence[Path]) -> list[Path]:
        """The runs that could be made; the first failure is raised if that is none of them."""
        made = [path for path in paths if path not in self.failed]
        if paths and not made:
            raise self.failed[paths[0]].raised()
        return made


@contextmanager
def opened(
    config: EngineConfig, compute: ComputeConfig, output: Path, processes: int | None = None
) -> Iterator[Engine]:
    """The engine that makes runs in `output` until the end of the block.

    `processes` is how many are made at once; by default one per CPU core, or one in all on a GPU; with Ray as many as
    the cluster has room for. ValueError or CorpusError if the engine cannot be had, before any work begins.
    """
    config.part  # noqa: B018 (refused before the work)
    if dist.is_torchelastic_launched():
        raise ValueError(
            "torchrun started this, and each of its processes would make all runs: start it without torchrun, or "
            "train one run on several GPUs with torchrun -m trajmill train"
        )
    if config.engine == "local":
        yield Engine(config, partial(_local, compute, processes))
        return
    from trajmill.runs.ray_tasks import RayTasks

    with RayTasks(config, compute, output, processes) as tasks:
        yield Engine(config, lambda count, report: nullcontext(tasks))


def _local(
    compute: ComputeConfig, processes: int | None, count: int, report: Callable[..., None]
) -> AbstractContextManager[Backend]:
    several = process_count(processes, compute, count)
    return nullcontext(_InThisProcess(report)) if several == 1 else _InProcesses(several, report)


class _InThisProcess:
    """Does each job where it is started."""

    def __init__(self, report: Callable[..., None]) -> None:
        self._report, self._done = report, list[Ended]()

    @property
    def has_room(self) -> bool:
        return not self._done

    def start(self, job: RunJob) -> None:
        self._done.append(Ended(name=job.name, result=attempt(job, partial(self._report, job.name))))

    def ended(self, seconds: float | None = None) -> list[Ended]:
        found, self._done = self._done, []
        if not found and seconds:
            time.sleep(seconds)
        return found


class _InProcesses(Processes):
    """Does jobs in processes of this machine; `start` takes a `RunJob`."""

    def __init__(self, count: int, report: Callable[..., None]) -> None:
        super().__init__(count, report, warn_here)

    def start(self, job: Job) -> None:
        super().start(Job(job.name, attempt_in_words, (job,)))

    def ended(self, seconds: float | None = None) -> list[Ended]:
        if not self.is_busy:
            time.sleep(seconds or 0.0)
        return super().ended(seconds) if self.is_busy else []


def pass_on(messages: Sequence[str]) -> None:
    """Warn here of what another machine has warned of."""
    for message in messages:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
