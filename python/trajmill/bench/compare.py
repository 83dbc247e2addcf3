"""Two results of one subject, row by row: which changes are larger than the spread, and what else differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trajmill.bench.record import Rate, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row of both results; ratios are of the second to the first, so above 1 means that it became faster."""

    group: str
    name: str
    role: str
    unit: str
    before: float
    after: float
    ratio: float
    low: float
    """lower quartile of the second over upper quartile of the first"""
    high: float
    """upper quartile of the second over lower quartile of the first"""

    @property
    def exceeds_spread(self) -> bool:
        """Whether the middle halves of both measurements do not even touch."""
        return self.low > 1 or self.high < 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What changed from one result to another."""

    changes: list[Change]
    differences: list[str]
    """of machines, versions and options, and whether a machine was busy: reasons to doubt the ratios"""
    only_before: list[str]
    only_after: list[str]


def compare(before: Result, after: Result) -> Comparison:
    """Compare two results; ValueError if they are of two subjects."""
    if before.subject != after.subject:
        raise ValueError(f"both results must be of one subject, got {before.subject} and {after.subject}")
    first, second = _by_name(before), _by_name(after)
    return Comparison(
        changes=[_change(first[key], second[key]) for key in first if key in second],
        differences=list(_differences(before, after)),
        only_before=[f"{group}: {name}" for group, name in first if (group, name) not in second],
        only_after=[f"{group}: {name}" for group, name in second if (group, name) not in first],
    )


def _by_name(result: Result) -> dict[tuple[str, str], Rate]:
    return {(rate.group, rate.name): rate for rate in result.rows}


def _change(before: Rate, after: Rate) -> Change:
    return Change(
        group=before.group,
        name=before.name,
        role=before.role,
        unit=before.unit,
        before=before.value,
        after=after.value,
        ratio=after.value / before.value,
        low=after.low / before.high,
        high=after.high / before.low,
    )


def _differences(before: Result, after: Result) -> Iterator[str]:
    for name in ("machine", "versions"):
        yield from _of_mappings(before.environment[name], after.environment[name])
    yield from _of_mappings({"commit": before.environment["commit"]}, {"commit": after.environment["commit"]})
    yield from _of_mappings(before.options, after.options)
    for title, result in (("first", before), ("second", after)):
        for warning in result.warnings:
            yield f"the {title} was measured on a busy machine: {warning}"


def _of_mappings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name), after.get(name)
        if one != other and name != "folder":
            yield f"{name}: {_shown(one)}, then {_shown(other)}"


def _shown(value: Any) -> str:
    return "none" if value in (None, "") else str(value)
