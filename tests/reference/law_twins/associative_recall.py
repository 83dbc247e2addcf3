"""Multi-query associative recall, slowly."""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache
from itertools import pairwise
from typing import Any

from law_twins import word_at
from trajmill.core.law import Domain
from trajmill.laws.associative_recall import AssociativeRecall


@cache
def chances_of(power: float, places: int) -> list[int]:
    """How many of the 2**32 words propose each place."""
    with localcontext() as context:
        context.prec = 50
        weights = [Decimal(g) ** (Decimal(power) - 1) for g in range(1, places + 1)]
        ends = [int(2**32 * sum(weights[:k]) / sum(weights)) for k in range(places)] + [2**32]
    return [end - begin for begin, end in pairwise(ends)]


def chosen(chances: dict[int, int], word: int) -> int:
    """The choice that a word below 2**32 makes among numbers with these chances, whose sum may be smaller."""
    rest = word * sum(chances.values()) // 2**32
    for place, chance in chances.items():
        if rest < chance:
            return place
        rest -= chance
    raise AssertionError


def first_of_shuffle(values: list[int], words: list[int]) -> list[int]:
    """As many different values as there are words, by Fisher and Yates."""
    for k, word in enumerate(words):
        at = k + word * (len(values) - k) // 2**32
        values[k], values[at] = values[at], values[k]
    return values[: len(words)]


def row(law: AssociativeRecall, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    key, size, pairs = law.key(Domain.RECALL), law.vocabulary, law.pairs
    words = [word_at(key, index, k) for k in range(2 * pairs)]
    keys = first_of_shuffle(list(range(1, size // 2)), words[:pairs])
    values = first_of_shuffle(list(range(size // 2, size)), words[pairs:])
    tokens = [token for pair in zip(keys, values, strict=True) for token in pair]
    for t in range(2 * pairs, length):
        tokens.append(word_at(key, index, 4 * 2**31 + t) * size // 2**32 if law.uniform_filler else 0)
    mask = [0] * length
    chances = dict(enumerate(chances_of(law.power, length // 2 - pairs)))
    free = dict(chances)
    number = 0
    for which in range(pairs):
        while True:
            word = word_at(key, index, 4 * 2**30 + number)
            place = chosen(chances if number < 8 * pairs else free, word)
            number += 1
            if place in free:
                break
        del free[place]
        at = 2 * (pairs + place)
        tokens[at : at + 2] = keys[which], values[which]
        mask[at + 1] = 1
    return {"tokens": tokens, "loss_mask": mask}
