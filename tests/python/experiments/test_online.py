"""Runs of agents that learn online, end to end at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import ONLINE, assert_equal_runs, killed, lines, tensors, tiny, train

from trajmill.data import DatasetError, environment_of, load_dataset, split_episodes, summarize
from trajmill.evaluation import check_dynamics
from trajmill.experiments.datasets import convert
from trajmill.training.settings import Interaction


@pytest.mark.parametrize("method", ONLINE)
@pytest.mark.parametrize("at", [4, 20])
def test_killed_and_resumed_is_never_stopped(method: str, at: int, whole, tmp_path: Path) -> None:
    run = killed(tiny(method), tmp_path / "run", at)
    train(tiny(method), run, resume=True)
    assert_equal_runs(run, whole(tiny(method)))
    files = sorted(path.relative_to(run) for path in run.glob("replay/*/*"))
    assert {path.parts[1] for path in files} == {"3", "5"}


@pytest.mark.parametrize("method", ONLINE)
def test_processes_and_other_seeds_change_nothing(method: str, whole, tmp_path: Path) -> None:
    both = whole(tiny(method))
    assert_equal_runs(train(tiny(method), tmp_path / "two", processes=2), both)
    alone = train(tiny(method, seeds=(3,)), tmp_path / "alone")
    for ours, theirs in zip(lines(alone), lines(both), strict=True):
        assert ours["metrics"] == {name: values[1:] for name, values in theirs["metrics"].items()}
    assert torch.equal(tensors(alone)["ring/observation"], tensors(both)["ring/observation"][1:])
    for run in (tmp_path / "two", both):
        assert sorted(path.name for path in (run / "replay/3").iterdir()) == sorted(
            path.name for path in (alone / "replay/3").iterdir()
        )


@pytest.mark.filterwarnings("ignore:.*(unfinished|not over|lie outside|neither flag)")
@pytest.mark.parametrize(("environment", "environments"), [("hopper", 2), ("invertedpendulum", 1)])
def test_the_replay_of_a_run_is_a_dataset(whole, tmp_path: Path, environment: str, environments: int) -> None:
    """Every step repeats in the simulator, so actions are in the environment's units; other formats hold the same."""
    settings = {"environment": environment, "environments": environments, "capacity": 1000}
    run = whole(tiny(ONLINE[-1], interaction=Interaction(random_steps=100), **settings))
    dataset = load_dataset(run / "replay/3")
    assert len(dataset) == tensors(run)["ring/steps"] * environments
    assert dataset.name == f"{environment}-{ONLINE[-1]}-replay-3"
    assert environment_of(dataset).lower() == f"{environment}-v4"
    assert check_dynamics(dataset).share_off == 0
    assert 0.9 < np.abs(dataset.actions).max() / (3 if environment == "invertedpendulum" else 1) <= 1
    summary = summarize(dataset)
    assert summary.format == "replay" and summary.byte_count > 1000 and len(summary.sha256) == 64
    for name in ("set.hdf5", "set-v0"):
        convert(run / "replay/3", tmp_path / name)
        again = load_dataset(tmp_path / name)
        for column in ("observations", "actions", "rewards", "terminals", "next_observations"):
            np.testing.assert_array_equal(getattr(again, column), getattr(dataset, column))
        assert len(split_episodes(again)) - len(split_episodes(dataset)) in (0, 1)  # Minari knows no unfinished one
    with pytest.raises(ValueError, match="to must be one of"):
        convert(run / "replay/3", tmp_path / "new", to="replay")
    with pytest.raises(DatasetError, match="RUN/replay/SEED"):
        load_dataset(run)
