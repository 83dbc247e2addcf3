"""Minari's HDF5 layout, read and written directly: one group per episode, and a JSON file about all of them.

A dataset is a directory with ``data/main_data.hdf5`` and ``data/metadata.json``. The group ``episode_<i>`` holds T
steps: ``observations`` (T + 1, O), ``actions`` (T, A), ``rewards``, ``terminations``, ``truncations`` (T,).
Source: minari.farama.org, "Dataset Standards", and Minari 0.5.4.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from trajmill.data.columns import (
    FLAGS,
    VECTORS,
    Columns,
    MemoryBudget,
    check_dtype,
    check_shape,
    clean_column,
    columns_to_write,
    warn_about_casts,
)
from trajmill.data.environments import EPISODE_LIMIT, TASKS, Task
from trajmill.data.episodes import CONTINUITY
from trajmill.data.errors import refuse, refusing, warn_about
from trajmill.data.formats import checked_dataset, new_file
from trajmill.data.hdf5 import check_memory, create_hdf5, create_packed, open_entry, open_hdf5, read_array
from trajmill.data.records import INFOS, Dataset, Steps

if TYPE_CHECKING:
    import h5py

SUFFIXES = ("",)
ORDERED = True
DATA_FILE, METADATA_FILE = "main_data.hdf5", "metadata.json"
_EPISODE = re.compile(r"episode_(0|[1-9][0-9]{0,8})")
_NAME = re.compile(r"[-\w/]+-v\d+", re.ASCII)
_STORED = {
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "terminals": "terminations",
    "timeouts": "truncations",
}
"""our name of a column to Minari's"""
_STATES = ("qpos", "qvel")
_LONGEST_METADATA = 2**24  # bytes; the limits of an image space are long lists
_LONGEST_ENTRY = 2**16  # characters of one text in the metadata
_MINARI_VERSION = "0.5.0"


def recognizes(path: Path) -> bool:
    """True for a directory that Minari would read, or one of its two files."""
    return _data_directory(path) is not None


def _data_directory(path: Path) -> Path | None:
    if path.name in (DATA_FILE, METADATA_FILE) and path.is_file():
        return path.parent
    return next((place for place in (path, path / "data") if (place / DATA_FILE).is_file()), None)


# --- reading ---


def read(path: str | Path, *, fix_timeouts: bool = False, memory_budget: int | None = None) -> Dataset:
    """Read and check a dataset in Minari's HDF5 layout.

    Episodes follow each other in numerical order. An episode that ends with neither flag is read as cut by a limit; a
    step that sets both is a terminal, as Gymnasium means it. Of the infos only ``qpos`` and ``qvel`` are read.

    Parameters
    ----------
    path
        The dataset's directory, its ``data`` directory, or ``main_data.hdf5``.
    fix_timeouts
        Without effect: the layout itself says where episodes end.
    memory_budget
        Most bytes the arrays may declare; None is half of the machine's memory.

    Returns
    -------
    Dataset
        Named by Minari's id; ``metadata`` holds the plain entries of ``metadata.json``, and under ``environment`` the
        Gymnasium id of its ``env_spec``.

    Raises
    ------
    DatasetError
        If the dataset is not what it should be, or its spaces are not boxes of one dimension; the message names the
        file, the key, the fault and what to do.
    ImportError
        If h5py is absent.
    """
    directory = _data_directory(Path(path))
    if directory is None:
        with refusing(path):
            needed = f"give the directory of a dataset with data/{DATA_FILE} and data/{METADATA_FILE}"
            raise refuse("not a Minari dataset", needed)
    with refusing(directory / METADATA_FILE):
        metadata = _read_metadata(directory / METADATA_FILE)
    file_path = directory / DATA_FILE
    with refusing(file_path):
        with open_hdf5(file_path) as file:
            episode_count = _count_episodes(file, metadata)
            _check_episodes(file, episode_count, metadata, MemoryBudget(memory_budget))
            episodes = [_read_episode(name, arrays) for name, arrays in _open_episodes(file, episode_count)]
        name = metadata.get("dataset_id")
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            name = directory.parent.name if directory.name == "data" else directory.name
        return checked_dataset(
            file_path, _join(episodes), fix_timeouts=False, name=name, metadata=_plain_metadata(metadata)
        )


def _read_metadata(path: Path) -> dict[str, Any]:
    """What Minari says about a dataset; refuse spaces and formats that are not read."""
    if not path.is_file():
        raise refuse("no such file", f"a Minari dataset needs {METADATA_FILE} beside {DATA_FILE}")
    if path.stat().st_size > _LONGEST_METADATA:
        raise refuse(f"the file has {path.stat().st_size:,} bytes", f"at most {_LONGEST_METADATA:,} are read")
    metadata = _parsed("the file", path.read_bytes())
    if metadata.get("data_format", "hdf5") != "hdf5":
        fault = f"key 'data_format' is {metadata['data_format']!r}"
        raise refuse(fault, "only Minari's HDF5 layout is read; let Minari convert it")
    for key in ("observation_space", "action_space"):
        if key in metadata:
            _check_space(key, _parsed(f"key {key!r}", metadata[key]))
    for key in ("total_episodes", "total_steps"):
        count = metadata.get(key, 0)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise refuse(f"key {key!r} is {count!r:.80}", "it must be a whole number")
    return metadata


def _parsed(what: str, text: object) -> dict[str, Any]:
    try:
        if not isinstance(text, str | bytes):
            raise ValueError(f"text is needed, got {type(text).__name__}")
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"an object is needed, got {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        raise refuse(f"{what} is not a valid JSON object ({error})", "copy or download it again") from None
    return value


def _check_space(key: str, space: Mapping[str, Any]) -> None:
    kind, shape = space.get("type"), space.get("shape")
    if kind != "Box" or not isinstance(shape, list) or len(shape) != 1:
        found = f"a {kind} space" + (f" of shape {shape}" if kind == "Box" else "")
        needed = "only boxes of one dimension are read; flatten it with a Gymnasium wrapper and store the dataset again"
        raise refuse(f"key {key!r} is {found:.80}", needed)


def _check_promise(found: int, things: str, metadata: Mapping[str, Any], key: str) -> None:
    """Refuse a file that has lost some of what its metadata counts."""
    promised = metadata.get(key, found)
    if promised != found:
        fault = f"the file holds {found:,} {things} where {METADATA_FILE} promises {promised:,} ({key!r})"
        raise refuse(fault, "download the dataset again")


def _count_episodes(file: h5py.File, metadata: Mapping[str, Any]) -> int:
    """Number of episodes, which must be named without a gap and be as many as the metadata says."""
    names = list(file)
    odd = sorted(name for name in names if not _EPISODE.fullmatch(name))
    if "observations" in odd:
        raise refuse("the file has D4RL's layout (key 'observations')", "read it with load_dataset or read_d4rl")
    if odd:
        raise refuse(f"key {odd[0]!r} is not an episode", "all keys must be 'episode_<number>'")
    if not names:
        raise refuse("the file holds no episode", "download or collect the dataset again")
    missing = set(range(len(names))) - {int(name.removeprefix("episode_")) for name in names}
    if missing:
        fault = f"key 'episode_{min(missing)}' is missing among {len(names)} episodes"
        raise refuse(fault, "episodes are numbered from 0 without a gap; download the dataset again")
    _check_promise(len(names), "episodes", metadata, "total_episodes")
    return len(names)


def _open_episodes(file: h5py.File, count: int) -> Iterator[tuple[str, dict[str, h5py.Dataset]]]:
    """Names and unread arrays of the episodes in numerical order; HDF5 keeps what it unpacks only while they are open.

    Arrays have our names, ``infos/qpos`` and ``infos/qvel`` among them if there.
    """
    import h5py

    for name in (f"episode_{i}" for i in range(count)):
        group = open_entry(file, name, name)
        if not isinstance(group, h5py.Group):
            raise refuse(f"key {name!r} is an array", "an episode must be a group of arrays")
        arrays = {}
        for column, stored in _STORED.items():
            key = _key(name, column)
            if stored not in group:
                raise refuse(f"key {key!r} is missing", f"an episode needs {', '.join(_STORED.values())}")
            arrays[column] = open_entry(group, stored, key)
            if not isinstance(arrays[column], h5py.Dataset):
                fault = f"key {key!r} is a group, as Dict and Tuple spaces make"
                raise refuse(fault, "only boxes of one dimension are read; flatten the space and store it again")
        infos = open_entry(group, "infos", f"{name}/infos") if "infos" in group else None
        if isinstance(infos, h5py.Group):
            for state in _STATES:
                if state in infos:
                    arrays[INFOS + state] = open_entry(infos, state, _key(name, INFOS + state))
        yield name, arrays


def _key(episode: str, column: str) -> str:
    """What the file calls a column of an episode."""
    return f"{episode}/{_STORED.get(column, column)}"


def _check_episodes(file: h5py.File, count: int, metadata: Mapping[str, Any], budget: MemoryBudget) -> None:
    """Check the shapes, types and sizes of all episodes before any is read."""
    step_count = 0
    widths: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    for episode, arrays in _open_episodes(file, count):
        for column, array in arrays.items():
            check_dtype(column, array.dtype, _key(episode, column))
        step_count += _check_lengths(episode, {column: tuple(array.shape or ()) for column, array in arrays.items()})
        for column in ("observations", "actions"):
            width = arrays[column].shape[1:]
            if width != widths.setdefault(column, width):
                fault = f"key '{episode}/{column}' has rows of shape {width}, 'episode_0/{column}' {widths[column]}"
                raise refuse(fault, "all episodes need the same spaces")
        check_memory({_key(episode, column): array for column, array in arrays.items()}, budget)
        dtypes |= {column: array.dtype for column, array in arrays.items()}
    _check_promise(step_count, "steps", metadata, "total_steps")
    if step_count < 2:
        raise refuse(f"key 'episode_0/actions' has {step_count} rows in all", "at least 2 steps are needed")
    warn_about_casts(dtypes)


def _check_lengths(episode: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Check one episode's shapes; return its number of steps."""
    for column, shape in shapes.items():
        check_shape(column if column in VECTORS else "observations", shape, _key(episode, column))
    count = shapes["actions"][0]
    if count == 0:
        raise refuse(f"key '{episode}/actions' has no rows: an episode without steps", "remove the episode")
    for column, shape in shapes.items():
        rows = (count, count + 1) if column.startswith(INFOS) else (count + (column == "observations"),)
        if shape[0] not in rows:
            needed = "one observation more than actions" if column == "observations" else "one row per step"
            fault = f"key {_key(episode, column)!r} has {shape[0]} rows where '{episode}/actions' has {count}"
            raise refuse(fault, f"{needed} is needed; store the dataset again")
    return count


def _read_episode(episode: str, arrays: Mapping[str, h5py.Dataset]) -> Columns:
    """One episode's columns, T rows each, with the next observations."""
    columns = {}
    for column, array in arrays.items():
        key = _key(episode, column)
        columns[column] = clean_column(column, read_array(key, array), key)
    count = len(columns["actions"])
    for flag in FLAGS:
        early = columns[flag][:-1]
        if early.any():
            fault = f"key {_key(episode, flag)!r} is set in row {int(early.argmax())}, before the last of {count}"
            raise refuse(fault, "only the last step of an episode ends it")
    columns["next_observations"] = columns["observations"][1:]
    return {column: values[:count] for column, values in columns.items()}


def _join(episodes: list[Columns]) -> Columns:
    """Put episodes one after another."""
    unmarked = [i for i, episode in enumerate(episodes) if not (episode["terminals"] | episode["timeouts"])[-1]]
    for i in unmarked:
        episodes[i]["timeouts"][-1] = True
    if unmarked:
        where = f"first 'episode_{unmarked[0]}/truncations'"
        warn_about(f"{len(unmarked)} episodes end with neither flag set, {where}; read as cut by a limit")
    shared = [column for column in episodes[0] if all(column in episode for episode in episodes)]
    columns = {column: np.concatenate([episode[column] for episode in episodes]) for column in shared}
    columns["timeouts"] &= ~columns["terminals"]
    return columns


def _plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and short texts, the dataset's own entries, and the environment's id."""
    values = {
        key: value
        for key, value in metadata.items()
        if isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _LONGEST_ENTRY)
    }
    own = metadata.get("trajmill")
    values.update(own if isinstance(own, dict) else {})
    try:
        environment = json.loads(metadata.get("env_spec", ""))["id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        environment = None
    if isinstance(environment, str):
        values.setdefault("environment", environment)
    for key in ("env_spec", "observation_space", "action_space"):
        values.pop(key, None)
    return values


# --- writing ---


def write(path: str | Path, *, overwrite: bool = False, dataset_id: str | None = None, **steps: Unpack[Steps]) -> Path:
    """Write steps as a Minari dataset: a new directory that `minari.load_dataset` reads, whole or not at all.

    Minari looks for it under ``$MINARI_DATASETS_PATH`` (``~/.minari/datasets``) by its id.

    Parameters
    ----------
    path
        The dataset's directory, to be created; its name ends in ``-v`` and a number.
    overwrite
        Without effect: a directory is never replaced.
    dataset_id
        Such as ``mujoco/hopper/mine-v0``; None is the directory's name.
    steps
        As `Steps` describes them, with next observations. Minari stores each observation once, so inside an episode
        the next observation must be the next row's. Steps after the last end become an episode with neither flag. Of
        the infos only ``qpos`` and ``qvel`` are kept. Metadata goes under the key ``trajmill`` of ``metadata.json``;
        ``algorithm`` and, for a task in `TASKS`, ``environment`` are repeated in Minari's own entries.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    DatasetError
        If a column or the name is wrong, or the directory exists; nothing is written.
    OSError
        If the disk fails or is full; nothing is left.
    """
    path, metadata = Path(path), steps.get("metadata") or {}
    name = path.name if dataset_id is None else dataset_id
    with refusing(path):
        if not _NAME.fullmatch(name):
            raise refuse(f"{name!r} cannot name a Minari dataset", "let it end in a version: hopper-mine-v0")
        if metadata.get("ordered") is False:
            fault = "Minari's layout needs episodes, and the rows are single transitions in no order"
            raise refuse(fault, "write D4RL's schema (.hdf5) or SynthER's (.npz)")
        columns = columns_to_write(steps, infos=_STATES, next_observations=True)
        bounds = _episode_bounds(columns)
        with new_file(path, overwrite=False) as part:
            data = part / "data"
            data.mkdir(parents=True)
            with create_hdf5(data / DATA_FILE) as file:
                for i, (start, end) in enumerate(bounds):
                    _write_episode(file.create_group(f"episode_{i}"), columns, i, start, end)
            described = _describe(name, columns, len(bounds), (data / DATA_FILE).stat().st_size, metadata)
            (data / METADATA_FILE).write_text(json.dumps(described))
    return path


def _episode_bounds(columns: Columns) -> list[tuple[int, int]]:
    """First row and row after the last of every episode, an unfinished last one too."""
    flags = columns["terminals"] | columns["timeouts"]
    jumps = np.abs(columns["next_observations"][:-1] - columns["observations"][1:]).max(axis=1) > CONTINUITY
    jumps &= ~flags[:-1]
    if jumps.any():
        fault = f"'next_observations' is not the next row's observation in {int(jumps.sum())} rows inside episodes"
        remedy = "Minari's layout stores each observation once; mark the ends of episodes, or write D4RL's layout"
        raise refuse(f"{fault}, first in row {int(jumps.argmax())}", remedy)
    ends = np.flatnonzero(flags) + 1
    bounds = [0, *ends.tolist()] + ([] if flags[-1] else [len(flags)])
    return list(pairwise(bounds))


def _write_episode(group: h5py.Group, columns: Columns, number: int, start: int, end: int) -> None:
    group.attrs.update({"id": number, "total_steps": end - start})
    for column, stored in _STORED.items():
        values = columns[column][start:end]
        if column == "observations":
            values = np.concatenate((values, columns["next_observations"][end - 1 : end]))
        create_packed(group, stored, values)
    infos = group.create_group("infos")
    for state in _STATES:
        if INFOS + state in columns:
            create_packed(infos, state, columns[INFOS + state][start:end])


def _describe(name: str, columns: Columns, episodes: int, size: int, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What ``metadata.json`` says."""
    bounded = bool((np.abs(columns["actions"]) <= 1.0).all())
    described: dict[str, Any] = {
        "total_episodes": episodes,
        "total_steps": len(columns["rewards"]),
        "data_format": "hdf5",
        "observation_space": _box(columns["observations"].shape[1], math.inf),
        "action_space": _box(columns["actions"].shape[1], 1.0 if bounded else math.inf),
        "dataset_id": name,
        "minari_version": _MINARI_VERSION,
        "dataset_size": round(size / 1e6, 1),
        "trajmill": dict(metadata),
    }
    if isinstance(metadata.get("algorithm"), str):
        described["algorithm_name"] = metadata["algorithm"]
    for task in TASKS.values():
        if metadata.get("environment") == task.environment_id:
            described["env_spec"] = _environment_spec(task)
    return described


def _box(size: int, limit: float) -> str:
    box = {"type": "Box", "dtype": "float32", "shape": [size], "low": [-limit] * size, "high": [limit] * size}
    return json.dumps(box)


def _environment_spec(task: Task) -> str:
    """Gymnasium's description of a task, from which Minari makes it again."""
    spec: dict[str, Any] = {
        "id": task.environment_id,
        "entry_point": task.entry_point,
        "reward_threshold": None,
        "nondeterministic": False,
        "max_episode_steps": EPISODE_LIMIT,
        "order_enforce": True,
        "disable_env_checker": False,
        "kwargs": {},
        "additional_wrappers": [],
        "vector_entry_point": None,
    }
    return json.dumps(spec)
