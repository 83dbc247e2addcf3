"""Checks of arguments: each message says what was needed, what came and, where it helps, what to do."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trajmill.core.limits import usable_cores, usable_memory


def integer(name: str, value: object, smallest: int | None = None, largest: int | None = None) -> int:
    """`value` as an int from `smallest` to `largest` (None: no bound); TypeError or ValueError otherwise."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})") from None
    if (smallest is not None and number < smallest) or (largest is not None and number > largest):
        allowed = f"at least {smallest}" if largest is None else f"between {smallest} and {largest}"
        raise ValueError(f"{name} must be {allowed}, got {number}")
    return number


def instance(name: str, value: object, kind: type, what: str) -> None:
    """TypeError, which says `what` was needed, unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, got {value!r} ({type(value).__name__})")


def boolean(name: str, value: object) -> bool:
    """True or False; TypeError for everything else."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def state_count(name: str, value: object) -> int:
    """A number of states or actions."""
    return integer(name, value, 1, 2**32 - 1)


def seed(value: object) -> int:
    """A 64-bit seed."""
    return integer("seed", value, 0, 2**64 - 1)


def temperature(name: str, value: object) -> float:
    """A softmax divisor > 0; infinity, which makes every row uniform, is allowed."""
    return number(name, value, "(0, inf]")


def number(name: str, value: object, interval: str) -> float:
    """`value` as a float in `interval`, such as ``"(0, inf]"``, and not NaN; TypeError or ValueError otherwise."""
    if isinstance(value, bool | str) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    result = float(value)
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    if not low <= result <= high or (result == low and interval[0] == "(") or (result == high and interval[-1] == ")"):
        raise ValueError(f"{name} must be in {interval}, got {result}")
    return result


def choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return str(value)


def thread_count(value: object) -> int:
    """How many threads to use: `value`, else TRAJMILL_THREADS, else every core this process may run on."""
    if value is not None:
        return integer("threads", value, 1, 1024)
    wanted = os.environ.get("TRAJMILL_THREADS")
    if wanted:
        if not wanted.isdigit():
            raise ValueError(f"TRAJMILL_THREADS must be a whole number >= 1, got {wanted!r}")
        return integer("TRAJMILL_THREADS", int(wanted), 1, 1024)
    return usable_cores()


def memory_limit(wanted: int | None = None) -> int:
    """Bytes that a table or the arrays of a file may take: `wanted`, or half of the memory this process may use."""
    return usable_memory() // 2 if wanted is None else wanted


def smallest_dtype(value_count: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds every number below `value_count`."""
    return np.dtype(np.min_scalar_type(value_count - 1))


def token_dtype(dtype: DTypeLike | None, value_count: int) -> np.dtype[Any]:
    """`dtype` if it can hold every number below `value_count`; None picks the smallest."""
    if dtype is None:
        return smallest_dtype(value_count)
    wanted = np.dtype(dtype)
    if wanted.kind not in "iu" or not wanted.isnative:
        raise TypeError(f"dtype must be a native integer type, got {wanted}")
    if value_count - 1 > np.iinfo(wanted).max:
        fault = f"dtype {wanted} holds values up to {np.iinfo(wanted).max}, but they go up to {value_count - 1}"
        raise ValueError(f"{fault}; use {smallest_dtype(value_count)} or wider")
    return wanted


def output(name: str, out: object, shape: tuple[int, int], dtype: DTypeLike | None, value_count: int) -> NDArray[Any]:
    """The array to fill: a new one, or `out` if it has the right shape and layout and can hold the values."""
    if out is None:
        return np.empty(shape, token_dtype(dtype, value_count))
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(out).__name__}")
    if dtype is not None and np.dtype(dtype) != out.dtype:
        raise ValueError(f"{name} has dtype {out.dtype}, but dtype={np.dtype(dtype)} was asked for; give only one")
    if out.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {out.shape}")
    if not out.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous; pass a contiguous array such as np.empty({shape}, {out.dtype})")
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    token_dtype(out.dtype, value_count)
    return out


def indexes(name: str, values: Sequence[int] | NDArray[Any]) -> NDArray[np.uint64]:
    """Sequence numbers below 2**64, as a contiguous array (n,)."""
    if not hasattr(values, "__array__"):
        instance(name, values, Iterable, "whole numbers, such as a list or an array")
        return np.array([integer(name, value, 0, 2**64 - 1) for value in values], np.uint64)
    values = np.asarray(unmasked(name, values))
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise TypeError(f"{name} must be one-dimensional and hold integers, got {values.dtype} {values.shape}")
    if (values < 0).any():
        raise ValueError(f"{name} must be >= 0, got {values.min()}")
    return np.ascontiguousarray(values, np.uint64)


def context(values: Sequence[int], order: int, state_count: int) -> list[int]:
    """The states before the next one, oldest first; at most `order` of them."""
    instance("context", values, Iterable, "states, such as a list")
    states = [integer("context state", state, 0, state_count - 1) for state in values]
    if len(states) > order:
        raise ValueError(f"context must hold at most order = {order} states, got {len(states)}")
    return states


def unmasked(name: str, values: Any) -> Any:
    """`values`; TypeError for an array with masked values, whose mask would be lost without a word."""
    if np.ma.is_masked(values):
        raise TypeError(f"{name} has masked values, which cannot be kept; fill them first")
    return values


def floats(name: str, values: Any, dtype: type[np.float32] | type[np.float64]) -> NDArray[Any]:
    """Numbers in a float dtype and C order, without a copy where they are that already.

    The rule of `ReplayBuffer.add`: integers and booleans are kept exactly, floats are rounded, unless that makes a
    finite number infinite. ValueError for those that cannot be kept, TypeError for all others, masked ones too.
    """
    given = np.asarray(unmasked(name, values))
    if given.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got {given.dtype}; convert them first")
    with np.errstate(over="ignore"):  # refused below
        array: NDArray[Any] = np.asarray(given, dtype, order="C")
    lost = None
    if given.dtype.kind == "f" and given.dtype.itemsize > array.dtype.itemsize:
        lost = np.isinf(array) & np.isfinite(given)
    elif given.dtype.kind != "f":
        one, bits = np.uint64(1), given.astype(np.uint64)
        size = np.where(given < 0, ~bits + one, bits)
        lowest_bit = np.maximum(size & (~size + one), one)
        lost = size // lowest_bit >= 2 ** (np.finfo(dtype).nmant + 1)
    if lost is not None and lost.any():
        raise ValueError(f"{name} must hold numbers that {array.dtype} can keep, got {given[lost][0]}")
    return array


def require_memory(what: str, byte_count: int, remedy: str) -> None:
    """ValueError unless so many bytes are at most half of the machine's memory."""
    if byte_count <= 2**20:  # a mebibyte fits everywhere, and reading the limits takes longer than a row
        return
    limit = memory_limit()
    if byte_count > limit:
        gibibytes = f"{byte_count / 2**30:.1f} GiB, more than the {limit / 2**30:.1f} GiB allowed here"
        raise ValueError(f"{what} would need {gibibytes}; {remedy}")


def distributions(name: str, values: object, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Float64 rows along the last axis that are >= 0 and sum to 1 within 1e-6; returned divided by their sums."""
    if hasattr(values, "toarray"):
        values = values.toarray()  # scipy.sparse
    array: NDArray[np.float64] = floats(name, values, np.float64)
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if not np.isfinite(array).all() or (array < 0).any():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array) | (array < 0))[0])
        raise ValueError(f"{name} must hold finite numbers >= 0, got {array[at]} at {at}")
    sums = array.sum(axis=-1, keepdims=True)
    if (np.abs(sums - 1) > 1e-6).any():
        at = tuple(int(i) for i in np.argwhere(np.abs(sums - 1) > 1e-6)[0])
        raise ValueError(f"{name} rows must sum to 1, got {sums[at]} for row {at[:-1]}; divide each row by its sum")
    rows: NDArray[np.float64] = array / sums
    return rows
