"""What goes wrong in training: divergence, damaged or foreign checkpoints, full disks. One clear message each."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tiny_runs import (
    ACTING,
    HOPPER,
    METHODS,
    SCHEDULE,
    Killed,
    assert_equal_runs,
    checkpoint,
    each,
    killed,
    lines,
    result,
    tiny,
    train,
)

import trajmill.runs.directory as run_directory
from trajmill.algorithms import cql, method_named
from trajmill.cli import main
from trajmill.data import load_dataset, write_d4rl
from trajmill.experiments.evaluate import EvaluateConfig, evaluate_run
from trajmill.experiments.settings import OnlineTrainConfig, TrainConfig
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import RunError, not_finite
from trajmill.runs.schedule import DivergenceError, DivergenceWarning
from trajmill.training.checkpoint import CheckpointError, DamagedCheckpointError, read_checkpoint, save_checkpoint
from trajmill.training.settings import Bound

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")

# --- divergence ---

ONE_BY_ONE = replace(SCHEDULE, unroll=1)


def one_by_one(method: str) -> TrainConfig[Any]:
    """A run whose updates are fed one at a time."""
    config = tiny(method, schedule=ONE_BY_ONE)
    if isinstance(config, OnlineTrainConfig):
        ratio = 1.0 / config.environments
        return replace(config, interaction=replace(config.interaction, updates_per_step=ratio))
    return config


"""one update a call of the step; for methods with a period of their own, one period"""


def poison(monkeypatch: pytest.MonkeyPatch, method: str, after: int, positions: list[int], value: float) -> None:
    """Put `value` among the parameters of some seeds after an update."""
    module = method_named(method)
    real = module.step

    def step(state: Any, count: int = 1, first: int = 0) -> None:
        for number in range(count):
            real(state, 1, (first + number) % state.period)
            if int(state.step) == after:
                learned = (tensor for name, tensor in state.moving().items() if "/" not in name and tensor.ndim == 2)
                max(learned, key=torch.Tensor.numel).detach().view(2, -1)[positions] = value

    monkeypatch.setattr(module, "step", step)


@pytest.mark.parametrize("method", each(METHODS))
def test_one_seed_diverges_and_the_other_is_unharmed(
    method: str, tmp_path: Path, whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = one_by_one(method)
    clean = whole(config)
    poison(monkeypatch, method, 9, [1], math.nan)
    with pytest.warns(DivergenceWarning, match="seed 3 diverged at update 10: its .* is nan") as w:
        run = train(config, tmp_path / "run")
    assert len([one for one in w if one.category is DivergenceWarning]) == 1
    for ours, theirs in zip(lines(run), lines(clean), strict=True):
        healthy = {name: values[0] for name, values in theirs["metrics"].items()}
        assert {name: values[0] for name, values in ours["metrics"].items()} == healthy
    assert result(run)["diverged"] == {"3": 10}
    if method in ACTING:
        assert result(run)["average_last_four"][1] is None and result(run)["average_last_four"][0] is not None
    assert read_checkpoint(checkpoint(run))[1]["diverged"] == {"3": 10}


@pytest.mark.parametrize("method", each(METHODS))
@pytest.mark.parametrize(("after", "value"), [(9, math.nan), (12, math.inf)])
def test_all_seeds_diverge_and_the_last_good_checkpoint_stays(
    method: str, after: int, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second case is seen by a look at the numbers alone: no loss was computed from them before the checkpoint."""
    config = one_by_one(method)
    poison(monkeypatch, method, after, [0, 1], value)
    with (
        pytest.warns(DivergenceWarning),
        pytest.raises(DivergenceError, match=r"nothing left to train: .*step_000000006.* last good checkpoint"),
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    (newest,) = RunDirectory(tmp_path / "run").checkpoints()
    assert not_finite(read_checkpoint(newest)[0], 2) == []
    monkeypatch.undo()  # a run that was harmed from outside goes on from there
    train(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("before", "method"), [("forward_dynamics", "cql"), ("language_model", "decision_transformer")]
)
def test_a_pretraining_that_diverged_is_no_start(
    before: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, before, 9, [0], math.nan)
    with pytest.warns(DivergenceWarning, match="seed 5"):
        start = train(tiny(before, schedule=ONE_BY_ONE), tmp_path / "start")
    with pytest.raises(ValueError, match="not finite: its first seed, 5, diverged"):
        train(tiny(method, init=start), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_beyond_what_rewards_add_up_to_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(lowest_reward=-1.0, greatest_reward=4.0)
    state: Any = SimpleNamespace(
        config=cql.Config(discount=(0.99, 0.9)), table=SimpleNamespace(facts=facts), draws=SimpleNamespace(seed_count=2)
    )
    assert cql.bounds(state)["data_value"].limits == pytest.approx([4000.0, 400.0])
    low = Bound(limits=[1e9, 1e-9], advice="which says what to do")
    monkeypatch.setattr(cql, "bounds", lambda state: {"data_value": low})
    with pytest.warns(RuntimeWarning) as told:
        run = train(tiny("cql"), tmp_path / "run")
    (message,) = [str(one.message) for one in told]
    assert message.startswith("seed 3: mean data_value ") and message.endswith("which says what to do")
    assert (run / "result.json").exists()


def test_values_of_a_healthy_run_are_within_bounds(whole) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole(tiny("cql"))


# --- data ---


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    write_d4rl(tmp_path / "hopper.hdf5", **load_dataset(HOPPER).to_write())
    return tmp_path / "hopper.hdf5"


def test_data_with_nan_is_refused(own_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(own_file, "r+") as file:
        file["rewards"][17] = np.nan
    for method in ACTING:
        words = ["train", method, "--dataset", str(own_file), "--environment", "Hopper-v4"]
        assert main([*words, "--out", str(tmp_path / "run"), "--quiet"]) == 1
        told = capsys.readouterr().err
        assert "'rewards' holds NaN or infinity" in told and "row 17" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["cql", "decision_transformer"])
def test_other_data_under_the_same_name_is_refused(method: str, own_file: Path, tmp_path: Path) -> None:
    config = tiny(method, dataset=str(own_file), environment="Hopper-v4")
    killed(config, tmp_path / "run", 12)
    with h5py.File(own_file, "r+") as file:
        file["rewards"][17] += 1.0
    with pytest.raises(CheckpointError, match="another run: its dataset_sha256 is"):
        train(config, tmp_path / "run", resume=True)


# --- on another device or with other threads ---


def test_a_run_continues_with_other_threads_and_says_so(whole, broken) -> None:
    config = tiny("decision_transformer", schedule=replace(SCHEDULE, updates=16))
    run = broken(config, 12)
    moved = replace(config, compute=replace(config.compute, threads=2))
    with pytest.warns(RuntimeWarning, match=r"thread.* up to rounding: threads was 1, now 2"):
        train(moved, run, resume=True)
    train(moved, run, resume=True)  # nothing is left to say of a finished run
    for ours, theirs in zip(RunDirectory(run).lines(), RunDirectory(whole(config)).lines(), strict=True):
        assert ours["update"] == theirs["update"]
        for name, values in theirs["metrics"].items():
            assert ours["metrics"][name] == pytest.approx(values, rel=1e-3)
    with pytest.raises(RunError, match=r"compute\.precision was 'fp32', now 'bf16'"):
        train(replace(config, compute=replace(config.compute, precision="bf16")), run, resume=True)


# --- checkpoints ---


class Small:
    """A state of a few numbers."""

    def __init__(self) -> None:
        self.value = torch.arange(40, dtype=torch.float32)

    def moving(self) -> dict[str, torch.Tensor]:
        return {"value": self.value, "half": self.value.to(torch.bfloat16), "step": torch.tensor(7)}


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_is_found(bits: int, tmp_path: Path) -> None:
    """One bit of each byte, or all."""
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Small(), {"kind": "test", "seeds": [1, 2], "wall_seconds": 1.5})
    intact = path.read_bytes()
    content = read_checkpoint(path)
    for place in range(len(intact)):
        for bit in range(place, place + bits):
            damaged = bytearray(intact)
            damaged[place] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                found, metadata = read_checkpoint(path)
            except DamagedCheckpointError as error:
                assert str(path) in str(error)
            else:  # white space, or a letter's other spelling
                assert metadata == content[1], (place, bit)
                assert all(torch.equal(found[name], tensor) for name, tensor in content[0].items()), (place, bit)


def test_a_checkpoint_cut_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Small(), {"kind": "test"})
    refused_at_every(1, path)


@pytest.mark.parametrize("method", ["language_model", "decision_transformer"])
def test_a_real_checkpoint_cut_at_many_places_is_found(method: str, broken) -> None:
    path = checkpoint(broken(tiny(method), 8))
    refused_at_every(path.stat().st_size // 200, path)


def refused_at_every(stride: int, path: Path) -> None:
    for size in reversed(range(0, path.stat().st_size, stride)):
        os.truncate(path, size)
        with pytest.raises(DamagedCheckpointError, match="is damaged"):
            read_checkpoint(path)


def test_checkpoints_of_the_version_before_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    header = {"format": "trajmill-checkpoint-1", "trajmill": json.dumps({"seeds": [1]})}
    save_file({"value": torch.ones(3)}, tmp_path / "c.safetensors", metadata=header)
    found, metadata = read_checkpoint(tmp_path / "c.safetensors")
    assert found["value"].tolist() == [1.0] * 3 and metadata == {"seeds": [1]}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def directory(path: Path) -> None:
    path.unlink()
    (path / "something").mkdir(parents=True)


@pytest.mark.parametrize(
    ("method", "damage"),
    [
        *(("forward_dynamics", damage) for damage in (cut, empty, flip, directory)),
        *((name, flip) for name in METHODS if name != "forward_dynamics"),
    ],
)
def test_a_damaged_checkpoint_falls_back_on_the_one_before(
    method: str, damage: Callable[[Path], None], whole, broken
) -> None:
    config = tiny(method)
    run = broken(config)
    newest, older = RunDirectory(run).checkpoints()
    assert (newest.stem, older.stem) == ("step_000000018", "step_000000012")
    damage(newest)
    (newest.parent / ".step_000000024.safetensors.4711.part").write_bytes(b"of a killed process")
    with pytest.warns(RuntimeWarning, match=r"step_000000018.*; going on from update 12"):
        train(config, run, resume=True)
    assert not list(run.rglob("*.part"))
    assert_equal_runs(run, whole(config))


def test_without_an_older_one_a_damaged_checkpoint_ends_the_run(whole, broken) -> None:
    config = tiny("forward_dynamics")
    run = broken(config, 8)
    (newest,) = RunDirectory(run).checkpoints()
    flip(newest)
    before = newest.read_bytes()
    with pytest.raises(RunError, match=r"hash .*no older one"):
        train(config, run, resume=True)
    assert newest.read_bytes() == before
    newest.unlink()
    train(config, run, resume=True)
    assert_equal_runs(run, whole(config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "decision_transformer"}, "kind is 'decision_transformer', here it is 'cql'"),
        ({"seeds": [5, 4]}, r"seeds is \[5, 4\], here it is \[5, 3\]"),
        ({"observation_dim": 17}, "observation_dim is 17, here it is 11"),
        ({"following_sha256": "0" * 64}, "following_sha256 is '0000"),
        ({"environment": "Walker2d-v4"}, "environment is 'Walker2d-v4', here it is 'Hopper-v4'"),
        ({"method": {"discount": 0.5}}, r"discount is 0\.5, here it is 0\.99"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(settings: dict[str, Any], message: str, broken) -> None:
    run = broken(tiny("cql"), 8)
    (newest,) = RunDirectory(run).checkpoints()
    moving, metadata = read_checkpoint(newest)
    stored: Any = SimpleNamespace(moving=lambda: moving)
    save_checkpoint(newest, stored, metadata | settings)
    with pytest.raises(CheckpointError, match=f"step_000000006.* belongs to another run: its {message}"):
        train(tiny("cql"), run, resume=True)
    if "environment" in settings:
        with pytest.raises(ValueError, match=r"Walker2d-v4, but .*config\.json says Hopper-v4"):
            evaluate_run(run, EvaluateConfig(episode_count=1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json is damaged"),
        ("config.json", b"[]", "config.json is damaged: .*object"),
        ("config.json", b"\xff", "config.json is damaged"),
        ("metrics.jsonl", None, "metrics.jsonl is missing"),
        ("metrics.jsonl", b"7\n", "metrics.jsonl, line 1 is damaged"),
    ],
)
def test_damaged_records_are_named(name: str, content: bytes | None, message: str, broken) -> None:
    run = broken(tiny("cql"), 8)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    with pytest.raises(RunError, match=message):
        train(tiny("cql"), run, resume=True)
    if name == "config.json":
        with pytest.raises(RunError, match=message):
            evaluate_run(run, EvaluateConfig(episode_count=1))


# --- disks ---


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "faulty_calls.so"
    source = HERE.parent / "corpus" / "faulty_calls.c"
    words = [COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return library


@pytest.mark.unsanitized
@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("write", "ENOSPC"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("fsync", "EIO"), ("rename", "ENOSPC"), ("open", "EMFILE")]
        ),
    ],
)
def test_a_full_disk_keeps_the_last_checkpoint(function: str, kind: str, shim: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "disk_driver.py", tmp_path, function, kind],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2


@pytest.mark.parametrize("before", ["result.json", "checkpoint"])
def test_a_run_killed_while_it_finishes_ends_as_others_do(
    before: str, tmp_path: Path, whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result comes last: with it a run is finished, and nobody looks for what is left to do."""

    name = "_write_json" if before == "result.json" else "remove"
    real = getattr(run_directory, name)

    def killing(path: Path, *arguments: Any) -> None:
        if before in path.name or before in path.parent.name:
            raise Killed
        real(path, *arguments)

    config, run = tiny("td3_bc", schedule=replace(SCHEDULE, checkpoint_interval=20)), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_directory, name, killing)
        train(config, run)
    assert not RunDirectory(run).finished
    train(config, run, resume=True)
    assert_equal_runs(run, whole(config))
