"""The four pipelines at a size of a second, and what their runs have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from trajmill.algorithms import cql, decision_transformer, forward_dynamics, language_model
from trajmill.algorithms.cql import CQLConfig
from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.algorithms.forward_dynamics import ForwardDynamicsConfig
from trajmill.algorithms.language_model import LMConfig
from trajmill.models.gpt import GPTConfig
from trajmill.pipelines.cql import PretrainCQLConfig, TrainCQLConfig, pretrain_cql, train_cql
from trajmill.pipelines.decision_transformer import TrainDTConfig, train_dt
from trajmill.pipelines.language_model import PretrainDTConfig, pretrain_dt
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.pipelines.schedule import Schedule
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.device import ComputeConfig

SMALL = GPTConfig(layer_count=1, head_count=2, width=16)
COMMON: dict[str, Any] = {
    "seeds": (5, 3),
    "schedule": Schedule(updates=40, log_interval=4, evaluation_interval=20, checkpoint_interval=6, unroll=3),
    "compute": ComputeConfig(device="cpu"),
}
SETTINGS: dict[str, Any] = {
    "pretrain_cql": PretrainCQLConfig(
        observation_dim=11,
        action_dim=3,
        trajectory_count=10,
        length=50,
        method=ForwardDynamicsConfig(batch_size=16),
        **COMMON,
    ),
    "train_cql": TrainCQLConfig(
        dataset="hopper-sac-replay-10k", evaluation_episode_count=1, method=CQLConfig(batch_size=16), **COMMON
    ),
    "pretrain_dt": PretrainDTConfig(
        state_count=7,
        sequence_count=40,
        held_out_count=9,
        method=LMConfig(batch_size=8, length=12, position_count=16, warmup_updates=2, backbone=SMALL),
        **COMMON,
    ),
    "train_dt": TrainDTConfig(
        dataset="hopper-sac-replay-10k",
        evaluation_episode_count=1,
        method=DTConfig(batch_size=8, context_length=4, backbone=SMALL),
        **COMMON,
    ),
}
PIPELINES: dict[str, Any] = {
    "pretrain_cql": pretrain_cql,
    "train_cql": train_cql,
    "pretrain_dt": pretrain_dt,
    "train_dt": train_dt,
}
ALGORITHMS: dict[str, tuple[Any, str]] = {
    "pretrain_cql": (forward_dynamics, "critic"),
    "train_cql": (cql, "policy"),
    "pretrain_dt": (language_model, "model"),
    "train_dt": (decision_transformer, "inner"),
}
"""module of the update, and a tensor with all seeds that it learns"""


def lines(run: Path) -> list[dict[str, Any]]:
    """What was logged, but for the clock."""
    return [{key: value for key, value in line.items() if key != "wall_seconds"} for line in RunDirectory(run).lines()]


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    """Every logged number, every tensor of the last checkpoint and the result are the same to the last bit."""
    assert lines(ours) == lines(theirs)
    ends = []
    for run in (ours, theirs):
        result = json.loads((run / "result.json").read_text())
        ends.append({name: value for name, value in result.items() if name not in ("wall_seconds", "workers")})
    assert ends[0] == ends[1]
    (one,), (other,) = (RunDirectory(run).checkpoints() for run in (ours, theirs))
    mine, wanted = read_checkpoint(one)[0], read_checkpoint(other)[0]
    assert one.name == other.name and mine.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(mine[name].nan_to_num(nan=7.0), tensor.nan_to_num(nan=7.0)), name
