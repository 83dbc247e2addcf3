"""Populations of chains, slowly: urns, proposals and tables in Python integers, one token after another."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any

from law_twins import words_of
from trajmill import _core
from trajmill.core.law import Domain
from trajmill.laws.chain_population import ChainPopulation


@lru_cache(2**17)
def block(key: int, first: int, context: int, task: int) -> tuple[int, ...]:
    """Philox4x32-7 at the counter (first, context, task low, task high)."""
    a, b, c, d = first, context, task % 2**32, task // 2**32
    low, high = key % 2**32, key // 2**32
    for _ in range(7):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = q // 2**32 ^ b ^ low, q % 2**32, p // 2**32 ^ d ^ high, p % 2**32
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return a, b, c, d


def exp(x: float) -> float:
    """e^x for x <= 0 by 13 terms after the powers of two are taken out."""
    if not x > -708:
        return 0.0
    n = math.floor(x * float.fromhex("0x1.71547652b82fep+0") + 0.5)
    r = (x - n * float.fromhex("0x1.62e42fee00000p-1")) - n * float.fromhex("0x1.a39ef35793c76p-33")
    result = 1.0
    for k in range(13, 0, -1):
        result = 1.0 + result * r / k
    return math.ldexp(result, n)


def log(x: float) -> float:
    """The natural logarithm: 2 artanh((m - 1) / (m + 1)) of what is left of x in [sqrt(1/2), sqrt(2))."""
    m, n = math.frexp(x)
    if m < float.fromhex("0x1.6a09e667f3bcdp-1"):
        m, n = 2 * m, n - 1
    s = (m - 1) / (m + 1)
    result = 1.0 / 19
    for k in range(17, 0, -2):
        result = result * (s * s) + 1.0 / k
    return n * float.fromhex("0x1.62e42fefa39efp-1") + 2.0 * s * result


def unit(word: int) -> float:
    return (word + 0.5) / 2**32


def task_of(law: ChainPopulation, index: int) -> tuple[int, int]:
    """Number of the task, and the sequence's place in it."""
    if law.task_count is not None:
        words = words_of(law.key(Domain.TASKS), index)
        x = next(words) << 32 | next(words)
        return law.first_task + x * law.task_count // 2**64, 0
    return law.first_task + index // law.sequences_per_task, index % law.sequences_per_task


def context_of(law: ChainPopulation, tokens: list[int]) -> int:
    """The row of the next token."""
    t = len(tokens)
    if law.parents is not None:
        past = [law.parents[t]]
    elif law.lags is not None:
        past = [t - lag for lag in reversed(law.lags)]
    else:
        past = [t - lag for lag in range(law.order, 0, -1)]
    number = 0
    for place in past:
        if place >= 0:
            number = number * law.state_count + tokens[place] + 1
    return number


def row(law: ChainPopulation, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    task, place = task_of(law, index)
    draw = {"urn": urn, "implicit": proposals, "table": table}[law.backend](law, index, task, place)
    tokens: list[int] = []
    while len(tokens) < length:
        tokens.append(draw(context_of(law, tokens)))
    return {"tokens": tokens, "task": [(task - law.first_task) % 2**32]}


def urn(law: ChainPopulation, index: int, task: int, place: int) -> Callable[[int], int]:
    states, key = law.state_count, law.task_key(Domain.URN)
    visits: dict[int, int] = {}

    def draw(context: int) -> int:
        n = visits.get(context, 0) * law.sequences_per_task + place
        visits[context] = visits.get(context, 0) + 1
        while True:
            words = block(key, n, context, task)
            fresh = law.alpha == math.inf or (context == 0 and law.initial == "uniform")
            if not fresh:
                weight = max(1, round(states * law.alpha * 2**16))
                m = (words[0] << 32 | words[1]) * (n * 2**16 + weight) // 2**64 // 2**16
                fresh = m >= n
            if fresh:
                return (words[2] << 32 | words[3]) * states // 2**64
            n = m

    return draw


@lru_cache(2**17)
def logit(law: ChainPopulation, task: int, context: int, column: int) -> int:
    return block(law.task_key(Domain.ROWS), column // 4, context, task)[column % 4] >> 8


@lru_cache(2**17)
def limit_of(k: int, temperature: float) -> int:
    weight = exp(((k + 0.5) / 2**24 - 1.0) / temperature)
    return int(weight * 2**64) if weight < 1 else 2**64


def proposals(law: ChainPopulation, index: int, task: int, place: int) -> Callable[[int], int]:
    states, key = law.state_count, law.key(Domain.PROPOSALS)
    low, high = index % 2**32, index // 2**32
    count = 0

    def next_number() -> int:
        nonlocal count
        words = [_core.philox4x32([count // 4, low, high, top], key)[count % 4] for top in (0, 2**31)]
        count += 1
        return words[0] << 32 | words[1]

    def scan(context: int, x: int) -> int:
        logits = [logit(law, task, context, j) for j in range(states)]
        best = (max(logits) + 0.5) / 2**24
        weights = [int(exp(((k + 0.5) / 2**24 - best) / law.temperature) * (2.0**63 / states)) for k in logits]
        left = x * sum(weights) // 2**64
        return next(j for j, above in enumerate(accumulate(weights)) if left < above)

    def draw(context: int) -> int:
        for _ in range(max(256, min(2 * states, 2**31))):
            x = next_number()
            column, fraction = x * states // 2**64, x * states % 2**64
            if context == 0 and law.initial == "uniform":
                return column
            if fraction < limit_of(logit(law, task, context, column), law.temperature):
                return column
        return scan(context, next_number())

    return draw


@lru_cache(2**14)
def weights_of(law: ChainPopulation, task: int, context: int) -> list[float]:
    """What the chances of a row are in proportion to."""
    columns = range(law.state_count)
    if context == 0 and law.initial == "uniform":
        return [1.0 for _ in columns]
    if context == 0 and law.initial == "stationary":
        return stationary(law, task)
    if law.rows == "dirichlet":
        if law.alpha == math.inf:
            return [1.0 for _ in columns]
        if law.alpha == 1.0:
            words = [block(law.task_key(Domain.ROWS), j // 4, context, task)[j % 4] for j in columns]
            return [-log(unit(word)) for word in words]
        logs = [log_gamma(law, task, context, j) for j in columns]
        return [exp(x - max(logs)) for x in logs]
    logits = [logit(law, task, context, j) for j in columns]
    if law.task_count is not None:
        best = (max(logits) + 0.5) / 2**24
        return [exp(((k + 0.5) / 2**24 - best) / law.temperature) for k in logits]
    result = []
    for k in logits:
        high, low = divmod(max(logits) - k, 2**12)
        factors = exp(-high / 2**12 / law.temperature), exp(-low / 2**24 / law.temperature)
        one, two = (math.floor(factor * 2**31 + 0.5) for factor in factors)
        result.append(float(one) * float(two))
    return result


def log_gamma(law: ChainPopulation, task: int, context: int, column: int) -> float:
    """Marsaglia and Tsang (2000)."""
    alpha = law.alpha
    d = (alpha + 1.0 if alpha < 1 else alpha) - 1.0 / 3
    c = 1.0 / math.sqrt(9.0 * d)
    attempt = 0
    while True:
        words = block(law.task_key(Domain.GAMMA), attempt * law.state_count + column, context, task)
        attempt += 1
        x, y = 2.0 * unit(words[0]) - 1.0, 2.0 * unit(words[1]) - 1.0
        if x * x + y * y >= 1:
            continue
        normal = x * math.sqrt(-2.0 * log(x * x + y * y) / (x * x + y * y))
        if 1.0 + c * normal <= 0:
            continue
        cube = (1.0 + c * normal) * (1.0 + c * normal) * (1.0 + c * normal)
        if log(unit(words[2])) < 0.5 * normal * normal + d * (1.0 - cube + log(cube)):
            found = log(d) + log(cube)
            return found + log(unit(words[3])) / alpha if alpha < 1 else found


def total(values: list[float]) -> float:
    """In order, which sum() does not promise."""
    return list(accumulate(values))[-1]


def stationary(law: ChainPopulation, task: int) -> list[float]:
    """Elimination of one state after another (Grassmann, Taksar and Heyman 1985)."""
    states = law.state_count
    chances = []
    for state in range(states):
        weights = weights_of(law, task, state + 1)
        chances.append([max(weight / total(weights), 2.0**-64) for weight in weights])
    leaving = [0.0] * states
    for n in range(states - 1, 0, -1):
        leaving[n] = total(chances[n][:n])
        for j in range(n):
            for i in range(n):
                chances[i][j] += chances[i][n] * (chances[n][j] / leaving[n])
    result = [1.0]
    for n in range(1, states):
        result.append(total([result[i] * chances[i][n] for i in range(n)]) / leaving[n])
    return result


@lru_cache(2**14)
def bounds_of(law: ChainPopulation, task: int, context: int) -> list[int]:
    """c_0, ..., c_(S-2): what a word must reach to get past each column; 2^32 - 1 is never reached."""
    sums = list(accumulate(weights_of(law, task, context)))
    return [min(int(part * (2.0**32 / sums[-1])), 2**32 - 1) for part in sums[:-1]]


@lru_cache(2**14)
def cells_of(law: ChainPopulation, task: int, context: int) -> tuple[list[int], list[int]]:
    """Thresholds and aliases: a sweep over light and heavy columns."""
    states, capacity = law.state_count, 2**24 if law.state_count <= 256 else 2**32
    weights = weights_of(law, task, context)
    whole = float(states * capacity)
    left = [math.floor(weight / total(weights) * whole + 0.5) for weight in weights]
    left[left.index(max(left))] += states * capacity - sum(left)
    threshold, alias = [0] * states, list(range(states))
    light = [j for j in range(states) if left[j] <= capacity]
    heavy = [j for j in range(states) if left[j] > capacity]
    while heavy:
        giver = heavy[0]
        if left[giver] > capacity:
            taker, source = light.pop(0), giver
        else:
            taker, source = heavy.pop(0), heavy[0] if heavy else giver
        if left[taker] < capacity:
            threshold[taker], alias[taker] = left[taker], source
            left[source] -= capacity - left[taker]
    return threshold, alias


def table(law: ChainPopulation, index: int, task: int, place: int) -> Callable[[int], int]:
    states = law.state_count
    words = words_of(law.key(Domain.TOKENS), index)

    def draw(context: int) -> int:
        if law.task_count is None:
            word = min(next(words), 2**32 - 2)
            return sum(bound <= word for bound in bounds_of(law, task, context))
        threshold, alias = cells_of(law, task, context)
        column, fraction = divmod(next(words) * states, 2**32)
        uniform = fraction >> 8 if states <= 256 else next(words)
        return column if uniform < threshold[column] else alias[column]

    return draw
