"""A part of the page: text, tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trajmill.report.comparison import Comparison
from trajmill.report.figures import Rate, bars_svg

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Something that a caller adds to the page."""

    name: str
    """unique on the page; letters, digits and hyphens"""
    title: str
    text: str = ""
    """plain text, one paragraph per line"""
    figures: tuple[str, ...] = ()
    """SVGs from `trajmill.report.figures`"""
    caption: str = ""
    comparison: Comparison | None = None
    """table above the figures"""
    tables: tuple[tuple[tuple[str, ...], ...], ...] = ()
    """other tables above them: rows of cells, the first of headings"""
    leading: bool = False
    """whether it comes before the scores and curves of the runs, not after them"""


def rates_section(
    name: str, title: str, groups: Sequence[Sequence[Rate]], *, text: str = "", caption: str = ""
) -> Section:
    """Section of horizontal bars, such as sampler rates beside a baseline's; each group has a scale of its own."""
    drawn = [bars_svg(f"{name}-{index}", rates, alternative="Bar chart") for index, rates in enumerate(groups)]
    return Section(name=name, title=title, text=text, figures=tuple(drawn), caption=caption)


def grouped(pairs: Iterable[tuple[KeyT, ValueT]]) -> dict[KeyT, list[ValueT]]:
    """Values by key, in the order of their first appearance."""
    groups: dict[KeyT, list[ValueT]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
