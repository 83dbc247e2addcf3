"""Runs of any method, end to end at toy size: directories, scores, resume, starts, errors."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import (
    ACTING,
    HOPPER,
    METHODS,
    ONLINE,
    SCHEDULE,
    Killed,
    assert_equal_runs,
    checkpoint,
    each,
    killed,
    killing,
    lines,
    result,
    tensors,
    tiny,
    train,
)

from trajmill.algorithms import cql, method_named
from trajmill.cli import main
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import RunError
from trajmill.training.checkpoint import CheckpointError, read_checkpoint
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule

STARTS = {"cql": "forward_dynamics", "decision_transformer": "language_model"}
"""method -> the one that it may start from"""


def described(run: Path, name: str = "config.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


@pytest.mark.parametrize("method", each(METHODS))
def test_a_run_leaves_a_directory(method: str, whole) -> None:
    run, module = whole(tiny(method)), method_named(method)
    config = described(run)
    assert (config["kind"], config["seeds"], config["variant"]) == (method, [5, 3], module.LABEL)
    assert config["config"]["method"]["batch_size"] == 8
    assert [line["update"] for line in lines(run, "train")] == [1, *range(4, 41, 4)]
    measured = [20, 40] if method in ACTING or hasattr(module, "measure") else []
    assert [line["update"] for line in lines(run, "evaluation")] == measured
    assert {len(values) for line in lines(run) for values in line["metrics"].values()} == {2}
    environment = described(run, "environment.json")
    assert environment["command"] == shlex.join(sys.argv) and "torch" in environment["versions"]
    assert result(run)["updates"] == 40 and result(run)["processes"] == 1 and result(run)["diverged"] == {}
    moving, metadata = read_checkpoint(run / "checkpoints" / "step_000000040.safetensors")
    assert (metadata["kind"], metadata["seeds"], metadata["update"]) == (method, [5, 3], 40)
    assert metadata["method"] == config["config"]["method"]
    assert int(moving["step"]) == 40
    assert len(list((run / "checkpoints").iterdir())) == 1


def test_progress_is_told_from_the_first_to_the_last_update(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, str]] = []
    train(tiny("forward_dynamics"), tmp_path / "run", lambda *told: seen.append(told))
    assert seen[0] == ("train", 0, 40, "updates") and seen[-1] == ("train", 40, 40, "updates")
    assert [done for _, done, _, _ in seen] == sorted({done for _, done, _, _ in seen})


def test_infinite_temperature_is_legal_and_json(tmp_path: Path) -> None:
    inf = float("inf")
    config = tiny("forward_dynamics", method={"policy_temperature": inf}, schedule=Schedule(updates=1))
    run = train(config, tmp_path / "run")
    assert described(run)["config"]["method"]["policy_temperature"] == "inf"


@pytest.mark.parametrize("method", each(ACTING))
def test_every_seed_is_scored(method: str, tmp_path: Path) -> None:
    schedule = Schedule(updates=10, log_interval=4, evaluation_interval=2)
    run = train(tiny(method, schedule=schedule, evaluation_episode_count=2), tmp_path / "run")
    config = described(run)
    assert config["dataset"] == ("Hopper-v4" if method in ONLINE else HOPPER)
    assert config["environment"] == "Hopper-v4"
    scores = np.array([line["metrics"]["normalized_score"] for line in lines(run, "evaluation")])
    assert scores.shape == (5, 2) and scores.min() > -5.0 and scores.max() < 120.0
    returns = np.array([line["metrics"]["return_mean"] for line in lines(run, "evaluation")])
    assert scores == pytest.approx(100 * (returns + 20.272305) / (3234.3 + 20.272305))
    assert result(run)["average_last_four"] == pytest.approx(scores[-4:].mean(0).tolist())
    assert result(run)["best"] == pytest.approx(scores.max(0).tolist())
    assert result(run)["reference_score"]["maximum"] == 3234.3
    assert [line["update"] for line in lines(run, "train")] == [1, 4, 8, 10]
    if method == "cql":
        assert set(lines(run, "train")[0]["metrics"]) == set(cql.METRICS)


def with_start(method: str, start: str | None, whole: Callable[..., Path]) -> Any:
    return tiny(method, init=None if start is None else whole(tiny(start)))


@pytest.mark.parametrize("at", [13, 18])
@pytest.mark.parametrize(("method", "start"), [*((name, None) for name in METHODS), *STARTS.items()])
def test_a_killed_run_resumes_to_the_same_numbers(method: str, start: str | None, at: int, whole, broken) -> None:
    """Killed four updates after a checkpoint, and right after one."""
    config = with_start(method, start, whole)
    run = broken(config, at)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "train", "upd')
    train(config, run, resume=True)
    assert_equal_runs(run, whole(config))


@pytest.mark.parametrize("method", each(METHODS))
def test_where_a_run_stops_changes_no_update(method: str, whole) -> None:
    """Also of a method with a period of its own, whose updates are not all alike."""
    changes = {"dropout": False} if method == "language_model" else {}  # is drawn anew at every stop
    often = Schedule(updates=40, log_interval=3, evaluation_interval=40, checkpoint_interval=7, unroll=1)
    seldom = Schedule(updates=40, log_interval=40, evaluation_interval=40, checkpoint_interval=40, unroll=8)
    ours, theirs = (tensors(whole(tiny(method, method=changes, schedule=each))) for each in (often, seldom))
    for name, tensor in ours.items():
        assert name == "metrics" or torch.equal(tensor, theirs[name]), name


def test_an_unfinished_run_is_resumed_on_purpose_and_with_its_settings_alone(broken) -> None:
    config = tiny("cql")
    run = broken(config)
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="unfinished run; go on with --resume"):
        train(config, run)
    with pytest.raises(RunError, match=r"other settings: config.method.cql_weight was 5.0, now 1.0"):
        train(tiny("cql", method={"cql_weight": 1.0}), run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    config = tiny("forward_dynamics", schedule=Schedule(updates=4))
    run = train(config, tmp_path / "run")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="finished run"):
        train(config, run)
    assert train(config, run, resume=True) == run
    assert (run / "metrics.jsonl").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run directory"):
        train(config, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints/step_000000006.safetensors"])
def test_a_damaged_file_is_named(name: str, broken) -> None:
    run = broken(tiny("forward_dynamics"), 8)
    path = run / name
    path.write_text("{" + path.read_text(errors="replace"))
    with pytest.raises(ValueError, match=rf"{name}.* is damaged"):
        train(tiny("forward_dynamics"), run, resume=True)


def test_pretrained_critics_are_where_training_starts(tmp_path: Path, whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the first seed, from a run or from its checkpoint."""
    start = whole(tiny("forward_dynamics"))
    donor = tensors(start)["critic"]
    states: list[cql.State] = []

    def stop(run: object, step: object, state: cql.State, *_: object, **__: object) -> None:
        states.append(state)
        raise Killed

    monkeypatch.setattr("trajmill.experiments.train.run_schedule", stop)
    for init in (start, checkpoint(start)):
        with pytest.raises(Killed):
            train(tiny("cql", init=init), tmp_path / f"run{len(states)}")
    hidden_size = 14 * 16 + 16 + 16 * 16 + 16  # the same parameters lie first in both layouts
    for state in states:
        for row in range(4):
            assert torch.equal(state.critic.flat[row, :hidden_size], donor[row % 2, :hidden_size])
        assert torch.equal(state.target.flat, state.critic.flat)
        assert not torch.equal(state.policy.flat[0], state.policy.flat[1])


def test_one_diverging_seed_is_reported_and_the_others_go_on(tmp_path: Path, whole) -> None:
    with pytest.warns(RuntimeWarning, match="seed 3 diverged at update 1: its q_loss is inf"):
        run = train(tiny("cql", method={"cql_weight": (5.0, 1e38)}), tmp_path / "run")
    sick, healthy = lines(run)[-2]["metrics"], lines(whole(tiny("cql")))[-2]["metrics"]
    assert sick["q_loss"][1] is None
    assert sick["q_loss"][0] == healthy["q_loss"][0]


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, whole) -> None:
    wide = tiny("forward_dynamics", method={"environment": "halfcheetah"}, schedule=Schedule(updates=1))
    start = train(wide, tmp_path / "start")
    (tmp_path / "broken" / "checkpoints").mkdir(parents=True)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nonsense")
    refused: list[tuple[str, dict[str, Any], type[ValueError], str]] = [
        ("cql", {"init": start}, ValueError, "11 observation and 3 action .* 17 and 6"),
        ("cql", {"init": whole(tiny("cql"))}, ValueError, "forward_dynamics.*, not from one of cql"),
        ("cql", {"init": whole(tiny("language_model"))}, ValueError, "not from one of language_model"),
        ("cql", {"init": tmp_path / "broken"}, ValueError, "has no checkpoint"),
        ("cql", {"init": damaged}, CheckpointError, "is damaged"),
        ("cql", {"init": tmp_path}, RunError, "neither a run directory nor a model"),
        ("cql", {"init": whole(tiny("forward_dynamics")), "method": {"hidden_sizes": (8, 8)}}, ValueError, "hidden"),
        ("td3_bc", {"init": whole(tiny("cql"))}, ValueError, "td3_bc cannot start from another run"),
        ("cql", {"environment": "HalfCheetah-v4"}, ValueError, "has 11 columns, HalfCheetah-v4 has 17"),
        ("cql", {"dataset": "nothing"}, ValueError, "not a known data ?set|neither"),
        ("decision_transformer", {"init": whole(tiny("decision_transformer"))}, ValueError, "not from one of dec"),
        ("decision_transformer", {"init": whole(tiny("cql"))}, ValueError, "not from one of cql"),
    ]
    for method, changes, error, message in refused:
        with pytest.raises(error, match=message):
            train(tiny(method, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny("cql", seeds=()), "at least one seed"),
        (lambda: tiny("cql", seeds=(1, 1)), "seeds must differ"),
        (lambda: tiny("cql", evaluation_episode_count=0), "evaluation_episode_count must be at least 1"),
        (lambda: Schedule(updates=0), "updates must be at least 1, got 0"),
        (lambda: tiny("forward_dynamics", method={"state_count": 0}), "state_count must be at least 1"),
        (lambda: tiny("forward_dynamics", method={"policy_temperature": 0.0}), "policy_temperature must"),
        (lambda: ComputeConfig(threads=0), "threads must be at least 1"),
    ],
)
def test_configurations_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_failure_to_create_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("trajmill.runs.directory.write_whole", full)
    with pytest.raises(RunError, match="No space left"):
        train(tiny("forward_dynamics"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", each(ACTING))
def test_a_method_of_full_size_is_trained_and_scored(method: str, tmp_path: Path) -> None:
    settings = {"method": method_named(method).Config(), "seeds": (0,), "schedule": Schedule(updates=20)}
    run = train(replace(tiny(method), **settings), tmp_path / "run")
    assert -5.0 < result(run)["average_last_four"][0] < 120.0


# --- rows on the host ---


@pytest.mark.parametrize("method", each([name for name in METHODS if name != "language_model"]))
def test_rows_on_the_host_give_the_numbers_of_those_on_the_device(method: str, tmp_path: Path, whole) -> None:
    """Language models have them there always."""
    config = tiny(method)
    on_host = replace(config, compute=replace(config.compute, rows="host"))
    run = killed(on_host, tmp_path / "run", 13)
    train(on_host, run, resume=True)
    assert described(run)["config"]["compute"]["rows"] == "host"
    assert_equal_runs(run, whole(config))


def test_a_run_continues_with_its_rows_in_another_place(whole, broken) -> None:
    config = tiny("cql")
    run = broken(config, 13)
    with pytest.warns(RuntimeWarning, match="rows was 'device', now 'host'"):
        train(replace(config, compute=replace(config.compute, rows="host")), run, resume=True)
    assert_equal_runs(run, whole(config))


# --- the command ---


WORDS = f"train cql --dataset {HOPPER} --seeds 0 1 --method.batch-size 8 --method.hidden-sizes 16 16 --quiet"


def test_train_tells_the_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS.split(), "--schedule.updates", "2", "--evaluation-episode-count", "1", "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2 updates of 2 seeds" in text and "average of the last 1 evaluations" in text
    assert main([*words, "--out", str(tmp_path / "run")]) == 1
    assert "finished run" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "other"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == str(tmp_path / "other")
    assert told["average_last_four"] == result(tmp_path / "run")["average_last_four"]


def test_the_command_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str], whole) -> None:
    words = "train forward_dynamics --seeds 5 3 --compute.device cpu --method.batch-size 8 --method.hidden-sizes 16 16"
    words += " --method.length 12 --method.state-count 7 --method.trajectory-count 20 --quiet --schedule.updates 40"
    words += " --schedule.log-interval 4 --schedule.evaluation-interval 20 --schedule.checkpoint-interval 6"
    words += " --schedule.unroll 3"
    with pytest.raises(Killed):
        train(tiny("forward_dynamics"), tmp_path / "run", killing(13))
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*words.split(), "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "40 updates of 2 seeds" in capsys.readouterr().out
    assert_equal_runs(tmp_path / "run", whole(tiny("forward_dynamics")))


def test_what_cannot_be_had_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], whole) -> None:
    start = whole(tiny("language_model"))
    assert main([*WORDS.split(), "--init", str(start), "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"cannot start from {start}: " in told
    assert RunDirectory(tmp_path / "run").path.exists() is False


assert SCHEDULE.checkpoint_interval == 6, "the tests above are killed beside its multiples"
