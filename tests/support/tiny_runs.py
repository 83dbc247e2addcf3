"""Every method at a size of a second, and what its runs have in common.

A method that is new in the folder is here at once: its settings are its own ``SMALL`` ones, smaller still where a
setting has one of the names below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trajmill.algorithms import learns_online, method_named, method_names
from trajmill.core.sealing import unsealed
from trajmill.experiments.settings import DatasetTrainConfig, OnlineTrainConfig, TrainConfig
from trajmill.experiments.train import train
from trajmill.models.gpt import GPTConfig
from trajmill.runs.directory import RunDirectory
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Interaction, Schedule

HOPPER = "hopper-sac-replay-10k"
CPU = ComputeConfig(device="cpu")
METHODS = method_names()
ONLINE = [name for name in METHODS if learns_online(method_named(name))]
ACTING = [name for name in METHODS if hasattr(method_named(name), "policy")]
TYPICAL = ("decision_transformer", "language_model", "td3_bc", "world_model")
"""of every kind of rows and schedule one; the others go through the tests of what is common among the slow ones"""


def each(names: Sequence[str]) -> list[Any]:
    """Methods as parameters of a test of what is common to all."""
    return [name if name in TYPICAL else pytest.param(name, marks=pytest.mark.slow) for name in names]


SIZES: dict[str, Any] = {
    "batch_size": 8,
    "hidden_sizes": (16, 16),
    "backbone": GPTConfig(layer_count=1, head_count=2, width=16),
    "context_length": 4,
    "length": 12,
    "position_count": 1024,
    "warmup_updates": 2,
    "state_count": 7,
    "sequence_count": 40,
    "held_out_count": 9,
    "trajectory_count": 20,
}
SCHEDULE = Schedule(updates=40, log_interval=4, evaluation_interval=20, checkpoint_interval=6, unroll=3)


def tiny(name: str, *, method: Mapping[str, Any] | None = None, **changes: Any) -> TrainConfig[Any]:
    """A run of a method with two seeds; `method` changes its settings, `changes` those of the run."""
    module = method_named(name)
    known = {field.name for field in fields(module.Config)}
    sizes = {key: value for key, value in SIZES.items() if key in known} | dict(method or {})
    settings: dict[str, Any] = {"seeds": (5, 3), "schedule": SCHEDULE, "compute": CPU}
    settings |= {"method": replace(module.SMALL, **sizes)} | changes
    if hasattr(module, "prepare"):
        return DatasetTrainConfig(**{"dataset": HOPPER, "evaluation_episode_count": 1} | settings)
    if learns_online(module):
        online = {"environment": "hopper", "environments": 2, "capacity": 40, "evaluation_episode_count": 1}
        online["interaction"] = Interaction(random_steps=12, updates_per_step=module.INTERACTION.updates_per_step)
        return OnlineTrainConfig(**online | settings)
    return TrainConfig(**settings)


class Killed(Exception):
    """Stands for a run that is killed."""


def killing(at: int) -> Callable[[str, int, int, str], None]:
    """Progress that kills its run once so many updates are made."""

    def progress(task: str, done: int, total: int, unit: str) -> None:
        if done >= at and unit == "updates":
            raise Killed

    return progress


def killed(config: TrainConfig[Any], run: Path, at: int) -> Path:
    """A run that was killed after some updates."""
    with pytest.raises(Killed):
        train(config, run, killing(at))
    return run


def lines(run: Path, phase: str | None = None) -> list[dict[str, Any]]:
    """What was logged, but for the clock."""
    found = RunDirectory(run).lines(phase)
    return [{key: value for key, value in line.items() if key != "wall_seconds"} for line in found]


def result(run: Path) -> dict[str, Any]:
    """What a finished run says of itself."""
    return unsealed(json.loads((run / "result.json").read_text()))


def checkpoint(run: Path) -> Path:
    """The newest checkpoint."""
    return RunDirectory(run).checkpoints()[0]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Those of the newest checkpoint."""
    return read_checkpoint(checkpoint(run))[0]


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    """Every logged number, every tensor of the last checkpoint and the result are the same to the last bit."""
    assert lines(ours) == lines(theirs)
    ends = [
        {name: value for name, value in result(run).items() if name not in ("wall_seconds", "processes")}
        for run in (ours, theirs)
    ]
    assert ends[0] == ends[1]
    (one,), (other,) = (RunDirectory(run).checkpoints() for run in (ours, theirs))
    mine, wanted = tensors(ours), tensors(theirs)
    assert one.name == other.name and mine.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(mine[name].nan_to_num(nan=7.0), tensor.nan_to_num(nan=7.0)), name
