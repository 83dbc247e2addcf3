"""An environment whose actions are not within ±1 and which D4RL has no reference scores of: InvertedPendulum."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import checkpoint, tiny

from trajmill.algorithms import method_named, td3_bc
from trajmill.cli import main
from trajmill.core.progress import silent
from trajmill.data import load_dataset, qlearning_transitions, write_d4rl
from trajmill.data.environments import TASKS
from trajmill.evaluation import rollout
from trajmill.experiments.collect import CollectConfig, collect
from trajmill.experiments.evaluate import evaluate_run
from trajmill.experiments.prediction import load_model
from trajmill.experiments.rows import rows_of
from trajmill.experiments.train import train
from trajmill.report import write_report
from trajmill.runs.reading import read_state

PENDULUM = TASKS["invertedpendulum"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pendulum") / "pendulum.hdf5"
    collect("invertedpendulum", path, CollectConfig(kind="random", rows=400))
    return str(path)


@pytest.mark.parametrize("method", ["cql", "td3_bc", "iql", "edac", "decision_transformer"])
def test_policies_learn_and_act_in_the_environments_units(
    method: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[Any] = []
    played: list[float] = []
    prepare, step = method_named(method).prepare, rollout.simulators.BatchedEnvironment.step

    def prepared(config: Any, dataset: Any) -> Any:
        learned.append(dataset.actions)
        return prepare(config, dataset)

    def stepped(self: Any, actions: Any, slots: Any = None) -> Any:
        played.append(float(np.abs(actions).max()))
        return step(self, actions, slots)

    monkeypatch.setattr(method_named(method), "prepare", prepared)
    monkeypatch.setattr(rollout.simulators.BatchedEnvironment, "step", stepped)
    given = {"target_return": 100.0} if method == "decision_transformer" else {}
    run = train(tiny(method, method=given, dataset=data), tmp_path / "run")
    real = load_dataset(data).actions
    assert np.abs(real).max() > 2.5
    np.testing.assert_allclose(learned[0] * PENDULUM.action_limit, real, rtol=1e-6)
    known = read_state(checkpoint(run))[1]
    assert known["action_limit"] == PENDULUM.action_limit

    def full(*_: Any) -> Any:
        return lambda observations: np.ones((*observations.shape[:2], 1), np.float32)

    monkeypatch.setattr(method_named(method), "restore", full)
    played.clear()
    evaluate_run(run)
    assert max(played) == pytest.approx(PENDULUM.action_limit)


def test_a_model_predicts_from_the_actions_it_knows(data: str, tmp_path: Path) -> None:
    """Predicted rows are those of the environment's own actions, in a run that knows them divided."""
    model = train(tiny("world_model", dataset=data), tmp_path / "model")
    config = replace(tiny("td3_bc", dataset=data), predict=model, prediction_rate=1.0, mix=(f"{data}=0.25",))
    rows = rows_of(config, td3_bc, load_dataset(data), load_model(model), PENDULUM.action_limit, silent, {})
    predicted, mixed = rows.parts
    raw = qlearning_transitions(load_dataset(data), "d4rl")
    expected = load_model(model).predict(raw.observation, raw.action)
    goes_on = ~raw.terminal
    np.testing.assert_allclose(predicted.transitions.next_observation[goes_on], expected[goes_on], rtol=1e-5, atol=1e-6)
    for part in (predicted, mixed):
        np.testing.assert_allclose(part.transitions.action * 3.0, raw.action, rtol=1e-6)
    train(config, tmp_path / "run")


def test_values_are_of_the_datas_own_actions(data: str, tmp_path: Path) -> None:
    tensors, known = read_state(checkpoint(train(tiny("td3_bc", dataset=data), tmp_path / "run")))
    raw = qlearning_transitions(load_dataset(data), "d4rl")
    divided = replace(raw, action=raw.action / np.float32(3.0))
    plain = {name: value for name, value in known.items() if name != "action_limit"}
    for function in (td3_bc.data_values, td3_bc.relevance):
        np.testing.assert_allclose(function(tensors, known, raw), function(tensors, plain, divided), rtol=1e-6)


def test_returns_count_where_there_is_no_reference_score(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tiny("td3_bc", dataset=data), tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    assert result["reference_score"] is None and result["average_last_four"] == [None] * 2
    assert all(value > 0 for value in result["average_return"])
    assert main(["evaluate", str(run)]) == 0
    assert "mean return" in capsys.readouterr().out
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "no finite score" not in page and ">return<" in page


def test_a_warning_names_the_environments_own_limit(data: str, tmp_path: Path) -> None:
    real = load_dataset(data)
    columns = {
        name: getattr(real, name) for name in ("observations", "rewards", "terminals", "timeouts", "next_observations")
    }
    path = tmp_path / "more.hdf5"
    write_d4rl(path, actions=real.actions * 2.0, metadata={"environment": PENDULUM.environment_id}, **columns)
    with pytest.warns(match=r"outside \[-3, 3\].*action_limit=3.0"):
        load_dataset(path)
