"""Runs of agents that learn online, end to end at toy size."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import HOPPER, ONLINE, SCHEDULE, assert_equal_runs, checkpoint, killed, lines, tensors, tiny, train

from trajmill import experiments
from trajmill.algorithms import method_named
from trajmill.cli.train import summary_of
from trajmill.core.files import part_of
from trajmill.data import (
    DatasetError,
    DatasetWarning,
    Normalizer,
    environment_of,
    load_dataset,
    qlearning_transitions,
    split_episodes,
    summarize,
    write_d4rl,
)
from trajmill.data.episodes import with_next_rows
from trajmill.evaluation import check_dynamics
from trajmill.experiments.datasets import convert
from trajmill.models.critics import critics, values_of
from trajmill.report import write_report
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.settings import Interaction, Schedule


@pytest.mark.parametrize("method", ONLINE)
@pytest.mark.parametrize("at", [4, 20])
def test_killed_and_resumed_is_never_stopped(method: str, at: int, whole, tmp_path: Path) -> None:
    run = killed(tiny(method), tmp_path / "run", at)
    for path in list(run.glob("replay/*/*")):
        part_of(path).touch()  # as a kill leaves that comes while a file is written
    train(tiny(method), run, resume=True)
    assert_equal_runs(run, whole(tiny(method)))
    files = sorted(path.relative_to(run) for path in run.glob("replay/*/*"))
    assert {path.parts[1] for path in files} == {"3", "5"}
    assert {path.suffix for path in files} == {".safetensors"}


def test_progress_is_told_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    train(tiny("sac", seeds=(3,)), tmp_path / "run", lambda *words: told.append(words))
    steps = lines(tmp_path / "run", "train")[-1]["metrics"]["environment_steps"][0]
    for task, total, unit in (("train", SCHEDULE.updates, "updates"), ("environment", steps, "steps")):
        assert [each for each in told if each[0] == task][-1] == (task, total, total, unit)


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


def test_td3_goes_on_from_td3_bc_as_it_saw_the_world(whole, tmp_path: Path) -> None:
    """Seed by seed, with the standardization of the data, and without a step of chance."""
    before = whole(tiny("td3_bc"))
    config = tiny("td3", init=before, schedule=replace(SCHEDULE, updates=1, checkpoint_interval=1))
    run = train(config, tmp_path / "run")
    known = read_checkpoint(checkpoint(run))[1]
    assert known["normalizer"] == read_checkpoint(checkpoint(before))[1]["normalizer"]
    assert json.loads((run / "config.json").read_text())["config"]["interaction"]["random_steps"] == 0
    old, new = tensors(before)["policy"], tensors(run)["policy"]
    assert (old - new).abs().max() < 0.01 and not torch.equal(tensors(before)["critic"], tensors(run)["critic"])


@pytest.mark.slow
def test_calibrated_critics_of_a_run_that_is_killed_or_shared(whole, tmp_path: Path) -> None:
    calibrated = tiny("cql", method={"calibrated": True, "discount": (0.9, 0.9)})
    run = killed(calibrated, tmp_path / "killed", 20)
    assert_equal_runs(train(calibrated, run, resume=True), whole(calibrated))
    assert_equal_runs(train(calibrated, tmp_path / "two", processes=2), whole(calibrated))


def test_sac_goes_on_from_calibrated_cql(whole, tmp_path: Path) -> None:
    """Without a step of chance, after a warm-up."""
    before = whole(tiny("cql", method={"calibrated": True}))
    shares = [line["metrics"]["replaced_share"] for line in lines(before, "train")]
    assert 0.0 < np.min(shares) <= np.max(shares) <= 1.0
    config = tiny("sac", init=before, schedule=replace(SCHEDULE, updates=1, checkpoint_interval=1))
    run = train(replace(config, interaction=Interaction(random_steps=12, warmup_steps=30)), tmp_path / "run")
    assert read_checkpoint(checkpoint(run))[1]["normalizer"] is None
    assert tensors(run)["ring/steps"] == 16, "of two environments: 30 to warm up, and the first to learn"
    old, new = tensors(before), tensors(run)
    assert 0.0 < (old["critic"] - new["critic"]).abs().max() < 0.01
    assert (old["log_alpha"] - new["log_alpha"]).abs().max() < 0.01
    with pytest.raises(ValueError, match="redq cannot start from another run"):
        train(tiny("redq", init=before), tmp_path / "redq")


START = {"td3": "td3_bc", "sac": "cql"}
"""where online methods may start"""


def after(method: str, whole: Any, **changes: Any) -> Any:
    """A run that goes on from a run of another method, with that run's data in its batches."""
    return tiny(method, init=whole(tiny(START[method])), dataset=HOPPER, **changes)


@pytest.mark.parametrize("method", START)
def test_a_run_says_what_its_critics_say_at_the_start(method: str, whole, tmp_path: Path) -> None:
    """Of data and of its own first rows, of the actions there and of those of its policy: what the run before says."""
    config = after(method, whole, schedule=replace(SCHEDULE, updates=1, checkpoint_interval=1))
    run = train(config, tmp_path / "run")
    ((line,), *_), (kept, known) = [lines(run, "start")], read_checkpoint(checkpoint(whole(tiny(START[method]))))
    assert line["update"] == 0 and lines(run)[0] == line
    critic = critics(14, [0], hidden_sizes=(16, 16)).like(kept["critic"]).parameters
    policy, normalizer = method_named(START[method]).restore(kept, known), Normalizer.of_metadata(known)
    assert (normalizer is None) == (method == "sac")

    def means(observation: Any, action: Any) -> list[float]:
        seen = observation if normalizer is None else normalizer.normalize(observation)
        return values_of(critic, torch.from_numpy(np.concatenate([seen, action], -1))).mean((1, 2)).tolist()

    data = qlearning_transitions(load_dataset(HOPPER), "d4rl")
    rows = np.linspace(0, len(data) - 1, 2048).astype(int)
    own = [read_checkpoint(next((run / f"replay/{seed}").iterdir()))[0] for seed in config.seeds]
    assert [len(rows["reward"]) for rows in own] == [8, 8], "no more than there are before the first update"
    sources = {"q_dataset": (data.observation[rows][None].repeat(2, 0), data.action[rows][None].repeat(2, 0))}
    sources["q_replay"] = tuple(np.stack([rows[name].numpy() for rows in own]) for name in ("observation", "action"))
    for name, (observation, action) in sources.items():
        of_policy = line["metrics"].pop(f"{name}_policy")
        assert line["metrics"].pop(name) == pytest.approx(means(observation, action), rel=1e-4), name
        assert of_policy == pytest.approx(means(observation, policy(observation)), rel=1e-4), name
    assert not line["metrics"]
    said = summary_of(run).text
    assert "before the first update, mean over seeds: q_replay " in said and "q_dataset_policy" in said
    page = write_report([run], tmp_path / "page.html").read_text()
    assert "At the start" in page and "q dataset policy" in page
    found = json.loads((run / "result.json").read_text())["values_at_start"]
    assert found.keys() == {"q_dataset", "q_dataset_policy", "q_replay", "q_replay_policy"}
    alone = train(replace(config, dataset=None), tmp_path / "alone")
    assert lines(alone, "start")[0]["metrics"].keys() == {"q_replay", "q_replay_policy"}


@pytest.mark.slow
@pytest.mark.parametrize("method", START)
def test_saying_so_changes_nothing_and_is_said_once(
    method: str, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is stopped before its first checkpoint or after it, or runs in two processes."""
    config = after(method, whole, interaction=Interaction(random_steps=0, warmup_steps=20))
    unbroken = whole(config)
    assert [line["phase"] for line in lines(unbroken)].count("start") == 1
    for at in (1, 8):
        run = killed(config, tmp_path / str(at), at)
        assert_equal_runs(train(config, run, resume=True), unbroken)
    assert_equal_runs(train(config, tmp_path / "two", processes=2), unbroken)
    monkeypatch.setattr(experiments.train, "values_at_start", lambda *_: {})
    silent = train(config, tmp_path / "silent")
    assert lines(silent)[1:] == lines(unbroken)[1:] and not lines(silent)[0]["metrics"]
    assert all(torch.equal(tensor, tensors(silent)[name]) for name, tensor in tensors(unbroken).items())
    assert not lines(whole(tiny(method)), "start"), "a run from scratch has nothing to say"


def test_calibrated_critics_need_whole_episodes_in_every_part(tmp_path: Path) -> None:
    path = tmp_path / "synthetic.hdf5"
    dataset = with_next_rows(load_dataset(HOPPER))
    write_d4rl(path, **dataset.rows(np.random.default_rng(0).permutation(len(dataset))).to_write())
    for changes in ({"dataset": str(path)}, {"mix": (f"{path}=0.5",)}):
        with pytest.raises(ValueError, match=r"calibrated needs .*synthetic.hdf5.*no order"):
            train(tiny("cql", method={"calibrated": True}, environment="Hopper-v4", **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["sac"])
def test_batches_with_a_share_of_a_dataset(method: str, tmp_path: Path) -> None:
    config = tiny(method, dataset=HOPPER, schedule=replace(SCHEDULE, updates=4))
    alone, mixed = train(replace(config, dataset=None), tmp_path / "alone"), train(config, tmp_path / "mixed")
    assert lines(alone)[0] != lines(mixed)[0]
    assert "dataset_sha256" in read_checkpoint(checkpoint(mixed))[1]


def test_networks_of_another_environment_of_these_sizes_are_named(tmp_path: Path) -> None:
    brief = Schedule(updates=1)
    init = train(tiny("td3_bc", dataset="halfcheetah-sac-replay-10k", seeds=(3,), schedule=brief), tmp_path / "init")
    config = tiny("td3", init=init, seeds=(3,), schedule=brief)
    with pytest.warns(DatasetWarning, match="trained for HalfCheetah-v., agents act in Walker2d-v4"):
        train(replace(config, environment="walker2d"), tmp_path / "run")


def test_a_dataset_of_another_environment_of_these_sizes_is_named(tmp_path: Path) -> None:
    config = tiny("sac", dataset="halfcheetah-sac-replay-10k", seeds=(3,), schedule=Schedule(updates=1))
    with pytest.warns(DatasetWarning, match="recorded in HalfCheetah-v., agents act in Walker2d-v4"):
        train(replace(config, environment="walker2d"), tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DatasetWarning)
        train(replace(config, environment="halfcheetah"), tmp_path / "same")


@pytest.mark.filterwarnings("ignore:.*never change")
def test_a_dataset_of_ant_may_have_the_zeros_of_d4rls_files(tmp_path: Path) -> None:
    """84 contact forces, which were never computed; agents do not see them."""
    generator, ends = np.random.default_rng(0), np.arange(30) == 29
    states = np.pad(generator.normal(size=(31, 27)).astype("f4"), ((0, 0), (0, 84)))
    actions, rewards = generator.uniform(-1, 1, (30, 8)).astype("f4"), np.zeros(30, "f4")
    columns = {"observations": states[:-1], "actions": actions, "rewards": rewards, "next_observations": states[1:]}
    file = write_d4rl(tmp_path / "ant.hdf5", **columns, terminals=np.zeros(30, bool), timeouts=ends)
    config = tiny("sac", environment="ant", dataset=str(file), seeds=(3,), schedule=Schedule(updates=1))
    known = read_checkpoint(checkpoint(train(config, tmp_path / "run")))[1]
    assert known["observation_dim"] == 27


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environment": "chess"}, "unknown environment 'chess'"),
        ({"offline_ratio": 0.2}, "give --dataset too"),
        ({"limit": 200}, "give --dataset too.* cuts episodes, most after 1,000 steps"),
        ({"dataset": HOPPER, "environment": "ant"}, "11 columns"),
        ({"environments": 0}, "environments"),
        ({"environments": 2, "interaction": Interaction(updates_per_step=0.75)}, "whole number"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        train(tiny("sac", **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_methods_take_the_settings_of_their_kind(tmp_path: Path) -> None:
    online, offline = tiny("sac"), tiny("td3_bc")
    for config, wanted in (
        (replace(online, method=offline.method), "Dataset"),
        (replace(offline, method=online.method), "Online"),
    ):
        with pytest.raises(ValueError, match=f"needs an? {wanted}TrainConfig"):
            train(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sac", "td3"])
def test_learning_to_balance_a_pendulum(method: str, tmp_path: Path) -> None:
    """InvertedPendulum is balanced for 1,000 steps, ten times, which a random policy does for about 5."""
    config = tiny(method, environment="InvertedPendulum-v4", environments=1, seeds=(0,), capacity=1_000_000)
    config = replace(
        config,
        method=replace(method_named(method).Config(), hidden_sizes=(64, 64), learning_rate=1e-3),
        interaction=Interaction(random_steps=1000),
        schedule=Schedule(updates=20_000, evaluation_interval=2000),
        evaluation_episode_count=10,
    )
    scores = [line["metrics"]["return_mean"][0] for line in lines(train(config, tmp_path / "run"), "evaluation")]
    assert max(scores) == 1000.0, scores


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
