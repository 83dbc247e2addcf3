"""Runner, capture lint, checkpoints, metrics and settings."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trajmill.training.capture_lint import CaptureError, capture_lint
from trajmill.training.checkpoint import CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint
from trajmill.training.device import ComputeConfig
from trajmill.training.hyperparameters import per_seed
from trajmill.training.metrics import MetricRing, metrics_line
from trajmill.training.runner import Runner
from trajmill.training.transitions import TransitionTable


@dataclass
class Counter:
    """The smallest state."""

    value: Tensor = field(default_factory=lambda: torch.arange(1.0, 4.0))
    step: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def moving(self) -> dict[str, Tensor]:
        return {"value": self.value, "step": self.step}


def double(state: Counter, count: int = 1) -> None:
    for _ in range(count):
        state.value.mul_(2.0)
        state.step.add_(1)


def test_runner_makes_exactly_the_updates_asked_for() -> None:
    state = Counter()
    runner = Runner(double, state, unroll=4)
    runner.run(10)
    assert int(state.step) == 10
    assert state.value.tolist() == [1024.0, 2048.0, 3072.0]
    with pytest.raises(ValueError, match="unroll must be at least 1, got 0"):
        Runner(double, state, unroll=0)


def test_lint_passes_and_counts_what_launches() -> None:
    state = Counter()
    assert capture_lint(lambda: double(state), state).launch_count() == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda s: float(s.value.sum()), "reads a value on the host"),
        (lambda s: s.value.nonzero(), "depends on data"),
        (lambda s: s.value[s.value > 2.0], "boolean mask"),
        (lambda s: s.value.masked_select(s.value > 2.0), "depends on data"),
        (lambda s: s.value.unique(), "depends on data"),
        (lambda s: s.value.add_(torch.tensor([1.0, 2.0, 3.0])), "copies a host value"),
        (lambda s: torch.empty(3).normal_(), "own generator"),
        (lambda s: torch.nn.functional.dropout(s.value), "own generator"),
        (lambda s: setattr(s, "value", s.value * 2.0), "rebound value"),
        (lambda s: setattr(s, "value", s.value.repeat(2)), "changed between two steps"),
        (lambda s: s.step.add_(1) if s.__dict__.setdefault("n", []).append(1) or len(s.n) > 1 else None, "operations"),
    ],
)
def test_lint_catches(body: object, message: str) -> None:
    state = Counter()
    with pytest.raises(CaptureError, match=message):
        capture_lint(lambda: body(state), state)


def test_checkpoint_round_trip_keeps_addresses(tmp_path: Path) -> None:
    state, other = Counter(), Counter()
    double(state, 3)
    save_checkpoint(tmp_path / "c.safetensors", state, {"seeds": [1, 2]})
    place = other.value.data_ptr()
    assert load_checkpoint(tmp_path / "c.safetensors", other) == {"seeds": [1, 2]}
    assert other.value.equal(state.value) and int(other.step) == 3
    assert other.value.data_ptr() == place
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_checkpoint_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    state = Counter()
    save_checkpoint(path, state, {})

    with pytest.raises(CheckpointError, match=r"'value' must have shape \(2,\) .* got \(3,\)"):
        load_checkpoint(path, Counter(value=torch.zeros(2)))
    with pytest.raises(CheckpointError, match=r"torch.float64, got .* torch.float32"):
        load_checkpoint(path, Counter(value=torch.zeros(3, dtype=torch.float64)))
    more = Counter()
    more.moving = lambda: {"value": more.value, "other": more.step}  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match=r"lacks \['other'\], has unknown \['step'\]"):
        load_checkpoint(path, more)

    whole = path.read_bytes()
    for name, content in {"cut": whole[:-3], "header": b"\xff" + whole[1:], "empty": b"", "text": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is damaged"):
            read_checkpoint(tmp_path / name)
    save_file({"value": torch.zeros(3)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="not written by trajmill"):
        read_checkpoint(tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "absent")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Counter(), {})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, Counter(), {"new": True})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_metric_ring_gives_means_of_the_last_updates() -> None:
    ring = MetricRing.of(["loss", "value"], 2, 3, torch.device("cpu"))
    for step in range(5):
        ring.write(
            torch.tensor(step), {"loss": torch.tensor([step, math.nan]), "value": torch.tensor([0.0, 10.0 * step])}
        )
    means = ring.mean_of_last(2, 5)
    assert means["loss"][0] == 3.0 and math.isnan(means["loss"][1])
    assert means["value"] == [0.0, 30.0]
    with pytest.raises(ValueError, match="holds 3 updates, asked for 1 to 5"):
        ring.mean_of_last(1, 5)


def test_metrics_line_is_json_without_nan() -> None:
    line = json.loads(metrics_line("finetune", 5, 1.23456, {"loss": [1.5, math.nan, math.inf]}))
    assert line == {
        "phase": "finetune",
        "gradient_step": 5,
        "wall_seconds": 1.235,
        "metrics": {"loss": [1.5, None, None]},
    }


def transitions(**changes: object) -> SimpleNamespace:
    columns = {
        "observation": np.arange(6, dtype=np.float32).reshape(3, 2),
        "action": np.array([[1.0], [-1.0], [0.5]], np.float32),
        "reward": np.array([1.0, 3.0, 2.0], np.float32),
        "next_observation": np.ones((3, 2), np.float32),
        "terminal": np.array([False, True, False]),
    }
    return SimpleNamespace(**columns | changes)


def test_transition_table_packs_and_gathers() -> None:
    table = TransitionTable.of(transitions(), action_limit=0.999, device=torch.device("cpu"), dtype=torch.float32)
    batch = table.gather(torch.tensor([[1, 2], [0, 1]]))
    assert batch.observation.tolist() == [[[2, 3], [4, 5]], [[0, 1], [2, 3]]]
    assert batch.action.flatten().tolist() == pytest.approx([-0.999, 0.5, 0.999, -0.999])
    assert batch.reward.tolist() == [[3, 2], [1, 3]]
    assert batch.terminal.tolist() == [[1, 0], [0, 1]]
    assert batch.next_observation.shape == (2, 2, 2)
    assert table.greatest_reward == 3.0


def test_transition_table_refuses_nan_and_nothing() -> None:
    cpu = torch.device("cpu")
    bad = transitions(reward=np.array([0.0, np.nan, 1.0], np.float32))
    with pytest.raises(ValueError, match="transition 1 holds NaN"):
        TransitionTable.of(bad, action_limit=1.0, device=cpu, dtype=torch.float32)
    none = SimpleNamespace(**{name: column[:0] for name, column in vars(transitions()).items()})
    with pytest.raises(ValueError, match="at least one transition"):
        TransitionTable.of(none, action_limit=1.0, device=cpu, dtype=torch.float32)


def test_settings_of_device_and_precision_are_checked() -> None:
    for settings, message in (
        ({"device": "tpu"}, "device must be"),
        ({"precision": "fp8"}, "precision must be"),
        ({"threads": 0}, "threads must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ComputeConfig(**settings)
    if not torch.cuda.is_available():
        assert ComputeConfig().apply().type == "cpu"
        with pytest.raises(ValueError, match="torch sees no GPU"):
            ComputeConfig(device="cuda").apply()
    ComputeConfig(device="cpu", precision="tf32").apply()
    assert torch.get_float32_matmul_precision() == "high"
    assert ComputeConfig(device="cpu").apply().type == "cpu"
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept() -> None:
    """A 64 MB tensor made twenty times touches no fresh pages (16,384 each time otherwise) once malloc has settled."""
    program = """
import resource, torch
from trajmill.training.device import keep_freed_memory
keep_freed_memory()
faults = []
for _ in range(60):
    torch.empty(2**24).fill_(1.0)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[39])  # a dozen are made before the heap has a place for all
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000


def test_per_seed_settings() -> None:
    cpu = torch.device("cpu")
    assert per_seed("x", 2.0, 3, cpu).tolist() == [2.0, 2.0, 2.0]
    assert per_seed("x", (1.0, 2.0), 2, cpu).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="x needs one value or one per seed \\(3\\), got 2"):
        per_seed("x", (1.0, 2.0), 3, cpu)
