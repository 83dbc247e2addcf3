"""The replay engine beside its peers, 10^6 transitions, one thread: ``python benchmarks/bench_replay.py [FOLDER]``.

Needs the peers: ``pip install -e ".[bench]"``. Everything is measured in turns in one process, so that a busy machine
slows all alike. Files go to FOLDER (default: the current one), whose disk is measured with ``dd``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from baselines.replay import looped_windows
from record import Row, dd_read, dd_write, disk, disk_rates, row, write
from throughput.measure import in_turns

import trajmill as tm
from trajmill.bench import replay as peers
from trajmill.bench.feed import synchronize
from trajmill.bench.replay import SCHEMA, filled, reusing, transitions

COUNT = 1_000_000


def compare(rows: list[Row], title: str, works: Mapping[str, Callable[[], object]], batch_size: int) -> None:
    """Our calls beside the others'; one row each, ours against the fastest peer and against each."""
    taken = in_turns(works, block_seconds=0.02)
    ours = taken.pop("trajmill")
    fastest = min(taken, key=taken.__getitem__)
    against, ratio = f"{fastest}, the fastest", taken[fastest] / ours
    rows.append(Row(name=title, value=ours * 1e6, unit="us", against=against, ratio=ratio))
    if batch_size > 1000:
        rows.append(row("  rows a second", batch_size / ours / 1e6, "M rows/s"))
    rows.extend(row(f"  {name}", taken[name] * 1e6, "us", over=("ours over it", ours * 1e6)) for name in taken)


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
    other = transitions(1, COUNT)
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
    works = {"trajmill": reusing(buffer, 64), "the authors' way": looped_windows(steps, 64, 20)}
    compare(rows, "windows of 20 steps, batch 64", works, 64)


def adding(rows: list[Row], columns: Mapping[str, np.ndarray]) -> None:
    batch = {name: array[:1000] for name, array in columns.items()}
    buffer = filled(columns)
    works = {"trajmill": lambda: buffer.add(**batch), "cpprb": peers.cpprb_add(columns, batch)}
    compare(rows, "add 1,000 transitions", works, 1000)


def files(rows: list[Row], folder: Path) -> None:
    count = 8 * COUNT
    buffer = tm.ReplayBuffer(count, SCHEMA, seed=0)
    part = transitions(3, COUNT)
    for _ in range(count // COUNT):
        buffer.add(**part)
    saved, copied = folder / "buffer", folder / "dd"
    buffer.save(saved)
    size = saved.stat().st_size

    def forget(path: Path) -> None:
        """Drop a file from the system's memory."""
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    writes = {"save": lambda: buffer.save(saved), "dd write": dd_write(copied, size)}
    reads = {"load": lambda: tm.ReplayBuffer.load(saved), "dd read": dd_read(copied)}
    before = {"load": lambda: forget(saved), "dd read": lambda: forget(copied)}
    rate = disk_rates(writes, size, {}) | disk_rates(reads, size, before)
    for name, limit in (("save", "dd write"), ("load", "dd read")):
        rows.append(row(name, rate[name], "GB/s", limit=(f"{limit}, direct", rate[limit])))
    rows.extend(row(f"  {name}", rate[name], "GB/s") for name in ("dd write", "dd read"))


def fed(rows: list[Row], columns: Mapping[str, np.ndarray]) -> None:
    buffer = filled(columns)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    resident = buffer.to(device)
    for batch_size in (256, 20 * 256, 65_536):
        with tm.feed(buffer, device, batch_size=batch_size) as feed:
            works = {"feed": lambda feed=feed: next(feed), "resident": lambda size=batch_size: resident.sample(size)}
            taken = in_turns(works, block_seconds=0.1, finish=partial(synchronize, torch.device(device)))
        for name, seconds in taken.items():
            rows.append(row(f"{name} on {device}, batch {batch_size}", batch_size / seconds / 1e6, "M rows/s"))


def main() -> None:
    torch.set_num_threads(1)
    columns = transitions(0, COUNT)
    rows: list[Row] = []
    for part in (uniform, mixed, prioritized, windows, adding, fed):
        part(rows, columns)
    with tempfile.TemporaryDirectory(dir=disk(), prefix="bench-replay-") as folder:
        files(rows, Path(folder))
    write("replay", rows)


if __name__ == "__main__":
    main()
