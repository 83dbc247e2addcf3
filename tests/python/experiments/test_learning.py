"""What training has to reach: a floor that is known exactly, and the policies that made the data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.algorithms.language_model import LMConfig
from trajmill.data import load_dataset
from trajmill.data.summary import summarize
from trajmill.pipelines.decision_transformer import TrainDTConfig, train_dt
from trajmill.pipelines.language_model import PretrainDTConfig, pretrain_dt
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.pipelines.schedule import Schedule
from trajmill.training.device import ComputeConfig

CPU = ComputeConfig(device="cpu")


def held_out_losses(law: str, updates: int, output: Path) -> list[float]:
    """Of the paper's network on the authors' own tokens, in pieces of 128."""
    config = PretrainDTConfig(
        law=law,  # type: ignore[arg-type]
        stream="reference",
        method=LMConfig(length=128, learning_rate=1e-3, warmup_updates=100, decay_updates=updates),
        schedule=Schedule(updates=updates, evaluation_interval=updates // 2),
        compute=CPU,
    )
    run = RunDirectory(pretrain_dt(config, output))
    return [line["metrics"]["held_out_loss"][0] for line in run.lines("evaluation")]


@pytest.mark.slow
def test_a_language_model_learns_the_authors_chain_to_its_entropy(tmp_path: Path) -> None:
    losses = held_out_losses("markov", 1600, tmp_path / "run")
    noise = 4 * 0.3 / math.sqrt(4000 * 127)  # of a mean over the tokens held out; one token's loss deviates by 0.3
    assert min(losses) > 4.564843 - noise
    assert losses[-1] < 4.564843 + 0.003


@pytest.mark.slow
def test_a_language_model_learns_nothing_from_independent_tokens(tmp_path: Path) -> None:
    losses = held_out_losses("iid", 200, tmp_path / "run")
    assert min(losses) > math.log(100) - 1e-3
    assert losses[-1] < math.log(100) + 0.003


@pytest.mark.slow
def test_a_decision_transformer_reaches_the_policies_that_made_the_data(tmp_path: Path) -> None:
    name = "hopper-sac-replay-10k"
    config = TrainDTConfig(
        dataset=name,
        seeds=(0, 1),
        method=DTConfig(batch_size=16, warmup_updates=100),
        schedule=Schedule(updates=4000, evaluation_interval=1000),
        compute=CPU,
    )
    result = json.loads((train_dt(config, tmp_path / "run") / "result.json").read_text())
    behaviour = summarize(load_dataset(name)).normalized_score
    assert behaviour is not None and behaviour > 12
    assert np.mean(result["average_last_four"]) > behaviour
