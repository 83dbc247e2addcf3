"""Runs made by several processes and programs: none is lost, none is made twice, one that fails stops no other."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import engine_jobs
import pytest
from engine_jobs import CPU, UPDATES, failing, job, killing, run, updates

from trajmill.core.progress import silent
from trajmill.corpus.build import Part
from trajmill.runs import claims, engines
from trajmill.runs.claims import Owner, claimed
from trajmill.runs.engines import Engine, EngineConfig, opened, positions_of
from trajmill.runs.processes import Ended, ProcessError


def each_once(folder: Path, names: str) -> bool:
    """Whether every update of every run was made, and made once."""
    return Counter(updates(folder)) == Counter(f"u {name} {number}" for name in names for number in range(UPDATES))


# --- which part of the work is whose ---


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_are_disjoint_whole_and_even(count: int) -> None:
    costs = [random.Random(count).choice([1.0, 2.0, 5.0, 30.0]) for _ in range(40)]
    parts = [positions_of(Part(number=number, count=count), costs) for number in range(count)]
    assert sorted(position for part in parts for position in part) == list(range(40))
    loads = [sum(costs[position] for position in part) for part in parts]
    assert max(loads) - min(loads) <= max(costs)
    assert parts == [positions_of(Part(number=number, count=count), costs) for number in range(count)]


def test_one_long_run_is_a_part_of_its_own() -> None:
    assert positions_of(Part(number=0, count=2), [1.0, 1.0, 10.0, 1.0]) == [2]
    assert positions_of(Part(number=1, count=2), [1.0, 1.0, 10.0, 1.0]) == [0, 1, 3]
    assert positions_of(Part(number=4, count=5), [1.0, 1.0]) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "slurm"}, "engine must be"),
        ({"gpus_per_cell": 0.5}, "gpus_per_cell are for a Ray cluster: give --engine ray"),
        ({"engine": "ray", "cpus_per_cell": 0.0}, "cpus_per_cell"),
    ],
)
def test_engines_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EngineConfig(**settings)


# --- claims ---


def owned(path: Path, **changes: Any) -> Path:
    """A claim that somebody else has made."""
    owner = {"host": "far", "machine": "another", "process": 1, "started": "1"} | changes
    claim = path.with_name(f".{path.name}.claims") / "aaaa.json"
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps(owner))
    return claim


def test_a_claim_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a"
    with claimed(path) as first:
        assert first is None
        with claimed(path) as second:
            assert second is not None and second.process == os.getpid()
            assert str(second) == f"process {os.getpid()} on {second.host}"
        with claimed(tmp_path / "runs" / "b") as other:
            assert other is None
        with claimed(path) as again:  # the one that was refused has taken nothing away
            assert again is not None
    with claimed(path) as after:
        assert after is None
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_system_that_does_not_tell_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PROCESSES", tmp_path / "none")
    claims._owner.cache_clear()
    try:
        with claimed(tmp_path / "a") as first, claimed(tmp_path / "a") as second:
            assert first is None and second is not None and second.process == os.getpid()
        with claimed(tmp_path / "a") as after:
            assert after is None
    finally:
        claims._owner.cache_clear()


def test_the_dead_of_this_machine_are_known_at_once(tmp_path: Path) -> None:
    path, me = tmp_path / "a", claims._owner(os.getpid())
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for changes in ({"process": int(ended.stdout)}, {"process": os.getpid(), "started": "1"}):  # gone; number used anew
        claim = owned(path, machine=me.machine, **changes)
        with claimed(path) as owner:
            assert owner is None and not claim.exists()
    claim = owned(path, machine=me.machine, process=os.getppid(), started=claims._started(os.getppid()))
    os.utime(claim, (0, 0))
    with claimed(path) as owner:
        assert owner is not None, "a process that is stopped is not dead"


def test_those_of_other_machines_are_dead_after_a_minute_of_silence(tmp_path: Path) -> None:
    path = tmp_path / "a"
    claim = owned(path)
    now = time.time()
    os.utime(claim, (now - 50, now - 50))
    with claimed(path) as owner:
        assert owner == Owner("far", "another", 1, "1") and claim.exists()
    os.utime(claim, (now - 70, now - 70))
    with claimed(path) as owner:
        assert owner is None and not claim.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_claim_that_is_being_written_counts(content: str, tmp_path: Path) -> None:
    claim = owned(tmp_path / "a")
    claim.write_text(content)
    with claimed(tmp_path / "a") as owner:
        assert owner is not None


def test_a_claim_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "TOUCH_SECONDS", 0.01)
    with claimed(tmp_path / "a"):
        (claim,) = (tmp_path / ".a.claims").iterdir()
        os.utime(claim, (0, 0))
        wait_until(lambda: claim.stat().st_mtime > 0)


def test_who_was_taken_for_dead_ends_before_it_writes_on(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from trajmill.runs import claims\n"
        "claims.TOUCH_SECONDS = 0.05\n"
        "with claims.claimed(Path(sys.argv[1])):\n"
        "    print('mine', flush=True); time.sleep(60)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "mine\n"
        next((tmp_path / ".a.claims").iterdir()).unlink()
        assert process.wait(30) == 1
        assert "another process took this run over" in process.stderr.read()


def wait_until(true: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- engines ---


def test_runs_that_fail_are_named_and_stop_no_others(tmp_path: Path) -> None:
    with opened(EngineConfig(), CPU, tmp_path, 1) as engine:
        jobs = [job(failing, tmp_path, "a"), job(run, tmp_path, "b", 0.0)]
        jobs.append(job(run, tmp_path, "c", 0.0, needs=(tmp_path / "b", tmp_path / "nothing")))
        engine.make("training", jobs, silent)
        engine.make("later", [job(run, tmp_path, "d", 0.0, needs=(tmp_path / "a",))], silent)
    assert each_once(tmp_path, "bc")
    assert engine.failed[tmp_path / "a"].why == "ValueError: the floor is lava"
    assert engine.failed[tmp_path / "d"].why == "a, which it needs, failed: ValueError: the floor is lava"
    assert engine.without_failed([tmp_path / "a", tmp_path / "b"]) == [tmp_path / "b"]
    with pytest.raises(ValueError, match="the floor is lava"):
        engine.without_failed([tmp_path / "a"])


class Nodes:
    """A backend that does a job when it is looked for, and loses some: what a cluster is to an engine."""

    has_room = True

    def __init__(self, losing: int = 0) -> None:
        self.waiting: list[Any] = []
        self.losing, self.looks = losing, 0

    def start(self, one: Any) -> None:
        self.waiting.append(one)

    def ended(self, seconds: float | None = None) -> list[Ended]:
        self.looks += 1
        if not self.waiting:
            time.sleep(seconds or 0.0)
            return []
        one = self.waiting.pop(0)
        if self.losing:
            self.losing -= 1
            return [Ended(name=one.name, lost="died (NodeDiedError)")]
        return [Ended(name=one.name, result=engines.attempt_in_words(one, silent))]


@pytest.mark.parametrize(("losing", "fails"), [(0, False), (3, False), (4, True)])
def test_a_run_that_is_lost_is_begun_again_but_not_for_ever(losing: int, fails: bool, tmp_path: Path) -> None:
    nodes = Nodes(losing)
    engine = Engine(EngineConfig(), lambda count, report: nullcontext(nodes))
    told: list[tuple[Any, ...]] = []
    engine.make("training", [job(run, tmp_path, "a", 0.0)], lambda *state: told.append(state))
    assert bool(engine.failed) is fails and each_once(tmp_path, "a") is not fails
    assert told[0] == ("training", 0, 1, "runs") and told[-1] == ("training", 1, 1, "runs")
    if fails:
        assert "died (NodeDiedError), 4 times" in engine.failed[tmp_path / "a"].why
        with pytest.raises(ProcessError, match="a failed: its process died"):
            engine.without_failed([tmp_path / "a"])


def test_a_run_that_another_makes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PATIENCE_SECONDS", 0.05)
    claim = owned(tmp_path / "a")
    told: list[str] = []

    def progress(task: str, *_: Any) -> None:
        told.append(task)
        if len([each for each in told if "waiting" in each]) == 3:
            claim.unlink(missing_ok=True)  # the other one is done, with nothing

    with opened(EngineConfig(), CPU, tmp_path, 1) as engine:
        engine.make("training", [job(run, tmp_path, "a", 0.0), job(run, tmp_path, "b", 0.0)], progress)
    assert told[0] == "training, waiting for process 1 on far" and not engine.failed
    assert each_once(tmp_path, "ab") and updates(tmp_path)[0] == "u b 0", "others are made in the meantime"


def test_processes_that_are_killed_are_replaced(tmp_path: Path) -> None:
    with opened(EngineConfig(), CPU, tmp_path, 2) as engine:
        jobs = [job(killing, tmp_path, "a", 2), job(killing, tmp_path, "b", 99), job(run, tmp_path, "c", 0.0)]
        jobs.append(job(failing, tmp_path, "d"))
        engine.make("training", jobs, silent)
    assert [path.name for path in engine.failed] == ["d", "b"] or [path.name for path in engine.failed] == ["b", "d"]
    assert "its process ended with exit code -9, 4 times" in engine.failed[tmp_path / "b"].why
    made = [line for line in updates(tmp_path) if line[2] in "ac"]
    assert Counter(made) == Counter(f"u {name} {number}" for name in "ac" for number in range(UPDATES))


def test_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ValueError, match="start it without torchrun"), opened(EngineConfig(), CPU, tmp_path):
        pass


def test_ray_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = EngineConfig(engine="ray")
    with pytest.raises(ValueError, match=r"pip install 'trajmill\[ray\]'"), opened(config, CPU, tmp_path):
        pass


# --- drivers that die, and drivers side by side ---


def drivers(folder: Path, names: str, count: int, pause: float, processes: int = 1) -> list[subprocess.Popen[bytes]]:
    words = [sys.executable, engine_jobs.__file__, str(folder), names, str(pause), str(processes)]
    return [subprocess.Popen(words) for _ in range(count)]


def test_drivers_side_by_side_share_the_runs(tmp_path: Path) -> None:
    started = drivers(tmp_path, "abcdef", 2, 0.05)
    assert [driver.wait(120) for driver in started] == [0, 0]
    assert each_once(tmp_path, "abcdef")
    assert not list(tmp_path.glob(".*.claims"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_driver_that_is_killed_goes_on_where_it_was(processes: int, tmp_path: Path) -> None:
    """Whatever it was doing: an update that was kept is not made again, none is left out."""
    chance = random.Random(processes)
    for kill in range(3):
        (driver,) = drivers(tmp_path, "abc", 1, 0.1, processes)
        before = len(updates(tmp_path))
        wait_until(lambda before=before: len(updates(tmp_path)) > before + 1)
        time.sleep(chance.random() / 10)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert len(updates(tmp_path)) < 3 * UPDATES, f"kill {kill} came too late to tell anything"
    (driver,) = drivers(tmp_path, "abc", 1, 0.0, processes)
    assert driver.wait(120) == 0
    found = Counter(updates(tmp_path))
    assert found.keys() == {f"u {name} {number}" for name in "abc" for number in range(UPDATES)}
    assert sum(found.values()) <= 3 * UPDATES + 3 * processes, "at most the one update that was cut is made again"
