"""Brackets, slowly."""

from __future__ import annotations

import functools
import math
from typing import Any

from law_twins import alias_table, words_of
from trajmill.core.law import Domain
from trajmill.laws.dyck import Dyck


@functools.cache
def zipf_cells(pairs: int) -> list[tuple[int, int]]:
    """The alias table of types in proportion to 1 / (r + 2.7)."""
    weights = [1 / (r + 2.7) for r in range(1, pairs + 1)]
    total = math.fsum(weights)
    return alias_table([weight / total for weight in weights])


def drawn_type(law: Dyck, word: int, whole: int) -> int:
    """The type that a word below `whole` draws."""
    kind, rest = divmod(word * law.pairs, whole)
    if law.types == "zipf":
        threshold, alias = zipf_cells(law.pairs)[kind]
        if rest >= threshold * whole // 2**32:
            return alias
    return kind


def row(law: Dyck, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    limit = round(law.open_probability * 2**32)
    words = words_of(law.key(Domain.CROSSING_DYCK if law.crossing else Domain.NESTED_DYCK), index)
    open_types: list[int] = []
    tokens, depths = [], []
    word_length = 0
    for t in range(length):
        word = next(words)
        if not open_types:
            word_length = 0
        may_open = True
        if law.max_depth is not None and len(open_types) == law.max_depth:
            may_open = False
        if law.longest_word is not None and word_length >= law.longest_word - 1:
            may_open = False
        if law.balanced and len(open_types) + 1 > length - t - 1:
            may_open = False
        if not open_types or t < law.initial_depth:
            kind = drawn_type(law, word, 2**32)
            open_types.append(kind)
            tokens.append(kind)
        elif may_open and word < limit:
            kind = drawn_type(law, word, limit)
            open_types.append(kind)
            tokens.append(kind)
        elif law.crossing:
            different = sorted(set(open_types))
            r = (word - limit) * len(different) // (2**32 - limit) if may_open else word * len(different) // 2**32
            open_types.remove(different[r])
            tokens.append(different[r] + (law.pairs if law.paired else 0))
        else:
            tokens.append(open_types.pop() + (law.pairs if law.paired else 0))
        word_length += 1
        depths.append(len(open_types))
    return {"tokens": tokens, "states": depths}
