"""Runs that version 0.1 wrote are read, scored, reported, continued and started from as today's are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from former_runs import (
    NAMES,
    RECORDS,
    RENAMED,
    recorded,
    settings_of,
    state_of,
    tensors_of,
    write_checkpoint,
    write_run,
)
from tiny_runs import HOPPER, Killed, checkpoint, lines, result, tensors, tiny, train

from trajmill.algorithms import decision_transformer, language_model, method_named
from trajmill.cli import main
from trajmill.evaluation.rollout import evaluate_policy
from trajmill.experiments.evaluate import EvaluateConfig, evaluate_run, export_run
from trajmill.models.gpt2_files import read_gpt2
from trajmill.report import read_run, score, write_report
from trajmill.runs import processes
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import RunError, read_config, read_start, read_state
from trajmill.training.runner import Runner

KINDS = {"cql": "cql", "fd": "forward_dynamics", "lm": "language_model", "dt": "decision_transformer"}
SCORED = ("cql-scratch-1", "dt-init", "dt-terms")
DONORS = {"dt-init": ("lm-markov-1", 10), "dt-terms": ("lm-text", 300)}
"""run -> what it started from, as named in its settings, and how many tokens that knew"""


def kind_of(name: str) -> str:
    return KINDS[name.partition("-")[0]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what runs of then started from: text is stood for by a chain of as many tokens."""
    folder = tmp_path_factory.mktemp("runs_0_1")
    for donor, count in DONORS.values():
        state = state_of("lm-torchrun", method=replace(settings_of("lm-torchrun").method, state_count=count))
        run = write_run(folder / donor, "lm-torchrun", tensors_of(state), settings={"state_count": count})
        metadata = recorded("lm-torchrun")["metadata"] | {"vocabulary_size": count}
        write_checkpoint(checkpoint(run), tensors_of(state), metadata)
    return folder


@pytest.fixture(scope="module")
def states(home: Path) -> dict[str, Any]:
    """A state of each recorded run, after its 20th update."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name in NAMES:
            state = state_of(name)
            state.step.fill_(20)
            found[name] = tensors_of(state)
    return found


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are named as they were then; what was begun with the device ``auto`` goes on on a CPU."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def finished(states: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All of them, with all their updates; to be read only."""
    folder = tmp_path_factory.mktemp("finished")
    return {name: write_run(folder / name, name, states[name]) for name in NAMES}


# --- the records themselves ---


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_today_have_the_layout_of_then(name: str, states: dict[str, Any]) -> None:
    ours = {key: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for key, tensor in states[name].items()}
    assert ours == recorded(name)["tensors"]


@pytest.mark.parametrize("name", ["cql-scratch-1", "fd-identity", "lm-mapping", "lm-torchrun"])
def test_the_same_command_gives_the_numbers_of_then(name: str, tmp_path: Path) -> None:
    """Up to what another machine, or the two processes of one of them, may round otherwise."""
    run = train(settings_of(name), tmp_path / "run")
    then = [json.loads(line) for line in (RECORDS / name / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines(run)] == [line["gradient_step"] for line in then]
    for ours, theirs in zip(lines(run), then, strict=True):
        assert ours["metrics"].keys() == theirs["metrics"].keys()
        if ours["phase"] == "train" or name.startswith("lm"):  # episodes magnify a rounding
            for metric, values in theirs["metrics"].items():
                assert ours["metrics"][metric] == pytest.approx(values, rel=1e-3, abs=1e-6), metric


# --- reading ---


@pytest.mark.parametrize("name", NAMES)
def test_settings_and_metrics_are_read_in_today_s_form(name: str, finished: dict[str, Path]) -> None:
    run, then = read_run(finished[name]), recorded(name, "config.json")
    assert run.kind == kind_of(name) and run.finished and run.update == 24
    assert run.seeds == tuple(then["seeds"]) and run.variant == then["variant"] and run.dataset == then["dataset"]
    assert set(run.series) <= {"train", "evaluation"} and run.series["train"]
    known = read_config(finished[name])["config"]
    for setting in known["method"].keys() & then["config"].keys():
        if setting not in ("law", "learning_rate"):
            assert known["method"][setting] == then["config"][setting], setting
    assert not known["method"].keys() & known.keys()
    config = settings_of(name)
    assert (config.schedule.updates, config.schedule.log_interval) == (24, 5)


def test_laws_of_then_are_laws_and_targets_now() -> None:
    def law_and_target(name: str) -> tuple[str, str]:
        method = settings_of(name).method
        return method.law, method.target

    assert law_and_target("fd-identity") == ("mdp", "identity")
    assert law_and_target("lm-mapping") == ("iid", "mapping")
    assert law_and_target("lm-torchrun") == ("markov", "next")
    assert settings_of("dt-init").method.extend_positions and settings_of("dt-init").method.shared_projection


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_read_in_today_s_form(name: str, finished: dict[str, Path], states: dict[str, Any]) -> None:
    moving, known = read_state(checkpoint(finished[name]))
    assert known["kind"] == kind_of(name) and known["update"] == 24 and "gradient_step" not in known
    method = method_named(known["kind"])
    assert set(known["method"]) <= set(method.Config.__slots__)
    assert {RENAMED.get(key, key) for key in moving} == states[name].keys()
    for key, tensor in moving.items():
        assert torch.equal(states[name][RENAMED.get(key, key)], tensor), key


# --- evaluate, report, export ---


@pytest.mark.parametrize("name", SCORED)
def test_policies_of_then_play(name: str, finished: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = evaluate_run(finished[name], EvaluateConfig(episode_count=2, episode_seed=5))
    assert evaluation.update == 24 and list(evaluation.seeds) == recorded(name, "config.json")["seeds"]
    policy = method_named(kind_of(name)).policy(state_of(name))
    expected = evaluate_policy(
        policy, "Hopper-v4", seed_count=len(evaluation.seeds), episode_count=2, episode_seed=5, observation_dim=11
    )
    assert evaluation.result.returns.tolist() == expected.returns.tolist()
    assert main(["evaluate", str(finished[name]), "--episode-count", "1", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["update"] == 24


@pytest.mark.parametrize("name", ["fd-identity", "lm-mapping"])
def test_what_has_no_policy_is_not_scored(name: str, finished: dict[str, Path]) -> None:
    with pytest.raises(RunError, match=f"no policy: it is of {kind_of(name)}"):
        evaluate_run(finished[name])


def test_a_report_shows_them_all(finished: dict[str, Path], tmp_path: Path) -> None:
    for name in SCORED:
        scored = score(read_run(finished[name]))
        mean = sum(result(finished[name])["average_last_four"]) / len(scored.run.seeds)
        assert scored.final is not None and scored.final.estimate == pytest.approx(mean)
    page = write_report([run for name, run in finished.items() if name != "dt-terms"], tmp_path / "r.html").read_text()
    assert page.count('data-finished="yes"') == 2
    assert "synthetic-identity" in page and "Learning curves on hopper-sac-replay-10k" in page
    assert "mean squared error" in page and "nats a token" in page
    write_report([finished["dt-terms"]], tmp_path / "terms.html")


def test_a_language_model_of_then_is_exported(finished: dict[str, Path], tmp_path: Path) -> None:
    assert export_run(finished["lm-torchrun"], tmp_path / "gpt2") == 24
    _, learned = language_model.learned(*read_start(finished["lm-torchrun"]))
    _, parameters = read_gpt2(tmp_path / "gpt2")
    assert parameters["wte.weight"].shape == (10, 32)
    assert all(torch.equal(parameters[name], value) for name, value in learned.items())


# --- --init ---


def started(config: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The state that a run begins with."""
    states: list[Any] = []

    def stop(run: object, step: object, state: Any, *_: object, **__: object) -> None:
        states.append(state)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("trajmill.experiments.train.run_schedule", stop)
        with pytest.raises(Killed):
            train(config, folder)
    return states[0]


def test_critics_of_then_are_a_start(
    finished: dict[str, Path], states: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by the command; of full size, since there was no other."""
    words = f"train cql --dataset {HOPPER} --init {finished['fd-identity']} --seeds 0 1 --workers 1 --quiet"
    words += " --method.batch-size 8 --method.learning-rate 1e-12 --schedule.updates 1 --evaluation-episode-count 1"
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    hidden_size = 14 * 256 + 256 + 256 * 256 + 256
    loaded, critic = tensors(tmp_path / "run")["critic"], states["fd-identity"]["critic"]
    torch.testing.assert_close(loaded[:, :hidden_size], critic[:, :hidden_size].repeat(2, 1), rtol=0, atol=1e-9)
    narrow = tiny("cql", init=finished["fd-identity"])
    with pytest.raises(ValueError, match=r"hidden_sizes must be \(256, 256\)"):
        train(narrow, tmp_path / "narrow")


@pytest.mark.parametrize("name", ["lm-mapping", "lm-torchrun"])
def test_backbones_of_then_are_a_start(
    name: str, finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = {"extend_positions": True, "cluster_weight": 0.1, "cluster_count": 5}
    method = replace(settings_of("dt-init").method, **terms)
    config = tiny("decision_transformer", init=finished[name], method={"backbone": method.backbone} | terms)
    state = started(config, tmp_path / "run", monkeypatch)
    _, learned = language_model.learned(*read_start(finished[name]))
    for key, value in state.backbone.parameters.items():
        assert torch.equal(value[0], learned[key]) and torch.equal(value[1], learned[key]), key
    assert torch.equal(state.embeddings.parameters["embed_timestep.weight"][1], learned["wpe.weight"])
    config = replace(config, method=replace(config.method, language_weight=1.0))
    if name == "lm-mapping":
        with pytest.raises(ValueError, match=r"language_weight .* target mapping"):
            train(config, tmp_path / "joint")
        return
    tokens = started(config, tmp_path / "joint", monkeypatch).tokens
    tokens.feed(0, 1)
    wanted = language_model.generate(settings_of(name).method).training(0, 2)["tokens"]
    assert tokens.tokens[0, 0].tolist() == wanted.tolist()


# --- --resume ---


def go_on(name: str, tensors_then: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Updates 21 to 24 of a recorded run, from the tensors of a checkpoint of then."""
    state = state_of(name)
    with torch.no_grad():
        for key, tensor in state.moving().items():
            tensor.copy_(tensors_then[RENAMED.get(key, key)])
    method = method_named(kind_of(name))
    with Runner(method.step, state, 8, done=20) as runner:
        runner.run(4)
    moving: dict[str, torch.Tensor] = state.moving()
    return moving


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_then_is_continued(name: str, states: dict[str, Any], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", name, states[name], update=20)
    train(settings_of(name), run, resume=True)
    then = [json.loads(line) for line in (RECORDS / name / "metrics.jsonl").read_text().splitlines()]
    kept = [line["metrics"] for line in then if line["gradient_step"] <= 20]
    assert [line["metrics"] for line in lines(run)[: len(kept)]] == kept
    assert [line["update"] for line in lines(run)] == [line["gradient_step"] for line in then]
    assert set(result(run)) >= {"updates", "processes", "wall_seconds", "diverged"} and read_run(run).update == 24
    moving, known = read_state(checkpoint(run))
    assert known["kind"] == kind_of(name) and known["update"] == 24
    for key, tensor in go_on(name, states[name]).items():
        assert torch.equal(moving[key], tensor), key
    assert train(settings_of(name), run, resume=True) == run  # finished now


def test_settings_of_then_are_compared_with_those_of_now(states: dict[str, Any], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "dt-init", states["dt-init"], update=20)
    config = settings_of("dt-init")
    for changes, message in (
        ({"method": replace(config.method, extend_positions=False)}, "method.extend_positions was True, now False"),
        ({"method": replace(config.method, batch_size=9)}, "method.batch_size was 8, now 9"),
        ({"seeds": (0, 4)}, "seeds"),
    ):
        with pytest.raises(RunError, match=f"other settings: .*{message}"):
            train(replace(config, **changes), run, resume=True)
    with pytest.raises(RunError, match=r"other settings: .*kind was 'decision_transformer', now 'cql'"):
        train(settings_of("cql-scratch-1"), run, resume=True)


def in_this_process(jobs: Sequence[processes.Job], count: int, **_: Any) -> dict[str, Any]:
    return {job.name: job.work(*job.arguments, lambda *told: None) for job in jobs}


def test_a_run_that_processes_shared_then_is_continued(
    states: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts lie in ``workers``; together they end as one run does."""
    monkeypatch.setattr(processes, "run_jobs", in_this_process)
    name, groups = "cql-scratch-1", ((0,), (3, 5))
    run, whole = tmp_path / "run", states[name]
    write_run(run, name, whole, update=20)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    (run / "metrics.jsonl").write_text("")
    for number, (first, seeds) in enumerate(zip((0, 1), groups, strict=True)):
        part = {key: of_seeds(key, tensor, first, len(seeds)) for key, tensor in whole.items()}
        write_run(run / "workers" / str(number), name, part, update=20, seeds=seeds)
    train(settings_of(name), run, resume=True, processes=None)
    assert result(run)["processes"] == 2 and not (run / "workers").exists() and not (run / "processes").exists()
    moving = tensors(run)
    for key, tensor in go_on(name, whole).items():
        assert torch.equal(moving[key], tensor), key
    assert RunDirectory(run).lines()[-1]["update"] == 24 and len(lines(run)) == len(
        (RECORDS / name / "metrics.jsonl").read_text().splitlines()
    )


def of_seeds(name: str, tensor: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """The rows of some of three seeds."""
    if tensor.ndim == 0:
        return tensor
    if name == "metrics":
        return tensor[:, first : first + count]
    rows = len(tensor) // 3
    return tensor[first * rows : (first + count) * rows]


def test_a_decision_transformer_remembers_what_only_its_metadata_said(tmp_path: Path, states: dict[str, Any]) -> None:
    """Target return and scale of returns were no settings of the method then."""
    known = recorded("dt-init")["metadata"]
    assert "target_return" not in known["method"]
    settings = decision_transformer.settings(
        read_state(checkpoint(write_run(tmp_path / "run", "dt-init", states["dt-init"])))[1]
    )
    assert (settings.target_return, settings.return_scale) == (3600.0, 1000.0)
