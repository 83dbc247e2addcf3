"""The CQL pipelines end to end at toy size: run directories, resume, transfer, scores, errors."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import trajmill
from trajmill.algorithms.cql import CQLConfig
from trajmill.algorithms.forward_dynamics import ForwardDynamicsConfig
from trajmill.evaluation.rollout import EvaluationResult
from trajmill.pipelines import cql as pipeline
from trajmill.pipelines import finetuning
from trajmill.pipelines.cql import ComputeConfig, PretrainCQLConfig, TrainCQLConfig, pretrain_cql, train_cql
from trajmill.pipelines.run_directory import RunDirectoryError
from trajmill.pipelines.schedule import Schedule
from trajmill.training.checkpoint import CheckpointError, read_checkpoint

HOPPER = "hopper-sac-replay-10k"
CPU = ComputeConfig(device="cpu")


class StandInMDP:
    """What the pipeline asks of an MDP."""

    def __init__(self, **settings: object) -> None:
        self.settings = settings

    def sample(self, *, trajectory_count: int, length: int) -> SimpleNamespace:
        rng = np.random.default_rng(self.settings["seed"])
        states = rng.integers(self.settings["state_count"], size=(trajectory_count, length + 1), dtype=np.uint8)
        actions = rng.integers(self.settings["action_count"], size=(trajectory_count, length), dtype=np.uint8)
        return SimpleNamespace(states=states, actions=actions)

    def state_vectors(self, dim: int) -> np.ndarray:
        return np.random.default_rng(1).uniform(-1, 1, (self.settings["state_count"], dim)).astype(np.float32)

    def action_vectors(self, dim: int) -> np.ndarray:
        return np.random.default_rng(2).uniform(-1, 1, (self.settings["action_count"], dim)).astype(np.float32)


def played(act, environment_id, *, seed_count, episode_count, episode_seed, observation_dim) -> EvaluationResult:
    """A stand-in for an evaluation: returns depend on what the policy does and on the series of episodes."""
    shape = (1, episode_count, observation_dim)
    observation = np.random.default_rng(episode_seed).normal(size=shape).astype(np.float32)
    action = act(np.repeat(observation, seed_count, 0))
    assert action.shape == (seed_count, episode_count, 3)
    return EvaluationResult(
        environment_id=environment_id,
        returns=1000.0 * action.astype(np.float64).sum(-1),
        lengths=np.ones((seed_count, episode_count), np.int64),
        episode_seed=episode_seed,
        maximum_steps=1000,
        exact=False,
        margin_fix=True,
        versions={},
    )


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajmill, "MDP", StandInMDP, raising=False)
    monkeypatch.setattr(finetuning, "evaluate_policy", played)


def pretrain_config(**changes: object) -> PretrainCQLConfig:
    settings = {
        "observation_dim": 11,
        "action_dim": 3,
        "trajectory_count": 10,
        "length": 50,
        "method": ForwardDynamicsConfig(batch_size=16),
        "schedule": Schedule(updates=20, log_interval=5, checkpoint_interval=10),
        "compute": CPU,
    }
    return PretrainCQLConfig(**settings | changes)


def train_config(**changes: object) -> TrainCQLConfig:
    settings = {
        "dataset": HOPPER,
        "seeds": (0, 7),
        "evaluation_episode_count": 2,
        "method": CQLConfig(batch_size=16),
        "schedule": Schedule(updates=20, log_interval=4, evaluation_interval=4, checkpoint_interval=8, unroll=3),
        "compute": CPU,
    }
    return TrainCQLConfig(**settings | changes)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def without_clock(path: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "wall_seconds"} for line in read(path)]


def test_pretraining_leaves_a_run_directory(tmp_path: Path) -> None:
    seen = []
    run = pretrain_cql(pretrain_config(), tmp_path / "run", lambda *report: seen.append(report))
    config = json.loads((run / "config.json").read_text())
    assert (config["kind"], config["seeds"], config["variant"]) == ("pretrain_cql", [42], "MDP")
    assert config["config"]["method"]["batch_size"] == 16
    lines = read(run)
    assert [(line["phase"], line["gradient_step"]) for line in lines] == [("pretrain", n) for n in (1, 5, 10, 15, 20)]
    assert {len(values) for line in lines for values in line["metrics"].values()} == {1}
    assert seen[0] == ("pretrain", 0, 20, "updates") and seen[-1] == ("pretrain", 20, 20, "updates")
    environment = json.loads((run / "environment.json").read_text())
    assert environment["command"] == shlex.join(sys.argv)
    assert environment["versions"]["torch"] == torch.__version__ or environment["versions"]["torch"]
    assert json.loads((run / "result.json").read_text())["gradient_steps"] == 20
    tensors, metadata = read_checkpoint(run / "checkpoints" / "step_000000020.safetensors")
    assert metadata["kind"] == "pretrain_cql" and metadata["observation_dim"] == 11
    assert int(tensors["step"]) == 20
    assert len(list((run / "checkpoints").iterdir())) == 1


def test_infinite_temperature_is_legal_and_json(tmp_path: Path) -> None:
    inf = float("inf")
    run = pretrain_cql(pretrain_config(policy_temperature=inf, transition_temperature=inf), tmp_path / "run")
    assert json.loads((run / "config.json").read_text())["config"]["policy_temperature"] == "inf"


def test_training_scores_every_seed(tmp_path: Path) -> None:
    run = train_cql(train_config(), tmp_path / "run")
    config, result = (json.loads((run / name).read_text()) for name in ("config.json", "result.json"))
    assert (config["kind"], config["dataset"], config["environment"]) == ("train_cql", HOPPER, "Hopper-v4")
    scores = np.array([x["metrics"]["normalized_score"] for x in read(run) if x["phase"] == "evaluation"])
    assert scores.shape == (5, 2)
    assert result["average_last_four"] == pytest.approx(scores[-4:].mean(0).tolist())
    assert result["reference_score"]["maximum"] == 3234.3
    assert result["best"] == pytest.approx(scores.max(0).tolist())
    finetune = [line for line in read(run) if line["phase"] == "finetune"]
    assert [line["gradient_step"] for line in finetune] == [1, 4, 8, 12, 16, 20]
    assert set(finetune[0]["metrics"]) == set(pipeline.cql.METRICS)


class Killed(Exception):
    pass


@pytest.mark.parametrize("init", [False, True])
def test_a_killed_run_resumes_to_the_same_numbers(tmp_path: Path, init: bool) -> None:
    start = pretrain_cql(pretrain_config(), tmp_path / "start") if init else None
    config = train_config(init=start)
    unbroken = train_cql(config, tmp_path / "unbroken")

    def kill(task: str, completed: int, total: int, unit: str) -> None:
        if completed >= 12:
            raise Killed

    with pytest.raises(Killed):
        train_cql(config, tmp_path / "killed", kill)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "finetune", "gradi')
    with pytest.raises(RunDirectoryError, match="unfinished run; add --resume"):
        train_cql(config, tmp_path / "killed")
    different = dataclasses.replace(config, method=CQLConfig(batch_size=16, cql_weight=1.0))
    with pytest.raises(RunDirectoryError, match=r"other settings: config.method.cql_weight was 5.0, now 1.0"):
        train_cql(different, tmp_path / "killed", resume=True)
    train_cql(config, tmp_path / "killed", resume=True)

    assert without_clock(tmp_path / "killed") == without_clock(unbroken)
    ours, theirs = (
        read_checkpoint(path / "checkpoints" / "step_000000020.safetensors")[0]
        for path in (tmp_path / "killed", unbroken)
    )
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    run = pretrain_cql(pretrain_config(), tmp_path / "run")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunDirectoryError, match="finished run; choose another directory"):
        pretrain_cql(pretrain_config(), run)
    assert pretrain_cql(pretrain_config(), run, resume=True) == run
    assert (run / "metrics.jsonl").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="no run directory"):
        pretrain_cql(pretrain_config(), tmp_path / "other")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints/step_000000010.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    def kill(task: str, completed: int, total: int, unit: str) -> None:
        if completed >= 10:
            raise Killed

    with pytest.raises(Killed):
        pretrain_cql(pretrain_config(), tmp_path / "run", kill)
    path = tmp_path / "run" / name
    path.write_text("{" + path.read_text(errors="replace"))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        pretrain_cql(pretrain_config(), tmp_path / "run", resume=True)


def test_pretrained_critics_are_where_training_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = pretrain_cql(pretrain_config(seeds=(42, 43)), tmp_path / "start")
    donor = read_checkpoint(next((start / "checkpoints").iterdir()))[0]["critic"]
    states = []

    def stop(run: object, step: object, state: object, *_: object, **__: object) -> float:
        states.append(state)
        raise Killed

    monkeypatch.setattr(pipeline, "run_schedule", stop)
    for init in (start, next((start / "checkpoints").iterdir())):
        with pytest.raises(Killed):
            train_cql(train_config(init=init), tmp_path / f"run{len(states)}")
    hidden_size = 14 * 256 + 256 + 256 * 256 + 256  # the same parameters lie first in both layouts
    for state in states:
        for row in range(4):
            assert torch.equal(state.critic.flat[row, :hidden_size], donor[row % 2, :hidden_size])
        assert torch.equal(state.target.flat, state.critic.flat)


def test_one_diverging_seed_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    clean = train_cql(train_config(seeds=(0, 7)), tmp_path / "clean")
    weights = (5.0, 1e38)
    with pytest.warns(
        RuntimeWarning, match="seed 7 diverged at update 1: its q_loss is inf; it gets no score, other seeds go on"
    ):
        run = train_cql(train_config(method=CQLConfig(batch_size=16, cql_weight=weights)), tmp_path / "run")
    sick, healthy = read(run)[-2]["metrics"], read(clean)[-2]["metrics"]
    assert sick["q_loss"][1] is None
    assert sick["q_loss"][0] == healthy["q_loss"][0]


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    start = pretrain_cql(pretrain_config(observation_dim=17, action_dim=6), tmp_path / "start")
    finished = train_cql(train_config(), tmp_path / "finished")
    (tmp_path / "broken").mkdir()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nonsense")
    for changes, error, message in (
        ({"init": start}, ValueError, "pre-trained for 17 observation and 6 action numbers, .* has 11 and 3"),
        ({"init": finished}, ValueError, "must be a checkpoint of pretrain_cql, got one of train_cql"),
        ({"init": tmp_path / "broken"}, ValueError, "has no checkpoint"),
        ({"init": damaged}, CheckpointError, "is damaged"),
        ({"environment": "HalfCheetah-v4"}, ValueError, "HalfCheetah-v4 has 17 observation and 6 action numbers"),
        ({"dataset": "nothing"}, ValueError, "neither a file nor a known data set"),
    ):
        with pytest.raises(error, match=message):
            train_cql(train_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: train_config(seeds=()), "at least one seed"),
        (lambda: train_config(evaluation_episode_count=0), "evaluation_episode_count must be at least 1"),
        (lambda: Schedule(updates=0), "updates must be at least 1, got 0"),
        (lambda: pretrain_config(state_count=0), "state_count must be at least 1"),
        (lambda: pretrain_config(policy_temperature=0.0), "policy_temperature must be in"),
        (lambda: ComputeConfig(threads=0), "threads must be at least 1"),
    ],
)
def test_configurations_are_checked(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_failure_to_create_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("trajmill.pipelines.run_directory.write_whole", full)
    with pytest.raises(RunDirectoryError, match="run cannot be made a run directory: No space left"):
        pretrain_cql(pretrain_config(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_real_data_real_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trajmill.evaluation.rollout import evaluate_policy

    monkeypatch.setattr(finetuning, "evaluate_policy", evaluate_policy)
    config = train_config(
        method=CQLConfig(), schedule=Schedule(updates=40, log_interval=20, evaluation_interval=20), seeds=(0,)
    )
    run = train_cql(config, tmp_path / "run")
    scores = json.loads((run / "result.json").read_text())["average_last_four"]
    assert -5.0 < scores[0] < 120.0
