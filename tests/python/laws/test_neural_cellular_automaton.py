"""Neural cellular automata: the network by floats, the first grid, tasks, masks, and what is refused."""

from __future__ import annotations

import math
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import pytest
from law_twins import neural_cellular_automaton as twin
from law_twins import words_of

import trajmill as tm
from trajmill import _core
from trajmill.core.law import Domain
from trajmill.laws.neural_cellular_automaton import start_weights


def grids(law: tm.NeuralCellularAutomaton, count: int, grid_count: int) -> np.ndarray:
    """Cells (count, grid_count, height, width) of a law with patches of one cell."""
    cells = law.height * law.width
    tokens = law.sample(count, grid_count * (cells + 2)).reshape(count, grid_count, cells + 2)
    return tokens[:, :, 1:-1].reshape(count, grid_count, law.height, law.width)


def test_steps_are_those_of_a_network_of_floats() -> None:
    """But for what rounding the hidden units decides: one cell in some hundreds."""
    law = tm.NeuralCellularAutomaton(patch=1, height=9, width=14, burn_in=0, colours=7)
    same = []
    for index, rows in enumerate(grids(law, 20, 4)):
        maps = [np.array(one, float) for one in twin.network(law.task_key(Domain.WEIGHTS), index, 7)]
        for before, after in pairwise(rows):
            shown = [np.roll(before, (-dy, -dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            features = sum(maps[0][place][colours] for place, colours in enumerate(shown))
            same.append((np.maximum(features @ maps[1], 0) @ maps[2]).argmax(2) == after)
    assert np.mean(same) > 0.99


def test_patches_are_cells_to_the_base_of_colours() -> None:
    """Of one network and one start, whatever the patch; the key of draws differs, so that the core is asked."""
    numbers, tables = tm.NeuralCellularAutomaton(patch=1, height=4, width=6, colours=5).core(1)
    rows = {}
    for patch in (1, 2):
        kernel = _core.Law("neural_cellular_automaton", numbers=[*numbers[:6], patch, *numbers[7:]], tables=tables)
        rows[patch] = np.zeros((30, 3 * (24 // patch**2 + 2)), np.uint32)
        kernel.fill(first_sequence=0, tokens=rows[patch], threads=1)
    cells = rows[1].reshape(30, 3, 26)[:, :, 1:-1].reshape(30, 3, 2, 2, 3, 2)
    patches = rows[2].reshape(30, 3, 8)
    expected = (cells * np.array([[1, 5], [25, 125]])[None, None, None, :, None, :]).sum((3, 5)).reshape(30, 3, 6)
    np.testing.assert_array_equal(patches[:, :, 1:-1], expected)
    assert (patches[:, :, 0] == 625).all()
    assert (patches[:, :, -1] == 626).all()


def test_grids_go_on_after_a_burn_in() -> None:
    numbers, tables = tm.NeuralCellularAutomaton(patch=1, height=4, width=6).core(1)
    rows = {}
    for burn_in in (0, 2):
        kernel = _core.Law("neural_cellular_automaton", numbers=[*numbers[:7], burn_in, *numbers[8:]], tables=tables)
        rows[burn_in] = np.zeros((10, 5 * 26), np.uint32)
        kernel.fill(first_sequence=0, tokens=rows[burn_in], threads=1)
    np.testing.assert_array_equal(rows[2][:, : 3 * 26], rows[0][:, 2 * 26 :])


def test_the_first_grid_is_drawn_by_a_softmax_of_normals() -> None:
    law = tm.NeuralCellularAutomaton(patch=1, height=16, width=16, burn_in=0, colours=2)
    share = grids(law, 4000, 1)[:, 0].mean((1, 2))  # of colour 1: a logistic function of a normal of deviation 2**0.5
    normal = np.random.default_rng(0).normal(size=(100_000, 2))
    exact = 1 / (1 + np.exp(normal[:, 0] - normal[:, 1]))
    assert share.mean() == pytest.approx(0.5, abs=4.5 * exact.std() / 4000**0.5)
    within = exact.var() + (exact * (1 - exact)).mean() / 256
    assert share.var() == pytest.approx(within, rel=0.08)


def test_start_weights_are_powers_of_e() -> None:
    sums = np.arange(1021)
    assert start_weights()[-1] == 2**24
    np.testing.assert_allclose(start_weights() / 2**24, np.exp((sums - 1020) / 21845**0.5), atol=2**-24)
    deviation = np.sqrt(4 * (256**2 - 1) / 12)
    assert deviation == pytest.approx(21845**0.5)


def test_a_task_is_one_network() -> None:
    """The first two steps of a start decide the tasks' equality: sequences of one task have equal networks."""
    shared = tm.NeuralCellularAutomaton(sequences_per_task=3)
    tasks = shared.sample(7, 1, columns=("task",))["task"][:, 0]
    np.testing.assert_array_equal(tasks, [0, 0, 0, 1, 1, 1, 2])
    later = tm.NeuralCellularAutomaton(sequences_per_task=3, first_task=1)
    for law, index, task in ((shared, 4, 1), (later, 1, 1), (later, 4, 2)):
        row = twin.row(law, index, 80)["tokens"]
        np.testing.assert_array_equal(law.sample(1, 80, first_sequence=index)[0], row)
        assert twin.network(law.task_key(Domain.WEIGHTS), task, 10) is not None
    assert shared.task_key(Domain.WEIGHTS) == later.task_key(Domain.WEIGHTS)
    drawn = tm.NeuralCellularAutomaton(task_count=5, height=2, width=2, burn_in=0)
    seen = np.bincount(drawn.sample(10_000, 1, columns=("task",))["task"][:, 0], minlength=5)
    assert len(seen) == 5
    assert (np.abs(seen - 2000) < 4.5 * np.sqrt(1600)).all()


def test_a_drawn_task_takes_both_words() -> None:
    law = tm.NeuralCellularAutomaton(task_count=2**32 - 5, height=2, width=2)
    drawn = [tuple(islice(words_of(law.key(Domain.TASKS), index), 2)) for index in range(50)]
    exact = [(high * 2**32 + low) * (2**32 - 5) // 2**64 for high, low in drawn]
    assert exact != [high * (2**32 - 5) // 2**32 for high, _ in drawn]
    assert law.sample(50, 1, columns=("task",))["task"][:, 0].tolist() == exact


def test_marks_and_the_first_grid_are_no_targets() -> None:
    law = tm.NeuralCellularAutomaton.lee2026()
    mask = law.sample(3, 38 * 3 + 5, columns=("loss_mask",))["loss_mask"]
    grid = [0] + [1] * 36 + [0]
    assert mask.tolist() == [[0] * 38 + grid * 2 + grid[:5]] * 3
    assert law.vocabulary_size == 10_002


def test_what_a_network_does_has_no_short_form() -> None:
    law = tm.NeuralCellularAutomaton()
    with pytest.raises(NotImplementedError, match="no short form"):
        law.losses(law.sample(1, 10))
    assert law.expected_loss(10) is None
    assert law.entropy_rate() is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colours": 1}, "colours must be between 2 and 16"),
        ({"colours": 17}, "colours must be between 2 and 16"),
        ({"height": 0}, "height must be between 1 and 256"),
        ({"width": 257}, "width must be between 1 and 256"),
        ({"width": 13}, "height and width must be multiples of patch 2, got 12 and 13"),
        ({"patch": 6}, "patch must be between 1 and 5"),
        ({"patch": 4}, r"at most 2\*\*32 - 2, got 10\*\*16"),
        ({"burn_in": -1}, "burn_in must be between 0 and 65536"),
        ({"sequences_per_task": 0}, "sequences_per_task must be between 1"),
        ({"task_count": 0}, "task_count must be between 1"),
        ({"task_count": 2, "sequences_per_task": 2}, "not both"),
        ({"first_task": 2**64}, "first_task must be between 0"),
        ({"complexity": 0.5}, "complexity must be a pair"),
        ({"complexity": (0.5,)}, "complexity must be a pair"),
        ({"complexity": (-0.1, 1)}, r"complexity must be in \[0, 4\], got -0.1"),
        ({"complexity": (0, math.nan)}, r"complexity must be in \[0, 4\]"),
        ({"complexity": (0.5, 0.4)}, r"complexity leaves no network: grids of 12 x 12 have none in \[0.5, 0.4\]"),
        ({"complexity": (3.5, 4)}, "complexity leaves no network"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        tm.NeuralCellularAutomaton(**changes)


def test_the_core_refuses_numbers_that_its_kernel_cannot_trust() -> None:
    numbers, tables = tm.NeuralCellularAutomaton().core(8)
    hostile = [(3, 1), (3, 17), (4, 0), (4, 257), (5, 13), (5, 2**40), (6, 0), (6, 4), (6, 12), (7, 2**17), (11, 1441)]
    for at, value in hostile:
        with pytest.raises(ValueError, match="neural automaton"):
            wrong = [*numbers[:at], value, *numbers[at + 1 :]]
            _core.Law("neural_cellular_automaton", numbers=wrong, tables=tables)
    for table in (tables[0][1:], np.zeros(1021, np.uint32), np.full(1021, 2**24 + 1, np.uint32)):
        with pytest.raises(ValueError, match="neural automaton"):
            _core.Law("neural_cellular_automaton", numbers=numbers, tables=[table])


def test_a_cell_is_the_first_colour_whose_sum_of_weights_exceeds_its_draw() -> None:
    """With weights of one every draw is at an edge."""
    numbers, _ = tm.NeuralCellularAutomaton(patch=1, height=5, width=8, burn_in=0, colours=7).core(1)
    kernel = _core.Law("neural_cellular_automaton", numbers=numbers, tables=[np.ones(1021, np.uint32)])
    tokens = np.zeros((1, 42), np.uint8)
    kernel.fill(first_sequence=3, tokens=tokens, threads=1)
    words = islice(words_of(numbers[0], 3), 16, 56)
    assert tokens[0, 1:41].tolist() == [word * 7 // 2**32 for word in words]


def test_phrases_are_those_of_lempel_and_ziv() -> None:
    assert twin.phrase_count([0, 1, 0, 0, 1, 1, 0, 1, 1]) == 6  # 0, 1, 00, 11, 01 and a 1 that is cut
    assert twin.phrase_count([]) == 0
    assert twin.phrase_count([7] * 10) == 4  # of 1, 2, 3 and 4


@pytest.mark.parametrize("complexity", [(0, 4), (0.3, 0.9), (0.25, 0.25), (1, 1.5)])
@pytest.mark.parametrize("colours", [2, 10])
def test_limits_of_phrases_are_those_of_complexity(complexity: tuple[float, float], colours: int) -> None:
    low, high = complexity
    cells = 10 * 6 * 8
    exact = [c * math.log2(c + 1) / (cells * math.log2(colours)) for c in range(cells + 1)]
    passing = [c for c, value in enumerate(exact) if low <= value <= high]
    if not passing:
        with pytest.raises(ValueError, match="complexity leaves no network"):
            tm.NeuralCellularAutomaton(height=6, width=8, colours=colours, complexity=complexity)
        return
    law = tm.NeuralCellularAutomaton(height=6, width=8, colours=colours, complexity=complexity)
    assert law.phrase_limits() == (passing[0], passing[-1])
    assert tm.NeuralCellularAutomaton(height=6, width=8, colours=colours).phrase_limits() == (0, cells)


def test_a_complexity_of_a_third_attempt_is_that_of_its_own_grids() -> None:
    """The network is the first that passes, whatever the sequence, the burn-in and the patch."""
    settings: dict[str, Any] = {"colours": 4, "height": 6, "width": 6, "complexity": (0.5, 0.7)}
    attempts = []
    for task in range(6):
        law = tm.NeuralCellularAutomaton(**settings, first_task=task, sequences_per_task=5)
        key = law.task_key(Domain.WEIGHTS)
        maps = twin.network_of(law, task)
        attempt = next(a for a in range(4096) if twin.network(key, task, 4, a) == maps)
        values = [
            twin.complexity(
                law, twin.network(key, task, 4, a), twin.first_grid(law, twin.words_of_task(key, task, a, 1))
            )
            for a in range(attempt + 1)
        ]
        assert [0.5 <= value <= 0.7 for value in values] == [False] * attempt + [True]
        for changes in ({}, {"burn_in": 0}, {"patch": 1, "burn_in": 3}):
            other = tm.NeuralCellularAutomaton(**settings | changes, first_task=task, sequences_per_task=5)
            np.testing.assert_array_equal(other.sample(1, 50, first_sequence=4)[0], twin.row(other, 4, 50)["tokens"])
            assert twin.network_of(other, task) == maps
        attempts.append(attempt)
    assert max(attempts) >= 2


def test_a_complexity_that_no_network_has_is_an_error_in_time() -> None:
    law = tm.NeuralCellularAutomaton(height=2, width=2, patch=1, colours=3, complexity=(1.35, 1.4))
    with pytest.raises(ValueError, match="no network of the wanted complexity was found for a task in 4096 attempts"):
        law.sample(100, 30, threads=2)


def test_limits_of_phrases_belong_to_the_range() -> None:
    """Rows of the same draws, whose network is the first attempt or another one."""
    law = tm.NeuralCellularAutomaton(height=6, width=6, patch=1, colours=3, burn_in=0)
    numbers, tables = law.core(1)
    key = law.task_key(Domain.WEIGHTS)
    grid = twin.first_grid(law, twin.words_of_task(key, 0, 0, 1))
    cells: list[int] = []
    for _ in range(10):
        cells += chain(*grid)
        grid = twin.step(grid, twin.network(key, 0, 3))
    count = twin.phrase_count(cells)

    def row(fewest: int, most: int) -> list[int]:
        kernel = _core.Law("neural_cellular_automaton", numbers=[*numbers[:-2], fewest, most], tables=tables)
        tokens = np.zeros((1, 5 * 38), np.uint8)
        kernel.fill(first_sequence=0, tokens=tokens, threads=1)
        return list(tokens[0])

    whole = row(0, 360)
    assert row(count, count) == row(count, 360) == row(0, count) == whole
    assert row(count + 1, 360) != whole
    assert row(0, count - 1) != whole
