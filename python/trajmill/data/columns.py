"""The columns of a dataset and what each must be, whatever file they come from or go to.

Shapes, dtypes and sizes are checked first, which needs nothing to be read; then the numbers. Messages call a column by
its name here, or by its `key` where a file calls it otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trajmill.core import checks
from trajmill.data.environments import check_sizes
from trajmill.data.errors import refuse, warn_about
from trajmill.data.records import INFOS, Dataset, Steps

REQUIRED = ("observations", "actions", "rewards", "terminals")
MATRICES = ("observations", "actions", "next_observations")
VECTORS = ("rewards", "terminals", "timeouts")
FLAGS = ("terminals", "timeouts")

Columns = dict[str, NDArray[Any]]


class Column(Protocol):
    """An array, read or unread."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Length of each axis; None for an array without a place for data."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""


# --- before reading ---


class MemoryBudget:
    """Bytes that the arrays of a dataset may take: `limit`, or half of the machine's memory."""

    def __init__(self, limit: int | None) -> None:
        self.limit = checks.memory_limit() if limit is None else limit
        self.left = self.limit

    def take(self, arrays: Mapping[str, Column]) -> None:
        """Refuse arrays that declare more bytes than are left; a file of some hundred bytes can declare terabytes."""
        sizes = {
            key: 0 if array.shape is None else math.prod(array.shape) * array.dtype.itemsize
            for key, array in arrays.items()
        }
        self.left -= sum(sizes.values())
        if self.left < 0:
            largest = max(sizes, key=sizes.__getitem__)
            fault = (
                f"the arrays declare {self.limit - self.left:,} bytes, more than the memory budget of {self.limit:,}; "
                f"the largest is {largest!r} with shape {arrays[largest].shape}"
            )
            raise refuse(fault, "check that the file is genuine, or pass a larger memory_budget")


def is_column(name: str) -> bool:
    """True for the keys of which a step has one entry each."""
    return name in MATRICES + VECTORS or name.startswith(INFOS)


def check_keys(present: Iterable[str]) -> None:
    """Refuse a file without the four keys every step needs."""
    present = sorted(present)
    missing = [key for key in REQUIRED if key not in present]
    if missing:
        listed = ", ".join(map(repr, present[:20])) or "none"
        fault = f"key {missing[0]!r} is missing (present: {listed})"
        raise refuse(fault, f"all of {', '.join(REQUIRED)} are needed")


def check_columns(columns: Mapping[str, Column]) -> None:
    """Refuse wrong dimensions, unequal lengths, and anything but numbers."""
    shapes = {name: tuple(column.shape or ()) for name, column in columns.items()}
    for name, shape in shapes.items():
        check_shape(name, shape)
    row_count = shapes["observations"][0]
    for name, shape in shapes.items():
        if shape[0] != row_count:
            fault = f"key {name!r} has {shape[0]} rows where 'observations' has {row_count}"
            raise refuse(fault, "all keys need one row per step; write the file again")
    if row_count < 2:
        raise refuse(f"key 'observations' has {row_count} rows", "at least 2 steps are needed")
    observed, following = shapes["observations"], shapes.get("next_observations")
    if following not in (None, observed):
        fault = f"key 'next_observations' has shape {following}, 'observations' {observed}"
        raise refuse(fault, "both need the same shape")
    for name, column in columns.items():
        check_dtype(name, column.dtype)


def check_shape(name: str, shape: tuple[int, ...], key: str | None = None) -> None:
    """Refuse an array of the wrong number of dimensions or without columns."""
    fault = f"key {key or name!r} has shape {shape}"
    if name in MATRICES and (len(shape) != 2 or shape[1] == 0):
        raise refuse(fault, "it must be a matrix, one row per step")
    if name in VECTORS and len(shape) != 1 and not (len(shape) == 2 and shape[1] == 1):
        raise refuse(fault, "it must hold one number per step, shape (N,)")
    if not shape:
        raise refuse(f"key {key or name!r} is a single value", "it must have one row per step")


def check_dtype(name: str, dtype: np.dtype[Any], key: str | None = None) -> None:
    """Refuse strings, objects and complex numbers."""
    if dtype.kind not in ("biuf" if name in FLAGS else "iuf"):
        raise refuse(f"key {key or name!r} has dtype {dtype}, not numbers", "store it as float32 or bool")


def warn_about_casts(dtypes: Mapping[str, np.dtype[Any]]) -> None:
    """Warn of columns that are not stored as float32 and differ from it by more than the byte order."""
    floats = {name: dtype for name, dtype in dtypes.items() if name in MATRICES or name == "rewards"}
    cast = [f"{name} from {dtype}" for name, dtype in floats.items() if dtype.newbyteorder("=") != np.float32]
    if cast:
        warn_about(f"cast to float32: {', '.join(cast)}")


# --- what was read ---


def clean_column(name: str, values: NDArray[Any], key: str | None = None) -> NDArray[Any]:
    """Squeeze (N, 1), cast to what a dataset holds, and refuse numbers that are not finite or not flags."""
    if name in VECTORS and values.ndim == 2:
        if key is None:
            warn_about(f"key {name!r} has shape {values.shape}, read as ({len(values)},)")
        values = values[:, 0]
    if name in FLAGS:
        return _as_flags(key or name, values)
    if not name.startswith(INFOS):
        with np.errstate(over="ignore"):  # what overflows float32 is refused just below
            values = values.astype(np.float32, copy=False)
    elif values.dtype.byteorder not in "=|":
        values = values.astype(values.dtype.newbyteorder("="))
    check_finite(key or name, values)
    return values


def _as_flags(key: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Cast bool, integer or float flags to bool; refuse anything but 0 and 1."""
    odd = (values != 0) & (values != 1)
    if odd.any():
        row = int(odd.argmax())
        raise refuse(f"key {key!r} holds {values[row]} in row {row}", "flags must be 0 or 1")
    return values.astype(np.bool_, copy=False)


def check_finite(key: str, values: NDArray[Any]) -> None:
    """Refuse NaN and infinity, naming the first row and the number of rows."""
    if values.dtype.kind != "f":
        return
    bad_rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad_rows.any():
        first, count = int(bad_rows.argmax()), int(bad_rows.sum())
        fault = f"key {key!r} holds NaN or infinity in {count} rows, first in row {first}"
        raise refuse(fault, "the file is damaged or was written by a diverged run; copy or make it again")


def check_contents(dataset: Dataset) -> None:
    """Refuse the wrong sizes for the environment and steps that end every episode; warn of odd ranges."""
    check_sizes(dataset)
    if dataset.ordered and dataset.episode_ends.all():
        fault = f"every one of the {len(dataset)} rows ends an episode ('terminals' or 'timeouts')"
        raise refuse(fault, "episodes need more than one step; check the flags")
    outside = np.abs(dataset.actions) > 1.0
    if outside.any():
        row, count, share = int(outside.any(axis=1).argmax()), int(outside.sum()), float(outside.mean())
        oddity = f"{count} entries of 'actions' ({share:.1%}) lie outside [-1, 1], first in row {row}"
        warn_about(f"{oddity}; clip them before training (action_limit=1.0)")
    constant = np.flatnonzero((dataset.observations == dataset.observations[0]).all(axis=0))
    if len(constant):
        oddity = f"'observations' never change in {len(constant)} columns ({_ranges(constant)})"
        warn_about(f"{oddity}; a normalizer needs its epsilon there")


def _ranges(numbers: NDArray[np.int64]) -> str:
    """Ascending numbers as ``0-3, 7``."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


# --- what is to be written ---


def columns_to_write(steps: Steps, *, infos: Collection[str] | None = None, next_observations: bool = False) -> Columns:
    """Check and cast steps as a reader would; of their infos, only those named (None: all).

    `next_observations` says that the format cannot do without them.
    """
    wrong = (steps.keys() - {"infos", "metadata"}) ^ set(MATRICES + VECTORS)
    if wrong:
        needed = ", ".join(MATRICES + VECTORS)
        raise TypeError(f"steps are {needed}, and infos and metadata if any: check {', '.join(sorted(wrong))}")
    given: dict[str, Any] = {name: values for name, values in steps.items() if name in MATRICES + VECTORS}
    for name, values in (steps.get("infos") or {}).items():
        if infos is None or name in infos:
            given[INFOS + name] = values
    arrays = {name: np.asarray(values) for name, values in given.items() if values is not None}
    if next_observations and "next_observations" not in arrays:
        fault = "this format needs 'next_observations', which the data does not have"
        raise refuse(fault, "write D4RL's schema (.hdf5), or take single transitions")
    check_columns(arrays)
    columns = {name: clean_column(name, values) for name, values in arrays.items()}
    both = columns["terminals"] & columns["timeouts"]
    if both.any():
        fault = f"'terminals' and 'timeouts' are both set in {int(both.sum())} rows, first in row {int(both.argmax())}"
        raise refuse(fault, "a step that a limit cut is a timeout, else a terminal")
    return columns
