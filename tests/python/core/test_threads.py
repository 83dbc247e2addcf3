"""Threads of our own: order, errors, what is dropped, and use within a signal handler."""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from types import FrameType

import pytest

from trajmill.core.threads import Threads


def test_results_are_those_of_the_calls() -> None:
    with Threads(3) as threads:
        tasks = [threads.submit(partial(pow, 2, power)) for power in range(50)]
        assert [task.result() for task in tasks] == [2**power for power in range(50)]


def test_leaving_the_block_waits_for_every_call() -> None:
    done: list[int] = []
    with Threads(1) as threads:
        for number in range(5):
            threads.submit(lambda number=number: (time.sleep(0.01), done.append(number)))
    assert done == list(range(5))


def test_what_a_call_raises_is_raised_where_its_result_is_asked_for() -> None:
    with Threads(2) as threads:
        bad = threads.submit(lambda: 1 / 0)
        assert threads.submit(lambda: 7).result() == 7
        with pytest.raises(ZeroDivisionError):
            bad.result()


def test_after_an_exception_the_calls_that_have_not_begun_are_dropped() -> None:
    begun, go, done = threading.Event(), threading.Event(), []
    with pytest.raises(KeyError), Threads(1) as threads:
        threads.submit(lambda: (begun.set(), go.wait(), done.append("under way")))
        threads.submit(lambda: done.append("not begun"))
        begun.wait()
        threading.Timer(0.05, go.set).start()
        raise KeyError
    assert done == ["under way"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
def test_a_signal_handler_uses_threads_wherever_it_interrupts_others() -> None:
    """With concurrent.futures this hangs within some seconds: its lock is held where the handler interrupts."""
    handled = 0

    def handler(_: int, __: FrameType | None) -> None:
        nonlocal handled
        with Threads(1) as threads:
            handled += threads.submit(lambda: 1).result()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        end, number = time.monotonic() + 1, 0
        while time.monotonic() < end:
            number += 1
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number * 37 % 500))
            with Threads(2) as threads:
                assert [threads.submit(partial(abs, -n)).result() for n in range(4)] == [0, 1, 2, 3]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled > 10
