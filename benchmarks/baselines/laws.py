"""Laws of token sequences as the published programs draw them: one row after another, in Python and NumPy.

Each is written from what the program does (docs/laws.md), not from its text, and gives `count` rows of `length` tokens.
"""

# ruff: noqa: NPY002  (as the published programs draw)

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


def nested_brackets(count: int, length: int, pairs: int = 64, depth: int = 16) -> Tokens:
    """A coin and a stack for each token."""
    rows = np.empty((count, length), np.int64)
    for row in rows:
        stack: list[int] = []
        for t in range(length):
            if not stack or (len(stack) < depth and random.random() < 0.5):
                stack.append(random.randrange(pairs))
                row[t] = stack[-1]
            else:
                row[t] = stack.pop() + pairs
    return rows


def crossing_brackets(count: int, length: int, pairs: int = 64, depth: int = 8) -> Tokens:
    """Counts of open brackets by type; a close takes one of the types that are open."""
    rows = np.empty((count, length), np.int64)
    for row in rows:
        counts = np.zeros(pairs, np.int64)
        for t in range(length):
            level = counts.sum()
            if level == 0 or (level < depth and random.random() < 0.51):
                kind = np.random.randint(pairs)
                counts[kind] += 1
                row[t] = kind
            else:
                kind = np.random.choice(np.flatnonzero(counts))
                counts[kind] -= 1
                row[t] = kind + pairs
    return rows


def fresh_chains(count: int, length: int, states: int) -> Tokens:
    """A chain with Dirichlet(1) rows for every sequence, then one choice a token."""
    rows = np.empty((count, length), np.int64)
    for row in rows:
        transition = np.random.dirichlet(np.ones(states), states)
        state = np.random.randint(states)
        for t in range(length):
            row[t] = state
            state = np.random.choice(states, p=transition[state])
    return rows


def many_fresh_chains(count: int, length: int, states: int) -> Tokens:
    """The same for all sequences together: cumulative sums, and one comparison for every token and state."""
    generator = np.random.default_rng(0)
    sums = generator.dirichlet(np.ones(states), (count, states)).cumsum(-1)
    rows = np.empty((count, length), np.int64)
    state = generator.integers(0, states, count)
    every = np.arange(count)
    for t in range(length):
        rows[:, t] = state
        state = (sums[every, state] < generator.random((count, 1))).sum(-1).clip(max=states - 1)
    return rows


def sequence_task(count: int, task: str, length: int = 64, vocabulary: int = 100) -> Tokens:
    """Input, separator and answer, padded, as lists."""
    width = 2 * length + 1
    rows = np.full((count, width), vocabulary + 1, np.int64)
    for number, row in enumerate(rows):
        generator = np.random.RandomState(number)
        given = generator.randint(1, vocabulary, length).tolist()
        answers = {"copy": given, "reverse": given[::-1], "sort": sorted(given), "set": list(dict.fromkeys(given))}
        whole = [*given, vocabulary, *answers[task]]
        row[: len(whole)] = whole
    return rows


def hidden_markov(count: int, length: int, states: int = 100, symbols: int = 50) -> Tokens:
    """Two choices a token."""
    generator = np.random.default_rng(0)
    transition = generator.dirichlet(np.full(states, 0.1), states)
    emission = generator.dirichlet(np.full(symbols, 0.1), states)
    rows = np.empty((count, length), np.int64)
    for row in rows:
        state = generator.integers(states)
        for t in range(length):
            row[t] = generator.choice(symbols, p=emission[state])
            state = generator.choice(states, p=transition[state])
    return rows


def automaton(count: int, width: int, steps: int, rule: int = 110) -> NDArray[np.uint8]:
    """A ring of cells, one comparison of three neighbours a step."""
    table = np.array([rule >> number & 1 for number in range(8)], np.uint8)
    worlds = np.empty((count, steps, width), np.uint8)
    for world in worlds:
        cells = np.random.randint(0, 2, width).astype(np.uint8)
        for step in range(steps):
            world[step] = cells
            cells = table[4 * np.roll(cells, 1) + 2 * cells + np.roll(cells, -1)]
    return worlds


def grammar(count: int, length: int, rules: dict[int, list[list[int]]], start: int) -> Tokens:
    """Sentences by recursion, joined and cut."""

    def expand(symbol: int, out: list[int]) -> None:
        if symbol not in rules:
            out.append(symbol)
            return
        for part in random.choice(rules[symbol]):
            expand(part, out)

    rows = np.empty((count, length), np.int64)
    for row in rows:
        tokens: list[int] = []
        while len(tokens) < length:
            expand(start, tokens)
        row[:] = tokens[:length]
    return rows


def recall(count: int, length: int, pairs: int, vocabulary: int = 8192) -> Tokens:
    """Distinct keys and values, then each key once more at a gap from a power law, without replacement."""
    rows = np.empty((count, length), np.int64)
    half = vocabulary // 2
    slots = length // 2 - pairs
    gaps = 0.01 * np.arange(1, slots + 1) ** (0.01 - 1)
    gaps /= gaps.sum()
    for row in rows:
        keys = np.random.choice(np.arange(1, half), pairs, replace=False)
        values = np.random.choice(np.arange(half, vocabulary), pairs, replace=False)
        row[:] = np.random.randint(0, vocabulary, length)
        row[: 2 * pairs : 2], row[1 : 2 * pairs : 2] = keys, values
        places = 2 * pairs + 2 * np.random.choice(slots, pairs, replace=False, p=gaps)
        row[places], row[places + 1] = keys, values
    return rows


def zipf(count: int, length: int, vocabulary: int) -> Tokens:
    """NumPy's choice by a list of chances."""
    chances = 1 / np.arange(1, vocabulary + 1)
    return np.random.default_rng(0).choice(vocabulary, (count, length), p=chances / chances.sum())


def bursty(count: int, classes: int = 1603, shots: int = 3, ways: int = 2, pairs: int = 8) -> Tokens:
    """Two classes three times each, distractors, shuffled; the query last."""
    chances = 1 / np.arange(1, classes + 1)
    chances /= chances.sum()
    rows = np.empty((count, 2 * pairs + 1), np.int64)
    for row in rows:
        if random.random() < 0.9:
            chosen = np.random.choice(classes, ways, replace=False, p=chances)
            rest = np.random.choice(classes, pairs - shots * ways, p=chances)
            items = np.random.permutation(np.concatenate([np.repeat(chosen, shots), rest]))
            query = chosen[0]
        else:
            items = np.random.choice(classes, pairs, p=chances)
            query = np.random.choice(classes, p=chances)
        row[0:-1:2], row[1::2], row[-1] = items, classes + items % 64, query
    return rows
