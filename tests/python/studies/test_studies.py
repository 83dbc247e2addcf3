"""Studies of papers: the numbers on record, what each study says to run, the runner with stand-ins for training."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import trajmill.pipelines.reproduce as reproduction
from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.algorithms.language_model import LMConfig
from trajmill.data import OFFICIAL_FILES, Dataset, DatasetError, load_dataset, qlearning_transitions
from trajmill.data.catalog import find_dataset
from trajmill.pipelines.cql import PAPER_SEEDS, PretrainCQLConfig, TrainCQLConfig
from trajmill.pipelines.decision_transformer import TrainDTConfig
from trajmill.pipelines.finetuning import record
from trajmill.pipelines.interruption import Interrupted
from trajmill.pipelines.language_model import PretrainDTConfig
from trajmill.pipelines.reproduce import estimate, reproduce
from trajmill.pipelines.run_directory import RunDirectory, RunDirectoryError
from trajmill.pipelines.studies import cells, measures
from trajmill.pipelines.studies.cells import ReproduceConfig, obstacle, scaled, slug
from trajmill.pipelines.studies.drawings import panels_of, rows_panel
from trajmill.pipelines.studies.measures import Results
from trajmill.pipelines.studies.paper_a import BUNDLED, DATASETS, STUDIES
from trajmill.pipelines.studies.records import printed_columns
from trajmill.report.comparison import MISSING
from trajmill.training.device import ComputeConfig

CPU = ComputeConfig(device="cpu")
ROUNDED_OFTEN = {"table-7/τ=100", "table-11/DT+Wiki"}  # printed as 83.4 and 13.2, which their rounded rows miss
VARIANTS = {variant.name: variant for study in STUDIES.values() for variant in study.variants.values()}
PRETRAININGS = {name: pre for study in STUDIES.values() for name, pre in study.pretrainings.items()}


# --- the numbers on record ---


@pytest.mark.parametrize("name", [name for name, column in printed_columns().items() if len(column.means) == 12])
def test_printed_averages_follow_from_the_printed_means(name: str) -> None:
    column = printed_columns()[name]
    limit = 0.1 if name in ROUNDED_OFTEN else 0.0505
    assert column.average == pytest.approx(np.mean(list(column.means.values())), abs=limit)
    if len(column.deviations) == 12:
        assert column.average_deviation == pytest.approx(np.mean(list(column.deviations.values())), abs=0.0505)


def test_well_known_numbers_are_in_their_places() -> None:
    columns = printed_columns()
    assert columns["table-1/DT+Synthetic"].average == 73.6
    assert columns["table-1/DT+Wiki"].means["ant-medium-replay-v2"] == 78.1
    assert columns["table-6/CQL"].deviations["hopper-medium-expert-v2"] == 21.4
    assert columns["table-11/DT"].means["halfcheetah-medium-replay-v2"] == 16.5
    assert columns["table-13/CQL+IID"].means["ant-medium-v2"] == 39.0
    assert columns["table-28/CQL+100K"].means == {"hopper-medium-expert-v2": 41.6}


def test_every_column_is_on_record_and_every_record_has_a_column() -> None:
    used = {column.printed for study in STUDIES.values() for column in study.columns}
    assert used - {""} == set(printed_columns())


# --- what the studies say ---


def test_all_tables_and_numbered_figures_are_there() -> None:
    tables = {f"a-table-{number}" for number in [*range(1, 9), *range(11, 15), *range(18, 30)]}
    figures = {f"a-figure-{number}" for number in (7, 10, 11, 15, 16, 17)}
    assert tables | figures | {"quick"} <= set(STUDIES)
    assert all(dataset in OFFICIAL_FILES for dataset in DATASETS)
    assert all(study.name == name for name, study in STUDIES.items())


def test_equal_names_mean_equal_settings_and_other_names_other_places() -> None:
    for study in STUDIES.values():
        for variant in (column.variant for column in study.columns if column.variant is not None):
            assert VARIANTS[variant.name] == variant
            assert variant.pretraining is None or PRETRAININGS[variant.pretraining.name] == variant.pretraining
        labels = [(column.group, column.label) for column in study.columns]
        assert len(labels) == len(set(labels))
    for names in (VARIANTS, PRETRAININGS):
        assert len({slug(name) for name in names}) == len(names)
    assert len({(p.method, p.updates, str(p.settings), p.needs_text) for p in PRETRAININGS.values()}) == len(
        PRETRAININGS
    )


@pytest.mark.parametrize("quick", [False, True])
def test_every_variant_can_be_configured_or_says_what_is_missing(quick: bool) -> None:
    config = ReproduceConfig(quick=quick, seeds=(0, 1), text=(Path("wiki.txt"),))
    for variant in VARIANTS.values():
        if obstacle(variant, config):
            assert "no setting" in obstacle(variant, config)
            continue
        made = cells.training_config(variant, "hopper-medium-v2", "Hopper-v4", None, config)
        assert isinstance(made, TrainDTConfig if variant.method == "dt" else TrainCQLConfig)
        assert quick or made.schedule.updates == variant.updates
        if variant.pretraining is not None:
            before = cells.pretraining_config(variant.pretraining, (11, 3), config)
            assert isinstance(before, PretrainDTConfig if variant.method == "dt" else PretrainCQLConfig)
            assert quick or before.schedule.updates == variant.pretraining.updates


def test_defaults_stay_the_papers() -> None:
    config = ReproduceConfig(seeds=PAPER_SEEDS)
    dt = cells.pretraining_config(PRETRAININGS["DT+Synthetic"], (11, 3), config)
    assert replace(dt, variant="Synthetic", compute=ComputeConfig()) == PretrainDTConfig()
    cql = cells.training_config(VARIANTS["CQL"], "hopper-medium-v2", "Hopper-v4", None, config)
    assert cql == TrainCQLConfig(
        dataset="hopper-medium-v2", environment="Hopper-v4", seeds=config.seeds, schedule=cql.schedule
    )
    assert (cql.schedule.updates, cql.schedule.evaluation_interval) == (1_000_000, 5000)


def test_pretrained_transformers_are_finetuned_as_the_authors_runs_record() -> None:
    config = ReproduceConfig(seeds=(0,))
    for name, flags in {"DT": (False, False), "DT+Synthetic": (True, True), "DT+IID": (True, True)}.items():
        made = cells.training_config(VARIANTS[name], "hopper-medium-v2", "Hopper-v4", Path("init"), config)
        assert isinstance(made, TrainDTConfig)
        assert (made.extend_positions, made.method.shared_projection) == flags
        assert made.method == replace(DTConfig(), shared_projection=flags[1])


def test_work_is_estimated_from_updates_and_seeds() -> None:
    work = estimate(STUDIES["a-table-6"])
    assert (work.cells, work.pretrainings) == (72, 20)
    assert work.gpu_hours == pytest.approx((72 * 20 * 1e6 / 1e4 + 20 * 1e5 / 1.2e4) / 3600)
    assert estimate(STUDIES["a-figure-7"]).cells == 0


# --- the runner, with stand-ins that write what training writes ---


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for the four pipelines; the list names what was trained, in order."""
    calls: list[str] = []

    def stand_in(kind: str):
        def train(config, output: Path, progress, *, resume: bool) -> Path:
            run = RunDirectory.open(
                output, record(kind, config, getattr(config, "dataset", "tokens"), None), resume=resume
            )
            if run.finished:
                return output
            calls.append(f"{config.variant} on {config.dataset}" if kind.startswith("train") else config.variant)
            updates, level = config.schedule.updates, 50.0 if getattr(config, "init", None) else 40.0
            for number in range(1, 11):
                step = updates * number // 10
                if kind.startswith("pretrain"):
                    run.log("pretrain", step, 6.0 * number, {"loss": [1.0]})
                else:
                    losses = {name: [1.0 / number] * len(config.seeds) for name in ("loss", "q_loss")}
                    run.log("finetune", step, 60.0 * number, losses)
                    scores = [level * number / 10 + seed for seed in range(len(config.seeds))]
                    run.log("evaluation", step, 60.0 * number, {"normalized_score": scores, "return_mean": scores})
            run.finish({})
            return output

        return train

    for name in ("pretrain_dt", "pretrain_cql", "train_dt", "train_cql"):
        monkeypatch.setattr(cells, name, stand_in(name))
    return calls


def test_a_study_gives_statistics_with_intervals_and_runs_nothing_twice(trained: list[str], tmp_path: Path) -> None:
    config = ReproduceConfig(quick=True, workers=1, compute=CPU)
    done = reproduce("a-table-13", tmp_path, config)
    assert len(trained) == 3 * 2 + 2 * 2  # three variants, two of them pre-trained for each of two sizes
    assert {path.name for path in (tmp_path / "pretraining").iterdir()} == {
        f"cql+{law}-{sizes}" for law in ("mdp", "iid") for sizes in ("11-3", "17-6")
    }
    # CQL's scores are 4, 8, ... 40 plus the seed; the last four average 34 and 35, so 34.5; 90 % of it is 31.05
    first, second, _ = done.comparison.rows[BUNDLED[0]]
    assert first.ours is not None and first.ours.estimate == pytest.approx(0.16)  # thousands; 8 of 10 times 200 updates
    assert second.ours is not None and second.ours.estimate == pytest.approx(0.14)  # 35 and 36 at the seventh
    assert first.printed is None  # no bundled set is in the paper
    assert done.comparison.rows["Average as printed"][0].printed == 161.9

    trained.clear()
    again = reproduce("a-curves-cql", tmp_path, config)  # the same variants, another statistic
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


def test_a_data_set_given_as_a_path_goes_by_its_files_name(trained: list[str], tmp_path: Path) -> None:
    path = str(find_dataset(BUNDLED[0]))
    done = reproduce("a-curves-cql", tmp_path, ReproduceConfig(quick=True, workers=1, compute=CPU, datasets=(path,)))
    assert list(done.comparison.rows) == [BUNDLED[0], "Average as printed"]
    assert path not in done.markdown.read_text() and path not in (tmp_path / "a-curves-cql-1.svg").read_text()


@pytest.mark.parametrize("method", ["dt", "cql"])
def test_losses_are_drawn_without_the_first_update(method: str, trained: list[str], tmp_path: Path) -> None:
    config = ReproduceConfig(quick=True, workers=1, compute=CPU)
    study = STUDIES[f"a-losses-{method}"]
    done = reproduce(study.name, tmp_path, config)
    runs = {
        (variant, dataset): tmp_path / f"runs/{slug(variant)}/{dataset}"
        for variant in study.variants
        for dataset in BUNDLED
        if variant not in done.not_yet
    }
    (panel,) = panels_of(Results(replace(study, datasets=BUNDLED), tmp_path, config, runs))
    assert panel.log_y == (method == "dt") and panel.y_label == "training loss"
    assert [curve.label for curve in panel.curves] == [v for v, d in runs if d == BUNDLED[0]]
    assert panel.curves[0].center.tolist() == pytest.approx([1 / number for number in range(2, 11)])
    assert "training loss" in (tmp_path / f"{study.name}-1.svg").read_text()


def test_an_interrupted_study_goes_on_where_it_stopped(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ReproduceConfig(quick=True, workers=1, compute=CPU, datasets=BUNDLED[:1])
    working = cells.train_dt

    def stopping(config, *arguments, **options):
        if config.variant == "DT+Synthetic":
            raise KeyboardInterrupt
        return working(config, *arguments, **options)

    monkeypatch.setattr(cells, "train_dt", stopping)
    with pytest.raises(KeyboardInterrupt):
        reproduce("a-curves-dt", tmp_path, config)
    monkeypatch.setattr(cells, "train_dt", working)
    done = reproduce("a-curves-dt", tmp_path, config)
    name = BUNDLED[0]
    assert trained == ["DT+Synthetic pre-training", f"DT on {name}", f"DT+Synthetic on {name}"]
    assert list(done.not_yet) == ["DT+Wiki"]
    assert done.comparison.rows[name][1].our_text == f"{MISSING} (not yet)"
    with pytest.raises(RunDirectoryError, match=r"other settings.*seeds"):
        reproduce("a-curves-dt", tmp_path, replace(config, seeds=(0, 1, 2)))


def test_missing_data_are_named_with_the_command_and_cells_stay_empty(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("D4RL_DATASET_DIR", "TRAJMILL_DATASETS", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="trajmill dataset download hopper-medium-replay-v2"):
        reproduce("a-table-6", tmp_path / "none")
    assert trained == [] and not (tmp_path / "none").exists()

    config = ReproduceConfig(datasets=("hopper-medium-v2", BUNDLED[0]), seeds=(0,), workers=1, compute=CPU)
    done = reproduce("a-table-6", tmp_path / "some", config)
    row = done.comparison.rows["hopper-medium-v2"]
    assert [entry.our_text for entry in row] == [f"{MISSING} (no data)"] * 6
    assert row[0].printed_text == "68.2 ± 4.0"
    text = done.markdown.read_text()
    assert "trajmill dataset download hopper-medium-v2" in text and "1 seed where the paper has twenty" in text
    assert "download" not in " ".join(trained)


def test_averages_of_both_are_over_the_same_data(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ("hopper-medium-v2", "hopper-medium-replay-v2")

    def find(name: str) -> Path:
        if name not in here:
            raise DatasetError(f"{name} is nowhere")
        return Path(name)

    monkeypatch.setattr(reproduction, "find_dataset", find)
    monkeypatch.setattr(cells, "facts", lambda name: (name, (11, 3), "Hopper-v4"))
    done = reproduce("a-table-6", tmp_path, ReproduceConfig(workers=1, compute=CPU))
    assert len(done.missing) == 10 and len(done.comparison.rows) == 14
    average = done.comparison.rows["Average over the 2 run here"][0]
    assert average.printed == pytest.approx((68.2 + 94.2) / 2)
    assert average.ours is not None and average.ours.estimate == pytest.approx(34 + 9.5)
    assert done.comparison.rows["Average as printed"][2].printed_text == "84.9 ± 3.7"
    assert done.comparison.rows[here[0]][0].our_text.startswith("43.5 [")


@pytest.mark.parametrize(("figure", "kind", "columns"), [(11, "trajectories", 102), (17, "transitions", 90)])
def test_a_share_of_the_data_is_drawn_once_and_trained_on(
    figure: int, kind: str, columns: int, trained: list[str], tmp_path: Path
) -> None:
    config = ReproduceConfig(quick=True, workers=1, compute=CPU, datasets=BUNDLED[:1])
    done = reproduce(f"a-figure-{figure}", tmp_path, config)
    files = sorted((tmp_path / "datasets").iterdir())
    shares = [f"{percent}pct-of-{kind}" for percent in (10, 20, 40, 60, 80)]
    assert [path.stem.removeprefix(f"{BUNDLED[0]}-") for path in files] == shares
    sizes = [len(load_dataset(path)) for path in files]
    assert sizes == sorted(sizes) and sizes[-1] < len(load_dataset(BUNDLED[0]))
    assert f"{'CQL' if figure == 17 else 'DT'}, 10% of the data on {files[0]}" in trained
    assert len(done.comparison.columns) == columns
    drawn = (tmp_path / f"a-figure-{figure}-1.svg").read_text()
    assert "share of the data, %" in drawn and "S=10,000" in (tmp_path / f"a-figure-{figure}.md").read_text()


def test_a_share_of_transitions_holds_transitions_of_the_data(tmp_path: Path) -> None:
    variant = next(v for v in STUDIES["a-figure-17"].variants.values() if v.ratio == 0.2)
    part = load_dataset(cells._part(variant, BUNDLED[0], tmp_path))
    training = cells.training_config(variant, BUNDLED[0], "Hopper-v4", None, ReproduceConfig(seeds=(0,)))
    assert isinstance(training, TrainCQLConfig)

    def rows(dataset: Dataset, kind: Literal["stored", "d4rl"]) -> set[bytes]:
        found = qlearning_transitions(dataset, kind)
        columns = [getattr(found, name) for name in ("observation", "action", "next_observation")]
        return {row.tobytes() for row in np.concatenate(columns, axis=1, dtype=np.float32)}

    whole, drawn = rows(load_dataset(BUNDLED[0]), "stored"), rows(part, training.next_observation)
    assert drawn <= whole and 0.18 * len(whole) < len(drawn) < 0.22 * len(whole)


def test_rows_of_the_chain_are_exact_and_need_no_data(tmp_path: Path) -> None:
    done = reproduce("a-figure-7", tmp_path)
    assert len(list(tmp_path.glob("a-figure-7-*.svg"))) == 5 and done.comparison.rows == {}
    (curve,) = rows_panel(STUDIES["a-figure-7"].columns[3]).curves
    assert math.isclose(curve.center.sum(), 1.0) and (np.diff(curve.center) >= 0).all()
    expected = np.exp(np.arange(1, 101) / 101)
    assert 0.93 < np.log(curve.center[-1] / curve.center[0]) <= 1.0  # greatest minus least of them, over τ = 1
    assert np.abs(curve.center / (expected / expected.sum()) - 1).max() < 0.15  # order statistics of 100 uniforms


def test_unknown_studies_and_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no study 'a-table-9'.*a-table-8.*quick$"):
        reproduce("a-table-9", tmp_path)
    with pytest.raises(ValueError, match=r"no study 'a-figure-2'.* is not on record by number"):
        reproduce("a-figure-2", tmp_path)
    with pytest.raises(ValueError, match="update_share"):
        ReproduceConfig(update_share=0.0)
    with pytest.raises(ValueError, match="pretraining_share"):
        ReproduceConfig(pretraining_share=1.5)
    with pytest.raises(ValueError, match="pretraining_share"):
        ReproduceConfig(pretraining_share=0.0)
    with pytest.raises(ValueError, match="evaluation_count"):
        ReproduceConfig(evaluation_count=3)
    with pytest.raises(ValueError, match="batch_share"):
        ReproduceConfig(batch_share=0.0)


def test_shares_scale_updates_batches_and_warm_ups() -> None:
    config = ReproduceConfig(seeds=(0,), update_share=0.02, pretraining_share=0.5, batch_share=0.25, evaluation_count=8)
    dt, cql = STUDIES["a-table-1"].variants["DT+Synthetic"], STUDIES["a-table-6"].variants["CQL+MDP"]
    assert dt.pretraining is not None and cql.pretraining is not None
    before = cells.pretraining_config(dt.pretraining, (11, 3), config)
    assert isinstance(before.method, LMConfig)
    assert (before.schedule.updates, before.method.batch_size) == (10_000, 16)
    assert (before.method.warmup_updates, before.method.decay_updates) == (5000, 40_000)
    after = cells.training_config(dt, BUNDLED[0], "Hopper-v4", None, config)
    assert isinstance(after.method, DTConfig)
    assert (after.schedule.updates, after.method.batch_size, after.method.warmup_updates) == (2000, 16, 100)
    assert after.schedule.evaluation_interval == 250
    critics = cells.pretraining_config(cql.pretraining, (11, 3), config)
    assert (critics.schedule.updates, critics.method.batch_size) == (50_000, 64)
    after = cells.training_config(cql, BUNDLED[0], "Hopper-v4", None, config)
    assert (after.schedule.updates, after.method.batch_size) == (20_000, 64)
    assert scaled(100_000, "cql", ReproduceConfig(update_share=0.02), None) == 2000  # one share for both by default


def test_all_but_the_paper_s_settings_are_said() -> None:
    assert reproduction._warnings(ReproduceConfig(seeds=PAPER_SEEDS)) == []
    config = ReproduceConfig(
        update_share=0.1, batch_share=0.5, seeds=(0, 1), compute=ComputeConfig(device="cpu", precision="bf16")
    )
    assert reproduction._warnings(config) == [
        "Not the paper's experiment: 0.1 of its updates, warm-ups included.",
        "Not the paper's experiment: 0.1 of its pre-training updates.",
        "Not the paper's experiment: 0.5 of its batches.",
        "2 seeds where the paper has twenty.",
        "Matrix products in bf16 where the paper has fp32.",
    ]


def test_a_study_runs_whole_in_two_processes(tmp_path: Path) -> None:
    config = ReproduceConfig(quick=True, update_share=0.02, datasets=BUNDLED[:1], workers=2, compute=CPU)
    done = reproduce("a-equal-updates-dt", tmp_path, config)
    row = done.comparison.rows[BUNDLED[0]]
    assert [entry.ours is not None for entry in row] == [True, True, False, True]  # no text was given
    init = json.loads((tmp_path / f"runs/dt+synthetic/{BUNDLED[0]}/config.json").read_text())["config"]["init"]
    assert Path(init) == tmp_path / "pretraining/dt+synthetic"
    assert "0.02 of its updates" in done.markdown.read_text()


def test_a_failure_in_a_process_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs/dt").mkdir(parents=True)
    (tmp_path / "runs/dt" / BUNDLED[0]).write_text("in the way")
    config = ReproduceConfig(quick=True, update_share=0.02, datasets=BUNDLED[:1], workers=2, compute=CPU)
    with pytest.raises(RunDirectoryError, match="no run directory"):
        reproduce("a-table-26", tmp_path, config)


@pytest.mark.slow
def test_every_study_has_its_table_and_its_figures(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for measure in ("backbone_similarities", "feature_similarities"):
        monkeypatch.setattr(
            measures, measure, lambda run: (np.full(len(run.seeds), 0.25), np.full(len(run.seeds), 0.5))
        )
    (tmp_path / "wiki.txt").write_text("words")
    config = ReproduceConfig(quick=True, workers=1, compute=CPU, text=(tmp_path / "wiki.txt",), datasets=BUNDLED[:1])
    for name, study in STUDIES.items():
        done = reproduce(name, tmp_path, config)
        assert not done.not_yet and not done.missing
        for row in (row for label, row in done.comparison.rows.items() if label in BUNDLED):
            assert all(entry.ours is not None or "not reached" in entry.why_empty for entry in row), name
        panels = len(study.columns) if study.figure == "transition rows" else len({c.group for c in study.columns})
        assert len(list(tmp_path.glob(f"{name}-*.svg"))) >= panels, name


@pytest.mark.slow
def test_quick_runs_whole(tmp_path: Path) -> None:
    done = reproduce("quick", tmp_path, ReproduceConfig(compute=CPU))
    assert all(entry.ours is not None for row in done.comparison.rows.values() for entry in row)


POOL = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from trajmill.pipelines.studies import cells

def train(variant, dataset, output, config):
    Path(output, dataset).write_text(str(os.getpid()))
    if len(list(Path(output).glob("?"))) == 2:
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)

cells._train = train
if __name__ == "__main__":
    variant = SimpleNamespace(name="", pretraining=None, ratio=1.0)
    cells.run_cells([(variant, "a"), (variant, "b")], sys.argv[1], SimpleNamespace(worker_count=2), print)
"""


@pytest.mark.slow
def test_processes_of_a_killed_study_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    subprocess.run([sys.executable, tmp_path / "pool.py", tmp_path], capture_output=True, timeout=120)
    pids = [int((tmp_path / name).read_text()) for name in "ab"]
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_was_stopped_begins_no_other_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait in a pool's queue cannot be cancelled any more."""
    begun: list[str] = []

    def work(name: str, stops: bool = False) -> Path:
        begun.append(name)
        if stops:
            raise Interrupted("stopped after update 5 of 9", signal.SIGINT)
        return Path(name)

    monkeypatch.setattr(cells, "_stopped", False)
    assert cells._job(work, "first") == Path("first")
    with pytest.raises(Interrupted):
        cells._job(work, "second", True)
    with pytest.raises(KeyboardInterrupt):
        cells._job(work, "third")
    assert begun == ["first", "second"]
