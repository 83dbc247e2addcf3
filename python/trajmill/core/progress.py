"""How long-running work reports its progress, whoever shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the state of a named piece of work; called often, so it must be cheap."""

    def __call__(self, task: str, completed: int, total: int, unit: str) -> None:
        """Say that `completed` of `total` units (such as ``"tokens"`` or ``"updates"``) of `task` are done."""


def silent(task: str, completed: int, total: int, unit: str) -> None:
    """Progress that nobody watches."""


def duration(seconds: float) -> str:
    """Time for people: ``4.2 s``, ``48 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
