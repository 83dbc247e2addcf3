"""How long-running work reports its progress, whoever shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the state of a named piece of work; called often, so it must be cheap."""

    def __call__(self, task: str, completed: int, total: int, unit: str) -> None:
        """Say that `completed` of `total` units (such as ``"tokens"`` or ``"updates"``) of `task` are done."""


def silent(task: str, completed: int, total: int, unit: str) -> None:
    """Progress that nobody watches."""
