"""safetensors: every column of a shard as one contiguous tensor, read by NumPy, PyTorch and JAX without a copy.

The file is the length of a header (uint64), the header (JSON), and the tensors back to back. It is written here because
the library's own writer wants whole tensors in memory. Source: the format section of the safetensors README.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trajmill.corpus.errors import CorpusError
from trajmill.corpus.export.reading import CorpusRows

_ALIGNMENT = 8
_LARGEST_HEADER = 100_000_000  # what the library reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Safetensors:
    """``data-00000-of-00004.safetensors`` for each shard; a tensor (rows, row_length) for each column."""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        # widest first, so that every tensor is aligned to its own type
        columns = sorted(rows.columns.values(), key=lambda c: (-c.stored_dtype.itemsize, c.name))
        spec = json.dumps(rows.spec, sort_keys=True)
        target.mkdir()
        for path, first, end in rows.shard_files(target, "safetensors"):
            header: dict[str, object] = {"__metadata__": {"spec": spec, "first_row": str(first)}}
            offset = 0
            for column in columns:
                begin, offset = offset, offset + (end - first) * column.row_bytes
                header[column.name] = {
                    "dtype": f"U{8 * column.stored_dtype.itemsize}",
                    "shape": [end - first, column.row_length],
                    "data_offsets": [begin, offset],
                }
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % _ALIGNMENT)
            if len(text) > _LARGEST_HEADER:
                found = f"this one has {len(text):,}"
                raise CorpusError(f"a safetensors header holds {_LARGEST_HEADER:,} bytes at most, {found}")
            with path.open("xb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                rows.copy_columns(columns, first, end, file)
