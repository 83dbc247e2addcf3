"""D4RL's HDF5 schema: one file, one row a step.

Checks run from cheap to expensive: what the file is, its keys, shapes, dtypes, memory, finiteness, ranges, episodes.
What cannot be trusted is refused with a `DatasetError`; what can be repaired in one known way is repaired, with a
`DatasetWarning`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from trajmill.data.columns import (
    MemoryBudget,
    check_columns,
    check_finite,
    check_keys,
    clean_column,
    columns_to_write,
    is_column,
    warn_about_casts,
)
from trajmill.data.errors import refuse, refusing
from trajmill.data.formats import checked_dataset, new_file
from trajmill.data.hdf5 import (
    check_memory,
    create_hdf5,
    create_packed,
    is_short_scalar,
    list_arrays,
    open_hdf5,
    plain,
    read_array,
    read_attributes,
)
from trajmill.data.official import Release, describe_size, recognize, warn_about_release
from trajmill.data.records import Dataset, Steps

SUFFIXES = (".hdf5", ".h5")
ORDERED = True
_METADATA = "metadata/"
_POLICY = "metadata/policy/"
_SIMULATOR_STATES = ("infos/qpos", "infos/qvel")


def recognizes(path: Path) -> bool:
    """True for every file: what is no other format's is left to this reader, which says what it is instead."""
    return not path.is_dir()


def read(path: str | Path, *, fix_timeouts: bool = False, memory_budget: int | None = None) -> Dataset:
    """Read and check a file in D4RL's schema.

    Floats become float32 and flags bool, whatever the file holds (D4RL's replay files were float64). Repaired with a
    warning: columns stored as (N, 1); both flags in one row (the limit wins, as in D4RL); no ``timeouts`` (ends are
    taken from the stored next observations, else a limit of 1,000 steps is assumed). Kept with a warning: actions
    outside [-1, 1], constant observations, an unfinished last episode, stored next observations that disagree with the
    next row, an official name on a file that is not the official one.

    Parameters
    ----------
    path
        An HDF5 file with ``observations`` (N, O), ``actions`` (N, A), ``rewards`` and ``terminals`` (N,), and if it has
        them ``timeouts`` (N,), ``next_observations`` (N, O), ``infos/*`` (N, ...) and scalars under ``metadata/``.
    fix_timeouts
        Mark ends of episodes that the flags leave out, and read terminals as timeouts where every one of them stands
        at the limit of 1,000 steps. Without it the first are refused and the second warned about; D4RL's own files,
        known by their hash, are always fixed.
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
    with refusing(path):
        release = recognize(path)
        with open_hdf5(path, describe_size(path)) as file:
            if any(name.startswith("episode_") for name in file):
                fault = "the file has Minari's layout (one group 'episode_...' per episode)"
                raise refuse(fault, "read it with load_dataset or read_minari")
            handles = list_arrays(file)
            check_keys(handles)
            columns = {name: array for name, array in handles.items() if is_column(name)}
            if release is Release.OLD:
                columns = {name: array for name, array in columns.items() if name not in _SIMULATOR_STATES}
            check_columns(columns)
            check_memory(handles, MemoryBudget(memory_budget))
            warn_about_casts({name: array.dtype for name, array in columns.items()})
            arrays = {name: clean_column(name, read_array(name, array)) for name, array in columns.items()}
            scalars = {name: array for name, array in handles.items() if name.startswith(_METADATA)}
            metadata = read_attributes(file) | {
                name.removeprefix(_METADATA): plain(array[()])
                for name, array in scalars.items()
                if is_short_scalar(array)
            }
        warn_about_release(path, release)
        genuine = release is not None  # D4RL's own replay files leave some ends unmarked (D4RL issue 162)
        return checked_dataset(
            path,
            arrays,
            fix_timeouts=fix_timeouts or genuine,
            name=path.stem,
            metadata=metadata,
            ordered=metadata.get("ordered", True) is not False,
        )


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
        As `read`, and if a weight is not a finite number.
    """
    with refusing(path):
        with open_hdf5(Path(path)) as file:
            handles = list_arrays(file)
            check_memory(handles, MemoryBudget(memory_budget))
            weights = {
                name: read_array(name, array)
                for name, array in handles.items()
                if name.startswith(_POLICY) and array.shape and array.dtype.kind == "f"
            }
        for name, values in weights.items():
            check_finite(name, values)
    return {name.removeprefix(_POLICY): values for name, values in weights.items()}


def write(path: str | Path, *, overwrite: bool = False, **steps: Unpack[Steps]) -> Path:
    """Write steps in D4RL's schema: packed with gzip, guarded by checksums, whole or not at all.

    Parameters
    ----------
    path
        The file to create; missing directories are made.
    overwrite
        Replace a file at `path`.
    steps
        Columns, infos and metadata, as `Steps` describes them. Infos go under ``infos/``; of the metadata each entry
        becomes a file attribute, as it is or as JSON.

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
    with refusing(path):
        columns = columns_to_write(steps)
        attributes = {name: _attribute(name, value) for name, value in (steps.get("metadata") or {}).items()}
        with new_file(path, overwrite=overwrite) as part, create_hdf5(part) as file:
            file.attrs.update(attributes)
            for name, values in columns.items():
                create_packed(file, name, values)
    return path


def _attribute(name: str, value: Any) -> Any:
    """A value that HDF5 keeps as it is, else its JSON."""
    if isinstance(value, str | bool | int | float | np.generic):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        fault = f"metadata {name!r} cannot be written: {error}"
        raise refuse(fault, "give text, numbers or plain lists") from None
