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

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from trajmill.cli.session import Outcome, UsageError, columns
from trajmill.core.progress import Progress, silent
from trajmill.runs.engines import EngineConfig
from trajmill.studies.cells import QUICK_LABEL, ReproduceConfig, short_name
from trajmill.studies.measures import Results
from trajmill.studies.records import Form
from trajmill.studies.run import advice, all_studies, check, names_in, plan, reproduce
from trajmill.studies.work import Prediction, estimate, predict

EXAMPLES = """
  trajmill reproduce --list
  trajmill reproduce --check
  trajmill reproduce quick
  trajmill reproduce a-table-6 --quick
  trajmill reproduce a-table-6 --as stated
  trajmill reproduce b-rates --datasets hopper-sac-replay-10k --update-share 0.2
  trajmill reproduce c-online --environments hopper --update-share 0.1
  trajmill reproduce a-table-1 --out runs/paper-a --text wiki.train.raw
  trajmill reproduce a-table-1 --out runs/paper-a --engine ray --ray-address auto --gpus-per-cell 0.5
  trajmill reproduce a-table-1 --out runs/paper-a --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
  trajmill reproduce a-table-6 --datasets hopper-medium-v2 walker2d-medium-v2 --seeds 0 1 2 3 4
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduce:
    """Repeat a table or figure of a paper."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")
    ] = ()
    """tables or figures by name, --list prints all of them; a paper's letter is all of its tables and figures"""
    list: bool = False
    """print every name, what it stands for and how much work it is"""
    form: Annotated[Form | None, tyro.conf.arg(name="as")] = None
    """settings of a study that has both: of the code that the authors released (the default), or as the paper states"""
    estimate: bool = False
    """say how long it will take on this machine, from a few updates of each kind, and do nothing"""
    check: bool = False
    """recompute the printed numbers of NAME ..., or of every table, from the authors' own runs; trains nothing"""
    out: Path | None = None
    """where runs, tables and figures go; by default runs/paper-X, with --quick runs/paper-X-quick"""
    config: Annotated[ReproduceConfig, tyro.conf.arg(name="")] = field(default_factory=ReproduceConfig)
    engine: Annotated[EngineConfig, tyro.conf.arg(name="")] = field(default_factory=EngineConfig)

    def run(self, progress: Progress) -> Outcome:
        if self.form is not None and (self.list or self.check):
            raise UsageError(
                "--as names the settings of a study that runs, and --list and --check run none: leave it out"
            )
        if self.list:
            return _listed()
        if self.check:
            return _checked(self.names)
        if not self.names:
            raise UsageError("usage: trajmill reproduce NAME ... [OPTIONS]; `trajmill reproduce --list` has the names")
        asked = {each: self._form(name, each) for name in self.names for each in names_in(name)}
        if self.estimate:
            predicted = self._predicted(asked)
            data = {str(out): asdict(each) for out, each in predicted.items()}
            return Outcome(data, "\n".join(f"{out}: {each}" for out, each in predicted.items()))
        if progress is not silent and not self.config.quick and "quick" not in asked:
            self._announce(asked)
        done = {
            name: reproduce(name, self._out(name), self.config, progress, form, self.engine)
            for name, form in asked.items()
        }
        data = {name: _facts(results) for name, results in done.items()}
        failure = failures_in_words(sum(len(results.failed) for results in done.values()))
        return Outcome(data, Group(*(_shown(results) for results in done.values())), failure)

    def _form(self, asked: str, name: str) -> Form | None:
        """The form of a study; of a paper's studies those that have one form alone have that one."""
        return None if asked != name and all_studies()[name].released is None else self.form

    def _out(self, name: str) -> Path:
        """Where the runs of a study go."""
        quick = self.config.quick or name == "quick"
        paper = name.partition("-")[0] if name != "quick" else "a"
        return self.out or Path(f"runs/paper-{paper}" + ("-quick" if quick else ""))

    def _predicted(self, asked: Mapping[str, Form | None]) -> dict[Path, Prediction]:
        """How long it will take, by the directory whose runs studies share."""
        planned = {name: plan(name, self.config, form) for name, form in asked.items()}
        return {
            out: predict([(each.cells, each.config) for name, each in planned.items() if self._out(name) == out], out)
            for out in {self._out(name): None for name in asked}
        }

    def _announce(self, asked: Mapping[str, Form | None]) -> None:
        """Say how long it will take where that can be predicted."""
        offline = {name: form for name, form in asked.items() if all_studies()[name].is_offline}
        for out, predicted in self._predicted(offline).items():
            print(f"{out}: {predicted}", file=sys.stderr)


def failures_in_words(count: int, what: str = "failed") -> str:
    """What a command ends with some of whose runs failed; empty if none did."""
    return f"{count} run{'s' * (count > 1)} {what}, for the reasons above; finished runs are kept" if count else ""


def _facts(done: Results) -> dict[str, Any]:
    """For machines."""
    heads = done.comparison.columns
    return {
        "study": done.study.name,
        "report": str(done.report),
        "markdown": str(done.markdown),
        "missing": dict(done.missing),
        "not_yet": dict(done.not_yet),
        "failed": {f"{name} on {short_name(place)}": why for (name, place), why in done.failed.items()},
        "left_to_others": done.left_to_others,
        "rows": {
            label: [{"column": head, **asdict(entry)} for head, entry in zip(heads, row, strict=True)]
            for label, row in done.comparison.rows.items()
        },
    }


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


def _checked(names: Sequence[str]) -> Outcome:
    checked = check(*names)
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


def _shown(done: Results) -> RenderableType:
    if done.left_to_others:
        text = in_a_shard(done.study.name, len(done.runs), done.left_to_others)
        return escape("\n".join([*_failed(done), text]))
    labelled = done.config.quick and done.study.variants
    parts: list[RenderableType] = [f"[bold]{QUICK_LABEL}[/]\n"] if labelled else []
    if done.comparison.rows:
        parts.append(_table(done))
    parts += [f"{name}: {why}" for name, why in done.not_yet.items()]
    parts += [escape(line) for line in _failed(done)]
    if done.missing:
        parts += ["\nDatasets that were not found leave their cells empty:", *advice(done.missing)]
    return Group(*parts, escape(f"\nReport: {done.report}\nTable:  {done.markdown}"))


def _failed(done: Results) -> list[str]:
    return [f"{variant} on {short_name(place)} failed: {why}" for (variant, place), why in done.failed.items()]


def in_a_shard(name: str, finished: int, left: int) -> str:
    """What a shard says that is not the last to end."""
    return (
        f"{name}: {finished} run{'s' * (finished != 1)} of this shard finished, {left} left to other shards; the last "
        f"to end writes the tables, and so does the same command without --shard"
    )


def _table(done: Results) -> Table:
    """One line a cell, which fits any terminal; the files have the paper's layout."""
    table = columns(done.comparison.place, "variant", right=done.comparison.sides)
    table.title, table.title_justify = f"{done.study.name}: {done.study.title}", "left"
    for label, row in done.comparison.rows.items():
        for number, (column, entry) in enumerate(zip(done.comparison.columns, row, strict=True)):
            table.add_row("" if number else label, column, *map(escape, done.comparison.texts(entry)))
    return table


COMMANDS = {"": Reproduce}
