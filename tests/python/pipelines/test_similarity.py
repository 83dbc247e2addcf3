"""Cosines of backbones before and after: the snapshots are the right ones, the angle is the right one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.algorithms.language_model import LMConfig
from trajmill.models.gpt import GPTConfig
from trajmill.pipelines.decision_transformer import PretrainDTConfig, TrainDTConfig, pretrain_dt, train_dt
from trajmill.pipelines.schedule import Schedule
from trajmill.pipelines.similarity import _cosine, backbone_similarities
from trajmill.training.device import ComputeConfig

SMALL = GPTConfig(layer_count=1, head_count=1, width=16)
CPU = ComputeConfig(device="cpu")
PRETRAIN = PretrainDTConfig(
    state_count=7,
    sequence_count=40,
    held_out_count=8,
    method=LMConfig(batch_size=8, length=12, warmup_updates=0, decay_updates=50, learning_rate=1e-2, backbone=SMALL),
    schedule=Schedule(updates=20),
    compute=CPU,
)
TRAIN = TrainDTConfig(
    dataset="hopper-sac-replay-10k",
    seeds=(0, 1),
    evaluation_episode_count=1,
    method=DTConfig(batch_size=8, context_length=4, learning_rate=1e-12, backbone=SMALL),
    schedule=Schedule(updates=2),
    compute=CPU,
)


def test_a_backbone_that_hardly_moves_is_its_start(tmp_path: Path) -> None:
    random, pretrained = backbone_similarities(train_dt(TRAIN, tmp_path / "scratch"), None)
    assert random == pytest.approx([1.0, 1.0]) and np.array_equal(random, pretrained)

    init = pretrain_dt(PRETRAIN, tmp_path / "init")
    barely = pretrain_dt(replace(PRETRAIN, schedule=Schedule(updates=1)), tmp_path / "barely")
    random, pretrained = backbone_similarities(train_dt(replace(TRAIN, init=init), tmp_path / "run"), init)
    assert pretrained == pytest.approx([1.0, 1.0], abs=1e-6)
    assert (random < 0.95).all()
    nearer, _ = backbone_similarities(train_dt(replace(TRAIN, init=barely), tmp_path / "near"), barely)
    assert (nearer > random + 0.01).all()  # one update of pre-training moves less than twenty


def test_the_cosine_is_taken_row_by_row() -> None:
    one = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert _cosine(one, torch.tensor([[0.0, 2.0], [3.0, 0.0]])) == pytest.approx([0.0, 0.5**0.5])
