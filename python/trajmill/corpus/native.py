"""The native format: a directory of headerless little-endian shards, a receipt for each, the manifest written last.

A shard of tokens is `row_count` rows of `row_length` integers and nothing else, so it is a NumPy memmap:
row i of the corpus is at ``i * row_length`` tokens. A directory without a manifest is not a corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT_VERSION = 1


class CorpusError(ValueError):
    """A directory that is not a whole corpus, or cannot become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One array of a corpus: `row_length` integers of `dtype` for each row."""

    name: str
    dtype: str
    row_length: int


class CorpusWriter:
    """Writes a corpus shard by shard; nothing counts until `finish` has written the manifest."""

    def __init__(self, directory: Path, spec: dict[str, Any], columns: Iterable[Column]) -> None:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CorpusError(f"{directory} exists and is not empty; choose another directory or remove it")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._spec = spec
        self._columns = {column.name: column for column in columns}
        self._shards: list[dict[str, Any]] = []
        self._row_count = 0

    def write_shard(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Append the next rows: one (rows, row_length) array for each column."""
        rows = {len(array) for array in arrays.values()}
        if set(arrays) != set(self._columns) or len(rows) != 1:
            raise CorpusError(f"a shard needs columns {sorted(self._columns)} of equal rows, got {sorted(arrays)}")
        receipt: dict[str, Any] = {"first_row": self._row_count, "row_count": rows.pop(), "files": {}}
        for name, array in arrays.items():
            column = self._columns[name]
            data = np.ascontiguousarray(array, dtype=np.dtype(column.dtype).newbyteorder("<"))
            path = self._directory / f"{name}-{len(self._shards):05d}.bin"
            _write_whole(path, data.data.cast("B"))
            receipt["files"][name] = {"name": path.name, "bytes": data.nbytes, "sha256": _sha256(data)}
        _write_whole(self._directory / f"receipt-{len(self._shards):05d}.json", _json(receipt))
        self._shards.append(receipt)
        self._row_count += receipt["row_count"]

    def finish(self) -> Path:
        """Write the manifest; from here on the directory is a corpus."""
        columns = [{"name": c.name, "dtype": c.dtype, "row_length": c.row_length} for c in self._columns.values()]
        manifest = {
            "format": "trajmill-corpus",
            "format_version": FORMAT_VERSION,
            "spec": self._spec,
            "columns": columns,
            "row_count": self._row_count,
            "shards": self._shards,
        }
        _write_whole(self._directory / "manifest.json", _json(manifest))
        return self._directory


def open_shards(directory: Path, column: str) -> list[npt.NDArray[Any]]:
    """The shards of one column as read-only memory maps (rows, row_length); CorpusError if anything is missing."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
    except FileNotFoundError:
        raise CorpusError(f"{directory} holds no manifest.json: not a corpus, or one that was never finished") from None
    except json.JSONDecodeError as error:
        raise CorpusError(f"{directory}/manifest.json is damaged ({error})") from None
    if manifest.get("format_version", 0) > FORMAT_VERSION:
        raise CorpusError(f"{directory} was written by a newer trajmill (format {manifest['format_version']}); upgrade")
    found = {c["name"]: c for c in manifest["columns"]}
    if column not in found:
        raise CorpusError(f"{directory} has the columns {sorted(found)}, not {column!r}")
    shards: list[npt.NDArray[Any]] = []
    for receipt in manifest["shards"]:
        file = receipt["files"][column]
        path = directory / file["name"]
        size = path.stat().st_size if path.exists() else None
        if size != file["bytes"]:
            raise CorpusError(f"{path} should hold {file['bytes']} bytes, found {size}")
        shape = (receipt["row_count"], found[column]["row_length"])
        shards.append(np.memmap(path, np.dtype(found[column]["dtype"]).newbyteorder("<"), "r", shape=shape))
    return shards


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _sha256(data: npt.NDArray[Any]) -> str:
    return hashlib.sha256(data.data.cast("B")).hexdigest()


def _write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write under another name, flush to disk, then rename: a file of this name is always whole."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
