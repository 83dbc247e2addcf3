"""Signals that wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_signals() -> Iterator[Callable[[], None]]:
    """Within the block no handler runs, so none raises; give a function that runs those of the signals that came.

    They run at the end of the block at the latest. Only the main thread runs handlers; in others this does nothing.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in signal.valid_signals() if main}
    handlers: dict[int, Callable[[int, None], object]] = {}
    handlers |= {number: handler for number, handler in before.items() if callable(handler)}

    def deliver() -> None:
        while received:
            number = received.pop(0)
            handlers[number](number, None)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield deliver
    finally:
        for number in handlers:
            signal.signal(number, before[signal.Signals(number)])
        deliver()
