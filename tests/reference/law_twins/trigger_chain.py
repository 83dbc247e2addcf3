"""Chains with triggers, slowly."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from law_twins import alias_table, word_at
from law_twins.associative_recall import chosen
from trajmill.core.law import Domain
from trajmill.laws.trigger_chain import TriggerChain


@cache
def cells(law: TriggerChain) -> list[list[tuple[int, int]]]:
    """The alias tables of the first token and of the token after each state.

    The real numbers before them are checked on their own (test_trigger_chain.py).
    """
    return [alias_table(row) for row in [law.stationary().tolist(), *law._chain().tolist()]]


@cache
def law_of_triggers(law: TriggerChain) -> dict[int, int]:
    """How many of the 2**32 words propose each state."""
    parts = [Fraction(chance) for chance in law.stationary().tolist()]
    total, before, ends = sum(parts), Fraction(0), [0]
    for part in parts:
        before += part
        ends.append(int(2**32 * before / total))
    return {state: ends[state + 1] - ends[state] for state in range(len(parts))}


def row(law: TriggerChain, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    count, states = law.triggers, law.vocabulary_size
    key = law.key(Domain.BURSTS)
    outputs = [word_at(key, index, j) * states // 2**32 for j in range(count)]
    every = law_of_triggers(law)
    free, triggers = dict(every), []
    number = count
    while len(triggers) < count:
        state = chosen(every if number < 9 * count else free, word_at(key, index, number))
        number += 1
        if state in free:
            del free[state]
            triggers.append(state)
    output = dict(zip(triggers, outputs, strict=True))

    key, tables = law.key(Domain.TOKENS), cells(law)
    tokens: list[int] = []
    mask: list[int] = []
    for t in range(length):
        last = tokens[-1] if tokens else None
        if last in output:
            tokens.append(output[last])
            mask.append(int(last in tokens[: t - 1]))
            continue
        column, rest = divmod(word_at(key, index, t) * states, 2**32)
        threshold, alias = tables[0 if last is None else last + 1][column]
        tokens.append(column if rest >> 8 << 8 < threshold else alias)
        mask.append(0)
    return {"tokens": np.array(tokens), "loss_mask": np.array(mask)}
