"""What a data file can be refused or remarked for, and the one sentence in which it is said."""

from __future__ import annotations

import warnings
from pathlib import Path


class DatasetError(ValueError):
    """A data file or data set is not fit for use; the message names the file, the key, the fault and what to do."""


class DatasetWarning(UserWarning):
    """A data file has a known oddity that was repaired or that the user should know of."""


def refuse(path: Path, fault: str, remedy: str) -> DatasetError:
    """Return the error for `path`: what is wrong, then what to do."""
    return DatasetError(f"{path}: {fault}; {remedy}")


def remark(path: Path, oddity: str) -> None:
    """Warn that the file at `path` has an oddity which was dealt with as the message says."""
    warnings.warn(f"{path}: {oddity}", DatasetWarning, stacklevel=2)
