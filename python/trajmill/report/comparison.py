"""A table that sets what a paper printed beside what was measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trajmill.evaluation.statistics import Interval

MISSING = "\N{EN DASH}"
ROOM = 150.0
"""characters of a table that a page has room for, in print too"""
PADDING = 2.5
"""what a column takes more than its text"""
HEAD = 20
"""characters of a heading or a label, after which it may continue on another line"""


def number(value: float | None, digits: int = 1) -> str:
    """Fixed digits, with a comma between thousands and a true minus sign; a dash for what is missing."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


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
class Block:
    """A part of a table that a page has room for."""

    heads: tuple[str, ...]
    lines: Mapping[str, tuple[Entry, ...]]
    """by label, with one entry for each head"""
    stacked: bool
    """whether the sides of an entry stand below each other, not beside"""


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
    def blocks(self) -> list[Block]:
        """The table as a page shows it, in parts that have room there.

        Sides stand beside each other if all heads have room so, else below each other; heads that still have no room
        go on in a table of their own.
        """
        lines, side_count = list(self.lines.values()), len(self.sides)
        labels = max(min(len(label), HEAD) for label in (self.corner, *self.lines)) + PADDING
        beside, below = [], []
        for head, entries in zip(self.heads, zip(*lines, strict=True), strict=True):
            widths = [max(map(len, texts)) + PADDING for texts in zip(*map(self.texts, entries), strict=True)]
            heading = max(min(len(head), HEAD), *map(len, head.split())) + PADDING
            beside.append(max(heading, sum(widths)))
            below.append(max(heading, *widths))
        stacked = side_count > 1 and labels + sum(beside) > ROOM
        room = ROOM - labels - stacked * (len("authors") + PADDING)
        count = _part_count(below if stacked else beside, room)
        size = math.ceil(len(self.heads) / count)
        return [
            Block(
                heads=self.heads[first : first + size],
                lines={label: row[first : first + size] for label, row in self.lines.items()},
                stacked=stacked,
            )
            for first in range(0, len(self.heads), size)
        ]

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


def _part_count(widths: Sequence[float], room: float) -> int:
    """Into how many parts of equal numbers columns have to be divided, so that each has room; at most one a column."""
    for count in range(1, len(widths)):
        size = math.ceil(len(widths) / count)
        if all(sum(widths[first : first + size]) <= room for first in range(0, len(widths), size)):
            return count
    return len(widths)
