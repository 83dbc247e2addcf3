"""The replay engine beside its peers, 10^6 transitions, one thread: ``python benchmarks/bench_replay.py [FOLDER]``.

Needs the peers: ``pip install -e ".[bench]"``. Everything is measured in turns in one process, so that a busy machine
slows all alike. Files go to FOLDER (default: the current one), whose disk is measured with ``dd``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from baselines import replay as peers
from record import Row, in_turns, write

import trajmill as tm

sys.path.append(str(Path(__file__).parents[1] / "tests" / "reference"))
import windows_twin

COUNT = 1_000_000
SCHEMA = {
    "observation": ((17,), "f4"),
    "action": ((6,), "f4"),
    "reward": ((), "f4"),
    "next_observation": ((17,), "f4"),
    "terminal": ((), "?"),
    "truncated": ((), "?"),
}
EPISODE = 1000


def transitions(seed: int, count: int = COUNT) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    columns = {name: random.standard_normal((count, *shape), np.float32) for name, (shape, _) in SCHEMA.items()}
    columns["terminal"] = np.zeros(count, bool)
    columns["truncated"] = np.arange(count) % EPISODE == EPISODE - 1
    return columns


def filled(columns: Mapping[str, np.ndarray], **options: Any) -> tm.ReplayBuffer:
    buffer = tm.ReplayBuffer(len(columns["reward"]), SCHEMA, seed=0, **options)
    buffer.add(**columns)
    return buffer


def reusing(source: Any, batch_size: int) -> Callable[[], object]:
    batch = source.sample(batch_size)
    return lambda: source.sample(batch_size, out=batch)


def compare(rows: list[Row], title: str, works: Mapping[str, Callable[[], object]], batch_size: int) -> None:
    """Our calls beside the others'; one row each, ours against the fastest peer and against each."""
    taken = in_turns(works, target_seconds=0.02)
    ours = taken.pop("trajmill")
    fastest = min(taken, key=taken.__getitem__)
    rows.append(
        Row(name=title, value=ours * 1e6, unit="us", against=f"{fastest}, the fastest", ratio=taken[fastest] / ours)
    )
    if batch_size > 1000:
        rows.append(Row(name="  rows a second", value=batch_size / ours / 1e6, unit="M rows/s"))
    for name, seconds in taken.items():
        rows.append(Row(name=f"  {name}", value=seconds * 1e6, unit="us", against="ours over it", ratio=seconds / ours))


def uniform(rows: list[Row], columns: Mapping[str, np.ndarray]) -> None:
    buffer = filled(columns)
    for batch_size in (256, 4096, 65_536):
        works = {
            "trajmill": reusing(buffer, batch_size),
            "NumPy": peers.numpy_indexing(columns, batch_size),
            "cpprb": peers.cpprb(columns, batch_size),
            "torchrl": peers.torchrl(columns, batch_size),
            "Stable-Baselines3": peers.stable_baselines3(columns, batch_size),
        }
        compare(rows, f"uniform, batch {batch_size}", works, batch_size)


def mixed(rows: list[Row], columns: Mapping[str, np.ndarray]) -> None:
    other = transitions(1)
    mixture = tm.MixedReplay({"real": (filled(columns), 0.5), "synthetic": (filled(other), 0.5)})
    works = {"trajmill": reusing(mixture, 256), "torchrl ensemble": peers.torchrl_ensemble(columns, other, 256)}
    compare(rows, "half real, half synthetic, batch 256", works, 256)


def prioritized(rows: list[Row], columns: Mapping[str, np.ndarray]) -> None:
    buffer = filled(columns, prioritized=True)
    priorities = np.random.default_rng(2).random(256, np.float32)
    batch = buffer.sample(256)

    def sample_and_update() -> None:
        buffer.sample(256, out=batch)
        buffer.update_priorities(batch["indexes"], priorities)

    works = {"trajmill": sample_and_update, "cpprb": peers.cpprb_prioritized(columns, 256, priorities)}
    compare(rows, "prioritized, batch 256, sample and update", works, 256)


def windows(rows: list[Row], columns: Mapping[str, np.ndarray]) -> None:
    steps = {name: columns[name] for name in ("observation", "action", "reward", "terminal", "truncated")}
    buffer = tm.TrajectoryBuffer(**steps, context_length=20, seed=0)
    random = np.random.default_rng(0)
    episodes = windows_twin.split(steps)
    chosen, moments = windows_twin.select(episodes), windows_twin.mean_and_deviation(episodes)

    def authors_way() -> object:
        return windows_twin.windows(episodes, windows_twin.draw(episodes, chosen, 64, random), 20, *moments, flags=())

    works = {"trajmill": reusing(buffer, 64), "the authors' way": authors_way}
    compare(rows, "windows of 20 steps, batch 64", works, 64)


def adding(rows: list[Row], columns: Mapping[str, np.ndarray]) -> None:
    batch = {name: array[:1000] for name, array in columns.items()}
    buffer = filled(columns)
    works = {"trajmill": lambda: buffer.add(**batch), "cpprb": peers.cpprb_add(columns, batch)}
    compare(rows, "add 1,000 transitions", works, 1000)


def files(rows: list[Row], folder: Path) -> None:
    count = 8 * COUNT
    buffer = tm.ReplayBuffer(count, SCHEMA, seed=0)
    part = transitions(3)
    for _ in range(count // COUNT):
        buffer.add(**part)
    saved, copied = folder / "buffer", folder / "dd"
    buffer.save(saved)
    size = saved.stat().st_size
    rates: dict[str, list[float]] = {name: [] for name in ("save", "load", "dd write", "dd read")}

    def timed(name: str, work: Callable[[], object], reads: Path | None = None) -> None:
        if reads is not None:
            forget(reads)
        started = perf_counter()
        made = work()  # freeing it is another matter
        rates[name].append(size / (perf_counter() - started) / 1e9)
        del made

    blocks = f"count={size // 2**24}"
    for _ in range(5):
        timed("save", lambda: buffer.save(saved))
        timed("dd write", lambda: dd("if=/dev/zero", f"of={copied}", blocks, "oflag=direct", "conv=fsync"))
    for _ in range(5):
        timed("load", lambda: tm.ReplayBuffer.load(saved), saved)
        timed("dd read", lambda: dd(f"if={copied}", "of=/dev/null", blocks, "iflag=direct"), copied)
    rate = {name: median(values) for name, values in rates.items()}
    for name, limit in (("save", "dd write"), ("load", "dd read")):
        share = rate[name] / rate[limit]
        rows.append(Row(name=name, value=rate[name], unit="GB/s", limit=f"{limit}, direct", limit_share=share))
    rows.extend(Row(name=f"  {name}", value=rate[name], unit="GB/s") for name in ("dd write", "dd read"))


def dd(*words: str) -> None:
    subprocess.run(["dd", "bs=16M", *words], check=True, capture_output=True)


def forget(path: Path) -> None:
    """Drop a file from the system's memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fed(rows: list[Row], columns: Mapping[str, np.ndarray]) -> None:
    buffer = filled(columns)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    resident = buffer.to(device)
    for batch_size in (256, 20 * 256, 65_536):
        with tm.feed(buffer, device, batch_size=batch_size) as feed:
            works = {"feed": lambda feed=feed: next(feed), "resident": lambda size=batch_size: resident.sample(size)}
            taken = in_turns(works, target_seconds=0.1, finish=synchronize)
        for name, seconds in taken.items():
            title = f"{name} on {device}, batch {batch_size}"
            rows.append(Row(name=title, value=batch_size / seconds / 1e6, unit="M rows/s"))


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    torch.set_num_threads(1)
    place = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    columns = transitions(0)
    rows: list[Row] = []
    for part in (uniform, mixed, prioritized, windows, adding, fed):
        part(rows, columns)
    with tempfile.TemporaryDirectory(dir=place, prefix="bench-replay-") as folder:
        files(rows, Path(folder))
    write("replay", rows)


if __name__ == "__main__":
    main()
