"""Finds one command in its module, parses its arguments, runs it under a progress display, prints what it returns."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

    def run(self, progress: Progress) -> Outcome | None:
        """Do the work by calling one pipeline function; None leaves it to another process to say what came out."""


class UsageError(Exception):
    """Words that name no command; its text is the help that would have helped."""


def run_command(module: ModuleType, words: Sequence[str], *, quiet: bool, as_json: bool) -> None:
    """Run the command that `words` ask of `module`.

    A command's module has ``COMMANDS``, which maps its second word (``""``: it has none) to a dataclass that is a
    `Command`; ``EXAMPLES``; and a docstring, which opens its help.
    """
    name, rest = words[0], list(words[1:])
    commands: Mapping[str, type[Command]] = module.COMMANDS
    if "" not in commands:
        if rest and rest[0] in ("-h", "--help"):
            print(_overview(module, name))
            return
        if not rest or rest[0] not in commands:
            raise UsageError(_overview(module, name))
        name, kind, rest = f"{name} {rest[0]}", commands[rest[0]], rest[1:]
    else:
        kind = commands[""]
    described: Any = kind if hasattr(kind, "EXAMPLES") else module
    command = tyro.cli(
        kind,
        prog=f"trajmill {name}",
        description=f"{_reflow(described.__doc__)}\n\nexamples:\n{described.EXAMPLES.strip(chr(10))}",
        args=rest,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    with display(quiet=quiet) as progress, _plain_warnings():
        outcome = command.run(progress)
    if outcome is None:
        return
    if as_json:
        print(json.dumps(outcome.data, default=str))
    elif isinstance(outcome.text, str):
        print(outcome.text)
    elif outcome.text is not None:
        Console().print(outcome.text)
    else:
        for name, value in outcome.data.items():
            print(f"{name.replace('_', ' ')}: {value}")


def display(*, quiet: bool) -> AbstractContextManager[Progress]:
    """The progress display that fits: none, bars on a terminal, or plain lines; always on stderr."""
    if quiet:
        return nullcontext(silent)
    return RichProgress() if sys.stderr.isatty() else PlainProgress(sys.stderr)


def _overview(module: ModuleType, name: str) -> str:
    if hasattr(module, "SUMMARIES"):
        summaries = module.SUMMARIES()
    else:
        summaries = {word: (kind.__doc__ or "").splitlines()[0] for word, kind in module.COMMANDS.items()}
    width = max(map(len, summaries)) + 2
    commands = "\n".join(f"  trajmill {name} {word:<{width}}{summary}" for word, summary in summaries.items())
    return (
        f"usage: trajmill {name} {'|'.join(module.COMMANDS)} [OPTIONS]\n\n{inspect.cleandoc(module.__doc__ or '')}\n\n"
        f"commands (each has --help)\n{commands}\n\nexamples\n{module.EXAMPLES.strip(chr(10))}"
    )


def _reflow(text: str | None) -> str:
    """One line a paragraph, for the parser to wrap at the terminal's width; what is indented stays as it is."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(each if each.startswith(" ") else " ".join(each.split()) for each in paragraphs)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line: whoever trains does not need our file names and source lines."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"trajmill: warning: {message}", file=sys.stderr)
        yield
