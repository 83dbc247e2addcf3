"""Calls every method of every object at moments that nobody plans for; each in a forked child with a time limit.

``python moments_driver.py SHARE`` tries that share of the table (1: all) and prints what ended by a signal or not at
all. An exception is a good end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import trajmill as tm
from trajmill.replay import SeededBatches

LIMIT = 20  # seconds
SCHEMA = {"observation": ((2,), "f4"), "reward": "f4", "next_observation": ((2,), "f4"), "terminal": "?"}
Object = Any
Method = Callable[[Any], object]


def rows(count: int = 64) -> dict[str, np.ndarray]:
    steps = np.arange(count * 2, dtype="f4").reshape(count, 2)
    return {
        "observation": steps,
        "reward": np.ones(count),
        "next_observation": steps + 2,
        "terminal": np.zeros(count, bool),
    }


def buffer(**options: Any) -> tm.ReplayBuffer:
    made = tm.ReplayBuffer(256, SCHEMA, **options)
    made.add(**rows())
    return made


def mixture(during: Callable[[], object] = lambda: None) -> tm.MixedReplay:
    """Of a buffer and a function that calls `during` in every draw."""

    def make(count: int) -> dict[str, np.ndarray]:
        during()
        return rows(count)

    mixed = tm.MixedReplay({"buffer": (buffer(), 1), "function": (make, lambda draw: 1.0)})
    return mixed


def windows() -> tm.TrajectoryBuffer:
    ends = np.arange(200) % 50 == 49
    step = np.ones((200, 3), "f4")
    return tm.TrajectoryBuffer(
        observation=step,
        action=step,
        reward=step[:, 0],
        terminal=ends,
        truncated=ends,
        context_length=4,
        normalizer=None,
    )


def transitions() -> tm.MDPTransitions:
    mdp = tm.MDP(state_count=5, action_count=3)
    return tm.MDPTransitions(mdp, observation_dim=2, action_dim=2, trajectory_count=3, length=9)


FOLDER = Path(tempfile.mkdtemp())

OBJECTS: dict[str, Callable[[], Object]] = {
    "buffer": buffer,
    "prioritized": lambda: buffer(prioritized=True),
    "shared": lambda: buffer(shared={"next_observation": "observation"}),
    "n_step": lambda: buffer(n_step=3),
    "storage": lambda: buffer(path=FOLDER / f"storage-{os.getpid()}-{time.monotonic_ns()}"),
    "mixture": mixture,
    "windows": windows,
    "transitions": transitions,
    "seeded": lambda: SeededBatches(buffer(), seeds=[1, 2], batch_size=8),
    "feed": lambda: tm.feed(mixture(), "cpu", batch_size=16),
    "chain": lambda: tm.MarkovChain(state_count=20),
    "mdp": lambda: tm.MDP(state_count=5, action_count=3),
}


def filled_again(source: Object) -> object:
    out = source.sample(16)
    return source.sample(16, out)


def next_block(feed: tm.feed) -> object:
    """The next batch without tensors of its columns: torch ends the process when the interpreter ends inside it."""
    assert feed._core is not None
    return feed._next_on_host(feed._core)


METHODS: dict[str, tuple[str, Method]] = {
    "sample": ("sample draw_count", lambda o: o.sample(16)),
    "sample with out": ("sample", filled_again),
    "sample on threads": ("sample batch_columns", lambda o: o.sample(20_000, threads=3)),
    "sequences": ("policy_probabilities probabilities", lambda o: o.sample(3000, 50, threads=2)),
    "add": ("add", lambda o: o.add(**rows())),
    "clear": ("clear", lambda o: o.clear()),
    "save": ("save", lambda o: o.save(FOLDER / f"copy-{os.getpid()}")),
    "close": ("close", lambda o: o.close()),
    "index": ("__getitem__", lambda o: o[[0, 1, 2]]),
    "rows": ("rows", lambda o: o.rows([0, 1]) if callable(o.rows) else o.rows),
    "epoch": ("epoch", lambda o: list(o.epoch(10))),
    "len": ("__len__", len),
    "repr": ("__repr__", repr),
    "draw_count": ("draw_count", lambda o: o.draw_count),
    "set draw_count": ("set_beta seed clear", lambda o: setattr(o, "draw_count", 3)),
    "priorities": ("update_priorities", lambda o: o.update_priorities([0, 1], [1.0, 2.0])),
    "state": ("state_dict", lambda o: o.load_state_dict(o.state_dict())),
    "next": ("__next__", next_block),
    "update": ("set_update", lambda o: o.set_update(50)),
    "share": ("share", lambda o: o.share(1, 3)),
    "windows": ("windows", lambda o: o.windows([0, 5])),
}


def quietly(method: Method, what: Object) -> None:
    with contextlib.suppress(Exception):
        method(what)


def hammer(method: Method, what: Object, seconds: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        quietly(method, what)


def busy_thread(what: Object, forever: bool = False) -> threading.Thread:
    """Draws from the object, or else uses it, for a while."""
    use: Method = (
        next_block
        if isinstance(what, tm.feed)
        else (lambda o: o.sample(3000, 50))
        if hasattr(what, "backend")
        else (lambda o: (o.sample(5000), hasattr(o, "add") and o.add(**rows(200))))
    )
    thread = threading.Thread(target=hammer, args=(use, what, 1e9 if forever else 0.2), daemon=True)
    thread.start()
    return thread


def in_callback(make: Callable[[], Object], method: Method) -> None:
    """The object is made around a function that uses it."""
    box: list[Object] = []
    mixed = mixture(lambda: [quietly(method, what) for what in box])
    what = make()
    if isinstance(what, tm.MixedReplay):
        what = mixed
    elif isinstance(what, tm.feed):
        what = tm.feed(mixed, "cpu", batch_size=16)
    elif isinstance(what, SeededBatches):
        what = mixed  # cannot hold a function
    box.append(what)
    for _ in range(3):
        quietly(lambda o: next(o) if isinstance(what, tm.feed) else mixed.sample(16), what)
        box[:] = box[:1]


def dropped_in_callback(make: Callable[[], Object], method: Method) -> None:
    """The function drops the last reference to what draws from it."""
    box: list[Object] = []
    mixed = mixture(box.clear)
    box.append(tm.feed(mixed, "cpu", batch_size=16) if isinstance(make(), tm.feed) else mixed)
    del mixed
    for _ in range(3):
        quietly(lambda o: method(o[0]), box)
        time.sleep(0.02)


def in_thread(make: Callable[[], Object], method: Method) -> None:
    what = make()
    busy_thread(what)
    hammer(method, what)


def in_child(make: Callable[[], Object], method: Method) -> None:
    what = make()
    busy_thread(what)
    for _ in range(3):
        time.sleep(0.005)
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT // 2)
            quietly(method, what)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            os.kill(os.getpid(), signal.SIGUSR1)  # tells the driver


def at_exit(make: Callable[[], Object], method: Method) -> None:
    what = make()
    for _ in range(2):
        threading.Thread(target=hammer, args=(method, what, 1e9), daemon=True).start()
    busy_thread(what, forever=True)
    sys.modules["math"].kept = what  # type: ignore[attr-defined]
    time.sleep(0.02)


def in_signal_handler(make: Callable[[], Object], method: Method) -> None:
    what = make()
    signal.signal(signal.SIGUSR2, lambda *_: quietly(method, what))
    timer = threading.Timer(0.002, os.kill, (os.getpid(), signal.SIGUSR2))
    timer.start()
    for _ in range(5):
        quietly(lambda o: o.save(FOLDER / f"copy-{os.getpid()}"), what)
        quietly(lambda o: o.sample(5000), what)
    timer.join()


MOMENTS = [in_callback, dropped_in_callback, in_thread, in_child, at_exit, in_signal_handler]


def table() -> list[tuple[str, str, Callable[..., None]]]:
    """Every object with its methods, at every moment."""
    return [
        (name, method, moment)
        for name, make in OBJECTS.items()
        for method, (needed, _) in METHODS.items()
        if any(hasattr(type(make()), word) for word in needed.split())
        for moment in MOMENTS
    ]


def main() -> None:
    share = float(sys.argv[1])
    cases = table()
    step = max(1, round(1 / share))
    for name, method, moment in cases[::step]:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT)
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123  # exceptions of threads are good ends
            moment(OBJECTS[name], METHODS[method][1])
            return  # and the interpreter ends as it always does
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print(f"{name}: {method}, {moment.__name__}: {signal.Signals(os.WTERMSIG(status)).name}", flush=True)
    print(f"tried {len(cases[::step])} of {len(cases)}")


if __name__ == "__main__":
    main()
