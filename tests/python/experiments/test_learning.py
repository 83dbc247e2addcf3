"""What training has to reach: a floor that is known exactly, and the policies that made the data.

These are the longest tests; `conftest.py` lets them begin first.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import CPU, HOPPER, lines, result, train

from trajmill.algorithms import decision_transformer, language_model
from trajmill.data import load_dataset, summarize
from trajmill.experiments.settings import DatasetTrainConfig, TrainConfig
from trajmill.models.gpt import GPTConfig
from trajmill.training.settings import Schedule

pytestmark = pytest.mark.slow


def held_out(updates: int, output: Path, **method: Any) -> tuple[list[float], float]:
    """Losses of the paper's network on sequences of the authors' own tokens that it never saw, and their floor."""
    config = language_model.Config(
        stream="reference", length=64, learning_rate=1e-3, warmup_updates=10, decay_updates=updates, **method
    )
    schedule = Schedule(updates=updates, evaluation_interval=updates // 2)
    run = train(TrainConfig(method=config, schedule=schedule, compute=CPU), output)
    found = [line["metrics"] for line in lines(run, "evaluation")]
    return [metrics["held_out_loss"][0] for metrics in found], found[0]["entropy_rate"][0]


def test_a_language_model_learns_the_authors_chain_to_its_entropy(tmp_path: Path) -> None:
    """A chain of ten states: one of a hundred holds as little to learn and takes twenty times as long."""
    losses, floor = held_out(100, tmp_path / "run", state_count=10)
    noise = 4 * 0.3 / math.sqrt(4000 * 63)  # of a mean over the tokens held out; one token's loss deviates by 0.3
    assert floor < math.log(10) - 0.03
    assert min(losses) > floor - noise
    assert losses[-1] < floor + 0.003


def test_a_language_model_learns_nothing_from_independent_tokens(tmp_path: Path) -> None:
    losses, floor = held_out(60, tmp_path / "run", law="iid")
    assert floor == pytest.approx(math.log(100))
    assert min(losses) > floor - 1e-3
    assert losses[-1] < floor + 0.003


def test_a_decision_transformer_reaches_the_policies_that_made_the_data(tmp_path: Path) -> None:
    """One of a block and short windows, which learn in a minute; over the last four of twelve evaluations."""
    backbone = GPTConfig(residual_dropout=0.2, layer_count=1)
    method = decision_transformer.Config(context_length=5, learning_rate=1e-3, warmup_updates=100, backbone=backbone)
    schedule = Schedule(updates=3000, evaluation_interval=250)
    config = DatasetTrainConfig(dataset=HOPPER, seeds=(0, 1), method=method, schedule=schedule, compute=CPU)
    behaviour = summarize(load_dataset(HOPPER)).normalized_score
    assert behaviour is not None and behaviour > 12
    assert np.mean(result(train(config, tmp_path / "run"))["average_last_four"]) > behaviour
