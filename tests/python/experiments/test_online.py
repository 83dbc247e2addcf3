"""Runs of agents that learn online, end to end at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import ONLINE, assert_equal_runs, killed, lines, tensors, tiny, train


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
