"""Exports of stored corpora to the formats that trainers read, by links where the bytes are equal."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trajmill.core.progress import Progress, silent
from trajmill.corpus.export.arrow import Arrow
from trajmill.corpus.export.d4rl import D4RL
from trajmill.corpus.export.datatrove import Datatrove
from trajmill.corpus.export.destination import RECORD, staged
from trajmill.corpus.export.mds import MDS
from trajmill.corpus.export.megatron import Megatron
from trajmill.corpus.export.nanogpt import NanoGPT
from trajmill.corpus.export.parquet import Parquet
from trajmill.corpus.export.reading import Corpus, CorpusRows, ExportError
from trajmill.corpus.export.safetensors import Safetensors

__all__ = [
    "D4RL",
    "FORMATS",
    "MDS",
    "Arrow",
    "Corpus",
    "Datatrove",
    "ExportError",
    "ExportResult",
    "Format",
    "Megatron",
    "NanoGPT",
    "Parquet",
    "Safetensors",
    "export_corpus",
]


class Format(Protocol):
    """A format, whose options are its fields."""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Create the directory or file `target`; ExportError, and nothing created, if the corpus does not fit."""


FORMATS: dict[str, type[Format]] = {
    "nanogpt": NanoGPT,
    "megatron": Megatron,
    "arrow": Arrow,
    "mds": MDS,
    "datatrove": Datatrove,
    "safetensors": Safetensors,
    "d4rl": D4RL,
    "parquet": Parquet,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export left behind."""

    destination: Path
    file_count: int
    byte_count: int
    linked_bytes: int
    """of `byte_count`, what is shared with the corpus and takes no room of its own"""


def export_corpus(
    format: Format, corpus: Corpus, destination: Path, *, overwrite: bool = False, progress: Progress = silent
) -> ExportResult:
    """Write a corpus in another format.

    `destination` is a directory (for `D4RL` a file) that must not exist, or with `overwrite` may be an earlier export.
    It appears whole or not at all. A directory gets a ``.trajmill-export.json`` that says what it was made from.

    Raises
    ------
    ExportError
        If the corpus is empty or does not fit the format, a library is absent, or `destination` cannot be written.
    """
    rows = CorpusRows(corpus, progress)
    with staged(destination, overwrite=overwrite) as part:
        format.write(rows, part)
        files = sorted(part.iterdir()) if part.is_dir() else [part]
        sizes = [path.stat() for path in files]
        if part.is_dir():
            names = [path.name for path in files]
            (part / RECORD).write_text(json.dumps(_record(format, rows, names), indent=1) + "\n", encoding="utf-8")
    return ExportResult(
        destination=destination,
        file_count=len(files),
        byte_count=sum(size.st_size for size in sizes),
        linked_bytes=sum(size.st_size for size in sizes if size.st_nlink > 1),
    )


def _record(format: Format, rows: CorpusRows, names: list[str]) -> dict[str, Any]:
    """What was exported, how, and into which files."""
    options: dict[str, Any] = dataclasses.asdict(format)  # type: ignore[call-overload]  # every format is one
    columns = [{"name": c.name, "dtype": c.dtype, "row_length": c.row_length} for c in rows.columns.values()]
    kind = type(format).__name__.lower()
    return {
        "format": kind,
        "options": options,
        "spec": dict(rows.spec),
        "row_count": rows.count,
        "columns": columns,
        "files": names,
    }
