"""Elementary cellular automata, slowly: a row is a list of cells."""

from __future__ import annotations

from typing import Any

from law_twins import words_of
from trajmill.core.law import Domain
from trajmill.laws.cellular_automaton import CellularAutomaton


def row(law: CellularAutomaton, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    rules = list(range(256)) if law.rule == "all" else [law.rule] if isinstance(law.rule, int) else list(law.rule)
    if law.sequences_per_task is None:
        drawn = words_of(law.key(Domain.TASKS), index)
        high, low = next(drawn), next(drawn)
        task = (high * 2**32 + low) * len(rules) // 2**64
    else:
        task = index // law.sequences_per_task % len(rules)
    rule = rules[task]

    words = words_of(law.key(Domain.CELLS), index)
    cells: list[int] = []
    while len(cells) < law.cells:
        word = next(words)
        cells += [word >> bit & 1 for bit in range(32)]
    cells = cells[: law.cells]

    tokens: list[int] = []
    numbers: list[int] = []
    number, wait = 0, law.burn_in
    while len(tokens) < length:
        for _ in range(wait):
            around = [(cells[c - 1], cells[c], cells[(c + 1) % law.cells]) for c in range(law.cells)]
            cells = [rule >> (4 * left + 2 * cell + right) & 1 for left, cell, right in around]
            number += 1
        wait = law.stride
        first, width = law.window or (0, law.cells)
        shown = cells[first : first + width] + ([2] if law.row_separator else [])
        tokens += shown
        numbers += [number] * len(shown)
    return {"tokens": tokens[:length], "task": [task], "states": numbers[:length]}
