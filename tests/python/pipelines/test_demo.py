"""The demonstration: its NumPy baselines, its two processes, and the whole of it, scaled down."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import time

import numpy as np
import pytest
from scipy import stats

from trajmill.core.progress import silent
from trajmill.pipelines import demo
from trajmill.pipelines.demo import AliasTables, DemoConfig, InverseCDF, run_demo
from trajmill.pipelines.interruption import Interrupted

TINY = DemoConfig(
    seeds=(0, 1),
    token_count=100_000,
    transition_count=5_000,
    pretrain_updates=4,
    finetune_updates=6,
    evaluation_period=2,
    evaluation_episode_count=2,
)


@pytest.mark.parametrize("method", [InverseCDF, AliasTables])
def test_the_numpy_baselines_draw_from_their_rows(method):
    """Chi-square of 200,000 draws a row; at this seed the lowest of six p-values is above 0.05, the bound 0.001."""
    generator = np.random.default_rng(1)
    rows = generator.dirichlet(np.ones(7), size=3)
    rows[1] = [0, 0.5, 0, 0, 0.5, 0, 0]
    sampler = method(rows)
    for index, row in enumerate(rows):
        draws = sampler.draw(np.full(200_000, index), generator)
        counts = np.bincount(draws, minlength=7)
        assert not counts[row == 0].any()
        assert stats.chisquare(counts[row > 0], row[row > 0] * draws.size).pvalue > 0.001


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_count": 1500}, "token_count must be a multiple of 1,000"),
        ({"finetune_updates": 0}, "at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DemoConfig(**changes)


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="something else than a demonstration"):
        run_demo(tmp_path, config=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_earlier_demonstration_is_replaced_and_nothing_else_removed(tmp_path):
    demo._claim(tmp_path / "demo")
    (tmp_path / "demo" / "from_scratch").mkdir()
    (tmp_path / "demo" / "report.html").touch()
    (tmp_path / "demo" / "notes.txt").touch()
    demo._claim(tmp_path / "demo")
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["demo.json", "notes.txt"]
    assert json.loads((tmp_path / "demo" / "demo.json").read_text()) == {"kind": "demo", "finished": False}


def good(config, output, progress):
    progress("work", 1, 1, "updates")


def bad(config, output, progress):
    raise ValueError("the floor is lava")


def dead(config, output, progress):
    os._exit(9)


def endless(config, output, progress):
    time.sleep(600)


def test_jobs_run_side_by_side_and_their_progress_arrives(tmp_path):
    seen = []
    demo.run_jobs({"one": good, "two": good}, TINY, tmp_path, lambda *state: seen.append(state))
    assert sorted(seen) == [("one: work", 1, 1, "updates"), ("two: work", 1, 1, "updates")]
    assert os.environ.get("OMP_NUM_THREADS") != "" and not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("job", "message"), [(bad, "'two' failed: the floor is lava"), (dead, "'two' died with exit code 9")]
)
def test_a_failing_job_ends_the_other(job, message, tmp_path):
    with pytest.raises(RuntimeError, match=message):
        demo.run_jobs({"one": endless, "two": job}, TINY, tmp_path, silent)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_the_whole_demonstration_small_and_again(tmp_path):
    for _ in range(2):
        result = run_demo(tmp_path / "demo", config=TINY)
        page = result.report.read_text(encoding="utf-8")
        assert page.count('data-finished="yes"') == 2
        assert "6 gradient updates on 2 seeds" in page and "floor " in page
    assert {rate.unit for rate in result.rates} == {"tokens", "transitions"}
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["finished"]


@pytest.mark.parametrize(
    ("observation_dim", "optimum"), [(11, 0.339149), (17, 0.342222), (111, 0.330665)], ids=["hopper", "cheetah", "ant"]
)
def test_the_floor_is_the_loss_of_the_law(observation_dim: int, optimum: float) -> None:
    """The true rows' optimum, known from the authors' own MDP; another seed's rows move the fourth digit at most."""
    assert demo.loss_floor(DemoConfig(), observation_dim) == pytest.approx(optimum, rel=1e-3)


def test_a_training_process_that_is_ended_shows_no_traceback(tmp_path, monkeypatch):
    def stopped(*_):
        raise Interrupted("stopped after update 5 of 9", 15)

    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        demo._work("scratch", stopped, DemoConfig(), tmp_path, queue.Queue())
