"""Megatron-LM's indexed datasets: ``PREFIX.bin`` holds the tokens, ``PREFIX.idx`` where each sequence is.

NeMo, GPT-NeoX and Megatron-DeepSpeed read them too. Source: ``megatron/core/datasets/indexed_dataset.py``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trajmill.corpus.errors import CorpusError
from trajmill.corpus.export.reading import CorpusRows, write_ramp

_DTYPE_CODES = {"uint8": 1, "int32": 4, "uint16": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Megatron:
    """``tokens-00000.bin`` and ``.idx`` for each shard, to be blended; a sequence is a document."""

    single_file: bool = False
    """one pair ``tokens.bin`` and ``tokens.idx`` for the whole corpus, which copies it if it has several shards"""
    copy: bool = False
    """copy what would otherwise be a hard link to a shard of equal bytes"""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        (tokens,) = rows.only(["tokens"], "Megatron reads tokens")
        if tokens.row_length >= 2**31:
            raise CorpusError(f"Megatron reads sequences below 2^31 tokens, these have {tokens.row_length:,}")
        # uint32 is unknown to Megatron, but below 2^31 its bytes are those of int32
        dtype = np.dtype(tokens.dtype if tokens.dtype in _DTYPE_CODES else "int32")
        rows.check_values(tokens, dtype, "Megatron")
        target.mkdir()
        ranges = [(0, rows.count)] if self.single_file else rows.shard_ranges
        for number, (first, end) in enumerate(ranges):
            prefix = "tokens" if self.single_file else f"tokens-{number:05d}"
            rows.write_values(tokens, dtype, first, end, target / f"{prefix}.bin", link=not self.copy)
            with (target / f"{prefix}.idx").open("xb") as file:
                write_index(file, dtype, end - first, tokens.row_length)


def write_index(file: BinaryIO, dtype: np.dtype[Any], sequence_count: int, length: int) -> None:
    """Write the index of `sequence_count` documents of `length` tokens each, in bounded memory."""
    header = b"MMIDIDX\0\0" + struct.pack("<QB", 1, _DTYPE_CODES[dtype.name])
    file.write(header + struct.pack("<QQ", sequence_count, sequence_count + 1))
    write_ramp(file, "<i4", sequence_count, start=length)  # tokens of each sequence
    write_ramp(file, "<i8", sequence_count, step=length * dtype.itemsize)  # bytes before each sequence
    write_ramp(file, "<i8", sequence_count + 1, step=1)  # sequences before each document, and all
