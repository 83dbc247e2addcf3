"""Studies and sweeps on a Ray cluster of two nodes: equal to local runs, whoever is killed on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import HOPPER, assert_equal_runs, tiny

from trajmill.runs.engines import EngineConfig, opened
from trajmill.studies.cells import ReproduceConfig
from trajmill.studies.run import reproduce
from trajmill.studies.sweep import sweep
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

CPU = ComputeConfig(device="cpu")
CHEETAH = "halfcheetah-sac-replay-10k"
QUICK = ReproduceConfig(quick=True, update_share=0.2, datasets=(HOPPER,), processes=1, compute=CPU)
SUPPORT = str(Path(__file__).parents[2] / "support")
BASE = tiny("td3_bc", schedule=Schedule(updates=40, log_interval=1, evaluation_interval=20, checkpoint_interval=4))
GRID: dict[str, Any] = {"dataset": (HOPPER, CHEETAH), "method.value_weight": (0.5, 2.5)}
MEMORY = 100 * 2**20


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, on this machine; the first is the head."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY}
    found = Cluster(initialize_head=True, head_node_args=head)
    found.second = found.add_node(num_cpus=1, object_store_memory=MEMORY)
    found.wait_for_nodes()
    yield found
    found.shutdown()


def on(cluster: Any, **more: Any) -> EngineConfig:
    return EngineConfig(engine="ray", ray_address=cluster.address, **more)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The sweep, made by this process alone."""
    return sweep(BASE, GRID, tmp_path_factory.mktemp("local"), processes=1)


def assert_equal_sweeps(done: Any, swept: Any) -> None:
    assert not done.failed and done.table == swept.table
    for one, other in zip(done.cells, swept.cells, strict=True):
        assert_equal_runs(one.path, other.path)
    assert not list(done.output.rglob(".*claims"))


def updates_of(run: Path) -> int:
    log = run / "metrics.jsonl"
    return sum(b'"train"' in line for line in log.read_bytes().splitlines()) if log.exists() else 0


def worker_of(out: Path) -> int | None:
    """The process of a task that makes a run, by its claim."""
    for claim in out.rglob(".*.claims/*.json"):
        try:
            return int(json.loads(claim.read_text())["process"])
        except (OSError, ValueError):
            continue
    return None


def test_a_study_is_the_same_to_the_last_bit(cluster: Any, tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    here = reproduce("a-curves-cql", tmp_path / "local", QUICK)
    there = reproduce("a-curves-cql", tmp_path / "ray", QUICK, lambda *state: told.append(state), engine=on(cluster))
    assert here.comparison == there.comparison and not there.failed
    for cell, path in here.runs.items():
        assert_equal_runs(there.runs[cell], path)
    assert ("training", len(here.runs), len(here.runs), "runs") in told


def test_a_sweep_uses_both_nodes_and_is_the_same(cluster: Any, swept: Any, tmp_path: Path) -> None:
    done = sweep(BASE, GRID, tmp_path / "out", engine=on(cluster))
    assert_equal_sweeps(done, swept)
    assert not list(done.output.glob(".ray-*"))


def test_workers_and_a_node_that_are_killed_cost_time_alone(cluster: Any, swept: Any, tmp_path: Path) -> None:
    """A worker at its first updates, a node while it works, and again a worker; checkpoints are gone on from."""
    import threading

    out, chance, killed = tmp_path / "out", random.Random(7), list[str]()
    ended = threading.Event()

    def kill() -> None:
        for what in ("worker", "node", "worker"):
            before = sum(updates_of(path) for path in out.glob("runs/*/*"))
            while not ended.is_set() and sum(updates_of(path) for path in out.glob("runs/*/*")) < before + 12:
                time.sleep(0.05)
            time.sleep(chance.random())
            if ended.is_set():
                return
            if what == "node":
                cluster.remove_node(cluster.second, allow_graceful=False)
            elif (process := worker_of(out)) is not None:
                os.kill(process, signal.SIGKILL)
            killed.append(what)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        done = sweep(BASE, GRID, out, engine=on(cluster))
    finally:
        ended.set()
        killer.join()
    assert killed[:2] == ["worker", "node"]
    assert_equal_sweeps(done, swept)


def test_a_driver_that_is_killed_goes_on(cluster: Any, swept: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, __file__, str(out), cluster.address]
    environment = os.environ | {"PYTHONPATH": SUPPORT}
    with subprocess.Popen(words, env=environment) as driver:
        while sum(updates_of(path) for path in out.glob("runs/*/*")) < 20:
            assert driver.poll() is None
            time.sleep(0.05)
        driver.kill()
    assert len(list(out.glob("runs/*/*/result.json"))) < 4
    done = sweep(BASE, GRID, out, engine=on(cluster))
    assert_equal_sweeps(done, swept)
    lines = Counter(
        json.loads(line)["update"] for line in (done.cells[0].path / "metrics.jsonl").read_text().splitlines()
    )
    assert set(lines) == set(range(1, 41))


def test_two_drivers_share_the_runs(cluster: Any, swept: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": SUPPORT}
    with subprocess.Popen([sys.executable, __file__, str(out), cluster.address], env=environment) as driver:
        done = sweep(BASE, GRID, out, engine=on(cluster))
        assert driver.wait(300) == 0
    assert_equal_sweeps(done, swept)


def test_what_nodes_cannot_do_is_refused_before_the_work(cluster: Any, tmp_path: Path, monkeypatch: Any) -> None:
    with (
        pytest.raises(ValueError, match=r"a run needs 3 CPUs and 0 GPUs of one node, but .* --cpus-per-cell"),
        opened(on(cluster, cpus_per_cell=3.0), CPU, tmp_path),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"needs 1 CPUs and 0\.25 GPUs"),
        opened(on(cluster, gpus_per_cell=0.25), CPU, tmp_path),
    ):
        pass
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: None)  # a directory that the nodes do not see
    with (
        pytest.raises(ValueError, match=r"does not see .*must be on a file system that all share"),
        opened(on(cluster), CPU, tmp_path),
    ):
        pass


def test_a_run_that_fails_on_a_node_is_named(cluster: Any, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="diverged"):
        done = sweep(BASE, {"method.value_weight": (2.5, 1e30)}, tmp_path, engine=on(cluster))
    assert len(done.failed) == 1 and "DivergenceError" in done.faults[0] and len(done.records) == 1


if __name__ == "__main__":
    sweep(BASE, GRID, sys.argv[1], engine=EngineConfig(engine="ray", ray_address=sys.argv[2]))
