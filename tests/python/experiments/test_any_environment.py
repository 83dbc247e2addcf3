"""Commands in environments that Gymnasium steps: data, training, resuming, scoring, reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import HOPPER, SCHEDULE, assert_equal_runs, checkpoint, killed, lines, result, tiny

import trajmill as tm
from trajmill.cli import main
from trajmill.data import DatasetError, environment_of, load_dataset
from trajmill.evaluation import episode_seeds
from trajmill.evaluation.simulators import GymnasiumEnvironments
from trajmill.experiments.collect import CollectConfig, collect
from trajmill.experiments.train import train
from trajmill.report import write_report
from trajmill.runs.reading import read_state

VALVE = "valves:Valve-v0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("valve") / "valve.hdf5"
    collect(VALVE, path, CollectConfig(kind="random", rows=300))
    return str(path)


def test_collected_episodes_are_those_of_their_seeds(data: str) -> None:
    dataset = load_dataset(data)
    assert dataset.metadata["environment"] == VALVE and "qpos" not in dataset.infos
    assert dataset.actions.min(axis=0).tolist() == pytest.approx([0.0, -2.0], abs=0.05)
    assert dataset.actions.max(axis=0).tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    ends = np.flatnonzero(dataset.episode_ends)
    assert np.diff(ends, prepend=-1).max() == 12, "the environment cuts at 12, before its limit of 20"
    assert dataset.terminals.any() and dataset.timeouts.any()
    with GymnasiumEnvironments(VALVE, 1) as environment:
        seed = episode_seeds(0, 2)[1]
        first = environment.reset([seed])
        np.testing.assert_array_equal(first[0].astype(np.float32), dataset.observations[ends[0] + 1])


def test_a_file_does_not_decide_what_is_imported(data: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"to make it is to import this package; give --environment valves:Valve-v0"):
        environment_of(load_dataset(data))
    with pytest.raises(DatasetError, match="give --environment"):
        train(tiny("td3_bc", dataset=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_learning_from_data_in_limits_of_its_own(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny("td3_bc", dataset=data, environment=VALVE)
    run = train(config, tmp_path / "run")
    found = result(run)
    assert found["reference_score"] is None and found["average_last_four"] == [None] * 2
    assert found["stepped_by"] == "gymnasium" and all(value < 0 for value in found["average_return"])
    assert_equal_runs(train(config, tmp_path / "two", processes=2), run)
    assert json.loads(json.dumps(read_state(checkpoint(run))[1]["action_limit"])) == [[0.0, -2.0], [1.0, 1.0]]

    capsys.readouterr()
    assert main(["evaluate", str(run), "--episode-count", "2"]) == 0
    said = capsys.readouterr().out
    assert "mean return" in said and "score" not in said
    page = write_report([run], tmp_path / "report.html").read_text()
    assert ">return<" in page and "normalized score" not in page

    policy = tm.load_policy(run, seed=5)
    acted = policy(np.random.default_rng(0).normal(size=(100, 3)) * 100)
    assert (acted >= [0.0, -2.0]).all() and (acted <= [1.0, 1.0]).all() and acted[:, 1].min() < -1.0


@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
@pytest.mark.parametrize("environment", [pytest.param("Pendulum-v1", marks=pytest.mark.slow), VALVE])
def test_agents_resume_to_the_last_bit(environment: str, tmp_path: Path) -> None:
    config = tiny("sac", environment=environment)
    whole = train(config, tmp_path / "whole")
    run = killed(config, tmp_path / "killed", 20)
    assert_equal_runs(train(config, run, resume=True), whole)
    assert_equal_runs(train(config, tmp_path / "two", processes=2), whole)
    assert result(whole)["reference_score"] is None
    seen = load_dataset(whole / "replay/3")
    limits = {"Pendulum-v1": ([-2.0], [2.0]), VALVE: ([0.0, -2.0], [1.0, 1.0])}[environment]
    assert (seen.actions >= limits[0]).all() and (seen.actions <= limits[1]).all()
    assert (np.abs(seen.actions) > 1.0).any()


def test_agents_do_not_go_on_where_chance_has_no_seed(tmp_path: Path) -> None:
    config = tiny("td3", environment="valves:Chancy-v0")
    run = killed(config, tmp_path / "run", 20)
    with pytest.raises(ValueError, match="does not repeat an episode"):
        train(config, run, resume=True)


def test_a_v5_environment(tmp_path: Path) -> None:
    """Data of the same sizes may be learned from, and is scored by returns."""
    schedule = replace(SCHEDULE, updates=4, evaluation_interval=4)
    run = train(tiny("td3_bc", environment="Hopper-v5", schedule=schedule), tmp_path / "run")
    assert result(run)["environment"] == "Hopper-v5" and result(run)["best"] == [None] * 2
    assert all(value > 0 for line in lines(run, "evaluation") for value in line["metrics"]["return_mean"])


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("td3_bc", {"dataset": HOPPER, "environment": "Pendulum-v1"}, "has 11 columns, Pendulum-v1 has 3"),
        ("td3_bc", {"dataset": HOPPER, "environment": "CartPole-v1"}, r"CartPole-v1 takes actions of Discrete\(2\)"),
        ("sac", {"environment": "Pendulm-v1"}, "did you mean Pendulum-v1"),
        ("decision_transformer", {"dataset": HOPPER, "environment": "Hopper-v5"}, "--method.target-return"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run_begins(
    method: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        train(tiny(method, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_linear_policies_play_for_data(tmp_path: Path) -> None:
    """Returns below zero are reached too; what they are a share of has no meaning."""
    wanted = CollectConfig(kind="expert", rows=400, train=True, target_return=-1300.0, training_steps=3000)
    made = collect("Pendulum-v1", tmp_path / "linear.hdf5", wanted)
    assert made.dataset == "pendulum-v1-ars-expert" and made.normalized_score is None
    with pytest.raises(ValueError, match="medium-expert takes a share of --target-return"):
        collect("Pendulum-v1", tmp_path / "x.hdf5", replace(wanted, kind="medium-expert"))
    with pytest.raises(ValueError, match="has no reference return; give --target-return"):
        collect("Pendulum-v1", tmp_path / "x.hdf5", replace(wanted, target_return=None))
