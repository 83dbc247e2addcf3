"""Neural cellular automata, slowly: the network map by map, in Python integers."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from law_twins import philox, words_of
from trajmill.core.law import Domain
from trajmill.laws.neural_cellular_automaton import NeuralCellularAutomaton, start_weights

Grid = list[list[int]]
Network = tuple[list[list[list[int]]], list[list[int]], list[list[int]]]


def byte_sum(word: int) -> int:
    return sum(word.to_bytes(4, "little"))


@functools.lru_cache(8)
def network(key: int, task: int, colours: int) -> Network:
    """Maps [place][colour][feature], [feature][unit] and [unit][colour]."""

    def words() -> Any:
        for block in itertools.count():
            yield from philox([block, 0, task % 2**32, task >> 32], key, rounds=7)

    drawn = words()

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


def row(law: NeuralCellularAutomaton, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    if law.task_count is None:
        task = index // law.sequences_per_task
    else:
        drawn = words_of(law.key(Domain.TASKS), index)
        high, low = next(drawn), next(drawn)
        task = (high * 2**32 + low) * law.task_count // 2**64
    maps = network(law.task_key(Domain.WEIGHTS), (law.first_task + task) % 2**64, law.colours)

    words = words_of(law.key(Domain.CELLS), index)
    weights = [int(start_weights()[byte_sum(next(words))]) for _ in range(16)][: law.colours]
    ends = list(itertools.accumulate(weights))

    def cell() -> int:
        value = next(words) * ends[-1] // 2**32
        return sum(value >= end for end in ends)

    grid = [[cell() for _ in range(law.width)] for _ in range(law.height)]
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
