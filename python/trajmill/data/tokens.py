"""The CSV files of tokens that the code of arXiv 2310.00771 writes and reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmill.core import checks
from trajmill.core.paths import AnyPath, input_path
from trajmill.data.errors import refuse, refusing

_LARGEST_TOKEN = 2**32 - 1
_ALLOWED = np.zeros(256, np.bool_)
_ALLOWED[list(b"0123456789,\r\n")] = True


def read_token_csv(path: AnyPath, *, memory_budget: int | None = None) -> NDArray[np.int64]:
    """Read tokens (sequences, length): a sequence a line, decimal numbers between commas, no header.

    Anything else is refused, with the number of the line, and so is a file too large for the `memory_budget`.
    """
    rows: list[NDArray[np.int64]] = []
    with refusing(path):
        for number, line in enumerate(_content(input_path(path), checks.memory_limit(memory_budget)).splitlines(), 1):
            fields = line.split(b",")
            if rows and len(fields) != len(rows[0]):
                fault = f"line {number} has {len(fields)} tokens, line 1 has {len(rows[0])}"
                raise refuse(fault, "all sequences need the same length; the file may be cut short")
            fits = all(0 < len(field) <= len(str(_LARGEST_TOKEN)) for field in fields)
            tokens = np.array(fields if fits else []).astype(np.int64)
            if not fits or tokens.max() > _LARGEST_TOKEN:
                fault = f"line {number} has an empty field or a number above {_LARGEST_TOKEN:,}"
                raise refuse(fault, "a token is the number of a state")
            rows.append(tokens)
    return np.stack(rows)


def _content(path: Path, budget: int) -> bytes:
    """All bytes; only digits, commas and ends of lines are allowed."""
    if not path.is_file():
        raise refuse("no such file", "check the path")
    size = path.stat().st_size
    if 16 * size > budget:  # the text, its parts, and eight bytes for each of at most size / 2 tokens
        fault = f"the file has {size:,} bytes, too many for the memory budget of {budget:,}"
        raise refuse(fault, "split it, or pass a larger memory_budget")
    content = path.read_bytes()
    if not content:
        raise refuse("the file is empty", "copy or make it again")
    odd = ~_ALLOWED[np.frombuffer(content, np.uint8)]
    if odd.any():
        position = int(odd.argmax())
        line = content.count(b"\n", 0, position) + 1
        fault = f"line {line} holds {content[position : position + 1]!r} where a digit or a comma belongs"
        raise refuse(fault, "a file of tokens has decimal numbers between commas and no header")
    return content
