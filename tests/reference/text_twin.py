"""Packing of text written slowly: a list that grows, and is cut whenever a row is full."""

from __future__ import annotations

import random
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


def packed_as_released(
    files: list[Path], encode: Callable[[str], list[int]], end: int, length: int, seed: int
) -> list[list[int]]:
    """The same of the lines as Hugging Face's Wikitext has them, empty where they are blank, in a shuffled order."""
    data: list[str] = []
    for path in files:
        with path.open(encoding="utf-8") as file:
            data += [row if row.strip() else "" for row in file]
    order = list(range(len(data)))
    random.seed(seed)
    random.shuffle(order)
    rows, row = [], []
    for number in order:
        if data[number] == "":
            continue
        for token in [*encode(data[number]), end]:
            row.append(token)
            if len(row) == length:
                rows.append(row)
                row = []
    return rows
