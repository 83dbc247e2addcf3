"""Bursty sequences, slowly."""

from __future__ import annotations

from functools import cache
from typing import Any

from law_twins import word_at
from law_twins.associative_recall import chances_of, chosen, first_of_shuffle
from trajmill.core.law import Domain
from trajmill.laws.bursty_sequences import BurstySequences


@cache
def law_of(exponent: float, classes: int) -> dict[int, int]:
    """How many of the 2**32 words propose each class."""
    return dict(enumerate(chances_of(1 - exponent, classes)))


def row(law: BurstySequences, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    key, pairs = law.key(Domain.BURSTS), law.pairs
    assert length == 2 * pairs + 2
    words = [word_at(key, index, k) for k in range(length)]
    chances = law_of(law.exponent, law.classes)
    number = length
    if words[0] < round(law.p_bursty * 2**32):
        wanted = law.ways + pairs - law.ways * law.shots
        free = dict(chances)
        found: list[int] = []
        while len(found) < wanted:
            which = chosen(chances if number < length + 8 * wanted else free, word_at(key, index, number))
            number += 1
            if which in free:
                del free[which]
                found.append(which)
        classes = [which for which in found[: law.ways] for _ in range(law.shots)] + found[law.ways :]
        classes = [*first_of_shuffle(classes, words[1 : pairs + 1]), found[0]]
    else:
        classes = [chosen(chances, word_at(key, index, number + k)) for k in range(pairs + 1)]
    names = {which: which for which in classes}
    if law.labels == "fresh":
        different = list(dict.fromkeys(classes))
        assert law.label_count is not None
        drawn = words[pairs + 1 : pairs + 1 + len(different)]
        names = dict(zip(different, first_of_shuffle(list(range(law.label_count)), drawn), strict=True))
    tokens = [token for which in classes for token in (which, law.classes + names[which])]
    return {"tokens": tokens, "loss_mask": [0] * (length - 1) + [1]}
