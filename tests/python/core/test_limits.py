"""Cores and memory of a container, and file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

import trajmill as tm
from trajmill.core import checks, files, limits
from trajmill.data.download import _locked_part
from trajmill.experiments.generate import GenerateIIDConfig, MillConfig, generate
from trajmill.runs.directory import RunDirectory

GROUPS = {
    "none": ({}, None, None),
    "version 2 in its own namespace": ({"": "/"}, {"cpu.max": "200000 100000", "memory.max": "1000"}, ""),
    "version 2, unlimited": ({"": "/"}, {"cpu.max": "max 100000", "memory.max": "max"}, ""),
    "version 2, a group above": ({"": "/a/b"}, {"cpu.max": "150000 100000", "memory.max": "1000"}, "a"),
    "version 2, the host's path": ({"": "/docker/0123"}, {"cpu.max": "200000 100000", "memory.max": "1000"}, ""),
    "version 1": ({"cpu,cpuacct": "/x", "memory": "/x"}, {}, "x"),
    "version 1, the host's path": ({"cpu,cpuacct": "/docker/0123", "memory": "/docker/0123"}, {}, ""),
    "both": ({"cpu,cpuacct": "/x", "memory": "/x", "": "/"}, {}, "x"),
}


@pytest.mark.parametrize("name", GROUPS)
def test_what_a_container_may_use(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, written, place = GROUPS[name]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}[name])
    (tmp_path / "proc/self").mkdir(parents=True)
    lines = [f"{number}:{names}:{path}" for number, (names, path) in enumerate(groups.items())]
    (tmp_path / "proc/self/cgroup").write_text("\n".join(lines) + "\n")
    top = tmp_path / "sys/fs/cgroup"
    if written:
        (top / place).mkdir(parents=True)
        for file, content in written.items():
            (top / place / file).write_text(content + "\n")
    elif place is not None:
        version_1 = {
            "cpu": {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"},
            "memory": {"memory.limit_in_bytes": "1000"},
        }
        for controller, contents in version_1.items():
            (top / controller / place).mkdir(parents=True)
            for file, content in contents.items():
                (top / controller / place / file).write_text(content + "\n")
    limited = name not in ("none", "version 2, unlimited")
    assert limits.usable_cores(tmp_path) == (2 if limited else 64)
    assert limits.usable_memory(tmp_path) == (1000 if limited else 2**32)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert limits.usable_cores(tmp_path) == 1


def test_every_default_goes_by_these_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAJMILL_THREADS", raising=False)
    monkeypatch.setattr(checks, "usable_cores", lambda: 3)
    monkeypatch.setattr(checks, "usable_memory", lambda: 1000)
    assert checks.thread_count(None) == 3 and checks.memory_limit() == 500
    with pytest.raises((MemoryError, ValueError)):
        tm.MarkovChain(state_count=100, backend="dense")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_systems_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    generate(GenerateIIDConfig(sequence_count=8, length=4), tmp_path / "c", mill=MillConfig(shard_rows=2))
    left = tmp_path / "c/.tmp-of-another"
    left.touch()
    generate(GenerateIIDConfig(sequence_count=8, length=4), tmp_path / "c", mill=MillConfig(shard_rows=2))
    assert left.exists()  # it may belong to a writer that runs
    tm.ReplayBuffer(4, {"x": ((), "f4")}, path=tmp_path / "buffer").add(x=np.zeros(1, np.float32))
    run = RunDirectory.open(tmp_path / "run", {"kind": "td3_bc", "config": {}, "seeds": [0]})
    with run.locked(), _locked_part(tmp_path / "file"):
        pass
    with (tmp_path / "x").open("wb") as file:
        assert files.lock(file) is None


def test_locks_keep_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "x").open("wb") as one, (tmp_path / "x").open("r+b") as other:
        assert files.lock(one, shared=True) and files.lock(other, shared=True)
        assert files.lock(other) is False

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", broken)
    with (tmp_path / "x").open("wb") as file, pytest.raises(OSError, match="broken"):
        files.lock(file)
