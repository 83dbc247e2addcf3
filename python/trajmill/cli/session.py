"""Parses one command's arguments, runs it under a progress display, prints what it returns."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import tyro
from rich.console import Console, RenderableType
from trajmill.cli.progress import PlainProgress, RichProgress
from trajmill.core.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command leaves behind."""

    data: Mapping[str, Any]
    """for machines, printed with --json"""
    text: RenderableType | None = None
    """for people; without it the data are listed"""


class Command(Protocol):
    """Parsed arguments that can be run."""

    def run(self, progress: Progress) -> Outcome:
        """Do the work by calling one pipeline function."""


def run_command(module: ModuleType, words: Sequence[str], *, quiet: bool, as_json: bool) -> None:
    """Parse `words`, the command's name first, as the command of `module`; run it; print.

    A command's module has ``ARGUMENTS``, a type that tyro makes a `Command` from, ``EXAMPLES``, and a docstring that
    opens its help.
    """
    command: Command = tyro.cli(
        module.ARGUMENTS,
        prog=f"trajmill {words[0]}",
        description=f"{_reflow(module.__doc__ or '')}\n\nexamples:\n{module.EXAMPLES.strip(chr(10))}",
        args=list(words[1:]),
    )
    with display(quiet=quiet) as progress:
        outcome = command.run(progress)
    if as_json:
        print(json.dumps(outcome.data, default=str))
    elif outcome.text is not None:
        Console().print(outcome.text)
    else:
        for name, value in outcome.data.items():
            print(f"{name.replace('_', ' ')}: {value}")


def _reflow(text: str) -> str:
    """One line a paragraph, for the parser to wrap at the terminal's width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def display(*, quiet: bool) -> AbstractContextManager[Progress]:
    """The progress display that fits: none, bars on a terminal, or plain lines; always on stderr."""
    if quiet:
        return nullcontext(silent)
    return RichProgress() if sys.stderr.isatty() else PlainProgress(sys.stderr)
