"""Nothing that is called, at any moment and with any argument, ends the interpreter or waits for ever."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trajmill as tm
from trajmill import _core
from trajmill.replay import SeededBatches, Shares
from trajmill.replay.replay_file import ReplayFileError

HERE = Path(__file__).parent
PAIR = {"observation": ((2,), "f4"), "next_observation": ((2,), "f4")}
STEPS = np.arange(120, dtype="f4").reshape(60, 2)


def run(program: str, *arguments: object, limit: float = 120) -> str:
    words = [sys.executable, "-X", "faulthandler", program, *map(str, arguments)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=limit, cwd=HERE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def ones(capacity: int = 64, **options: Any) -> tm.ReplayBuffer:
    buffer = tm.ReplayBuffer(capacity, {"x": ((4,), "f4")}, **options)
    buffer.add(x=np.ones((capacity, 4)))
    return buffer


@pytest.mark.parametrize("version", [1, 2, 3])
def test_memory_that_holds_no_buffer_closes_it(version: int) -> None:
    """Nothing is drawn from a state that was refused."""
    buffer = ones()
    if version > 1:
        buffer._memory[:64] = 7
    for _ in range(2):
        with pytest.raises(ValueError, match="does not hold a replay buffer"):
            buffer._restore(version=version)
    with pytest.raises(ValueError, match="does not hold a replay buffer"):
        buffer.sample(4)


@pytest.mark.parametrize("share", [0.02, pytest.param(1.0, marks=pytest.mark.slow)])
def test_every_method_at_every_moment(share: float) -> None:
    lines = run("moments_driver.py", share, limit=3600).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("tried ")


@pytest.mark.parametrize(("seed", "calls"), [(0, 3000), pytest.param(1, 300_000, marks=pytest.mark.slow)])
def test_hostile_arguments(seed: int, calls: int, tmp_path: Path) -> None:
    log = tmp_path / "last call"
    try:
        assert f"made {calls} calls" in run("binding_fuzz.py", seed, calls, log, limit=7200)
    except AssertionError as error:
        raise AssertionError(log.read_text()) from error


def test_many_times_nothing_is_no_work() -> None:
    """Loops that hear no signal, unless a compiler leaves them out."""
    for codebook in (_core.state_codebook, _core.action_codebook):
        with pytest.raises(ValueError, match="dimension must be at least 1, got 0"):
            codebook(2**40, 0)
    none, one = np.zeros(0, np.int64), np.zeros(1, np.int64)
    assert _core.philox_words(none, one, one, 0, 2**39, 7).size == 0
    assert _core.philox_words(one, none, none, 0, 2**39, 7).size == 0


@pytest.mark.parametrize("what", ["cleared", "resized", "replaced"])
def test_a_batch_stays_while_it_is_filled(what: str) -> None:
    out: dict[str, np.ndarray] = {}

    def make(count: int) -> dict[str, np.ndarray]:
        if what == "resized":
            with pytest.raises(ValueError, match="cannot resize"):
                out["x"].resize((0,), refcheck=False)
        elif what == "replaced":
            out["x"] = np.zeros((1, 4), "f4")
        else:
            out.clear()
            gc.collect()
        return {"x": np.full((count, 4), 7, "f4")}

    mixed = tm.MixedReplay({"f": (make, 1), "a": (ones(), 1)})
    count = 1 << 14
    out |= {"x": np.zeros((count, 4), "f4"), "source": np.zeros(count, "u1")}
    filled = out["x"]
    mixed.sample(count, out)
    assert filled[: count // 2].min() == 7
    assert filled[count // 2 :].max() == 1


@pytest.mark.parametrize("pair", [("x", "indexes"), ("indexes", "y"), ("x", "y")])
def test_arrays_of_a_batch_share_no_memory(pair: tuple[str, str]) -> None:
    buffer = tm.ReplayBuffer(64, {"x": "i8", "y": "i8"}, prioritized=True)
    buffer.add(x=np.full(64, 2**60), y=np.full(64, 2**60))
    out = buffer.sample(16)
    memory = np.zeros(24, "i8")
    out[pair[0]], out[pair[1]] = memory[:16], memory[8:]
    with pytest.raises(ValueError, match="must not share memory"):
        buffer.sample(16, out)


@pytest.mark.parametrize("use", ["get", "set", "windows", "permute"])
def test_indexes_that_another_thread_changes(use: str) -> None:
    buffer = ones(1 << 12, prioritized=True)
    ends = np.arange(4000) % 50 == 49
    steps = np.ones((4000, 1), "f4")
    window = tm.TrajectoryBuffer(
        observation=steps, action=steps, reward=steps[:, 0], terminal=ends, truncated=ends, context_length=2
    )
    indexes = np.zeros(1 << 15, "u8" if use in ("windows", "permute") else "i8")
    priorities = np.ones(1 << 15)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            indexes[-1000:] = 1 << 40
            priorities[-1000:] = np.nan
            indexes[-1000:] = 0
            priorities[-1000:] = 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            try:
                if use == "get":
                    assert (buffer[indexes]["x"] == 1).all()
                elif use == "set":
                    buffer.update_priorities(indexes, priorities)
                elif use == "windows":
                    _core.TrajectoryBuffer.windows(window, indexes)
                else:
                    assert (_core.permute(indexes, size=4000, seed=1, epoch=0) < 4000).all()
            except (IndexError, ValueError):
                continue
    finally:
        stop.set()
        thread.join()


def forged(rng: np.random.Generator) -> list[float]:
    return [float(rng.choice([0, 1e12, -1e12, np.nan, np.inf, 0.5, -0.5, 3, 2.0**63])) for _ in range(2)]


def test_states_are_checked_before_they_are_used() -> None:
    rng = np.random.default_rng(0)
    mixed = tm.MixedReplay({"a": (ones(), 1), "b": (ones(), 1)})
    good = mixed.state_dict()
    for _ in range(200):
        credit = forged(rng)
        state = good | {"credit": dict(zip("ab", credit, strict=True)), "sources": {"a": 77, "b": 77}}
        before = mixed.state_dict()
        try:
            mixed.load_state_dict(state)
        except ValueError:
            assert mixed.state_dict() == before
        else:
            assert abs(sum(credit)) < 1e-3
        assert len(mixed.sample(32)["source"]) == 32
    for broken in (
        {},
        {"credit": {}},
        good | {"credit": [1, 2]},
        good | {"sources": {"a": 1}},
        good | {"sources": None},
    ):
        with pytest.raises(ValueError, match="the state is"):
            mixed.load_state_dict(broken)


def test_credit_of_real_draws_is_accepted() -> None:
    rng = np.random.default_rng(1)
    for count in (1, 2, 5, 20):
        shares, copy = Shares(count), Shares(count)
        for _ in range(500):
            weights = rng.choice([0.0, 1e-9, 0.3, 1.0, 1e9], count) * rng.random(count)
            if weights.sum() == 0:
                continue
            assert sum(shares.split(int(rng.integers(1, 50)), weights)) > 0
            copy.credit = shares.credit
            assert copy.credit == shares.credit


def opened(path: Path) -> tm.ReplayBuffer:
    return tm.ReplayBuffer(100, PAIR, shared={"next_observation": "observation"}, path=path)


def test_no_flipped_bit_of_storage_loses_rows(tmp_path: Path) -> None:
    path = tmp_path / "storage"
    with opened(path) as buffer:
        buffer.add(observation=STEPS, next_observation=STEPS + 1)
        buffer.sample(4)
        rows = buffer[:]
    whole = path.read_bytes()
    head = -(-(24 + struct.unpack("<8sQQ", whole[:24])[1]) // 4096) * 4096
    refused = 0
    for bit in range(8 * 80):
        data = bytearray(whole)
        data[head + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            with opened(path) as buffer:
                assert buffer.draw_count == 1
                np.testing.assert_array_equal(buffer[:]["next_observation"], rows["next_observation"])
        except ReplayFileError:
            refused += 1
        except ValueError as error:
            assert "changed by something else" in str(error)
            refused += 1
    assert refused >= 8 * 48  # the words that say what holds; the record before is free to change


def test_forged_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "storage"
    opened(path).close()
    whole = path.read_bytes()
    head = -(-(24 + struct.unpack("<8sQQ", whole[:24])[1]) // 4096) * 4096
    rng = np.random.default_rng(0)
    for _ in range(100):
        words = rng.choice(np.array([0, 1, 100, 2**63, 2**64 - 1], "u8"), 10)
        path.write_bytes(whole[:head] + words.tobytes() + whole[head + 80 :])
        try:
            with opened(path) as buffer:
                assert len(buffer) == 0
        except ValueError:
            continue


MEMORY_PROGRAM = """
import resource, sys, numpy as np, trajmill as tm
n = 1 << 14
pair = {"observation": ((4,), "f4"), "next_observation": ((4,), "f4")}
b = tm.ReplayBuffer(n, pair, shared={"next_observation": "observation"}, prioritized=True)
o = np.random.default_rng(0).random((n, 4), "f4")
for _ in range(2): b.add(observation=o, next_observation=o + 5)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
failed = 0
for room in range(0, 1 << 20, 1 << 14):
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + room, limit))
    try: b.add(observation=o, next_observation=o + 5)
    except MemoryError: failed += 1
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    assert len(b) == n
    rows = b[:]
    assert (rows["next_observation"] == rows["observation"] + 5).all()
    assert b._used_extents()[3][0] + b._used_extents()[3][1] <= b._parts[4]
print("failed", failed)
"""


def test_no_memory_in_add() -> None:
    assert "failed" in run("-c", MEMORY_PROGRAM)


THREADS_PROGRAM = """
import os, resource, sys, numpy as np, trajmill as tm
feed = tm.feed
chain = tm.MarkovChain(state_count=100, threads=1)
wanted = chain.sample(5000, 64, threads=1)
buffer = tm.ReplayBuffer(64, {"x": "f4"}); buffer.add(x=np.ones(64))
os.setresuid(54321, 54321, 54321)
for limit in (0, 1, 3):
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, 10))
    assert (chain.sample(5000, 64, threads=16) == wanted).all()
    buffer.sample(20_000, threads=8)
try: feed(buffer, "cpu", batch_size=4)
except RuntimeError as error: assert "thread" in str(error)
print("fine")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's limit of processes")
def test_threads_that_cannot_be_made() -> None:
    assert "fine" in run("-c", THREADS_PROGRAM)


def ends(work: Any, seconds: float = 10) -> int:
    """Exit status of a forked child that does some work; negative: the signal that ended it."""
    child = os.fork()
    if child == 0:
        signal.alarm(int(seconds))
        try:
            work()
        except Exception:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_child_is_not_caught_in_a_lock() -> None:
    buffer = ones(50_000)
    mixed = tm.MixedReplay({"a": (buffer, 1)})
    batches = SeededBatches(mixed, seeds=[1], batch_size=1000)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            buffer.add(x=np.ones((20_000, 4), "f4"))
            mixed.sample(1000)
            batches.sample(1000)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            for use in (lambda: buffer.sample(4), lambda: mixed.sample(4), lambda: batches.update, lambda: len(buffer)):
                assert ends(use) in (0, 3)
    finally:
        stop.set()
        thread.join()
    assert ends(lambda: buffer.sample(4)) == 0


def test_storage_and_feeds_stay_with_the_process_that_opened_them(tmp_path: Path) -> None:
    buffer = opened(tmp_path / "storage")
    buffer.add(observation=STEPS, next_observation=STEPS + 1)
    with tm.feed(buffer, "cpu", batch_size=4) as feed:
        next(feed)
        assert ends(lambda: next(feed)) == 3
        assert ends(feed.close) == 0
    assert ends(lambda: buffer.add(observation=STEPS, next_observation=STEPS)) == 3
    assert ends(lambda: opened(tmp_path / "storage")) == 3  # the parent has it
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(ready, 1)
        os._exit(0)
    buffer.close()
    with opened(tmp_path / "storage") as again:  # though a child is alive
        assert len(again) == 60
    os.write(go, b"x")
    os.waitpid(child, 0)


@pytest.mark.parametrize("kind", ["transform", "weight", "function", "feed", "seeded"])
def test_a_source_does_not_hold_what_holds_it(kind: str) -> None:
    class Trainer:
        def __init__(self) -> None:
            buffer = ones()
            self.batches: Any = tm.MixedReplay(
                {"real": (buffer, self.weight if kind == "weight" else 1), "own": (self.make, 1)}
                if kind in ("function", "weight")
                else {"real": (buffer, 1)},
                transform={"real": self.change} if kind not in ("function", "weight") else None,
            )
            self.batches.sample(4)
            if kind == "feed":
                self.feed = tm.feed(self.batches, "cpu", batch_size=4)
            if kind == "seeded":
                self.seeded = SeededBatches(self.batches, seeds=[1], batch_size=4)

        def change(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"x": rows["x"] + 1}

        def make(self, count: int) -> dict[str, np.ndarray]:
            return {"x": np.ones((count, 4), "f4")}

        def weight(self, draw: int) -> float:
            return 1.0

    alive = weakref.ref(Trainer())
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("action", ["close", "drop", "next", "state"])
def test_a_source_that_uses_its_own_feed(action: str) -> None:
    box: list[Any] = []
    made = threading.Event()

    def make(count: int) -> dict[str, np.ndarray]:
        made.wait(10)
        if action == "drop":
            box.clear()
            gc.collect()
        elif action == "state":
            mixed.load_state_dict(mixed.state_dict())
        elif box:
            (box[0].close if action == "close" else box[0].__next__)()
        return {"x": np.zeros((count, 4), "f4")}

    mixed = tm.MixedReplay({"f": (make, 1), "a": (ones(), 1)})
    box.append(tm.feed(mixed, "cpu", batch_size=8))
    feed = weakref.ref(box[0])
    made.set()
    end = time.monotonic() + 10
    if action == "drop":
        while feed() is not None and time.monotonic() < end:
            time.sleep(0.01)
        assert feed() is None
        return
    with pytest.raises((RuntimeError, ValueError), match=r"must not use the feed|closed|nor change it"):
        for _ in range(4):
            next(box[0])


@pytest.mark.parametrize("use", ["add", "clear", "close", "save", "sample", "len", "draw_count"])
def test_a_signal_handler_during_save(use: str, tmp_path: Path) -> None:
    buffer = ones(1 << 14)
    calls: dict[str, Any] = {
        "add": lambda: buffer.add(x=np.ones((1, 4))),
        "clear": buffer.clear,
        "close": buffer.close,
        "save": lambda: buffer.save(tmp_path / "other"),
        "sample": lambda: buffer.sample(4),
        "len": lambda: len(buffer),
        "draw_count": lambda: setattr(buffer, "draw_count", 5),
    }
    results = []

    def handle(*_: object) -> None:
        try:
            calls[use]()
            results.append("done")
        except RuntimeError as error:
            results.append(str(error))

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        buffer._reading(lambda: os.kill(os.getpid(), signal.SIGUSR1) or [None for _ in range(1000)])
    finally:
        signal.signal(signal.SIGUSR1, before)
    if use in ("add", "clear", "close"):
        assert "this thread is reading" in results[0]
    else:
        assert results == ["done"]
    assert len(buffer) == 1 << 14
    buffer.add(x=np.ones((1, 4)))  # the lock is free again


@pytest.mark.parametrize("shape", [(2**31, 2**31, 4), (2**31, 2**31), (2**30, 2**30, 2**4)])
def test_shapes_do_not_overflow(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="fewer than 2\\^48 bytes"):
        tm.ReplayBuffer(4, {"x": (shape, "f4")})


def test_objects_pickle_or_say_what_to_do() -> None:
    mdp = tm.MDP(state_count=5, action_count=3)
    source = tm.MDPTransitions(mdp, observation_dim=2, action_dim=2, trajectory_count=3, length=9)
    step = np.arange(60, dtype="f4").reshape(-1, 1)
    ends_ = np.arange(60) % 20 == 19
    windows = tm.TrajectoryBuffer(
        observation=step, action=step, reward=step[:, 0], terminal=ends_, truncated=ends_, context_length=3
    )
    for original in (source, windows, tm.MixedReplay({"a": (source, 2.0), "b": (source, tm.replay.linear(1, 2, 3))})):
        original.sample(7)
        copy = pickle.loads(pickle.dumps(original))
        for _ in range(3):
            wanted, got = original.sample(7), copy.sample(7)
            for name in wanted:
                np.testing.assert_array_equal(got[name], wanted[name])
            wanted, got = original.sample(7), copy.sample(7)
    buffer = ones()
    for refused in (buffer, tm.MixedReplay({"a": (buffer, 1)})):
        with pytest.raises(TypeError, match="save\\(\\)"):
            pickle.dumps(refused)
    for refused in (SeededBatches(source, seeds=[1], batch_size=2), tm.feed(source, "cpu", batch_size=2)):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(refused)


UNMADE = """
import contextlib
from trajmill import _core

classes = [value for value in vars(_core).values() if hasattr(value, "_pybind11_conduit_v1_")]
for made in classes:
    unmade = made.__new__(made)
    for name in sorted(set(dir(made)) - {"__class__", "__new__", "__init__", "__init_subclass__", "__subclasshook__"}):
        with contextlib.suppress(TypeError):
            value = getattr(unmade, name)
            if callable(value):
                value()
print(len(classes))
"""


def test_objects_whose_init_was_not_called() -> None:
    done = subprocess.run([sys.executable, "-c", UNMADE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 10


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_refuses(protocol: int) -> None:
    with pytest.raises(TypeError, match="Shares is not pickled"):
        pickle.dumps(Shares(2), protocol)
