"""What can be wrong with a corpus, and the libraries that only some parts of this package need."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CorpusError(ValueError):
    """A corpus that is damaged or unfinished, or that cannot be made or exported; the message says what to do."""


class NewerFormatError(CorpusError):
    """A corpus that a newer version has written."""


@contextmanager
def damage_in(where: str) -> Iterator[None]:
    """Raise what the checks of a block find as a CorpusError that names `where`."""
    try:
        yield
    except NewerFormatError:
        raise
    except KeyError as error:
        raise CorpusError(f"{where} is damaged ({error} is missing)") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise CorpusError(f"{where} is damaged ({error})") from None


def library(module: str, user: str, extra: str) -> Any:
    """Import a library that only `user` needs; CorpusError that names our `extra` if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise CorpusError(f"{user} needs {name}; install it with: pip install 'trajmill[{extra}]'") from error
