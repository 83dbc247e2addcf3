"""Calling experiments as functions leaves torch as the caller had it, and records this project's commit alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny

from trajmill.experiments.evaluate import evaluate_run
from trajmill.experiments.train import probe, train
from trajmill.models.precision import uses_bfloat16
from trajmill.runs import directory
from trajmill.training.device import torch_as_it_was
from trajmill.training.settings import Schedule


def test_torch_is_as_it_was(tmp_path: Path) -> None:
    config = tiny("language_model", method={"dropout": True}, schedule=Schedule(updates=2))
    policy = tiny("td3_bc", schedule=Schedule(updates=2))
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), uses_bfloat16()
    torch.manual_seed(1)
    wanted = torch.rand(1)
    try:
        for number, call in enumerate(
            (
                lambda: train(config, tmp_path / "run"),
                lambda: probe(config, 0.01),
                lambda: evaluate_run(train(policy, tmp_path / "policy")),
            )
        ):
            torch.manual_seed(1)
            torch.set_num_threads(2)
            torch.set_float32_matmul_precision("high")
            call()
            assert torch.rand(1) == wanted, number
            assert torch.get_num_threads() == 2 and torch.get_float32_matmul_precision() == "high"
        with pytest.raises(ValueError, match="x"), torch_as_it_was():
            torch.manual_seed(5)
            raise ValueError("x")
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


def test_the_commit_of_another_project_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        options = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", "-C", str(tmp_path), *options, *words], check=True, capture_output=True)

    git("init")
    place = tmp_path / ".venv/lib/trajmill/runs/directory.py"
    place.parent.mkdir(parents=True)
    place.touch()
    git("commit", "--allow-empty", "-m", "x")
    monkeypatch.setattr(directory, "__file__", str(place))
    assert directory._commit() is None
    git("add", "-f", ".")
    git("commit", "-m", "vendored")
    assert directory._commit() is None
    own = tmp_path / "python/trajmill/runs/directory.py"
    own.parent.mkdir(parents=True)
    own.touch()
    git("add", ".")
    git("commit", "-m", "as in ours")
    monkeypatch.setattr(directory, "__file__", str(own))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert len(directory._commit() or "") == 40
