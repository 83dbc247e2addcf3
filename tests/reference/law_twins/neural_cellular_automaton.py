"""Neural cellular automata, slowly: the network map by map, in Python integers."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

from law_twins import philox, words_of
from trajmill.core.law import Domain
from trajmill.laws.neural_cellular_automaton import NeuralCellularAutomaton, start_weights

Grid = list[list[int]]
Network = tuple[list[list[list[int]]], list[list[int]], list[list[int]]]


def byte_sum(word: int) -> int:
    return sum(word.to_bytes(4, "little"))


def words_of_task(key: int, task: int, attempt: int, second: int) -> Iterator[int]:
    for block in itertools.count(attempt * 2**20):
        yield from philox([block, second, task % 2**32, task >> 32], key, rounds=7)


@functools.lru_cache(8)
def network(key: int, task: int, colours: int, attempt: int = 0) -> Network:
    """Maps [place][colour][feature], [feature][unit] and [unit][colour]."""
    drawn = words_of_task(key, task, attempt, 0)

    def rows(row_count: int, column_count: int) -> list[list[int]]:
        return [[byte_sum(next(drawn)) - 510 for _ in range(column_count)] for _ in range(row_count)]

    places = [rows(colours, 4) for _ in range(9)]
    return places, rows(4, 16), rows(16, colours)


def step(grid: Grid, maps: Network) -> Grid:
    """Every cell's next colour."""
    places, to_hidden, to_colours = maps
    height, width = len(grid), len(grid[0])

    def next_colour(y: int, x: int) -> int:
        around = [grid[(y + dy) % height][(x + dx) % width] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        features = [sum(places[place][colour][f] for place, colour in enumerate(around)) for f in range(4)]
        hidden = [sum(features[f] * to_hidden[f][unit] for f in range(4)) for unit in range(16)]
        hidden = [max(value, 0) // 1024 for value in hidden]
        worth = [sum(hidden[unit] * to_colours[unit][c] for unit in range(16)) for c in range(len(to_colours[0]))]
        return worth.index(max(worth))

    return [[next_colour(y, x) for x in range(width)] for y in range(height)]


def first_grid(law: NeuralCellularAutomaton, words: Iterator[int]) -> Grid:
    weights = [int(start_weights()[byte_sum(next(words))]) for _ in range(16)][: law.colours]
    ends = list(itertools.accumulate(weights))

    def cell() -> int:
        value = next(words) * ends[-1] // 2**32
        return sum(value >= end for end in ends)

    return [[cell() for _ in range(law.width)] for _ in range(law.height)]


def phrase_count(cells: list[int]) -> int:
    """Each phrase is the shortest that has not been seen; the last one may have been."""
    seen = set()
    phrase: tuple[int, ...] = ()
    for cell in cells:
        phrase += (cell,)
        if phrase not in seen:
            seen.add(phrase)
            phrase = ()
    return len(seen) + bool(phrase)


def complexity(law: NeuralCellularAutomaton, maps: Network, grid: Grid) -> float:
    """Of ten grids."""
    cells: list[int] = []
    for _ in range(10):
        cells += itertools.chain(*grid)
        grid = step(grid, maps)
    count = phrase_count(cells)
    return count * math.log2(count + 1) / (len(cells) * math.log2(law.colours))


@functools.lru_cache(64)
def network_of(law: NeuralCellularAutomaton, task: int) -> Network:
    """The first attempt that is as complex as is wanted."""
    key = law.task_key(Domain.WEIGHTS)
    for attempt in range(4096):
        maps = network(key, task, law.colours, attempt)
        if law.complexity is None:
            return maps
        low, high = law.complexity
        if low <= complexity(law, maps, first_grid(law, words_of_task(key, task, attempt, 1))) <= high:
            return maps
    raise ValueError("no network")


def row(law: NeuralCellularAutomaton, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    if law.task_count is None:
        task = index // law.sequences_per_task
    else:
        drawn = words_of(law.key(Domain.TASKS), index)
        high, low = next(drawn), next(drawn)
        task = (high * 2**32 + low) * law.task_count // 2**64
    maps = network_of(law, (law.first_task + task) % 2**64)
    grid = first_grid(law, words_of(law.key(Domain.CELLS), index))
    for _ in range(law.burn_in):
        grid = step(grid, maps)
    patch, start = law.patch, law.colours ** (law.patch**2)
    tokens: list[int] = []
    mask: list[int] = []
    while len(tokens) < length:
        if tokens:
            grid = step(grid, maps)
        inside = []
        for y, x in itertools.product(range(0, law.height, patch), range(0, law.width, patch)):
            cells = [grid[y + dy][x + dx] for dy in range(patch) for dx in range(patch)]
            inside.append(sum(colour * law.colours**place for place, colour in enumerate(cells)))
        mask += [0] + [1 if tokens else 0] * len(inside) + [0]
        tokens += [start, *inside, start + 1]
    return {"tokens": tokens[:length], "loss_mask": mask[:length], "task": [task % 2**32]}
