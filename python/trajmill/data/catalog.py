"""Data sets by name: those that travel with the package, and any file by its path."""

from __future__ import annotations

from pathlib import Path

from trajmill.data.d4rl import read_d4rl
from trajmill.data.errors import DatasetError
from trajmill.data.records import Dataset

_BUNDLED = Path(__file__).parent / "bundled"


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
