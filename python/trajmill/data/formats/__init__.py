"""The file formats of datasets, one module each. To add one, add a module here; nothing else has to change.

A module's name is the format's name (``trajmill dataset convert --to``), and it has what `Format` lists. `load_dataset`
reads with the first module that recognizes a path; `trajmill.experiments.datasets.convert` writes with the module that
is named, or whose suffix the new file has. docs/add-a-dataset-format.md has an example.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Unpack, cast

import numpy as np

from trajmill.core import checks
from trajmill.core.files import contents, replacing
from trajmill.core.paths import AnyPath, local_path
from trajmill.data.columns import check_contents, clean_column
from trajmill.data.episodes import in_one_precision, leads_on, settle_episodes
from trajmill.data.errors import refuse, refusing
from trajmill.data.records import COLUMNS, INFOS, Columns, Dataset, Steps


class Format(Protocol):
    """What a module of this package has."""

    SUFFIXES: tuple[str, ...]
    """endings of the names of files that are written in this format; ``""`` is a name without one. A format that
    is only read has none, and no function `write`"""
    ORDERED: bool
    """whether readers of this format take the next row for the next step"""

    def recognizes(self, path: Path) -> bool:
        """Whether this module should read what is at `path`; a short look that trusts nothing."""

    def read(
        self, path: AnyPath, *, fix_timeouts: bool = False, limit: int | None = None, memory_budget: int | None = None
    ) -> Dataset:
        """Read and check a dataset, with `load_dataset`'s options; DatasetError for what cannot be trusted."""

    def write(self, path: AnyPath, *, overwrite: bool = False, **steps: Unpack[Steps]) -> Path:
        """Write columns, infos and metadata, as `Steps` describes them, and return `path`.

        The file or directory appears whole or not at all; missing parent directories are made. `overwrite` replaces a
        file, never a directory. What the format cannot hold is refused before anything is written.
        """

    def write_pieces(
        self,
        path: AnyPath,
        pieces: Iterable[Columns],
        row_count: int,
        *,
        metadata: Mapping[str, Any],
        overwrite: bool = False,
    ) -> Path:
        """Write `row_count` transitions in no order that come in pieces, of which memory holds one at a time.

        A piece has the columns of `Steps` but for the timeouts, which are all zero, and all have as many rows but the
        last, which may have fewer. They may be read several times. Numbers are finite; nothing is checked again. The
        file appears whole or not at all, as in `write`. A format without this function is not one for `trajmill
        upsample --export`.
        """


def format_names(*, written: bool = False) -> tuple[str, ...]:
    """Names of all formats, or of those that are also `written`."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in names if not written or format_named(name).SUFFIXES)


def format_named(name: str) -> Format:
    """The module of a format."""
    return cast(Format, import_module(f"{__name__}.{name}"))


def format_of(path: Path) -> str:
    """Name of the format that recognizes a file or directory; D4RL's, which takes every file, is asked last."""
    for name in sorted(format_names(), key=lambda name: name == "d4rl"):
        if format_named(name).recognizes(path) and not (name == "d4rl" and path.suffix == ".csv"):
            return name
    with refusing(path):
        if path.is_dir():
            remedy = "give one file, a directory with data/main_data.hdf5, or RUN/replay/SEED of an online run"
            raise refuse("a directory, but not a dataset", remedy)
        raise refuse("a CSV file of tokens has no steps", "read it with trajmill.data.read_token_csv")


def format_for(path: Path) -> str:
    """Name of the format in which a new file of this name is written."""
    suffixes = {suffix: name for name in format_names() for suffix in format_named(name).SUFFIXES}
    if path.suffix not in suffixes:
        with refusing(path):
            endings = " or ".join(filter(None, suffixes))
            raise refuse("its ending names no format", f"end it in {endings}, or say which format with --to")
    return suffixes[path.suffix]


def write_dataset(path: AnyPath, dataset: Dataset, *, overwrite: bool = False) -> Path:
    """Write a dataset in the format that the ending of `path` names: ``.hdf5``, ``.npz`` or, of a directory, none.

    DatasetError for another ending, for what the format cannot hold, and unless `overwrite` for a file that exists.
    """
    place = local_path(path)
    checks.instance("dataset", dataset, Dataset, "a Dataset, such as load_dataset gives")
    return format_named(format_for(place)).write(place, overwrite=overwrite, **dataset.to_write())


def checked_dataset(
    path: Path, arrays: Columns, *, fix_timeouts: bool, limit: int | None = None, **fields: Any
) -> Dataset:
    """The dataset of columns as the file stores them: cleaned, after the checks of contents, flags and episode ends.

    `fields` are the other fields of `Dataset`: its name, and perhaps `metadata` and `ordered`.
    """
    arrays = in_one_precision(arrays)
    leads = leads_on(arrays["observations"], arrays["next_observations"]) if "next_observations" in arrays else None
    columns = {name: clean_column(name, values) for name, values in arrays.items()}
    has_timeouts = "timeouts" in columns
    columns.setdefault("timeouts", np.zeros(len(columns["rewards"]), np.bool_))
    infos = {name.removeprefix(INFOS): values for name, values in columns.items() if name.startswith(INFOS)}
    fields |= {name: columns.get(name) for name in COLUMNS}
    dataset = Dataset(path=path, infos=infos, **fields)
    check_contents(dataset)
    return settle_episodes(dataset, leads, has_timeouts=has_timeouts, fix_timeouts=fix_timeouts, limit=limit)


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """As `core.files.replacing`; refuses a directory that is not empty, and unless `overwrite` a file that exists."""

    def check_free() -> None:
        if path.is_dir():
            if contents(path):
                raise refuse("the directory exists and is not empty", "choose another name or remove it")
        elif os.path.lexists(path) and not overwrite:
            raise refuse("the file exists", "choose another name, or say overwrite=True (--overwrite)")

    check_free()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, check_free) as part:
        yield part
