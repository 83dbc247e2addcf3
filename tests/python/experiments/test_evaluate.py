"""Scoring a run again gives what the run itself logged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trajmill.algorithms.cql import CQLConfig
from trajmill.cli import main
from trajmill.models.precision import use_bfloat16
from trajmill.pipelines.cql import TrainCQLConfig, train_cql
from trajmill.pipelines.evaluate import EvaluateConfig, evaluate_run
from trajmill.pipelines.schedule import Schedule


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = TrainCQLConfig(
        dataset="hopper-sac-replay-10k",
        seeds=(3, 4),
        evaluation_episode_count=2,
        method=CQLConfig(batch_size=8),
        schedule=Schedule(updates=3),
    )
    return train_cql(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("exact", [False, True])
def test_the_same_episodes_give_the_logged_returns(run, exact):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = next(line["metrics"] for line in lines if line["phase"] == "evaluation" and line["gradient_step"] == 3)
    evaluation = evaluate_run(run, EvaluateConfig(episode_count=2, episode_seed=3, exact=exact))
    assert evaluation.seeds == (3, 4) and evaluation.gradient_step == 3
    np.testing.assert_array_equal(evaluation.result.returns.mean(axis=1), logged["return_mean"])
    np.testing.assert_array_equal(evaluation.result.normalized_scores, logged["normalized_score"])


def test_the_precision_is_the_run_s_whatever_was_trained_before(run):
    config = EvaluateConfig(episode_count=2, episode_seed=4)
    expected = evaluate_run(run, config).result.returns
    try:
        use_bfloat16(True)
        assert np.array_equal(evaluate_run(run, config).result.returns, expected)
    finally:
        use_bfloat16(False)


def test_the_command_tells_people_and_machines(run, capsys):
    assert main(["evaluate", str(run), "--episode-count", "2", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "Hopper-v4, 2 episodes, 3 updates" in text and "95 % interval over seeds" in text
    assert main(["evaluate", str(run), "--episode-count", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seeds"] == [3, 4] and np.shape(told["returns"]) == (2, 2)


def test_train_tells_the_score(tmp_path, capsys):
    words = ["train", "cql", "--dataset", "hopper-sac-replay-10k", "--out", str(tmp_path / "run"), "--seeds", "0", "1"]
    words += ["--schedule.updates", "2", "--method.batch-size", "8", "--evaluation-episode-count", "1"]
    assert main([*words, "--quiet"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2 updates of 2 seeds" in text and "average of the last 1 evaluations" in text
    assert main(words) == 1
    assert "holds a finished run" in capsys.readouterr().err


def test_what_is_no_training_run_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="not a run directory"):
        evaluate_run(tmp_path)
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(ValueError, match="no checkpoint yet"):
        evaluate_run(tmp_path)
    with pytest.raises(ValueError, match="episode_count"):
        EvaluateConfig(episode_count=0)
