"""Formats of tokens alone, whose files are often the corpus's own: links to its shards, or copies in the kernel.

Sources: ``data/*/prepare.py`` and ``train.py`` of nanoGPT; ``megatron/core/datasets/indexed_dataset.py``, whose files
NeMo, GPT-NeoX and Megatron-DeepSpeed read too; ``datatrove/pipeline/tokens/tokenizer.py``.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trajmill.core import checks
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.export.reading import CorpusRows, write_ramp

_MEGATRON_CODES = {"uint8": 1, "int32": 4, "uint16": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoGPT:
    """``train.bin``, ``val.bin`` and ``meta.pkl`` with the vocabulary size; tokens become uint16.

    A loss_mask is written beside, ``train.mask.bin`` and ``val.mask.bin``, uint8.
    """

    validation_fraction: float = 0.1
    """share of the sequences, the last ones, that become val.bin, in [0, 1); 0 writes no val.bin (0.1 is nanoGPT's)"""
    copy: bool = False
    """copy what would otherwise be a hard link to a shard of equal bytes"""

    def __post_init__(self) -> None:
        checks.number("validation_fraction", self.validation_fraction, "[0, 1)")

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        (tokens,) = rows.only(["tokens"], "nanoGPT reads tokens", ["loss_mask"])
        rows.check_values(tokens, "u2", "nanoGPT")
        validation_rows = round(rows.count * self.validation_fraction)
        if self.validation_fraction > 0 and not 0 < validation_rows < rows.count:
            raise CorpusError(
                f"{rows.directory} holds {rows.count} sequences, too few to keep a fraction of "
                f"{self.validation_fraction} apart; change the fraction, 0 writes no val.bin"
            )
        target.mkdir()
        cut = rows.count - validation_rows
        parts = {"train": (0, cut)} | ({"val": (cut, rows.count)} if validation_rows else {})
        for name, (first, end) in parts.items():
            rows.write_values(tokens, "u2", first, end, target / f"{name}.bin", link=not self.copy)
            if mask := rows.columns.get("loss_mask"):
                rows.write_values(mask, "u1", first, end, target / f"{name}.mask.bin", link=not self.copy)
        size = rows.value_count("state_count", "tokens")
        names = {token: str(token) for token in range(size)}
        meta = {"vocab_size": size, "itos": names, "stoi": {name: token for token, name in names.items()}}
        (target / "meta.pkl").write_bytes(pickle.dumps(meta, protocol=4))


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
        # Megatron has no uint32, but below 2^31 its bytes are those of int32
        dtype = np.dtype(tokens.dtype if tokens.dtype in _MEGATRON_CODES else "int32")
        rows.check_values(tokens, dtype, "Megatron")
        target.mkdir()
        ranges = [(0, rows.count)] if self.single_file else rows.shard_ranges
        for number, (first, end) in enumerate(ranges):
            prefix = "tokens" if self.single_file else f"tokens-{number:05d}"
            rows.write_values(tokens, dtype, first, end, target / f"{prefix}.bin", link=not self.copy)
            with (target / f"{prefix}.idx").open("xb") as file:
                write_megatron_index(file, dtype, end - first, tokens.row_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Datatrove:
    """``tokens-00000.ds`` with index and metadata for each shard; uint16 tokens, uint32 where the corpus has them."""

    copy: bool = False
    """copy what would otherwise be a hard link to a shard of equal bytes"""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        (tokens,) = rows.only(["tokens"], "datatrove reads tokens")
        dtype = np.dtype("u2" if np.can_cast(tokens.dtype, "u2") else "u4")
        rows.check_values(tokens, dtype, "datatrove")
        target.mkdir()
        for number, (first, end) in enumerate(rows.shard_ranges):
            path = target / f"tokens-{number:05d}.ds"
            rows.write_values(tokens, dtype, first, end, path, link=not self.copy)
            with path.with_name(f"{path.name}.index").open("xb") as file:  # tokens up to the end of each row
                write_ramp(file, "<u8", end - first, start=tokens.row_length, step=tokens.row_length)
            count = (end - first) * tokens.row_length
            text = f"trajmill|{dtype.itemsize}\n{count}\n{_for_people(count)}"
            path.with_name(f"{path.name}.metadata").write_text(text, encoding="utf-8")


def write_megatron_index(file: BinaryIO, dtype: np.dtype[Any], sequence_count: int, length: int) -> None:
    """Write the index of `sequence_count` documents of `length` tokens each, in bounded memory."""
    header = b"MMIDIDX\0\0" + struct.pack("<QB", 1, _MEGATRON_CODES[dtype.name])
    file.write(header + struct.pack("<QQ", sequence_count, sequence_count + 1))
    write_ramp(file, "<i4", sequence_count, start=length)  # tokens of each sequence
    write_ramp(file, "<i8", sequence_count, step=length * dtype.itemsize)  # bytes before each sequence
    write_ramp(file, "<i8", sequence_count + 1, step=1)  # sequences before each document, and all


def _for_people(count: int) -> str:
    """A number of tokens in three digits, such as ``1.05 MT``."""
    for size, prefix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}T"
    return f"{count} T"
