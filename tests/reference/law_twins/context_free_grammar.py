"""Context-free grammars, slowly: a list of what waits, from the left."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

from law_twins import words_of
from trajmill.core.law import Domain
from trajmill.laws.context_free_grammar import ContextFreeGrammar


@cache
def prepared(law: ContextFreeGrammar) -> tuple[int, dict[str, list[tuple[int, list[Any]]]]]:
    """The key, and of each symbol the right sides that can come, with the words up to which they do."""
    table = {}
    for name, rights in law.rules:
        weights = [Fraction(chance) for _, chance in rights]
        before, kept = 0, []
        for k, (right, _) in enumerate(rights):
            limit = round(sum(weights[: k + 1]) / sum(weights) * 2**32)
            if limit > before:
                kept.append((limit, list(right)))
            before = limit
        table[name] = kept
    return law.key(Domain.GRAMMARS), table


def row(law: ContextFreeGrammar, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    key, table = prepared(law)
    words = words_of(key, index)
    tokens: list[int] = []
    waiting: list[Any] = []
    while len(tokens) < length:
        if not waiting:
            waiting = [law.start, *([None] if law.separator else [])]
        symbol = waiting.pop(0)
        if symbol is None:
            tokens.append(len(law.terminals))
        elif symbol not in table:
            tokens.append(law.terminals.index(symbol))
        else:
            rights = table[symbol]
            taken = rights[0][1]
            if len(rights) > 1:
                word = next(words)
                taken = next(right for limit, right in rights if word < limit)
            waiting = [*taken, *waiting]
    return {"tokens": tokens}
