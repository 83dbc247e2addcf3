"""Checkpoints: safetensors with JSON metadata and a hash of both, written whole or not at all; never pickles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trajmill.core.files import write_whole
from trajmill.core.json_input import parse_json
from trajmill.core.sealing import ARRAYS_FORMAT, arrays_hash
from trajmill.training.state import TrainingState

FORMAT = ARRAYS_FORMAT
WITHOUT_HASH = "trajmill-checkpoint-1"
"""what earlier versions wrote; still read"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """How an earlier version of a method wrote its runs and checkpoints, which are still read."""

    kind: str
    """what it called itself in them"""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """name of a tensor then -> now"""
    settings: Callable[[dict[str, Any]], dict[str, Any]] = dict
    """the method's settings then -> now"""


class CheckpointError(ValueError):
    """A checkpoint is damaged, foreign, or of another shape than the state it should fill."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint cannot be read, or not every bit of it is as it was written."""


def save_checkpoint(path: Path, state: TrainingState, metadata: Mapping[str, Any]) -> None:
    """Store everything that moves, with JSON metadata that says what it belongs to."""
    save_tensors(path, state.moving(), metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Store tensors, with JSON metadata that says what they belong to; `read_checkpoint` reads both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = json.dumps(dict(metadata), sort_keys=True)
    header = {"format": FORMAT, "trajmill": described, "sha256": digest(tensors, described)}
    write_whole(path, save(tensors, metadata=header))


def digest(tensors: Mapping[str, Tensor], described: str) -> str:
    """SHA-256 of the metadata and of every tensor's name, type, shape and bytes."""
    contents = (
        (name, str(tensor.dtype), tuple(tensor.shape), tensor.flatten().view(torch.uint8).numpy().data)
        for name, tensor in tensors.items()
    )
    return arrays_hash(described, contents)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and metadata of a checkpoint; DamagedCheckpointError if a single bit is not as written."""
    if path.is_dir():
        raise DamagedCheckpointError(f"{path} is a directory, not a checkpoint")
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise DamagedCheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
    if header.get("format") not in (FORMAT, WITHOUT_HASH):
        raise DamagedCheckpointError(
            f"{path} was not written by trajmill: format must be {FORMAT}, got {header.get('format')}"
        )
    described = header.get("trajmill", "")
    if header["format"] == FORMAT and header.get("sha256") != digest(tensors, described):
        raise DamagedCheckpointError(f"{path} is damaged: its content does not have the hash that was written with it")
    try:
        return tensors, parse_json(described)
    except ValueError as error:
        raise DamagedCheckpointError(f"{path} is damaged: its metadata is not valid JSON: {error}") from error


@torch.no_grad()
def restore_tensors(target: Mapping[str, Tensor], source: Mapping[str, Tensor], origin: str) -> None:
    """Copy `source` into `target` in place, addresses unchanged; all names, shapes and dtypes are checked first."""
    missing, unknown = sorted(target.keys() - source.keys()), sorted(source.keys() - target.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{origin} does not fit: it lacks {missing or 'nothing'}, has unknown {unknown or 'nothing'}"
        )
    for name, tensor in target.items():
        found = source[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise CheckpointError(
                f"{origin}: tensor {name!r} must have shape {tuple(tensor.shape)} and type {tensor.dtype}, "
                f"got {tuple(found.shape)} and {found.dtype}"
            )
    for name, tensor in target.items():
        tensor.copy_(source[name])
