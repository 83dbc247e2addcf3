"""Loading datasets by name or by path, whatever their format."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from trajmill.core.paths import AnyPath, local_path
from trajmill.data.errors import refuse, refusing
from trajmill.data.formats import format_named, format_of
from trajmill.data.official import official_file
from trajmill.data.records import Dataset
from trajmill.data.subsets import Subset, clip_actions, keep_observations

_BUNDLED = Path(__file__).parent / "bundled"
_MINARI_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+", re.ASCII)


def bundled_datasets() -> tuple[str, ...]:
    """Names of the datasets that come with the package, in alphabetical order."""
    return tuple(sorted(path.stem for path in _BUNDLED.glob("*.hdf5")))


def cache_directory() -> Path:
    """Where downloads go: ``$TRAJMILL_DATASETS``, else ``trajmill/datasets`` in the user's cache directory.

    ValueError if no variable says it and no home directory is known.
    """
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return local_path(os.environ.get("TRAJMILL_DATASETS") or f"{users}/trajmill/datasets")
    except ValueError as error:
        raise ValueError(f"{error}; the variable TRAJMILL_DATASETS says where datasets are kept") from None


def find_dataset(name_or_path: AnyPath) -> Path:
    """The path of a dataset by its bundled name, its path, its official name or its Minari id."""
    name = os.fspath(name_or_path) if isinstance(name_or_path, os.PathLike) else str(name_or_path)
    if name in bundled_datasets():
        return _BUNDLED / f"{name}.hdf5"
    official, directories = official_file(name), _searched_for_official()
    with refusing(name):
        try:
            places = [local_path(name)]
        except ValueError as error:
            raise refuse(str(error), f"bundled are: {', '.join(bundled_datasets())}") from None
    if official:
        names = (official.file_name, f"{official.name}.hdf5")
        places += [directory / file_name for directory in directories for file_name in names]
    elif _MINARI_ID.fullmatch(name):
        places += [place / name for place in _known(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets")]
    for place in places:
        if place.exists():
            return place
    known = f"bundled are: {', '.join(bundled_datasets())}"
    with refusing(name):
        if official:
            looked = ", ".join(map(str, directories))
            fault = f"{official.file_name} ({official.size:,} bytes) is in none of {looked}"
            raise refuse(fault, f"get it with `trajmill dataset download {official.name}`; {known}")
        where = f" (looked for it in {places[1].parent})" if len(places) > 1 else ""
        raise refuse(f"no such file, and not a known dataset{where}", known)


def _searched_for_official() -> list[Path]:
    """Where official files may be, as far as it is known."""
    directories = _known(os.environ.get("D4RL_DATASET_DIR"), "~/.d4rl/datasets")
    with suppress(ValueError):
        directories.append(cache_directory())
    return directories


def _known(*directories: str | None) -> list[Path]:
    """The directories that are given, without those in a home that nobody knows."""
    found = []
    for directory in filter(None, directories):
        with suppress(ValueError):
            found.append(local_path(directory))
    return found


def load_dataset(
    name_or_path: AnyPath,
    *,
    subset: Subset | None = None,
    observation_dim: int | None = None,
    action_limit: float | None = None,
    fix_timeouts: bool = False,
    limit: int | None = None,
    memory_budget: int | None = None,
) -> Dataset:
    """Read a dataset by its name or path, in any of the formats of `trajmill.data.formats`.

    Nothing is downloaded; `download_dataset` and ``trajmill dataset download`` do that. The name is a bundled one
    (`bundled_datasets`), a path, an official one such as ``hopper-medium-replay-v2`` whose file is in
    ``$D4RL_DATASET_DIR``, ``~/.d4rl/datasets`` or `cache_directory`, or the id of a Minari dataset in
    ``$MINARI_DATASETS_PATH`` or ``~/.minari/datasets``. What is not found or not fit for use is a `DatasetError`.

    `subset` takes a part. `observation_dim` keeps the first numbers of each observation, such as 27 of Ant's 111; those
    dropped must be zero. `action_limit`, > 0, clips actions to ± this. `fix_timeouts` marks ends of episodes that
    D4RL's flags leave out (`read_d4rl`). `limit`, >= 1, is the number of steps after which the environment cut its
    episodes: where no end is marked for so many steps, one is marked as a timeout. A file that stores neither timeouts
    nor next observations needs it, unless its environment is one of `TASKS`; it has no effect on rows in no order.
    `memory_budget` is the most bytes that the arrays may declare; None is half of the machine's memory.
    """
    path = find_dataset(name_or_path)
    reader = format_named(format_of(path))
    dataset = reader.read(path, fix_timeouts=fix_timeouts, limit=limit, memory_budget=memory_budget)
    if observation_dim is not None:
        dataset = keep_observations(dataset, observation_dim)
    if action_limit is not None:
        dataset = clip_actions(dataset, action_limit)
    return dataset if subset is None else subset.take(dataset)
