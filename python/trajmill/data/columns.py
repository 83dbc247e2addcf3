"""The columns of a data set and what each must be, whatever file they come from or go to.

The checks look at shapes and dtypes first, so that they can run before anything is read, then at the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmill.data.environments import check_sizes
from trajmill.data.errors import refuse, remark
from trajmill.data.records import BoolArray, Dataset

REQUIRED = ("observations", "actions", "rewards", "terminals")
MATRICES = ("observations", "actions", "next_observations")
VECTORS = ("rewards", "terminals", "timeouts")
FLAGS = ("terminals", "timeouts")
INFOS = "infos/"


class Column(Protocol):
    """An array, read or unread."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""


def is_column(name: str) -> bool:
    """True for the keys of which a step has one entry each."""
    return name in MATRICES + VECTORS or name.startswith(INFOS)


def check_keys(path: Path, present: Iterable[str]) -> None:
    """Refuse a file without the four keys every step needs."""
    present = sorted(present)
    missing = [key for key in REQUIRED if key not in present]
    if missing:
        listed = ", ".join(map(repr, present[:20])) or "none"
        raise refuse(
            path, f"key {missing[0]!r} is missing (present: {listed})", f"all of {', '.join(REQUIRED)} are needed"
        )


def check_shapes(path: Path, columns: Mapping[str, Column]) -> int:
    """Check dimensions and equal lengths; return the number of rows."""
    shapes = {name: tuple(column.shape or ()) for name, column in columns.items()}
    for name, shape in shapes.items():
        _check_shape(path, name, shape)
    row_count = int(shapes["observations"][0])
    for name, shape in shapes.items():
        if shape[0] != row_count:
            fault = f"key {name!r} has {shape[0]} rows where 'observations' has {row_count}"
            raise refuse(path, fault, "all keys need one row per step; write the file again")
    if row_count < 2:
        raise refuse(path, f"key 'observations' has {row_count} rows", "at least 2 steps are needed")
    if shapes.get("next_observations", shapes["observations"]) != shapes["observations"]:
        fault = (
            f"key 'next_observations' has shape {shapes['next_observations']}, 'observations' {shapes['observations']}"
        )
        raise refuse(path, fault, "both need the same shape")
    return row_count


def _check_shape(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """Refuse an array of the wrong number of dimensions or without columns."""
    if name in MATRICES and (len(shape) != 2 or shape[1] == 0):
        raise refuse(path, f"key {name!r} has shape {shape}", "it must be a matrix, one row per step")
    if name in VECTORS and len(shape) != 1 and not (len(shape) == 2 and shape[1] == 1):
        raise refuse(path, f"key {name!r} has shape {shape}", "it must hold one number per step, shape (N,)")
    if not shape:
        raise refuse(path, f"key {name!r} is a single value", "it must have one row per step")


def check_dtypes(path: Path, columns: Mapping[str, Column], *, silent: bool = False) -> None:
    """Refuse strings, objects, complex numbers; remark on casts that change more than the byte order."""
    for name, column in columns.items():
        check_dtype(path, name, column.dtype, name)
    if not silent:
        remark_casts(path, {name: column.dtype for name, column in columns.items()})


def check_dtype(path: Path, name: str, dtype: np.dtype[Any], key: str) -> None:
    """Refuse a dtype that is not numbers; `key` is what the file calls the column `name`."""
    if dtype.kind not in ("biuf" if name in FLAGS else "iuf"):
        raise refuse(path, f"key {key!r} has dtype {dtype}, not numbers", "store it as float32 or bool")


def remark_casts(path: Path, dtypes: Mapping[str, np.dtype[Any]]) -> None:
    """Remark on columns that are not stored as float32."""
    floats = {name: dtype for name, dtype in dtypes.items() if name in MATRICES or name == "rewards"}
    cast = [f"{name} from {dtype}" for name, dtype in floats.items() if dtype.newbyteorder("=") != np.float32]
    if cast:
        remark(path, f"cast to float32: {', '.join(cast)}")


def clean_column(path: Path, name: str, values: NDArray[Any], key: str | None = None) -> NDArray[Any]:
    """Squeeze (N, 1), cast to what a data set holds, and refuse numbers that are not finite or not flags.

    `key` is what the file calls the column, if not `name`.
    """
    if name in VECTORS and values.ndim == 2:
        if key is None:
            remark(path, f"key {name!r} has shape {values.shape}, read as ({len(values)},)")
        values = values[:, 0]
    if name in FLAGS:
        return as_flags(path, key or name, values)
    if not name.startswith(INFOS):
        with np.errstate(over="ignore"):  # what overflows float32 is refused just below
            values = values.astype(np.float32, copy=False)
    elif values.dtype.byteorder not in "=|":
        values = values.astype(values.dtype.newbyteorder("="))
    check_finite(path, key or name, values)
    return values


def as_flags(path: Path, name: str, values: NDArray[Any]) -> BoolArray:
    """Cast bool, integer or float flags to bool; refuse anything but 0 and 1."""
    odd = (values != 0) & (values != 1)
    if odd.any():
        row = int(odd.argmax())
        raise refuse(path, f"key {name!r} holds {values[row]} in row {row}", "flags must be 0 or 1")
    flags: BoolArray = values.astype(np.bool_, copy=False)
    return flags


def check_finite(path: Path, name: str, values: NDArray[Any]) -> None:
    """Refuse NaN and infinity, naming the first row and the number of rows."""
    if values.dtype.kind != "f":
        return
    bad_rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad_rows.any():
        first, count = int(bad_rows.argmax()), int(bad_rows.sum())
        fault = f"key {name!r} holds NaN or infinity in {count} rows, first in row {first}"
        raise refuse(path, fault, "the file is damaged or was written by a diverged run; copy or make it again")


def columns_to_write(
    path: Path,
    *,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminals: ArrayLike,
    timeouts: ArrayLike,
    next_observations: ArrayLike | None,
    infos: Mapping[str, ArrayLike] | None,
) -> dict[str, NDArray[Any]]:
    """Check and cast what is to be written to `path`, as a reader would; map keys to arrays."""
    given = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminals": terminals,
        "timeouts": timeouts,
        **({} if next_observations is None else {"next_observations": next_observations}),
        **{f"{INFOS}{name}": values for name, values in (infos or {}).items()},
    }
    arrays = {name: np.asarray(values) for name, values in given.items()}
    check_shapes(path, arrays)
    check_dtypes(path, arrays, silent=True)
    columns = {name: clean_column(path, name, values) for name, values in arrays.items()}
    both = columns["terminals"] & columns["timeouts"]
    if both.any():
        fault = f"'terminals' and 'timeouts' are both set in {int(both.sum())} rows, first in row {int(both.argmax())}"
        raise refuse(path, fault, "a step that a limit cut is a timeout, else a terminal")
    return columns


def check_contents(dataset: Dataset) -> None:
    """Refuse the wrong sizes for the environment and steps that end every episode; remark on odd ranges."""
    check_sizes(dataset)
    if dataset.ordered and dataset.episode_ends.all():
        fault = f"every one of the {len(dataset)} rows ends an episode ('terminals' or 'timeouts')"
        raise refuse(dataset.path, fault, "episodes need more than one step; check the flags")
    outside = np.abs(dataset.actions) > 1.0
    if outside.any():
        row, count, share = int(outside.any(axis=1).argmax()), int(outside.sum()), float(outside.mean())
        oddity = f"{count} entries of 'actions' ({share:.1%}) lie outside [-1, 1], first in row {row}"
        remark(dataset.path, f"{oddity}; clip them before training (action_limit=1.0)")
    constant = np.flatnonzero((dataset.observations == dataset.observations[0]).all(axis=0))
    if len(constant):
        oddity = f"'observations' never change in {len(constant)} columns ({_ranges(constant)})"
        remark(dataset.path, f"{oddity}; a normalizer needs its epsilon there")


def _ranges(numbers: NDArray[np.int64]) -> str:
    """Ascending numbers as ``0-3, 7``."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
