"""``trajmill corpus export FORMAT DIR DEST``: a corpus in the format that a trainer reads."""

from __future__ import annotations

import functools
import operator
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.corpus import open_corpus
from trajmill.corpus.export import FORMATS, Format, export_corpus

FormatT = TypeVar("FormatT", bound=Format)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTo(Generic[FormatT]):
    """What every format asks for, and its own options."""

    corpus: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """directory of a corpus"""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DEST")]
    """directory to create; a file for d4rl"""
    options: Annotated[FormatT, tyro.conf.arg(name="")]
    overwrite: bool = False
    """replace an earlier export"""


if TYPE_CHECKING:
    AnyExport = ExportTo[Any]
else:
    AnyExport = functools.reduce(
        operator.or_,
        (
            Annotated[ExportTo[kind], tyro.conf.subcommand(name, description=kind.__doc__, prefix_name=False)]
            for name, kind in FORMATS.items()
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The same rows in the format that a trainer reads."""

    to: Annotated[AnyExport, tyro.conf.arg(name="")]

    def run(self, progress: Progress) -> Outcome:
        """Export."""
        started = time.perf_counter()
        corpus = open_corpus(self.to.corpus)
        result = export_corpus(self.to.options, corpus, self.to.out, overwrite=self.to.overwrite, progress=progress)
        seconds = time.perf_counter() - started
        data = {
            "destination": str(result.destination),
            "files": result.file_count,
            "bytes": result.byte_count,
            "linked_bytes": result.linked_bytes,
            "seconds": seconds,
        }
        linked = f", {result.linked_bytes:,} of them shared with the corpus" if result.linked_bytes else ""
        text = (
            f"{result.destination}: {result.byte_count:,} bytes in {result.file_count} files{linked}, {seconds:.2f} s"
        )
        return Outcome(data, text)
