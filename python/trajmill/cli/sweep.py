"""Train a method with every combination of some settings, on every dataset, and put what came out into one table.

Every combination on every dataset is a run of all seeds in one program, in a directory whose name says what differs. A
finished run is never made again, and one that was interrupted goes on, so the same command continues. A run that fails
is named, and the others go on. --engine ray makes the runs on a cluster, --shard k/N the part of one job of an array.

--grid NAME VALUE ... takes the name of any setting of `trajmill train METHOD --help`, once for each setting. All other
options are those of `train`, and hold for all runs. A value of several numbers has commas between them: 256,256. True
and False switch what is a flag there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Group
from rich.markup import escape

from trajmill.algorithms import method_names
from trajmill.cli.reproduce import failures_in_words, in_a_shard
from trajmill.cli.session import Outcome, UsageError, columns
from trajmill.cli.train import config_of, settings_of, summaries
from trajmill.core.progress import Progress
from trajmill.runs.engines import EngineConfig

EXAMPLES = """
  trajmill sweep METHOD --datasets A B --grid method.learning-rate 1e-4 3e-4 --grid schedule.updates 1000 --out sweep
  trajmill sweep METHOD --datasets A --grid method.batch-size 64 256 --seeds 0 1 2 3 --out sweep --processes 4
  trajmill sweep METHOD --datasets A --grid method.hidden-sizes 64,64 256,256 --out sweep --engine ray
  trajmill sweep METHOD --environments hopper --grid method.discount 0.9 0.99 --out sweep --shard 0/8
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What the command asks for beside the settings that all runs share."""

    out: Path
    """directory to create, or to continue"""
    grid: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], tyro.conf.arg(metavar="NAME VALUE ...")
    ] = ()
    """a setting, and the values that it takes in turn"""
    processes: int | None = None
    """runs at a time, at least 1; by default one per core, or one in all on a GPU; with --engine ray as many as the
    cluster has room for"""
    engine: Annotated[EngineConfig, tyro.conf.arg(name="")] = field(default_factory=EngineConfig)

    def run(self, progress: Progress) -> Outcome:
        from trajmill.studies.sweep import sweep

        given: Any = self
        base = config_of(given.config)
        grid = {name: list(getattr(given, many)) for name, many in _PLACES.items() if getattr(given, many, ())}
        for name, values in self._named():
            if name in grid:
                raise UsageError(f"--grid {name} is given twice; give all of its values at once")
            grid[name] = [_value(base, given.config, name, value) for value in values]
        done = sweep(base, grid, self.out, progress, engine=self.engine, processes=self.processes)
        failure = failures_in_words(len(done.faults), "failed or lost seeds")
        if done.left_to_others:
            text = in_a_shard(str(done.output), len(done.records), done.left_to_others)
            return Outcome(done.facts(), "\n".join([*done.faults, text]), failure)
        (*heads, measured), *rows = done.table
        table = columns(*heads, right=(measured,))
        for row in rows:
            table.add_row(*map(escape, row))
        foot = [*done.faults, f"\nReport: {done.report}\nTable:  {done.markdown}"]
        return Outcome(done.facts(), Group(table, *map(escape, foot)), failure)

    def _named(self) -> Iterator[tuple[str, Sequence[str]]]:
        for words in self.grid:
            if len(words) < 2:
                given = " ".join(words) or "nothing"
                raise UsageError(
                    f"--grid takes a setting and its values, such as schedule.updates 100 1000, got {given}"
                )
            yield words[0].replace("-", "_"), words[1:]


_PLACES = {"dataset": "datasets", "environment": "environments"}
"""settings that are rows of the table, and the options that list their values"""


def _value(base: Any, config: Any, name: str, value: str) -> Any:
    """A word as the setting takes it."""
    from trajmill.cli.session import RULES
    from trajmill.studies.sweep import setting

    setting(base, name)
    words = [f"--{name.replace('_', '-')}", *value.split(",")]
    markers = [tyro.conf.FlagConversionOff]
    prog = f"trajmill sweep, --grid {name}"
    parsed = tyro.cli(type(config), prog=prog, args=words, default=config, config=markers, registry=RULES)
    return setting(parsed, name)


def command_of(name: str, words: Sequence[str] = ()) -> type[Sweep]:
    """The command of a method: options of `train`, but for the dataset or environment, of which there may be many."""
    settings = settings_of(name)
    needs = {each.name for each in fields(settings)}
    own: list[Any] = []
    hidden: list[Any] = []
    place = "environment" if "interaction" in needs else "dataset" if "dataset" in needs else None
    if place is not None:
        about = "bundled datasets by name, or paths of files" if place == "dataset" else "by name, such as hopper"
        own.append((_PLACES[place], Annotated[tuple[str, ...], tyro.conf.arg(help=about)]))
        hidden.append((place, tyro.conf.Suppress[str], field(default="")))
    shared = make_dataclass(settings.__name__, hidden, bases=(settings,), frozen=True, kw_only=True)
    shared.__doc__ = settings.__doc__
    own.append(("config", Annotated[shared, tyro.conf.arg(name="")]))
    command = make_dataclass(name, own, bases=(Sweep,), frozen=True, kw_only=True)
    examples = EXAMPLES.replace("METHOD", name)
    if place is None:
        examples = re.sub(r" --(datasets|environments)( \w+)+?(?= --)", "", examples)
    else:
        instead = "hopper" if place == "environment" else "A"
        examples = re.sub(r"--(datasets|environments) \w+", f"--{_PLACES[place]} {instead}", examples)
        examples = examples.replace("hopper B", "hopper walker2d")
    command.__doc__, command.EXAMPLES = __doc__, examples  # type: ignore[attr-defined]
    return command


COMMANDS = {name: partial(command_of, name) for name in method_names()}
SUMMARIES = summaries
