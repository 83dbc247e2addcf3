"""D4RL's HDF5 schema: one file, one row a step.

A file has ``observations`` (N, O), ``actions`` (N, A), ``rewards`` and ``terminals`` (N,), and perhaps ``timeouts``
(N,), ``next_observations`` (N, O), ``infos/*`` (N, ...) and scalars under ``metadata/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from trajmill.core.paths import AnyPath, local_path
from trajmill.data import hdf5
from trajmill.data.columns import MemoryBudget, check_columns, check_finite, columns_to_write, leaving_out
from trajmill.data.errors import refuse, refusing
from trajmill.data.formats import checked_dataset, new_file
from trajmill.data.official import OLD, official_file, recognize, warn_about_release
from trajmill.data.records import COLUMNS, METADATA, Columns, Dataset, Steps

SUFFIXES = (".hdf5", ".h5")
ORDERED = True
_POLICY = "metadata/policy/"


def recognizes(path: Path) -> bool:
    """True for every file: this reader gets what no other format recognizes, and says what it is."""
    return not path.is_dir()


def read(
    path: AnyPath, *, fix_timeouts: bool = False, limit: int | None = None, memory_budget: int | None = None
) -> Dataset:
    """Read and check a file in D4RL's schema; options as in `load_dataset`.

    Floats become float32 and flags bool, whatever the file holds. Repaired with a `DatasetWarning`: columns stored as
    (N, 1); both flags in one row (the limit wins, as in D4RL); no ``timeouts`` (episodes end where the stored next
    observation is not the next row's, else at the environment's limit, else the file is refused unless `limit` says
    when); stored next observations of which none is the next row's (the rows are in no order). Kept with a warning:
    actions outside [-1, 1], constant observations, an unfinished last episode, an official name on another file.

    `fix_timeouts` marks ends that ``timeouts`` leaves out though the stored next observations show them, and reads
    terminals as timeouts where every one of them stands at the limit, 1,000 steps if `limit` is None. Without it the
    first are refused and the second warned about; D4RL's own files, known by their hash, are always fixed.
    """
    path = local_path(path)
    with refusing(path):
        release, namesake = recognize(path), official_file(path.name)
        expected = f" where D4RL's {namesake.name} has {namesake.size:,}" if namesake else ""
        with hdf5.open_hdf5(path, expected) as file:
            if any(name.startswith("episode_") for name in file):
                fault = "the file has Minari's layout (one group 'episode_...' per episode)"
                raise refuse(fault, "read it with load_dataset or read_minari")
            handles = hdf5.list_arrays(file)
            if release == OLD:
                handles = {key: array for key, array in handles.items() if key not in ("infos/qpos", "infos/qvel")}
            columns, budget = check_columns(handles), MemoryBudget(memory_budget)
            needed = {key: array for key, array in columns.items() if key in COLUMNS}
            budget.take(needed)
            arrays = {key: hdf5.read_array(key, array) for key, array in needed.items()}
            with leaving_out() as tried:
                for key in [key for key in columns if key not in needed]:
                    with tried(key):
                        budget.take({key: columns[key]})
                        arrays[key] = hdf5.read_array(key, columns[key])
            metadata = hdf5.read_attributes(file)
            for key, array in handles.items():
                if key.startswith(METADATA) and hdf5.is_short_scalar(array):
                    metadata[key.removeprefix(METADATA)] = hdf5.plain(array[()])
        warn_about_release(path, release)
        fix = fix_timeouts or release is not None  # D4RL's replay files leave some ends unmarked (D4RL issue 162)
        ordered = metadata.get("ordered", True) is not False
        fields = {"name": path.stem, "metadata": metadata, "ordered": ordered}
        return checked_dataset(path, arrays, fix_timeouts=fix, limit=limit, **fields)


def read_policy_weights(path: AnyPath, *, memory_budget: int | None = None) -> dict[str, NDArray[Any]]:
    """Read the behavior policy in D4RL's medium and expert files; empty if the file has none.

    These are the arrays under ``metadata/policy/``, such as ``fc0/weight`` (256, O). The names of the policy's
    functions are in `Dataset.metadata`: ``policy/nonlinearity``, ``policy/output_distribution``.
    """
    with refusing(path), hdf5.open_hdf5(local_path(path)) as file:
        handles = hdf5.list_arrays(file)
        MemoryBudget(memory_budget).take(handles)
        weights = {}
        for key, array in handles.items():
            if key.startswith(_POLICY) and array.shape and array.dtype.kind == "f":
                weights[key.removeprefix(_POLICY)] = values = hdf5.read_array(key, array)
                check_finite(key, values)
    return weights


def write(path: AnyPath, *, overwrite: bool = False, **steps: Unpack[Steps]) -> Path:
    """Write steps in D4RL's schema, packed with gzip and guarded by checksums; see `Format.write`.

    Every entry of the metadata becomes a file attribute, as it is or as JSON.
    """
    path = local_path(path)
    with refusing(path):
        columns = columns_to_write(steps)
        attributes = _attributes(steps.get("metadata") or {})
        with new_file(path, overwrite=overwrite) as part, hdf5.create_hdf5(part) as (file, check):
            file.attrs.update(attributes)
            for key, values in columns.items():
                hdf5.create_packed(file, key, values)
                check()
    return path


def write_pieces(
    path: AnyPath, pieces: Iterable[Columns], row_count: int, *, metadata: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Write transitions in no order, in little memory; see `Format.write_pieces`. ``ordered`` is false in the file."""
    path = local_path(path)
    with refusing(path):
        attributes = _attributes({**metadata, "ordered": False})
        with new_file(path, overwrite=overwrite) as part, hdf5.create_hdf5(part) as (file, check):
            file.attrs.update(attributes)
            arrays: dict[str, Any] = {}
            done = 0
            for piece in pieces:
                columns = piece | {"timeouts": np.zeros_like(piece["terminals"])}
                end = done + len(piece["rewards"])
                for key, values in columns.items():
                    if key in arrays:
                        arrays[key][done:end] = values
                    else:
                        arrays[key] = hdf5.create_packed(file, key, values, row_count=row_count)
                check()
                done = end
    return path


def _attributes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as HDF5 can hold it."""
    return {name: _attribute(name, value) for name, value in metadata.items()}


def _attribute(name: str, value: Any) -> Any:
    """The value itself if HDF5 can hold it, else its JSON."""
    if isinstance(value, str | bool | int | float | np.generic):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise refuse(f"metadata {name!r} cannot be written: {error}", "give text, numbers or plain lists") from None
