"""Cellular automata: rules that are known, what a sequence costs, and what is refused."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest
from law_twins import words_of

import trajmill as tm
from trajmill import _core
from trajmill.core.law import Domain


def grids(law: tm.CellularAutomaton, count: int, rows: int) -> np.ndarray:
    return law.sample(count, rows * law.cells).reshape(count, rows, law.cells)


@pytest.mark.parametrize("cells", [1, 2, 3, 31, 32, 63, 64, 65, 127, 128, 129, 200, 2**16])
def test_rules_of_one_line(cells: int) -> None:
    """Rule 90 is an exclusive or of both neighbours, 204 changes nothing, 170 and 240 shift, 51 inverts."""
    for rule, following in (
        (90, lambda x: np.roll(x, 1, 2) ^ np.roll(x, -1, 2)),
        (204, lambda x: x),
        (51, lambda x: 1 - x),
        (170, lambda x: np.roll(x, -1, 2)),
        (240, lambda x: np.roll(x, 1, 2)),
        (110, lambda x: (x | np.roll(x, -1, 2)) & ~(x & np.roll(x, 1, 2) & np.roll(x, -1, 2))),
        (30, lambda x: np.roll(x, 1, 2) ^ (x | np.roll(x, -1, 2))),
    ):
        rows = grids(tm.CellularAutomaton(rule=rule, cells=cells), 20 if cells < 1000 else 2, 6)
        np.testing.assert_array_equal(rows[:, 1:], following(rows[:, :-1]), err_msg=f"rule {rule}")


def test_traffic_keeps_its_cars() -> None:
    rows = grids(tm.CellularAutomaton(rule=184, cells=100), 50, 40)
    assert (rows.sum(2) == rows[:, :1].sum(2)).all()


def test_the_first_row_is_uniform() -> None:
    rows = grids(tm.CellularAutomaton(cells=130), 20_000, 1)[:, 0]
    error = np.abs(rows.mean(0) - 0.5)
    assert (error < 4.5 * 0.5 / np.sqrt(len(rows))).all()


def test_a_sequence_of_any_rule_costs_its_first_row_and_what_it_meets() -> None:
    """(W + distinct neighbourhoods met) ln 2."""
    law = tm.CellularAutomaton(cells=9)
    rows = grids(law, 100, 12)
    before = rows[:, :-1]
    around = 4 * np.roll(before, 1, 2) + 2 * before + np.roll(before, -1, 2)
    met = np.array([len(np.unique(row)) for row in around])
    losses = law.losses(rows.reshape(100, -1))
    np.testing.assert_allclose(losses.sum(1), (9 + met) * math.log(2))
    assert len(set(met)) > 2
    assert law.entropy_rate() == 0.0


def test_who_knows_the_rule_pays_for_the_first_row_alone() -> None:
    law = tm.CellularAutomaton(rule=(30, 90, 110), cells=17, stride=3, row_separator=True)
    rows = law.sample(60, 100, columns=("task",))
    losses = law.losses(rows["tokens"], rows["task"][:, 0])
    np.testing.assert_allclose(losses[:, :17], math.log(2))
    assert (losses[:, 17:] == 0).all()
    assert tm.CellularAutomaton(rule=30, cells=17).expected_loss(68) == pytest.approx(math.log(2) / 4)
    assert law.expected_loss(68) is None


def test_tasks_number_the_list_of_rules() -> None:
    turns = tm.CellularAutomaton(rule=(30, 90), sequences_per_task=3)
    np.testing.assert_array_equal(turns.sample(8, 1, columns=("task",))["task"][:, 0], [0, 0, 0, 1, 1, 1, 0, 0])
    far = turns.sample(2, 1, first_sequence=2**64 - 3, columns=("task",))["task"][:, 0]
    np.testing.assert_array_equal(far, [(2**64 - 3) // 3 % 2, (2**64 - 2) // 3 % 2])
    drawn = tm.CellularAutomaton().sample(50_000, 1, columns=("task",))["task"][:, 0]
    seen = np.bincount(drawn, minlength=256)
    assert len(seen) == 256
    assert (np.abs(seen - 50_000 / 256) < 4.5 * np.sqrt(50_000 / 256)).all()


def test_a_drawn_rule_takes_both_words() -> None:
    """Of 38,864,457 sequences the last is the first one whose rule the second word decides."""
    law = tm.CellularAutomaton(rule=tuple(range(255)), cells=1)
    high, low = islice(words_of(law.key(Domain.TASKS), 38_864_456), 2)
    assert (high * 255 // 2**32, (high * 2**32 + low) * 255 // 2**64) == (10, 11)
    assert law.sample(1, 1, first_sequence=38_864_456, columns=("task",))["task"] == 11


def test_a_window_is_what_it_shows_of_the_ring() -> None:
    settings: dict[str, Any] = {"rule": 30, "cells": 150, "burn_in": 4, "stride": 2}
    whole = tm.CellularAutomaton(**settings)
    numbers, rules = whole.core(1)
    for first, width in ((0, 150), (5, 64), (63, 65), (149, 1), (70, 80)):
        seen = np.zeros((9, 4 * width), np.uint8)
        row = np.zeros((9, 4 * width), np.uint32)
        kernel = _core.Law("cellular_automaton", numbers=[*numbers[:3], first, width, *numbers[5:]], tables=rules)
        kernel.fill(first_sequence=0, tokens=seen, states=row, threads=1)
        shown = whole.sample(9, 600).reshape(9, 4, 150)[:, :, first : first + width]
        np.testing.assert_array_equal(seen.reshape(9, 4, width), shown)
        np.testing.assert_array_equal(row[0].reshape(4, width)[:, 0], [4, 6, 8, 10])


@pytest.mark.parametrize("changes", [{"window": (0, 99)}, {"burn_in": 1}])
def test_where_no_row_decides_the_next_there_is_no_exact_law(changes: dict[str, Any]) -> None:
    law = tm.CellularAutomaton(**changes)
    with pytest.raises(NotImplementedError):
        law.losses(law.sample(1, 10))
    assert tm.CellularAutomaton(rule=30, **changes).expected_loss(10) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rule": 256}, "rule must be between 0 and 255, got 256"),
        ({"rule": -1}, "rule must be between 0 and 255"),
        ({"rule": "some"}, "rule must be one of 'all'"),
        ({"rule": ()}, "rule must be a list of 1 to 256 rules, got 0"),
        ({"rule": (1,) * 257}, "rule must be a list of 1 to 256 rules"),
        ({"rule": (1, 1.5)}, "rule must be an integer"),
        ({"cells": 0}, "cells must be between 1 and 65536"),
        ({"cells": 2**16 + 1}, "cells must be between 1 and 65536"),
        ({"window": (100, 1)}, "window's first cell must be between 0 and 99"),
        ({"window": (50, 51)}, "window's number of cells must be between 1 and 50"),
        ({"window": 3}, "window must be a pair"),
        ({"stride": 0}, "stride must be between 1 and 65536"),
        ({"burn_in": 2**16 + 1}, "burn_in must be between 0 and 65536"),
        ({"sequences_per_task": 0}, "sequences_per_task must be between 1 and"),
        ({"row_separator": 1}, "row_separator must be True or False"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        tm.CellularAutomaton(**changes)


def test_the_core_refuses_numbers_that_its_kernel_cannot_trust() -> None:
    numbers, rules = tm.CellularAutomaton().core(8)
    for at, value in [
        (2, 0),
        (2, 2**16 + 1),
        (3, 100),
        (3, 1),
        (4, 0),
        (4, 101),
        (5, 0),
        (5, 2**63),
        (6, 2**17),
        (7, 2),
    ]:
        with pytest.raises(ValueError, match="automaton"):
            wrong = [*numbers[:at], value, *numbers[at + 1 :]]
            _core.Law("cellular_automaton", numbers=wrong, tables=rules)
    for tables in ([], [np.zeros(0, np.uint32)], [np.zeros(257, np.uint32)], [np.array([256], np.uint32)]):
        with pytest.raises(ValueError, match=r"rule|table"):
            _core.Law("cellular_automaton", numbers=numbers, tables=tables)
