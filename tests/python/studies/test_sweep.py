"""Sweeps: every combination of some settings is a run, made once, and one table says what came out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import HOPPER, assert_equal_runs, tiny, train

from trajmill.cli import main
from trajmill.report.comparison import MISSING
from trajmill.runs.engines import EngineConfig
from trajmill.runs.reading import RunError, read_run
from trajmill.studies import cells
from trajmill.studies.cells import ReproduceConfig
from trajmill.studies.run import reproduce
from trajmill.studies.sweep import setting, sweep, sweep_cells
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule

CHEETAH = "halfcheetah-sac-replay-10k"
SHORT = Schedule(updates=4, log_interval=2, evaluation_interval=2, checkpoint_interval=1)
BASE = tiny("td3_bc", schedule=SHORT)
GRID: dict[str, Any] = {"dataset": (HOPPER, CHEETAH), "method.value_weight": (0.5, 2.5)}
WORDS = [
    "--method.hidden-sizes",
    "16",
    "16",
    "--method.batch-size",
    "8",
    "--seeds",
    "5",
    "3",
    "--compute.device",
    "cpu",
]
WORDS += ["--evaluation-episode-count", "1", "--schedule.log-interval", "2", "--schedule.evaluation-interval", "2"]
WORDS += ["--schedule.checkpoint-interval", "1", "--processes", "1", "--quiet"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that were really trained, in order."""
    names: list[str] = []
    working = cells.train

    def noting(config: Any, path: Path, *arguments: Any, **options: Any) -> Path:
        if not (path / "result.json").exists():
            names.append(path.parent.name + "/" + path.name)
        return working(config, path, *arguments, **options)

    monkeypatch.setattr(cells, "train", noting)
    return names


# --- which runs ---


def test_a_run_is_named_by_what_differs(tmp_path: Path) -> None:
    grid = {**GRID, "method.hidden_sizes": ((8,), (4, 4)), "schedule.updates": (2,)}
    found = sweep_cells(BASE, grid, tmp_path)
    assert len(found) == 8 and len({cell.path for cell in found}) == 8
    first, last = found[0], found[-1]
    assert first.label == "TD3+BC value-weight=0.5 hidden-sizes=8 schedule.updates=2"
    assert first.path == tmp_path / f"runs/td3+bc-value-weight=0.5-hidden-sizes=8-schedule.updates=2/{HOPPER}"
    assert last.path.parent.name == "td3+bc-value-weight=2.5-hidden-sizes=4-4-schedule.updates=2"
    assert last.config.method.hidden_sizes == (4, 4) and last.config.dataset == CHEETAH
    assert last.config == replace(
        BASE,
        dataset=CHEETAH,
        variant=last.label,
        method=replace(BASE.method, value_weight=2.5, hidden_sizes=(4, 4)),
        schedule=replace(SHORT, updates=2),
    )
    assert last.cost < first.cost, "narrower layers are less work"


def test_a_larger_grid_has_the_runs_of_a_smaller_one(tmp_path: Path) -> None:
    small = {cell.path: cell.config for cell in sweep_cells(BASE, GRID, tmp_path)}
    large = sweep_cells(BASE, {**GRID, "method.value_weight": (7.0, 0.5, 2.5)}, tmp_path)
    assert small.items() <= {cell.path: cell.config for cell in large}.items()


def test_names_that_are_too_long_stay_apart(tmp_path: Path) -> None:
    found = sweep_cells(replace(BASE, variant="x" * 300), {"method.discount": (0.9, 0.99)}, tmp_path)
    assert len({cell.path for cell in found}) == 2 and all(len(cell.path.parent.name) < 140 for cell in found)


def test_agents_that_learn_online_are_swept_over_environments(tmp_path: Path) -> None:
    base = tiny("sac", schedule=SHORT)
    found = sweep_cells(
        base, {"environment": ("hopper", "walker2d"), "interaction.updates_per_step": (1.0, 2.0)}, tmp_path
    )
    assert [cell.path.name for cell in found] == ["hopper", "hopper", "walker2d", "walker2d"]
    assert found[1].config.interaction.updates_per_step == 2.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"method.alpha": (1.0,)}, "there is no setting method.alpha: alpha is none of .*value_weight"),
        ({"methods.alpha": (1.0,)}, "there is no setting methods.alpha: methods is none of .*method"),
        ({"method.value_weight.x": (1.0,)}, "x is none of its parts"),
        ({"method.value_weight": ()}, "different values of method.value_weight, at least one, got none"),
        ({"method.value_weight": (1.0, 1.0)}, "different values of method.value_weight, at least one, got 1.0, 1.0"),
        ({"method.discount": (2.0,)}, "discount"),
        ({"method.value_weight": (-1.0, 1.0)}, "value_weight"),
        ({"variant": ("a b", "a-b")}, "would have one directory"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_the_work(grid: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        sweep(BASE, grid, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_are_found_by_their_names() -> None:
    assert setting(BASE, "method.discount") == BASE.method.discount
    assert setting(BASE, "schedule") == SHORT


# --- whole sweeps ---


def test_every_run_is_that_of_train_and_is_made_once(trained: list[str], tmp_path: Path) -> None:
    done = sweep(BASE, GRID, tmp_path / "out", processes=1)
    assert len(trained) == 4 and not done.faults
    alone = train(replace(BASE, method=replace(BASE.method, value_weight=0.5)), tmp_path / "alone")
    assert_equal_runs(done.cells[0].path, alone)
    kept = {path: path.read_bytes() for path in done.output.rglob("*") if path.is_file()}
    again = sweep(BASE, GRID, tmp_path / "out", processes=1)
    assert len(trained) == 4 and again.table == done.table
    assert {path: path.read_bytes() for path in done.output.rglob("*") if path.is_file()} == kept
    (heads, *rows) = done.table
    assert heads == ("dataset", "value-weight", "normalized score, last 2 evaluations")
    assert [row[:2] for row in rows] == [(HOPPER, "0.5"), (HOPPER, "2.5"), (CHEETAH, "0.5"), (CHEETAH, "2.5")]
    facts = json.loads((done.output / "sweep.json").read_text())
    numbers = [run["ours"]["estimate"] for run in facts["runs"]]
    wanted = [read_run(cell.path).evaluation("normalized_score").values.mean() for cell in done.cells]
    assert numbers == pytest.approx(wanted) and f"| {HOPPER} | 0.5 | {rows[0][2]} |" in done.markdown.read_text()
    page = done.report.read_text()
    assert "TD3+BC value-weight=2.5" in page and rows[3][2] in page
    larger = sweep(BASE, {**GRID, "method.value_weight": (0.5, 2.5, 7.0)}, tmp_path / "out", processes=1)
    assert trained[4:] == [f"td3+bc-value-weight=7.0/{name}" for name in (HOPPER, CHEETAH)] and not larger.faults


def test_an_interrupted_sweep_goes_on(trained: list[str], tmp_path: Path) -> None:
    seen: list[int] = []

    def interrupt(task: str, completed: int, total: int, unit: str) -> None:
        if task.startswith("2/4") and unit == "updates" and completed == 3:
            raise KeyboardInterrupt

    def note(task: str, completed: int, total: int, unit: str) -> None:
        if task.startswith("2/4") and unit == "updates":
            seen.append(completed)

    with pytest.raises(KeyboardInterrupt):
        sweep(BASE, GRID, tmp_path / "out", interrupt, processes=1)
    assert len(trained) == 2
    done = sweep(BASE, GRID, tmp_path / "out", note, processes=1)
    assert min(seen) >= 2, "the checkpoints of the first call count"
    assert len(trained) == 5 and trained[1] == trained[2]
    whole = sweep(BASE, GRID, tmp_path / "whole", processes=1)
    for one, other in zip(done.cells, whole.cells, strict=True):
        assert_equal_runs(one.path, other.path)


def test_what_fails_is_named_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["sweep", "td3_bc", "--datasets", HOPPER, "--grid", "method.value-weight", "2.5", "1e30", *WORDS]
    words += ["--grid", "schedule.updates", "4", "--out", str(out)]
    assert main(words) == 1
    told = capsys.readouterr()
    assert "value-weight=1e+30" in told.out and "diverged" in told.out and "failed" in told.out
    assert (
        told.err.splitlines()[-1]
        == "trajmill: 1 run failed or lost seeds, for the reasons above; finished runs are kept"
    )
    facts = json.loads((out / "sweep.json").read_text())
    assert [run["ours"] is None for run in facts["runs"]] == [False, True]
    assert main([*words[:7], *words[8:]]) == 0, "without that value"


def test_seeds_that_diverge_are_named(tmp_path: Path) -> None:
    grid = {"method.learning_rate": ((1e-3, 1e30), 1e-3)}
    with pytest.warns(RuntimeWarning, match="seed 3 diverged"):
        done = sweep(BASE, grid, tmp_path, processes=1)
    assert done.faults == [f"TD3+BC learning-rate=0.001,1e+30 on {HOPPER}: seed 3 diverged"]
    assert not done.failed and done.table[1][-1].startswith(MISSING)


def test_other_settings_are_refused_not_mixed(tmp_path: Path) -> None:
    sweep(BASE, {}, tmp_path, processes=1)
    with pytest.raises(RunError, match=r"other settings.*seeds"):
        sweep(replace(BASE, seeds=(1, 2)), {}, tmp_path, processes=1)


def test_a_method_without_data_or_scores_has_a_table_too(tmp_path: Path) -> None:
    base = tiny("forward_dynamics", schedule=SHORT, seeds=(5,))
    done = sweep(base, {"method.state_count": (7, 9)}, tmp_path, processes=1)
    (heads, *rows) = done.table
    assert heads[0] == "state-count" and heads[1].endswith("at the end")
    assert [row[0] for row in rows] == ["7", "9"] and all(float(row[1]) for row in rows)


# --- shards ---


@pytest.mark.slow
def test_shards_make_each_run_once_and_the_last_one_the_table(trained: list[str], tmp_path: Path) -> None:
    grid = {**GRID, "schedule.updates": (2, 4)}
    done = []
    for number in (2, 0, 1):
        done.append(sweep(BASE, grid, tmp_path, engine=EngineConfig(shard=f"{number}/3"), processes=1))
        assert (tmp_path / "sweep.html").exists() is (number == 1)
    assert len(trained) == len(set(trained)) == 8
    assert [one.left_to_others > 0 for one in done] == [True, True, False] and len(done[-1].records) == 8
    assert sweep(BASE, grid, tmp_path, processes=1).table == done[-1].table and len(trained) == 8


def test_a_shard_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "td3_bc", "--datasets", HOPPER, "--grid", "method.discount", "0.9", "0.99", *WORDS]
    words += ["--schedule.updates", "2", "--shard", "0/2", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "1 run of this shard finished, 1 left to other shards; the last to end writes" in capsys.readouterr().out


@pytest.mark.slow
def test_shards_of_a_study_share_what_they_start_from(trained: list[str], tmp_path: Path) -> None:
    config = ReproduceConfig(
        quick=True, update_share=0.02, datasets=(HOPPER,), processes=1, compute=ComputeConfig(device="cpu")
    )
    parts = [
        reproduce("a-curves-cql", tmp_path / "parts", config, engine=EngineConfig(shard=f"{number}/2"))
        for number in range(2)
    ]
    assert [part.left_to_others > 0 for part in parts] == [True, False] and len(trained) == len(set(trained))
    whole = reproduce("a-curves-cql", tmp_path / "whole", config)
    assert parts[1].comparison == whole.comparison
    for cell, path in whole.runs.items():
        assert_equal_runs(parts[1].runs[cell], path)


# --- the command line ---


def test_the_command_makes_what_train_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "td3_bc", "--datasets", HOPPER, *WORDS, "--grid", "method.hidden-sizes", "8", "4,4"]
    assert main([*words, "--schedule.updates", "4", "--out", str(tmp_path / "out"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [run["values"] for run in data["runs"]] == [{"hidden-sizes": "8"}, {"hidden-sizes": "4,4"}]
    run = read_run(tmp_path / "out" / data["runs"][1]["run"])
    assert run.settings["method"]["hidden_sizes"] == [4, 4] and run.seeds == (5, 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--grid", "method.discount"], "--grid takes a setting and its values"),
        (["--grid", "method.discount", "high"], "high"),
        (["--grid", "method.nothing", "1"], "there is no setting method.nothing"),
        (["--grid", "method.discount", "0.9", "--grid", "method.discount", "0.8"], "given twice"),
        (["--grid", "dataset", HOPPER], "given twice"),
        (["--shard", "2/2"], "k/N with 0 <= k < N"),
        (["--gpus-per-cell", "0.5"], "give --engine ray too"),
    ],
)
def test_wrong_words_are_refused(words: list[str], told: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["sweep", "td3_bc", "--datasets", HOPPER, "--out", str(tmp_path / "out"), "--quiet", *words]) in (1, 2)
    assert told in "".join(capsys.readouterr())
    assert not (tmp_path / "out").exists()
