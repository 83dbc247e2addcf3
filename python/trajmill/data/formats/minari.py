"""Minari's HDF5 layout, read and written without Minari: one group per episode, and a JSON file about all of them.

A dataset is a directory with ``data/main_data.hdf5`` and ``data/metadata.json``. The group ``episode_<i>`` holds T
steps: ``observations`` (T + 1, O), ``actions`` (T, A), ``rewards``, ``terminations``, ``truncations`` (T,).
Source: minari.farama.org, "Dataset Standards", and Minari 0.5.4.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from trajmill.core.json_input import parse_json
from trajmill.core.paths import AnyPath, local_path
from trajmill.data import hdf5
from trajmill.data.columns import (
    VECTORS,
    MemoryBudget,
    check_array,
    clean_column,
    columns_to_write,
    leaving_out,
    warn_about_casts,
)
from trajmill.data.environments import EPISODE_LIMIT, TASKS
from trajmill.data.episodes import leads_on
from trajmill.data.errors import refuse, refusing, warn_about, where
from trajmill.data.formats import checked_dataset, new_file
from trajmill.data.records import INFOS, Columns, Dataset, Steps

if TYPE_CHECKING:
    import h5py

SUFFIXES = ("",)
ORDERED = True
DATA_FILE, METADATA_FILE = "main_data.hdf5", "metadata.json"
_EPISODE = re.compile(r"episode_(0|[1-9][0-9]{0,8})")
_NAME = re.compile(r"[-\w/]+-v\d+", re.ASCII)
_FLAGS = {"terminations": "terminals", "truncations": "timeouts"}  # Minari's name of a flag to ours
_KEYS = ("observations", "actions", "rewards", *_FLAGS)
_STATES = ("qpos", "qvel")
_LONGEST_METADATA = 2**24  # bytes; the limits of an image space are long lists
_LONGEST_ENTRY = 2**16  # characters of one text in the metadata
_MINARI_VERSION = "0.5.0"
MOST_TRANSITIONS = 100_000
"""single transitions that are written as episodes: 1.5 GB in 13 minutes; 5 million would take 75 GB and ten hours"""
EPISODE_BYTES = 15_000
"""of an episode of one step, beside its numbers"""


def recognizes(path: Path) -> bool:
    """True for a directory that Minari would read, or one of its two files."""
    return _data_directory(path) is not None


def _data_directory(path: Path) -> Path | None:
    if path.name in (DATA_FILE, METADATA_FILE) and path.is_file():
        return path.parent
    return next((place for place in (path, path / "data") if (place / DATA_FILE).is_file()), None)


def read(
    path: AnyPath, *, fix_timeouts: bool = False, limit: int | None = None, memory_budget: int | None = None
) -> Dataset:
    """Read and check a dataset in Minari's layout; options as in `load_dataset`.

    `path` is the dataset's directory, its ``data`` directory, or one of the two files. Spaces must be boxes of one
    dimension; actions may be discrete, and become one column of numbers. Transitions in no order, which `write_pieces`
    stores as episodes of one step, are read as such. An episode that ends with neither flag is read as cut by a limit;
    a step that sets both is a terminal, as in Gymnasium. `fix_timeouts` has no effect. The infos ``qpos`` and ``qvel``
    are those before each step, others those that it returned; what cannot be read is left out with a warning. The
    dataset's name is Minari's id; ``metadata`` has the plain entries of ``metadata.json``, and the id in ``env_spec``
    as ``environment``.
    """
    directory = _data_directory(local_path(path))
    if directory is None:
        with refusing(path):
            raise refuse("not a Minari dataset", f"give a directory with data/{DATA_FILE} and data/{METADATA_FILE}")
    file_path, metadata_path = directory / DATA_FILE, directory / METADATA_FILE
    with refusing(metadata_path):
        metadata = _read_metadata(metadata_path)
    with refusing(file_path):
        with hdf5.open_hdf5(file_path) as file:
            episodes = _read_episodes(file, metadata, MemoryBudget(memory_budget))
        _check_promise(sum(len(episode["rewards"]) for episode in episodes), "steps", metadata, "total_steps")
        name = metadata.get("dataset_id")
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            name = directory.parent.name if directory.name == "data" else directory.name
        described = _plain_metadata(metadata)
        ordered = described.get("ordered", True) is not False
        columns = _join(episodes) if ordered else _unordered(episodes)
        fields = {"name": name, "metadata": described, "ordered": ordered}
        return checked_dataset(file_path, columns, fix_timeouts=False, limit=limit, **fields)


def _read_metadata(path: Path) -> dict[str, Any]:
    """The entries of ``metadata.json``; spaces and formats that are not read are refused."""
    if not path.is_file():
        raise refuse("no such file", f"a Minari dataset needs {METADATA_FILE} beside {DATA_FILE}")
    if path.stat().st_size > _LONGEST_METADATA:
        raise refuse(f"the file has {path.stat().st_size:,} bytes", f"at most {_LONGEST_METADATA:,} are read")
    metadata = _parsed("the file", path.read_bytes())
    if metadata.get("data_format", "hdf5") != "hdf5":
        fault = f"key 'data_format' is {metadata['data_format']!r}"
        raise refuse(fault, "only Minari's HDF5 layout is read; let Minari convert it")
    for key in ("observation_space", "action_space"):
        if key not in metadata:
            continue
        space = _parsed(f"key {key!r}", metadata[key])
        kind, shape = space.get("type"), space.get("shape")
        if key == "action_space" and kind == "Discrete":
            continue
        if kind != "Box" or not isinstance(shape, list) or len(shape) != 1:
            found = f"a {kind} space" + (f" of shape {shape}" if kind == "Box" else "")
            needed = "only boxes of one dimension are read; flatten it with a Gymnasium wrapper and store it again"
            raise refuse(f"key {key!r} is {found:.80}", needed)
    for key in ("total_episodes", "total_steps"):
        count = metadata.get(key, 0)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise refuse(f"key {key!r} is {count!r:.80}", "it must be a whole number")
    return metadata


def _parsed(what: str, text: object) -> dict[str, Any]:
    try:
        if not isinstance(text, str | bytes):
            raise ValueError(f"text is needed, got {type(text).__name__}")
        value = parse_json(text)
        if not isinstance(value, dict):
            raise ValueError(f"an object is needed, got {type(value).__name__}")
    except ValueError as error:
        raise refuse(f"{what} is not a valid JSON object ({error})", "copy or download it again") from None
    return value


def _check_promise(found: int, things: str, metadata: Mapping[str, Any], key: str) -> None:
    """Refuse a file that has fewer or more episodes or steps than its metadata says."""
    promised = metadata.get(key, found)
    if promised != found:
        fault = f"the file holds {found:,} {things} where {METADATA_FILE} promises {promised:,} ({key!r})"
        raise refuse(fault, "download the dataset again")


def _episode_names(file: h5py.File, metadata: Mapping[str, Any]) -> list[str]:
    """Names of the episodes in numerical order; refuse gaps, and a number that is not the metadata's."""
    names = list(file)
    odd = sorted(name for name in names if not _EPISODE.fullmatch(name))
    if "observations" in odd:
        raise refuse("the file has D4RL's layout (key 'observations')", "read it with load_dataset or read_d4rl")
    if odd:
        raise refuse(f"key {odd[0]!r} is not an episode", "all keys must be 'episode_<number>'")
    if not names:
        raise refuse("the file holds no episodes", "download or collect the dataset again")
    expected, found = [f"episode_{i}" for i in range(len(names))], set(names)
    if (gap := next((name for name in expected if name not in found), None)) is not None:
        fault = f"key {gap!r} is missing among {len(names)} episodes"
        raise refuse(fault, "episodes are numbered from 0 without a gap; download the dataset again")
    _check_promise(len(names), "episodes", metadata, "total_episodes")
    return expected


def _read_episodes(file: h5py.File, metadata: Mapping[str, Any], budget: MemoryBudget) -> list[Columns]:
    """Columns of all episodes under our names, with the next observations; checked before they are read.

    HDF5 keeps what it has unpacked of every open array, so episodes are opened one after another.
    """
    episodes: list[Columns] = []
    names, sizes = _episode_names(file, metadata), _sizes(metadata)
    with leaving_out() as tried:
        for name in names:
            with refusing(f"{file.filename}, {name}"):
                arrays, infos = _open_episode(file, name)
                _check_episode(arrays, episodes[0] if episodes else arrays, sizes)
                budget.take(arrays)
                columns = _cleaned({key: hdf5.read_array(key, array) for key, array in arrays.items()})
                for key, array in infos.items():
                    with tried(key):
                        columns[key] = _read_info(key, array, len(columns["rewards"]), "trajmill" in metadata, budget)
                episodes.append(columns)
        for key in {key: None for episode in episodes for key in episode}:
            with tried(key):
                if not all(key in episode for episode in episodes):
                    raise refuse(f"key {key!r} cannot be read in every episode", "store it in all")
                kinds = {(episode[key].shape[1:], episode[key].dtype) for episode in episodes}
                if len(kinds) > 1 and key.startswith(INFOS):
                    for episode in episodes:
                        del episode[key]
                    raise refuse(f"key {key!r} has several shapes or dtypes", "store it alike in all episodes")
    step_count = sum(len(episode["rewards"]) for episode in episodes)
    if step_count < 2:
        raise refuse(f"all episodes together have {step_count} steps", "at least 2 are needed")
    warn_about_casts(arrays)
    return episodes


def _read_info(key: str, array: Any, count: int, own: bool, budget: MemoryBudget) -> NDArray[Any]:
    """An info of `count` steps, that of a state before each step, others as the step has returned them.

    Minari stores that of the reset first. Without it, the file is our `own`, or it does not say when a state was.
    """
    if not hasattr(array, "shape"):
        raise refuse(f"key {key!r} is a group", "flatten it")
    check_array(key, array)
    state = key.removeprefix(INFOS) in _STATES
    if state and (len(array.shape) != 2 or array.shape[1] == 0):
        raise refuse(f"key {key!r} has shape {array.shape}", "it must be a matrix, one row per step")
    if array.shape[0] not in (count, count + 1):
        raise refuse(f"key {key!r} has {array.shape[0]} rows where 'actions' has {count}", "store the dataset again")
    if state and array.shape[0] == count and not own:
        fault = f"key {key!r} has as many rows as actions, which does not say if states are before steps or after them"
        raise refuse(fault, "store that of the reset too")
    budget.take({key: array})
    values = clean_column(key, hdf5.read_array(key, array))
    return values[:count] if state else values[-count:]


def _open_episode(file: h5py.File, episode: str) -> tuple[dict[str, h5py.Dataset], dict[str, Any]]:
    """One episode's unread arrays, and its infos."""
    import h5py

    group = hdf5.open_entry(file, episode, episode)
    if not isinstance(group, h5py.Group):
        raise refuse("the episode is an array", "an episode must be a group of arrays")
    arrays = {}
    for key in _KEYS:
        if key not in group:
            raise refuse(f"key {key!r} is missing", f"an episode needs {', '.join(_KEYS)}")
        arrays[key] = hdf5.open_entry(group, key, key)
        if not isinstance(arrays[key], h5py.Dataset):
            fault = f"key {key!r} is a group, as Dict and Tuple spaces make"
            raise refuse(fault, "only boxes of one dimension are read; flatten the space and store the dataset again")
    infos = hdf5.open_entry(group, "infos", "infos") if "infos" in group else None
    if isinstance(infos, h5py.Group):
        return arrays, {INFOS + key: hdf5.open_entry(infos, key, INFOS + key) for key in infos}
    return arrays, {}


def _sizes(metadata: Mapping[str, Any]) -> dict[str, int]:
    """How many numbers observations and actions have, by the spaces that the metadata describes."""
    spaces = {key: parse_json(metadata.get(f"{key[:-1]}_space", "{}")) for key in ("observations", "actions")}
    return {key: space["shape"][0] if space["type"] == "Box" else 1 for key, space in spaces.items() if space}


def _check_episode(arrays: Mapping[str, h5py.Dataset], first: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Check one episode's types and shapes, and that its spaces are those of the `first` and of the metadata."""
    for key, array in arrays.items():
        check_array(key, array)
    count = int(arrays["actions"].shape[0])
    if count == 0:
        raise refuse("key 'actions' has no rows: an episode without steps", "remove the episode")
    for key, array in arrays.items():
        if array.shape[0] != count + (key == "observations"):
            needed = "one observation more than actions" if key == "observations" else "one row per step"
            fault = f"key {key!r} has {array.shape[0]} rows where 'actions' has {count}"
            raise refuse(fault, f"{needed} is needed; store the dataset again")
    for key in ("observations", "actions"):
        width, needed_width = arrays[key].shape[1:], first[key].shape[1:]
        if width != needed_width:
            fault = f"key {key!r} has rows of shape {width}, of {needed_width} in episode_0"
            raise refuse(fault, "all episodes need the same spaces")
        size = math.prod(width)
        if size != sizes.get(key, size):
            fault = f"key {key!r} has {size} numbers a row where {METADATA_FILE} describes {sizes[key]}"
            raise refuse(fault, "they may be encoded images; store the numbers themselves, or correct the space")


def _cleaned(arrays: Columns) -> Columns:
    """One episode's columns under our names, T rows each, with the next observations."""
    columns = {}
    for key, values in arrays.items():
        column = values.reshape(len(values)) if key in VECTORS else values  # (T, 1) needs no warning here
        columns[_FLAGS.get(key, key)] = clean_column(key, column)
    count = len(columns["actions"])
    for key, flag in _FLAGS.items():
        early = columns[flag][:-1]
        if early.any():
            fault = f"key {key!r} is set in row {int(early.argmax())}, before the last of {count}"
            raise refuse(fault, "only the last step of an episode ends it")
    columns["next_observations"] = columns["observations"][1:]
    return {name: values[:count] for name, values in columns.items()}


def _join(episodes: list[Columns]) -> Columns:
    """Put episodes one after another; one that ends with neither flag set is read as cut by a limit."""
    unmarked = [i for i, episode in enumerate(episodes) if not (episode["terminals"] | episode["timeouts"])[-1]]
    if unmarked:
        for i in unmarked:
            episodes[i]["timeouts"][-1] = True
        first = f"first 'episode_{unmarked[0]}/truncations'"
        warn_about(f"{len(unmarked)} episodes end with neither flag set, {first}; read as cut by a limit")
    columns = _concatenated(episodes)
    columns["timeouts"] &= ~columns["terminals"]
    return columns


def _concatenated(episodes: list[Columns]) -> Columns:
    """What all episodes have."""
    shared = [name for name in episodes[0] if all(name in episode for episode in episodes)]
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in shared}


def _unordered(episodes: list[Columns]) -> Columns:
    """The rows of episodes of one step, none of which is followed by another."""
    columns = _concatenated(episodes)
    return columns | {"timeouts": np.zeros_like(columns["timeouts"])}


def _plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and short texts, the dataset's own entries, and the environment's id."""
    described = ("env_spec", "observation_space", "action_space")
    values = {
        key: value
        for key, value in metadata.items()
        if isinstance(value, int | float)
        or (isinstance(value, str) and len(value) <= _LONGEST_ENTRY and key not in described)
    }
    own = metadata.get("trajmill")
    values |= own if isinstance(own, dict) else {}
    try:
        environment = parse_json(metadata.get("env_spec", ""))["id"]
    except (ValueError, TypeError, KeyError):
        return values
    return {"environment": environment, **values} if isinstance(environment, str) else values


def write(path: AnyPath, *, overwrite: bool = False, dataset_id: str | None = None, **steps: Unpack[Steps]) -> Path:
    """Write steps as a directory that `minari.load_dataset` reads; see `Format.write`.

    Minari looks for a dataset under ``$MINARI_DATASETS_PATH`` (``~/.minari/datasets``) by its id, such as
    ``mujoco/hopper/mine-v0``, which ends in ``-v`` and a number: `dataset_id`, by default the directory's name.

    Minari stores each observation once, so inside an episode the next observation must be the next row's. Steps after
    the last end become an episode with neither flag. Infos have one row a step, none for the reset.
    Metadata goes under the key ``trajmill`` of ``metadata.json``; ``algorithm`` and, for a task in `TASKS`,
    ``environment`` are repeated in Minari's own entries. A directory is never replaced, so `overwrite` has no effect.
    """
    path, metadata = local_path(path), steps.get("metadata") or {}
    name = path.name if dataset_id is None else dataset_id
    with refusing(path):
        if not _NAME.fullmatch(name):
            raise refuse(f"{name!r} cannot name a Minari dataset", "end it in a version, as in hopper-mine-v0")
        if metadata.get("ordered") is False:
            fault = "Minari's layout needs episodes, and the rows are single transitions in no order"
            raise refuse(fault, "write D4RL's schema (.hdf5) or SynthER's (.npz)")
        columns = columns_to_write(steps, next_observations=True)
        bounds = _episode_bounds(columns)
        with new_file(path, overwrite=False) as part:
            data = part / "data"
            data.mkdir(parents=True)
            with hdf5.create_hdf5(data / DATA_FILE) as (file, check):
                for i, (start, end) in enumerate(bounds):
                    _write_episode(file, i, {key: values[start:end] for key, values in columns.items()})
                    check()
            described = _describe(name, columns, len(bounds), (data / DATA_FILE).stat().st_size, metadata)
            (data / METADATA_FILE).write_text(json.dumps(described))
    return path


def write_pieces(
    path: AnyPath, pieces: Iterable[Columns], row_count: int, *, metadata: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Write transitions in no order as episodes of one step each, which the layout needs; see `Format.write_pieces`.

    A step that does not end the task is truncated. An episode takes `EPISODE_BYTES` and milliseconds to write and to
    read again, so more than `MOST_TRANSITIONS` are refused: `check_transitions` says so.
    """
    path = local_path(path)
    with refusing(path):
        check_transitions(row_count)
        with new_file(path, overwrite=False) as part:
            data = part / "data"
            data.mkdir(parents=True)
            number, within = 0, True
            with hdf5.create_hdf5(data / DATA_FILE) as (file, check):
                for piece in pieces:
                    columns = piece | {"timeouts": ~piece["terminals"]}
                    within = within and bool((np.abs(piece["actions"]) <= 1.0).all())
                    for row in range(len(piece["rewards"])):
                        _write_episode(file, number, {key: values[row : row + 1] for key, values in columns.items()})
                        number += 1
                    check()
            size = (data / DATA_FILE).stat().st_size
            described = _describe(path.name, columns, number, size, {**metadata, "ordered": False})
            described |= {"total_steps": number, "action_space": _box(columns["actions"], 1.0 if within else math.inf)}
            (data / METADATA_FILE).write_text(json.dumps(described))
    return path


def check_transitions(row_count: int) -> None:
    """Refuse more transitions than are of use as episodes of one step each."""
    if row_count > MOST_TRANSITIONS:
        fault = f"Minari's layout keeps each of {row_count:,} single transitions as an episode, which takes"
        fault += f" {row_count * EPISODE_BYTES / 1e9:.0f} GB and hours to write and to read"
        raise refuse(fault, f"at most {MOST_TRANSITIONS:,} are written; export d4rl or synther")


def _write_episode(file: h5py.File, number: int, columns: Columns) -> None:
    """One episode's group, of its rows of our columns."""
    group = file.create_group(f"episode_{number}")
    group.attrs.update({"id": number, "total_steps": len(columns["rewards"])})
    for key in (*_KEYS, *(name for name in columns if name.startswith(INFOS))):
        values = columns[_FLAGS.get(key, key)]
        if key == "observations":
            values = np.concatenate((values, columns["next_observations"][-1:]))
        hdf5.create_packed(group, key, values)
    group.require_group("infos")


def _episode_bounds(columns: Columns) -> list[tuple[int, int]]:
    """First row and row after the last of every episode, an unfinished last one too."""
    flags = columns["terminals"] | columns["timeouts"]
    jumps = ~leads_on(columns["observations"], columns["next_observations"]) & ~flags[:-1]
    if jumps.any():
        fault = f"'next_observations' is not the next row's observation {where(jumps, 'rows inside episodes')}"
        remedy = "Minari's layout stores each observation once; mark the ends of episodes, or write D4RL's layout"
        raise refuse(fault, remedy)
    flags[-1] = True
    return list(pairwise([0, *(np.flatnonzero(flags) + 1).tolist()]))


def _describe(name: str, columns: Columns, episodes: int, size: int, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``metadata.json``; Minari makes the spaces and the environment from their texts."""
    described: dict[str, Any] = {
        "total_episodes": episodes,
        "total_steps": len(columns["rewards"]),
        "data_format": "hdf5",
        "observation_space": _box(columns["observations"], math.inf),
        "action_space": _box(columns["actions"], 1.0 if (np.abs(columns["actions"]) <= 1.0).all() else math.inf),
        "dataset_id": name,
        "minari_version": _MINARI_VERSION,
        "dataset_size": round(size / 1e6, 1),
        "trajmill": dict(metadata),
    }
    if isinstance(metadata.get("algorithm"), str):
        described["algorithm_name"] = metadata["algorithm"]
    for task in TASKS.values():
        if metadata.get("environment") == task.environment_id:
            spec = {"id": task.environment_id, "entry_point": task.entry_point, "max_episode_steps": EPISODE_LIMIT}
            described["env_spec"] = json.dumps(spec | {"kwargs": {}, "additional_wrappers": []})
    return described


def _box(rows: NDArray[np.float32], limit: float) -> str:
    """Gymnasium's space of vectors like `rows`, every number within ± `limit`."""
    size = rows.shape[1]
    limits = {"low": [-limit] * size, "high": [limit] * size}
    return json.dumps({"type": "Box", "dtype": "float32", "shape": [size], **limits})
