"""Repeat a table or figure of a paper by its name, and set the paper's numbers beside ours.

Every variant is pre-trained and fine-tuned on every dataset that is found, or learns in every environment, all seeds in
one program. What is finished is kept and shared by all studies in --out, so the same command continues where it
stopped. Datasets that are not found are named, with the command that downloads them, and their cells stay empty.
Studies of arXiv 2310.00771 have two forms: --as released, with the settings of its authors' code, of which the printed
numbers are, and --as stated, with those of its text. --quick runs the same code on the bundled data in minutes: a check
that everything works, not a result. --check trains nothing: it computes the numbers that the paper printed once more,
from the runs of its authors, and names those that differ.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, get_args

import tyro
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from trajmill.cli.session import Outcome, UsageError, columns
from trajmill.core.progress import Progress
from trajmill.studies.cells import QUICK_LABEL, ReproduceConfig
from trajmill.studies.measures import Results
from trajmill.studies.records import Form
from trajmill.studies.run import advice, all_studies, check, estimate, reproduce

EXAMPLES = """
  trajmill reproduce --list
  trajmill reproduce --check
  trajmill reproduce quick
  trajmill reproduce a-table-6 --quick
  trajmill reproduce a-table-6 --as stated
  trajmill reproduce b-rates --datasets hopper-sac-replay-10k --update-share 0.2
  trajmill reproduce c-online --environments hopper --update-share 0.1
  trajmill reproduce a-table-1 --out runs/paper-a --text wiki.train.raw
  trajmill reproduce a-table-6 --datasets hopper-medium-v2 walker2d-medium-v2 --seeds 0 1 2 3 4
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduce:
    """Repeat a table or figure of a paper."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = ""
    """name of a table or figure; --list prints all of them"""
    list: bool = False
    """print every name, what it stands for and how much work it is"""
    form: Annotated[Form | None, tyro.conf.arg(name="as")] = None
    """settings of a study that has both: of the code that the authors released (the default), or as the paper states"""
    check: bool = False
    """recompute the printed numbers of NAME, or of every table, from the authors' own runs; trains nothing"""
    out: Path | None = None
    """where runs, tables and figures go; by default runs/paper-X, with --quick runs/paper-X-quick"""
    config: Annotated[ReproduceConfig, tyro.conf.arg(name="")] = field(default_factory=ReproduceConfig)

    def run(self, progress: Progress) -> Outcome:
        if self.form is not None and (self.list or self.check):
            raise UsageError(
                "--as names the settings of a study that runs, and --list and --check run none: leave it out"
            )
        if self.list:
            return _listed()
        if self.check:
            return _checked(self.name)
        if not self.name:
            raise UsageError("usage: trajmill reproduce NAME [OPTIONS]; `trajmill reproduce --list` prints the names")
        quick = self.config.quick or self.name == "quick"
        paper = self.name.partition("-")[0] if self.name != "quick" else "a"
        out = self.out or Path(f"runs/paper-{paper}" + ("-quick" if quick else ""))
        done = reproduce(self.name, out, self.config, progress, self.form)
        heads = done.comparison.columns
        data = {
            "study": done.study.name,
            "report": str(done.report),
            "markdown": str(done.markdown),
            "missing": dict(done.missing),
            "not_yet": dict(done.not_yet),
            "rows": {
                label: [{"column": head, **asdict(entry)} for head, entry in zip(heads, row, strict=True)]
                for label, row in done.comparison.rows.items()
            },
        }
        return Outcome(data, _shown(done, quick=quick))


def _listed() -> Outcome:
    table = columns("name", right=("runs", "pre-runs", "core h", "GPU h"))
    table.add_column("what")
    data = {}
    for study in all_studies().values():
        work = estimate(study.released or study)
        forms = [] if study.released is None else get_args(Form)
        data[study.name] = {"title": study.title, "as": forms, **asdict(work)}
        hours = f"{work.cpu_core_hours:,.{int(work.cpu_core_hours < 10)}f}"
        numbers = (f"{work.cells}", f"{work.pretrainings}", hours, f"{work.gpu_hours:.1f}")
        quick = study.name == "quick"  # minutes, whatever the estimate says
        table.add_row(study.name, *numbers[:2], *(("", "") if quick else numbers[2:]), study.title)
    foot = (
        "\nruns: fine-tuning runs, each of all seeds; pre-runs: pre-training runs. Studies share both. Hours are "
        "rough, for a whole study from nothing, models and what they make included, on one core of a small server or "
        "on one H200; evaluation comes on top. Any study runs in minutes with --quick. Studies of a-... run with the "
        "settings of the authors' code, or, --as stated, with those of the paper's text."
    )
    return Outcome(data, Group(table, foot))


def _checked(name: str) -> Outcome:
    checked = check(name)
    table = columns("name", right=("numbers", "agree", "differ"))
    table.add_column("what")
    for study, numbers in checked.items():
        agree = sum(number.agrees for number in numbers)
        counts = f"{len(numbers)}", f"{agree}", f"{len(numbers) - agree}"
        table.add_row(study, *counts, all_studies()[study].title)
    differing = columns("name", "column", "differs for", "what", right=("printed", "of the runs"))
    for study, numbers in checked.items():
        for number in numbers:
            if not number.agrees:
                place, figures = (
                    (number.column, number.place, number.what),
                    (f"{number.printed:.1f}", f"{number.runs:.4f}"),
                )
                differing.add_row(study, *place, *figures)
    total, differ = sum(map(len, checked.values())), differing.row_count
    foot = (
        f"\n{total - differ:,} of {total:,} printed numbers are what the authors' own runs give. No runs are published "
        "of the paper's other numbers."
    )
    data = {
        study: [{**asdict(number), "agrees": number.agrees} for number in numbers] for study, numbers in checked.items()
    }
    parts: list[RenderableType] = ["", differing] if differ else []
    return Outcome(data, Group(table, *parts, foot))


def _shown(done: Results, *, quick: bool) -> RenderableType:
    parts: list[RenderableType] = [f"[bold]{QUICK_LABEL}[/]\n"] if quick and done.study.variants else []
    if done.comparison.rows:
        parts.append(_table(done))
    parts += [f"{name}: {why}" for name, why in done.not_yet.items()]
    if done.missing:
        parts += ["\nDatasets that were not found leave their cells empty:", *advice(done.missing)]
    return Group(*parts, f"\nReport: {done.report}\nTable:  {done.markdown}")


def _table(done: Results) -> Table:
    """One line a cell, which fits any terminal; the files have the paper's layout."""
    table = columns(done.comparison.place, "variant", right=done.comparison.sides)
    table.title, table.title_justify = f"{done.study.name}: {done.study.title}", "left"
    for label, row in done.comparison.rows.items():
        for number, (column, entry) in enumerate(zip(done.comparison.columns, row, strict=True)):
            table.add_row("" if number else label, column, *map(escape, done.comparison.texts(entry)))
    return table


COMMANDS = {"": Reproduce}
