"""Hidden Markov models, slowly: alias tables made once more, and urns hop by hop."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from law_twins import words_of
from trajmill.core.law import Domain
from trajmill.laws.hidden_markov_model import HiddenMarkovModel


def philox7(counter: list[int], key: int) -> list[int]:
    """Philox4x32 with seven rounds."""
    a, b, c, d = counter
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(7):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = right >> 32 ^ b ^ low, right & 0xFFFFFFFF, left >> 32 ^ d ^ high, left & 0xFFFFFFFF
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


def urn(key: int, task: int, context: int, visit: int, alpha: float, count: int) -> int:
    """What the urn of a context gives on a visit."""
    fresh = None if alpha == math.inf else max(1, round(count * alpha * 2**16))
    while True:
        w = philox7([visit, context, task & 0xFFFFFFFF, task >> 32], key)
        earlier = visit if fresh is None else ((w[0] << 32 | w[1]) * (visit * 2**16 + fresh) >> 64) // 2**16
        if earlier >= visit:
            return (w[2] << 32 | w[3]) * count >> 64
        visit = earlier


def alias(chances: list[float]) -> tuple[int, list[tuple[int, int]]]:
    """Whole numbers of which a column has `capacity` on the average, and Vose's method: (threshold, other column)."""
    capacity = 2**24 if len(chances) <= 256 else 2**32
    weights = [int(chance * (capacity * len(chances)) + 0.5) for chance in chances]
    weights[weights.index(max(weights))] += capacity * len(chances) - sum(weights)
    small = [column for column, weight in enumerate(weights) if weight < capacity]
    large = [column for column, weight in enumerate(weights) if weight >= capacity]
    cells = [(0, column) for column in range(len(chances))]
    while small:
        column, donor = small.pop(), large[-1]
        cells[column] = weights[column], donor
        weights[donor] -= capacity - weights[column]
        if weights[donor] < capacity:
            small.append(large.pop())
    return capacity, cells


def choose(table: tuple[int, list[tuple[int, int]]], words: Any) -> int:
    """A column, by one word or two."""
    capacity, cells = table
    product = next(words) * len(cells)
    column = product >> 32
    uniform = (product & 0xFFFFFFFF) >> 8 if capacity == 2**24 else next(words)
    threshold, other = cells[column]
    return column if uniform < threshold else other


def divided(row: Any) -> list[float]:
    total = math.fsum(row)
    return [chance / total for chance in row]


def models(law: HiddenMarkovModel, name: str, depth: int) -> Any:
    """The tables of all models."""
    table: Any = getattr(law, name)
    probe = table
    for _ in range(depth):
        probe = probe[0]
    return table if isinstance(probe, tuple) else (table,)


@cache
def key(law: HiddenMarkovModel, domain: Domain) -> int:
    return law.key(domain)


@cache
def tables(law: HiddenMarkovModel) -> tuple[list[Any], list[list[Any]]]:
    """Of each model the table of first states, and what each state has."""
    firsts, rows = [], []
    if law.emission is None:
        of_pairs = []
        for matrices in models(law, "transition_matrices", 3):
            states = range(len(matrices[0]))
            of_pairs.append([divided([p for matrix in matrices for p in matrix[state]]) for state in states])
        sizes = [[sum(p > 0 for p in row) for row in model] for model in of_pairs]
        chains = [[[add(row[to :: len(model)]) for to in range(len(model))] for row in model] for model in of_pairs]
    else:
        a = [[divided(row) for row in model] for model in models(law, "transition", 2)]
        b = [[divided(row) for row in model] for model in models(law, "emission", 2)]
        sizes = [
            [sum(p > 0 for p in to) * sum(p > 0 for p in out) for to, out in zip(*both, strict=True)]
            for both in zip(a, b, strict=True)
        ]
        chains = a
    chosen = range(law.first_task, law.first_task + law.task_count)
    width = max(max(sizes[model]) for model in chosen)
    for model in chosen:
        states = len(chains[model])
        firsts.append(alias(first_law(law, model, chains[model])))
        if law.emission is not None and width > 256:
            rows.append([(alias(a[model][state]), alias(b[model][state])) for state in range(states)])
            continue
        if law.emission is not None:
            both = zip(a[model], b[model], strict=True)
            chances_of_states = [[q * p for q in out for p in to] for to, out in both]
        else:
            chances_of_states = of_pairs[model]
        rows.append([])
        for row in chances_of_states:
            pairs = [divmod(pair, states) for pair, chance in enumerate(row) if chance > 0]
            chances = [chance for chance in row if chance > 0]
            rows[-1].append((pairs, alias(chances + [0.0] * (width - len(chances)))))
    return firsts, rows


def add(values: list[float]) -> float:
    """One after another."""
    total = 0.0
    for value in values:
        total += value
    return total


def first_law(law: HiddenMarkovModel, model: int, chain: list[list[float]]) -> list[float]:
    if law.initial == "uniform":
        return [1 / len(chain)] * len(chain)
    if law.initial != "stationary":
        return divided(law.initial[model] if isinstance(law.initial[0], tuple) else law.initial)
    a = [list(row) for row in chain]
    for n in reversed(range(1, len(a))):
        out = math.fsum(a[n][:n])
        for i in range(n):
            a[i][n] /= out
            for j in range(n):
                a[i][j] += a[i][n] * a[n][j]
    x = [1.0]
    for n in range(1, len(a)):
        x.append(math.fsum(x[i] * a[i][n] for i in range(n)))
    return divided(x)


def row(law: HiddenMarkovModel, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    starts = words_of(key(law, Domain.STARTS), index)
    if law.hidden_count is not None:
        return fresh_row(law, index, length, starts)
    firsts, rows = tables(law)
    task = 0
    if law.task_count > 1:
        draw = words_of(key(law, Domain.TASKS), index)
        task = (next(draw) << 32 | next(draw)) * law.task_count >> 64
    state = choose(firsts[task], starts)
    hidden, emitted = words_of(key(law, Domain.HIDDEN_STATES), index), words_of(key(law, Domain.EMISSIONS), index)
    tokens, states = [], []
    for _ in range(length):
        states.append(state)
        left, right = rows[task][state]
        if isinstance(left, list):
            token, state = left[choose(right, hidden)]
        else:
            token, state = choose(right, emitted), choose(left, hidden)
        tokens.append(token)
    return {"tokens": tokens, "states": states, "task": [task]}


def fresh_row(law: HiddenMarkovModel, index: int, length: int, starts: Any) -> dict[str, Any]:
    count, urns = law.hidden_count, law.task_key(Domain.URN)
    number, place = divmod(index, law.sequences_per_task)
    task = law.first_task + number
    state = (next(starts) << 32 | next(starts)) * count >> 64
    visits = [0] * count
    tokens, states = [], []
    for _ in range(length):
        visit = visits[state] * law.sequences_per_task + place
        visits[state] += 1
        states.append(state)
        tokens.append(urn(urns, task, count + state, visit, law.alpha_emission, law.symbol_count))
        state = urn(urns, task, state, visit, law.alpha_transition, count)
    return {"tokens": tokens, "states": states, "task": [number % 2**32]}
