"""JSON that others wrote: neither its size nor its depth may exhaust memory or the stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST = 2**28
"""bytes of a file, or characters of a text: manifests of corpora hold a hash for every block"""
DEEPEST = 64
"""lists and objects around a value"""


def parse_json(text: str | bytes, largest: int = LARGEST) -> Any:
    """The value of a JSON text; ValueError if it is none, larger than `largest`, or nested more deeply than `DEEPEST`.

    What may be nested is walked through by everything that handles it later, so the depth is limited here.
    """
    if len(text) > largest:
        raise ValueError(f"it has {len(text):,} bytes, more than the {largest:,} allowed")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    brackets: tuple[Any, Any] = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, brackets)) > DEEPEST:
        _check_depth(value)
    return value


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """The value in a JSON file, of which at most `largest` bytes are read; OSError, or ValueError as `parse_json`."""
    with path.open("rb") as file:
        text = file.read(largest + 1)
    if len(text) > largest:
        raise ValueError(f"it has more than the {largest:,} bytes allowed")
    return parse_json(text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inner for each in values if isinstance(each, list | dict)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} deep")
