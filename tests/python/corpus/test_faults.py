"""A disk that is full or broken, at every single call: one clear error, then the same bytes after all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_corpus import SPECS, files, token_spec

from trajmill.corpus import CorpusError
from trajmill.corpus.build import build

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    library = tmp_path_factory.mktemp("shim") / "faulty_calls.so"
    words = [COMPILER, "-shared", "-fPIC", "-Wall", "-O1", "-o", library, HERE / "faulty_calls.c", "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return library


def run_driver(shim, directory, spec, function, kind, sticky="once"):
    done = subprocess.run(
        [sys.executable, HERE / "fault_driver.py", directory, spec, function, kind, sticky],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


FAULTS = [
    ("pwrite", "ENOSPC", "sticky"),
    ("pwrite", "EIO", "once"),
    ("pwrite", "SHORT", "once"),
    ("fsync", "EIO", "once"),
    ("rename", "EIO", "once"),
    ("open", "ENOSPC", "once"),
]
MORE_FAULTS = [
    ("pwrite", "ENOSPC", "once"),
    ("pwrite", "EINTR", "once"),
    ("pwrite", "EINVAL", "once"),
    ("pwrite", "SHORT", "sticky"),
    ("fsync", "ENOSPC", "sticky"),
    ("fsync", "EINTR", "once"),
    ("ftruncate", "EIO", "once"),
    ("rename", "ENOSPC", "sticky"),
    ("rename", "EINTR", "once"),
    ("open", "EIO", "sticky"),
    ("open", "EMFILE", "once"),
    ("open", "EINTR", "once"),
    ("open", "EINVAL", "once"),
]


@pytest.mark.unsanitized
@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize("spec", ["mdp", pytest.param("tokens", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("function", "kind", "sticky"), [*FAULTS, *(pytest.param(*f, marks=pytest.mark.slow) for f in MORE_FAULTS)]
)
def test_every_call_may_fail_once(shim, spec, function, kind, sticky, tmp_path):
    # at least: a call for each file of each shard, for each receipt and for the manifest
    assert run_driver(shim, tmp_path, spec, function, kind, sticky) >= (10 if spec == "mdp" else 7)


@pytest.mark.unsanitized
@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize("kind", ["EIO", "SHORT", "EINTR"])
def test_every_read_of_verify_may_fail(shim, kind, tmp_path):
    assert run_driver(shim, tmp_path, "tokens", "preadv", kind) >= 6


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(CorpusError) as caught:
        build(token_spec(), tmp_path)
    words = (f"{tmp_path} cannot be written: No space left on device;", "give the same command again")
    assert all(part in str(caught.value) for part in words) and "\n" not in str(caught.value)
    assert files(tmp_path) == {}


def test_a_disk_that_takes_nothing_is_not_asked_for_ever(tmp_path, monkeypatch):
    calls = iter(range(50))
    monkeypatch.setattr("os.pwrite", lambda *_: 0 * next(calls))
    with pytest.raises(CorpusError, match="cannot be written: nothing could be written"):
        build(token_spec(), tmp_path)


@pytest.mark.parametrize("spec", SPECS)
def test_nothing_is_named_before_it_is_durable(spec, tmp_path, monkeypatch):
    """A file is synced before its name appears, the directory after; receipts follow data, the manifest comes last."""
    events: list[tuple[str, str]] = []

    def traced(name, call, target):
        def wrapper(*arguments):
            events.append((name, target(arguments[0])))
            return call(*arguments)

        return wrapper

    def path_of(descriptor):
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())

    for name in ("pwrite", "ftruncate", "fsync"):
        monkeypatch.setattr(f"os.{name}", traced(name, getattr(os, name), path_of))
    monkeypatch.setattr("os.replace", traced("replace", os.replace, os.fspath))
    monkeypatch.setattr("os.rename", traced("replace", os.rename, os.fspath))
    build(SPECS[spec], tmp_path, threads=1)

    def times(name, path):
        return [time for time, event in enumerate(events) if event == (name, path)]

    renamed = {path: time for time, (name, path) in enumerate(events) if name == "replace"}
    assert len(renamed) == (10 if spec == "mdp" else 7)
    settled = {}  # when a name was safe in its directory: the next sync after the rename
    for path, time in renamed.items():
        last_change = max(times("pwrite", path) + times("ftruncate", path))
        assert any(last_change < sync < time for sync in times("fsync", path)), path
        settled[path] = min(sync for sync in times("fsync", str(tmp_path)) if sync > time)
    for path, time in renamed.items():
        if "manifest" in path:
            assert all(settled[other] < time for other in renamed if other != path)
        elif "receipt" in path:
            shard = path.split("receipt")[1][:6]
            data = [other for other in renamed if f"{shard}.bin" in other]
            assert data and all(settled[other] < time for other in data)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"file/corpus cannot be written: Not a directory"):
        build(token_spec(), tmp_path / "file" / "corpus")
