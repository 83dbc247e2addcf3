"""Ending a run in order: SIGINT, SIGTERM and SIGHUP take effect once a checkpoint can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""signals that end a run in order"""


class Interrupted(KeyboardInterrupt):
    """A signal ended a run; the message says where it stands and how to continue."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number
        """number of the signal"""

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int]]:
        """Sent from one process to another."""
        return type(self), (str(self), self.signal)


class _Note:
    """A handler that notes which signals came."""

    def __init__(self) -> None:
        self._received: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in self._received:
            raise KeyboardInterrupt
        self._received.append(number)

    def first(self) -> int | None:
        """The number of the first one."""
        return self._received[0] if self._received else None


@contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Within the block, give a function that returns the number of the signal that came, if one did.

    A second SIGINT interrupts at once, as it does without this. A block within another one knows of the same signals,
    so that a run in which another one is made ends too. Only the main thread receives signals; in any other this does
    nothing.
    """
    note, outer = _Note(), signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield note.first
        return
    if isinstance(outer, _Note):
        yield outer.first
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup: a terminal that is lost ends nothing
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, note)
    try:
        yield note.first
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
