"""Parquet, for viewers, DuckDB and Spark: a list of integers per row and column, dictionary pages under zstd.

For training take another format: this one is several times slower to write and to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trajmill.corpus.export.arrow import list_schema, record_batches
from trajmill.corpus.export.libraries import needed
from trajmill.corpus.export.reading import CorpusRows

_VALUE_BYTES = 8
"""what the writer holds for a value: 32 bits, and two levels of 16"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parquet:
    """``data-00000-of-00004.parquet`` for each shard."""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        parquet = needed("pyarrow.parquet")
        schema = list_schema(rows)
        row_bytes = _VALUE_BYTES * sum(column.row_length for column in rows.columns.values())
        target.mkdir()
        for number, (first, end) in enumerate(rows.shard_ranges):
            path = target / f"data-{number:05d}-of-{len(rows.shard_ranges):05d}.parquet"
            with parquet.ParquetWriter(path, schema, compression="zstd", write_statistics=False) as writer:
                for batch in record_batches(rows, schema, first, end, row_bytes=row_bytes):
                    writer.write_batch(batch)
