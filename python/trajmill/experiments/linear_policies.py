"""Linear policies in a file: those met in a training, in its order, with the return of each; a few kilobytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.core.files import write_whole
from trajmill.core.json_input import parse_json
from trajmill.core.paths import AnyPath, input_path, local_path
from trajmill.experiments.random_search import LinearPolicies

FORMAT = "trajmill-linear-policies-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearCheckpoint:
    """A policy as the training had it: ``action = matrix @ ((observation - mean) / deviation)``."""

    matrix: NDArray[np.float64]  # (A, O)
    mean: NDArray[np.float64]  # (O,)
    deviation: NDArray[np.float64]  # (O,)
    return_mean: float  # of whole episodes without noise
    environment_steps: int  # of the training until then

    def policies(self) -> LinearPolicies:
        """It as a policy of one seed."""
        return LinearPolicies(self.matrix[None], self.mean, self.deviation)

    def described(self) -> dict[str, float]:
        """How far the training was, for the record."""
        return {"return_mean": self.return_mean, "environment_steps": self.environment_steps}


def write_policies(
    path: AnyPath, environment_id: str, trail: list[LinearCheckpoint], provenance: Mapping[str, Any]
) -> None:
    """Write a safetensors file: matrix (C, A, O), mean, deviation (C, O), return_mean, environment_steps (C,)."""
    from safetensors.numpy import save

    columns = {
        name: np.stack([np.asarray(getattr(checkpoint, name)) for checkpoint in trail])
        for name in LinearCheckpoint.__slots__
    }
    header = {"format": FORMAT, "environment": environment_id, "provenance": dict(provenance)}
    # One entry, since safetensors keeps several in an order of chance.
    write_whole(local_path(path), save(columns, metadata={"trajmill": json.dumps(header, sort_keys=True)}))


def read_policies(path: AnyPath, environment_id: str) -> list[LinearCheckpoint]:
    """Read a file of `write_policies`, in the order of training.

    ValueError if the file is absent, damaged, foreign, or of another environment.
    """
    from safetensors import SafetensorError, safe_open

    path = input_path(path)
    if not path.is_file():
        raise ValueError(f"there is no file of policies at {path}")
    try:
        with safe_open(path, framework="np") as file:
            header = parse_json((file.metadata() or {}).get("trajmill", "{}"))
            found = header.get("format"), header.get("environment")
            if found == (FORMAT, environment_id):
                columns = {name: file.get_tensor(name) for name in LinearCheckpoint.__slots__}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if found != (FORMAT, environment_id):
        needed = f"{path} must hold policies for {environment_id} (format {FORMAT})"
        raise ValueError(f"{needed}, got {found[1]} ({found[0]})")
    return [
        LinearCheckpoint(
            matrix=columns["matrix"][row],
            mean=columns["mean"][row],
            deviation=columns["deviation"][row],
            return_mean=float(columns["return_mean"][row]),
            environment_steps=int(columns["environment_steps"][row]),
        )
        for row in range(len(columns["return_mean"]))
    ]


def bundled_policies(environment_id: str) -> list[LinearCheckpoint]:
    """The policies that travel with the package.

    ValueError if there are none for the environment.
    """
    name = f"{environment_id.removesuffix('-v4').lower()}-ars.safetensors"
    path = Path(str(files("trajmill.data").joinpath("bundled", name)))
    if not path.is_file():
        raise ValueError(f"no policies for {environment_id} are bundled; give --train, or --policies FILE")
    return read_policies(path, environment_id)
