"""Exports of stored corpora to the formats that trainers read, by links where the bytes are equal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from trajmill.core import files
from trajmill.core.json_input import read_json
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.export.arrow import Arrow, Parquet
from trajmill.corpus.export.d4rl import D4RL
from trajmill.corpus.export.mds import MDS
from trajmill.corpus.export.reading import CorpusRows
from trajmill.corpus.export.safetensors import Safetensors
from trajmill.corpus.export.tokens import Datatrove, Megatron, NanoGPT
from trajmill.corpus.rows import StoredCorpus

RECORD = ".trajmill-export.json"
"""file in every exported directory that says what it was made from and which files belong to it; hidden, since some
readers take every file of a directory for data"""


class Format(Protocol):
    """A format: a dataclass whose fields are its options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Create the directory or file `target`; CorpusError, and nothing created, if the corpus does not fit."""


_KINDS: list[type[Format]] = [NanoGPT, Megatron, Arrow, MDS, Datatrove, Safetensors, D4RL, Parquet]
FORMATS = {kind.__name__.lower(): kind for kind in _KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export left behind."""

    file_count: int
    byte_count: int
    linked_bytes: int
    """of `byte_count`, those that are shared with the corpus and take no room of their own"""


def export_corpus(
    format: Format,
    corpus: StoredCorpus,
    destination: AnyPath,
    *,
    token_map: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ExportResult:
    """Write a corpus in another format.

    With `token_map` a token t is written as ``token_map[t]``, such as the ids of another tokenizer. `destination` is a
    directory (for `D4RL` a file) that must be new or empty, or with `overwrite` an earlier export.
    It appears whole or not at all. CorpusError if the corpus is empty or does not fit the format, a library is absent,
    or `destination` cannot be written.
    """
    rows = CorpusRows(corpus, progress, token_map)
    target = files.replaceable(local_path(destination))
    try:
        _make_way(target, overwrite=overwrite)
        with files.replacing(target) as part:
            format.write(rows, part)
            paths = sorted(part.iterdir()) if part.is_dir() else [part]
            sizes = [path.stat() for path in paths]
            if part.is_dir():
                record = {
                    "format": type(format).__name__.lower(),
                    "options": asdict(format),
                    **({} if token_map is None else {"token_map": list(token_map)}),
                    "spec": rows.spec,
                    "row_count": rows.count,
                    "columns": [asdict(column) for column in rows.columns.values()],
                    "files": [path.name for path in paths],
                }
                (part / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CorpusError(f"cannot export to {target}: {error}") from error
    linked_bytes = sum(size.st_size for size in sizes if size.st_nlink > 1)
    return ExportResult(
        file_count=len(paths), byte_count=sum(size.st_size for size in sizes), linked_bytes=linked_bytes
    )


def _make_way(target: Path, *, overwrite: bool) -> None:
    """CorpusError if an export to `target` may not begin; otherwise remove the rest of a killed one."""
    left_behind = [*files.leftovers(target.parent, target.name), *files.leftovers(target, target.name)]
    if left_behind and not overwrite:
        fault = "is left of an export that was killed, or belongs to one that still runs"
        raise CorpusError(f"{left_behind[0]} {fault}; remove it or pass --overwrite")
    for path in left_behind:
        files.remove(path)
    there = files.contents(target)
    if (target.is_file() or there) and not overwrite:
        raise CorpusError(f"{target} exists; choose another name or pass --overwrite")
    if target.is_dir():
        try:
            known = {RECORD, *read_json(target / RECORD)["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            known = set()
        if foreign := sorted({path.name for path in there} - known):
            names = ", ".join(foreign[:3])
            raise CorpusError(f"{target} holds files that no export put there ({names}); choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
