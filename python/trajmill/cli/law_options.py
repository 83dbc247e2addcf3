"""A law's fields as options, for every command that takes a law by its kind."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Sequence
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from trajmill import laws
from trajmill.cli.session import UsageError
from trajmill.core.json_input import read_json
from trajmill.core.law import Law

CommandT = TypeVar("CommandT")


def command_of_law(base: type[CommandT], kind: str, words: Sequence[str]) -> type[CommandT]:
    """`base` with a method ``law()`` and the fields of the law as options.

    Their defaults are those of the preset or the file that `words` name, which is read before they are parsed.
    """
    law = laws.find(kind)
    start = _start(law, words)
    hints, about = get_type_hints(law), field_docs(law)
    own: list[tuple[str, Any, Any]] = []
    given = []
    for each in fields(law):
        hint: Any = hints[each.name]
        if each.init and is_word(hint):
            option: Any = Annotated[hint, tyro.conf.arg(help=about[each.name])]
            own.append((each.name, option, field(default=start.get(each.name, each.default))))
            given.append(each.name)
    needed = [each.name for each in fields(law) if each.init and each.default is MISSING and each.name not in start]
    if needed and not {"-h", "--help"} & set(words):
        ways = " or ".join([*(f"--preset {name}" for name in law.presets), "--fields FILE"])
        raise UsageError(f"trajmill: {kind} needs {', '.join(needed)}: give {ways}")
    rest = [each.name for each in fields(law) if each.init and each.name not in given]
    listed = f" ({', '.join(rest)} only so)" if rest else ""
    own.append(
        ("fields", Annotated[Path | None, tyro.conf.arg(help=f"JSON file with fields of the law{listed}")], None)
    )
    if law.presets:
        help_text = "a published law; the other options change it"
        own.append(("preset", Annotated[Literal[law.presets] | None, tyro.conf.arg(help=help_text)], None))

    def made(self: Any) -> Law:
        return law.from_spec(start | {name: getattr(self, name) for name in given})

    command = make_dataclass("Command", own, bases=(base,), namespace={"law": made}, frozen=True, kw_only=True)
    command.__doc__ = inspect.cleandoc(law.__doc__ or "")
    lines = [f"  trajmill {base.VERB} {kind}{preset}{base.MORE}" for preset in ("", *_preset_words(law))]  # type: ignore[attr-defined]
    command.EXAMPLES = "\n".join(lines)  # type: ignore[attr-defined]
    return command


def summaries() -> dict[str, str]:
    """What each law is, from the first line of its docstring."""
    return {kind: inspect.cleandoc(laws.find(kind).__doc__ or "").partition("\n")[0] for kind in laws.names()}


def length_of(law: Law, length: int | None, usual: int = 1024) -> int:
    """The length that was asked for, else the one that the law fixes, else about the usual one."""
    return law.usual_length(usual) if length is None else length


def field_docs(law: type[Law]) -> dict[str, str]:
    """What stands under each field of a law, in its class and those above."""
    docs: dict[str, str] = {}
    for each in reversed(law.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
                text = ast.literal_eval(after.value)
                docs[ast.unparse(statement.target)] = " ".join(text.split())
    return docs


def is_word(hint: Any) -> bool:
    """Whether a field of this type can be written as a few words."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(part is type(None) or is_word(part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return all(part in (int, float, str, ...) for part in get_args(hint))
    return hint in (int, float, bool, str) or get_origin(hint) is Literal


def _preset_words(law: type[Law]) -> list[str]:
    return [f" --preset {name}" for name in law.presets]


def _start(law: type[Law], words: Sequence[str]) -> dict[str, Any]:
    """The fields that a preset and a file give."""
    start: dict[str, Any] = {}
    if (preset := _value_of("--preset", words)) is not None:
        if preset not in law.presets:
            known = f"presets are {', '.join(law.presets)}" if law.presets else f"{law.kind()} has none"
            raise UsageError(f"trajmill: there is no preset {preset!r}; {known}")
        start = getattr(law, preset)().settings()
    if (path := _value_of("--fields", words)) is not None:
        try:
            given = read_json(Path(path))
        except (OSError, ValueError) as error:
            raise UsageError(f"trajmill: the fields in {path} cannot be read: {error}") from None
        known_fields = {each.name for each in fields(law) if each.init}
        if not isinstance(given, dict) or not set(given) <= known_fields | {"kind"}:
            names = ", ".join(sorted(known_fields))
            raise UsageError(f"trajmill: {path} must be a JSON object of fields of {law.kind()}, which are {names}")
        start |= {name: value for name, value in given.items() if name != "kind"}
    return start


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """The word after an option, or after its equals sign."""
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name == option:
            return value or next(iter(words[place + 1 :]), "")
    return None
