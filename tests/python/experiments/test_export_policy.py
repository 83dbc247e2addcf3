"""Policies as files: what another program gets from them is what `tm.load_policy` says."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import ACTING, each, tiny

import trajmill as tm
from trajmill.cli import main
from trajmill.experiments.evaluate import read_policy
from trajmill.experiments.export import Actor
from trajmill.runs.reading import newest_checkpoints

WITHOUT_MEMORY = [name for name in ACTING if name != "decision_transformer"]


def reader(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The function that another program finds in a file."""
    if path.suffix == ".onnx":
        session: Any = pytest.importorskip("onnxruntime").InferenceSession(str(path))
        return lambda seen: session.run(["action"], {"observation": seen})[0]  # type: ignore[no-any-return]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such
        module: Any = torch.jit.load(path) if path.suffix == ".pt" else torch.export.load(path).module()
    return lambda seen: module(torch.from_numpy(seen)).detach().numpy()  # type: ignore[no-any-return]


def assert_same_actions(policy: Any, path: Path) -> None:
    read = reader(path)
    for count in (1, 2, 7):
        seen = np.random.default_rng(count).normal(0, 3, (count, policy.observation_dim)).astype(np.float32)
        wanted = policy(seen)
        found = read(seen)
        assert found.dtype == np.float32 and np.abs(wanted).max() > 0
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", each(WITHOUT_MEMORY))
def test_every_method_that_acts_is_exported(name: str, whole: Callable[..., Path], tmp_path: Path) -> None:
    policy = tm.load_policy(whole(tiny(name)), seed=3)
    path = policy.export(str(tmp_path / "policy.pt"))
    assert_same_actions(policy, path)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_other_formats(suffix: str, whole: Callable[..., Path], tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    policy = tm.load_policy(whole(tiny("td3_bc")), seed=3)
    assert_same_actions(policy, policy.export(tmp_path / f"policy{suffix}"))


def test_actions_have_the_units_of_the_environment(whole: Callable[..., Path], tmp_path: Path) -> None:
    """One number within ±3, whose product BLAS would take another kernel for."""
    policy = tm.load_policy(whole(tiny("sac", environment="InvertedPendulum-v4")), seed=5)
    assert_same_actions(policy, policy.export(tmp_path / "policy.pt"))
    (checkpoint,) = newest_checkpoints(whole(tiny("td3_bc")))
    trained = read_policy(checkpoint)
    seen = torch.randn(4, 11, generator=torch.Generator().manual_seed(0))
    once, thrice = (Actor(replace(trained, action_limit=limit), 3)(seen) for limit in (1.0, 3.0))
    torch.testing.assert_close(thrice, 3 * once)
    between = Actor(replace(trained, action_limit=((0.0, -1.0, -3.0), (1.0, 1.0, 5.0))), 3)(seen)
    torch.testing.assert_close(between, torch.tensor([0.5, 0.0, 1.0]) + torch.tensor([0.5, 1.0, 4.0]) * once)


def test_a_file_needs_no_trajmill(whole: Callable[..., Path], tmp_path: Path) -> None:
    tm.load_policy(whole(tiny("td3_bc")), seed=3).export(tmp_path / "policy", format="torchscript")
    code = "import sys, torch; print(torch.jit.load('policy')(torch.zeros(2, 11)).shape, 'trajmill' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "torch.Size([2, 3]) False", done.stderr


def test_what_cannot_be_exported_is_refused(whole: Callable[..., Path], tmp_path: Path) -> None:
    run = whole(tiny("td3_bc"))
    with pytest.raises(ValueError, match=r"one seed, and these are 5, 3: choose one, as load_policy\(\.\.\., seed=5\)"):
        tm.load_policy(run).export(tmp_path / "policy.pt")
    policy = tm.load_policy(run, seed=5)
    with pytest.raises(ValueError, match=r"policy\.h5 must end in \.pt2, \.pt, \.onnx, or format must be one of torch"):
        policy.export(tmp_path / "policy.h5")
    with pytest.raises(ValueError, match="format must be one of 'torch', 'torchscript', 'onnx', got 'pickle'"):
        policy.export(tmp_path / "policy.pt", format="pickle")
    with pytest.raises(ValueError, match="a policy with a memory cannot be exported"):
        tm.load_policy(whole(tiny("decision_transformer")), seed=3).export(tmp_path / "policy.pt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.pt").write_text("mine")
    with pytest.raises(ValueError, match=r"mine\.pt exists"):
        policy.export(tmp_path / "mine.pt")
    with pytest.raises(OSError, match="is a directory"):
        policy.export(tmp_path, format="torchscript")
    assert (tmp_path / "mine.pt").read_text() == "mine"


def test_onnx_names_the_extra_it_needs(
    whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RuntimeError, match=r"onnxscript; install it with: pip install 'trajmill\[onnx\]'"):
        tm.load_policy(whole(tiny("td3_bc")), seed=5).export(tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command(whole: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, policy = str(whole(tiny("td3_bc"))), tmp_path / "policy.pt"
    assert main(["export", run, str(policy)]) == 0
    assert "the policy of seed 5 after 40 updates" in capsys.readouterr().out
    assert_same_actions(tm.load_policy(run, seed=5), policy)
    assert main(["export", run, str(tmp_path / "other"), "--format", "torchscript", "--seed", "3"]) == 0
    (tmp_path / "other").rename(tmp_path / "other.pt")
    assert_same_actions(tm.load_policy(run, seed=3), tmp_path / "other.pt")
    capsys.readouterr()
    for words, message in (
        ([run, "directory"], "ends in .pt2, .pt or .onnx"),
        ([run, "directory", "--seed", "3"], "seed is of a policy"),
        ([run, "p.pt", "--seed", "9"], "got seed 9"),
    ):
        assert main(["export", *words]) == 1
        assert message in capsys.readouterr().err
