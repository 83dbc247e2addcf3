"""D4RL's HDF5 schema: a strict reader, and a writer.

Checks run from cheap to dear: what the file is, its keys, shapes, memory, dtypes, finiteness, ranges, episodes. What
cannot be trusted is refused with a `DatasetError`; what can be repaired in one known way is, with a `DatasetWarning`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmill.data.columns import (
    INFOS,
    check_contents,
    check_dtypes,
    check_finite,
    check_keys,
    check_shapes,
    clean_column,
    columns_to_write,
    is_column,
)
from trajmill.data.episodes import settle_episodes, settle_flags
from trajmill.data.errors import refuse
from trajmill.data.hdf5 import (
    check_memory,
    create_packed,
    import_h5py,
    is_short_scalar,
    list_arrays,
    open_hdf5,
    plain,
    read_array,
    read_attributes,
)
from trajmill.data.official import Release, describe_size, recognize, remark_release
from trajmill.data.records import Dataset
from trajmill.data.writing import whole

if TYPE_CHECKING:
    import h5py

_METADATA = "metadata/"
_POLICY = "metadata/policy/"
_SIMULATOR_STATES = ("infos/qpos", "infos/qvel")


def read_d4rl(path: str | Path, *, fix_timeouts: bool = False, memory_budget: int | None = None) -> Dataset:
    """Read and check a file in D4RL's schema.

    Floats become float32 and flags bool, whatever the file holds (D4RL's replay files were float64). Repaired with a
    warning: columns stored as (N, 1); both flags in one row (the limit wins, as in D4RL); no ``timeouts`` (ends are
    taken from the stored next observations, else a limit of 1,000 steps is assumed). Only remarked: actions outside
    [-1, 1], constant observations, an unfinished last episode, stored next observations that disagree with the next
    row, an official name on a file that is not the official one.

    Parameters
    ----------
    path
        An HDF5 file with ``observations`` (N, O), ``actions`` (N, A), ``rewards`` and ``terminals`` (N,), and if it has
        them ``timeouts`` (N,), ``next_observations`` (N, O), ``infos/*`` (N, ...) and scalars under ``metadata/``.
    fix_timeouts
        Mark ends of episodes that the flags leave out, and read terminals as timeouts where every one of them stands
        at the limit of 1,000 steps. Without it the first are refused, the second remarked; D4RL's own files, known by
        their hash, are always fixed.
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
    release = recognize(path)
    with open_hdf5(path, describe_size(path)) as file:
        _check_layout(path, file)
        handles = list_arrays(file, path)
        check_keys(path, handles)
        columns = {name: array for name, array in handles.items() if is_column(name)}
        if release is Release.OLD:
            columns = {name: array for name, array in columns.items() if name not in _SIMULATOR_STATES}
        check_shapes(path, columns)
        check_memory(path, handles, memory_budget)
        check_dtypes(path, columns)
        arrays = {name: clean_column(path, name, read_array(path, name, array)) for name, array in columns.items()}
        metadata = read_attributes(file) | _read_scalars(handles)
    told, visible = arrays.get("timeouts"), "next_observations" in arrays
    terminals, timeouts = settle_flags(path, arrays["terminals"], told, visible=visible)
    dataset = Dataset(
        name=path.stem,
        path=path,
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminals=terminals,
        timeouts=timeouts,
        next_observations=arrays.get("next_observations"),
        infos={name.removeprefix(INFOS): array for name, array in arrays.items() if name.startswith(INFOS)},
        metadata=metadata,
        ordered=metadata.get("ordered", True) is not False,
    )
    check_contents(dataset)
    remark_release(path, release)
    genuine = release is not None  # D4RL's own replay files leave some ends unmarked (D4RL issue 162)
    return settle_episodes(dataset, fix_timeouts=fix_timeouts or genuine or (told is None and visible))


def _check_layout(path: Path, file: h5py.File) -> None:
    """Refuse Minari's layout."""
    if any(name.startswith("episode_") for name in file):
        fault = "the file has Minari's layout (one group 'episode_...' per episode)"
        raise refuse(path, fault, "read it with load_dataset or read_minari")


def _read_scalars(handles: Mapping[str, h5py.Dataset]) -> dict[str, Any]:
    """The single values under ``metadata/``, such as ``algorithm``, as plain Python values."""
    scalars = {name.removeprefix(_METADATA): array for name, array in handles.items() if name.startswith(_METADATA)}
    return {name: plain(array[()]) for name, array in scalars.items() if is_short_scalar(array)}


def read_policy_weights(path: str | Path, *, memory_budget: int | None = None) -> dict[str, NDArray[Any]]:
    """Read the behavior policy that D4RL's medium and expert files carry.

    Returns
    -------
    dict
        The arrays under ``metadata/policy/``, such as ``fc0/weight`` (256, O); empty if the file has none. The names of
        its functions are in `Dataset.metadata`: ``policy/nonlinearity``, ``policy/output_distribution``.

    Raises
    ------
    DatasetError
        As `read_d4rl`, and if a weight is not a finite number.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        handles = list_arrays(file, path)
        check_memory(path, handles, memory_budget)
        weights = {
            name.removeprefix(_POLICY): read_array(path, name, array)
            for name, array in handles.items()
            if name.startswith(_POLICY) and array.shape and array.dtype.kind == "f"
        }
    for name, values in weights.items():
        check_finite(path, f"{_POLICY}{name}", values)
    return weights


def write_d4rl(
    path: str | Path,
    *,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminals: ArrayLike,
    timeouts: ArrayLike,
    next_observations: ArrayLike | None,
    infos: Mapping[str, ArrayLike] | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write steps in D4RL's schema: packed with gzip, guarded by checksums, whole or not at all.

    Parameters
    ----------
    path
        The file to create; missing directories are made.
    observations, actions, next_observations
        Numbers (N, O), (N, A), (N, O), N >= 2, stored as float32. `next_observations` is what really followed, also
        where an episode ends; None leaves the key out.
    rewards
        Numbers (N,), stored as float32.
    terminals, timeouts
        Flags (N,), stored as bool: the task ended here, a limit cut the episode here. Never both in one row.
    infos
        Columns (N, ...) to put under ``infos/``, in their own dtype: ``qpos`` and ``qvel`` before the step.
    metadata
        Provenance, one file attribute each: text, numbers, or whatever JSON can hold.
    overwrite
        Replace a file at `path`.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    DatasetError
        If a column has the wrong shape or dtype or holds NaN or infinity, or `path` exists; nothing is written.
    OSError
        If the disk fails or is full; nothing is left.
    """
    path = Path(path)
    columns = columns_to_write(
        path,
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=timeouts,
        next_observations=next_observations,
        infos=infos,
    )
    attributes = {name: _attribute(path, name, value) for name, value in (metadata or {}).items()}
    library = import_h5py()
    with whole(path, overwrite=overwrite) as part:
        try:
            with library.File(part, "x") as file:
                file.attrs.update(attributes)
                for name, values in columns.items():
                    create_packed(file, name, values)
        except RuntimeError as error:  # how HDF5 says that the disk is full when it closes a file
            raise OSError(f"{path}: HDF5 says {error}") from error
    return path


def _attribute(path: Path, name: str, value: Any) -> Any:
    """A value that HDF5 keeps as it is, else its JSON."""
    if isinstance(value, str | bool | int | float | np.generic):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise refuse(
            path, f"metadata {name!r} cannot be written: {error}", "give text, numbers or plain lists"
        ) from None
