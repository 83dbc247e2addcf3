"""Every law once more, slowly: Python integers, word by word after docs/laws.md; one file a kind.

``row(law, index, length)`` gives one row as a dictionary of lists: ``tokens`` and every column of
``law.kernel_columns``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from trajmill import _core


def derive_key(seed: int, *values: int) -> int:
    """The seed with values absorbed one after another (docs/streams.md)."""
    key = seed
    for position, value in enumerate(values):
        words = _core.philox4x32([value & 0xFFFFFFFF, value >> 32, position, 0], key)
        key = words[0] | words[1] << 32
    return key


def words_of(key: int, sequence: int) -> Iterator[int]:
    """The words of a sequence under a key, one after another."""
    block = 0
    while True:
        yield from _core.philox4x32([block, sequence & 0xFFFFFFFF, sequence >> 32, 0], key)
        block += 1


def word_at(key: int, sequence: int, number: int) -> int:
    """One word of a sequence under a key: word ``number % 4`` of block ``number // 4``."""
    block = [number // 4, sequence & 0xFFFFFFFF, sequence >> 32, 0]
    return int(_core.philox4x32(block, key)[number % 4])


def alias_table(probabilities: list[float]) -> list[tuple[int, int]]:
    """Vose's method in whole numbers: of each column its threshold out of 2**32, and its alias (docs/streams.md)."""
    count = len(probabilities)
    capacity = 2**24 if count <= 256 else 2**32
    weights = [math.floor(p * (count * capacity) + 0.5) for p in probabilities]
    weights[weights.index(max(weights))] += count * capacity - sum(weights)
    small = [j for j in range(count) if weights[j] < capacity]
    large = [j for j in range(count) if weights[j] >= capacity]
    cells = [(0, j) for j in range(count)]
    while small:
        column = small.pop()
        cells[column] = weights[column] * (2**32 // capacity), large[-1]
        weights[large[-1]] -= capacity - weights[column]
        if weights[large[-1]] < capacity:
            small.append(large.pop())
    return cells


def philox(counter: list[int], key: int, rounds: int) -> list[int]:
    """A Philox4x32 block of any number of rounds (Salmon et al. 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key % 2**32, key >> 32
    for _ in range(rounds):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second % 2**32, (first >> 32) ^ c3 ^ k1, first % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]
