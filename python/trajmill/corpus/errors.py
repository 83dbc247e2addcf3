"""What can be wrong with a corpus, and the libraries that only some parts of this package need."""

from __future__ import annotations

import importlib
from typing import Any


class CorpusError(ValueError):
    """A corpus that is damaged or unfinished, or that cannot be made or exported; the message says what to do."""


class NewerFormatError(CorpusError):
    """A corpus that a newer version has written."""


def library(module: str, user: str, extra: str) -> Any:
    """Import a library that only `user` needs; CorpusError that names our `extra` if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise CorpusError(f"{user} needs {name}; install it with: pip install 'trajmill[{extra}]'") from error
