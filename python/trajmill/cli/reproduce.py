"""Repeat a table or figure of a paper by its name, and set the paper's numbers beside ours.

Every variant is pre-trained and fine-tuned on every dataset that is here, all seeds in one program. What is finished
is kept and shared by all studies in --out, so the same command goes on where it stopped. Datasets that are not here
are named, with the command that downloads them, and their cells stay empty. --quick runs the same code on the bundled
data in minutes: a check that everything works, no result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from trajmill.cli.session import Outcome, UsageError
from trajmill.core.progress import Progress
from trajmill.studies.cells import QUICK_LABEL, ReproduceConfig
from trajmill.studies.run import Reproduced, advice, all_studies, estimate, reproduce

EXAMPLES = """
  trajmill reproduce --list
  trajmill reproduce quick
  trajmill reproduce a-table-6 --quick
  trajmill reproduce a-table-1 --out runs/paper-a --text wiki.train.raw
  trajmill reproduce a-table-6 --datasets hopper-medium-v2 walker2d-medium-v2 --seeds 0 1 2 3 4
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduce:
    """Repeat a table or figure of a paper."""

    name: tyro.conf.Positional[str] = ""
    """of the table or figure; --list prints all of them"""
    list: bool = False
    """print every name with what it is and how much work"""
    out: Path | None = None
    """where runs, tables and figures go; by default runs/paper-a, with --quick runs/paper-a-quick"""
    config: Annotated[ReproduceConfig, tyro.conf.arg(name="")] = field(default_factory=ReproduceConfig)

    def run(self, progress: Progress) -> Outcome:
        """Run it, or list what there is."""
        if self.list:
            return _listed()
        if not self.name:
            raise UsageError("usage: trajmill reproduce NAME [OPTIONS]; `trajmill reproduce --list` prints the names")
        quick = self.config.quick or self.name == "quick"
        out = self.out or Path("runs/paper-a-quick" if quick else "runs/paper-a")
        done = reproduce(self.name, out, self.config, progress)
        data = {
            "study": done.study.name,
            "report": str(done.report),
            "markdown": str(done.markdown),
            "missing": dict(done.missing),
            "not_yet": dict(done.not_yet),
            "rows": {
                label: [{"column": column, **asdict(entry)} for column, entry in zip(done.columns, row, strict=True)]
                for label, row in done.comparison.rows.items()
            },
        }
        return Outcome(data, _shown(done, quick=quick))


def _listed() -> Outcome:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name", no_wrap=True)
    for heading in ("runs", "before", "core h", "GPU h"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what")
    data = {}
    for study in all_studies().values():
        work = estimate(study)
        data[study.name] = {"title": study.title, **asdict(work)}
        numbers = (f"{work.cells}", f"{work.pretrainings}", f"{work.cpu_core_hours:,.0f}", f"{work.gpu_hours:.1f}")
        quick = study.name == "quick"  # minutes, whatever the estimate says
        table.add_row(study.name, *numbers[:2], *(("", "") if quick else numbers[2:]), study.title)
    foot = (
        "\nA run trains all twenty seeds; before: pre-training runs; studies share both. Hours are rough, for a whole "
        "study from nothing: a core of a small server, or one H200; evaluation comes on top. Any study runs in minutes "
        "with --quick."
    )
    return Outcome(data, Group(table, foot))


def _shown(done: Reproduced, *, quick: bool) -> RenderableType:
    parts: list[RenderableType] = [f"[bold]{QUICK_LABEL}[/]\n"] if quick and done.study.variants else []
    if done.comparison.rows:
        parts.append(_table(done))
    parts += [f"{name}: {why}" for name, why in done.not_yet.items()]
    if done.missing:
        parts += ["\nDatasets that are not here leave their cells empty:", *advice(done.missing)]
    return Group(*parts, f"\nReport: {done.report}\nTable:  {done.markdown}")


def _table(done: Reproduced) -> Table:
    """One line a cell, which fits any terminal; the files have the paper's layout."""
    table = Table(title=f"{done.study.name}: {done.study.title}", title_justify="left", box=None, pad_edge=False)
    for heading in ("dataset", "variant"):
        table.add_column(heading, header_style="dim")
    for side in done.comparison.sides:
        table.add_column(side, justify="right", header_style="dim", no_wrap=True)
    for label, row in done.comparison.rows.items():
        for number, (column, entry) in enumerate(zip(done.columns, row, strict=True)):
            table.add_row("" if number else label, column, *map(escape, done.comparison.texts(entry)))
    return table


COMMANDS = {"": Reproduce}
