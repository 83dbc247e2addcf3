"""What a benchmark leaves: rows, the machine they were measured on, and the JSON file that holds both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from trajmill.core.files import write_whole
from trajmill.core.json_input import read_json

FORMAT = "trajmill-bench 1"
Role = Literal["ours", "peer", "limit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured value, what it is measured against, and how far the limit is."""

    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None
    limit: str | None = None
    limit_share: float | None = None


def row(
    name: str, value: float, unit: str, *, over: tuple[str, float] | None = None, limit: tuple[str, float] | None = None
) -> Row:
    """A row whose value is compared with another one, and with a limit, each by its name."""
    against, ratio = (None, None) if over is None else (over[0], value / over[1])
    bound, share = (None, None) if limit is None else (limit[0], value / limit[1])
    return Row(name=name, value=value, unit=unit, against=against, ratio=ratio, limit=bound, limit_share=share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(Row):
    """The rate of one contender: `value` is the median over its blocks, `low` and `high` are the quartiles."""

    group: str
    role: Role
    low: float
    high: float
    blocks: int
    limit_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A peer that was not measured, why, and what to do."""

    group: str
    peer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run of ``trajmill bench SUBJECT``."""

    subject: str
    options: Mapping[str, Any]
    seconds: float
    """that it took"""
    busy: bool
    """whether the machine did other work meanwhile, or the rates scatter: such a result is not to be relied on"""
    warnings: Sequence[str]
    missing: Sequence[Missing]
    rows: Sequence[Rate]
    environment: Mapping[str, Any]
    """as `machine.environment` gives it"""

    def to_json(self) -> dict[str, Any]:
        """As the file has it."""
        found = asdict(self)
        return {"format": FORMAT, **{name: value for name, value in found.items() if name != "environment"}} | dict(
            self.environment
        )


def keep(path: Path, record: Mapping[str, object]) -> None:
    """Write a record whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())


def read(path: Path) -> Result:
    """The result in a file; ValueError if the file holds anything else."""
    again = "write one with: trajmill bench SUBJECT --out FILE.json"
    try:
        found = read_json(path)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}; {again}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {again}") from error
    written = found.get("format") if isinstance(found, dict) else None
    if written != FORMAT:
        raise ValueError(f"{path} is not a result of this version: its format is {written!r}, not {FORMAT!r}; {again}")
    own = {field.name for field in fields(Result)} - {"environment", "rows", "missing"}
    try:
        return Result(
            **{name: found[name] for name in own},
            rows=[Rate(**each) for each in found["rows"]],
            missing=[Missing(**each) for each in found["missing"]],
            environment={name: found[name] for name in ("machine", "versions", "commit", "command")},
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a whole result ({error}); {again}") from error
