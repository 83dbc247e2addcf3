"""Studies of papers: the numbers on record, what each study says to run, the runner with stand-ins for training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest

from trajmill.algorithms import cql, decision_transformer, diffusion, forward_dynamics, language_model, name_of
from trajmill.cli import main
from trajmill.data import OFFICIAL_FILES, Dataset, DatasetError, load_dataset, qlearning_transitions
from trajmill.data.catalog import find_dataset
from trajmill.experiments.settings import DatasetTrainConfig, TrainConfig
from trajmill.report.comparison import MISSING
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import RunError
from trajmill.studies import cells, measures
from trajmill.studies import run as running
from trajmill.studies.authors import authors_runs
from trajmill.studies.cells import QUICK_DATASETS, ReproduceConfig, missing_requirement, path_name
from trajmill.studies.drawings import _rows_panel, panels_of
from trajmill.studies.forms import with_released
from trajmill.studies.measures import Results
from trajmill.studies.paper_a import DATASETS, SEEDS
from trajmill.studies.records import Form, Study, Variant, printed_columns, smaller
from trajmill.studies.run import all_studies, reproduce
from trajmill.studies.work import estimate
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import plain

CPU = ComputeConfig(device="cpu")
HOPPER = "hopper-sac-replay-10k"
BUNDLED = (HOPPER, *(name for name in QUICK_DATASETS if name != HOPPER))
PRINTED = printed_columns("paper_a.json")
ROUNDED_OFTEN = {"table-3/S=10", "table-7/τ=100", "table-11/DT+Wiki", "table-21/τ=0.1", "table-24/τ=0.1", "table-25/1M"}
"""columns of which an average, printed as rounded from all digits, is 0.06 from that of the rounded rows"""
STUDIES = {name: study for name, study in all_studies().items() if name.startswith("a-") or name == "quick"}
VARIANTS = {variant.name: variant for study in STUDIES.values() for variant in study.variants.values()}
PRETRAININGS = {name: start for study in STUDIES.values() for name, start in study.pretrainings.items()}


# --- the numbers on record ---


@pytest.mark.parametrize("name", [name for name, column in PRINTED.items() if len(column.means) == 12])
def test_printed_averages_follow_from_the_printed_means(name: str) -> None:
    column = PRINTED[name]
    limit = 0.1 if name in ROUNDED_OFTEN else 0.0505
    assert column.average == pytest.approx(np.mean(list(column.means.values())), abs=limit)
    if len(column.deviations) == 12:
        assert column.average_deviation == pytest.approx(np.mean(list(column.deviations.values())), abs=limit)


def test_well_known_numbers_are_in_their_places() -> None:
    assert PRINTED["table-1/DT+Synthetic"].average == 73.6
    assert PRINTED["table-1/DT+Wiki"].means["ant-medium-replay-v2"] == 78.1
    assert PRINTED["table-6/CQL"].deviations["hopper-medium-expert-v2"] == 21.4
    assert PRINTED["table-11/DT"].means["halfcheetah-medium-replay-v2"] == 16.5
    assert PRINTED["table-13/CQL+IID"].means["ant-medium-v2"] == 39.0
    assert PRINTED["table-21/τ=0.01"].deviations["walker2d-medium-v2"] == 1.4
    assert PRINTED["table-22/80K"].means["walker2d-medium-expert-v2"] == 109.1
    assert PRINTED["table-28/CQL+100K"].deviations["ant-medium-replay-v2"] == 2.7


def test_every_cell_of_the_tables_of_scores_is_on_record() -> None:
    scores = {f"table-{number}" for number in (*range(1, 9), *range(18, 30))}
    columns = [column for key, column in PRINTED.items() if key.partition("/")[0] in scores]
    assert len(columns) == 112
    for column in columns:
        assert tuple(column.means) == tuple(column.deviations) == DATASETS
        assert column.average is not None and column.average_deviation is not None


def test_every_column_is_on_record_and_every_record_has_a_column() -> None:
    used = {column.printed for study in STUDIES.values() for column in study.columns}
    assert used - {""} == set(PRINTED)


# --- what the studies say ---


def test_all_tables_and_figures_are_there() -> None:
    tables = {f"a-table-{number}" for number in [*range(1, 9), *range(11, 15), *range(18, 30)]}
    figures = {f"a-figure-{number}" for number in range(1, 18)}
    older = {f"a-{what}-{of}" for what in ("curves", "losses", "equal-updates") for of in ("dt", "cql")}
    ours = {"a-weights-dt", "a-features-dt", "a-small-dt", "a-small-cql", "quick"}
    assert tables | figures | older | ours == set(STUDIES)
    assert all(dataset in OFFICIAL_FILES for dataset in DATASETS)
    assert all(study.name == name for name, study in all_studies().items())


def in_short(variant: Variant) -> Variant:
    """What the whole of the data is a share of says nothing."""
    return replace(variant, subset="transitions") if variant.ratio == 1.0 else variant


def test_equal_names_mean_equal_settings_and_other_names_other_places() -> None:
    for study in STUDIES.values():
        for variant in (column.variant for column in study.columns if column.variant is not None):
            assert in_short(VARIANTS[variant.name]) == in_short(variant)
            assert variant.start is None or PRETRAININGS[variant.start.name] == variant.start
        labels = [(column.group, column.label) for column in study.columns]
        assert len(labels) == len(set(labels))
    for names in (VARIANTS, PRETRAININGS):
        assert len({path_name(name) for name in names}) == len(names)
    made = {(start.method, start.updates, start.needs_text) for start in PRETRAININGS.values()}
    assert len(made) == len(PRETRAININGS)


@pytest.mark.parametrize("quick", [False, True])
def test_every_variant_can_be_configured_or_says_what_is_missing(quick: bool) -> None:
    config = ReproduceConfig(quick=quick, seeds=(0, 1), text=(Path("wiki.txt"),))
    for variant in VARIANTS.values():
        assert missing_requirement(variant, config) == ""
        if variant.start is not None and variant.start.needs_text:
            assert "--text" in missing_requirement(variant, replace(config, text=()))
        made = cells.training_config(variant, "hopper-medium-v2", "Hopper-v4", None, config)
        assert name_of(made.method) == name_of(variant.method) and made.variant == variant.name
        assert quick or made.schedule.updates == variant.updates
        if variant.start is not None:
            before = cells.pretraining_config(variant, (11, 3), config)
            assert name_of(before.method) == name_of(variant.start.method)
            assert quick or before.schedule.updates == variant.start.updates


def test_defaults_stay_the_papers() -> None:
    config = ReproduceConfig(seeds=SEEDS)
    variant = VARIANTS["DT+Synthetic"]
    assert len(SEEDS) == 20
    before = cells.pretraining_config(variant, (11, 3), config)
    assert before == TrainConfig(
        seeds=(42,), method=language_model.Config(), schedule=before.schedule, variant=before.variant
    )
    assert before.schedule.updates == language_model.SCHEDULE.updates
    after = cells.training_config(VARIANTS["CQL"], "hopper-medium-v2", "Hopper-v4", None, config)
    assert after == DatasetTrainConfig(
        dataset="hopper-medium-v2",
        environment="Hopper-v4",
        seeds=SEEDS,
        method=cql.Config(),
        schedule=after.schedule,
        variant="CQL",
    )
    assert (after.schedule.updates, after.schedule.evaluation_interval) == (1_000_000, 5000)
    critics = cells.pretraining_config(VARIANTS["CQL+MDP"], (17, 6), config)
    assert critics.method == forward_dynamics.Config(observation_dim=17, action_dim=6)


def test_pretrained_transformers_are_finetuned_as_the_authors_runs_record() -> None:
    config = ReproduceConfig(seeds=(0,))
    for name, extended in {"DT": False, "DT+Synthetic": True, "DT+IID": True}.items():
        made = cells.training_config(VARIANTS[name], "hopper-medium-v2", "Hopper-v4", Path("init"), config)
        assert made.method == decision_transformer.Config(extend_positions=extended, shared_projection=extended)


def test_work_is_estimated_from_updates_and_seeds() -> None:
    work = estimate(STUDIES["a-table-6"])
    assert (work.cells, work.pretrainings) == (72, 20)
    assert work.gpu_hours == pytest.approx((72 * 20 * 1e6 / 1e4 + 20 * 1e5 / 1.2e4) / 3600)
    assert estimate(STUDIES["a-figure-7"]).cells == 0


# --- settings at a smaller scale ---


def test_shares_scale_updates_batches_and_warm_ups() -> None:
    config = ReproduceConfig(seeds=(0,), update_share=0.02, pretraining_share=0.5, batch_share=0.25, evaluation_count=8)
    dt, critics = VARIANTS["DT+Synthetic"], VARIANTS["CQL+MDP"]
    before = cells.pretraining_config(dt, (11, 3), config)
    assert (before.schedule.updates, before.method.batch_size) == (10_000, 16)
    assert (before.method.warmup_updates, before.method.decay_updates) == (5000, 40_000)
    after = cells.training_config(dt, BUNDLED[0], "Hopper-v4", None, config)
    assert (after.schedule.updates, after.method.batch_size, after.method.warmup_updates) == (2000, 16, 100)
    assert after.schedule.evaluation_interval == 250
    before = cells.pretraining_config(critics, (11, 3), config)
    assert (before.schedule.updates, before.method.batch_size) == (50_000, 64)
    after = cells.training_config(critics, BUNDLED[0], "Hopper-v4", None, config)
    assert (after.schedule.updates, after.method.batch_size) == (20_000, 64)
    one_share = replace(config, pretraining_share=None)
    before = cells.pretraining_config(critics, (11, 3), one_share)
    assert before.schedule.updates == 2000, "one share for both by default"


def test_small_settings_keep_what_a_study_has_set() -> None:
    method = language_model.Config(state_count=1000, batch_size=32)
    small = smaller(method, small=True)
    assert (small.state_count, small.batch_size) == (1000, 32)
    assert (small.length, small.backbone) == (language_model.SMALL.length, language_model.SMALL.backbone)
    assert smaller(cql.Config(bc_updates=0), updates=0.5).bc_updates == 0
    assert smaller(cql.Config(bc_updates=1), updates=0.1).bc_updates == 1
    open_ended = smaller(diffusion.Config(), updates=0.1, small=True)
    assert open_ended.decay_updates is None, "open, it follows the schedule, which is shorter too"


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("share", [0.01, 1e-5, 1e-12])
def test_any_share_can_be_configured(share: float, quick: bool) -> None:
    """Whatever counts updates keeps its order: a warm-up of 0.1 updates ends before a decay of 0.8 does."""
    config = ReproduceConfig(update_share=share, quick=quick, seeds=(0,), text=(Path("wiki.txt"),))
    for variant in VARIANTS.values():
        cells.training_config(variant, HOPPER, "Hopper-v4", None, config)
        if variant.start is not None:
            method = cells.pretraining_config(variant, (11, 3), config).method
            if isinstance(method, language_model.Config):
                assert 0 < method.warmup_updates < method.decay_updates


def test_unknown_studies_and_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no study 'a-table-9'.*a-table-8.*quick"):
        reproduce("a-table-9", tmp_path)
    for name, value in (
        ("update_share", 0.0),
        ("pretraining_share", 1.5),
        ("pretraining_share", 0.0),
        ("evaluation_count", 3),
        ("batch_share", 0.0),
        ("processes", 0),
    ):
        with pytest.raises(ValueError, match=name):
            ReproduceConfig(**{name: value})


def test_all_but_the_paper_s_settings_are_said() -> None:
    study = STUDIES["a-table-6"]
    assert running._warnings(study, ReproduceConfig(seeds=SEEDS)) == []
    config = ReproduceConfig(
        update_share=0.1, batch_share=0.5, seeds=(0, 1), compute=ComputeConfig(device="cpu", precision="bf16")
    )
    told = running._warnings(study, config)
    for line, words in zip(
        told,
        (("0.1", "warm-ups"), ("0.1", "pre-training"), ("0.5", "batches"), ("2 seeds", "20"), ("bf16", "fp32")),
        strict=True,
    ):
        assert all(word in line for word in words), line


# --- the runner, with stand-ins that write what training writes ---


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for training; the list names what was trained, in order."""
    calls: list[str] = []

    def train(config: TrainConfig[Any], output: Path, progress: object, *, resume: bool) -> Path:
        scored = isinstance(config, DatasetTrainConfig)
        record = {
            "kind": name_of(config.method),
            "seeds": list(config.seeds),
            "dataset": config.dataset if isinstance(config, DatasetTrainConfig) else "tokens",
            "environment": config.environment if isinstance(config, DatasetTrainConfig) else None,
            "variant": config.variant,
            "config": plain(config),
        }
        run = RunDirectory.open(output, record, resume=resume)
        if run.finished:
            return output
        calls.append(f"{config.variant} on {record['dataset']}" if scored else config.variant)
        updates, level = config.schedule.updates, 50.0 if config.init else 40.0
        for number in range(1, 11):
            done = updates * number // 10
            if not scored:
                run.log("train", done, 6.0 * number, {"loss": [1.0]})
            else:
                losses = {name: [1.0 / number] * len(config.seeds) for name in ("loss", "q_loss")}
                run.log("train", done, 60.0 * number, losses)
                scores = [level * number / 10 + seed for seed in range(len(config.seeds))]
                run.log("evaluation", done, 60.0 * number, {"normalized_score": scores, "return_mean": scores})
        run.finish({})
        return output

    monkeypatch.setattr(cells, "train", train)
    return calls


QUICK = ReproduceConfig(quick=True, processes=1, compute=CPU)
stated = partial(reproduce, form="stated")


def test_a_study_gives_statistics_with_intervals_and_runs_nothing_twice(trained: list[str], tmp_path: Path) -> None:
    done = stated("a-table-13", tmp_path, QUICK)
    assert len(trained) == 3 * 2 + 2 * 2  # three variants, two of them pre-trained for each of two sizes
    assert {path.name for path in (tmp_path / "pretraining").iterdir()} == {
        f"cql+{law}-{sizes}" for law in ("mdp", "iid") for sizes in ("11-3", "17-6")
    }
    # CQL's scores are 4, 8, ... 40 plus the seed; the last four average 34 and 35, so 34.5; 90 % of it is 31.05
    first, second, _ = done.comparison.rows[BUNDLED[0]]
    assert first.ours is not None and first.ours.estimate == pytest.approx(0.08)  # thousands; 8 of 10 times 100 updates
    assert second.ours is not None and second.ours.estimate == pytest.approx(0.07)  # 35 and 36 at the seventh
    assert first.printed is None  # no bundled set is in the paper
    assert done.comparison.rows["Average as printed"][0].printed == 161.9

    trained.clear()
    again = stated("a-curves-cql", tmp_path, QUICK)  # the same variants, another statistic
    assert trained == []
    average = again.comparison.rows["Average over these 2"][0]
    assert average.ours is not None and average.ours.estimate == pytest.approx(34.5)
    assert (average.ours.low, average.ours.high) == (34.0, 35.0)
    text = again.markdown.read_text()
    assert cells.QUICK_LABEL in text and "34.5 [34.0, 35.0]" in text and "a-curves-cql-1.svg" in text
    assert cells.QUICK_LABEL in again.report.read_text() and "34.5 [34.0, 35.0]" in again.report.read_text()
    facts = json.loads((tmp_path / "a-curves-cql.json").read_text())
    assert facts["quick"] and len(facts["runs"]) == 6
    assert (tmp_path / "a-curves-cql-1.svg").read_text().count("var(") == 0


def test_a_column_of_a_difference_takes_another_variant_s_mean_off(trained: list[str], tmp_path: Path) -> None:
    done = reproduce("a-small-cql", tmp_path, replace(QUICK, seeds=(0, 1, 2, 3), datasets=BUNDLED))
    cells_of = dict(zip(done.comparison.columns, done.comparison.rows["Average over these 2"], strict=True))
    scratch, pretrained, difference, of_all = (
        cells_of[name].ours for name in ("CQL", "CQL+MDP", "CQL+MDP - CQL", "CQL+MDP - CQL, all")
    )
    assert scratch and pretrained and difference and of_all
    # the stand-in's scores are 40 and 50 times n/10 plus the seed: the last four average 34 and 42.5, all 22 and 27.5
    assert pretrained.estimate - scratch.estimate == pytest.approx(8.5) == pytest.approx(difference.estimate)
    assert of_all.estimate == pytest.approx(5.5)
    assert difference.low < 8.5 < difference.high, "seeds of both are drawn, although they differ by a constant"
    assert "8.5 [" in done.markdown.read_text()


def test_what_is_taken_off_is_a_variant_of_the_study() -> None:
    study = STUDIES["a-small-cql"]
    columns = (study.columns[1], replace(study.columns[1], minus=VARIANTS["CQL"]))
    with pytest.raises(ValueError, match="takes CQL off in a column, but has no column of it"):
        replace(study, columns=columns)
    released = with_released(study, lambda variant: variant).released  # both names of a column are its form's
    assert released and {column.minus.name for column in released.columns if column.minus} == {
        "CQL, small, as released"
    }


def test_a_data_set_given_as_a_path_goes_by_its_files_name(trained: list[str], tmp_path: Path) -> None:
    path = str(find_dataset(BUNDLED[0]))
    done = stated("a-curves-cql", tmp_path, replace(QUICK, datasets=(path,)))
    assert list(done.comparison.rows) == [BUNDLED[0], "Average as printed"]
    assert path not in done.markdown.read_text() and path not in (tmp_path / "a-curves-cql-1.svg").read_text()


@pytest.mark.parametrize("method", ["dt", "cql"])
def test_losses_are_drawn_from_the_first_update_on(method: str, trained: list[str], tmp_path: Path) -> None:
    study = STUDIES[f"a-losses-{method}"]
    done = stated(study.name, tmp_path, QUICK)
    runs = {
        (variant, dataset): tmp_path / f"runs/{path_name(variant)}/{dataset}"
        for variant in study.variants
        for dataset in BUNDLED
        if variant not in done.not_yet
    }
    panel, *authors = panels_of(Results(replace(study, datasets=BUNDLED), tmp_path, QUICK, runs))
    assert [each.title for each in authors] == ["authors' runs: average over 12 datasets"] * (method == "dt")
    assert panel.log_y == (method == "dt") and panel.y_label == "training loss"
    assert [curve.label for curve in panel.curves] == [v for v, d in runs if d == BUNDLED[0]]
    assert panel.curves[0].center.tolist() == pytest.approx([1 / number for number in range(1, 11)])
    assert all(curve.first_apart for curve in panel.curves), "one update, where other points are means of many"
    assert not any(curve.first_apart for each in authors for curve in each.curves), "theirs begin with a mean"
    looks = {name: look for look, name in enumerate(study.variants)}
    for each in (panel, *authors):
        assert [curve.style for curve in each.curves] == [looks[curve.label] for curve in each.curves]
    assert "training loss" in (tmp_path / f"{study.name}-1.svg").read_text()


def test_curves_of_pretrained_variants_are_moved_by_their_pretraining(trained: list[str], tmp_path: Path) -> None:
    """Figure 2: a panel of scores and one of losses."""
    study = STUDIES["a-figure-2"]
    done = stated(study.name, tmp_path, replace(QUICK, datasets=BUNDLED[:1]))
    assert not done.not_yet
    runs = {(name, BUNDLED[0]): tmp_path / f"runs/{path_name(name)}/{BUNDLED[0]}" for name in study.variants}
    panels = panels_of(Results(replace(study, datasets=BUNDLED[:1]), tmp_path, QUICK, runs))
    assert [panel.y_label for panel in panels] == ["normalized score", "training loss"]
    for panel in panels:
        plain_one, moved, also = (curve.x for curve in panel.curves)
        assert moved[-1] - plain_one[-1] == also[-1] - plain_one[-1] == 10  # 100,000 of a million updates are 10 of 100


def test_an_interrupted_study_goes_on_where_it_stopped(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(QUICK, datasets=BUNDLED[:1])
    working = cells.train

    def stopping(config: TrainConfig[Any], *arguments: Any, **options: Any) -> Path:
        if config.variant == "DT+Synthetic":
            raise KeyboardInterrupt
        return working(config, *arguments, **options)

    monkeypatch.setattr(cells, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        stated("a-curves-dt", tmp_path, config)
    monkeypatch.setattr(cells, "train", working)
    done = stated("a-curves-dt", tmp_path, config)
    name = BUNDLED[0]
    assert trained == ["DT+Synthetic pre-training", f"DT on {name}", f"DT+Synthetic on {name}"]
    assert list(done.not_yet) == ["DT+Wiki"]
    assert done.comparison.rows[name][1].our_text == f"{MISSING} (not yet)"
    with pytest.raises(RunError, match=r"other settings.*seeds"):
        stated("a-curves-dt", tmp_path, replace(config, seeds=(0, 1, 2)))


def test_a_run_that_fails_is_named_and_the_others_go_on(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it is needed for fails with it, and where nothing is left the first failure is raised."""
    working = cells.train

    def failing(bad: str) -> Callable[..., Path]:
        def train(config: TrainConfig[Any], *arguments: Any, **options: Any) -> Path:
            if config.variant.startswith(bad):
                raise ValueError("the floor is lava")
            return working(config, *arguments, **options)

        return train

    name = BUNDLED[0]
    words = ["reproduce", "a-curves-dt", "--as", "stated", "--quick", "--datasets", name, "--out", str(tmp_path)]
    words += ["--processes", "1", "--compute.device", "cpu", "--quiet"]
    monkeypatch.setattr(cells, "train", failing("DT+Synthetic pre-training"))
    assert main(words) == 1
    told = capsys.readouterr()
    assert "the floor is lava" in told.out and "1 run failed, for the reasons above" in told.err
    assert trained == [f"DT on {name}"]
    table = (tmp_path / "a-curves-dt.md").read_text()
    assert f"{MISSING} (failed)" in table and "which it needs, failed: ValueError: the floor is lava" in table
    monkeypatch.setattr(cells, "train", failing("DT"))
    with pytest.raises(ValueError, match="the floor is lava"):
        stated("a-curves-dt", tmp_path / "none", replace(QUICK, datasets=BUNDLED[:1]))
    assert not (tmp_path / "none" / "a-curves-dt.md").exists()


def test_missing_data_is_named_with_the_command_and_cells_stay_empty(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("D4RL_DATASET_DIR", "TRAJMILL_DATASETS", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="trajmill dataset download hopper-medium-replay-v2"):
        stated("a-table-6", tmp_path / "none")
    assert trained == [] and not (tmp_path / "none").exists()

    config = ReproduceConfig(datasets=("hopper-medium-v2", BUNDLED[0]), seeds=(0,), processes=1, compute=CPU)
    done = stated("a-table-6", tmp_path / "some", config)
    row = done.comparison.rows["hopper-medium-v2"]
    assert [entry.our_text for entry in row] == [f"{MISSING} (no data)"] * 6
    assert row[0].printed_text == "68.2 ± 4.0"
    text = done.markdown.read_text()
    assert "trajmill dataset download hopper-medium-v2" in text and "1 seed where the paper has 20" in text
    assert "download" not in " ".join(trained)


def test_averages_of_both_are_over_the_same_data(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ("hopper-medium-v2", "hopper-medium-replay-v2")

    def find(name: str) -> Path:
        if name not in here:
            raise DatasetError(f"{name} is nowhere")
        return Path(name)

    monkeypatch.setattr(running, "find_dataset", find)
    monkeypatch.setattr(cells, "dataset_facts", lambda name: (name, (11, 3), "Hopper-v4"))
    done = stated("a-table-6", tmp_path, ReproduceConfig(processes=1, compute=CPU))
    assert len(done.missing) == 10 and len(done.comparison.rows) == 14
    average = done.comparison.rows["Average over the 2 run here"][0]
    assert average.printed == pytest.approx((68.2 + 94.2) / 2)
    assert average.ours is not None and average.ours.estimate == pytest.approx(34 + 9.5)
    assert done.comparison.rows["Average as printed"][2].printed_text == "84.9 ± 3.7"
    assert done.comparison.rows[here[0]][0].our_text.startswith("43.5 [")


def test_the_authors_runs_stand_beside_ours(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figure 1: means and intervals of their runs on the same datasets, and their curves in panels of their own."""
    both = ("hopper-medium-v2", "ant-medium-v2")
    monkeypatch.setattr(running, "find_dataset", Path)
    monkeypatch.setattr(cells, "dataset_facts", lambda name: (name, (11, 3), "Hopper-v4"))
    done = stated("a-figure-1", tmp_path, ReproduceConfig(datasets=both, processes=1, compute=CPU))
    theirs = authors_runs(STUDIES["a-figure-1"].authors)
    dt = theirs.series("DT", list(both)) or []
    ends = [each.values[-4:].mean() for each in dt]
    rows = done.comparison.rows
    for label, expected in {
        both[0]: ends[0],
        both[1]: ends[1],
        "Average over these 2": np.mean(ends),
        "Average as printed": 67.68657,
    }.items():
        authors = rows[label][0].authors
        assert authors is not None and authors.estimate == pytest.approx(expected)
        assert authors.estimate - 2.5 < authors.low < authors.estimate < authors.high < authors.estimate + 2.5
    assert done.comparison.sides == ("paper", "authors", "ours")
    first, *_ = done.comparison.texts(rows[both[0]][0])
    assert first == "58.2 ± 3.2" and "58.2 ± 3.2 | 58.2 [" in done.markdown.read_text()

    ours, _, scores, losses = panels_of(done)
    assert scores.title == f"authors' runs: {ours.title}" == "authors' runs: average over 2 datasets"
    assert [curve.label for curve in scores.curves] == ["DT", "DT+Wiki", "DT+Synthetic"]
    assert scores.curves[0].center == pytest.approx(np.mean([each.values.mean(1) for each in dt], axis=0))
    assert scores.curves[0].x[-1] == 100_000 and scores.curves[2].x[-1] == 120_000
    assert losses.y_label == "training loss" and losses.log_y


def with_columns(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> Study:
    """Let a study have its first columns alone."""
    study = STUDIES[name]
    cut = replace(study, columns=study.columns[:count], released=None)
    monkeypatch.setattr(running, "all_studies", lambda: {name: cut})
    return study


@pytest.mark.parametrize(("figure", "kind", "columns"), [(11, "trajectories", 102), (17, "transitions", 90)])
def test_a_share_of_the_data_is_drawn_once_and_trained_on(
    figure: int, kind: str, columns: int, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"a-figure-{figure}"
    study = with_columns(monkeypatch, name, 12)
    assert len(study.columns) == columns and any("S=10,000" in column.label for column in study.columns)
    done = reproduce(name, tmp_path, replace(QUICK, datasets=BUNDLED[:1]))
    files = sorted((tmp_path / "datasets").iterdir())
    shares = [f"{percent}pct-of-{kind}" for percent in (10, 20, 40, 60, 80)]
    assert [path.stem.removeprefix(f"{BUNDLED[0]}-") for path in files] == shares
    sizes = [len(load_dataset(path)) for path in files]
    assert sizes == sorted(sizes) and sizes[-1] < len(load_dataset(BUNDLED[0]))
    assert f"{'CQL' if figure == 17 else 'DT'}, 10% of the data on {files[0]}" in trained
    assert done.comparison.columns == tuple(
        f"{column.group}: {column.label}" if column.group not in column.label else column.label
        for column in study.columns[:12]
    )
    assert "share of the data, %" in (tmp_path / f"{name}-1.svg").read_text()


def test_a_share_of_transitions_holds_transitions_of_the_data(tmp_path: Path) -> None:
    variant = next(v for v in STUDIES["a-figure-17"].variants.values() if v.ratio == 0.2)
    part = load_dataset(cells._share_of(variant, BUNDLED[0], tmp_path))
    training = cells.training_config(variant, BUNDLED[0], "Hopper-v4", None, ReproduceConfig(seeds=(0,)))

    def rows(dataset: Dataset, kind: Literal["stored", "d4rl"]) -> set[bytes]:
        found = qlearning_transitions(dataset, kind)
        columns = [getattr(found, name) for name in ("observation", "action", "next_observation")]
        return {row.tobytes() for row in np.concatenate(columns, axis=1, dtype=np.float32)}

    whole, drawn = rows(load_dataset(BUNDLED[0]), "stored"), rows(part, training.method.next_observation)
    assert drawn <= whole and 0.18 * len(whole) < len(drawn) < 0.22 * len(whole)


def test_rows_of_the_chain_are_exact_and_need_no_data(tmp_path: Path) -> None:
    done = reproduce("a-figure-7", tmp_path)
    assert len(list(tmp_path.glob("a-figure-7-*.svg"))) == 5 and done.comparison.rows == {}
    (curve,) = _rows_panel(STUDIES["a-figure-7"].columns[3]).curves
    assert math.isclose(curve.center.sum(), 1.0) and (np.diff(curve.center) >= 0).all()
    expected = np.exp(np.arange(1, 101) / 101)
    assert 0.93 < np.log(curve.center[-1] / curve.center[0]) <= 1.0  # greatest minus least of them, over τ = 1
    assert np.abs(curve.center / (expected / expected.sum()) - 1).max() < 0.15  # order statistics of 100 uniforms


def test_a_study_is_found_wherever_it_is_written_down(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variants are values: a study of a method that none of the papers' has needs no other change."""
    variant = Variant(name="warm", method=cql.Config(bc_updates=500), updates=1_000_000)
    columns = (replace(STUDIES["quick"].columns[0], label="warm", variant=variant),)
    study = Study(name="mine", title="Mine", columns=columns, datasets=BUNDLED[:1], seeds=(1, 2, 3))
    monkeypatch.setattr(running, "all_studies", lambda: {"mine": study})
    done = reproduce("mine", tmp_path, ReproduceConfig(processes=1, compute=CPU))
    (entry,) = done.comparison.rows[BUNDLED[0]]
    assert entry.printed is None and entry.seed_count == 3
    assert trained == [f"warm on {BUNDLED[0]}"]
    assert "paper" not in done.markdown.read_text()


# --- real runs, and the command ---


def test_a_study_runs_whole_in_two_processes(tmp_path: Path) -> None:
    config = ReproduceConfig(quick=True, update_share=0.02, datasets=BUNDLED[:1], processes=2, compute=CPU)
    seen: list[tuple[Any, ...]] = []
    done = stated("a-equal-updates-dt", tmp_path, config, lambda *told: seen.append(told))
    row = done.comparison.rows[BUNDLED[0]]
    assert [entry.ours is not None for entry in row] == [True, True, False, True]  # no text was given
    init = json.loads((tmp_path / f"runs/dt+synthetic/{BUNDLED[0]}/config.json").read_text())["config"]["init"]
    assert Path(init) == tmp_path / "pretraining/dt+synthetic"
    assert "0.02 of its updates" in done.markdown.read_text()
    assert seen[-1] == ("training", 3, 3, "runs")


@pytest.mark.slow
def test_a_failure_in_a_process_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs/dt").mkdir(parents=True)
    (tmp_path / "runs/dt" / BUNDLED[0]).write_text("in the way")
    config = ReproduceConfig(quick=True, update_share=0.02, datasets=BUNDLED[:1], processes=2, compute=CPU)
    done = stated("a-table-26", tmp_path, config)
    ((variant, place),) = done.failed
    assert variant in done.study.variants and place == BUNDLED[0]
    assert "RunError" in done.failed[variant, place] and "not a run directory" in done.failed[variant, place]
    assert done.runs and not any(name == variant for name, _ in done.runs)


def test_the_command_lists_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in STUDIES) and "GPU h" in text
    assert main(["reproduce", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["a-table-6"] == {
        "title": STUDIES["a-table-6"].title,
        "as": ["released", "stated"],
        **asdict(estimate(STUDIES["a-table-6"])),
    }
    assert listed["quick"]["as"] == listed["a-figure-7"]["as"] == []
    assert main(["reproduce", "a-figure-7", "--out", str(tmp_path), "--quiet"]) == 0
    assert f"{tmp_path / 'a-figure-7.html'}" in capsys.readouterr().out.replace("\n", "")
    assert main(["reproduce"]) == 2
    assert "--list" in capsys.readouterr().err


def test_the_command_tells_what_is_missing(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "a-table-1", "--quick", "--processes", "1", "--compute.device", "cpu", "--quiet"]
    assert main([*words, "--datasets", BUNDLED[0], "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert cells.QUICK_LABEL in text and "34.5" in text and "DT+Wiki, as released: give --text" in text
    assert main([*words, "--datasets", BUNDLED[0], "--out", str(tmp_path), "--json", "--as", "stated"]) == 0
    told = json.loads(capsys.readouterr().out)["a-table-1"]
    assert list(told["not_yet"]) == ["DT+Wiki"] and told["rows"][BUNDLED[0]][0]["ours"]["estimate"] == 34.5


@pytest.mark.slow
@pytest.mark.parametrize("form", get_args(Form))
def test_every_study_has_its_table_and_its_figures(
    form: Form, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in(name: str) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        def measure(run: Any, rule: str) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(run.seeds), 0.25), np.full(len(run.seeds), 0.5)

        measure.__name__ = name
        return measure

    for name in ("backbone_similarities", "feature_similarities"):
        monkeypatch.setattr(measures, name, stand_in(name))
    (tmp_path / "wiki.txt").write_text("words")
    config = replace(QUICK, text=(tmp_path / "wiki.txt",), datasets=BUNDLED[:1])
    for name, study in STUDIES.items():
        done = reproduce(name, tmp_path, config, form=form if study.released else None)
        assert not done.not_yet and not done.missing
        for row in (row for label, row in done.comparison.rows.items() if label in BUNDLED):
            assert all(entry.ours is not None or "not reached" in entry.why_empty for entry in row), name
        panels = len(study.columns) if study.figure == "transition rows" else len({c.group for c in study.columns})
        assert len(list(tmp_path.glob(f"{done.study.name}-*.svg"))) >= panels, name


@pytest.mark.slow
def test_quick_runs_whole(tmp_path: Path) -> None:
    done = reproduce("quick", tmp_path, ReproduceConfig(compute=CPU))
    assert all(entry.ours is not None for row in done.comparison.rows.values() for entry in row)
