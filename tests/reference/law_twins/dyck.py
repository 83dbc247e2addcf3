"""Nested brackets, slowly."""

from __future__ import annotations

from typing import Any

from law_twins import words_of
from trajmill.core.law import Domain
from trajmill.laws.dyck import Dyck


def row(law: Dyck, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    limit = round(law.open_probability * 2**32)
    words = words_of(law.key(Domain.NESTED_DYCK), index)
    open_types: list[int] = []
    tokens, depths = [], []
    word_length = 0
    for t in range(length):
        word = next(words)
        if not open_types:
            word_length = 0
        if not open_types or t < law.initial_depth:
            opens, kind = True, word * law.pairs // 2**32
        else:
            opens, kind = word < limit, word * law.pairs // limit
            if law.max_depth is not None and len(open_types) == law.max_depth:
                opens = False
            if law.longest_word is not None and word_length >= law.longest_word - 1:
                opens = False
            if law.balanced and len(open_types) + 1 > length - t - 1:
                opens = False
        if opens:
            open_types.append(kind)
            tokens.append(kind)
        else:
            tokens.append(open_types.pop() + (law.pairs if law.paired else 0))
        word_length += 1
        depths.append(len(open_types))
    return {"tokens": tokens, "states": depths}
