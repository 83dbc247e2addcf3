"""Arrow IPC streams in the layout of Hugging Face ``Dataset.save_to_disk``, which readers map; and Parquet.

A row is a row of the corpus; a column has fixed-size lists of its own integer type, so there are no 32-bit offsets to
overflow. Parquet has dictionary pages under zstd and is several times slower to write and to read: it is meant for
viewers, DuckDB and Spark, not for training. Sources: Arrow columnar format, IPC; ``datasets/arrow_dataset.py``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajmill.corpus.errors import CorpusError, library
from trajmill.corpus.export.reading import CorpusRows

_PARQUET_VALUE_BYTES = 8
"""what the Parquet writer holds for a value: 32 bits, and two levels of 16"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """A directory for ``datasets.load_from_disk``; each of its files also opens with ``Dataset.from_file``."""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        pyarrow, schema = _pyarrow_and_schema(rows)
        target.mkdir()
        for path, first, end in rows.shard_files(target, "arrow"):
            with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
                _write(writer, pyarrow, rows, schema, first, end)
        columns = [(c.name, c.dtype, c.row_length) for c in rows.columns.values()]
        recipe = json.dumps([rows.spec, rows.count, columns], sort_keys=True)
        state: dict[str, object] = {
            "_data_files": [{"filename": path.name} for path, _, _ in rows.shard_files(target, "arrow")],
            "_fingerprint": hashlib.sha256(recipe.encode()).hexdigest()[:16],  # Hugging Face caches results under it
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (target / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        (target / "dataset_info.json").write_text("{}", encoding="utf-8")  # features come from the files' own schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Parquet:
    """``data-00000-of-00004.parquet`` for each shard."""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        pyarrow, schema = _pyarrow_and_schema(rows)
        parquet = library("pyarrow.parquet", "this format", "export")
        row_bytes = _PARQUET_VALUE_BYTES * sum(column.row_length for column in rows.columns.values())
        target.mkdir()
        for path, first, end in rows.shard_files(target, "parquet"):
            with parquet.ParquetWriter(path, schema, compression="zstd", write_statistics=False) as writer:
                _write(writer, pyarrow, rows, schema, first, end, row_bytes)


def _pyarrow_and_schema(rows: CorpusRows) -> tuple[Any, Any]:
    """The library, and the Arrow schema: a fixed-size list for each column."""
    pyarrow = library("pyarrow", "this format", "export")
    for column in rows.columns.values():
        if column.row_length >= 2**31:
            found = f"a row of {column.name!r} has {column.row_length:,}"
            raise CorpusError(f"an Arrow list holds fewer than 2^31 values, {found}")
    lists = [(c.name, pyarrow.list_(pyarrow.from_numpy_dtype(c.dtype), c.row_length)) for c in rows.columns.values()]
    return pyarrow, pyarrow.schema(lists)


def _write(writer: Any, pyarrow: Any, rows: CorpusRows, schema: Any, first: int, end: int, row_bytes: int = 0) -> None:
    """Write rows `first` to `end`, without a copy of the corpus's memory; `row_bytes` as for `CorpusRows.blocks`."""
    for block in rows.blocks(first, end, row_bytes):
        arrays = [
            pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block[field.name].reshape(-1)), field.type.list_size)
            for field in schema
        ]
        writer.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))
