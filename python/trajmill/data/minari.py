"""Minari's HDF5 layout, read and written directly: one group per episode, and a JSON file about all of them.

A data set is a directory with ``data/main_data.hdf5`` and ``data/metadata.json``. The group ``episode_<i>`` holds T
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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmill.data.columns import check_contents, check_dtype, clean_column, columns_to_write, remark_casts
from trajmill.data.environments import EPISODE_LIMIT, TASKS, Task
from trajmill.data.episodes import CONTINUITY, settle_episodes
from trajmill.data.errors import refuse, remark
from trajmill.data.hdf5 import check_memory, create_packed, import_h5py, open_entry, open_hdf5, read_array
from trajmill.data.records import Dataset
from trajmill.data.writing import whole

if TYPE_CHECKING:
    import h5py

DATA_FILE, METADATA_FILE = "main_data.hdf5", "metadata.json"
_EPISODE = re.compile(r"episode_(0|[1-9][0-9]{0,8})")
_NAME = re.compile(r"[-\w/]+-v\d+", re.ASCII)
_COLUMNS = {
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "terminations": "terminals",
    "truncations": "timeouts",
}
_STATES = ("qpos", "qvel")
_LONGEST_METADATA = 2**24  # bytes; the limits of an image space are long lists
_MINARI_VERSION = "0.5.0"

Arrays = dict[str, NDArray[Any]]


def is_minari(path: Path) -> bool:
    """True for a directory that Minari would read, or one of its two files."""
    return _data_directory(path) is not None


def _data_directory(path: Path) -> Path | None:
    if path.name in (DATA_FILE, METADATA_FILE) and path.is_file():
        return path.parent
    return next((place for place in (path, path / "data") if (place / DATA_FILE).is_file()), None)


def read_minari(path: str | Path, *, memory_budget: int | None = None) -> Dataset:
    """Read and check a data set in Minari's HDF5 layout.

    Episodes follow each other in numerical order. An episode that ends with neither flag is read as cut by a limit; a
    step that sets both is a terminal, as Gymnasium means it. Of the infos only ``qpos`` and ``qvel`` are read.

    Parameters
    ----------
    path
        The data set's directory, its ``data`` directory, or ``main_data.hdf5``.
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
        If the data set is not what it should be, or its spaces are not boxes of one dimension; the message names the
        file, the key, the fault and what to do.
    ImportError
        If h5py is absent.
    """
    directory = _data_directory(Path(path))
    if directory is None:
        needed = f"give the directory of a data set with data/{DATA_FILE} and data/{METADATA_FILE}"
        raise refuse(Path(path), "no Minari data set", needed)
    metadata = _read_metadata(directory / METADATA_FILE)
    file_path = directory / DATA_FILE
    with open_hdf5(file_path) as file:
        episode_count = _count_episodes(file_path, file, metadata)
        groups = _open_groups(file_path, file, episode_count)
        _check_episodes(file_path, groups, metadata, memory_budget)
        episodes = [
            _read_episode(file_path, name, group) for name, group in _open_groups(file_path, file, episode_count)
        ]
    dataset = _join(directory, episodes, metadata)
    check_contents(dataset)
    return settle_episodes(dataset, fix_timeouts=False)


def _read_metadata(path: Path) -> dict[str, Any]:
    """What Minari says about a data set; refuse spaces and formats that are not read."""
    if not path.is_file():
        raise refuse(path, "no such file", f"a Minari data set needs {METADATA_FILE} beside {DATA_FILE}")
    if path.stat().st_size > _LONGEST_METADATA:
        raise refuse(path, f"the file has {path.stat().st_size:,} bytes", f"at most {_LONGEST_METADATA:,} are read")
    metadata = _parsed(path, "the file", path.read_bytes())
    if metadata.get("data_format", "hdf5") != "hdf5":
        fault = f"key 'data_format' is {metadata['data_format']!r}"
        raise refuse(path, fault, "only Minari's HDF5 layout is read; let Minari convert it")
    for key in ("observation_space", "action_space"):
        if key in metadata:
            _check_space(path, key, _parsed(path, f"key {key!r}", metadata[key]))
    for key in ("total_episodes", "total_steps"):
        count = metadata.get(key, 0)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise refuse(path, f"key {key!r} is {count!r:.80}", "it must be a whole number")
    return metadata


def _parsed(path: Path, what: str, text: object) -> dict[str, Any]:
    try:
        if not isinstance(text, str | bytes):
            raise ValueError(f"text is needed, got {type(text).__name__}")
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"an object is needed, got {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        raise refuse(path, f"{what} is not what Minari writes in JSON ({error})", "copy or download it again") from None
    return value


def _check_space(path: Path, key: str, space: Mapping[str, Any]) -> None:
    kind, shape = space.get("type"), space.get("shape")
    if kind != "Box" or not isinstance(shape, list) or len(shape) != 1:
        found = f"a {kind} space" + (f" of shape {shape}" if kind == "Box" else "")
        needed = "only boxes of one dimension are read; flatten it with a Gymnasium wrapper and store the set again"
        raise refuse(path, f"key {key!r} is {found:.80}", needed)


def _count_episodes(path: Path, file: h5py.File, metadata: Mapping[str, Any]) -> int:
    """Number of episodes, which must be named without a gap and be as many as the metadata say."""
    names = list(file)
    odd = sorted(name for name in names if not _EPISODE.fullmatch(name))
    if "observations" in odd:
        raise refuse(path, "the file has D4RL's layout (key 'observations')", "read it with load_dataset or read_d4rl")
    if odd:
        raise refuse(path, f"key {odd[0]!r} is no episode", "all keys must be 'episode_<number>'")
    if not names:
        raise refuse(path, "the file holds no episode", "download or collect the data set again")
    missing = set(range(len(names))) - {int(name.removeprefix("episode_")) for name in names}
    if missing:
        fault = f"key 'episode_{min(missing)}' is missing among {len(names)} episodes"
        raise refuse(path, fault, "episodes are numbered from 0 without a gap; download the data set again")
    promised = metadata.get("total_episodes", len(names))
    if promised != len(names):
        fault = f"the file holds {len(names)} episodes where {METADATA_FILE} promises {promised} ('total_episodes')"
        raise refuse(path, fault, "download the data set again")
    return len(names)


def _open_groups(path: Path, file: h5py.File, count: int) -> Iterator[tuple[str, h5py.Group]]:
    """Episodes in numerical order, one open at a time: HDF5 keeps what it has unpacked of every open array."""
    for i in range(count):
        name = f"episode_{i}"
        group = open_entry(path, file, name, name)
        if not isinstance(group, import_h5py().Group):
            raise refuse(path, f"key {name!r} is an array", "an episode must be a group of arrays")
        yield name, group


def _open_columns(path: Path, name: str, group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Unread arrays of one episode under Minari's names, ``infos/qpos`` and ``infos/qvel`` among them if there."""
    library = import_h5py()
    columns = {}
    for key in _COLUMNS:
        if key not in group:
            raise refuse(path, f"key '{name}/{key}' is missing", f"an episode needs {', '.join(_COLUMNS)}")
        columns[key] = open_entry(path, group, key, f"{name}/{key}")
        if not isinstance(columns[key], library.Dataset):
            fault = f"key '{name}/{key}' is a group, as Dict and Tuple spaces make"
            raise refuse(path, fault, "only boxes of one dimension are read; flatten the space and store the set again")
    if "infos" in group:
        infos = open_entry(path, group, "infos", f"{name}/infos")
        if isinstance(infos, library.Group):
            for key in _STATES:
                if key in infos:
                    columns[f"infos/{key}"] = open_entry(path, infos, key, f"{name}/infos/{key}")
    return columns


def _check_episodes(
    path: Path,
    groups: Iterator[tuple[str, h5py.Group]],
    metadata: Mapping[str, Any],
    memory_budget: int | None,
) -> None:
    """Check the shapes, types and sizes of all episodes before any is read."""
    total_bytes, step_count, first, dtypes = 0, 0, None, {}
    for name, group in groups:
        columns = _open_columns(path, name, group)
        for key, column in columns.items():
            check_dtype(path, _COLUMNS.get(key, key), column.dtype, f"{name}/{key}")
            dtypes[key] = column.dtype
        rows = {key: tuple(column.shape or ()) for key, column in columns.items()}
        step_count += _check_lengths(path, name, rows)
        widths = {key: shape[1:] for key, shape in rows.items() if key in ("observations", "actions")}
        first = first or widths
        for key, width in widths.items():
            if width != first[key]:
                fault = f"key '{name}/{key}' has rows of shape {width}, 'episode_0/{key}' of {first[key]}"
                raise refuse(path, fault, "all episodes need the same spaces")
        total_bytes = check_memory(
            path, {f"{name}/{key}": column for key, column in columns.items()}, memory_budget, total_bytes
        )
    promised = metadata.get("total_steps", step_count)
    if promised != step_count:
        fault = f"the episodes hold {step_count:,} steps where {METADATA_FILE} promises {promised:,} ('total_steps')"
        raise refuse(path, fault, "download the data set again")
    if step_count < 2:
        raise refuse(path, f"key 'episode_0/actions' has {step_count} rows in all", "at least 2 steps are needed")
    remark_casts(path, dtypes)


def _check_lengths(path: Path, name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Check one episode's shapes; return its number of steps."""
    for key, shape in shapes.items():
        vector = key in ("rewards", "terminations", "truncations")
        if not (len(shape) == 2 and shape[1] > 0) and not (vector and len(shape) == 1):
            needed = "one number per step" if vector else "a matrix, one row per step"
            raise refuse(path, f"key '{name}/{key}' has shape {shape}", f"it must be {needed}")
        if vector and len(shape) == 2 and shape[1] != 1:
            raise refuse(path, f"key '{name}/{key}' has shape {shape}", "it must hold one number per step, shape (T,)")
    count = shapes["actions"][0]
    if count == 0:
        raise refuse(path, f"key '{name}/actions' has no rows: an episode without steps", "remove the episode")
    for key, shape in shapes.items():
        rows = (count, count + 1) if key.startswith("infos/") else (count + (key == "observations"),)
        if shape[0] not in rows:
            needed = "one observation more than actions" if key == "observations" else "one row per step"
            fault = f"key '{name}/{key}' has {shape[0]} rows where '{name}/actions' has {count}"
            raise refuse(path, fault, f"{needed} is needed; store the data set again")
    return count


def _read_episode(path: Path, name: str, group: h5py.Group) -> Arrays:
    """One episode's columns under D4RL's names, T rows each, with the next observations."""
    columns = {}
    for key, array in _open_columns(path, name, group).items():
        label = f"{name}/{key}"
        columns[_COLUMNS.get(key, key)] = clean_column(
            path, _COLUMNS.get(key, key), read_array(path, label, array), label
        )
    count = len(columns["actions"])
    for key in ("terminals", "timeouts"):
        early = columns[key][:-1]
        if early.any():
            stored = next(k for k, v in _COLUMNS.items() if v == key)
            fault = f"key '{name}/{stored}' is set in row {int(early.argmax())}, before the last of {count}"
            raise refuse(path, fault, "only the last step of an episode ends it")
    columns["next_observations"] = columns["observations"][1:]
    return {key: values if key == "next_observations" else values[:count] for key, values in columns.items()}


def _join(directory: Path, episodes: list[Arrays], metadata: Mapping[str, Any]) -> Dataset:
    """Put episodes one after another."""
    path = directory / DATA_FILE
    unmarked = [i for i, episode in enumerate(episodes) if not (episode["terminals"] | episode["timeouts"])[-1]]
    for i in unmarked:
        episodes[i]["timeouts"][-1] = True
    if unmarked:
        where = f"first 'episode_{unmarked[0]}/truncations'"
        remark(path, f"{len(unmarked)} episodes end with neither flag set, {where}; read as cut by a limit")
    shared = [key for key in episodes[0] if all(key in episode for episode in episodes)]
    columns = {key: np.concatenate([episode[key] for episode in episodes]) for key in shared}
    name = metadata.get("dataset_id")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        name = directory.parent.name if directory.name == "data" else directory.name
    return Dataset(
        name=name,
        path=path,
        observations=columns["observations"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        terminals=columns["terminals"],
        timeouts=columns["timeouts"] & ~columns["terminals"],
        next_observations=columns["next_observations"],
        infos={key: columns[f"infos/{key}"] for key in _STATES if f"infos/{key}" in columns},
        metadata=_plain_metadata(metadata),
    )


def _plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The short entries, the data set's own, and the environment's id."""
    own = metadata.get("trajmill")
    values = {key: value for key, value in metadata.items() if isinstance(value, int | float) or _is_short(value)}
    values.update(own if isinstance(own, dict) else {})
    try:
        environment = json.loads(metadata.get("env_spec", ""))["id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        environment = None
    if isinstance(environment, str) and "environment" not in values:
        values["environment"] = environment
    values.pop("env_spec", None)
    values.pop("observation_space", None)
    values.pop("action_space", None)
    return values


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 2**16


def write_minari(
    directory: str | Path,
    *,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminals: ArrayLike,
    timeouts: ArrayLike,
    next_observations: ArrayLike,
    infos: Mapping[str, ArrayLike] | None = None,
    metadata: Mapping[str, Any] | None = None,
    dataset_id: str | None = None,
) -> Path:
    """Write steps as a Minari data set: a new directory that `minari.load_dataset` reads, whole or not at all.

    Minari looks for it under ``$MINARI_DATASETS_PATH`` (``~/.minari/datasets``) by its id.

    Parameters
    ----------
    directory
        The data set's directory, to be created; its name ends in ``-v`` and a number.
    observations, actions, rewards, terminals, timeouts, next_observations, infos
        As `trajmill.data.write_d4rl` takes them. Minari stores each observation once, so inside an episode the next
        observation must be the next row's. Steps after the last end become an episode with neither flag.
    metadata
        Provenance, kept under the key ``trajmill`` of ``metadata.json``. ``algorithm`` and, for a task in `TASKS`,
        ``environment`` are told in Minari's own words too.
    dataset_id
        Such as ``mujoco/hopper/mine-v0``; None is the directory's name.

    Returns
    -------
    Path
        `directory`.

    Raises
    ------
    DatasetError
        If a column or the name is wrong, or the directory exists; nothing is written.
    OSError
        If the disk fails or is full; nothing is left.
    """
    directory = Path(directory)
    name = directory.name if dataset_id is None else dataset_id
    if not _NAME.fullmatch(name):
        raise refuse(directory, f"{name!r} is no name for a Minari data set", "let it end in a version: hopper-mine-v0")
    columns = columns_to_write(
        directory,
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=timeouts,
        next_observations=next_observations,
        infos={key: values for key, values in (infos or {}).items() if key in _STATES},
    )
    bounds = _episode_bounds(directory, columns)
    library = import_h5py()
    with whole(directory, overwrite=False) as part:
        data = part / "data"
        data.mkdir(parents=True)
        try:
            with library.File(data / DATA_FILE, "x") as file:
                for i, (start, end) in enumerate(bounds):
                    _write_episode(file.create_group(f"episode_{i}"), columns, i, start, end)
        except RuntimeError as error:  # how HDF5 says that the disk is full when it closes a file
            raise OSError(f"{directory}: HDF5 says {error}") from error
        described = _describe(name, columns, len(bounds), (data / DATA_FILE).stat().st_size, metadata or {})
        (data / METADATA_FILE).write_text(json.dumps(described))
    return directory


def _episode_bounds(path: Path, columns: Arrays) -> list[tuple[int, int]]:
    """First row and row after the last of every episode, an unfinished last one too."""
    flags = columns["terminals"] | columns["timeouts"]
    jumps = np.abs(columns["next_observations"][:-1] - columns["observations"][1:]).max(axis=1) > CONTINUITY
    jumps &= ~flags[:-1]
    if jumps.any():
        fault = f"'next_observations' is not the next row's observation in {int(jumps.sum())} rows inside episodes"
        remedy = "Minari's layout stores each observation once; mark the ends of episodes, or write D4RL's layout"
        raise refuse(path, f"{fault}, first in row {int(jumps.argmax())}", remedy)
    ends = np.flatnonzero(flags) + 1
    bounds = [0, *ends.tolist()] + ([] if flags[-1] else [len(flags)])
    return list(pairwise(bounds))


def _write_episode(group: h5py.Group, columns: Arrays, number: int, start: int, end: int) -> None:
    group.attrs.update({"id": number, "total_steps": end - start})
    for key, name in _COLUMNS.items():
        values = columns[name][start:end]
        if key == "observations":
            values = np.concatenate((values, columns["next_observations"][end - 1 : end]))
        create_packed(group, key, values)
    infos = group.create_group("infos")
    for key in _STATES:
        if f"infos/{key}" in columns:
            create_packed(infos, key, columns[f"infos/{key}"][start:end])


def _describe(name: str, columns: Arrays, episodes: int, size: int, metadata: Mapping[str, Any]) -> dict[str, Any]:
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
