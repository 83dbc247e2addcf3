"""Scoring a run again gives what the run itself logged; what it learned goes to other programs and comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import ACTING, METHODS, checkpoint, lines, result, tiny, train

from trajmill.algorithms import language_model, method_named
from trajmill.cli import main
from trajmill.experiments.evaluate import EvaluateConfig, evaluate_run, export_run, read_policy
from trajmill.models.gpt2_files import read_gpt2
from trajmill.models.precision import use_bfloat16
from trajmill.runs.reading import RunError, read_start
from trajmill.training.checkpoint import read_checkpoint, save_checkpoint
from trajmill.training.settings import Schedule


@pytest.fixture
def run(whole: Callable[..., Path]) -> Path:
    return whole(tiny("cql", seeds=(3, 4), schedule=Schedule(updates=3), evaluation_episode_count=2))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("method", ACTING)
def test_the_same_episodes_give_the_logged_returns(method: str, exact: bool, whole: Callable[..., Path]) -> None:
    run = whole(tiny(method))
    (logged,) = (line["metrics"] for line in lines(run, "evaluation") if line["update"] == 40)
    evaluation = evaluate_run(run, EvaluateConfig(episode_count=1, episode_seed=40, exact=exact))
    assert evaluation.seeds == (5, 3) and evaluation.update == 40
    np.testing.assert_array_equal(evaluation.result.returns.mean(axis=1), logged["return_mean"])
    np.testing.assert_array_equal(evaluation.result.normalized_scores, logged["normalized_score"])


def test_the_precision_is_the_run_s_whatever_was_trained_before(run: Path) -> None:
    config = EvaluateConfig(episode_count=2, episode_seed=4)
    expected = evaluate_run(run, config).result.returns
    try:
        use_bfloat16(True)
        assert np.array_equal(evaluate_run(run, config).result.returns, expected)
    finally:
        use_bfloat16(False)


def test_the_command_tells_people_and_machines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--episode-count", "2", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "Hopper-v4, 2 episodes, 3 updates" in text and "95 % interval over seeds" in text
    assert main(["evaluate", str(run), "--episode-count", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seeds"] == [3, 4] and told["update"] == 3 and np.shape(told["returns"]) == (2, 2)


def test_what_is_no_training_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        evaluate_run(tmp_path)
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(RunError, match="no checkpoint yet"):
        evaluate_run(tmp_path)
    with pytest.raises(ValueError, match="episode_count"):
        EvaluateConfig(episode_count=0)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ACTING])
def test_a_method_without_policies_is_not_scored(method: str, whole: Callable[..., Path]) -> None:
    with pytest.raises(RunError, match=f"holds no policy: it is of {method}"):
        evaluate_run(whole(tiny(method)))


def test_a_checkpoint_of_an_unknown_method_is_named(run: Path, tmp_path: Path) -> None:
    moving, metadata = read_checkpoint(checkpoint(run))

    class Stored:
        def moving(self) -> dict[str, torch.Tensor]:
            return moving

    save_checkpoint(tmp_path / "c.safetensors", Stored(), metadata | {"kind": "alchemy"})  # type: ignore[arg-type]
    with pytest.raises(RunError, match="'alchemy', which is not a method"):
        read_policy(tmp_path / "c.safetensors")


# --- other programs ---


def test_a_language_model_is_exported_and_is_a_start_again(
    tmp_path: Path, whole: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first seed's, as Hugging Face's GPT-2; what starts from the files learns what starts from the run does."""
    start, there = whole(tiny("language_model")), tmp_path / "new" / "gpt2"
    assert main(["export", str(start), str(there), "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "config.json" in told and "40 updates" in told
    shape, learned = language_model.learned(*read_start(start))
    backbone, parameters = read_gpt2(there)
    assert (backbone.width, backbone.layer_count, backbone.head_count) == (16, 1, 2)
    assert shape.activation == backbone.activation and parameters.keys() >= learned.keys()
    for name, value in learned.items():
        assert torch.equal(parameters[name], value), name
    schedule = Schedule(updates=2)
    method = {"extend_positions": True, "cluster_weight": 0.1, "cluster_count": 3}
    from_files = train(
        tiny("decision_transformer", init=there, schedule=schedule, method=method), tmp_path / "from_files"
    )
    from_run = whole(tiny("decision_transformer", init=start, schedule=schedule, method=method))
    assert lines(from_files) == lines(from_run)
    assert result(from_files)["average_last_four"] == result(from_run)["average_last_four"]


def test_what_cannot_be_exported_is_refused(tmp_path: Path, whole: Callable[..., Path]) -> None:
    start = whole(tiny("language_model"))
    with pytest.raises(RunError, match="not a run directory"):
        export_run(tmp_path, tmp_path / "there")
    with pytest.raises(RunError, match=r"cql.*format"):
        export_run(whole(tiny("cql")), tmp_path / "there")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(ValueError, match="mine exists"):
        export_run(start, tmp_path / "mine")
    (tmp_path / "barely").mkdir()
    (tmp_path / "barely" / "config.json").write_text((start / "config.json").read_text())
    with pytest.raises(RunError, match="no checkpoint yet"):
        export_run(tmp_path / "barely", tmp_path / "there")
    assert not (tmp_path / "there").exists() and [each.name for each in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_exporters_read_what_they_write() -> None:
    """So that whatever can be written is a start too."""
    for name in METHODS:
        method = method_named(name)
        assert hasattr(method, "export") == hasattr(method, "read_exported"), name
