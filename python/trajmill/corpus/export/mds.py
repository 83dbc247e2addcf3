"""MDS version 2, the shards of MosaicML streaming: ``index.json`` and ``shard.00000.mds``.

A shard is its sample count, the byte offset of every sample and of the end (all uint32), the settings as JSON, and the
samples; a sample is its columns in alphabetical order, each of a fixed size here. Source:
``streaming/base/format/mds/writer.py``; the library itself is not needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trajmill.core import checks
from trajmill.corpus.errors import CorpusError, library
from trajmill.corpus.export.reading import CorpusRows


@dataclass(frozen=True, slots=True, kw_only=True)
class MDS:
    """A directory for ``StreamingDataset(local=DIR)``; a sample has an array for each column."""

    size_limit: int = 2**26
    """most bytes of a shard, below 2^32 (2^26 is the library's own); a sample larger than that has its own shard"""

    def __post_init__(self) -> None:
        checks.integer("size_limit", self.size_limit, 1, 2**32 - 1)

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        columns = [rows.columns[name] for name in sorted(rows.columns)]
        settings: dict[str, Any] = {
            "column_encodings": [f"ndarray:{c.dtype}:{c.row_length}" for c in columns],
            "column_names": [c.name for c in columns],
            "column_sizes": [c.row_bytes for c in columns],
            "compression": None,
            "format": "mds",
            "hashes": ["xxh3_64"],
            "size_limit": self.size_limit,
            "version": 2,
        }
        config = json.dumps(settings, sort_keys=True).encode()
        sample_bytes = sum(settings["column_sizes"])
        rows_per_shard = max(1, (self.size_limit - 8 - len(config)) // (sample_bytes + 4))
        if 12 + len(config) + sample_bytes >= 2**32:
            raise CorpusError(f"an MDS shard holds less than 4 GiB, one row has {sample_bytes:,} bytes")
        target.mkdir()
        shards = []
        for number, first in enumerate(range(0, rows.count, rows_per_shard)):
            end = min(first + rows_per_shard, rows.count)
            path = target / f"shard.{number:05d}.mds"
            digest = _write_shard(path, rows, first, end, sample_bytes, config)
            raw = {"basename": path.name, "bytes": path.stat().st_size, "hashes": {"xxh3_64": digest}}
            shards.append({**settings, "raw_data": raw, "samples": end - first, "zip_data": None})
        (target / "index.json").write_text(json.dumps({"shards": shards, "version": 2}, sort_keys=True))


def _write_shard(path: Path, rows: CorpusRows, first: int, end: int, sample_bytes: int, config: bytes) -> str:
    """Write rows `first` to `end` as one shard, and return the digest of the file."""
    count = end - first
    offsets = 4 + 4 * (count + 1) + len(config) + sample_bytes * np.arange(count + 1, dtype=np.int64)
    header = np.concatenate([[count], offsets]).astype("<u4").tobytes() + config
    digest = library("xxhash", "this format", "export").xxh3_64(header)
    with path.open("xb") as file:
        file.write(header)
        for block in rows.blocks(first, end):
            columns = [np.ascontiguousarray(block[name]).view(np.uint8) for name in sorted(block)]
            samples = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
            digest.update(samples.data)
            file.write(samples.data)
    return str(digest.hexdigest())
