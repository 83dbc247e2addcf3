"""Metrics: collected on the device every update, read seldom, written as JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trajmill.core.files import naming
from trajmill.core.sealing import sealed

_NONE_YET = torch.finfo(torch.float32).min
"""stands for a metric that no update has had so far; NaN means that a seed diverged"""


@dataclass(frozen=True, slots=True)
class MetricRing:
    """The last `capacity` values of each metric of each seed; writing needs no host."""

    names: tuple[str, ...]
    values: Tensor
    """(capacity, S, M)"""

    @classmethod
    def of(cls, names: Sequence[str], seed_count: int, capacity: int, device: torch.device) -> MetricRing:
        """Ring without a value."""
        return cls(tuple(names), torch.full((capacity, seed_count, len(names)), _NONE_YET, device=device))

    @torch.no_grad()
    def write(self, update: Tensor, metrics: Mapping[str, Tensor]) -> None:
        """Store one (S,) tensor a metric for `update`, an int64 scalar; one that is not given keeps its last value."""
        capacity = self.values.shape[0]
        if len(metrics) < len(self.names):
            last = self.values.index_select(0, ((update - 1) % capacity).view(1))[0].unbind(-1)
            metrics = dict(zip(self.names, last, strict=True)) | dict(metrics)
        row = torch.stack([metrics[name] for name in self.names], -1).to(self.values.dtype)
        self.values.index_copy_(0, (update % capacity).view(1), row.unsqueeze(0))

    def mean_of_last(self, first: int, end: int) -> dict[str, list[float]]:
        """Mean over updates first … end−1 (at most `capacity` of them), per seed, NaN without any; on the host."""
        values = self._of(first, end).double()
        there = values != _NONE_YET
        means = (torch.where(there, values, 0.0).sum(0) / there.sum(0)).T.tolist()
        return dict(zip(self.names, means, strict=True))

    def first_not_finite(self, first: int, end: int) -> list[tuple[int, str, float] | None]:
        """Of each seed the first of these updates with a metric that is not finite, its name and value; else None."""
        values = self._of(first, end).cpu()
        found: list[tuple[int, str, float] | None] = []
        for of_seed in values.unbind(1):
            places = (~of_seed.isfinite()).nonzero()
            if len(places) == 0:
                found.append(None)
            else:
                row, metric = places[0].tolist()
                found.append((first + row, self.names[metric], float(of_seed[row, metric])))
        return found

    def _of(self, first: int, end: int) -> Tensor:
        """Values of updates first … end−1, (n, S, M)."""
        capacity = self.values.shape[0]
        if not 0 < end - first <= capacity:
            raise ValueError(f"the ring holds {capacity} updates, asked for {first} to {end}")
        return self.values[torch.arange(first, end, device=self.values.device) % capacity]


def resized(values: Tensor, capacity: int, end: int) -> Tensor:
    """What a ring (capacity, S, M) of another capacity holds after `end` updates."""
    if values.ndim != 3 or values.shape[0] == capacity:
        return values
    updates = torch.arange(max(0, end - min(capacity, values.shape[0])), end)
    larger = torch.full((capacity, *values.shape[1:]), _NONE_YET, dtype=values.dtype, device=values.device)
    larger[updates % capacity] = values[updates % values.shape[0]]
    return larger


def metrics_line(phase: str, update: int, wall_seconds: float, metrics: Mapping[str, Sequence[float]]) -> str:
    """One line of ``metrics.jsonl``; NaN and infinities become null, as JSON has none."""
    record = {
        "phase": phase,
        "update": update,
        "wall_seconds": round(wall_seconds, 3),
        "metrics": {name: [finite_or_none(value) for value in values] for name, values in metrics.items()},
    }
    return json.dumps(sealed(record), allow_nan=False)


def finite_or_none(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def append_line(path: Path, line: str) -> None:
    """Add one line to a JSON-lines file and flush it."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
