"""Metrics: collected on the device every update, read seldom, written as JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class MetricRing:
    """The last `capacity` values of each metric of each seed; writing needs no host."""

    names: tuple[str, ...]
    values: Tensor
    """(capacity, S, M)"""

    @classmethod
    def of(cls, names: Sequence[str], seed_count: int, capacity: int, device: torch.device) -> MetricRing:
        """Ring of NaNs."""
        return cls(tuple(names), torch.full((capacity, seed_count, len(names)), math.nan, device=device))

    @torch.no_grad()
    def write(self, step: Tensor, metrics: Mapping[str, Tensor]) -> None:
        """Store one (S,) tensor per metric for update `step`, an int64 scalar tensor."""
        row = torch.stack([metrics[name] for name in self.names], -1).to(self.values.dtype)
        self.values.index_copy_(0, (step % self.values.shape[0]).view(1), row.unsqueeze(0))

    def mean_of_last(self, first_step: int, end_step: int) -> dict[str, list[float]]:
        """Mean over updates first_step … end_step−1 (at most `capacity` of them), per seed; copies to the host."""
        means = self._of(first_step, end_step).double().mean(0).T.tolist()
        return dict(zip(self.names, means, strict=True))

    def first_not_finite(self, first_step: int, end_step: int) -> list[tuple[int, str, float] | None]:
        """Of each seed the first of these updates with a metric that is not finite, its name and value; else None."""
        values = self._of(first_step, end_step).cpu()
        found: list[tuple[int, str, float] | None] = []
        for of_seed in values.unbind(1):
            places = (~of_seed.isfinite()).nonzero()
            if len(places) == 0:
                found.append(None)
            else:
                row, metric = places[0].tolist()
                found.append((first_step + row, self.names[metric], float(of_seed[row, metric])))
        return found

    def _of(self, first_step: int, end_step: int) -> Tensor:
        """Values of updates first_step … end_step−1, (n, S, M)."""
        capacity = self.values.shape[0]
        if not 0 < end_step - first_step <= capacity:
            raise ValueError(f"the ring holds {capacity} updates, asked for {first_step} to {end_step}")
        return self.values[torch.arange(first_step, end_step, device=self.values.device) % capacity]


def metrics_line(phase: str, gradient_step: int, wall_seconds: float, metrics: Mapping[str, Sequence[float]]) -> str:
    """One line of ``metrics.jsonl``; NaN and infinities become null, as JSON has none."""
    record = {
        "phase": phase,
        "gradient_step": gradient_step,
        "wall_seconds": round(wall_seconds, 3),
        "metrics": {name: [finite_or_none(value) for value in values] for name, values in metrics.items()},
    }
    return json.dumps(record, allow_nan=False)


def finite_or_none(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def append_line(path: Path, line: str) -> None:
    """Add one line to a JSON-lines file and flush it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
