"""Seeds shared by several processes: the joined run is that of one process, and a broken one goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import PIPELINES, SETTINGS, assert_equal_runs

from trajmill.algorithms.cql import PER_SEED, CQLConfig
from trajmill.core.progress import silent
from trajmill.pipelines import workers
from trajmill.pipelines.cql import TrainCQLConfig, train_cql
from trajmill.pipelines.run_directory import RunDirectory, RunDirectoryError
from trajmill.pipelines.schedule import DivergenceError, DivergenceWarning, Schedule
from trajmill.pipelines.workers import WorkerError, of_seeds, seed_groups, train_in_workers, worker_count
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.device import ComputeConfig

CPU = ComputeConfig(device="cpu")
RECORD = {"kind": "test", "seeds": [0], "dataset": "", "environment": "", "variant": "", "config": {}}
CONFIG = TrainCQLConfig(
    dataset="hopper-sac-replay-10k",
    seeds=(4, 0, 9),
    evaluation_episode_count=2,
    method=CQLConfig(batch_size=16, cql_weight=(5.0, 1.0, 3.0)),
    schedule=Schedule(updates=20, log_interval=5, evaluation_interval=10, checkpoint_interval=10),
    compute=CPU,
)


def lines(path: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "wall_seconds"} for line in RunDirectory(path).lines()]


@pytest.mark.parametrize(("seeds", "count"), [(1, 1), (7, 3), (20, 2), (5, 5)])
def test_groups_are_disjoint_and_even(seeds: int, count: int) -> None:
    groups = seed_groups(seeds, count)
    assert [position for group in groups for position in group] == list(range(seeds))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert min(map(len, groups)) >= 1


def test_how_many_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 8)
    new = tmp_path / "new"
    assert worker_count(None, CPU, 20, new) == 8
    assert worker_count(None, CPU, 3, new) == 3
    assert worker_count(None, ComputeConfig(device="cpu", threads=3), 20, new) == 2
    assert worker_count(None, ComputeConfig(device="cpu", threads=16), 20, new) == 1
    assert worker_count(5, CPU, 3, new) == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert worker_count(None, ComputeConfig(), 20, new) == 1
    assert worker_count(None, CPU, 20, new) == 8
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        worker_count(0, CPU, 3, new)
    for worker in range(3):
        (new / "workers" / str(worker)).mkdir(parents=True)
    assert worker_count(None, CPU, 20, new) == 3, "a run that was begun keeps its workers"
    (new / "workers" / ".2.4711.part").mkdir()
    assert worker_count(None, CPU, 20, new) == 3, "what a worker left that was killed as it began is none"
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "config.json").touch()
    assert worker_count(None, CPU, 20, tmp_path / "alone") == 1


@pytest.mark.slow
def test_the_joined_run_is_that_of_one_process(tmp_path: Path) -> None:
    alone = train_cql(CONFIG, tmp_path / "alone")
    seen: list[tuple[int, int]] = []
    shared = train_cql(
        CONFIG, tmp_path / "shared", lambda task, done, total, unit: seen.append((done, total)), workers=2
    )
    assert lines(shared) == lines(alone)
    assert (shared / "config.json").read_text() == (alone / "config.json").read_text()
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (shared, alone))
    assert ours.pop("workers") == 2 and theirs.pop("workers") == 1
    assert ours.pop("wall_seconds") > 0.0 < theirs.pop("wall_seconds")
    assert ours == theirs
    (tensors, metadata), (expected, _) = (
        read_checkpoint(path / "checkpoints" / "step_000000020.safetensors") for path in (shared, alone)
    )
    assert metadata["seeds"] == [4, 0, 9]
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name].nan_to_num(nan=7.0), tensor.nan_to_num(nan=7.0)), name
    assert seen[-1] == (20, 20) and seen == sorted(seen)
    assert not (shared / "workers").exists()


@pytest.mark.slow
def test_a_broken_run_goes_on_with_its_workers(tmp_path: Path) -> None:
    whole = train_cql(CONFIG, tmp_path / "whole", workers=2)

    class Stopped(Exception):
        pass

    def stop(task: str, completed: int, total: int, unit: str) -> None:
        if completed >= 10:
            raise Stopped

    with pytest.raises(Stopped):
        train_cql(CONFIG, tmp_path / "run", stop, workers=2)
    assert len(list((tmp_path / "run" / "workers").iterdir())) == 2
    train_cql(CONFIG, tmp_path / "run", resume=True, workers=None)
    assert lines(tmp_path / "run") == lines(whole)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["pretrain_cql", "pretrain_dt", "train_dt"])
def test_every_pipeline_shares_its_seeds(pipeline: str, tmp_path: Path) -> None:
    config = dataclasses.replace(SETTINGS[pipeline], seeds=(5, 3, 8))
    if pipeline == "pretrain_dt":
        config = dataclasses.replace(config, method=dataclasses.replace(config.method, dropout=False))
    alone = PIPELINES[pipeline](config, tmp_path / "alone")
    shared = PIPELINES[pipeline](config, tmp_path / "shared", workers=2)
    assert_equal_runs(shared, alone)
    assert (shared / "config.json").read_text() == (alone / "config.json").read_text()
    assert json.loads((shared / "result.json").read_text())["workers"] == 2
    assert not (shared / "workers").exists()


def test_seeds_that_drop_numbers_together_are_not_shared(tmp_path: Path) -> None:
    config = SETTINGS["pretrain_dt"]
    with pytest.raises(ValueError, match=r"workers must be 1, got 2: .* torchrun or --method\.no-dropout helps"):
        PIPELINES["pretrain_dt"](config, tmp_path / "run", workers=2)
    assert not (tmp_path / "run").exists()
    run = PIPELINES["pretrain_dt"](config, tmp_path / "run", workers=None)
    assert json.loads((run / "result.json").read_text())["workers"] == 1


@pytest.mark.slow
def test_a_worker_whose_only_seed_diverges_goes_on(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG, seeds=(4, 0), method=dataclasses.replace(CONFIG.method, cql_weight=(5.0, 1e38))
    )
    with pytest.warns(DivergenceWarning, match="seed 0 diverged at update 1"):
        alone = train_cql(config, tmp_path / "alone")
    with pytest.warns(DivergenceWarning, match="seed 0 diverged at update 1"):
        shared = train_cql(config, tmp_path / "shared", workers=2)
    assert_equal_runs(shared, alone)
    config = dataclasses.replace(config, method=dataclasses.replace(CONFIG.method, cql_weight=1e38))
    with pytest.warns(DivergenceWarning), pytest.raises(DivergenceError, match=r"nothing left to train: seed . at"):
        train_cql(config, tmp_path / "both", workers=2)


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = "train cql --dataset hopper-sac-replay-10k --compute.device cpu --seeds 0 1 --workers 2 --quiet --out"
    process = subprocess.Popen([sys.executable, "-m", "trajmill", *words.split(), str(run)])
    logs = [run / "workers" / worker / "metrics.jsonl" for worker in ("0", "1")]
    wait_until(lambda: all(log.exists() and log.stat().st_size for log in logs))
    process.kill()
    process.wait()
    for log in logs:
        wait_until(lambda path=log.parent: is_free(RunDirectory(path)))


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_free(run: RunDirectory) -> bool:
    try:
        with run.locked():
            return True
    except RunDirectoryError:
        return False


def fail(config: str, output: Path, progress: object, *, resume: bool, part: bool) -> Path:
    if config == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("no such thing")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "message"), [("raise", "worker 0 failed: ValueError: no such thing"), ("kill", "exit code -9")]
)
def test_a_failing_worker_is_named(config: str, message: str, tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "run", RECORD)
    with pytest.raises(WorkerError, match=message):
        train_in_workers(run, fail, [config], silent)


def test_settings_follow_their_seeds() -> None:
    method = CQLConfig(cql_weight=(1.0, 2.0, 3.0), discount=0.9, difference_range=(-1.0, 1.0))
    part = of_seeds(dataclasses.replace(CONFIG, method=method), [1, 2], PER_SEED)
    assert part.method == CQLConfig(cql_weight=(2.0, 3.0), discount=0.9, difference_range=(-1.0, 1.0))
    assert part.seeds == (0, 9)
    with pytest.raises(ValueError, match="cql_weight needs one value or one per seed"):
        dataclasses.replace(CONFIG, seeds=(0, 1))


@pytest.mark.parametrize("pipeline", ["pretrain_cql", "pretrain_dt", "train_dt"])
def test_workers_get_the_learning_rates_of_their_seeds(
    pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def noting(run: RunDirectory, train: object, configs: list, progress: object) -> None:
        parts.extend((part.seeds, part.method.learning_rate) for part in configs)
        raise Stopped

    parts: list[tuple] = []
    monkeypatch.setattr("trajmill.pipelines.workers.train_in_workers", noting)
    config = SETTINGS[pipeline]
    changes = {"learning_rate": (1e-3, 1e-4)} | ({"dropout": False} if pipeline == "pretrain_dt" else {})
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, **changes))
    with pytest.raises(Stopped):
        PIPELINES[pipeline](config, tmp_path / "run", workers=2)
    assert parts == [((5,), (1e-3,)), ((3,), (1e-4,))]
    with pytest.raises(ValueError, match="learning_rate needs one value or one per seed"):
        dataclasses.replace(config, seeds=(5, 3, 8))


def test_when_nothing_is_left_the_workers_have_the_last_good_checkpoints(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert "there is no checkpoint from before" in str(DivergenceError.of({4: 7, 0: 9}, run))
    checkpoint = tmp_path / "workers" / "1" / "checkpoints" / "step_000000005.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert f"{tmp_path / 'workers'} has the last good checkpoints" in str(DivergenceError.of({4: 7, 0: 9}, run))


@pytest.mark.parametrize("last_words", [b"", b"\0\0\1\0half of a rep"])
def test_a_worker_that_died_is_noticed_while_others_report(last_words: bytes, tmp_path: Path) -> None:
    (dead, dying), (busy, reporting) = Pipe(duplex=False), Pipe(duplex=False)
    os.write(dying.fileno(), last_words)
    dying.close()
    reporting.send(workers._Report(progress=("train", 1, 1000, "updates")))
    processes = [SimpleNamespace(exitcode=code, join=lambda: None) for code in (-9, None)]
    with pytest.raises(WorkerError, match="worker 0 ended with exit code -9"):
        workers._follow(RunDirectory(tmp_path), dict(zip((dead, busy), processes, strict=True)), silent)
    reporting.close()


@pytest.mark.slow
def test_seeds_that_diverged_before_a_resume_count(tmp_path: Path) -> None:
    """The run was broken off after worker 0 had ended, its seed diverged; then that of worker 1 does."""
    bad = dataclasses.replace(CONFIG.method, cql_weight=1e38)
    parts = [dataclasses.replace(CONFIG, seeds=(seed,), method=bad) for seed in (4, 0)]
    run = RunDirectory.open(tmp_path / "run", RECORD | {"seeds": [4, 0]})
    (run.path / "workers").mkdir()
    with pytest.warns(DivergenceWarning, match="seed 4 diverged at update 1"):
        train_cql(parts[0], run.path / "workers" / "0", part=True)
    with (
        pytest.warns(DivergenceWarning, match="seed 0 diverged at update 1"),
        pytest.raises(DivergenceError, match="seed 4 at update 1, seed 0 at update 1 diverged"),
    ):
        train_in_workers(run, train_cql, parts, silent)
    assert run.checkpoints() == []
