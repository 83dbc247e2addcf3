"""Upsampling at a size of a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trajmill.algorithms import method_named, synthesizing_methods
from trajmill.core.progress import Progress, silent
from trajmill.experiments.upsample import UpsampleConfig, Upsampled, shards, upsample
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule

HOPPER = "hopper-sac-replay-10k"
BLOCK_ROWS, SHARD_BLOCKS = 8, 2
SCHEDULE = Schedule(updates=8, log_interval=4, checkpoint_interval=3, unroll=2)


def small_shards() -> None:
    """Shards of 16 rows from now on, in blocks of 8."""
    shards.BLOCK_ROWS, shards.SHARD_BLOCKS = BLOCK_ROWS, SHARD_BLOCKS


def config(count: int = 70, *, sampling: dict[str, Any] | None = None, **changes: Any) -> UpsampleConfig[Any]:
    """Settings of a tiny job of the default method."""
    method = method_named(synthesizing_methods()[0])
    settings = replace(method.SMALL, batch_size=8, width=16, depth=1, embedding_dim=8)
    known: dict[str, Any] = {"method": settings, "sampling": method.Sampling(levels=3, **(sampling or {}))}
    known |= {"schedule": SCHEDULE, "compute": ComputeConfig(device="cpu"), "export": ("d4rl", "synther", "minari")}
    known["quality"] = False
    return UpsampleConfig(count=count, **known | changes)


def make(output: Path, source: Any = HOPPER, progress: Progress = silent, **changes: Any) -> Upsampled:
    """Do such a job."""
    return upsample(source, output, config(**changes), progress)


def contents(output: Path) -> dict[str, bytes]:
    """Bytes of all files, but for the run's, which say when they were made."""
    run = output / "model"
    files = [path for path in output.rglob("*") if path.is_file() and run not in path.parents]
    files += run.glob("checkpoints/*")
    found = {path.relative_to(output).as_posix(): path.read_bytes() for path in files}
    for name in found:
        if name.startswith("model/"):
            found[name] = b""  # also holds the seconds it took
    return found
