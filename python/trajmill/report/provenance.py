"""Where the numbers of a variant come from: its runs, and what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trajmill.algorithms import method_of_kind
from trajmill.core.progress import duration
from trajmill.report.comparison import MISSING
from trajmill.report.figures import compact
from trajmill.report.sections import grouped
from trajmill.runs.reading import RunRecord

RUN_HEADS = ("run", "dataset", "settings", "updates", "seeds", "updates/s", "learned", "time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a variant's numbers come from."""

    variant: str
    summary: str
    """in one line"""
    facts: Mapping[str, str]
    """what is the same for all of its runs"""
    runs: tuple[tuple[str, ...], ...]
    """a row of `RUN_HEADS` each"""
    configurations: Mapping[str, str]
    """config.json by run"""


def origins(records: Sequence[RunRecord]) -> list[Origin]:
    """One for each variant."""
    return [_origin(variant, runs) for variant, runs in grouped((run.variant, run) for run in records).items()]


def digest(run: RunRecord) -> str:
    """Short SHA-256 of a run's settings, config.json in canonical form: the same settings have the same digest."""
    text = json.dumps(run.config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shared(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all of them agree on."""
    first, *others = [each for each in facts if each] or [{}]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def provenance(run: RunRecord) -> dict[str, str]:
    """What environment.json says, with a line for each of its entries."""
    return {key: _line(value) for key, value in run.provenance.items() if value is not None}


def _line(value: Any) -> str:
    """A value in one line: entries of a mapping with their names, machine and versions alike."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_line(item)}" for key, item in value.items() if item is not None)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _origin(variant: str, runs: Sequence[RunRecord]) -> Origin:
    facts = shared([provenance(run) for run in runs])
    if facts.get("command") is None and len(commands := {provenance(run).get("command", "") for run in runs}) > 1:
        facts["commands"] = f"{len(commands)} different ones, in environment.json of each run"
    datasets = dict.fromkeys(run.dataset or "no dataset" for run in runs)
    parts = [
        ", ".join(dict.fromkeys(run.kind for run in runs)),
        next(iter(datasets)) if len(datasets) == 1 else f"{len(datasets)} datasets",
        f"settings {', '.join(dict.fromkeys(map(digest, runs[:3])))}" + ", …" * (len(runs) > 3),
        f"commit {runs[0].provenance['commit'][:12]}" if "commit" in facts else "",
    ]
    return Origin(
        variant=variant,
        summary=" · ".join(filter(None, parts)),
        facts=facts,
        runs=tuple(map(_row, runs)),
        configurations={run.path.name: json.dumps(run.config, indent=1) for run in runs},
    )


def learned_per_second(run: RunRecord) -> str:
    """Rows of all batches a second, or tokens of a method on sequences; a dash if it is not on record."""
    method, count = run.settings.get("method", {}), run.update * len(run.seeds)
    if run.wall_seconds <= 0 or not isinstance(size := method.get("batch_size"), int):
        return MISSING
    on_sequences = hasattr(method_of_kind(run.kind), "products") and "length" in method
    per_second = count * size * (method["length"] if on_sequences else 1) / run.wall_seconds
    return f"{compact(per_second)} {'tokens' if on_sequences else 'rows'}/s"


def _row(run: RunRecord) -> tuple[str, ...]:
    rate = run.update / run.wall_seconds if run.wall_seconds > 0 else 0.0
    state = "" if run.finished else ", unfinished"
    seeds = ", ".join(map(str, run.seeds))
    return (
        run.path.name,
        run.dataset or MISSING,
        digest(run),
        f"{run.update:,}{state}",
        seeds,
        f"{rate:,.3g}" if rate else MISSING,
        learned_per_second(run),
        duration(run.wall_seconds),
    )
