"""`tm.train`: a run from one call, followed by a callback, stopped and continued; and a run as an object."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import HOPPER, TYPICAL, assert_equal_runs, lines, result, tiny

import trajmill as tm
from trajmill.algorithms import method_named
from trajmill.experiments.keywords import settings_of
from trajmill.runs.directory import RunDirectory
from trajmill.runs.signals import Interrupted
from trajmill.runs.watching import Record
from trajmill.training.settings import plain

TINY: dict[str, Any] = {
    "dataset": HOPPER,
    "seeds": [5, 3],
    "updates": 40,
    "schedule": {"log_interval": 4, "evaluation_interval": 20, "checkpoint_interval": 6, "unroll": 3},
    "method": {"hidden_sizes": [16, 16], "batch_size": 8},
    "compute": {"device": "cpu"},
    "evaluation_episode_count": 1,
    "processes": 1,
    "progress": False,
}
"""what `tiny` makes of the method below"""
METHOD = "td3_bc"


def of(records: list[Record]) -> list[dict[str, Any]]:
    """Records as lines of ``metrics.jsonl``."""
    return [
        {
            "phase": record.phase,
            "update": record.update,
            "metrics": {name: [None if np.isnan(v) else v for v in row] for name, row in record.metrics.items()},
        }
        for record in records
    ]


# --- settings ---


def test_a_call_is_the_run_of_its_settings(whole: Callable[..., Path], tmp_path: Path) -> None:
    run = tm.train(METHOD, out=str(tmp_path / "run"), **TINY)
    assert_equal_runs(run.path, whole(tiny(METHOD)))
    assert run.path == tmp_path / "run" and run.finished


@pytest.mark.parametrize("name", [*TYPICAL, "sac"])
def test_every_setting_has_the_name_that_the_command_gives_it(name: str) -> None:
    """All settings of a run, given as plain values under dotted names, make the same settings."""
    config = tiny(name)
    values = plain(config)

    def flat(values: Mapping[str, Any], group: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            new = flat(value, f"{group}{key}.") if isinstance(value, dict) else {f"{group}{key}": value}
            found |= new
        return {key: float(value) if value == "inf" else value for key, value in found.items()}

    words = {key.replace("_", "-"): value for key, value in flat(values).items()}
    assert settings_of(name, words) == settings_of(name, values) == config
    method = method_named(name)
    assert settings_of(name, {**values, "method": config.method, "schedule": config.schedule}) == config
    assert settings_of(name, {**values, "method": {}}).method == method.Config()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"td3_bc needs dataset: give dataset=\.\.\."),
        ({"hidden_sizes": [8]}, r"no setting 'hidden_sizes'; did you mean method\.hidden_sizes\?"),
        ({"sheds": [8]}, r"no setting 'sheds'; did you mean seeds\?"),
        ({"method": {"hiden_sizes": [8]}}, r"no setting 'method\.hiden_sizes'; did you mean method\.hidden_sizes\?"),
        ({"interaction": {}}, "no setting 'interaction'; `trajmill train td3_bc --help` lists all"),
        ({"seeds": 3}, "seeds must be a sequence of whole numbers, got 3"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"method": {"normalize": "yes"}}, r"method\.normalize must be True or False, got 'yes'"),
        ({"method": {"discount": "high"}}, r"method\.discount must be a number or a sequence of numbers, got 'high'"),
        ({"method": {"discount": 2.0}}, "discount"),
        ({"method": 3}, "method must be a dict or a Config, got 3"),
        ({"schedule.updates": 2.5}, r"schedule\.updates must be a whole number, got 2\.5"),
        ({"schedule.updates": True}, r"schedule\.updates must be a whole number, got True"),
        ({"schedule": 3, "schedule.updates": 3}, "given beside all of schedule"),
        ({"compute": {"device": "gpu"}}, r"compute\.device must be one of 'auto', 'cpu', 'cuda', got 'gpu'"),
        ({"init": "s3://bucket/x"}, "not a path on this machine"),
        ({"init": 3}, "init must be a path or None, got 3"),
        ({"loggers": ["printer"]}, "logger must be one of 'tensorboard', 'wandb', 'trackio', got 'printer'"),
        ({"dataset": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = ({"dataset": HOPPER} if settings else {}) | settings
    with pytest.raises((ValueError, TypeError), match=message):
        tm.train(METHOD, out=tmp_path / "run", progress=False, **given)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_paths_and_whole_numbers_fit() -> None:
    given = {"dataset": Path("x.hdf5"), "seeds": np.arange(2), "method": {"discount": np.float32(0.5), "polyak": 1}}
    config: Any = settings_of(METHOD, given | {"init": Path("~/x")})
    assert config.dataset == "x.hdf5" and config.seeds == (0, 1) and config.init == Path("~/x").expanduser()
    assert (config.method.discount, config.method.polyak) == (0.5, 1.0) and type(config.method.polyak) is float


# --- the run as an object ---


def test_a_run_says_what_came_out(whole: Callable[..., Path]) -> None:
    run = tm.load_run(whole(tiny(METHOD)))
    assert (run.method, run.seeds, run.update, run.finished) == (METHOD, (5, 3), 40, True)
    assert list(run.scores.values()) == result(run.path)["average_last_four"] and list(run.scores) == [5, 3]
    curve = run.metrics["evaluation"]["return_mean"]
    assert curve.updates.tolist() == [20, 40] and curve.values.shape == (2, 2)
    assert run.policy(seed=3).seeds == (3,) and run.policy()(np.zeros(11)).shape == (2, 3)
    assert os.fspath(run) == str(run.path) and tm.load_policy(run).seeds == (5, 3)
    mean = f"{np.mean(list(run.scores.values())):.1f}".replace("-", "\N{MINUS SIGN}")
    assert f"td3_bc on {HOPPER}, 40 updates, seeds 5, 3, normalized score {mean}>" in repr(run)
    page = run._repr_html_()
    assert page.count("<svg") == 1 and "normalized score" in page and "var(--" not in page and "<?xml" not in page


def test_a_run_without_scores_shows_its_loss(whole: Callable[..., Path]) -> None:
    run = tm.load_run(whole(tiny("world_model")))
    assert run.scores == {} and "score" not in repr(run) and run.metrics["train"]
    assert run._repr_html_().count("<svg") == 1 and "holdout error" in run._repr_html_()


def test_progress_is_shown_unless_it_is_not_wanted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tm.train(METHOD, out=tmp_path / "silent", **TINY)
    assert capfd.readouterr() == ("", "")
    tm.train(METHOD, out=tmp_path / "shown", **TINY | {"progress": True})
    assert "train: 40 / 40 updates" in capfd.readouterr().err
    told: list[tuple[Any, ...]] = []
    tm.train(METHOD, out=tmp_path / "own", **TINY | {"progress": lambda *state: told.append(state)})
    assert told[-1] == ("train", 40, 40, "updates")


# --- callbacks ---


def test_a_callback_gets_every_record_once(tmp_path: Path) -> None:
    seen: list[Record] = []

    def note(record: Record) -> bool | None:
        seen.append(record)
        return record.update == 20 and record.phase == "evaluation"

    run = tm.train(METHOD, out=tmp_path / "run", callback=note, **TINY)
    assert not run.finished and run.update == 20 and "not finished" in repr(run)
    assert of(seen) == lines(run.path) and seen[-1].seeds == (5, 3)
    assert run.policy().update == 20
    tm.train(METHOD, out=tmp_path / "run", callback=seen.append, resume=True, **TINY)
    assert of(seen) == lines(run.path) and tm.load_run(run.path).finished


@pytest.mark.parametrize("at", [1, 4, 20, 24])
@pytest.mark.parametrize("answer", [True, np.True_])
def test_a_run_that_a_callback_stopped_ends_as_if_it_had_not(
    at: int, answer: object, whole: Callable[..., Path], tmp_path: Path
) -> None:
    """Also at update 20, whose evaluation comes after the record that stops it, and is made all the same."""
    run = tm.train(
        METHOD, out=tmp_path / "run", callback=lambda record: answer if record.update == at else None, **TINY
    )
    assert not run.finished and run.policy().update == at
    assert [line["phase"] for line in lines(run.path)][-1] == ("evaluation" if at == 20 else "train")
    tm.train(METHOD, out=tmp_path / "run", resume=True, **TINY)
    assert_equal_runs(run.path, whole(tiny(METHOD)))


def test_a_run_whose_last_record_stops_it_is_finished(whole: Callable[..., Path], tmp_path: Path) -> None:
    run = tm.train(METHOD, out=tmp_path / "run", callback=lambda record: record.update == 40, **TINY)
    assert_equal_runs(run.path, whole(tiny(METHOD)))


@pytest.mark.parametrize("answer", [None, False, 1, "stop", [], np.zeros(3)])
def test_only_true_stops_a_run(answer: object, tmp_path: Path) -> None:
    assert tm.train(METHOD, out=tmp_path / "run", callback=lambda record: answer, **TINY | {"updates": 2}).finished


def test_what_a_callback_raises_ends_the_run_with_a_checkpoint(whole: Callable[..., Path], tmp_path: Path) -> None:
    def fail(record: Record) -> None:
        if record.update == 16:
            raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake") as caught:
        tm.train(METHOD, out=tmp_path / "run", callback=fail, **TINY)
    assert "at the train record of update 16" in caught.value.__notes__[0]
    assert RunDirectory(tmp_path / "run").update == 16
    tm.train(METHOD, out=tmp_path / "run", resume=True, **TINY)
    assert_equal_runs(tmp_path / "run", whole(tiny(METHOD)))


def test_ctrl_c_leaves_a_run_that_goes_on(whole: Callable[..., Path], tmp_path: Path) -> None:
    def interrupt(record: Record) -> None:
        if record.update == 16:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"stopped after update \d+ of 40") as caught:
        tm.train(METHOD, out=tmp_path / "run", callback=interrupt, **TINY)
    assert isinstance(caught.value, Interrupted) and "call again with resume=True" in caught.value.__notes__[0]
    assert not tm.load_run(tmp_path / "run").finished
    tm.train(METHOD, out=tmp_path / "run", resume=True, **TINY)
    assert_equal_runs(tmp_path / "run", whole(tiny(METHOD)))


@pytest.mark.slow
def test_processes_that_share_a_run_are_followed_by_one_callback(whole: Callable[..., Path], tmp_path: Path) -> None:
    """It gets what a run of one process would give it; what it stops goes on, and ends the same."""
    seen: list[Record] = []

    def note(record: Record) -> bool:
        seen.append(record)
        return record.update == 20

    two = TINY | {"processes": 2}
    run = tm.train(METHOD, out=tmp_path / "run", callback=note, **two)
    assert not run.finished and run.policy().seeds == (5, 3) and seen[-1].update == 20
    stopped = len(seen)
    run = tm.train(METHOD, out=tmp_path / "run", callback=seen.append, resume=True, **two)
    assert_equal_runs(run.path, whole(tiny(METHOD)))
    everything = lines(run.path)
    assert of(seen[:stopped]) == everything[:stopped]
    later = of(seen[stopped:])
    assert later and later == everything[-len(later) :] and len(seen) <= len(everything)


@pytest.mark.slow
def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Neither for processes that share the seeds, nor for one that scores beside the training."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import trajmill as tm\nprint('once')\nsettings = {TINY | {'updates': 4}}\n"
        "print(tm.train('td3_bc', out='shared', **settings | {'processes': 2}).finished)\n"
        "settings['compute']['evaluation'] = 'beside'\n"
        "print(tm.train('td3_bc', out='beside', **settings).finished)\n"
    )
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["once", "True", "True"]), done.stderr
