"""Tables of comparison: what is shown of a cell, and which way a wide table lies."""

from __future__ import annotations

from trajmill.report.comparison import Comparison, Entry


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
