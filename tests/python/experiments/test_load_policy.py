"""Trained policies as functions, and runs that several processes still share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import checkpoint, each, tiny, train

import trajmill as tm
from trajmill.cli import main
from trajmill.experiments.evaluate import EvaluateConfig, evaluate_run, read_policy
from trajmill.experiments.policy import LoadedPolicy
from trajmill.runs.reading import RunError, read_run


def test_observations_of_every_shape_give_actions(whole: Callable[..., Path]) -> None:
    run = whole(tiny("td3_bc"))
    policy, one = tm.load_policy(run), tm.load_policy(str(run), seed=3)
    assert (policy.seeds, one.seeds, policy.update, policy.environment) == ((5, 3), (3,), 40, "Hopper-v4")
    seen = np.random.default_rng(0).normal(size=(2, 4, 11)).astype(np.float32)
    trained = read_policy(checkpoint(run))
    wanted = trained.act(seen) * trained.action_limit
    np.testing.assert_array_equal(policy(seen), wanted)
    same = np.stack([seen[0], seen[0]])
    np.testing.assert_array_equal(policy(seen[0]), trained.act(same) * trained.action_limit)
    assert policy(seen[0, 0]).shape == (2, 3) and policy(seen[0].tolist()).shape == (2, 4, 3)
    np.testing.assert_allclose(one(seen[0]), policy(seen[0])[1], rtol=1e-6)
    np.testing.assert_allclose(one(seen[0, 0]), policy(seen[0])[1, 0], rtol=1e-5)
    np.testing.assert_array_equal(tm.load_policy(checkpoint(run))(seen), wanted)
    assert "Hopper-v4: seeds [5, 3], 40 updates" in repr(policy)


def test_actions_are_in_the_units_of_the_environment(whole: Callable[..., Path]) -> None:
    part = read_policy(checkpoint(whole(tiny("td3_bc"))))
    seen = np.random.default_rng(0).normal(size=(4, 11))
    np.testing.assert_allclose(LoadedPolicy([replace(part, action_limit=3.0)])(seen), 3 * LoadedPolicy([part])(seen))


def test_a_transformer_remembers_the_episode(whole: Callable[..., Path]) -> None:
    """Step by step the actions are those of the evaluation's own calls."""
    run = whole(tiny("decision_transformer"))
    policy, twin = tm.load_policy(run), read_policy(checkpoint(run))
    assert policy.remembers and not tm.load_policy(whole(tiny("td3_bc"))).remembers
    steps = np.random.default_rng(0).normal(size=(5, 2, 3, 11)).astype(np.float32)
    twin.act.start(2, 3)  # type: ignore[attr-defined]
    policy.start(3)
    for step in steps:
        np.testing.assert_array_equal(policy(step), twin.act(step) * twin.action_limit)
        rewards = step[..., 0]
        policy.observe(rewards)
        twin.act.observe(rewards, np.ones((2, 3), bool))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="3 episodes go on, got 1 observations; call start first"):
        policy(steps[0, 0, 0])
    policy.start()
    first = policy(steps[0, 0, 0])
    policy.observe(1.0)
    policy.start()
    np.testing.assert_array_equal(policy(steps[0, 0, 0]), first)
    one = tm.load_policy(run, seed=3)
    with pytest.raises(RuntimeError, match="there is no episode yet"):
        one.observe(0.0)
    np.testing.assert_allclose(one(steps[0, 0, 0]), first[1], rtol=1e-5)
    one.observe(1.0)
    assert one(steps[1, 0, 0]).shape == (3,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda run: tm.load_policy(run)(np.zeros(5)),
            r"shape \(11,\) or \(n, 11\), or \(2, n, 11\) for the seeds, got \(5,\)",
        ),
        (lambda run: tm.load_policy(run)(np.zeros((3, 4, 11))), r"got \(3, 4, 11\)"),
        (
            lambda run: tm.load_policy(run, seed=3)(np.zeros((1, 4, 11))),
            r"shape \(11,\) or \(n, 11\), got \(1, 4, 11\)",
        ),
        (lambda run: tm.load_policy(run, seed=9), "has the seeds 5, 3, got seed 9"),
        (lambda run: tm.load_policy(run / "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_told(make: Callable[[Path], object], message: str, whole: Callable[..., Path]) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        make(whole(tiny("td3_bc")))


def shared(tmp_path: Path, method: str) -> Path:
    """A run of two seeds that two processes have not joined yet."""
    run, config = tmp_path / "run", tiny(method)
    (run / "processes").mkdir(parents=True)
    for number, seed in enumerate(config.seeds):
        train(replace(config, seeds=(seed,)), run / "processes" / str(number))
        (run / "processes" / str(number) / "result.json").unlink()
    train(config, tmp_path / "whole")
    shutil.copy(tmp_path / "whole/config.json", run / "config.json")
    return run


@pytest.mark.parametrize("method", each(["td3_bc", "decision_transformer"]))
def test_a_run_that_processes_share_is_seen_while_it_goes_on(method: str, tmp_path: Path) -> None:
    """Its metrics, its scores, its policies, and the report: as those of a run of one process."""
    run = shared(tmp_path, method)
    ours, theirs = read_run(run), read_run(tmp_path / "whole")
    assert ours.result is None and ours.update == theirs.update == 40
    for phase, metrics in theirs.series.items():
        for name, series in metrics.items():
            np.testing.assert_array_equal(ours.series[phase][name].updates, series.updates)
            np.testing.assert_allclose(ours.series[phase][name].values, series.values, rtol=1e-4, err_msg=name)
    scores = [evaluate_run(each, EvaluateConfig(episode_count=1)) for each in (run, tmp_path / "whole")]
    assert scores[0].seeds == (5, 3) and scores[0].update == 40
    np.testing.assert_allclose(scores[0].result.returns, scores[1].result.returns, rtol=1e-3)
    seen = np.random.default_rng(0).normal(size=(2, 4, 11)).astype(np.float32)
    np.testing.assert_allclose(
        tm.load_policy(run)(seen), tm.load_policy(tmp_path / "whole")(seen), rtol=1e-4, atol=1e-6
    )
    assert main(["report", str(run), "--out", str(tmp_path / "report.html"), "--quiet"]) == 0


def test_a_process_that_has_measured_less_is_waited_for(tmp_path: Path) -> None:
    run = shared(tmp_path, "td3_bc")
    metrics = run / "processes/1/metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:3]))
    assert read_run(run).update < 40
    shutil.rmtree(run / "processes/1/checkpoints")
    with pytest.raises(RunError, match=r"1 of the processes that share .* have no checkpoint yet; wait"):
        evaluate_run(run)
