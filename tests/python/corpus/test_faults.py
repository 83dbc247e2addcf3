"""A disk that is full or broken, at every single call: one clear error, then the same bytes after all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_corpus import files, token_spec

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


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize("spec", ["mdp", "tokens"])
@pytest.mark.parametrize(
    ("function", "kind", "sticky"), [*FAULTS, *(pytest.param(*f, marks=pytest.mark.slow) for f in MORE_FAULTS)]
)
def test_every_call_may_fail_once(shim, spec, function, kind, sticky, tmp_path):
    # at least: a call for each file of each shard, for each receipt and for the manifest
    assert run_driver(shim, tmp_path, spec, function, kind, sticky) >= (10 if spec == "mdp" else 7)


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
    assert str(caught.value) == (
        f"{tmp_path} cannot be written: No space left on device; what is finished is kept, so give the same command "
        "again once this is mended"
    )
    assert files(tmp_path) == {}


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"file/corpus cannot be written: Not a directory"):
        build(token_spec(), tmp_path / "file" / "corpus")
