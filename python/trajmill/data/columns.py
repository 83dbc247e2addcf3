"""The columns of a dataset and what each must be, whatever file they come from or go to.

Shapes, dtypes and sizes are checked before an array is read: anything with a ``shape`` and a ``dtype`` can be checked.
The numbers are checked afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.core import checks
from trajmill.data.actions import bounds_of, recorded_limit
from trajmill.data.environments import D4RL_TASKS, TASKS, action_limit_of, check_sizes, find_environment
from trajmill.data.errors import DatasetError, refuse, warn_about, where
from trajmill.data.records import COLUMNS, INFOS, METADATA, Columns, Dataset, Steps

REQUIRED = ("observations", "actions", "rewards", "terminals")
MATRICES = ("observations", "actions", "next_observations")
FLAGS = ("terminals", "timeouts", "terminations", "truncations")  # D4RL's names and Gymnasium's
VECTORS = ("rewards", *FLAGS)
MOST_CATEGORIES = 256  # discrete actions
LARGEST_CHUNK = 2**28  # bytes that one chunk may take whatever the budget


class MemoryBudget:
    """Bytes that the arrays of a dataset may take: `limit`, or half of the machine's memory."""

    def __init__(self, limit: int | None) -> None:
        self.limit = self.left = checks.memory_limit(limit)

    def take(self, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays that declare more bytes than are left; a file of some hundred bytes can declare terabytes."""
        sizes = {key: math.prod(array.shape or ()) * array.dtype.itemsize for key, array in arrays.items()}
        left = self.left - sum(sizes.values())
        if left < 0:
            declared, largest = self.limit - left, max(sizes, key=sizes.__getitem__)
            fault = f"the arrays declare {declared:,} bytes, more than the memory budget of {self.limit:,};"
            fault += f" the largest is {largest!r} with shape {arrays[largest].shape}"
            raise refuse(fault, "check that the file is genuine, or pass a larger memory_budget")
        for key, array in arrays.items():
            chunks = getattr(array, "chunks", None)
            if chunks and math.prod(chunks) * array.dtype.itemsize > max(left, LARGEST_CHUNK):
                fault = f"key {key!r} with shape {array.shape} is stored in chunks of {chunks}"
                raise refuse(fault, "one chunk is larger than the memory budget; store it in smaller ones")
        self.left = left


def check_columns(
    arrays: Mapping[str, Any], required: tuple[str, ...] = REQUIRED, *, warn: bool = True
) -> dict[str, Any]:
    """Select the arrays that are columns of steps, and refuse what they may not be.

    `warn` is for readers: about casts to float32, columns with other names, which are not read, and infos that cannot
    be read, which are left out. Without it such infos are refused.
    """
    for key in required:
        if key not in arrays:
            listed = ", ".join(map(repr, sorted(arrays)[:20])) or "none"
            raise refuse(f"key {key!r} is missing (present: {listed})", f"all of {', '.join(required)} are needed")
    columns = {name: array for name, array in arrays.items() if name in COLUMNS}
    for name, column in columns.items():
        check_array(name, column)
    row_count = columns["observations"].shape[0]
    for name, column in columns.items():
        check_row_count(name, column, row_count)
    with leaving_out(warn) as tried:
        for name in filter(lambda name: name.startswith(INFOS), arrays):
            with tried(name):
                check_array(name, arrays[name])
                check_row_count(name, arrays[name], row_count)
                columns[name] = arrays[name]
    others = [name for name in arrays if name not in COLUMNS and not name.startswith((INFOS, METADATA))]
    if warn and others:
        listed = ", ".join(map(repr, sorted(others)[:20]))
        warn_about(f"keys that no dataset has are not read: {listed}; those under 'infos/' are kept")
    shapes = {name: tuple(column.shape) for name, column in columns.items()}
    if row_count < 2:
        raise refuse(f"key 'observations' has {row_count} rows", "at least 2 steps are needed")
    shape = shapes.get("next_observations", shapes["observations"])
    if shape != shapes["observations"]:
        fault = f"key 'next_observations' has shape {shape}, 'observations' {shapes['observations']}"
        raise refuse(fault, "both need the same shape")
    if warn:
        warn_about_casts(columns)
    return columns


def check_row_count(name: str, array: Any, row_count: int) -> None:
    """Refuse a column that is not of `row_count` rows."""
    if array.shape[0] != row_count:
        fault = f"key {name!r} has {array.shape[0]} rows where 'observations' has {row_count}"
        raise refuse(fault, "all keys need one row per step; write the file again")


@contextmanager
def leaving_out(lenient: bool = True) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """A context for each of several infos in which a refusal leaves it out; one warning names all in the end.

    Nothing needs infos but what asks for them by name, so they do not decide whether a file can be read. Not `lenient`
    refusals are raised.
    """
    faults: dict[str, str] = {}

    @contextmanager
    def tried(name: str) -> Iterator[None]:
        try:
            yield
        except DatasetError as error:
            if not lenient:
                raise
            faults[name] = error.fault

    yield tried
    if faults:
        warn_about(f"{len(faults)} keys are left out: {'; '.join(faults.values())}")


def check_array(name: str, array: Any) -> None:
    """Refuse an array of the wrong number of dimensions or without columns; strings, objects and complex numbers."""
    shape, dtype = tuple(array.shape or ()), array.dtype
    numbered = name == "actions" and len(shape) == 1 and dtype.kind in "iu"  # discrete actions, by number
    if name in MATRICES and not numbered and (len(shape) != 2 or shape[1] == 0):
        remedy = "it must be a matrix, one row per step"
        if len(shape) > 2 and name != "actions":
            remedy += "; encode images into vectors first, and store those"
        elif name != "actions" and len(shape) == 1:
            remedy += "; encode the number of a state as a vector, such as one-hot, and store those"
        raise refuse(f"key {name!r} has shape {shape}", remedy)
    if name in VECTORS and len(shape) != 1 and not (len(shape) == 2 and shape[1] == 1):
        raise refuse(f"key {name!r} has shape {shape}", "it must hold one number per step, shape (N,)")
    if not shape:
        raise refuse(f"key {name!r} is a single value", "it must have one row per step")
    if dtype.kind not in ("biuf" if name in FLAGS or name.startswith(INFOS) else "iuf"):
        raise refuse(f"key {name!r} has dtype {dtype}, not numbers", "store it as float32 or bool")


def warn_about_casts(columns: Mapping[str, Any]) -> None:
    """Warn about columns that are not stored as float32, in whatever byte order."""
    floats = {name: column.dtype for name, column in columns.items() if name in MATRICES or name == "rewards"}
    cast = [f"{name} from {dtype}" for name, dtype in floats.items() if dtype.newbyteorder("=") != np.float32]
    if cast:
        warn_about(f"cast to float32: {', '.join(cast)}")


def clean_column(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Squeeze (N, 1), give numbered actions a column, cast, and refuse numbers that are not finite or not flags.

    Infos keep their dtype and whatever numbers they hold.
    """
    if name in VECTORS and values.ndim == 2:
        warn_about(f"key {name!r} has shape {values.shape}, read as ({len(values)},)")
        values = values[:, 0]
    if name == "actions" and values.ndim == 1:
        values = values[:, None]
    if name in FLAGS:
        odd = (values != 0) & (values != 1)
        if odd.any():
            row = int(odd.argmax())
            raise refuse(f"key {name!r} holds {values[row]} in row {row}", "flags must be 0 or 1")
        return values.astype(np.bool_, copy=False)
    if not name.startswith(INFOS):
        with np.errstate(over="ignore"):  # what overflows float32 is refused just below
            values = values.astype(np.float32, copy=False)
    else:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    check_finite(name, values)
    return values


def check_finite(key: str, values: NDArray[Any]) -> None:
    """Refuse NaN and infinity, naming the first row and the number of rows."""
    if values.dtype.kind != "f":
        return
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        fault = f"key {key!r} holds NaN or infinity {where(bad)}"
        raise refuse(fault, "the file is damaged or was written by a diverged run; copy or make it again")


def count_categories(actions: NDArray[Any]) -> int:
    """How many discrete actions there are in (N, A) numbers; 0 if actions are vectors.

    Discrete is one column of at least two different whole numbers from 0 to 255.
    """
    if actions.shape[1] != 1 or actions.min() < 0 or not 0 < actions.max() < MOST_CATEGORIES:
        return 0
    return int(actions.max()) + 1 if (actions == np.floor(actions)).all() else 0


def check_contents(dataset: Dataset) -> None:
    """Refuse the wrong sizes for the environment, and episodes of one step each; warn about odd ranges."""
    name, _, version = (find_environment(dataset) or "").lower().partition("-v")
    if name in D4RL_TASKS and version in ("2", "3", "4"):
        remedy = "the file's name or its attribute 'environment' names another environment"
        check_sizes(dataset, D4RL_TASKS[name], remedy)
    if dataset.ordered and dataset.episode_ends.all():
        fault = f"every one of the {len(dataset)} rows ends an episode ('terminals' or 'timeouts')"
        raise refuse(fault, "episodes need more than one step; check the flags")
    environment, recorded = find_environment(dataset), dataset.metadata.get("action_limit")
    try:
        low, high = bounds_of(recorded_limit(recorded))
        np.broadcast_to(low, dataset.actions.shape)
    except (TypeError, ValueError, IndexError):  # none, or one that somebody else means otherwise
        low, high = bounds_of(action_limit_of(environment))
    outside = (dataset.actions < low) | (dataset.actions > high)
    if outside.any() and not count_categories(dataset.actions):
        row, count, share = int(outside.any(axis=1).argmax()), int(outside.sum()), float(outside.mean())
        limits = f"[{low:g}, {high:g}]" if low.ndim == 0 else f"the limits {low.tolist()} to {high.tolist()}"
        oddity = f"{count} entries of 'actions' ({share:.1%}) lie outside {limits}, first in row {row}"
        remedy = "clip them before training" + (f" (action_limit={high:.1f})" if low.ndim == 0 else "")
        if environment is not None and recorded is None and environment.lower().partition("-v")[0] not in TASKS:
            remedy = f"which is right if {environment} takes such actions; else {remedy}"
        warn_about(f"{oddity}; {remedy}")
    constant = np.flatnonzero((dataset.observations == dataset.observations[0]).all(axis=0))
    if len(constant):
        runs = np.split(constant, np.flatnonzero(np.diff(constant) != 1) + 1)
        listed = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
        oddity = f"'observations' never change in {len(constant)} columns ({listed})"
        warn_about(f"{oddity}; a normalizer needs its epsilon there")


def columns_to_write(steps: Steps, *, infos: Collection[str] | None = None, next_observations: bool = False) -> Columns:
    """Check and cast steps as a reader would, with the named infos only (None: all).

    Steps without next observations are refused if the format needs `next_observations`.
    """
    wrong = (steps.keys() - {"infos", "metadata"}) ^ set(COLUMNS)
    if wrong:
        needed = ", ".join(COLUMNS)
        raise TypeError(f"steps are {needed}, and infos and metadata if any: check {', '.join(sorted(wrong))}")
    given: dict[str, Any] = {name: values for name, values in steps.items() if name in COLUMNS}
    if given["next_observations"] is None:
        if next_observations:
            fault = "this format needs 'next_observations', which the data does not have"
            raise refuse(fault, "write D4RL's schema (.hdf5), or take single transitions")
        del given["next_observations"]
    for name, values in (steps.get("infos") or {}).items():
        if {"", ".", ".."} & set(name.split("/")):
            raise refuse(f"the info {name!r} has a name that no file can hold", "give it another")
        if infos is None or name in infos:
            given[INFOS + name] = values
    for name, values in given.items():
        if np.ma.is_masked(values):
            raise refuse(f"key {name!r} has masked values, which cannot be kept", "fill them first")
    arrays = check_columns({name: np.asarray(values) for name, values in given.items()}, warn=False)
    columns = {name: clean_column(name, values) for name, values in arrays.items()}
    both = columns["terminals"] & columns["timeouts"]
    if both.any():
        fault = f"'terminals' and 'timeouts' are both set {where(both)}"
        raise refuse(fault, "if a limit cut the episode there, set 'timeouts' only")
    return columns
