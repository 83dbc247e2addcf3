"""A stored corpus, written again in the format that a trainer reads."""

from __future__ import annotations

from pathlib import Path

from trajmill.core.progress import Progress, silent
from trajmill.corpus.export import ExportResult, Format, export_corpus
from trajmill.corpus.stored import open_corpus


def run_export(
    format: Format, corpus: Path, destination: Path, progress: Progress = silent, *, overwrite: bool = False
) -> ExportResult:
    """Export the corpus in the directory `corpus`; CorpusError if it is not whole, else see `export_corpus`."""
    return export_corpus(format, open_corpus(corpus), destination, overwrite=overwrite, progress=progress)
