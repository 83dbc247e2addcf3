"""Every law once more, slowly: Python integers, word by word after docs/laws.md; one file a kind.

``row(law, index, length)`` gives one row as a dictionary of lists: ``tokens`` and every column of
``law.kernel_columns``.
"""

from __future__ import annotations

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
