"""A table that sets what a paper printed beside what was measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trajmill.evaluation.statistics import Interval

MISSING = "\N{EN DASH}"


def number(value: float | None, digits: int = 1) -> str:
    """Fixed digits, with a comma between thousands and a true minus sign; a dash for what is missing."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One cell: theirs and ours; None stands for what is not known."""

    printed: float | None = None
    printed_deviation: float | None = None
    authors: Interval | None = None
    """of the paper's own runs, by the statistics that ours are measured by"""
    ours: Interval | None = None
    seed_count: int = 0
    why_empty: str = ""
    """why there is no number of ours"""
    digits: int = 1

    @property
    def printed_text(self) -> str:
        """Such as ``49.5 ± 9.9``."""
        deviation = "" if self.printed_deviation is None else f" ± {number(self.printed_deviation, self.digits)}"
        return number(self.printed, self.digits) + deviation

    @property
    def our_text(self) -> str:
        """Such as ``48.1 [45.0, 51.2]``; one seed has no interval."""
        if self.ours is None:
            return f"{MISSING} ({self.why_empty})" if self.why_empty else MISSING
        return self._interval(self.ours) if self.seed_count > 1 else number(self.ours.estimate, self.digits)

    @property
    def authors_text(self) -> str:
        """Such as ``49.5 [45.4, 53.9]``."""
        return MISSING if self.authors is None else self._interval(self.authors)

    def _interval(self, interval: Interval) -> str:
        estimate, low, high = (number(end, self.digits) for end in (interval.estimate, interval.low, interval.high))
        return f"{estimate} [{low}, {high}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A table; each column is shown as measured, beside what was printed and what the authors' runs give, if known."""

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Entry, ...]]
    """by label, one entry for each column"""
    place: str = "dataset"
    """what a row is of"""

    @property
    def sides(self) -> tuple[str, ...]:
        """What is shown of a column."""
        entries = [entry for row in self.rows.values() for entry in row]
        printed = any(entry.printed is not None for entry in entries)
        authors = any(entry.authors is not None for entry in entries)
        return (*["paper"] * printed, *["authors"] * authors, "ours")

    @property
    def is_turned(self) -> bool:
        """Whether columns are shown as lines: there are many of them and fewer rows, too many for a page's width."""
        return len(self.columns) > max(6, len(self.rows))

    @property
    def heads(self) -> tuple[str, ...]:
        """What is shown side by side."""
        return tuple(self.rows) if self.is_turned else self.columns

    @property
    def lines(self) -> Mapping[str, tuple[Entry, ...]]:
        """What is shown line by line, with one entry for each head."""
        if not self.is_turned:
            return self.rows
        return dict(zip(self.columns, zip(*self.rows.values(), strict=True), strict=True))

    @property
    def corner(self) -> str:
        """Heading of the lines."""
        return "variant" if self.is_turned else self.place

    def texts(self, entry: Entry) -> tuple[str, ...]:
        """One cell for each of `sides`."""
        texts = {"paper": entry.printed_text, "authors": entry.authors_text, "ours": entry.our_text}
        return tuple(texts[side] for side in self.sides)

    def markdown(self) -> str:
        """The table in Markdown."""
        heads = [self.corner, *(f"{head}, {side}" for head in self.heads for side in self.sides)]
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
        for label, row in self.lines.items():
            lines.append([label, *(text for entry in row for text in self.texts(entry))])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
