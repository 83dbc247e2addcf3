"""Measure data throughput on this machine, beside the machine's limits and other programs that are installed.

All contenders of a group are timed in turns, so that whatever slows the machine for a while slows all of them. A rate
is the median of its blocks, and ± is half the distance between the quartiles. A percentage is the share of what the
machine can do at best, which is measured in the same turns.

A busy machine gives a warning, and "busy": true in the JSON: measure again when nothing else runs.
"""

from __future__ import annotations

import importlib.util
import textwrap
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from trajmill.bench.compare import Change, Comparison, compare
from trajmill.bench.group import Options
from trajmill.bench.record import Rate, Result, keep, read
from trajmill.bench.run import bench
from trajmill.cli.session import Outcome
from trajmill.core import checks
from trajmill.core.files import check_writable
from trajmill.core.progress import Progress

EXAMPLES = """
  trajmill bench sampler
  trajmill bench corpus --folder /mnt/fast --out corpus.json --picture corpus.svg
  trajmill bench replay --quick
  trajmill bench feed --device cuda
  trajmill bench training --device cuda
  trajmill bench compare before.json after.json
"""
QUICK_SECONDS, QUICK_ROWS, QUICK_MEBIBYTES = 10.0, 100_000, 64
WIDTH, NAME, RATE = 80, 40, 9
"""columns of a line, and of a name and a rate in it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """Options of every subject."""

    subject: ClassVar[str]
    seconds: float = 50.0
    """time to measure, > 0; a group whose calls are slow may take longer"""
    quick: bool = False
    """10 seconds at most, and 100,000 rows or 64 MiB: a first look"""
    out: Path | None = None
    """write the result as JSON, for `trajmill bench compare`; an older file is replaced"""
    picture: Path | None = None
    """draw the result into this .svg file; needs matplotlib"""

    def options(self) -> Options:
        """What the groups are made for."""
        return Options(threads=1)

    def run(self, progress: Progress) -> Outcome:
        seconds = checks.number("seconds", self.seconds, "(0, inf)")
        self._check_outputs()
        result = bench(self.subject, self.options(), min(seconds, QUICK_SECONDS) if self.quick else seconds, progress)
        if self.out is not None:
            keep(self.out, result.to_json())
        if self.picture is not None:
            from trajmill.bench.picture import write

            write(result, self.picture)
        written = [f"written to {path}" for path in (self.out, self.picture) if path is not None]
        return Outcome(result.to_json(), "\n".join([*lines(result), *written]))

    def _check_outputs(self) -> None:
        """Say what cannot be written before anything is measured."""
        for path in (self.out, self.picture):
            if path is not None:
                check_writable(path, as_file=True)
        if self.picture is not None and self.picture.suffix != ".svg":
            raise ValueError(f"a picture is SVG, so its name must end in .svg, got {self.picture}")
        if self.picture is not None and importlib.util.find_spec("matplotlib") is None:
            raise ValueError("--picture needs matplotlib, which is not installed: pip install matplotlib")

    def _most(self, given: int, quick: int) -> int:
        return min(given, quick) if self.quick else given


@dataclass(frozen=True, slots=True, kw_only=True)
class _Threaded(_Bench):
    """Options of subjects that run on several threads."""

    threads: int | None = None
    """most threads of trajmill, at least 1; by default as many as it would take by itself"""

    def options(self) -> Options:
        return Options(threads=checks.thread_count(self.threads))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler(_Threaded):
    """Chains and MDPs, in tokens a second, beside Philox, look-ups and memory."""

    subject: ClassVar[str] = "sampler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus(_Threaded):
    """Writing, verifying and reading corpora, beside the disk and other readers."""

    subject: ClassVar[str] = "corpus"
    folder: Path = Path()
    """a directory on the disk to measure; four times the size of the corpus is used there, and nothing is left"""
    mebibytes: int = 256
    """size of the corpus, at least 1"""

    def options(self) -> Options:
        size = checks.integer("mebibytes", self.mebibytes, 1, 2**24)
        if not self.folder.is_dir():
            raise ValueError(f"--folder must name a directory that exists, got {self.folder}")
        mebibytes = self._most(size, QUICK_MEBIBYTES)
        return Options(threads=checks.thread_count(self.threads), folder=self.folder, mebibytes=mebibytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(_Bench):
    """Batches from replay buffers, beside memory and other buffers."""

    subject: ClassVar[str] = "replay"
    rows: int = 1_000_000
    """transitions in a buffer, at least 2,000; 166 bytes each"""

    def options(self) -> Options:
        return Options(threads=1, rows=self._most(checks.integer("rows", self.rows, 2000, 2**32), QUICK_ROWS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed(Replay):
    """Batches as tensors on a device, beside torch's DataLoader."""

    subject: ClassVar[str] = "feed"
    device: Literal["cpu", "cuda"] = "cpu"
    """where the batches go"""

    def options(self) -> Options:
        rows = self._most(checks.integer("rows", self.rows, 2000, 2**32), QUICK_ROWS)
        return Options(threads=1, rows=rows, device=self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(_Bench):
    """Updates of every method, beside their matrix products."""

    subject: ClassVar[str] = "training"
    device: Literal["cpu", "cuda"] = "cpu"
    """where the updates are made; a CPU makes them on one thread"""
    methods: tuple[str, ...] = ()
    """names of methods, as `trajmill train` takes them; by default every one"""

    def options(self) -> Options:
        return Options(threads=1, device=self.device, methods=self.methods)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Set two results side by side: ratios, and which of them are more than the spread."""

    before: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BEFORE.json")]
    """a result that --out wrote"""
    after: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="AFTER.json")]
    """another one of the same subject"""

    def run(self, progress: Progress) -> Outcome:
        found = compare(read(self.before), read(self.after))
        changes = [asdict(change) | {"exceeds_spread": change.exceeds_spread} for change in found.changes]
        return Outcome(asdict(found) | {"changes": changes}, "\n".join(compared_lines(found)))


def lines(result: Result) -> list[str]:
    """A result for people, in 80 columns."""
    found = []
    for (group, unit), rates in groupby(result.rows, key=lambda rate: (rate.group, rate.unit)):
        found += [group, f"  {unit:>{NAME + RATE}}"]
        listed = list(rates)
        first = next((rate.value for rate in listed if rate.role == "ours"), None)
        found += [_line(rate, first) for rate in listed]
        found += [f"  {each.peer}: {each.reason}" for each in result.missing if each.group == group]
        found.append("")
    found.append(f"measured in {result.seconds:.0f} s")
    for warning in result.warnings:
        found += textwrap.wrap(f"WARNING: {warning}", WIDTH, subsequent_indent="  ")
    if result.busy:
        found.append("These rates may be too low. Measure again when nothing else runs.")
    return found


def _line(rate: Rate, first: float | None) -> str:
    """One rate, the half width of its quartiles, and what it is compared with."""
    name = f"limit: {rate.name}" if rate.role == "limit" else rate.name
    spread = f"±{50 * (rate.high - rate.low) / rate.value:.0f}%"
    remark = ""
    if rate.limit_share is not None:
        remark = f"{rate.limit_share:.0%} of {rate.limit}"
    if rate.role == "peer" and first is not None:
        remark = f"trajmill: {_times(first / rate.value)}"
    return f"  {name:<{NAME}}{_short(rate.value):>{RATE}} {spread:<5} {remark}".rstrip()


def _short(value: float) -> str:
    """Three digits, without an exponent where there is room."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 1e-4 else f"{value:.2e}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} x" if ratio >= 10 else f"{ratio:.2g} x"


def compared_lines(found: Comparison) -> list[str]:
    """A comparison for people, in 80 columns."""
    told = [
        line
        for each in found.differences
        for line in textwrap.wrap(f"differs: {each}", WIDTH, subsequent_indent="  ", break_long_words=False)
    ]
    told += [""] if told else []
    for group, changes in groupby(found.changes, key=lambda change: change.group):
        told.append(group)
        told += [_change_line(change) for change in changes]
        told.append("")
    told += [f"only in the first: {each}" for each in found.only_before]
    told += [f"only in the second: {each}" for each in found.only_after]
    beyond = [change for change in found.changes if change.exceeds_spread]
    slower = sum(change.ratio < 1 for change in beyond if change.role == "ours")
    faster = sum(change.ratio > 1 for change in beyond if change.role == "ours")
    told.append(f"beyond the spread: {faster} rates of trajmill faster, {slower} slower")
    if others := [change.ratio for change in found.changes if change.role != "ours"]:
        told.append(f"peers and limits, which are no part of trajmill: {min(others):.2f} to {max(others):.2f} x")
    return told


def _change_line(change: Change) -> str:
    name = f"limit: {change.name}" if change.role == "limit" else change.name
    verdict = "" if not change.exceeds_spread else "faster" if change.ratio > 1 else "slower"
    interval = f"({change.low:.2f}-{change.high:.2f})"
    return f"  {name:<{NAME}}{change.ratio:>6.2f} x {interval:<14} {verdict}".rstrip()


COMMANDS = {
    "sampler": Sampler,
    "corpus": Corpus,
    "replay": Replay,
    "feed": Feed,
    "training": Training,
    "compare": Compare,
}
