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
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tiny_runs import ALGORITHMS, PIPELINES, SETTINGS, assert_equal_runs, lines

from trajmill.cli import main
from trajmill.experiments.datasets import convert
from trajmill.pipelines import cql as cql_pipeline
from trajmill.pipelines.evaluate import EvaluateConfig, evaluate_run
from trajmill.pipelines.run_directory import RunDirectory, RunDirectoryError
from trajmill.pipelines.schedule import Bound, DivergenceError, DivergenceWarning, not_finite
from trajmill.training.checkpoint import CheckpointError, DamagedCheckpointError, read_checkpoint, save_checkpoint

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")


class Killed(Exception):
    """Stands for a run that is killed."""


def killing(at: int) -> Callable[[str, int, int, str], None]:
    def progress(task: str, done: int, total: int, unit: str) -> None:
        if done >= at:
            raise Killed

    return progress


def broken_run(pipeline: str, run: Path, at: int = 20) -> Path:
    with pytest.raises(Killed):
        PIPELINES[pipeline](SETTINGS[pipeline], run, killing(at))
    return run


# --- divergence ---


def settings(pipeline: str) -> Any:
    """Settings with one update a call of the step."""
    config = SETTINGS[pipeline]
    return replace(config, schedule=replace(config.schedule, unroll=1))


def poison(monkeypatch: pytest.MonkeyPatch, pipeline: str, after: int, positions: list[int], value: float) -> None:
    """Put `value` among the numbers of some seeds after an update."""
    module, name = ALGORITHMS[pipeline]
    real = module.step

    def step(state: Any, count: int = 1) -> None:
        assert count == 1
        real(state)
        if int(state.step) == after:
            state.moving()[name].detach().view(2, -1)[positions, 3] = value

    monkeypatch.setattr(module, "step", step)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_one_seed_diverges_and_the_other_is_unharmed(
    pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = PIPELINES[pipeline](settings(pipeline), tmp_path / "clean")
    poison(monkeypatch, pipeline, 9, [1], math.nan)
    with pytest.warns(
        DivergenceWarning, match="seed 3 diverged at update 10: its .* is nan; .* other seeds go on"
    ) as w:
        run = PIPELINES[pipeline](settings(pipeline), tmp_path / "run")
    assert len([one for one in w if one.category is DivergenceWarning]) == 1
    for ours, theirs in zip(lines(run), lines(clean), strict=True):
        healthy = {name: values[0] for name, values in theirs["metrics"].items()}
        assert {name: values[0] for name, values in ours["metrics"].items()} == healthy
    result = json.loads((run / "result.json").read_text())
    assert result["diverged"] == {"3": 10}
    if pipeline.startswith("train"):
        assert result["average_last_four"][1] is None and result["average_last_four"][0] is not None
    assert read_checkpoint(RunDirectory(run).checkpoints()[0])[1]["diverged"] == {"3": 10}


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(("after", "value"), [(9, math.nan), (12, math.inf)])
def test_all_seeds_diverge_and_the_last_good_checkpoint_stays(
    pipeline: str, after: int, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second case is seen by a look at the numbers alone: no loss was computed from them before the checkpoint."""
    poison(monkeypatch, pipeline, after, [0, 1], value)
    kept = {9: 6, 12: 6}[after]
    with (
        pytest.warns(DivergenceWarning),
        pytest.raises(DivergenceError, match=f"nothing left to train: .*step_00000000{kept}.* last good checkpoint"),
    ):
        PIPELINES[pipeline](settings(pipeline), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    (newest,) = RunDirectory(tmp_path / "run").checkpoints()
    assert not_finite(read_checkpoint(newest)[0], 2) == []
    monkeypatch.undo()  # a run that was harmed from outside goes on from there
    PIPELINES[pipeline](settings(pipeline), tmp_path / "run", resume=True)


def test_a_pretraining_that_diverged_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("cql", "dt"):
        poison(monkeypatch, f"pretrain_{method}", 9, [0], math.nan)
        with pytest.warns(DivergenceWarning, match="seed 5"):
            start = PIPELINES[f"pretrain_{method}"](settings(f"pretrain_{method}"), tmp_path / method)
        with pytest.raises(ValueError, match="not finite: its first seed, 5, diverged; pre-train again"):
            PIPELINES[f"train_{method}"](replace(SETTINGS[f"train_{method}"], init=start), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_beyond_what_rewards_add_up_to_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SETTINGS["train_cql"]
    bounds = cql_pipeline._value_bounds(replace(config, method=replace(config.method, discount=(0.99, 0.9))), 4.0)
    assert bounds["data_value"].limits == pytest.approx([4000.0, 400.0])
    low = Bound(limits=[1e9, 1e-9], says="which says what to do")
    monkeypatch.setattr(cql_pipeline, "_value_bounds", lambda *_: {"data_value": low})
    with pytest.warns(RuntimeWarning) as told:
        run = PIPELINES["train_cql"](config, tmp_path / "run")
    (message,) = [str(one.message) for one in told]
    assert message.startswith("seed 3: mean data_value ") and message.endswith("which says what to do")
    assert (run / "result.json").exists()


def test_values_of_a_healthy_run_are_within_bounds(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PIPELINES["train_cql"](SETTINGS["train_cql"], tmp_path / "run")


# --- data ---


def own_file(path: Path) -> Path:
    convert("hopper-sac-replay-10k", path, to="d4rl")
    return path


def test_data_with_nan_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = own_file(tmp_path / "hopper.hdf5")
    with h5py.File(data, "r+") as file:
        file["rewards"][17] = np.nan
    for method in ("cql", "dt"):
        words = ["train", method, "--dataset", str(data), "--environment", "Hopper-v4", "--out", str(tmp_path / "run")]
        assert main([*words, "--quiet"]) == 1
        told = capsys.readouterr().err
        assert "key 'rewards' holds NaN or infinity in 1 rows, first in row 17" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["cql", "dt"])
def test_other_data_under_the_same_name_are_refused(method: str, tmp_path: Path) -> None:
    data = own_file(tmp_path / "hopper.hdf5")
    config = replace(SETTINGS[f"train_{method}"], dataset=str(data), environment="Hopper-v4")
    with pytest.raises(Killed):
        PIPELINES[f"train_{method}"](config, tmp_path / "run", killing(12))
    with h5py.File(data, "r+") as file:
        file["rewards"][17] += 1.0
    with pytest.raises(CheckpointError, match="belongs to another run: its dataset_sha256 is"):
        PIPELINES[f"train_{method}"](config, tmp_path / "run", resume=True)


# --- elsewhere ---


def test_a_run_goes_on_with_other_threads_and_says_so(tmp_path: Path) -> None:
    config = SETTINGS["train_dt"]
    whole = PIPELINES["train_dt"](config, tmp_path / "whole")
    with pytest.raises(Killed):
        PIPELINES["train_dt"](config, tmp_path / "run", killing(12))
    moved = replace(config, compute=replace(config.compute, threads=2))
    with pytest.warns(RuntimeWarning, match=r"goes on elsewhere, .* up to rounding: threads was 1, now 2"):
        PIPELINES["train_dt"](moved, tmp_path / "run", resume=True)
    PIPELINES["train_dt"](moved, tmp_path / "run", resume=True)  # nothing is left to say of a finished run
    for ours, theirs in zip(RunDirectory(tmp_path / "run").lines(), RunDirectory(whole).lines(), strict=True):
        assert ours["gradient_step"] == theirs["gradient_step"]
        for name, values in theirs["metrics"].items():
            assert ours["metrics"][name] == pytest.approx(values, rel=1e-3)
    with pytest.raises(RunDirectoryError, match=r"compute\.precision was 'fp32', now 'bf16'"):
        reduced = replace(config, compute=replace(config.compute, precision="bf16"))
        PIPELINES["train_dt"](reduced, tmp_path / "run", resume=True)


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
    whole = path.read_bytes()
    content = read_checkpoint(path)
    for place in range(len(whole)):
        for bit in range(place, place + bits):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                tensors, metadata = read_checkpoint(path)
            except DamagedCheckpointError as error:
                assert str(path) in str(error)
            else:  # white space, or a letter's other spelling
                assert metadata == content[1], (place, bit)
                assert all(torch.equal(tensors[name], tensor) for name, tensor in content[0].items()), (place, bit)


def test_a_checkpoint_cut_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Small(), {"kind": "test"})
    refused_at_every(1, path)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["pretrain_dt", "train_dt"])
def test_a_real_checkpoint_cut_at_every_64th_byte_is_found(pipeline: str, tmp_path: Path) -> None:
    run = broken_run(pipeline, tmp_path / "run", at=8)
    refused_at_every(64, RunDirectory(run).checkpoints()[0])


def refused_at_every(stride: int, path: Path) -> None:
    for size in reversed(range(0, path.stat().st_size, stride)):
        os.truncate(path, size)
        with pytest.raises(DamagedCheckpointError, match="is damaged"):
            read_checkpoint(path)


def test_checkpoints_of_the_version_before_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    header = {"format": "trajmill-checkpoint-1", "trajmill": json.dumps({"seeds": [1]})}
    save_file({"value": torch.ones(3)}, tmp_path / "c.safetensors", metadata=header)
    tensors, metadata = read_checkpoint(tmp_path / "c.safetensors")
    assert tensors["value"].tolist() == [1.0] * 3 and metadata == {"seeds": [1]}


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
    ("pipeline", "damage"),
    [
        *(("pretrain_cql", damage) for damage in (cut, empty, flip, directory)),
        ("pretrain_dt", flip),
        *(pytest.param(name, flip, marks=pytest.mark.slow) for name in ("train_cql", "train_dt")),
    ],
)
def test_a_damaged_checkpoint_falls_back_on_the_one_before(
    pipeline: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    run = broken_run(pipeline, tmp_path / "run")
    newest, older = RunDirectory(run).checkpoints()
    assert (newest.stem, older.stem) == ("step_000000018", "step_000000012")
    damage(newest)
    (newest.parent / ".step_000000024.safetensors.4711.part").write_bytes(b"of a killed process")
    with pytest.warns(
        RuntimeWarning, match="step_000000018.* is .*; going on from update 12, the checkpoint before it"
    ):
        PIPELINES[pipeline](SETTINGS[pipeline], run, resume=True)
    assert not list(run.rglob("*.part"))
    assert_equal_runs(run, PIPELINES[pipeline](SETTINGS[pipeline], tmp_path / "whole"))


def test_without_an_older_one_a_damaged_checkpoint_ends_the_run(tmp_path: Path) -> None:
    run = broken_run("pretrain_cql", tmp_path / "run", at=8)
    (newest,) = RunDirectory(run).checkpoints()
    flip(newest)
    before = newest.read_bytes()
    with pytest.raises(RunDirectoryError, match="hash that was written with it; there is no older one: restore it, or"):
        PIPELINES["pretrain_cql"](SETTINGS["pretrain_cql"], run, resume=True)
    assert newest.read_bytes() == before
    newest.unlink()
    PIPELINES["pretrain_cql"](SETTINGS["pretrain_cql"], run, resume=True)
    assert_equal_runs(run, PIPELINES["pretrain_cql"](SETTINGS["pretrain_cql"], tmp_path / "whole"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "train_dt"}, "its kind is 'train_dt', here it is 'train_cql'"),
        ({"seeds": [5, 4]}, r"its seeds is \[5, 4\], here it is \[5, 3\]"),
        ({"observation_dim": 17}, "its observation_dim is 17, here it is 11"),
        ({"dataset": "other"}, "its dataset is 'other', here it is 'hopper-sac-replay-10k'"),
        ({"environment": "Walker2d-v4"}, "its environment is 'Walker2d-v4', here it is 'Hopper-v4'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    run = broken_run("train_cql", tmp_path / "run", at=8)
    (newest,) = RunDirectory(run).checkpoints()
    tensors, metadata = read_checkpoint(newest)

    class Stored:
        def moving(self) -> dict[str, torch.Tensor]:
            return tensors

    save_checkpoint(newest, Stored(), metadata | settings)
    with pytest.raises(CheckpointError, match=f"step_000000006.* belongs to another run: {message}"):
        PIPELINES["train_cql"](SETTINGS["train_cql"], run, resume=True)
    if "environment" in settings:
        with pytest.raises(ValueError, match=r"policies for Walker2d-v4, but .*config\.json says Hopper-v4"):
            evaluate_run(run, EvaluateConfig(episode_count=1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json is damaged"),
        ("config.json", b"[]", "config.json is damaged: it holds no object"),
        ("config.json", b"\xff", "config.json is damaged"),
        ("metrics.jsonl", None, "metrics.jsonl cannot be read: No such file"),
        ("metrics.jsonl", b"7\n", "metrics.jsonl is damaged: it holds no object"),
    ],
)
def test_damaged_records_are_named(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    run = broken_run("train_cql", tmp_path / "run", at=8)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    with pytest.raises(RunDirectoryError, match=message):
        PIPELINES["train_cql"](SETTINGS["train_cql"], run, resume=True)
    if name == "config.json":
        with pytest.raises(RunDirectoryError, match=message):
            evaluate_run(run, EvaluateConfig(episode_count=1))


# --- disks ---


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "faulty_calls.so"
    source = HERE.parent / "corpus" / "faulty_calls.c"
    words = [COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return library


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
