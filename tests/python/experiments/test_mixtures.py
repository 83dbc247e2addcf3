"""Training on several datasets at once: exact counts in every batch, the first one's statistics, refusals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import (
    ACTING,
    HOPPER,
    ONLINE,
    SCHEDULE,
    Killed,
    assert_equal_runs,
    each,
    killed,
    killing,
    lines,
    tiny,
    train,
)

from trajmill._core import Shares
from trajmill.algorithms import cql, decision_transformer, method_named
from trajmill.cli import main
from trajmill.data import load_dataset, write_d4rl
from trajmill.experiments.settings import DatasetTrainConfig
from trajmill.training.settings import Schedule

HALFCHEETAH = "halfcheetah-sac-replay-10k"
TAG = 1e5
"""what rewards of the other dataset have on top"""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Hopper's data with rewards by which a row of it is known."""
    path = tmp_path_factory.mktemp("data") / "other=copy.hdf5"  # as names may be
    columns = load_dataset(HOPPER).to_write()
    write_d4rl(path, **columns | {"rewards": columns["rewards"] + np.float32(TAG)})
    return str(path)


def watched(monkeypatch: pytest.MonkeyPatch, method: Any) -> list[Any]:
    """The batches of the updates to come."""
    batches: list[Any] = []
    real = method.update

    def update(state: Any, batch: Any, *more: Any, **options: Any) -> None:
        batches.append(replace(batch, **{name: value.clone() for name, value in vars_of(batch).items()}))
        real(state, batch, *more, **options)

    monkeypatch.setattr(method, "update", update)
    return batches


def vars_of(batch: Any) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in batch.__slots__ if getattr(batch, name) is not None}


@pytest.mark.parametrize("share", [0.5, 0.3, 0.05])
@pytest.mark.parametrize("rows", ["device", "host"])
def test_every_batch_has_its_share_exactly(
    share: float, rows: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command; of 8 rows 4, or 2 or 3, or none or one, as the sum over all updates asks."""
    batches = watched(monkeypatch, cql)
    words = f"train cql --dataset {HOPPER} --mix {other}={share} --seeds 5 3 --compute.device cpu --compute.rows {rows}"
    words += " --method.batch-size 8 --method.hidden-sizes 16 16 --schedule.updates 20 --evaluation-episode-count 1"
    assert main([*words.split(), "--workers", "1", "--quiet", "--out", str(tmp_path / "run")]) == 0
    shares = Shares(2)
    wanted = [shares.split(8, [1.0 - share, share])[1] for _ in range(20)]
    assert abs(sum(wanted) - 160 * share) < 1 and len(batches) == 20
    for batch, count in zip(batches, wanted, strict=True):
        assert batch.source is not None and (batch.source.sum(1) == count).all()
        assert ((batch.reward > TAG / 2) == batch.source.bool()).all()
        assert (batch.source.diff(dim=1) >= 0).all(), "rows of the first dataset come first"
    assert any(not batches[0].reward[0].equal(batches[0].reward[1]) for _ in batches), "seeds draw rows of their own"


@pytest.mark.parametrize("method", each([name for name in ACTING if name not in ONLINE]))
def test_a_mixture_resumes_on_the_host_and_on_the_device_to_the_same_numbers(
    method: str, other: str, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    config = tiny(method, mix=(f"{other}=0.3",), schedule=replace(SCHEDULE, updates=20))
    whole_run = whole(config)
    assert lines(whole_run)[1]["metrics"] != lines(whole(tiny(method)))[1]["metrics"]
    run = killed(config, tmp_path / "device", 13)
    train(config, run, resume=True)
    assert_equal_runs(run, whole_run)
    on_host = replace(config, compute=replace(config.compute, rows="host"))
    run = killed(on_host, tmp_path / "host", 13)
    train(on_host, run, resume=True)
    assert_equal_runs(run, whole_run)


@pytest.mark.parametrize("method", ["td3_bc", "decision_transformer"])
def test_the_statistics_are_those_of_the_dataset(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[..., Path]
) -> None:
    columns = load_dataset(HOPPER).to_write()
    path = tmp_path / "moved.hdf5"
    moved = {name: columns[name] + np.float32(50.0) for name in ("observations", "next_observations")}
    write_d4rl(path, **columns | moved)
    states: list[Any] = []

    def stop(run: object, step: object, state: Any, *_: object, **__: object) -> None:
        states.append(state)
        raise Killed

    monkeypatch.setattr("trajmill.experiments.train.run_schedule", stop)
    for mix in ((), (f"{path}=0.5",), (f"{path}=1",)):
        with pytest.raises(Killed):
            train(tiny(method, mix=mix), tmp_path / f"run{len(states)}")
    alone, mixed, other_alone = (method_named(method).policy(state).metadata()["normalizer"] for state in states)
    assert alone == mixed == other_alone and alone is not None
    least = [float(state.table.gather(torch.arange(100)[None]).observation.mean()) for state in (states[0], states[2])]
    assert abs(least[0]) < 2.0 < least[1], "with =1 every row is the other's"


def test_more_than_one_dataset_may_be_mixed_in(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = watched(monkeypatch, decision_transformer)
    copy = tmp_path / "copy.hdf5"
    columns = load_dataset(HOPPER).to_write()
    write_d4rl(copy, **columns | {"rewards": columns["rewards"] - np.float32(TAG)})
    config = tiny("decision_transformer", mix=(f"{other}=0.25", f"{copy}=0.25"), schedule=Schedule(updates=4))
    assert isinstance(config, DatasetTrainConfig) and config.shares == {other: 0.25, str(copy): 0.25}
    run = train(config, tmp_path / "run")
    for batch in batches:
        returns = batch.return_to_go[..., -1]  # from the last step of a window on, over 1,000
        assert ((returns > TAG / 2000).sum(1) == 2).all() and ((returns < -TAG / 2000).sum(1) == 2).all()
    assert len(lines(run, "train")) == 2


REFUSED = {
    "B": "NAME_OR_PATH=SHARE",
    "B=": "NAME_OR_PATH=SHARE",
    "B=half": "NAME_OR_PATH=SHARE",
    "B=nan": "NAME_OR_PATH=SHARE",
    "=0.5": "NAME_OR_PATH=SHARE",
    "B=0": "above 0, at most 1",
    "B=1.1": "above 0, at most 1",
    "B=-0.5": "above 0, at most 1",
    "B=0.5 C=0.6": "sum to at most 1",
    "B=0.2 B=0.3": "different datasets",
}


@pytest.mark.parametrize("mix", REFUSED)
def test_wrong_shares_are_refused(mix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "cql", "--dataset", HOPPER, "--mix", *mix.split(), "--out", str(tmp_path / "run")]
    assert main(words) in (1, 2)
    streams = capsys.readouterr()
    told = " ".join((streams.out + streams.err).replace("│", " ").split())
    assert REFUSED[mix] in told and "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_unknown_and_unfit_datasets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "cql", "--dataset", HOPPER, "--quiet", "--out", str(tmp_path / "run"), "--mix"]
    assert main([*words, "nothing=0.5"]) == 1
    assert "nothing" in capsys.readouterr().err
    assert main([*words, f"{HALFCHEETAH}=0.5"]) == 1
    told = capsys.readouterr().err
    assert HALFCHEETAH in told and "17 observation and 6 action" in told and "11 and 3" in told
    assert not (tmp_path / "run").exists()


def test_a_mixture_is_not_resumed_with_other_shares(other: str, tmp_path: Path) -> None:
    config = tiny("cql", mix=(f"{other}=0.5",))
    with pytest.raises(Killed):
        train(config, tmp_path / "run", killing(8))
    with pytest.raises(ValueError, match=r"other settings: config\.mix was .*=0\.5.* now .*=0\.25"):
        train(tiny("cql", mix=(f"{other}=0.25",)), tmp_path / "run", resume=True)


@pytest.mark.parametrize(("environment", "warns"), [("Walker2d-v2", True), ("HalfCheetah-v2", False)])
def test_data_of_another_environment_of_the_same_size_is_told_of(environment: str, warns: bool, tmp_path: Path) -> None:
    columns = load_dataset(HALFCHEETAH).to_write()
    columns["metadata"] = {"environment": environment}
    path = write_d4rl(tmp_path / "more.hdf5", **columns)
    config = replace(tiny("td3_bc", mix=(f"{path}=0.5",), schedule=Schedule(updates=1)), dataset=HALFCHEETAH)
    with pytest.warns(match="recorded in Walker2d-v2, dataset .* in HalfCheetah") if warns else nullcontext():
        train(config, tmp_path / "run")
