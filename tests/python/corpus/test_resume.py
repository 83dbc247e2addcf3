"""Interruption at any point, two writers, wrong places: the same call ends with the same bytes or says why not."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_corpus import SPECS, files, mdp_spec, token_spec

from trajmill.corpus import CorpusError, storage
from trajmill.corpus.build import Mill, Part, build

HERE = Path(__file__).parent


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_points(spec, rounds, tmp_path):
    """SIGKILL while writing, then the same call: the bytes of an uninterrupted run and no file more."""
    words = [sys.executable, HERE / "crash_driver.py", tmp_path, spec, str(rounds), "42"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    if rounds > 10:  # kills met every state
        assert counts["unfinished"] > rounds / 4 and counts["left_over"] > rounds / 4, counts


def interrupted_after(blocks):
    """A progress that is stopped by Ctrl-C once so many blocks are written."""
    seen = 0

    def progress(task, completed, total, unit):
        nonlocal seen
        seen += task == "milling"
        if seen > blocks + 1:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("blocks", [0, 1, 3, 5])
def test_ctrl_c_leaves_whole_shards_only(blocks, tmp_path):
    build(token_spec(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        build(token_spec(), tmp_path / "c", interrupted_after(blocks), threads=1)
    left = files(tmp_path / "c")
    assert "manifest.json" not in left and not any(name.startswith(".") for name in left)
    build(token_spec(), tmp_path / "c")
    assert files(tmp_path / "c") == files(tmp_path / "whole")


def test_ctrl_c_cannot_come_between_data_and_receipt(tmp_path, monkeypatch):
    """It reaches the main thread alone, which therefore begins and finishes no file itself."""
    threads = set()

    def spied(owner, name):
        call = getattr(owner, name)

        def spy(*arguments, **options):
            threads.add(threading.current_thread())
            return call(*arguments, **options)

        monkeypatch.setattr(owner, name, spy)

    for name in ("create", "put"):
        spied(storage.Directory, name)
    Mill(token_spec(), 1).make(range(3), storage.open_store(tmp_path))
    assert threads and threading.main_thread() not in threads


def test_finished_shards_are_not_made_again(tmp_path):
    build(token_spec(), tmp_path)
    (tmp_path / "receipt-00001.json").unlink()
    kept = (tmp_path / "tokens-00000.bin").stat()
    again = build(token_spec(), tmp_path)
    assert (again.made, again.shard_count, again.whole, again.byte_count) == (1, 3, True, 8 * 8192)
    assert os.path.samestat((tmp_path / "tokens-00000.bin").stat(), kept)
    assert build(token_spec(), tmp_path).made == 0


def test_a_shard_of_the_wrong_size_is_made_again(tmp_path):
    build(mdp_spec(), tmp_path)
    whole = files(tmp_path)
    (tmp_path / "states-00000.bin").write_bytes(b"half")
    (tmp_path / "actions-00002.bin").unlink()
    assert build(mdp_spec(), tmp_path).made == 2
    assert files(tmp_path) == whole


def test_progress_counts_what_was_there(tmp_path):
    build(token_spec(), tmp_path)
    (tmp_path / "receipt-00001.json").unlink()
    seen = []
    build(token_spec(), tmp_path, lambda *words: seen.append(words))
    milling = [
        completed for task, completed, total, unit in seen if (task, total, unit) == ("milling", 21 * 4096, "tokens")
    ]
    writing = [
        completed for task, completed, total, unit in seen if (task, total, unit) == ("writing", 21 * 8192, "bytes")
    ]
    assert milling == [13 * 4096, 17 * 4096, 21 * 4096] and writing == [2 * count for count in milling]


def test_another_corpus_is_refused(tmp_path):
    build(token_spec(), tmp_path)
    before = files(tmp_path)
    for other, words in (
        (token_spec(seed=8), "seed is 7, not 8"),
        (token_spec(row_count=30), "row_count is 21, not 30"),
    ):
        with pytest.raises(CorpusError, match=f"holds another corpus: {words}; choose another directory"):
            build(other, tmp_path)
    assert files(tmp_path) == before


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CorpusError, match=r"is not empty and not a corpus \(it holds thesis\.txt\)"):
        build(token_spec(), tmp_path)
    assert list(files(tmp_path)) == ["thesis.txt"]


class SlowMill(threading.Thread):
    """A build that waits in its first block until it is told to go on."""

    def __init__(self, directory, **how):
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()
        self._work = lambda: build(token_spec(), directory, self._wait, threads=1, **how)
        self.start()
        assert self.entered.wait(30)

    def _wait(self, task, completed, total, unit):
        self.entered.set()
        assert self.go_on.wait(30)

    def run(self):
        self._work()


def test_two_writers_are_refused(tmp_path):
    first = SlowMill(tmp_path)
    for part in (Part(), Part(number=1, count=2)):
        with pytest.raises(CorpusError, match="is being written by another process; wait for it"):
            build(token_spec(), tmp_path, part=part)
    first.go_on.set()
    first.join()
    assert build(token_spec(), tmp_path).made == 0


def test_parts_may_write_together_but_not_beside_a_whole_run(tmp_path):
    first = SlowMill(tmp_path, part=Part(number=0, count=2))
    assert not build(token_spec(), tmp_path, part=Part(number=1, count=2)).whole
    with pytest.raises(CorpusError, match="is being written by another process"):
        build(token_spec(), tmp_path)
    first.go_on.set()
    first.join()
    build(token_spec(), tmp_path.parent / "whole")
    assert files(tmp_path) == files(tmp_path.parent / "whole")


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    (tmp_path / ".lock").touch()
    assert build(token_spec(), tmp_path).whole
    assert not (tmp_path / ".lock").exists()


def test_left_overs_are_swept_but_not_those_of_the_living(tmp_path):
    dead, alive = tmp_path / ".tmp-tokens-00000.bin-dead", tmp_path / ".tmp-tokens-00001.bin-alive"
    for path in (dead, alive):
        path.write_bytes(b"half")
    with alive.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        gone_at_first = []
        build(token_spec(), tmp_path, lambda *_: gone_at_first.append(not dead.exists()))
        assert all(gone_at_first) and not dead.exists() and alive.exists()  # its space is free for what follows
    build(token_spec(), tmp_path)
    assert not alive.exists()


def test_an_error_while_drawing_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise MemoryError("no tables")

    monkeypatch.setattr("trajmill.MarkovChain.sample", broken)
    with pytest.raises(MemoryError, match="no tables"):
        build(token_spec(), tmp_path)
    assert files(tmp_path) == {}


def test_a_mill_keeps_its_buffers(tmp_path):
    mill = Mill(token_spec(), 1)
    mill.make([0], storage.open_store(tmp_path))
    first = {id(buffers) for buffers in mill._buffers}
    mill.make([1, 2], storage.open_store(tmp_path))
    later = {id(buffers) for buffers in mill._buffers}
    assert first and first <= later and len(later) <= 3  # a thread that draws and two that wait
