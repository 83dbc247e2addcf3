"""The authors' own runs of paper A: what the file holds, the check of printed numbers, and their place beside ours."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from trajmill.algorithms import cql, decision_transformer, forward_dynamics, language_model
from trajmill.cli import main
from trajmill.data.environments import REFERENCE_SCORES, TASKS
from trajmill.studies.authors import authors_runs
from trajmill.studies.cells import ReproduceConfig
from trajmill.studies.check import checked_numbers
from trajmill.studies.drawings import drawn_figures
from trajmill.studies.measures import Results
from trajmill.studies.paper_a import DATASETS, RUNS, SEEDS
from trajmill.studies.records import Column
from trajmill.studies.run import all_studies, check

STUDIES = {name: study for name, study in all_studies().items() if study.authors}
BORDERLINE = {
    ("a-table-5", "40K", "hopper-medium-expert-v2", "deviation", 8.1, 8.1501),
    ("a-table-21", "IID", "halfcheetah-medium-replay-v2", "mean", 41.4, 41.3485),
    ("a-table-26", "DT+20K", "ant-medium-replay-v2", "deviation", 4.0, 4.0501),
}
"""within 0.002 of a tie, which the two decimals of the file's scores can decide"""


def test_every_variant_of_the_decision_transformer_half_has_its_runs() -> None:
    runs = authors_runs(RUNS)
    variants = {name for study in STUDIES.values() for name in study.variants}
    assert set(runs.scores) == set(runs.losses) == variants
    assert runs.datasets == DATASETS and len(runs.seeds) == 20


def test_the_file_holds_what_was_recorded() -> None:
    runs = authors_runs(RUNS)
    (scores,) = runs.series("DT", ["hopper-medium-v2"]) or []
    (losses,) = runs.series("DT", ["hopper-medium-v2"], losses=True) or []
    assert runs.seeds[:4] == (42, 666, 684, 1024)
    assert scores.values[:2, [0, 3]].tolist() == [[52.62, 40.71], [49.60, 53.67]]
    assert losses.values[-2:, 3].tolist() == [0.05961, 0.05927]
    assert scores.updates.tolist() == list(range(5000, 100_001, 5000))
    (longer,) = runs.series("DT, +80K updates", ["ant-medium-v2"]) or []
    assert longer.values.shape == (36, 20) and np.isfinite(longer.values).all()


def test_series_have_the_seeds_that_all_datasets_share() -> None:
    runs, name = authors_runs(RUNS), "DT+IID, 20% of the data"
    five, four = (runs.series(name, [f"{each}-medium-v2"]) or [] for each in ("hopper", "ant"))
    assert (five[0].values.shape, four[0].values.shape) == ((20, 5), (20, 4))
    both = runs.series(name, ["hopper-medium-v2", "ant-medium-v2"]) or []
    kept = [
        index for index in range(5) if any((both[0].values[:, i] == five[0].values[:, index]).all() for i in range(4))
    ]
    assert [each.values.shape for each in both] == [(20, 4)] * 2 and len(kept) == 4
    assert (both[1].values == four[0].values).all()
    assert runs.series("DT+Wiki, 40% of the data", list(DATASETS)) is None  # two datasets were not run
    assert runs.series("DT", ["hopper-sac-replay-10k"]) is runs.series("no variant", ["ant-medium-v2"]) is None


def test_printed_numbers_follow_from_the_runs_and_those_that_do_not_are_known() -> None:
    checked = check()
    assert set(checked) == {f"a-table-{number}" for number in (*range(1, 6), 11, *range(18, 23), 26, 27)}
    assert sum(map(len, checked.values())) == 1703
    differing = [(study, each) for study, numbers in checked.items() for each in numbers if not each.agrees]
    other_runs = [each for study, each in differing if (study, each.column) == ("a-table-26", "DT")]
    assert len(other_runs) == 26  # all of that column: the paper took other runs than for Table 1
    assert {
        (study, each.column, each.place, each.what, each.printed, round(each.runs, 4))
        for study, each in differing
        if each not in other_runs
    } == BORDERLINE


def test_table_1_comes_out_digit_for_digit() -> None:
    numbers = check("a-table-1")["a-table-1"]
    assert len(numbers) == 3 * 2 * 13 and all(f"{each.runs:.1f}" == f"{each.printed}" for each in numbers)
    means = [round(each.runs, 2) for each in numbers if (each.place, each.what) == ("average", "mean")]
    assert means == [67.69, 69.88, 73.56]


def test_a_wrong_digit_is_found() -> None:
    study, key, dataset = STUDIES["a-table-11"], "table-11/DT", "ant-medium-v2"
    printed = (study.printed or {})[key]
    wrong = replace(printed, means={**printed.means, dataset: printed.means[dataset] + 0.1})
    numbers = checked_numbers(replace(study, printed={**(study.printed or {}), key: wrong}))
    assert [(each.column, each.place) for each in numbers if not each.agrees] == [("DT", dataset)]


def test_cosines_that_the_authors_found_stand_beside_ours() -> None:
    class Measured(Results):
        def over(self, column: Column, datasets: list[str]) -> np.ndarray:
            return np.full((2, len(datasets)), 0.9)

    run = {("DT", DATASETS[0]): Path("not read")}
    weights, features = drawn_figures(Measured(STUDIES["a-figure-12"], Path(), ReproduceConfig(), run))
    assert "DT+Wiki, PT, paper: 0.842" in weights and "DT+Wiki, PT, paper: 0.328" in features
    assert "DT+Wiki, PT: 0.900" in weights and "RI, paper" not in weights  # the random start is a picture alone


def test_the_command_checks_without_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--check"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1,674 of 1,703 printed numbers" in text and "8.1501" in text
    assert main(["reproduce", "a-table-2", "--check", "--json"]) == 0
    (numbers,) = json.loads(capsys.readouterr().out).values()
    assert len(numbers) == 104 and all(each["agrees"] for each in numbers)
    for name in ("a-table-6", "a-table-99"):
        assert main(["reproduce", name, "--check"]) == 1
        assert "a-table-1" in capsys.readouterr().err


def test_settings_that_the_paper_prints_are_our_defaults() -> None:
    printed = json.loads((files("trajmill.studies") / "paper_a.json").read_text(encoding="utf-8"))["settings"]

    def of(table: int, **names: object) -> None:
        assert {name: printed[f"table-{table}"][name.replace("_", " ")] for name in names} == names

    tokens, dt = language_model.Config(), decision_transformer.Config()
    of(9, layers=tokens.backbone.layer_count, heads=tokens.backbone.head_count, updates=tokens.decay_updates)
    of(9, embedding_dimension=tokens.backbone.width, sequence_length=tokens.length, learning_rate=tokens.learning_rate)
    of(9, sequences_in_a_batch=tokens.batch_size, dropout=tokens.backbone.residual_dropout)
    of(9, weight_decay=tokens.weight_decay)
    of(10, layers=dt.backbone.layer_count, heads=dt.backbone.head_count, embedding_dimension=dt.backbone.width)
    of(10, batch_size=dt.batch_size, context_length=dt.context_length, dropout=dt.backbone.residual_dropout)
    of(10, learning_rate=dt.learning_rate, gradient_norm=dt.clip_norm)
    for name in ("halfcheetah", "hopper", "walker2d", "ant"):
        assert printed["table-10"][f"return-to-go, {name}"] == TASKS[name].target_return
        reference = REFERENCE_SCORES[name]
        assert printed["table-17"][name] == [reference.minimum, reference.maximum]
    dynamics, critics = forward_dynamics.Config(), cql.Config()
    of(15, batch_size=dynamics.batch_size, learning_rate=dynamics.learning_rate, states=dynamics.state_count)
    of(15, trajectories=dynamics.trajectory_count, trajectory_length=dynamics.length, actions=dynamics.action_count)
    of(15, updates=forward_dynamics.SCHEDULE.updates, hidden_layers=2, hidden_size=dynamics.hidden_sizes[0])
    of(16, batch_size=critics.batch_size, discount=critics.discount, target_update_rate=critics.polyak)
    of(16, min_Q_weight=critics.cql_weight, sampled_actions=critics.sampled_action_count, seeds=[*SEEDS])
    of(16, importance_sampling=critics.importance_sampling, Lagrange=critics.lagrange, entropy_in_target=False)


def test_the_readme_states_the_file_as_it_is() -> None:
    content = (files("trajmill.studies") / RUNS).read_bytes()
    text = (files("trajmill.studies") / "paper_a_runs.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in text and f"{len(content):,} bytes" in text
    assert len(content) < 1_000_000 and f"{len(authors_runs(RUNS).scores)} families" in text
