"""Look at real datasets, check them, convert and download them.

A dataset is given by its name (bundled, D4RL's official -v2 names, Minari ids) or by its path: D4RL's or Minari's HDF5
layout, or SynthER's .npz.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Group, RenderableType
from rich.markup import escape

from trajmill.cli.session import Outcome, columns
from trajmill.core.progress import Progress
from trajmill.data import (
    OFFICIAL_FILES,
    DatasetError,
    DatasetSummary,
    Subset,
    bundled_datasets,
    download_dataset,
    summarize,
)
from trajmill.data.catalog import find_dataset
from trajmill.data.formats import format_names
from trajmill.data.summary import QUANTILES
from trajmill.experiments.datasets import convert, load_with_warnings, validate

EXAMPLES = """
  trajmill dataset list
  trajmill dataset info hopper-sac-replay-10k
  trajmill dataset validate recordings/hopper.hdf5 --dynamics
  trajmill dataset convert hopper-sac-replay-10k small.hdf5 --subset trajectories:0.1 --subset-seed 3
  trajmill dataset convert samples.npz samples.hdf5
  trajmill dataset download hopper-medium-replay-v2
"""

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = tyro.extras.literal_type_from_choices(format_names(written=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME_OR_PATH")]
    """name or path of a dataset"""
    fix_timeouts: bool = False
    """mark ends of episodes that the flags leave out, instead of refusing them"""
    limit: int | None = None
    """steps, at least 1, after which the environment cut episodes, where the file does not mark it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """Names that every command takes: what comes with trajmill, and D4RL's official files."""

    def run(self, progress: Progress) -> Outcome:
        table = columns("name", "where", right=("bytes",))
        data = []
        for name in (*bundled_datasets(), *OFFICIAL_FILES):
            official = name in OFFICIAL_FILES
            path = _found(name)
            size = path.stat().st_size if path else OFFICIAL_FILES[name].size
            where = ("downloaded" if path else "to download") if official else "bundled"
            table.add_row(name, where, f"{size:,}")
            data.append({"name": name, "official": official, "path": path and str(path), "bytes": size})
        foot = "\n`trajmill dataset download NAME` fetches one; any other dataset is given by its path."
        return Outcome({"datasets": data}, Group(table, foot))


def _found(name: str) -> Path | None:
    try:
        return find_dataset(name)
    except DatasetError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Info(_Source):
    """What a dataset holds, in numbers."""

    def run(self, progress: Progress) -> Outcome:
        dataset, warnings = load_with_warnings(self.name, fix_timeouts=self.fix_timeouts, limit=self.limit)
        summary = summarize(dataset)
        data = {**asdict(summary), "quantiles": QUANTILES, "metadata": dict(dataset.metadata), "warnings": warnings}
        return Outcome(data, _shown(summary, warnings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Validate(_Source):
    """Check a dataset; exit code 1 and one message if it is not fit for use."""

    dynamics: bool = False
    """repeat single steps in the simulator and compare; needs MuJoCo"""
    environment: str | None = None
    """Gymnasium id for --dynamics; by default the dataset's own"""
    strict: bool = False
    """fail on warnings too"""

    def run(self, progress: Progress) -> Outcome:
        found = validate(
            self.name,
            fix_timeouts=self.fix_timeouts,
            limit=self.limit,
            dynamics=self.dynamics,
            environment_id=self.environment,
        )
        if self.strict and found.warnings:
            raise DatasetError(" | ".join(found.warnings))
        lines = [f"{found.summary.path}: valid, {found.summary.row_count:,} rows, {len(found.warnings)} warnings"]
        lines += [f"warning: {warning}" for warning in found.warnings]
        if (report := found.dynamics) is not None:
            repeated = f"{report.row_count} rows repeated in {report.environment_id}"
            lines.append(f"dynamics: {repeated}, {report.share_off:.1%} off by more than {report.tolerance:g}")
        return Outcome({"valid": True, **asdict(found)}, "\n".join(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert(_Source):
    """Write a dataset in another format, or a part of it."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """the file to create (.hdf5: D4RL's schema, .npz: SynthER's) or the directory (Minari's)"""
    to: FormatName | None = None
    """format, where OUT's name does not say it"""
    subset: str | None = None
    """first|trajectories|transitions|top:AMOUNT, a count (1000) or a share (0.1); released-trajectories and
    released-transitions are drawn as by the code of arXiv 2310.00771"""
    subset_seed: int = 0
    """names the draw of trajectories or transitions, [0, 2^64)"""
    observation_dim: int | None = None
    """keep the first numbers of observations, such as 27 of Ant's 111; the rest must be zero"""
    action_limit: float | None = None
    """clip actions to ± this, > 0"""
    overwrite: bool = False
    """replace a file"""

    def run(self, progress: Progress) -> Outcome:
        options = {
            "subset": None if self.subset is None else Subset.parse(self.subset, self.subset_seed),
            "observation_dim": self.observation_dim,
            "action_limit": self.action_limit,
            "fix_timeouts": self.fix_timeouts,
            "limit": self.limit,
        }
        dataset, name = convert(self.name, self.out, to=self.to, overwrite=self.overwrite, **options)
        data = {"out": str(self.out), "format": name, "rows": len(dataset), "subset": dataset.metadata.get("subset")}
        return Outcome(data, f"{self.out}: {len(dataset):,} rows in {name} format")


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Fetch one of D4RL's official -v2 files; a download that was interrupted resumes where it stopped."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """such as hopper-medium-replay-v2"""
    out: Path | None = None
    """directory for the file; by default the cache, where every command looks"""
    url: str | None = None
    """another address of the same file; size and hash are checked as usual"""

    def run(self, progress: Progress) -> Outcome:
        say = partial(print, "trajmill:", file=sys.stderr)
        path = download_dataset(self.name, self.out, say=say, progress=progress, url=self.url)
        return Outcome({"path": str(path)}, f"{path}: complete, size and hash are right")


def _shown(summary: DatasetSummary, warnings: list[str]) -> RenderableType:
    score = "" if summary.normalized_score is None else f", normalized {summary.normalized_score:.1f}"
    returns = f"{summary.mean_return:,.1f} ± {summary.return_deviation:,.1f}{score}" if summary.episode_count else "-"
    outside = f", {summary.action_share_outside:.1%} beyond ±1" if summary.action_share_outside else ""
    at_limit = f", {summary.action_share_at_limit:.2%} exactly ±1" if summary.action_share_at_limit else ""
    facts = {
        "name": summary.name,
        "file": f"{summary.path} ({summary.byte_count:,} bytes)",
        "SHA-256": summary.sha256,
        "release": summary.release,
        "format": summary.format,
        "environment": summary.environment or "unknown",
        "rows": f"{summary.row_count:,}",
        "observation, action": f"{summary.observation_dim}, {summary.action_dim} numbers",
        "next observations": "stored" if summary.next_observations else "not stored",
        "infos": ", ".join(summary.infos) or "none",
        "episodes": f"{summary.episode_count:,}, and {summary.unfinished_row_count:,} rows of an unfinished one",
        "terminals, timeouts": f"{summary.terminal_count:,}, {summary.timeout_count:,}",
        "return": returns,
        "rewards": f"{summary.reward_range[0]:.4g} to {summary.reward_range[1]:.4g}",
        "actions": f"{summary.action_range[0]:.4g} to {summary.action_range[1]:.4g}{outside}{at_limit}",
        "constant columns": ", ".join(map(str, summary.constant_observations)) or "none",
    }
    table = columns("", "")
    table.show_header = False
    for name, value in facts.items():
        table.add_row(f"[dim]{name}[/]", escape(value))
    parts: list[Any] = [table]
    if summary.episode_count:
        table = columns("quantile", right=[f"{quantile:.0%}" for quantile in QUANTILES])
        table.add_row("[dim]return[/]", *(f"{value:,.1f}" for value in summary.returns))
        table.add_row("[dim]episode length[/]", *(f"{value:,.0f}" for value in summary.episode_lengths))
        parts += ["", table]
    parts += ["", *(escape(f"warning: {warning}") for warning in warnings)] if warnings else []
    return Group(*parts)


COMMANDS = {"list": List, "info": Info, "validate": Validate, "convert": Convert, "download": Download}
