"""Studies of laws: what they train, what starts from what, and numbers that a slow count confirms."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trajmill as tm
from trajmill.algorithms import language_model, name_of
from trajmill.cli import main
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import token_logits
from trajmill.runs.reading import checkpoints, read_run, read_state
from trajmill.studies import run as running
from trajmill.studies.cells import ReproduceConfig
from trajmill.studies.laws import ACCURACY, HELD_OUT, LOSS, LawResults, LawStudy, Predictor
from trajmill.studies.records import Column, Pretraining, Variant
from trajmill.studies.run import all_studies, plan, reproduce
from trajmill.studies.work import estimate, predict
from trajmill.training.device import ComputeConfig

STUDIES = {name: study for name, study in all_studies().items() if isinstance(study, LawStudy)}
CPU = ComputeConfig(device="cpu")
RECALL = language_model.Config(
    law="associative_recall",
    law_fields=("pairs=2", "vocabulary=10", "power=1"),
    sequence_count=200,
    held_out_count=12,
    batch_size=6,
    length=12,
    position_count=12,
    learning_rate=1e-2,
    warmup_updates=2,
    decay_updates=30,
    dropout=False,
    backbone=GPTConfig(layer_count=1, head_count=1, width=8),
)
BRACKETS = replace(RECALL, law="dyck", law_fields=("pairs=3",))
START = Pretraining(name="brackets", method=BRACKETS, updates=10)
TINY = LawStudy(
    name="tiny-laws",
    title="Tiny",
    columns=(
        Column(label="from scratch", variant=Variant(name="recall", method=RECALL, updates=20)),
        Column(label="after brackets", variant=Variant(name="recall later", method=RECALL, updates=20, start=START)),
    ),
    seeds=(3, 5, 8),
    predictors=(
        Predictor(label="the key's value", losses=lambda law, tokens: law.losses(tokens)),
        Predictor(label="either value", losses=lambda law, tokens: np.full(tokens.shape, math.log(2))),
    ),
    accuracy=True,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> LawResults:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "all_studies", lambda: {"tiny-laws": TINY})
        results = reproduce("tiny-laws", tmp_path_factory.mktemp("study"), ReproduceConfig(compute=CPU))
    assert isinstance(results, LawResults)
    return results


def test_there_is_one_of_each_paper() -> None:
    assert {"laws-chains", "laws-recall"} == set(STUDIES)
    for study in STUDIES.values():
        assert study.title.startswith("Small: ") and len(study.seeds) >= 3
        assert estimate(study).cells == len(study.columns)
        methods = {name_of(variant.method) for variant in study.variants.values()}
        assert methods == {"language_model"}
        assert len({(each.method.law, each.method.law_fields) for each in study.variants.values()}) == 1


def test_every_study_trains_on_sequences_of_its_own_and_never_on_those_held_out() -> None:
    for study in STUDIES.values():
        every = [(variant.method, variant.updates) for variant in study.variants.values()]
        for method, updates in every + [(start.method, start.updates) for start in study.pretrainings.values()]:
            assert updates * method.batch_size <= method.sequence_count - method.held_out_count
            assert updates == method.decay_updates
            assert method.held_out_count % method.batch_size == 0


def test_the_page_the_table_and_the_figure_are_there(done: LawResults) -> None:
    text, page = done.markdown.read_text(), done.report.read_text()
    assert text.startswith("# tiny-laws: Tiny") and "![Tiny](tiny-laws-1.svg)" in text
    assert (done.output / "tiny-laws-1.svg").read_text().startswith("<?xml")
    for label in ("from scratch", "after brackets", "either value"):
        assert label in text and label in page
    facts = json.loads((done.output / "tiny-laws.json").read_text())
    assert facts["columns"] == ["from scratch", "after brackets", "the key's value", "either value"]
    assert list(facts["rows"]) == [LOSS, ACCURACY]
    predicted = [entry["ours"]["estimate"] for entry in facts["rows"][LOSS][2:]]
    assert predicted == [0.0, pytest.approx(math.log(2))]  # of targets alone: keys and gaps cost something


def test_every_seed_starts_from_its_own_pretraining(done: LawResults) -> None:
    before = done.output / "pretraining" / "brackets"
    scratch, later = (read_run(done.runs[name, HELD_OUT]) for name in ("recall", "recall later"))
    assert scratch.settings["init"] is None and later.settings["init"] == str(before)
    assert read_run(before).seeds == scratch.seeds == later.seeds == TINY.seeds
    assert read_run(before).settings["method"]["law"] == "dyck" and read_run(before).update == 10
    tensors, _ = read_state(checkpoints(before)[0])
    assert len({row.numpy().tobytes() for row in tensors["model"]}) == 3


def test_losses_and_accuracies_are_those_of_the_models_that_are_kept(done: LawResults) -> None:
    """Over every target of the held-out rows, one by one."""
    law = tm.AssociativeRecall(pairs=2, vocabulary=10, power=1, seed=42)
    tokens, mask = _sequences(law, 188, 12)
    for place, name in enumerate(("recall", "recall later")):
        tensors, known = read_state(checkpoints(done.runs[name, HELD_OUT])[0])
        table = language_model.TokenTable(language_model.generate(RECALL), 3, 6, torch.device("cpu"), torch.float32)
        model = language_model.create(RECALL, table, known["seeds"]).model.like(tensors["model"]).parameters
        for seed in range(3):
            one = {key: value[seed : seed + 1] for key, value in model.items()}
            losses, hits = [], []
            for row, targets in zip(tokens, mask, strict=True):
                with torch.no_grad():
                    scores = token_logits(one, RECALL.backbone, torch.from_numpy(row)[None, None])[0, 0].double()
                for t in np.flatnonzero(targets):
                    losses.append(-float(torch.log_softmax(scores[t - 1], -1)[row[t]]))
                    hits.append(int(scores[t - 1].argmax()) == row[t])
            assert len(hits) == 12 * 2
            run = read_run(done.runs[name, HELD_OUT])
            measured = run.evaluation("held_out_loss")
            assert measured is not None
            assert measured.values[-1, seed] == pytest.approx(np.mean(losses), rel=1e-4)
            assert running_accuracy(done, name)[seed] == pytest.approx(np.mean(hits))
        entry = done.comparison.rows[ACCURACY][place].ours
        assert entry is not None
        assert entry.estimate == pytest.approx(100 * running_accuracy(done, name).mean())


def running_accuracy(done: LawResults, name: str) -> Any:
    from trajmill.studies.laws import accuracy

    return accuracy(read_run(done.runs[name, HELD_OUT]))


def _sequences(law: tm.AssociativeRecall, first: int, count: int) -> tuple[Any, Any]:
    arrays = {name: np.zeros((count, 12), np.uint8) for name in ("tokens", "loss_mask")}
    law.fill(first, arrays)
    return arrays["tokens"].astype(np.int64), arrays["loss_mask"]


def test_what_is_finished_is_not_trained_again(done: LawResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "all_studies", lambda: {"tiny-laws": TINY})
    kept = {path: path.read_bytes() for path in done.output.rglob("*") if path.is_file()}
    reproduce("tiny-laws", done.output, ReproduceConfig(compute=CPU))
    assert {path: path.read_bytes() for path in done.output.rglob("*") if path.is_file()} == kept


def test_how_long_it_will_take(done: LawResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a study that has not begun, three runs; of a finished one none."""
    monkeypatch.setattr(running, "all_studies", lambda: {"tiny-laws": TINY})
    planned = plan("tiny-laws", ReproduceConfig(compute=CPU))
    left, none = (predict([(planned.cells, planned.config)], output) for output in (tmp_path, done.output))
    assert left.runs == 3 and 0.0 < left.updating_hours < 0.1
    assert none.runs == 0


def test_other_settings_are_refused(done: LawResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "all_studies", lambda: {"tiny-laws": TINY})
    with pytest.raises(ValueError, match=r"seeds"):
        reproduce("tiny-laws", done.output, ReproduceConfig(compute=CPU, seeds=(1, 2)))
    with pytest.raises(ValueError, match="learns sequences of a law: leave out --datasets and --environments"):
        reproduce("tiny-laws", done.output, ReproduceConfig(compute=CPU, datasets=("hopper-sac-replay-10k",)))
    with pytest.raises(ValueError, match="has one form alone"):
        reproduce("tiny-laws", done.output, ReproduceConfig(compute=CPU), form="stated")


@pytest.mark.parametrize("name", STUDIES)
def test_predictors_are_in_order(name: str) -> None:
    """The better one loses less, on few sequences of the study's own law."""
    study = STUDIES[name]
    config = next(iter(study.variants.values())).method
    law = language_model.law_of(config)
    rows = language_model.generate(config).read(0, 64)
    mask = rows.get("loss_mask", np.ones_like(rows["tokens"]))[:, 1:] != 0
    found = [float(each.losses(law, rows["tokens"])[:, 1:][mask].mean()) for each in study.predictors]
    assert found == sorted(found) and len(set(found)) == len(found)
    if name == "laws-recall":  # eight values: known; one of those left; one of all
        assert found == pytest.approx([0.0, math.log(math.factorial(8)) / 8, math.log(8)])


def test_the_command_line_lists_and_runs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "--list", "--json"]) == 0
    assert set(STUDIES) <= set(json.loads(capsys.readouterr().out))
    monkeypatch.setattr(running, "all_studies", lambda: {"tiny-laws": TINY})
    place = ["--out", str(tmp_path), "--compute.device", "cpu"]
    assert main(["reproduce", "tiny-laws", "--estimate", *place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[str(tmp_path)]["runs"] == 3
    assert main(["reproduce", "tiny-laws", "--quick", *place, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["tiny-laws"]
    assert said["study"] == "tiny-laws" and said["rows"][LOSS][0]["column"] == "from scratch"
    assert "QUICK CHECK" in Path(said["markdown"]).read_text()
