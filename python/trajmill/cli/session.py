"""Finds one command in its module, parses its arguments, runs it under a progress display, prints what it returns."""

from __future__ import annotations

import inspect
import json
import math
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro
import tyro.constructors
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from trajmill.core.display import display
from trajmill.core.paths import given_path
from trajmill.core.plain_text import plain_text
from trajmill.core.progress import silent

RULES = tyro.constructors.ConstructorRegistry()


@RULES.primitive_rule
def _path_rule(asked: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Every path of every command means what `given_path` says; a URL is wrong usage."""
    if asked.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: given_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command leaves behind."""

    data: Mapping[str, Any]
    """for machines, printed with --json"""
    text: RenderableType
    """for people"""
    failure: str = ""
    """what went wrong although there is a result: the command fails with it"""


@dataclass(frozen=True, slots=True)
class _Plain:
    """What is drawn, without what names in it would tell the terminal to do."""

    drawn: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in console.render(self.drawn, options):
            yield Segment(plain_text(text), style, control)


class UsageError(Exception):
    """Words that name no command; its text is the help that would have helped."""


def run_command(module: ModuleType, words: Sequence[str], *, quiet: bool, as_json: bool) -> None:
    """Run the command that `words` ask of `module`.

    A command's module has a docstring, which opens its help; ``EXAMPLES``; and ``COMMANDS``, which maps its second word
    (``""``: it has none) to a dataclass, the parsed arguments. Its ``run(progress)`` does the work by calling one
    function, and returns an `Outcome`, or None if another process prints one. A function in place of the dataclass
    makes one of the words that follow, since they may decide what options there are; under a second word it has
    ``EXAMPLES`` of its own, and its switches have both of their names, since some are on by default.
    """
    name, *rest = words
    markers = [tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff]
    kind, about = module.COMMANDS.get(""), _about(module.__doc__, module.EXAMPLES)
    if kind is not None and not isinstance(kind, type):
        kind = kind(rest)
    elif kind is None:
        word, *rest = rest or [""]
        if word in ("-h", "--help"):
            print(_overview(module, name))
            return
        if word not in module.COMMANDS:
            unknown = f"trajmill: there is no command `trajmill {name} {word}`\n\n" if word else ""
            raise UsageError(unknown + _overview(module, name))
        name, kind = f"{name} {word}", module.COMMANDS[word]
        if isinstance(kind, type):
            own = [line for line in module.EXAMPLES.splitlines() if line.startswith(f"  trajmill {name} ")]
            _, _, more = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
            about = _about(f"{kind.__doc__}\n\n{more}".strip(), "\n".join(own) or module.EXAMPLES)
        else:
            kind = kind(rest)
            markers = [] if getattr(kind, "NONE_IS_A_VALUE", False) else markers[:1]
            about = _about(kind.__doc__, kind.EXAMPLES)
    if {"-h", "--help"} & set(rest):
        print(f"{about}\n")  # not as the parser's description, whose lines it joins
    command = tyro.cli(kind, prog=f"trajmill {name}", description="", args=rest, config=markers, registry=RULES)
    with nullcontext(silent) if quiet else display() as progress, _plain_warnings():
        outcome = command.run(progress)
    if outcome is None:
        return
    if as_json:
        print(json.dumps(json_value(outcome.data), allow_nan=False))
    elif isinstance(outcome.text, str):
        print(plain_text(outcome.text))
    else:
        Console().print(_Plain(outcome.text))
    if outcome.failure:
        raise RuntimeError(outcome.failure)


def json_value(value: Any) -> Any:
    """The value as JSON has it: numbers that are not finite are null, NumPy's are plain, what is unknown is text."""
    if isinstance(value, Mapping):
        return {str(key): json_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return json_value(value.tolist()) if hasattr(value, "tolist") else str(value)


def columns(*left: str, right: Sequence[str] = ()) -> Table:
    """A plain table with columns of words, and after them columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in left:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _overview(module: ModuleType, name: str) -> str:
    """What the second words mean, from the docstrings or, if those are not to be imported, from ``SUMMARIES``."""
    first_lines = {word: (kind.__doc__ or "").partition("\n")[0] for word, kind in module.COMMANDS.items()}
    summaries = module.SUMMARIES() if hasattr(module, "SUMMARIES") else first_lines
    width = max(map(len, summaries)) + 2
    lines = [f"  trajmill {name} {word:<{width}}{summary}" for word, summary in summaries.items()]
    listed = "\n".join(["commands (each has --help):", *lines])
    return (
        f"usage: trajmill {name} {'|'.join(summaries)} [OPTIONS]\n\n{_about(module.__doc__, listed, module.EXAMPLES)}"
    )


def _about(docstring: str | None, *parts: str) -> str:
    """A docstring wrapped to the terminal's width, other parts, examples; what is indented stays as it is."""
    width = min(120, shutil.get_terminal_size().columns)
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    wrapped = [each if each.startswith(" ") else textwrap.fill(each, width) for each in paragraphs]
    *others, examples = parts
    return "\n\n".join([*wrapped, *others, f"examples:\n{examples.strip(chr(10))}"])


def _warn(message: str) -> None:
    print(plain_text(f"trajmill: warning: {message}"), file=sys.stderr)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line: whoever trains does not need our file names and source lines."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _warn(str(message))
        yield
