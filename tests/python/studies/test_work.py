"""How much work studies are: by what updates multiply, and in hours of this machine, from a few updates."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from gpu import NEEDS_GPU

from trajmill.algorithms import cql, decision_transformer, language_model, name_of
from trajmill.cli import main
from trajmill.experiments import scoring
from trajmill.experiments.settings import DatasetTrainConfig
from trajmill.experiments.train import Probe, probe
from trajmill.models.gpt import GPTConfig
from trajmill.runs.directory import RunDirectory
from trajmill.studies import work
from trajmill.studies.cells import ReproduceConfig
from trajmill.studies.paper_a import STUDIES as PAPER_A
from trajmill.studies.run import names_in, plan
from trajmill.studies.work import Prediction, estimate, predict
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule

HOPPER, HALFCHEETAH = "hopper-sac-replay-10k", "halfcheetah-sac-replay-10k"
CPU = ComputeConfig(device="cpu")
SMALL = ReproduceConfig(datasets=(HOPPER, HALFCHEETAH), seeds=(0, 1, 2, 3), processes=1, compute=CPU)
UPDATE, SCORING = 0.5, 30.0


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for the probe, for which every update and every scoring takes as long; the list has what was tried."""
    configs: list[Any] = []

    def probe(config: Any, seconds: float, *, scored: bool) -> Probe:
        configs.append(config)
        scoring = SCORING * scored * isinstance(config, DatasetTrainConfig)
        return Probe(update_seconds=UPDATE, tensors={}, known={}, scoring_seconds=scoring)

    monkeypatch.setattr(work, "probe", probe)
    return configs


def predicted(name: str, output: Path, config: ReproduceConfig = SMALL) -> Prediction:
    planned = plan(name, config, "stated")
    return predict([(planned.cells, planned.config)], output)


def test_hours_are_counted_from_all_runs_and_all_scorings(tried: list[Any], tmp_path: Path) -> None:
    """Table 13: three variants on two datasets, a million updates each; two starts for each of two sizes."""
    found = predicted("a-table-13", tmp_path / "none")
    assert found.runs == 3 * 2 + 2 * 2
    assert found.updating_hours == pytest.approx((6 * 1_000_000 + 4 * 100_000) * UPDATE / 3600)
    assert found.scoring_hours == pytest.approx(6 * 200 * SCORING / 3600)
    assert found.hours == pytest.approx(found.updating_hours + found.scoring_hours)
    assert [(name_of(each.method), len(each.seeds)) for each in tried] == [("cql", 4), ("forward_dynamics", 1)]
    assert all(each.init is None for each in tried if isinstance(each, DatasetTrainConfig))
    assert not (tmp_path / "none").exists(), "nothing is made"


def test_scoring_beside_the_updates_takes_no_time_of_its_own(tried: list[Any], tmp_path: Path) -> None:
    beside = replace(SMALL, compute=replace(CPU, evaluation="beside"))
    found = predicted("a-table-13", tmp_path, beside)
    assert found.hours == pytest.approx(found.updating_hours) and found.scoring_hours > 0.0
    assert "scoring beside them" in str(found) and "threads" not in str(found)
    often = replace(beside, update_share=0.0002, evaluation_count=200)
    found = predicted("a-table-13", tmp_path, often)
    assert found.hours == pytest.approx(6 * 200 * SCORING / 3600 + 4 * 20 * UPDATE / 3600), "whatever takes longer"
    assert "--compute.threads gives the scoring more cores" in str(found)
    shared = predicted("a-table-13", tmp_path, replace(SMALL, processes=2))
    assert shared.hours == pytest.approx(predicted("a-table-13", tmp_path).hours / 2)


def test_finished_runs_take_no_time(tried: list[Any], tmp_path: Path) -> None:
    whole = predicted("a-table-13", tmp_path)
    for name in (f"runs/cql/{HOPPER}", "pretraining/cql+mdp-11-3"):
        RunDirectory.open(tmp_path / name, {"kind": "cql"}).finish({})
    left = predicted("a-table-13", tmp_path)
    assert left.runs == whole.runs - 2
    assert whole.updating_hours - left.updating_hours == pytest.approx(1_100_000 * UPDATE / 3600)
    RunDirectory.open(tmp_path / f"runs/cql/{HALFCHEETAH}", {"kind": "cql"})
    assert predicted("a-table-13", tmp_path) == left, "one that was begun"


def test_studies_share_runs_and_other_sizes_take_other_times(tried: list[Any], tmp_path: Path) -> None:
    planned = [plan(name, SMALL, "stated") for name in ("a-table-3", "a-table-20", "a-figure-1")]
    found = predict([(each.cells, each.config) for each in planned], tmp_path)
    assert found.runs == (1 + 5) * 2 + 5, "DT and five chains, on two datasets; DT+Wiki has no text"
    least = next(each for each in tried if name_of(each.method) == "language_model")
    assert least.method.state_count == 10, "the one that takes least is tried"
    chains = [language_model.products(language_model.Config(state_count=10**n)) for n in range(1, 6)]
    of_chains = 20_000 * sum(each / chains[0] for each in chains)
    assert found.updating_hours == pytest.approx((12 * 100_000 + of_chains) * UPDATE / 3600)


def test_what_a_transformer_multiplies() -> None:
    """A block has 12 width² weights, and attends to all tokens of its sequence twice; a head has one row a token."""
    backbone = GPTConfig(layer_count=2, width=8)
    tokens = language_model.Config(batch_size=3, length=10, state_count=50, backbone=backbone)
    assert language_model.products(tokens) == 3 * 10 * (2 * (12 * 64 + 2 * 10 * 8) + 8 * 50)
    text = replace(tokens, text=(Path("text"),), vocabulary_size=1000)
    assert language_model.products(text) - language_model.products(tokens) == 3 * 10 * 8 * 950
    windows = decision_transformer.Config(batch_size=3, context_length=4, backbone=backbone)
    assert decision_transformer.products(windows) == 3 * 12 * 2 * (12 * 64 + 2 * 12 * 8)


def test_text_with_a_large_vocabulary_is_more_work_than_a_chain() -> None:
    studies = {study.name: study for study in PAPER_A}
    whole = estimate(studies["a-table-1"])
    without = estimate(replace(studies["a-table-1"], columns=studies["a-table-1"].columns[::2]))
    wiki = whole.cpu_core_hours - without.cpu_core_hours - 12 * 20 * 100_000 * 0.15 / 3600
    chain = 80_000 * 7.0 / 3600
    assert 4.0 < wiki / chain < 8.0


def test_agents_that_learn_online_are_not_predicted(tmp_path: Path) -> None:
    planned = plan("c-online-small")
    with pytest.raises(ValueError, match="learns online, so a few updates do not tell"):
        predict([(planned.cells, planned.config)], tmp_path)


def test_a_probe_scores_whole_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, played = [0.0], list[int]()

    def evaluate(*_: Any, maximum_steps: int, **__: Any) -> Any:
        played.append(maximum_steps)
        clock[0] += 2.0 + 0.25 * maximum_steps  # seconds to begin, and for each step
        return SimpleNamespace(returns=np.zeros((1, 1)), normalized_scores=np.zeros(1))

    config = DatasetTrainConfig(
        dataset=HOPPER, method=cql.Config(batch_size=4, hidden_sizes=(4,)), schedule=Schedule(updates=1), compute=CPU
    )
    assert probe(config, 0.0).scoring_seconds == 0.0
    monkeypatch.setattr(scoring, "evaluate_policy", evaluate)
    monkeypatch.setattr(scoring.time, "monotonic", lambda: clock[0])
    assert probe(config, 0.0, scored=True).scoring_seconds == pytest.approx(2.0 + 0.25 * 1000)
    assert max(played) < 100


def test_a_paper_s_letter_names_all_of_its_studies() -> None:
    assert names_in("a") == [study.name for study in PAPER_A] and "a-small-dt" not in names_in("a")
    assert names_in("a-small-dt") == ["a-small-dt"] and len(names_in("b")) > 3
    with pytest.raises(ValueError, match="no study 'd'"):
        names_in("d")


def test_the_command_predicts_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PROBE_SECONDS", 0.01)
    words = ["--quick", "--datasets", HOPPER, "--compute.device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["reproduce", "a-curves-cql", "a-table-28", *words, "--estimate", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out).values()
    assert told["runs"] == 2 + 4 and 0.0 < told["hours"] < math.inf and told["scoring_hours"] > 0.0
    assert not (tmp_path / "out").exists()
    assert main(["reproduce", "a-curves-cql", *words, "--estimate", "--quiet"]) == 0
    assert "5 runs are left, which will take about" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
def test_hours_are_predicted_on_a_gpu(device: Literal["cuda"], tmp_path: Path) -> None:
    config = ReproduceConfig(quick=True, datasets=(HOPPER,), compute=ComputeConfig(device=device))
    found = predicted("a-equal-updates-dt", tmp_path, config)
    assert found.beside and found.processes == 1 and found.machine == torch.cuda.get_device_name()
    assert 0.0 < found.hours < math.inf and found.scoring_hours > 0.0


def test_several_names_share_their_runs_and_say_first_how_long_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tried: list[Any]
) -> None:
    reproduced: list[Any] = []
    nothing = SimpleNamespace(failed={})
    monkeypatch.setattr("trajmill.cli.reproduce.reproduce", lambda *asked: reproduced.append(asked) or nothing)
    monkeypatch.setattr("trajmill.cli.reproduce._facts", lambda done: {})
    monkeypatch.setattr("trajmill.cli.reproduce._shown", lambda done: "")
    words = ["--datasets", HOPPER, "--seeds", "0", "--compute.device", "cpu", "--out", str(tmp_path)]
    assert main(["reproduce", "a", "--as", "stated", *words]) == 0
    assert [name for name, *_ in reproduced] == names_in("a")
    forms = {name: form for name, *_, form, _ in reproduced}
    assert forms.pop("a-figure-7") is None, "it has one form alone"
    assert set(forms.values()) == {"stated"}
    assert f"{tmp_path}: " in capsys.readouterr().err
    assert main(["reproduce", "a-table-1", "a-figure-7", "--as", "stated", *words]) == 1
    assert "a-figure-7 has one form alone" in capsys.readouterr().err
