"""Errors of models of the dynamics, on systems and models whose errors are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmill.data import Normalizer, Transitions
from trajmill.evaluation.prediction import errors_ahead, errors_by_distance, histories, nearest_distances, open_loop

COUNT = 12
TERMINAL, TRUNCATED, CUT = 2, 5, 8
"""rows after which nothing follows, by a flag each, and by what is seen"""
BACK = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
"""rows before each that lead to it"""


def episodes() -> Transitions:
    """Four of three steps: s' = s + a in one dimension, and rows that follow each other but for the flags."""
    action = np.arange(1.0, COUNT + 1)[:, None]
    observation = np.cumsum(action, 0) - action
    following = observation + action
    observation[CUT + 1 :] += 100.0
    following[CUT + 1 :] += 100.0
    rows = np.arange(COUNT)
    return Transitions(
        observation=observation.astype(np.float32),
        action=action.astype(np.float32),
        reward=np.zeros(COUNT, np.float32),
        next_observation=following.astype(np.float32),
        terminal=rows == TERMINAL,
        truncated=rows == TRUNCATED,
    )


def drifting(observation: NDArray[np.float32], action: NDArray[np.float32], draw: int = 0) -> NDArray[np.float32]:
    """One too much at every step."""
    return observation + action + np.float32(1.0)


def test_rows_follow_each_other_up_to_a_terminal_a_limit_and_a_cut() -> None:
    assert histories(episodes(), 4).tolist() == BACK
    assert histories(episodes(), 1).tolist() == [min(back, 1) for back in BACK]
    assert histories(episodes(), 0).tolist() == [0] * COUNT


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_open_loop_drifts_with_every_step_that_there_is(steps: int) -> None:
    """Through the recorded actions, from the state so many rows before."""
    rows = episodes()
    before = rows.observation.copy()
    found = open_loop(drifting, rows, steps)
    made = np.minimum(np.array(BACK), steps - 1) + 1
    assert np.array_equal(found[:, 0] - rows.next_observation[:, 0], made)
    assert np.array_equal(rows.observation, before), "real rows are not altered"


def test_every_step_has_a_draw_of_its_own() -> None:
    draws = []

    def noisy(observation: NDArray[np.float32], action: NDArray[np.float32], draw: int = 0) -> NDArray[np.float32]:
        draws.append(draw)
        return observation

    open_loop(noisy, episodes(), 3)
    assert draws == [2, 1, 0]


def test_errors_ahead_are_those_of_rows_with_enough_history() -> None:
    """In units of the standardization, here 2: the drift of k steps squared over 4."""
    rows, scale = episodes(), Normalizer(mean=np.zeros(1, np.float32), scale=np.full(1, 2, np.float32), epsilon=1e-3)
    found = errors_ahead(drifting, rows, scale, np.ones(COUNT, np.bool_), 4)
    assert [each.steps for each in found] == [1, 2, 3, 4]
    assert [each.row_count for each in found] == [12, 8, 4, 0]
    assert [each.error for each in found[:3]] == pytest.approx([1 / 4, 4 / 4, 9 / 4])
    assert np.isnan(found[3].error)
    last = [TERMINAL, TRUNCATED, CUT, COUNT - 1]
    moved = [sum(range(row - 1, row + 2)) for row in last]
    assert found[2].identity_error == pytest.approx(np.mean(np.square(moved)) / 4)
    chosen = np.arange(COUNT) < 3
    assert [each.row_count for each in errors_ahead(drifting, rows, scale, chosen, 3)] == [3, 2, 1]


def test_distances_are_those_to_the_nearest_of_all_rows() -> None:
    """More rows than one block has, against every difference written out."""
    random = np.random.default_rng(0)
    points, data = (random.normal(size=(count, 3)).astype(np.float32) for count in (1100, 2100))
    found = nearest_distances(points, data)
    some = [0, 500, 1023, 1024, 1099]
    expected = [np.linalg.norm(data.astype(np.float64) - points[row], axis=1).min() for row in some]
    assert found[some] == pytest.approx(expected, rel=1e-6)
    assert nearest_distances(data[:5], data) == pytest.approx(np.zeros(5), abs=1e-6)


def test_groups_go_from_the_nearest_to_the_farthest() -> None:
    """A model that is right near the data and off by its distance elsewhere."""
    rows = replace(episodes(), action=np.zeros((COUNT, 1), np.float32))
    rows = replace(rows, observation=np.arange(COUNT, dtype=np.float32)[:, None][::-1].copy())
    rows = replace(rows, next_observation=rows.observation + 1)
    data = replace(rows, observation=np.zeros_like(rows.observation))
    scale = Normalizer(mean=np.zeros(1, np.float32), scale=np.ones(1, np.float32), epsilon=1e-3)
    found = errors_by_distance(lambda s, a, draw=0: 2 * s + 1, rows, scale, data, 3)
    assert [(each.nearest, each.farthest) for each in found] == [(0, 3), (4, 7), (8, 11)]
    assert [each.error for each in found] == pytest.approx([3.5, 31.5, 91.5])
    assert [each.identity_error for each in found] == pytest.approx([1.0] * 3)
    assert sum(each.row_count for each in found) == COUNT
