"""How a dataset is refused or warned about: in one sentence that names the file, the fault and what to do.

Code that reads or writes a file names it once, ``with refusing(path):``; messages inside name keys and rows only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from trajmill.core.paths import AnyPath


class DatasetError(ValueError):
    """A data file or dataset is not fit for use; the message names the file, the key, the fault and what to do."""

    fault = ""  # the part of the message that says what is wrong


class DatasetWarning(UserWarning):
    """A data file has a known oddity that was repaired or that the user should know of."""


_subject = ContextVar("_subject", default="")


@contextmanager
def refusing(subject: AnyPath) -> Iterator[None]:
    """Let refusals and warnings in the block begin with `subject`: the path of a file, or a dataset's name."""
    before = _subject.set(f"{os.fspath(subject)}: ")
    try:
        yield
    finally:
        _subject.reset(before)


def refuse(fault: str, remedy: str) -> DatasetError:
    """The error to raise: what is wrong, then what to do."""
    error = DatasetError(f"{_subject.get()}{fault}; {remedy}")
    error.fault = fault
    return error


def where(mask: Any, rows: str = "rows") -> str:
    """Where a flaw is, if `mask` (N,) is true in the rows that have it: ``in 3 rows, first in row 17``."""
    return f"in {int(mask.sum())} {rows}, first in row {int(mask.argmax())}"


def warn_about(oddity: str) -> None:
    """Warn about something odd; the message says how it was dealt with."""
    warnings.warn(f"{_subject.get()}{oddity}", DatasetWarning, stacklevel=2)
