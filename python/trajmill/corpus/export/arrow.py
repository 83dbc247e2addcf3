"""Arrow IPC streams in the layout of Hugging Face ``Dataset.save_to_disk``: mapped, not loaded, by its readers.

A row is a row of the corpus; a column has fixed-size lists of its own integer type, so there are no 32-bit offsets to
overflow. Sources: Arrow columnar format, IPC; ``datasets/arrow_dataset.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajmill.corpus.export.libraries import needed
from trajmill.corpus.export.reading import CorpusRows, ExportError


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """A directory for ``datasets.load_from_disk``; each of its files also opens with ``Dataset.from_file``."""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        pyarrow = needed("pyarrow")
        ipc = needed("pyarrow.ipc")
        schema = list_schema(rows)
        target.mkdir()
        names = [f"data-{i:05d}-of-{len(rows.shard_ranges):05d}.arrow" for i in range(len(rows.shard_ranges))]
        for name, (first, end) in zip(names, rows.shard_ranges, strict=True):
            with pyarrow.OSFile(str(target / name), "wb") as file, ipc.new_stream(file, schema) as writer:
                for batch in record_batches(rows, schema, first, end):
                    writer.write_batch(batch)
        state: dict[str, object] = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": _fingerprint(rows),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (target / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        (target / "dataset_info.json").write_text("{}", encoding="utf-8")  # features come from the files' own schema


def list_schema(rows: CorpusRows) -> Any:
    """The Arrow schema: a fixed-size list for each column."""
    pyarrow = needed("pyarrow")
    for column in rows.columns.values():
        if column.row_length >= 2**31:
            raise ExportError(
                f"an Arrow list holds fewer than 2^31 values, a row of {column.name!r} has {column.row_length:,}"
            )
    return pyarrow.schema(
        [(c.name, pyarrow.list_(pyarrow.from_numpy_dtype(c.dtype), c.row_length)) for c in rows.columns.values()]
    )


def record_batches(
    rows: CorpusRows, schema: Any, first: int, end: int, *, row_bytes: int | None = None
) -> Iterator[Any]:
    """Rows `first` to `end` as record batches over the corpus's own memory; `row_bytes` as for `CorpusRows.blocks`."""
    pyarrow = needed("pyarrow")
    for block in rows.blocks(first, end, row_bytes):
        arrays = [
            pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block[field.name].reshape(-1)), field.type.list_size)
            for field in schema
        ]
        yield pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


def _fingerprint(rows: CorpusRows) -> str:
    """What Hugging Face caches results under: it follows the recipe of the corpus."""
    columns = [(c.name, c.dtype, c.row_length) for c in rows.columns.values()]
    recipe = json.dumps([dict(rows.spec), rows.count, columns], sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]
