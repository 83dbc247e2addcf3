"""D4RL's HDF5 schema: a strict reader, and D4RL's two ways to cut a file into transitions and episodes.

Checks run from cheap to dear: what the file is, its keys, shapes, memory, dtypes, finiteness, ranges, episodes. What
cannot be trusted is refused with a `DatasetError`; what can be repaired in one known way is, with a `DatasetWarning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajmill.data.errors import DatasetError, refuse, remark
from trajmill.data.hdf5 import check_memory, list_arrays, open_hdf5, read_array
from trajmill.data.records import BoolArray, Dataset, Episode, FloatArray, Transitions

if TYPE_CHECKING:
    import h5py

EPISODE_LIMIT = 1000
"""Steps after which the four locomotion tasks cut an episode (`max_episode_steps` in Gymnasium's registry)."""

NextObservation = Literal["stored", "d4rl"]
"""Which observation follows a step: the one the file stores, or the next row's as D4RL's own function takes it."""

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_MATRICES = ("observations", "actions", "next_observations")
_VECTORS = ("rewards", "terminals", "timeouts")
_FLAGS = ("terminals", "timeouts")
_CONTINUITY_TOLERANCE = 1e-3  # far above float32 rounding of an observation, far below a reset


def read_d4rl(path: str | Path, *, memory_budget: int | None = None) -> Dataset:
    """Read and check a file in D4RL's schema.

    Floats become float32 and flags bool, whatever the file holds (D4RL's replay files were float64). Repaired with a
    warning: columns stored as (N, 1); both flags in one row (the limit wins, as in D4RL); no ``timeouts`` (a limit of
    1,000 steps is assumed). Only remarked: actions outside [-1, 1], an unfinished last episode, stored next
    observations that disagree with the next row.

    Parameters
    ----------
    path
        An HDF5 file with ``observations`` (N, O), ``actions`` (N, A), ``rewards`` and ``terminals`` (N,), and if it has
        them ``timeouts`` (N,), ``next_observations`` (N, O), ``infos/*`` (N, ...) and scalars under ``metadata/``.
    memory_budget
        Most bytes the arrays may declare; None is half of the machine's memory.

    Raises
    ------
    DatasetError
        If the file is not what it should be; the message names the file, the key, the fault and what to do.
    ImportError
        If h5py is absent.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        handles = list_arrays(file, path)
        _check_keys(path, handles, set(file))
        columns = {name: array for name, array in handles.items() if _is_column(name)}
        row_count = _check_shapes(path, columns)
        check_memory(path, handles, memory_budget)
        _check_dtypes(path, columns)
        arrays = {name: _read_column(path, name, array, row_count) for name, array in columns.items()}
        metadata = _read_metadata(file, handles)
    _remark_actions(path, arrays["actions"])
    terminals, timeouts = _episode_flags(path, arrays["terminals"], arrays.get("timeouts"))
    dataset = Dataset(
        name=path.stem,
        path=path,
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminals=terminals,
        timeouts=timeouts,
        next_observations=arrays.get("next_observations"),
        infos={name.removeprefix("infos/"): array for name, array in arrays.items() if name.startswith("infos/")},
        metadata=metadata,
    )
    _remark_episodes(dataset)
    return dataset


def _check_keys(path: Path, handles: Mapping[str, h5py.Dataset], top_level: set[str]) -> None:
    """Refuse Minari's layout and files without the four keys every step needs."""
    if any(name.startswith("episode_") for name in top_level):
        raise refuse(path, "the file has Minari's layout (one group per episode)", "give a file in D4RL's schema")
    missing = [key for key in _REQUIRED if key not in handles]
    if missing:
        present = ", ".join(sorted(top_level)) or "none"
        raise refuse(path, f"key {missing[0]!r} is missing (present: {present})", "give a file in D4RL's schema")


def _is_column(name: str) -> bool:
    """True for the keys of which a step has one entry each; other keys are not read."""
    return name in _MATRICES + _VECTORS or name.startswith("infos/")


def _check_shapes(path: Path, columns: Mapping[str, h5py.Dataset]) -> int:
    """Check dimensions and equal lengths; return the number of rows."""
    shapes = {name: tuple(array.shape or ()) for name, array in columns.items()}
    for name, shape in shapes.items():
        _check_shape(path, name, shape)
    row_count = int(shapes["observations"][0])
    for name, shape in shapes.items():
        if shape[0] != row_count:
            fault = f"key {name!r} has {shape[0]} rows where 'observations' has {row_count}"
            raise refuse(path, fault, "all keys need one row per step; write the file again")
    if row_count < 2:
        raise refuse(path, f"the file has {row_count} rows", "at least 2 are needed")
    if shapes.get("next_observations", shapes["observations"]) != shapes["observations"]:
        fault = f"'next_observations' has shape {shapes['next_observations']}, observations {shapes['observations']}"
        raise refuse(path, fault, "both need the same shape")
    return row_count


def _check_shape(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """Refuse an array of the wrong number of dimensions or without columns."""
    if name in _MATRICES and (len(shape) != 2 or shape[1] == 0):
        raise refuse(path, f"key {name!r} has shape {shape}", "it must be a matrix, one row per step")
    if name in _VECTORS and len(shape) != 1 and not (len(shape) == 2 and shape[1] == 1):
        raise refuse(path, f"key {name!r} has shape {shape}", "it must hold one number per step, shape (N,)")
    if not shape:
        raise refuse(path, f"key {name!r} is a single value", "it must have one row per step")


def _check_dtypes(path: Path, columns: Mapping[str, h5py.Dataset]) -> None:
    """Refuse strings, objects, complex numbers; remark on casts that change more than the byte order."""
    cast = []
    for name, array in columns.items():
        kinds = "biuf" if name in _FLAGS else "iuf"
        if array.dtype.kind not in kinds:
            raise refuse(path, f"key {name!r} has dtype {array.dtype}, not numbers", "store it as float32 or bool")
        if name in _MATRICES or name == "rewards":
            cast += [f"{name} from {array.dtype}"] if array.dtype.newbyteorder("=") != np.float32 else []
    if cast:
        remark(path, f"cast to float32: {', '.join(cast)}")


def _read_column(path: Path, name: str, array: h5py.Dataset, row_count: int) -> NDArray[Any]:
    """Read one array, cast it, squeeze (N, 1), and refuse numbers that are not finite or not flags."""
    values = read_array(path, name, array)
    if name in _VECTORS and values.ndim == 2:
        remark(path, f"key {name!r} has shape {values.shape}, read as ({row_count},)")
        values = values[:, 0]
    if name in _FLAGS:
        return _as_flags(path, name, values)
    if not name.startswith("infos/"):
        with np.errstate(over="ignore"):  # what overflows float32 is refused just below
            values = values.astype(np.float32)
    elif values.dtype.byteorder not in "=|":
        values = values.astype(values.dtype.newbyteorder("="))
    _check_finite(path, name, values)
    return values


def _as_flags(path: Path, name: str, values: NDArray[Any]) -> BoolArray:
    """Cast bool, integer or float flags to bool; refuse anything but 0 and 1."""
    odd = (values != 0) & (values != 1)
    if odd.any():
        row = int(odd.argmax())
        raise refuse(path, f"key {name!r} holds {values[row]} in row {row}", "flags must be 0 or 1")
    flags: BoolArray = values.astype(np.bool_)
    return flags


def _check_finite(path: Path, name: str, values: NDArray[Any]) -> None:
    """Refuse NaN and infinity, naming the first row and the number of rows."""
    if values.dtype.kind != "f":
        return
    bad_rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad_rows.any():
        first, count = int(bad_rows.argmax()), int(bad_rows.sum())
        fault = f"key {name!r} holds NaN or infinity in {count} rows, first in row {first}"
        raise refuse(path, fault, "the file is damaged or was written by a diverged run; copy or make it again")


def _remark_actions(path: Path, actions: FloatArray) -> None:
    """Remark on actions that a policy bounded to [-1, 1] cannot take."""
    outside = np.abs(actions) > 1.0
    if outside.any():
        count, share = int(outside.sum()), float(outside.mean())
        remark(path, f"{count} action entries ({share:.1%}) lie outside [-1, 1]; clip them before training")


def _episode_flags(path: Path, terminals: BoolArray, timeouts: BoolArray | None) -> tuple[BoolArray, BoolArray]:
    """Return flags that never hold together; without timeouts assume the usual limit."""
    if timeouts is None:
        remark(path, f"no key 'timeouts'; episodes are cut after {EPISODE_LIMIT} steps without a terminal")
        return terminals, _infer_timeouts(terminals)
    both = int((terminals & timeouts).sum())
    if both:
        remark(path, f"terminal and timeout are both set in {both} rows; read as timeouts, as D4RL does")
    return terminals & ~timeouts, timeouts


def _infer_timeouts(terminals: BoolArray) -> BoolArray:
    """Mark every EPISODE_LIMIT-th row since the last terminal, unless it is a terminal itself."""
    rows = np.arange(len(terminals))
    last_terminal = np.maximum.accumulate(np.where(terminals, rows, -1))
    last_terminal_before = np.concatenate(([-1], last_terminal[:-1]))
    at_limit: BoolArray = (rows - last_terminal_before) % EPISODE_LIMIT == 0
    return at_limit & ~terminals


def _remark_episodes(dataset: Dataset) -> None:
    """Remark on an unfinished last episode and on stored next observations that are not the next row's."""
    ends = dataset.episode_ends
    if not ends[-1]:
        tail = len(ends) - (int(ends.nonzero()[0][-1]) + 1 if ends.any() else 0)
        remark(dataset.path, f"the last {tail} rows are an unfinished episode (no flag set)")
    if dataset.next_observations is None:
        return
    difference = np.abs(dataset.next_observations[:-1] - dataset.observations[1:]).max(axis=1)
    jumps = (difference > _CONTINUITY_TOLERANCE) & ~ends[:-1]
    if jumps.any():
        count, row, largest = int(jumps.sum()), int(jumps.argmax()), float(difference[jumps].max())
        oddity = (
            f"the stored next observation is not the next row's observation in {count} rows inside episodes, "
            f"first in row {row}, by up to {largest:.3g}; episode ends may be unmarked"
        )
        remark(dataset.path, oddity)


def _read_metadata(file: h5py.File, handles: Mapping[str, h5py.Dataset]) -> dict[str, Any]:
    """Collect the file's attributes and the scalars directly under ``metadata/`` as plain Python values."""
    values = dict(file.attrs)
    for name, array in handles.items():
        key = name.removeprefix("metadata/")
        if key != name and "/" not in key and array.shape == ():
            values[key] = array[()]
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    """Turn NumPy scalars and bytes into Python values."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def qlearning_transitions(dataset: Dataset, next_observation: NextObservation = "stored") -> Transitions:
    """Cut a data set into transitions for Q-learning.

    Parameters
    ----------
    dataset
        N consecutive steps.
    next_observation
        ``"stored"`` takes the file's next observations and keeps **every** row: those cut by a limit, because what
        came next is known (they are ``truncated``, never ``terminal``), and the file's last row. A file that stores
        none falls back to ``"d4rl"``.

        ``"d4rl"`` is the rule of D4RL's `qlearning_dataset` exactly: the next row's observation follows; rows cut by a
        limit are dropped, and so is the last row. On a terminal row the next observation then is the first of another
        episode: harmless where the target stops at terminals, wrong for models of the dynamics.

    Returns
    -------
    Transitions
        In the order of the file: N of them, or by D4RL's rule N - 1 less the limits in the first N - 1 rows.
        ``"stored"`` shares memory with `dataset`.

    Raises
    ------
    ValueError
        If `next_observation` is neither.
    """
    if next_observation not in ("stored", "d4rl"):
        raise ValueError(f"next_observation must be 'stored' or 'd4rl', got {next_observation!r}")
    if next_observation == "stored" and dataset.next_observations is not None:
        return Transitions(
            observation=dataset.observations,
            action=dataset.actions,
            reward=dataset.rewards,
            next_observation=dataset.next_observations,
            terminal=dataset.terminals,
            truncated=dataset.timeouts,
        )
    rows = (~dataset.timeouts[:-1]).nonzero()[0]
    return Transitions(
        observation=dataset.observations[rows],
        action=dataset.actions[rows],
        reward=dataset.rewards[rows],
        next_observation=dataset.observations[rows + 1],
        terminal=dataset.terminals[rows],
        truncated=dataset.timeouts[rows],
    )


def split_episodes(dataset: Dataset) -> tuple[Episode, ...]:
    """Cut a data set into episodes at every terminal or limit; an unfinished tail is dropped.

    Returns
    -------
    tuple of Episode
        In the order of the file; their arrays are views.

    Raises
    ------
    DatasetError
        If no episode is finished.
    """
    ends = dataset.episode_ends.nonzero()[0] + 1
    if len(ends) == 0:
        raise DatasetError(f"{dataset.path}: no row ends an episode; sequence methods need the flags to be set")
    starts = np.concatenate(([0], ends[:-1]))
    return tuple(_episode(dataset, int(start), int(end)) for start, end in zip(starts, ends, strict=True))


def _episode(dataset: Dataset, start: int, end: int) -> Episode:
    """View rows `start` to `end` (exclusive) as one episode."""
    return Episode(
        start=start,
        observation=dataset.observations[start:end],
        action=dataset.actions[start:end],
        reward=dataset.rewards[start:end],
        terminal=bool(dataset.terminals[end - 1]),
    )
