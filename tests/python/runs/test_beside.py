"""Scoring beside the training: the same numbers, in the same order, whatever is slow, and errors with words."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import ACTING, each, lines, tiny, train

from trajmill.runs.beside import Beside
from trajmill.runs.processes import ProcessError
from trajmill.runs.signals import STOPPING
from trajmill.training.device import ComputeConfig


@pytest.mark.parametrize("method", each(ACTING))
def test_scores_beside_the_training_are_those_in_place(method: str, tmp_path: Path) -> None:
    config = tiny(method)
    found = []
    for place in ("in_place", "beside"):
        run = train(replace(config, compute=ComputeConfig(device="cpu", evaluation=place)), tmp_path / place)
        found.append([(line["phase"], line["update"], line["metrics"]) for line in lines(run)])
    assert found[0] == found[1]
    assert any(phase == "evaluation" for phase, _, _ in found[0])


def slow_square(number: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    if number == 13:
        raise ValueError("thirteen")
    if number == 14:
        os._exit(3)
    return number**2


def test_results_come_in_order_and_updates_go_on_meanwhile() -> None:
    with Beside(slow_square) as beside:
        slow, fast = beside.give(2, 0.3), beside.give(3)
        assert not slow.is_done()
        assert fast.result() == 9
        assert slow.is_done()
        assert slow.result() == 4


@pytest.mark.parametrize(("number", "words"), [(13, "ValueError: thirteen"), (14, "exit code 3")])
def test_what_goes_wrong_there_is_said_here(number: int, words: str) -> None:
    with Beside(slow_square) as beside, pytest.raises(ProcessError, match=words):
        beside.give(number).result()


def test_signals_that_reach_all_processes_of_a_run_do_not_end_this_one() -> None:
    """A closed terminal, `timeout` and batch systems send them to all; the run's checkpoint waits for the scores.

    The first ones come before the process has done anything, while it still starts.
    """
    with Beside(slow_square) as beside:
        for number in (2, 3):
            task = beside.give(number)
            process: Any = beside._process
            for each in STOPPING:
                os.kill(process.pid, each)
            assert task.result() == number**2


def test_the_process_ends_with_the_block() -> None:
    with Beside(slow_square) as beside:
        beside.give(1, 60.0)
        process: Any = beside._process
        assert process.is_alive()
    assert not process.is_alive()
