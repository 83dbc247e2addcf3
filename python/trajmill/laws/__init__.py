"""Laws of token sequences, one to a file: the file's name is the kind, and its one subclass of `Law` is found by it."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from trajmill.core.law import Law


@cache
def names() -> tuple[str, ...]:
    """Every kind, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(kind: str) -> type[Law]:
    """The law of that kind; ValueError, with all kinds, if there is none."""
    if kind not in names():
        raise ValueError(f"there is no law of kind {kind!r}; kinds are {', '.join(names())}")
    module = import_module(f"{__name__}.{kind}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Law) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define one subclass of Law, got {[law.__name__ for law in found]}")
    return found[0]
