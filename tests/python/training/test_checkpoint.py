"""Checkpoints: whole or not at all, and refused where they do not fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trajmill.training.checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    read_checkpoint,
    restore_tensors,
    save_checkpoint,
)


@dataclass
class Counter:
    """The smallest state."""

    value: Tensor = field(default_factory=lambda: torch.arange(1.0, 4.0))
    step: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def moving(self) -> dict[str, Tensor]:
        return {"value": self.value, "step": self.step}


def restore(path: Path, state: Counter) -> dict:
    tensors, known = read_checkpoint(path)
    restore_tensors(state.moving(), tensors, str(path))
    return known


def test_round_trip_keeps_addresses(tmp_path: Path) -> None:
    state, other = Counter(), Counter()
    state.value.mul_(8.0)
    state.step.add_(3)
    save_checkpoint(tmp_path / "c.safetensors", state, {"seeds": [1, 2]})
    place = other.value.data_ptr()
    assert restore(tmp_path / "c.safetensors", other) == {"seeds": [1, 2]}
    assert other.value.equal(state.value) and int(other.step) == 3
    assert other.value.data_ptr() == place
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_what_does_not_fit_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Counter(), {})
    for value, message in (
        (torch.zeros(2), r"'value' .* \(2,\) .* \(3,\)"),
        (torch.zeros(3, dtype=torch.float64), r"torch\.float64, .* torch\.float32"),
    ):
        state = Counter(value=value, step=torch.tensor(7))
        with pytest.raises(CheckpointError, match=message):
            restore(path, state)
        assert int(state.step) == 7 and not state.value.any()
    more = Counter()
    more.moving = lambda: {"value": more.value, "other": more.step}  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match=r"\['other'\], .* \['step'\]"):
        restore(path, more)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Counter(), {})
    whole = path.read_bytes()
    for name, content in {"cut": whole[:-3], "header": b"\xff" + whole[1:], "empty": b"", "text": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedCheckpointError, match=f"{name} is damaged"):
            read_checkpoint(tmp_path / name)
    save_file({"value": torch.zeros(3)}, tmp_path / "foreign")
    with pytest.raises(DamagedCheckpointError, match=r"foreign .* trajmill"):
        read_checkpoint(tmp_path / "foreign")
    with pytest.raises(DamagedCheckpointError, match="directory"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*absent"):
        read_checkpoint(tmp_path / "absent")


def test_one_wrong_bit_is_found(tmp_path: Path) -> None:
    """Of a tensor's numbers, whose shapes all still fit, and of the metadata."""
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Counter(), {"note": "half way"})
    whole = path.read_bytes()
    for place in (len(whole) - 1, whole.index(b"half way")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedCheckpointError, match="damaged"):
            read_checkpoint(path)


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
