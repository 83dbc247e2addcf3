"""Look at a corpus, check every bit of it, put together what several jobs have made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from trajmill.cli.corpus_export import Export
from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.corpus import CorpusError, open_corpus
from trajmill.corpus.storage import open_store
from trajmill.corpus.survey import merge, summary, survey, verify

EXAMPLES = """
  trajmill corpus info corpus
  trajmill corpus head corpus --rows 3
  trajmill corpus verify corpus
  trajmill corpus export megatron corpus corpus-megatron
  trajmill corpus merge corpus
"""

Location = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What a corpus is made of and how much of it is there."""

    location: Location
    """directory or URL of a corpus"""

    def run(self, progress: Progress) -> Outcome:
        """Read its records."""
        found = survey(open_store(self.location))
        layout = found.layout
        data: dict[str, Any] = {
            "directory": self.location,
            "spec": found.spec,
            "columns": [f"{c.name} {c.dtype} ({layout.row_count}, {c.row_length})" for c in layout.columns],
            "bytes": layout.byte_count,
            "shards": layout.shard_count,
            "finished_shards": len(found.receipts),
            "manifest": found.manifest is not None,
            "problems": found.problems,
        }
        shown = {**data, **(found.spec or {}), "problems": summary(found.problems) or "none"}
        shown.pop("spec")
        shown["columns"] = "; ".join(data["columns"])
        return Outcome(data, "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in shown.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first rows of a corpus."""

    location: Location
    """directory of a corpus"""
    rows: int = 5
    """rows to show, >= 0"""
    first: int = 0
    """row to begin with, >= 0"""
    values: int = 20
    """values of a row to show, >= 0"""

    def run(self, progress: Progress) -> Outcome:
        """Print them."""
        corpus = open_corpus(self.location)
        rows = range(len(corpus))[max(0, self.first) :][: max(0, self.rows)]
        arrays = {
            name: array[:, : max(0, self.values)] for name, array in corpus.read(np.array(rows, np.int64)).items()
        }
        lines = []
        for i, row in enumerate(rows):
            for name, array in arrays.items():
                more = " ..." if self.values < corpus.layout.column(name).row_length else ""
                lines.append(f"{row} {name}: {' '.join(map(str, array[i]))}{more}")
        return Outcome({name: np.asarray(array).tolist() for name, array in arrays.items()}, "\n".join(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Read all of a corpus and compare it with its hashes; any flipped bit is found."""

    location: Location
    """directory or URL of a corpus"""
    threads: int | None = None
    """threads that hash, >= 1; by default every core"""

    def run(self, progress: Progress) -> Outcome:
        """Verify; what is wrong is the error's message."""
        started = time.perf_counter()
        found = verify(self.location, progress, threads=self.threads)
        seconds = time.perf_counter() - started
        if found.problems:
            raise CorpusError(
                f"{self.location} has {len(found.problems)} problems: {summary(found.problems)}; the generate command "
                "that made it, with --rehash, makes damaged shards anew; `trajmill corpus merge` writes a lost manifest"
            )
        data = {"directory": self.location, "bytes": found.byte_count, "seconds": seconds}
        rate = found.byte_count / seconds / 1e9
        return Outcome(data, f"{self.location}: every bit of {found.byte_count:,} bytes is right, {rate:.2f} GB/s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Write the manifest of shards that several jobs have made, or of a corpus that lost it."""

    location: Location
    """directory or URL that holds every shard and receipt"""

    def run(self, progress: Progress) -> Outcome:
        """Merge."""
        manifest = merge(self.location)
        data = {"directory": self.location, "shards": manifest.layout.shard_count, "bytes": manifest.layout.byte_count}
        return Outcome(data, f"{self.location}: whole, {manifest.layout.shard_count} shards")


COMMANDS = {"info": Info, "head": Head, "verify": Verify, "export": Export, "merge": Merge}
