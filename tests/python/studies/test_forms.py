"""Both forms of paper A's studies: what is stated has not changed, what was released differs in what is listed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajmill.algorithms import cql, decision_transformer, forward_dynamics, language_model
from trajmill.cli import main
from trajmill.data import Subset, load_dataset
from trajmill.studies import cells, measures
from trajmill.studies.authors import authors_runs
from trajmill.studies.cells import ReproduceConfig, path_name
from trajmill.studies.forms import differences, in_form
from trajmill.studies.measures import Authors, Results
from trajmill.studies.paper_a import RELEASED_CQL_SEEDS, RELEASED_DT_SEEDS, RUNS, SEEDS
from trajmill.studies.records import Study
from trajmill.studies.run import all_studies, reproduce
from trajmill.studies.work import estimate
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import plain

HALFCHEETAH = "halfcheetah-sac-replay-10k"
QUICK = ReproduceConfig(quick=True, processes=1, datasets=(HALFCHEETAH,), compute=ComputeConfig(device="cpu"))
STATED = {name: study for name, study in all_studies().items() if study.released is not None}
RELEASED = {name: in_form(study, None) for name, study in STATED.items()}
TEXT = (Path("/wiki.train.raw"),)
BEFORE = "edfd7124da2bf26f4b4b611cee9bac3335174f0eadd78e60b27a63e3ef0c17d2"
"""SHA-256 of the settings of all runs of all studies, as they were before there were two forms"""


def run_settings(study: Study) -> list[Any]:
    """Of every run that the study makes, and of every one that these start from, what is no default."""
    config = ReproduceConfig(seeds=study.seeds, text=TEXT)
    made: list[Any] = []
    for variant in (column.trained for column in study.columns):
        runs = [cells.training_config(variant, "hopper-medium-v2", "Hopper-v4", None, config)]
        runs += [cells.pretraining_config(variant, (11, 3), config)] if variant.start else []
        for run in runs:
            own, defaults = plain(run.method), plain(type(run.method)())
            changed = {name: value for name, value in own.items() if value != defaults[name]}
            made.append([run.variant, list(run.seeds), run.schedule.updates, changed])
        made.append([variant.name, variant.start and variant.start.name, variant.ratio])
        made.append(variant.subset if variant.ratio < 1.0 else "")
    return made


def finetuning(study: str, variant: str) -> Any:
    """Settings of a released variant's runs."""
    found = RELEASED[study].variants[f"{variant}, as released"]
    return cells.training_config(
        found, "hopper-medium-v2", "Hopper-v4", None, ReproduceConfig(seeds=RELEASED[study].seeds)
    )


def pretraining(study: str, variant: str) -> Any:
    """Settings of the method that a released variant starts from."""
    found = RELEASED[study].variants[f"{variant}, as released"]
    return cells.pretraining_config(found, (11, 3), ReproduceConfig(seeds=SEEDS, text=TEXT)).method


def test_what_is_stated_has_not_changed() -> None:
    content = json.dumps({name: run_settings(study) for name, study in STATED.items()}, sort_keys=True, default=str)
    assert hashlib.sha256(content.encode()).hexdigest() == BEFORE


def test_released_transformers_are_those_of_the_authors_code() -> None:
    pretrained = {"extend_positions": True, "shared_projection": True, "strict_budget": True}
    pretrained |= {"adam_epsilon": 1e-6, "positions_twice": True}
    Config = decision_transformer.Config
    assert finetuning("a-table-1", "DT").method == Config(strict_budget=True)
    assert finetuning("a-table-1", "DT+Synthetic").method == Config(**pretrained)
    wiki = Config(**pretrained, cluster_weight=0.1, cluster_term="released", cluster_count=1000)
    assert finetuning("a-table-1", "DT+Wiki").method == wiki
    tokens = language_model.Config
    assert pretraining("a-table-1", "DT+Synthetic") == tokens(stream="reference", schedule_stride=2)
    assert pretraining("a-table-1", "DT+Wiki") == tokens(text=TEXT, text_lines="released", schedule_stride=2)
    assert pretraining("a-table-4", "DT+IID") == tokens(law="iid", stream="reference", schedule_stride=2)


@pytest.mark.parametrize("target", ["identity", "mapping"])
def test_released_controls_have_3500_tokens_and_five_seeds(target: str) -> None:
    name = f"DT+{target.capitalize()}"
    method = pretraining("a-table-27", name)
    assert method == language_model.Config(law="iid", target=target, state_count=3500, schedule_stride=2)  # type: ignore[arg-type]
    made = finetuning("a-table-27", name)
    assert (made.seeds, made.schedule.updates) == ((42, 666, 1024, 6049, 6331), 100_000)
    assert RELEASED["a-table-27"].pretrainings[f"{name}, as released"].updates == 20_000
    (runs,) = authors_runs(RUNS).series(name, ["hopper-medium-v2"]) or []
    assert runs.values.shape[1] == 5
    assert finetuning("a-table-27", "DT").seeds == RELEASED_DT_SEEDS


def test_released_seeds_are_those_of_the_authors_runs() -> None:
    runs = authors_runs(RUNS)
    assert sorted(RELEASED_DT_SEEDS) == sorted(runs.seeds) and len(set(RELEASED_DT_SEEDS)) == 20
    for name in ("DT+Identity", "DT+Mapping"):
        run = np.isfinite(runs.scores[name]).any((0, 2))
        assert {seed for seed, made in zip(runs.seeds, run, strict=True) if made} == set(RELEASED_DT_SEEDS[:5])
    assert set(RELEASED_CQL_SEEDS) ^ set(SEEDS) == {1024, 1042} and len(RELEASED_CQL_SEEDS) == 20
    for study in RELEASED.values():
        of_cql = isinstance(study.columns[0].trained.method, cql.Config)
        assert (
            study.seeds == (RELEASED_CQL_SEEDS if of_cql else RELEASED_DT_SEEDS)
            and STATED[study.name.removesuffix("-released")].seeds == SEEDS
        )
        assert ("1024 where" if of_cql else "authors' Decision") in study.notes[-1]


def test_text_has_the_tokenizer_that_is_asked_for(tmp_path: Path) -> None:
    variant = RELEASED["a-table-1"].variants["DT+Wiki, as released"]
    config = ReproduceConfig(text=TEXT, vocabulary=tmp_path / "gpt2")
    assert cells.pretraining_config(variant, (11, 3), config).method.vocabulary == tmp_path / "gpt2"
    assert cells.pretraining_config(variant, (11, 3), ReproduceConfig(text=TEXT)).method.vocabulary is None
    with pytest.raises(ValueError, match="is for text; give --text too"):
        ReproduceConfig(vocabulary=tmp_path)


def test_a_study_with_fewer_seeds_of_some_variants_is_less_work() -> None:
    stated, released = estimate(STATED["a-table-27"]), estimate(RELEASED["a-table-27"])
    fewer = 2 * 15 * 12 * 100_000 * decision_transformer.SECONDS[0] / 3600
    chain, larger = (language_model.products(language_model.Config(state_count=count)) for count in (100, 3500))
    more = 2 * 20_000 * language_model.SECONDS[0] * (larger / chain - 1) / 3600
    assert stated.cpu_core_hours - released.cpu_core_hours == pytest.approx(fewer - more)


def test_released_critics_are_those_of_the_authors_code() -> None:
    for name in ("CQL", "CQL+MDP", "CQL+IID"):
        assert finetuning("a-table-13", name).method == cql.Config(safe_q_bound="released")
    sizes = {"observation_dim": 11, "action_dim": 3}
    assert pretraining("a-table-13", "CQL+MDP") == forward_dynamics.Config(**sizes, stream="reference")
    uniform = {"policy_temperature": math.inf, "transition_temperature": math.inf}
    assert pretraining("a-table-13", "CQL+IID") == forward_dynamics.Config(**sizes, **uniform)


@pytest.mark.parametrize(("figure", "kind"), [(11, "trajectories"), (17, "transitions")])
def test_released_shares_are_the_authors_draws(figure: int, kind: str, tmp_path: Path) -> None:
    study = RELEASED[f"a-figure-{figure}"]
    assert {v.subset for v in study.variants.values() if v.ratio < 1.0} == {f"released-{kind}"}
    part = next(v for v in study.variants.values() if v.ratio == 0.4)
    drawn = load_dataset(cells._share_of(part, HALFCHEETAH, tmp_path))
    expected = load_dataset(HALFCHEETAH, subset=Subset(f"released-{kind}", 0.4))  # type: ignore[arg-type]
    assert np.array_equal(drawn.observations, expected.observations)
    stated = STATED[f"a-figure-{figure}"].variants[part.authors_name]
    assert cells._share_of(stated, HALFCHEETAH, tmp_path) != cells._share_of(part, HALFCHEETAH, tmp_path)


def test_figures_8_and_9_meet_at_equal_totals() -> None:
    for number, quantities in {8: ("scores", "losses"), 9: ("scores",)}.items():
        study = RELEASED[f"a-figure-{number}"]
        updates = {variant.authors_name: variant.updates for variant in study.variants.values()}
        assert updates == {"DT, +80K updates": 180_000, "DT+Wiki": 100_000, "DT+Synthetic, +60K updates": 160_000}
        starts = [v.start.updates if v.start else 0 for v in study.variants.values()]
        assert [each + before for each, before in zip(updates.values(), starts, strict=True)] == [180_000] * 3
        assert study.quantities == quantities
        assert [column.shifted for column in study.columns] == [False, True, True]
        runs = [authors_runs(RUNS).series(name, ["hopper-medium-v2"]) or [] for name in updates]
        assert [len(each[0].updates) for each in runs] == [36, 20, 32]
        made = [finetuning(f"a-figure-{number}", name).schedule for name in updates]
        assert [each.updates // each.evaluation_interval for each in made] == [36, 20, 32]
    assert finetuning("a-table-26", "DT, +20K updates").schedule.updates == 120_000
    assert RELEASED["a-figure-13"].quantities == ("scores", "losses")


def test_the_forms_share_no_name() -> None:
    def names(studies: dict[str, Study]) -> set[str]:
        variants = [name for study in studies.values() for name in study.variants]
        starts = [name for study in studies.values() for name in study.pretrainings]
        return {path_name(name) for name in (*variants, *starts, *(study.name for study in studies.values()))}

    assert not names(STATED) & names(RELEASED)
    for studies in (STATED, RELEASED):
        known: dict[str, Any] = {}
        for study in studies.values():
            for variant in study.variants.values():
                same = replace(variant, subset="transitions") if variant.ratio == 1.0 else variant
                assert known.setdefault(variant.name, same) == same
    for name, study in STATED.items():
        for stated, released in zip(study.columns, RELEASED[name].columns, strict=True):
            assert replace(released, variant=None) == replace(stated, variant=None)
            assert released.trained.authors_name == stated.trained.authors_name == stated.trained.name


def test_every_difference_is_told_of_the_variants_that_have_it() -> None:
    found = {each.setting: each for each in differences([STATED["a-table-1"]])}
    assert list(found) == [
        "fine-tuning strict_budget",
        "fine-tuning adam_epsilon",
        "fine-tuning positions_twice",
        "fine-tuning cluster_weight",
        "fine-tuning cluster_term",
        "pre-training text_lines",
        "pre-training schedule_stride",
        "pre-training stream",
    ]
    assert found["fine-tuning cluster_weight"].families == ("DT+Wiki",)
    assert found["pre-training schedule_stride"].families == ("DT+Wiki", "DT+Synthetic")
    assert "cosines" in {each.setting for each in differences([STATED["a-weights-dt"]])}
    assert "fine-tuning safe_q_bound released (target) of CQL, CQL+MDP" in in_form(STATED["a-table-6"], None).notes[0]
    assert (
        "fine-tuning safe_q_bound target (released) of CQL, CQL+MDP" in in_form(STATED["a-table-6"], "stated").notes[0]
    )
    assert differences([all_studies()["quick"]]) == []


class OneRun:
    """Stands for one run, of which both forms are measured."""

    path = Path("run")


def test_cosines_are_taken_by_the_rule_of_the_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("backbone_similarities", 0.25), ("feature_similarities", 0.5)):
        measured = {"own": np.array([value]), "released": np.array([value / 2])}
        monkeypatch.setattr(measures, name, lambda run, rule, measured=measured: (np.zeros(1), measured[rule]))
    monkeypatch.setattr(Results, "run", lambda *_: OneRun)
    cache: dict[Any, Any] = {}
    for forms, expected in ((STATED, [0.25, 0.5]), (RELEASED, [0.125, 0.25])):
        study = forms["a-figure-12"]
        results = Results(study, tmp_path, QUICK, {}, _similarities=cache)
        columns = [column for column in study.columns if column.label == "DT+Wiki, PT"]
        values = [results.values(column, HALFCHEETAH) for column in columns]
        assert [float(each[0]) for each in values if each is not None] == expected


def test_the_authors_runs_stand_beside_both_forms() -> None:
    place = ["ant-medium-v2"]
    stated, released = (
        Authors(study=forms["a-figure-1"], runs=authors_runs(RUNS), datasets=("ant-medium-v2",))
        for forms in (STATED, RELEASED)
    )
    for ours, theirs in zip(stated.study.columns, released.study.columns, strict=True):
        one, other = stated.over(ours, place), released.over(theirs, place)
        assert one is not None and other is not None and np.array_equal(one, other)
        curves = stated.curve(ours, place, "losses"), released.curve(theirs, place, "losses")
        assert curves[0] is not None and curves[1] is not None
        assert np.array_equal(curves[0].values, curves[1].values)


def test_a_study_of_one_form_refuses_to_have_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b-rates", "a-figure-7", "quick"):
        with pytest.raises(ValueError, match=f"study {name} has one form alone, got --as stated; leave out --as"):
            reproduce(name, tmp_path, form="stated")
    assert main(["reproduce", "quick", "--as", "released", "--out", str(tmp_path)]) == 1
    assert "one form alone" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["--list", "--check"])
def test_what_runs_nothing_takes_no_form(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", what, "--as", "stated"]) == 2
    assert "--as names the settings of a study that runs" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs_either_form_beside_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates, on text and tokens: released unless told otherwise, in one directory."""
    monkeypatch.setenv("TRAJMILL_DATASETS", str(tmp_path / "texts"))
    (tmp_path / "text").write_text("\n".join(f"some words of line {n}, {n * n} and {n**3}" for n in range(900)))
    words = ["reproduce", "a-table-1", "--quick", "--update-share", "0.02", "--processes", "1", "--quiet"]
    words += ["--datasets", HALFCHEETAH, "--compute.device", "cpu", "--out", str(tmp_path / "out")]
    words += ["--text", str(tmp_path / "text")]
    for form, suffix in ((["--as", "stated"], ""), ([], "-as-released")):
        assert main([*words, *form]) == 0
        (made,) = (tmp_path / "out").glob(f"a-table-1{suffix.removeprefix('-as')}.json")
        facts = json.loads(made.read_text())
        expected = [f"runs/{name}{suffix}/{HALFCHEETAH}" for name in ("dt", "dt+wiki", "dt+synthetic")]
        assert list(facts["runs"].values()) == expected and facts["not_yet"] == {}
        wiki = json.loads((tmp_path / "out" / expected[1] / "config.json").read_text())["config"]
        assert wiki["variant"] == ("DT+Wiki, as released" if suffix else "DT+Wiki")
        assert wiki["method"]["cluster_term"] == ("released" if suffix else "cosine")
        assert Path(wiki["init"]) == tmp_path / f"out/pretraining/dt+wiki{suffix}"
        assert ("authors' code was released" in made.with_suffix(".md").read_text()) == bool(suffix)
