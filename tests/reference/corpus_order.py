"""The order of rows, slowly: docs/corpus-format.md word by word, on the Philox block alone."""

from __future__ import annotations

from trajmill import _core

ROUNDS = 8
CORPUS_ORDER = 13  # the domain's number


def derived_key(seed: int, *values: int) -> int:
    """The seed with values absorbed one after another (docs/streams.md)."""
    key = seed
    for position, value in enumerate(values):
        words = _core.philox4x32([value & 0xFFFFFFFF, value >> 32, position, 0], key)
        key = words[0] | words[1] << 32
    return key


def row_at(position: int, *, size: int, seed: int, epoch: int) -> int:
    """The row at `position` of an epoch's order."""
    return permuted(position, size=size, key=derived_key(seed, CORPUS_ORDER, size, epoch))


def permuted(position: int, *, size: int, key: int) -> int:
    """Where the bijection of a key sends a position."""
    bits = max(2, (size - 1).bit_length())
    low_bits = bits // 2
    high_bits = bits - low_bits
    while True:
        low, high = position % 2**low_bits, position >> low_bits
        for round_number in range(ROUNDS):
            if round_number % 2 == 0:
                high ^= _core.philox4x32([low, round_number, 0, 0], key)[0] % 2**high_bits
            else:
                low ^= _core.philox4x32([high, round_number, 0, 0], key)[0] % 2**low_bits
        position = high << low_bits | low
        if position < size:
            return position
