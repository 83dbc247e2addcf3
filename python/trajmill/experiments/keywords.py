"""The settings of a run from the keywords of a call, under the names that the command has."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from trajmill.algorithms import method_named
from trajmill.core.paths import given_path
from trajmill.experiments.settings import TrainConfig, kind_of_settings

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    NoneType: "None",
}


def settings_of(name: str, keywords: Mapping[str, Any]) -> TrainConfig[Any]:
    """The settings of a run of a method, as the command's own options would make them.

    Those of a group are a dict under its name, or have the group in their name: ``schedule={"updates": 100}`` and
    ``**{"schedule.updates": 100}`` are the same. ValueError and TypeError name what is unknown, missing or of another
    type.
    """
    kind, defaults = kind_of_settings(method_named(name))
    known = list(_names(kind, defaults))

    def made(kind: Any, defaults: Mapping[str, Any], given: Mapping[str, Any], group: str) -> Any:
        """A record of settings: its defaults, but for what is given."""
        hints, own = get_type_hints(kind), {field.name: field for field in fields(kind)}
        values = dict(defaults)
        for key, value in _grouped(given).items():
            if key not in own:
                raise ValueError(_unknown(name, f"{group}{key}", known))
            default = values.get(key, _default(own[key]))
            if is_dataclass(default) and isinstance(value, Mapping):
                values[key] = made(type(default), _values(default), value, f"{group}{key}.")
            else:
                hint = type(default) if is_dataclass(default) else hints[key]
                values[key] = _fitting(f"{group}{key}", value, hint)
        missing = [key for key, field in own.items() if key not in values and _default(field) is MISSING]
        if missing:
            raise ValueError(f"{name} needs {' and '.join(missing)}: give {', '.join(f'{key}=...' for key in missing)}")
        return kind(**values)

    config: TrainConfig[Any] = made(kind, defaults, keywords, "")
    return config


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _grouped(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose group is in their name, put into it; names as the command writes them are Python's too."""
    found = dict[str, Any]()
    for name, value in given.items():
        group, dot, rest = name.replace("-", "_").partition(".")
        if not dot:
            found[group] = found[group] | value if isinstance(found.get(group), dict) else value
        elif isinstance(found.setdefault(group, {}), Mapping):
            found[group] = {**found[group], rest: value}
        else:
            raise ValueError(f"{name} is given beside all of {group}, which has it; leave one of them out")
    return found


def _names(kind: Any, defaults: Mapping[str, Any], group: str = "") -> Iterator[str]:
    """Names of all settings, those of groups with the group before them."""
    for field in fields(kind):
        default = defaults.get(field.name, _default(field))
        if is_dataclass(default):
            yield from _names(default, _values(default), f"{group}{field.name}.")
        else:
            yield f"{group}{field.name}"


def _values(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _unknown(method: str, name: str, known: Iterable[str]) -> str:
    """What to say of a setting that there is not."""
    word = name.rpartition(".")[2]
    near = [other for other in known if other.rpartition(".")[2] == word]
    near = near or difflib.get_close_matches(name, known, 3, 0.8)
    words = {other.rpartition(".")[2]: other for other in known}
    near = near or [words[match] for match in difflib.get_close_matches(word, words, 3, 0.8)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"`trajmill train {method} --help` lists all"
    return f"{method} has no setting {name!r}; {hint}"


def _fitting(name: str, value: Any, hint: Any) -> Any:
    """The value in the type of a setting; TypeError, or ValueError for another word than its words."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        if (found := _as(value, option)) is not NotImplemented:
            return found
    kind = ValueError if isinstance(value, str) and get_origin(hint) is Literal else TypeError
    raise kind(f"{name} must be {' or '.join(map(_described, options))}, got {value!r}")


def _as(value: Any, option: Any) -> Any:
    """The value in a type, NotImplemented if it does not belong there."""
    value = value.item() if isinstance(value, np.generic) else value
    if get_origin(option) is Literal:
        fits = isinstance(value, str) and value in get_args(option)
    elif get_origin(option) is tuple:
        kinds = get_args(option)
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            return NotImplemented
        items = list(value)
        kinds = kinds[:1] * len(items) if kinds[-1] is ... else kinds
        found = tuple(map(_as, items, kinds))
        return found if len(items) == len(kinds) and NotImplemented not in found else NotImplemented
    elif option in (str, Path) and isinstance(value, str | os.PathLike):
        return given_path(value) if option is Path else os.fspath(value)
    elif option is float and type(value) is int:
        return float(value)
    else:
        kind = get_origin(option) or option
        fits = type(value) is kind or (is_dataclass(kind) and isinstance(kind, type) and isinstance(value, kind))
    return value if fits else NotImplemented


def _described(option: Any) -> str:
    if get_origin(option) is Literal:
        return f"one of {', '.join(map(repr, get_args(option)))}"
    if get_origin(option) is tuple:
        return f"a sequence of {_described(get_args(option)[0]).removeprefix('a ')}s"
    return _WORDS.get(option) or f"a dict or a {getattr(get_origin(option) or option, '__name__', option)}"
