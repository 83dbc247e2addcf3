"""Training on predicted next observations: exact shares, rate 0 and 1, refusals, and how good predictions are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import HOPPER, SCHEDULE, assert_equal_runs, checkpoint, killed, lines, result, tensors, tiny, train

from trajmill._core import Shares
from trajmill.algorithms import diffusion, method_named, td3, td3_bc
from trajmill.cli import main
from trajmill.data import load_dataset, qlearning_transitions, write_d4rl
from trajmill.experiments.prediction import PredictConfig, identity_of, load_model, measure_predictions, predicted_rows
from trajmill.replay.tables import TransitionRows
from trajmill.runs.reading import read_state
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.settings import Schedule

HALFCHEETAH = "halfcheetah-sac-replay-10k"


@pytest.fixture
def model(whole: Callable[..., Path]) -> Path:
    """A run of a world model that has learned a little."""
    return whole(tiny("world_model"))


def batches_of(config: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The batches of TD3+BC's updates in a run of ten."""
    found: list[Any] = []
    real = td3.update

    def update(state: Any, batch: Any, *more: Any, **options: Any) -> None:
        found.append(replace(batch, **{name: value.clone() for name, value in columns_of(batch).items()}))
        real(state, batch, *more, **options)

    monkeypatch.setattr(td3, "update", update)
    train(replace(config, schedule=replace(SCHEDULE, updates=10)), run)
    return found


def test_a_rate_of_zero_is_plain_training(model: Path, whole: Callable[..., Path]) -> None:
    assert_equal_runs(whole(tiny("td3_bc", predict=model, prediction_rate=0.0)), whole(tiny("td3_bc")))


@pytest.mark.parametrize("rate", [0.5, 0.3, 1.0])
@pytest.mark.parametrize("place", ["device", "host"])
def test_every_batch_has_its_share_of_predictions_exactly(
    rate: float, place: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row has the real or the predicted next observation of its state; all else is that of plain training."""
    config = tiny("td3_bc", predict=model, prediction_rate=rate)
    config = replace(config, compute=replace(config.compute, rows=place))
    batches = batches_of(config, tmp_path / "run", monkeypatch)
    rows = td3_bc.prepare(config.method, load_dataset(HOPPER))
    predicted = predicted_rows(rows, load_model(model), 1)
    shares = Shares(2)
    for batch in batches:
        count = 8 if rate == 1.0 else shares.split(8, [1.0 - rate, rate])[1]
        for seed in range(2):
            columns = {name: getattr(batch, name)[seed].numpy() for name in rows.columns}
            found = [
                int(np.flatnonzero((rows.columns["observation"] == row).all(1))[0]) for row in columns["observation"]
            ]
            for name in ("action", "reward", "terminal"):
                assert np.array_equal(columns[name], rows.columns[name][found])
            real = (columns["next_observation"] == rows.columns["next_observation"][found]).all(1)
            made = (columns["next_observation"] == predicted.columns["next_observation"][found]).all(1)
            terminal = rows.columns["terminal"][found] == 1
            assert real[: 8 - count].all() and made[8 - count :].all()
            assert np.array_equal(real & made, terminal), "only where a target does not look are the two the same"
    assert len(batches) == 10


def test_a_rate_of_one_uses_no_real_next_observation(
    model: Path, tmp_path: Path, whole: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other real ones in their place, the same numbers come out, which they do not at a rate of a half."""
    real = td3_bc.prepare

    def poisoned(*given: Any) -> TransitionRows:
        rows = real(*given)
        following = np.full_like(rows.transitions.next_observation, 1e4)
        return replace(rows, transitions=replace(rows.transitions, next_observation=following))

    for rate in (1.0, 0.5):
        config = tiny("td3_bc", predict=model, prediction_rate=rate)
        with monkeypatch.context() as patch:
            patch.setattr(td3_bc, "prepare", poisoned)
            run = train(config, tmp_path / f"run{rate}")
        same = torch.equal(tensors(run)["critic"], tensors(whole(config))["critic"])
        assert same == (rate == 1.0)


def test_real_rows_are_not_altered(model: Path) -> None:
    rows = TransitionRows(transitions=qlearning_transitions(load_dataset(HOPPER)))
    before = {name: np.array(value) for name, value in columns_of(rows.transitions).items()}
    predicted = predicted_rows(rows, load_model(model), 3)
    for name, value in columns_of(rows.transitions).items():
        assert np.array_equal(value, before[name]), name
        same = np.array_equal(columns_of(predicted.transitions)[name], value)
        assert same == (name != "next_observation"), name
    terminal = rows.transitions.terminal
    assert terminal.any()
    kept = (predicted.transitions.next_observation == rows.transitions.next_observation).all(1)
    assert np.array_equal(kept, terminal)


def columns_of(rows: Any) -> dict[str, Any]:
    """Of transitions, or of a batch of them."""
    return {name: value for name in rows.__slots__ if (value := getattr(rows, name)) is not None}


def test_horizons_and_draws_make_other_predictions(model: Path) -> None:
    rows = td3_bc.prepare(td3_bc.SMALL, load_dataset(HOPPER))
    made = {
        (steps, seed): predicted_rows(rows, load_model(model, seed), steps).transitions.next_observation
        for steps in (1, 2, 5)
        for seed in (None, 0, 1)
    }
    for one, first in made.items():
        for other, second in made.items():
            assert np.array_equal(first, second) == (one == other), (one, other)


def test_predictions_compose_with_more_datasets(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of another dataset, which stays real; of the rest a half is predicted."""
    columns = load_dataset(HOPPER).to_write()
    path = tmp_path / "other.hdf5"
    write_d4rl(path, **columns | {"rewards": np.asarray(columns["rewards"]) + np.float32(1e5)})
    for rate, counts in ((0.5, (3, 3, 2)), (1.0, (6, 2)), (0.0, (6, 2))):
        config = tiny("td3_bc", predict=model, prediction_rate=rate, mix=(f"{path}=0.25",))
        with monkeypatch.context() as patch:
            batches = batches_of(config, tmp_path / f"run{rate}", patch)
        for batch in batches:
            source = batch.source[0]
            assert [(source == number).sum() for number in range(len(counts))] == list(counts)
            assert ((batch.reward[0] > 5e4) == (source == len(counts) - 1)).all()


@pytest.mark.parametrize("method", ["td3_bc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cql", "iql"))])
def test_a_run_on_predictions_resumes_to_the_same_numbers(
    method: str, model: Path, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    config = tiny(
        method, predict=model, prediction_horizon=2, prediction_seed=3, schedule=replace(SCHEDULE, updates=20)
    )
    expected = whole(config)
    assert lines(expected)[1]["metrics"] != lines(whole(tiny(method)))[1]["metrics"]
    run = killed(config, tmp_path / "run", 13)
    train(config, run, resume=True)
    assert_equal_runs(run, expected)
    known = read_checkpoint(checkpoint(run))[1]
    assert known["model"]["kind"] == "world_model" and known["model"]["update"] == 40 and known["model"]["seed"] == 5


def test_a_run_is_not_resumed_with_a_model_that_has_gone_further(tmp_path: Path) -> None:
    short = tiny("world_model", schedule=replace(SCHEDULE, updates=8))
    model = train(short, tmp_path / "model")
    config = tiny("td3_bc", predict=model)
    run = killed(config, tmp_path / "run", 13)
    (model / "checkpoints").rename(tmp_path / "former")
    longer = train(tiny("world_model"), tmp_path / "longer")
    (longer / "checkpoints").rename(model / "checkpoints")
    with pytest.raises(ValueError, match="belongs to another run: its update is 8, here it is 40"):
        train(config, run, resume=True)


def test_what_does_not_fit_is_refused(model: Path, tmp_path: Path, whole: Callable[..., Path]) -> None:
    columns = load_dataset(HOPPER).to_write()
    other = tmp_path / "hopper-other.hdf5"
    write_d4rl(other, **columns | {"rewards": np.asarray(columns["rewards"]) + 1})
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("td3_bc", {"predict": model, "dataset": HALFCHEETAH}, "takes 11 observation and 3 action numbers.* 17 and 6"),
        ("td3_bc", {"predict": model, "dataset": str(other)}, "not from these rows of .*--predict-other-data"),
        ("td3_bc", {"predict": whole(tiny("td3_bc"))}, "'td3_bc', which predicts no next observations"),
        ("td3_bc", {"predict": tmp_path / "nothing"}, "no checkpoint at"),
        ("td3_bc", {"predict": tmp_path}, "predict .* neither a run directory"),
        ("decision_transformer", {"predict": model}, "which this method does not learn from"),
        ("world_model", {"predict": model}, "world_model learns to predict next .* leave out --predict"),
    ]
    for method, changes, message in refused:
        with pytest.raises(ValueError, match=message):
            train(tiny(method, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    schedule = replace(SCHEDULE, updates=2)
    train(
        tiny("td3_bc", predict=model, dataset=str(other), predict_other_data=True, schedule=schedule), tmp_path / "run"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_rate": 1.5}, r"prediction_rate must be in \[0, 1\]"),
        ({"prediction_horizon": 0}, "prediction_horizon must be between 1 and 5"),
        ({"prediction_horizon": 6}, "prediction_horizon must be between 1 and 5"),
        ({"prediction_seed": -1}, "prediction_seed"),
        ({"predict": None, "prediction_rate": 0.3}, "need a model"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny("td3_bc", **{"predict": Path("model")} | changes)


def test_who_is_not_scored_needs_no_environment(tmp_path: Path) -> None:
    """A dataset of an environment that nobody knows."""
    columns = load_dataset(HOPPER).to_write()
    path = tmp_path / "robot.hdf5"
    write_d4rl(path, **columns | {"metadata": {"environment": "Robot-v9"}})
    run = train(tiny("world_model", dataset=str(path)), tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    assert config["environment"] is None and result(run)["last_metrics"].keys() == {"holdout_error", "identity_error"}
    with pytest.raises(ValueError, match="Robot-v9"):
        train(tiny("td3_bc", dataset=str(path)), tmp_path / "scored")
    with pytest.raises(ValueError, match="HalfCheetah-v4 has 17"):
        train(tiny("world_model", dataset=str(path), environment="HalfCheetah-v4"), tmp_path / "wrong")


@pytest.mark.slow
def test_processes_share_the_seeds_of_a_model(tmp_path: Path, model: Path) -> None:
    run = train(tiny("world_model"), tmp_path / "two", processes=2)
    assert_equal_runs(run, model)


# --- how good they are ---


def test_a_report_agrees_with_what_training_measured(model: Path) -> None:
    """One step ahead on all held-out rows it is the error of the best evaluation."""
    report = measure_predictions(model, PredictConfig(horizon=3, group_count=4))
    best = float(tensors(model)["best_error"][0])
    evaluation = lines(model, "evaluation")[-1]["metrics"]
    first = report.ahead[0]
    assert first.row_count == round(0.1 * len(load_dataset(HOPPER))) and first.error == pytest.approx(best, rel=1e-4)
    assert first.identity_error == pytest.approx(evaluation["identity_error"][0], rel=1e-4)
    assert [each.steps for each in report.ahead] == [1, 2, 3]
    groups = report.by_distance
    assert sum(each.row_count for each in groups) == first.row_count and 0 < groups[0].nearest < groups[-1].farthest
    mean = np.average([each.error for each in groups], weights=[each.row_count for each in groups])
    assert mean == pytest.approx(first.error, rel=1e-6)


def test_it_is_trained_used_and_measured_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--method.batch-size 8 --method.hidden-sizes 16 16 --schedule.updates 10 --compute.device cpu --quiet"
    model, run = tmp_path / "model", tmp_path / "run"
    assert main([*f"train world_model --dataset {HOPPER} {small} --out".split(), str(model)]) == 0
    words = f"train td3_bc --dataset {HOPPER} {small} --evaluation-episode-count 1 --prediction-rate 0.25 --predict"
    assert main([*words.split(), str(model), "--prediction-horizon", "2", "--out", str(run)]) == 0
    settings = json.loads((run / "config.json").read_text())["config"]
    assert (settings["predict"], settings["prediction_rate"], settings["prediction_horizon"]) == (str(model), 0.25, 2)
    capsys.readouterr()
    assert main(["predict", str(model), "--horizon", "2", "--row-count", "50", "--quiet"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "held-out rows of hopper-sac-replay-10k, 10 updates" in told and "distance to the data" in told
    assert main(["predict", str(model), "--dataset", HOPPER, "--seed", "0", "--row-count", "50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ahead"][0]["row_count"] == len(load_dataset(HOPPER)) and len(found["by_distance"]) == 5
    assert main(["predict", str(run)]) == 1
    assert "predicts no next observations" in capsys.readouterr().err
    assert torch.equal(tensors(model)["best"], tensors(model)["model"])


# --- what runs find relevant ------------------------------------------------------------------------------------------


def test_runs_say_what_is_relevant_and_generation_goes_by_it(tmp_path: Path) -> None:
    """Errors of critics and of a model; rows that are asked to be relevant are."""
    transitions = qlearning_transitions(load_dataset(HOPPER))
    for name in ("td3_bc", "world_model"):
        run = train(tiny(name), tmp_path / name)
        tensors, known = read_state(next((run / "checkpoints").iterdir()))
        found = method_named(name).relevance(tensors, known, transitions)
        assert found.shape == (len(transitions),) and found.dtype == np.float32 and (found >= 0.0).all()
        model = tiny("diffusion", method={"condition": "run"}, relevance=run, schedule=Schedule(updates=5), seeds=(1,))
        made = train(model, tmp_path / f"{name} model")
        tensors, known = read_state(next((made / "checkpoints").iterdir()))
        standardized = (found - found.mean()) / found.std()
        assert known["relevance"][50] == pytest.approx(float(np.median(standardized)), abs=1e-3)
        maker = diffusion.synthesize(tensors, known, diffusion.Sampling(levels=3), device=torch.device("cpu"))
        assert len(maker.block(0, 0)) == 1024
    columns = load_dataset(HOPPER).to_write()
    write_d4rl(tmp_path / "other.hdf5", **columns | {"rewards": columns["rewards"] * np.float32(2.0)})
    train(replace(model, mix=(f"{tmp_path / 'other.hdf5'}=0.5",)), tmp_path / "relevances of both datasets")
    with pytest.raises(ValueError, match="need each other"):
        train(tiny("diffusion", method={"condition": "run"}), tmp_path / "none")
    with pytest.raises(ValueError, match="leave it out"):
        train(tiny("td3_bc", relevance=tmp_path / "td3_bc"), tmp_path / "not conditioned")
    with pytest.raises(ValueError, match="leave it out"):
        train(tiny("transition_vae", relevance=tmp_path / "td3_bc"), tmp_path / "vectors without a condition")
    with pytest.raises(ValueError, match="finds nothing relevant; give a run of redq, sac, td3, td3_bc, world_model"):
        train(tiny("diffusion", method={"condition": "run"}, relevance=made), tmp_path / "not a judge")


@pytest.mark.parametrize("ordered", [True, False])
def test_next_observations_tell_datasets_apart(ordered: bool) -> None:
    """A model of noisy ones is not a model of these."""
    real = replace(load_dataset(HOPPER), ordered=ordered)
    assert real.next_observations is not None
    other = replace(real, next_observations=real.next_observations + np.float32(1.0))
    assert identity_of(other) != identity_of(real) == identity_of(replace(real))


def test_the_error_of_a_critic_is_that_of_its_target(tmp_path: Path) -> None:
    run = train(tiny("td3_bc"), tmp_path / "run")
    tensors, known = read_state(next((run / "checkpoints").iterdir()))
    rows = td3_bc.prepare(td3_bc.SMALL, load_dataset(HOPPER))
    config = tiny("td3_bc", method={"target_noise": 0.0}).method
    state = td3_bc.create(config, rows.table(torch.device("cpu"), torch.float32), [5, 3])
    for name, tensor in state.moving().items():
        if name in ("policy", "policy_target", "critic", "critic_target"):
            with torch.no_grad():
                tensor.copy_(tensors[name])
    batch = state.table.gather(torch.arange(300).expand(2, -1))
    target = td3.bellman_target(state, batch, torch.zeros_like(batch.action))
    values = td3_bc.values_of(state.critic.detached(), td3_bc.join(batch.observation, batch.action))
    expected = (target[0] - values[0, 0]).abs()
    found = td3_bc.relevance(tensors, known, rows.transitions)[:300]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
