"""Zipf's tokens, slowly."""

from __future__ import annotations

import functools
from typing import Any

import corpus_order

from law_twins import alias_table, words_of
from trajmill.core.alias import zipf
from trajmill.core.law import Domain
from trajmill.laws.zipf_tokens import ZipfTokens


@functools.cache
def cells(law: ZipfTokens) -> list[tuple[int, int]]:
    """The alias table over tokens; the real numbers before it are checked on their own (test_zipf_tokens.py)."""
    by_rank = zipf(law.token_count, law.exponent, law.shift).tolist()
    if not law.shuffled:
        return alias_table(by_rank)
    by_token = [0.0] * law.token_count
    key = law.task_key(Domain.ZIPF_IDS)
    for rank, probability in enumerate(by_rank):
        by_token[corpus_order.row_at(rank, size=law.token_count, seed=key, epoch=0)] = probability
    return alias_table(by_token)


def row(law: ZipfTokens, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    words = words_of(law.key(Domain.TOKENS), index)
    tokens = []
    for _ in range(length):
        column, rest = divmod(next(words) * law.token_count, 2**32)
        rest = rest >> 8 << 8 if law.token_count <= 256 else next(words)  # 24 bits of one word, or a second one
        threshold, alias = cells(law)[column]
        tokens.append(column if rest < threshold else alias)
    return {"tokens": tokens}
