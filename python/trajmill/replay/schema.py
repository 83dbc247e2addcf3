"""Which columns a transition has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill.core import checks

ColumnSpec = npt.DTypeLike | tuple[tuple[int, ...] | int, npt.DTypeLike]
"""a dtype for a number, or the shape (or length) of a row and its dtype"""

Columns = list[tuple[str, tuple[int, ...], np.dtype[Any]]]


def columns_of(schema: Mapping[str, ColumnSpec]) -> Columns:
    """Name, row shape and dtype of each column of a schema; TypeError or ValueError that names the column."""
    if not isinstance(schema, Mapping):
        raise TypeError(
            "schema must map names to (shape, dtype), such as {'observation': ((17,), 'f4'), 'reward': ((), 'f4')}, "
            f"got {type(schema).__name__}"
        )
    return [(_name(name), *_shape_and_dtype(name, spec)) for name, spec in schema.items()]


def _name(name: object) -> str:
    if not isinstance(name, str) or not name or "\0" in name:
        raise TypeError(f"the names of columns must be non-empty strings, got {name!r}")
    return name


def _shape_and_dtype(name: str, spec: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    shape, dtype = spec if isinstance(spec, tuple) and len(spec) == 2 else ((), spec)
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"column {name!r} must be given as (shape, dtype) or dtype, got {spec!r}") from None
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    return tuple(checks.integer(f"the shape of column {name!r}", size, 1, 2**31) for size in sizes), kind
