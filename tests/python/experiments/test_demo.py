"""The demonstration: its NumPy baseline, its plan, its directory, and the whole of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy import stats

from trajmill.experiments import demo
from trajmill.experiments.demo import AliasTables, DemoConfig, DemoPlan, run_demo

TINY = DemoConfig(seeds=(0, 1), token_count=100_000, transition_count=5_000, updates=12, evaluation_episode_count=2)


def test_the_numpy_baseline_draws_from_its_rows():
    """Chi-square of 200,000 draws a row; at this seed the lowest of three p-values is above 0.05, the bound 0.001."""
    generator = np.random.default_rng(1)
    rows = generator.dirichlet(np.ones(7), size=3)
    rows[1] = [0, 0.5, 0, 0, 0.5, 0, 0]
    sampler = AliasTables(rows)
    for index, row in enumerate(rows):
        draws = sampler.draw(np.full(200_000, index), generator)
        counts = np.bincount(draws, minlength=7)
        assert not counts[row == 0].any()
        assert stats.chisquare(counts[row > 0], row[row > 0] * draws.size).pvalue > 0.001


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_count": 1500}, "token_count must be a multiple of 1,000"),
        ({"updates": 5}, "updates must be at least 6, got 5"),
        ({"evaluation_episode_count": 0}, "at least 1, got 0"),
        ({"seconds": 10.0}, "seconds must be more than 15, got 10"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DemoConfig(**changes)


def test_a_slow_machine_makes_fewer_updates():
    config = DemoConfig(updates=3_000, seconds=240.0)
    fast, slow, slowest = (DemoPlan.of(config, seconds) for seconds in (0.01, 0.1, 10.0))
    assert fast.updates == 3_000 and "shortened" not in str(fast)
    assert fast.seconds == pytest.approx(15 + (3_000 + 6 * 120) * 0.01)
    assert slow.updates == 1_530 and slow.seconds == pytest.approx(240.0, abs=0.7)
    assert slowest.updates == 6
    assert (
        str(slow) == "this will take about 4.0 min: 1,530 updates of every seed, shortened from 3,000 for this machine"
    )


def test_the_probe_measures_updates_until_its_time_is_over():
    from trajmill.algorithms import td3_bc
    from trajmill.experiments.settings import DatasetTrainConfig

    config = DatasetTrainConfig(dataset="hopper-ars-noisy-20k", method=td3_bc.SMALL, schedule=td3_bc.SCHEDULE)
    assert 0.0 < demo.probe(config, seconds=1e-9) < 60.0


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="something else than a demonstration"):
        run_demo(tmp_path, config=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_earlier_demonstration_is_replaced_and_nothing_else_removed(tmp_path):
    demo._claim(tmp_path / "demo")
    (tmp_path / "demo" / "training").mkdir()
    (tmp_path / "demo" / "report.html").touch()
    (tmp_path / "demo" / "notes.txt").touch()
    demo._claim(tmp_path / "demo")
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["demo.json", "notes.txt"]
    assert json.loads((tmp_path / "demo" / "demo.json").read_text()) == {"kind": "demo", "finished": False}


@pytest.mark.slow
def test_the_whole_demonstration_small_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "probe", lambda config: 1e-3)
    announced = []
    for _ in range(2):
        result = run_demo(tmp_path / "demo", config=TINY, announce=announced.append)
        page = result.report.read_text(encoding="utf-8")
        assert page.count('data-finished="yes"') == 1
        assert "12 updates of 2 seeds" in page and "which does not beat the 47.5" in page
    assert [plan.updates for plan in announced] == [12, 12]
    assert {rate.unit for rate in result.rates} == {"tokens", "transitions"}
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["finished"]


@pytest.mark.slow
def test_the_learned_policy_beats_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "probe", lambda config: 1e-3)
    result = run_demo(tmp_path / "demo", config=DemoConfig(token_count=1_000_000))
    assert result.plan.updates == 3_000
    assert result.policy_score.low > result.data_score + 10.0
    assert re.fullmatch(
        r"The learned policy scores [\d.]+ \[[\d.]+, [\d.]+\]; the policy .* scored 47\.5\.", result.verdict
    )
