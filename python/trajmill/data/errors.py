"""How a dataset is refused or warned about: in one sentence that names the file, the fault and what to do.

Who reads or writes a file says once which one it is, ``with refusing(path):``; the functions inside speak of keys and
rows only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path


class DatasetError(ValueError):
    """A data file or dataset is not fit for use; the message names the file, the key, the fault and what to do."""


class DatasetWarning(UserWarning):
    """A data file has a known oddity that was repaired or that the user should know of."""


_subject = ContextVar("_subject", default="")


@contextmanager
def refusing(subject: Path | str) -> Iterator[None]:
    """Let refusals and warnings in the block begin with `subject`: the path of a file, or a dataset's name."""
    before = _subject.set(f"{subject}: ")
    try:
        yield
    finally:
        _subject.reset(before)


def about_it(text: str) -> str:
    """`text`, after the name of what `refusing` is about."""
    return _subject.get() + text


def refuse(fault: str, remedy: str) -> DatasetError:
    """The error to raise: what is wrong, then what to do."""
    return DatasetError(about_it(f"{fault}; {remedy}"))


def warn_about(oddity: str) -> None:
    """Warn of an oddity, which was dealt with as the message says."""
    warnings.warn(about_it(oddity), DatasetWarning, stacklevel=2)
