"""Seeds shared by several processes: the joined run is that of one process, and a broken one goes on."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from tiny_runs import CPU, HOPPER, METHODS, Killed, assert_equal_runs, each, result, tiny, train

from trajmill.algorithms import method_named
from trajmill.algorithms.cql import Config as CQLConfig
from trajmill.core.progress import silent
from trajmill.experiments.train import _of_seeds
from trajmill.runs import processes
from trajmill.runs.directory import RunDirectory
from trajmill.runs.processes import Job, ProcessError, process_count, run_jobs, seed_groups, train_in_processes
from trajmill.runs.reading import RunError
from trajmill.runs.schedule import DivergenceError, DivergenceWarning
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule

RECORD = {"kind": "test", "seeds": [0], "dataset": "", "environment": "", "variant": "", "config": {"method": {}}}
WEIGHTS = tiny("cql", seeds=(4, 0, 9), method={"cql_weight": (5.0, 1.0, 3.0)})


# --- how many, and for whom ---


@pytest.mark.parametrize(("seeds", "count"), [(1, 1), (7, 3), (20, 2), (5, 5)])
def test_groups_are_disjoint_and_even(seeds: int, count: int) -> None:
    groups = seed_groups(seeds, count)
    assert [position for group in groups for position in group] == list(range(seeds))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert min(map(len, groups)) >= 1


def test_how_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    new = tmp_path / "new"
    assert process_count(None, CPU, 20, new) == process_count(None, CPU, 20) == 8
    assert process_count(None, CPU, 3, new) == 3
    assert process_count(None, ComputeConfig(device="cpu", threads=3), 20, new) == 2
    assert process_count(None, ComputeConfig(device="cpu", threads=16), 20, new) == 1
    assert process_count(5, CPU, 3, new) == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert process_count(None, ComputeConfig(), 20, new) == 1
    assert process_count(None, CPU, 20, new) == 8
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        process_count(0, CPU, 3, new)
    for number in range(3):
        (new / "processes" / str(number)).mkdir(parents=True)
    assert process_count(None, CPU, 20, new) == 3, "a run that was begun keeps its processes"
    (new / "processes" / ".2.4711.part").mkdir()
    assert process_count(None, CPU, 20, new) == 3, "what a process left that was killed as it began is none"
    (new / "processes").rename(new / "workers")
    assert process_count(None, CPU, 20, new) == 3, "so does one that an earlier version began"
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "config.json").touch()
    assert process_count(None, CPU, 20, tmp_path / "alone") == 1


def test_settings_follow_their_seeds() -> None:
    method = CQLConfig(cql_weight=(1.0, 2.0, 3.0), discount=0.9, difference_range=(-1.0, 1.0))
    part = _of_seeds(replace(WEIGHTS, method=method), range(1, 3))
    assert part.method == CQLConfig(cql_weight=(2.0, 3.0), discount=0.9, difference_range=(-1.0, 1.0))
    assert part.seeds == (0, 9)
    with pytest.raises(ValueError, match="cql_weight needs one value or one per seed"):
        replace(WEIGHTS, seeds=(0, 1))


def test_seeds_that_drop_numbers_together_are_not_shared(tmp_path: Path) -> None:
    config = tiny("language_model")
    with pytest.raises(ValueError, match=r"processes must be 1, got 2: .* --method\.no-dropout"):
        train(config, tmp_path / "run", processes=2)
    assert not (tmp_path / "run").exists()
    short = replace(config, schedule=Schedule(updates=1))
    assert result(train(short, tmp_path / "run", processes=None))["processes"] == 1


@pytest.mark.parametrize("method", each(METHODS))
def test_processes_get_the_learning_rates_of_their_seeds(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def noting(run: RunDirectory, train: object, configs: list[Any], *more: object) -> None:
        parts.extend((part.seeds, part.method.learning_rate) for part in configs)
        raise Stopped

    parts: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    monkeypatch.setattr("trajmill.experiments.train.train_in_processes", noting)
    changes: dict[str, Any] = {"learning_rate": (1e-3, 1e-4)}
    if method == "language_model":
        changes["dropout"] = False
    config = tiny(method, method=changes)
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", processes=2)
    assert parts == [((5,), (1e-3,)), ((3,), (1e-4,))]
    with pytest.raises(ValueError, match="learning_rate needs one value or one per seed"):
        replace(config, seeds=(5, 3, 8))


# --- jobs ---


def test_jobs_share_processes_and_their_words_arrive() -> None:
    seen: list[tuple[Any, ...]] = []
    told: list[str | Warning] = []
    work = [Job(str(number), jobs.good, (number,)) for number in range(3)]
    found = run_jobs(work, 2, report=lambda *state: seen.append(state), warn=told.append)
    assert {name: value for name, (value, _) in found.items()} == {"0": 0, "1": 1, "2": 2}
    assert list(found) == ["0", "1", "2"] and len({process for _, process in found.values()}) <= 2
    assert sorted(seen) == [(str(number), "work", done, 2, "updates") for number in range(3) for done in (1, 2)]
    assert sorted(one.seed for one in told if isinstance(one, DivergenceWarning)) == [0, 1, 2]
    assert sorted(one for one in told if isinstance(one, str)) == ["mind 0", "mind 1", "mind 2"]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (jobs.torn, "second ended with exit code -9"),
        pytest.param(jobs.bad, "second failed: ValueError: the floor is lava", marks=pytest.mark.slow),
        pytest.param(jobs.stopped, "second ended with exit code 130.*--resume", marks=pytest.mark.slow),
    ],
)
def test_a_failing_job_is_named_and_ends_the_others(job: Callable[..., None], message: str, tmp_path: Path) -> None:
    """The first one reports all the while, the third one never begins."""
    work = [Job("first", jobs.endless, (tmp_path / "first",)), Job("second", job, ())]
    work.append(Job("third", jobs.endless, (tmp_path / "third",)))
    with pytest.raises(ProcessError, match=message):
        run_jobs(work, 2, report=lambda *_: None)
    assert not multiprocessing.active_children() and not (tmp_path / "third").exists()


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, jobs.__file__, tmp_path])
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2 and all(path.read_text() for path in tmp_path.iterdir()))
    process.kill()
    process.wait()
    for path in tmp_path.iterdir():
        wait_until(lambda path=path: not is_alive(int(path.read_text())))


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- runs whose seeds are shared ---


def in_this_process(
    work: Sequence[Job], count: int, *, report: Callable[..., None], **_: Callable[..., None]
) -> dict[str, Any]:
    """What `run_jobs` does, one job after the other, without warnings and records."""
    return {job.name: job.work(*job.arguments, partial(report, job.name)) for job in work}


@pytest.mark.parametrize(
    "method", [name if name == "td3_bc" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_any_number_of_processes_gives_the_same_numbers(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two and each of three has one seed alone, for whose products torch would take other kernels of BLAS's.

    Networks are so wide that torch calls BLAS at all.
    """
    monkeypatch.setattr(processes, "run_jobs", in_this_process)
    settings = method_named(method).SMALL
    settings = replace(settings, dropout=False) if method == "language_model" else settings
    schedule = Schedule(updates=2, log_interval=1, evaluation_interval=2, checkpoint_interval=2)
    config = replace(tiny(method), seeds=(5, 3, 8), method=settings, schedule=schedule)
    alone = train(config, tmp_path / "1", processes=1)
    for count in (2, 3):
        shared = train(config, tmp_path / str(count), processes=count)
        assert_equal_runs(shared, alone)
        assert (shared / "config.json").read_text() == (alone / "config.json").read_text()
        assert result(shared)["processes"] == count
        assert not (shared / "processes").exists()


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_joined_run_is_that_of_one_process(
    real: bool, tmp_path: Path, whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the middle and continued."""
    if not real:
        monkeypatch.setattr(processes, "run_jobs", in_this_process)
    alone, run = whole(WEIGHTS), tmp_path / "run"
    told: list[tuple[str, int, int, str]] = []

    def stop(task: str, done: int, total: int, unit: str) -> None:
        told.append((task, done, total, unit))
        if len(told) == 20:
            raise Killed

    with pytest.raises(Killed):
        train(WEIGHTS, run, stop, processes=2)
    assert sorted(path.name for path in (run / "processes").iterdir()) == ["0", "1"]
    seen: list[tuple[int, int]] = []
    train(WEIGHTS, run, lambda task, done, total, unit: seen.append((done, total)), resume=True, processes=None)
    assert_equal_runs(run, alone)
    assert (run / "config.json").read_text() == (alone / "config.json").read_text()
    assert result(run)["processes"] == 2 and result(alone)["processes"] == 1
    assert result(run)["wall_seconds"] > 0.0
    metadata = read_checkpoint(RunDirectory(run).checkpoints()[0])[1]
    assert metadata["seeds"] == [4, 0, 9] and metadata["method"]["cql_weight"] == [5.0, 1.0, 3.0]
    assert seen[-1] == (40, 40) and seen == sorted(seen)
    assert not (run / "processes").exists()


@pytest.mark.slow
def test_a_process_whose_only_seed_diverges_goes_on(tmp_path: Path, whole) -> None:
    config = tiny("cql", seeds=(4, 0), method={"cql_weight": (5.0, 1e38)})
    with pytest.warns(DivergenceWarning, match="seed 0 diverged at update 1"):
        alone = train(config, tmp_path / "alone")
    with pytest.warns(DivergenceWarning, match="seed 0 diverged at update 1"):
        shared = train(config, tmp_path / "shared", processes=2)
    assert_equal_runs(shared, alone)
    config = tiny("cql", seeds=(4, 0), method={"cql_weight": 1e38})
    with pytest.warns(DivergenceWarning), pytest.raises(DivergenceError, match=r"nothing left to train: seed . at"):
        train(config, tmp_path / "both", processes=2)


@pytest.mark.slow
def test_what_trains_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = f"train cql --dataset {HOPPER} --compute.device cpu --seeds 0 1 --workers 2 --quiet --out"
    process = subprocess.Popen([sys.executable, "-m", "trajmill", *words.split(), str(run)])
    logs = [run / "processes" / number / "metrics.jsonl" for number in ("0", "1")]
    wait_until(lambda: all(log.exists() and log.stat().st_size for log in logs))
    process.kill()
    process.wait()
    for log in logs:
        wait_until(lambda path=log.parent: is_free(RunDirectory(path)))


def is_free(run: RunDirectory) -> bool:
    try:
        with run.locked():
            return True
    except RunError:
        return False


def test_when_nothing_is_left_the_processes_have_the_last_good_checkpoints(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert "there is no checkpoint" in str(DivergenceError.of({4: 7, 0: 9}, run))
    checkpoint = tmp_path / "processes" / "1" / "checkpoints" / "step_000000005.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    told = str(DivergenceError.of({4: 7, 0: 9}, run))
    assert "seed 4 at update 7, seed 0 at update 9" in told and str(tmp_path / "processes") in told


@pytest.mark.slow
def test_a_run_ends_as_soon_as_no_seed_is_left(tmp_path: Path) -> None:
    """Though its processes would go on for long."""
    run = RunDirectory.open(tmp_path / "run", RECORD | {"seeds": [4, 0]})
    with pytest.warns(DivergenceWarning), pytest.raises(DivergenceError, match=r"seed . at update 3, seed . at update"):
        train_in_processes(run, jobs.diverging, [4, 0], silent)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_seeds_that_diverged_before_a_resume_count(tmp_path: Path) -> None:
    """The run was broken off after the first process had ended, its seed diverged; then that of the second does."""
    parts = [tiny("cql", seeds=(seed,), method={"cql_weight": 1e38}) for seed in (4, 0)]
    run = RunDirectory.open(tmp_path / "run", RECORD | {"seeds": [4, 0]})
    (run.path / "processes").mkdir()
    with pytest.warns(DivergenceWarning, match="seed 4 diverged at update 1"):
        train(parts[0], run.path / "processes" / "0", of_larger_run=True)
    with (
        pytest.warns(DivergenceWarning, match="seed 0 diverged at update 1"),
        pytest.raises(DivergenceError, match="seed 4 at update 1, seed 0 at update 1"),
    ):
        train_in_processes(run, method_part, parts, silent)
    assert run.checkpoints() == []


def method_part(config: Any, output: Path, progress: Any) -> None:
    train(config, output, progress, resume=any(output.iterdir()), of_larger_run=True)
