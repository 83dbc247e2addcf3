"""What an agent has collected while it learned online: the directory ``RUN/replay/SEED`` of a run.

A file ``FIRST_ROW.safetensors`` has a row for each step of each of the seed's E environments, step by step and
environment by environment; actions are within ±1. As a dataset the environments follow each other, each in the order of
time, and actions are as the environment takes them. Runs write such files (`trajmill.replay.ring`); here they are read.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.core.json_input import parse_json
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.sealing import ARRAYS_FORMAT, arrays_hash
from trajmill.data.actions import recorded_limit, to_environment
from trajmill.data.columns import MemoryBudget, check_columns
from trajmill.data.errors import refuse, refusing, warn_about, where
from trajmill.data.formats import checked_dataset
from trajmill.data.records import COLUMNS, Columns, Dataset

SUFFIXES = ()
ORDERED = True
_FILE = re.compile(r"[0-9]{12,18}\.safetensors")
_KEYS = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "terminal": "terminals",
    "truncated": "timeouts",
    "next_observation": "next_observations",
}
_RESTORE = "copy the directory again, or restore the file"


def recognizes(path: Path) -> bool:
    """True for a directory with a file of rows, and for such a file."""
    if path.is_dir():
        return any(_FILE.fullmatch(entry.name) for entry in path.iterdir())
    return path.is_file() and _FILE.fullmatch(path.name) is not None


def read(
    path: AnyPath,
    *,
    fix_timeouts: bool = False,
    limit: int | None = None,
    memory_budget: int | None = None,
    row_count: int | None = None,
) -> Dataset:
    """Read and check what a seed's agent has collected; options as in `load_dataset`.

    `row_count` takes the first rows, in the order in which they were made, at least 2 and a multiple of E; None takes
    all, and then refuses fewer than the newest checkpoint of the run has, if the directory is in its run. An episode
    that was not over at the end has neither flag if its environment is the last one, else a timeout, with a warning. A
    row that the environment failed to give, which has no reward, is left out with a warning.
    """
    path = local_path(path)
    with refusing(path):
        if not path.is_dir():
            fault = "one of the files of a replay" if path.is_file() else "no such directory"
            raise refuse(fault, "give the directory of all, RUN/replay/SEED")
        least = _rows_of_run(path) if row_count is None else row_count  # a run that is under way adds to both
        arrays, known = _read_files(path, row_count, MemoryBudget(memory_budget))
        columns = check_columns(arrays, required=COLUMNS)
        count, environments = len(columns["rewards"]), known.pop("environments", None)
        if count < least:
            raise refuse(f"there are {count:,} rows where {least:,} should be", f"a file is missing; {_RESTORE}")
        if not isinstance(environments, int) or environments < 1 or count % environments:
            fault = f"{count:,} rows are not of {environments} environments, as many of each"
            raise refuse(fault, "give a directory that this version of trajmill has written")
        columns = {name: _by_environment(values, environments) for name, values in columns.items()}
        columns["actions"] = to_environment(columns["actions"], recorded_limit(known.get("action_limit", 1.0)))
        columns = _settled(columns, count // environments)
        fields = {"name": f"{known.get('dataset', 'replay')}-{known.get('seed', path.name)}", "metadata": known}
        return checked_dataset(path, columns, fix_timeouts=fix_timeouts, limit=limit, **fields)


def _read_files(path: Path, row_count: int | None, budget: MemoryBudget) -> tuple[Columns, dict[str, Any]]:
    """The columns of the first rows (None: of all), and what the files say of them."""
    parts, known, end = list[Columns](), dict[str, Any](), 0
    files = {int(entry.stem): entry for entry in path.iterdir() if _FILE.fullmatch(entry.name)}
    for first, file in sorted(files.items()):
        if row_count is not None and end >= row_count:
            break
        if first != end:
            fault = f"{file.name} has rows from {first:,} on where row {end:,} should follow"
            remedy = "a run stores every row if its capacity is more than the steps between two of its checkpoints"
            raise refuse(fault, f"{_RESTORE} before it; {remedy}")
        arrays, described = _read_file(file, budget)
        if parts and described != known:
            raise refuse(f"{file.name} is of another run than the files before it", "keep the files of one run")
        parts.append(arrays)
        known, end = described, end + len(arrays["observations"])
    if not parts:
        raise refuse("no files of rows", "give the directory RUN/replay/SEED of a run that has made a checkpoint")
    try:
        return {name: np.concatenate([part[name] for part in parts])[:row_count] for name in COLUMNS}, known
    except ValueError as error:
        raise refuse(f"files differ in the shapes of their rows ({error})", "keep the files of one run") from error


def _read_file(path: Path, budget: MemoryBudget) -> tuple[Columns, dict[str, Any]]:
    """The columns of one file and what it says of them; refused if a single bit is not as it was written."""
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > budget.left:
        raise refuse(f"{path.name} is larger than what is left of the memory budget", "pass a larger memory_budget")
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays: Columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, MemoryError) as error:
        raise refuse(f"{path.name} is damaged or not a safetensors file ({error})", _RESTORE) from error
    described = header.get("trajmill", "")
    contents = (
        (name, f"torch.{array.dtype.name}", array.shape, array.reshape(-1).view(np.uint8).data)
        for name, array in arrays.items()
    )
    if header.get("format") != ARRAYS_FORMAT or header.get("sha256") != arrays_hash(described, contents):
        raise refuse(f"{path.name} is damaged: its content does not have the hash that was written with it", _RESTORE)
    budget.take(arrays)
    try:
        known = parse_json(described)
    except ValueError:
        known = []
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    is_described = isinstance(known, dict) and known.get("kind") == "replay"
    if arrays.keys() != _KEYS.keys() or len(lengths) != 1 or not is_described:
        raise refuse(f"{path.name} does not hold rows of a replay", "keep the files of one run")
    return {_KEYS[name]: array for name, array in arrays.items()}, known


def _rows_of_run(path: Path) -> int:
    """How many rows the newest checkpoint of the run has that the directory is in; 0 without one that can be read."""
    from safetensors import SafetensorError, safe_open

    checkpoint = max((path.parent.parent / "checkpoints").glob("step_*.safetensors"), default=None)
    with suppress(SafetensorError, OSError):
        if checkpoint is not None:
            with safe_open(checkpoint, framework="np") as file:
                return int(file.get_tensor("ring/steps")) * int(file.get_slice("ring/episode").get_shape()[1])
    return 0


def _by_environment(values: NDArray[Any], environments: int) -> NDArray[Any]:
    """Rows step by step (T·E, ...) as rows environment by environment (E·T, ...)."""
    return values.reshape(-1, environments, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)


def _settled(columns: Columns, steps: int) -> Columns:
    """The columns with an end between any two environments, of `steps` rows each, and without rows that failed."""
    ends = columns["terminals"] | columns["timeouts"]
    is_last = np.arange(1, len(ends) + 1) % steps == 0
    is_last[-1] = False
    cut = is_last & ~ends
    if cut.any():
        warn_about(f"episodes were not over when the recording ended {where(cut)}; marked as timeouts")
    failed = ~np.isfinite(columns["rewards"])
    if failed.any():
        warn_about(f"the environment failed {where(failed)}; left out, the steps before marked as timeouts")
    before_failed = np.append(failed[1:], False) & ~ends
    columns["timeouts"] = columns["timeouts"] | cut | before_failed
    return {name: values[~failed] for name, values in columns.items()}
