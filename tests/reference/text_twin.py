"""Packing of text written slowly: a list that grows, and is cut whenever a row is full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def packed(files: list[Path], encode: Callable[[str], list[int]], end: int, length: int) -> list[list[int]]:
    """Rows of `length` tokens: empty lines skipped, `end` after each line, the rest kept for the next row."""
    rows, rest = [], []
    for path in files:
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip() == "":
                continue
            rest = rest + encode(line) + [end]
            while len(rest) >= length:
                rows.append(rest[:length])
                rest = rest[length:]
    return rows
