"""Reads run directories; a run that is unfinished says so, and one that is damaged is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RunError(ValueError):
    """A directory that is no run, or whose files contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric over gradient steps."""

    gradient_steps: NDArray[np.int64]
    """(point_count,), not decreasing"""
    values: NDArray[np.float64]
    """(point_count, seed_count); NaN where a seed has no finite value"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a report needs to know of one run directory."""

    path: Path
    kind: str
    """such as ``"pretrain_cql"`` or ``"train_cql"``"""
    variant: str
    dataset: str | None
    environment: str | None
    seeds: tuple[int, ...]
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    """environment.json: versions, machine, commit"""
    result: Mapping[str, Any] | None
    """result.json, which a run writes last; None means the run has not finished"""
    series: Mapping[str, Mapping[str, Series]]
    """by phase, then by metric name"""
    wall_seconds: float
    """of the last line of metrics.jsonl"""

    @property
    def finished(self) -> bool:
        """Whether the run reached its end."""
        return self.result is not None

    @property
    def gradient_step(self) -> int:
        """The last gradient step on record."""
        steps = [s.gradient_steps[-1] for metrics in self.series.values() for s in metrics.values()]
        return int(max(steps, default=0))

    def evaluation(self, metric: str) -> Series | None:
        """Evaluations of `metric`, if there are any."""
        return self.series.get("evaluation", {}).get(metric)


def read_run(path: Path) -> RunRecord:
    """Read and check one run directory.

    Raises
    ------
    RunError
        If the directory is missing, is no run, or holds a damaged or contradictory file. Only one kind of damage is
        forgiven: the cut last line that a killed run leaves, and the run then counts as unfinished.
    """
    if not path.is_dir():
        raise RunError(f"{path} is not a directory; give run directories, such as runs/NAME")
    config = _read_object(path / "config.json", required=True)
    if not isinstance(config.get("kind"), str):
        raise RunError(f"{path / 'config.json'} names no kind of run")
    seeds = config.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise RunError(f"{path / 'config.json'}: seeds must be a list of integers, at least one, got {seeds!r}")
    result = _read_object(path / "result.json") if (path / "result.json").exists() else None
    series, wall_seconds = _read_metrics(path / "metrics.jsonl", len(seeds), finished=result is not None)
    if result is not None and config["kind"].startswith("train_") and not series.get("evaluation"):
        raise RunError(f"{path} is marked finished but holds no evaluation; its metrics.jsonl was replaced or cut")
    return RunRecord(
        path=path,
        kind=config["kind"],
        variant=str(config.get("variant") or path.name),
        dataset=config.get("dataset"),
        environment=config.get("environment"),
        seeds=tuple(seeds),
        config=config,
        provenance=_read_object(path / "environment.json") if (path / "environment.json").exists() else {},
        result=result,
        series=series,
        wall_seconds=wall_seconds,
    )


def _read_object(path: Path, *, required: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise RunError(f"{path.parent} is not a run directory: it has no {path.name}") from None
        raise
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: an object was expected, not {type(value).__name__}")
    return value


def _read_metrics(path: Path, seed_count: int, *, finished: bool) -> tuple[dict[str, dict[str, Series]], float]:
    if not path.exists():
        if finished:
            raise RunError(f"{path.parent} is marked finished but has no {path.name}")
        return {}, 0.0
    steps: dict[tuple[str, str], list[int]] = {}
    values: dict[tuple[str, str], list[list[float]]] = {}
    wall_seconds = 0.0
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            phase, gradient_step, wall_seconds, metrics = _parse_line(line, seed_count)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and not finished:  # no newline after it: the run was killed while writing it
                break
            raise RunError(f"{path}, line {number} is damaged: {error}") from None
        for name, row in metrics.items():
            known = steps.setdefault((phase, name), [])
            if known and gradient_step < known[-1]:
                raise RunError(f"{path}, line {number}: {phase} goes back from step {known[-1]} to {gradient_step}")
            known.append(gradient_step)
            values.setdefault((phase, name), []).append(row)
    series: dict[str, dict[str, Series]] = {}
    for (phase, name), known in steps.items():
        series.setdefault(phase, {})[name] = Series(
            gradient_steps=np.asarray(known, dtype=np.int64), values=np.asarray(values[phase, name])
        )
    return series, wall_seconds


def _parse_line(line: bytes, seed_count: int) -> tuple[str, int, float, dict[str, list[float]]]:
    record = json.loads(line)
    rows: dict[str, list[float]] = {}
    for name, row in record["metrics"].items():
        if not isinstance(row, Sequence) or len(row) != seed_count:
            raise ValueError(f"{name} must hold one value for each of {seed_count} seeds, got {row!r}")
        rows[name] = [math.nan if value is None else float(value) for value in row]
    return str(record["phase"]), int(record["gradient_step"]), float(record["wall_seconds"]), rows
