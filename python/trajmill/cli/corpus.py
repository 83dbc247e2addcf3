"""Look at a corpus, check every bit of it, export it, or finish what several jobs have made."""

from __future__ import annotations

import functools
import operator
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import numpy as np
import tyro

from trajmill.cli.session import Outcome
from trajmill.core.json_input import read_json
from trajmill.core.progress import Progress
from trajmill.corpus import CorpusError, open_corpus
from trajmill.corpus.export import FORMATS, Format, export_corpus
from trajmill.corpus.storage import open_store
from trajmill.corpus.survey import merge, summary, survey, verify

EXAMPLES = """
  trajmill corpus info corpus
  trajmill corpus head corpus --rows 3
  trajmill corpus verify corpus
  trajmill corpus export megatron corpus corpus-megatron
  trajmill corpus merge corpus
"""

FormatT = TypeVar("FormatT", bound=Format)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Located:
    location: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """directory or URL of a corpus"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info(_Located):
    """What a corpus is made of and how much of it is there."""

    def run(self, progress: Progress) -> Outcome:
        found = survey(open_store(self.location))
        layout = found.layout
        spec = found.record.spec if found.record else {}
        facts: dict[str, Any] = {
            "columns": [f"{c.name} {c.dtype} ({layout.row_count}, {c.row_length})" for c in layout.columns],
            "bytes": layout.byte_count,
            "shards": layout.shard_count,
            "finished_shards": len(found.receipts),
            "manifest": found.manifest is not None,
            "problems": found.problems,
        }
        shown = {"directory": self.location, **facts, **spec, "columns": "; ".join(facts["columns"])}
        shown["problems"] = summary(found.problems) or "none"
        text = "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in shown.items())
        return Outcome({"directory": self.location, "spec": spec, **facts}, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head(_Located):
    """The first rows of a corpus."""

    rows: int = 5
    """rows to show, >= 0"""
    first: int = 0
    """row to begin with, >= 0"""
    values: int = 20
    """values of a row to show, >= 0"""

    def run(self, progress: Progress) -> Outcome:
        corpus = open_corpus(self.location)
        rows = range(len(corpus))[max(0, self.first) :][: max(0, self.rows)]
        found = corpus.read(np.array(rows, np.int64))
        arrays = {name: np.asarray(array)[:, : max(0, self.values)] for name, array in found.items()}
        lines = []
        for number, row in enumerate(rows):
            for name, array in arrays.items():
                more = " ..." if self.values < corpus.layout.column(name).row_length else ""
                lines.append(f"{row} {name}: {' '.join(map(str, array[number]))}{more}")
        return Outcome({name: array.tolist() for name, array in arrays.items()}, "\n".join(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify(_Located):
    """Read all of a corpus and compare it with its hashes, which finds any flipped bit."""

    threads: int | None = None
    """threads that hash, >= 1; by default every core"""

    def run(self, progress: Progress) -> Outcome:
        started = time.perf_counter()
        found = verify(self.location, progress, threads=self.threads)
        seconds = time.perf_counter() - started
        if found.problems:
            raise CorpusError(
                f"{self.location} has {len(found.problems)} problems: {summary(found.problems)}; its generate command "
                "with --rehash makes damaged shards again, `trajmill corpus merge` restores a lost manifest"
            )
        data = {"directory": self.location, "bytes": found.byte_count, "seconds": seconds}
        rate = found.byte_count / seconds / 1e9
        return Outcome(data, f"{self.location}: every bit of {found.byte_count:,} bytes is right, {rate:.2f} GB/s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(_Located):
    """Write the manifest of shards that several jobs have made, or of a corpus that lost it."""

    def run(self, progress: Progress) -> Outcome:
        manifest = merge(self.location)
        data = {"directory": self.location, "shards": manifest.layout.shard_count, "bytes": manifest.layout.byte_count}
        return Outcome(data, f"{self.location}: whole, {manifest.layout.shard_count} shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTo(Generic[FormatT]):
    """What every format asks for, and its own options."""

    corpus: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """directory of a corpus"""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DEST")]
    """directory to create; a file for d4rl"""
    options: Annotated[FormatT, tyro.conf.arg(name="")]
    token_map: Path | None = None
    """JSON list that gives each token another id, such as those of a tokenizer"""
    overwrite: bool = False
    """replace an earlier export"""


if TYPE_CHECKING:
    AnyExport = ExportTo[Any]
else:
    _exports = (
        Annotated[
            ExportTo[kind], tyro.conf.subcommand(name, description=kind.__doc__.replace("``", ""), prefix_name=False)
        ]
        for name, kind in FORMATS.items()
    )
    AnyExport = functools.reduce(operator.or_, _exports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The same rows in the format that a trainer reads."""

    to: Annotated[AnyExport, tyro.conf.arg(name="")]

    def run(self, progress: Progress) -> Outcome:
        started = time.perf_counter()
        corpus = open_corpus(self.to.corpus)
        token_map = None if self.to.token_map is None else _read_token_map(self.to.token_map)
        result = export_corpus(
            self.to.options, corpus, self.to.out, token_map=token_map, overwrite=self.to.overwrite, progress=progress
        )
        seconds = time.perf_counter() - started
        target, size, linked = str(self.to.out), result.byte_count, result.linked_bytes
        data = {"destination": target, "files": result.file_count, "bytes": size, "linked_bytes": linked}
        shared = f", {linked:,} of them shared with the corpus" if linked else ""
        text = f"{target}: {size:,} bytes in {result.file_count} files{shared}, {seconds:.2f} s"
        return Outcome({**data, "seconds": seconds}, text)


def _read_token_map(path: Path) -> list[int]:
    """A JSON list of whole numbers: at place t, what is written for token t."""
    try:
        numbers = read_json(path)
    except (OSError, ValueError) as error:
        raise CorpusError(f"the map of tokens {path} cannot be read: {error}") from None
    if not isinstance(numbers, list):
        raise CorpusError(f"the map of tokens {path} must be a JSON list, at place t the id of token t")
    return numbers


COMMANDS = {"info": Info, "head": Head, "verify": Verify, "export": Export, "merge": Merge}
