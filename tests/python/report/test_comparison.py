"""Tables of comparison: what is shown of a cell, and which way a wide table lies."""

from __future__ import annotations

from itertools import chain

import pytest

from trajmill.evaluation.statistics import Interval
from trajmill.report.comparison import Comparison, Entry, number


def table(column_count: int, row_count: int) -> Comparison:
    columns = tuple(f"c{number}" for number in range(column_count))
    rows = {
        f"r{row}": tuple(Entry(printed=10.0 * row + column) for column in range(column_count))
        for row in range(row_count)
    }
    return Comparison(columns=columns, rows=rows)


def test_a_wide_table_is_turned_and_keeps_its_cells() -> None:
    wide = table(7, 2)
    assert wide.is_turned and wide.heads == ("r0", "r1") and wide.corner == "variant"
    assert wide.lines["c3"] == (wide.rows["r0"][3], wide.rows["r1"][3])
    lines = wide.markdown().splitlines()
    assert lines[0] == "| variant | r0, paper | r0, ours | r1, paper | r1, ours |"
    assert lines[5].startswith("| c3 | 3.0 |") and "| 13.0 |" in lines[5]


def test_other_tables_lie_as_the_papers_do() -> None:
    for columns, rows in ((6, 2), (12, 14), (7, 7)):
        plain = table(columns, rows)
        assert not plain.is_turned and plain.heads == plain.columns and plain.lines == plain.rows
        assert plain.markdown().startswith("| dataset | c0, paper | c0, ours |")


def test_sides_stand_below_each_other_where_they_have_no_room() -> None:
    (few,), (many,) = table(6, 14).blocks, table(9, 14).blocks
    assert not few.stacked and not many.stacked
    entry = Entry(printed=49.5, printed_deviation=9.9, ours=Interval(estimate=1, low=0, high=2), seed_count=20)
    rows = {f"halfcheetah-medium-expert-v{number}": (entry,) * 6 for number in range(12)}
    (block,) = Comparison(columns=tuple("abcdef"), rows=rows).blocks
    assert block.stacked and block.heads == tuple("abcdef") and block.lines == rows


@pytest.mark.parametrize(("column_count", "row_count"), [(30, 30), (102, 12), (7, 7), (1, 1), (2, 40)])
def test_parts_of_a_table_are_all_of_it(column_count: int, row_count: int) -> None:
    whole = table(column_count, row_count)
    blocks = whole.blocks
    assert tuple(chain.from_iterable(block.heads for block in blocks)) == whole.heads
    for label, row in whole.lines.items():
        assert tuple(chain.from_iterable(block.lines[label] for block in blocks)) == row
    sizes = [len(block.heads) for block in blocks]
    assert max(sizes) - min(sizes) < len(sizes), "parts are of about one size"


def test_nothing_is_below_zero_that_is_shown_as_zero() -> None:
    shown = [number(value, 1) for value in (-0.04, 0.0, -0.06, -1234.5)]
    assert shown == ["0.0", "0.0", "\N{MINUS SIGN}0.1", "\N{MINUS SIGN}1,234.5"]
