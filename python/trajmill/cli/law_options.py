"""A law's fields as options, for every command that takes a law by its kind."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from typing import Annotated, Any, Literal, TypeVar

import tyro

from trajmill import laws
from trajmill.cli.session import UsageError
from trajmill.core.law import Law

CommandT = TypeVar("CommandT")


def command_of_law(base: type[CommandT], kind: str, words: Sequence[str]) -> type[CommandT]:
    """`base` with the fields of a law as options under ``law``, whose defaults are those of the preset in `words`."""
    law = laws.find(kind)
    names = tuple(law.presets)
    preset = _preset(words, names)
    default = law() if preset is None else getattr(law, preset)()
    own: list[tuple[str, Any, Any]] = [
        ("law", Annotated[law, tyro.conf.arg(name="")], field(default_factory=lambda: default))
    ]
    if names:
        about = "a published law; the other options change it"
        own.append(("preset", Annotated[Literal[names] | None, tyro.conf.arg(help=about)], None))
    command = make_dataclass("Command", own, bases=(base,), frozen=True, kw_only=True)
    command.__doc__ = inspect.cleandoc(law.__doc__ or "")
    presets = "".join(f"  trajmill {base.VERB} {kind} --preset {name}{base.MORE}\n" for name in names)  # type: ignore[attr-defined]
    command.EXAMPLES = f"  trajmill {base.VERB} {kind}{base.MORE}\n{presets}"  # type: ignore[attr-defined]
    return command


def summaries() -> dict[str, str]:
    """What each law is, from the first line of its docstring."""
    return {kind: inspect.cleandoc(laws.find(kind).__doc__ or "").partition("\n")[0] for kind in laws.names()}


def _preset(words: Sequence[str], names: Sequence[str]) -> str | None:
    """The preset that is asked for, before anything is parsed: it decides what the other options are by default."""
    for place, word in enumerate(words):
        option, _, value = word.partition("=")
        if option == "--preset":
            value = value or next(iter(words[place + 1 :]), "")
            if value not in names:
                known = f"presets are {', '.join(names)}" if names else "this law has no presets"
                raise UsageError(f"trajmill: there is no preset {value!r}; {known}")
            return value
    return None


def length_of(law: Law, length: int | None, usual: int = 1024) -> int:
    """The length that was asked for, else the one that the law fixes, else the usual one."""
    return (law.fixed_length or usual) if length is None else length
