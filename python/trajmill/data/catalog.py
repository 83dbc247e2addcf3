"""Data sets by name: those that travel with the package, and any file by its path."""

from __future__ import annotations

from pathlib import Path

from trajmill.data.d4rl import read_d4rl
from trajmill.data.errors import DatasetError
from trajmill.data.records import Dataset

_BUNDLED = Path(__file__).parent / "bundled"

_ENVIRONMENTS = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4", "ant": "Ant-v4"}


def bundled_datasets() -> tuple[str, ...]:
    """Names of the data sets that need no file and no network, in alphabetical order."""
    return tuple(sorted(path.stem for path in _BUNDLED.glob("*.hdf5")))


def load_dataset(name_or_path: str | Path) -> Dataset:
    """Read a bundled data set by its name, or any file in D4RL's schema by its path.

    Raises
    ------
    DatasetError
        If it is neither, or the file is refused (`read_d4rl`).
    """
    if str(name_or_path) in bundled_datasets():
        return read_d4rl(_BUNDLED / f"{name_or_path}.hdf5")
    path = Path(name_or_path)
    if path.exists():
        return read_d4rl(path)
    known = ", ".join(bundled_datasets())
    raise DatasetError(f"{name_or_path}: neither a file nor a bundled data set; bundled are: {known}")


def environment_of(dataset: Dataset) -> str:
    """Return the Gymnasium id to evaluate a data set in, such as ``"Hopper-v4"``.

    It is the file's attribute ``environment`` if there is one, else follows from the name as D4RL writes it: every
    ``hopper-*`` belongs to Hopper-v4, the living successor of the -v2 environments that D4RL's files were recorded in.

    Raises
    ------
    DatasetError
        If neither the file nor its name says.
    """
    recorded = dataset.metadata.get("environment")
    if isinstance(recorded, str):
        return recorded
    key = dataset.name.lower().replace("_", "-").split("-", 1)[0]
    if key not in _ENVIRONMENTS:
        known = ", ".join(_ENVIRONMENTS)
        fault = f"neither an attribute 'environment' nor the name {dataset.name!r} says which environment it is from"
        raise DatasetError(f"{dataset.path}: {fault}; let the file's name start with one of: {known}")
    return _ENVIRONMENTS[key]
