"""Cellular automata whose rule is a small random network."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, ClassVar, Self

import numpy as np

from trajmill.core import checks
from trajmill.core.alias import exponential
from trajmill.core.law import Array, Domain, Floats, Law

BYTE_SUMS = 1021
"""sums that four bytes can have"""
MEASURED_GRIDS = 10
"""grids whose complexity is measured"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuralCellularAutomaton(Law):
    """Grids of colours on a torus, each the step of the one before by a random network that the sequence's task fixes.

    A cell's neighbourhood of 3 x 3 cells, one-hot, goes through maps to 4, 16 and again as many numbers as there are
    colours, with a ReLU before the last one; the largest is the new colour, the smaller colour where two are equal. All
    is in whole numbers: a weight is the sum of the four bytes of word n of the task, less 510 (place, colour and
    feature in that order, the last one fastest; then feature and unit; then unit and colour), and of the 16 units
    multiples of 1,024 are kept, rounded down. A normal number is such a sum over its standard deviation 147.8: the
    sequence's first words, one a colour, are g, and its words from 16 on draw the cells of the first grid by
    softmax(g).

    Tokens: each grid begins with ``colours``^(``patch``^2) and ends with the number after it; between are its patches,
    row by row, numbers to the base ``colours`` with the first cell lowest. Grid marks and the first grid are no
    targets. The column ``task`` is the number of the task, less the first one, modulo 2^32. Source: arXiv 2603.10055
    (`lee2026`), whose weights are normal floats.

    With `complexity`, a task's network is the first of its attempts 0, 1, ..., 4,095 whose own ten first grids, without
    a burn-in, have a complexity in this range: c log2(c + 1) bits, where c phrases are found in their cells (colours
    row by row, grid by grid) by the parse of Lempel and Ziv of 1978 (an end that is no new phrase counts as one), over
    cells log2(`colours`). Block n of attempt a is block n + a 2^20 of the task; its ten grids begin with one drawn as
    those of sequences are, by words of the task with the second counter word 1. So a network is the same for all
    sequences of its task, and depends on the colours, the grid's sides and the range alone. Where no attempt passes,
    sampling raises ValueError.
    """

    presets: ClassVar[tuple[str, ...]] = ("lee2026",)
    kernel_columns: ClassVar[tuple[str, ...]] = ("loss_mask", "task")

    colours: int = 10
    """colours of a cell, 2 to 16"""
    height: int = 12
    """rows of the grid, 1 to 256, a multiple of `patch`"""
    width: int = 12
    """columns of the grid, 1 to 256, a multiple of `patch`"""
    patch: int = 2
    """side of the squares that make a token, 1 to 5, with at most 2^32 - 2 different ones"""
    burn_in: int = 10
    """steps before the first grid that is shown, 0 to 65,536"""
    sequences_per_task: int = 1
    """sequences in a row that share a network, k, at least 1: sequence i has task first_task + i div k"""
    task_count: int | None = None
    """networks in all, 1 to 2^32, of which a sequence draws one (then leave `sequences_per_task`); None: no end"""
    first_task: int = 0
    """number of the first task, below 2^64; networks of the same seed and number are the same"""
    complexity: tuple[float, float] | None = None
    """smallest and largest complexity of a network, 0 to 4; None: every network"""

    def check(self) -> None:
        """See `Law.check`."""
        colours = checks.integer("colours", self.colours, 2, 16)
        height = checks.integer("height", self.height, 1, 256)
        width = checks.integer("width", self.width, 1, 256)
        patch = checks.integer("patch", self.patch, 1, 5)
        if height % patch or width % patch:
            raise ValueError(f"height and width must be multiples of patch {patch}, got {height} and {width}")
        if colours ** (patch * patch) > 2**32 - 2:
            raise ValueError(f"colours**(patch**2) must be at most 2**32 - 2, got {colours}**{patch * patch}")
        count = self.task_count
        if count is not None:
            count = checks.integer("task_count", count, 1, 2**32)
            if self.sequences_per_task != 1:
                raise ValueError("give sequences_per_task or task_count, not both: tasks are counted, or drawn")
        self._set(
            colours=colours,
            height=height,
            width=width,
            patch=patch,
            burn_in=checks.integer("burn_in", self.burn_in, 0, 2**16),
            sequences_per_task=checks.integer("sequences_per_task", self.sequences_per_task, 1, 2**64 - 1),
            task_count=count,
            first_task=checks.integer("first_task", self.first_task, 0, 2**64 - 1),
        )
        if self.complexity is None:
            return
        if not (isinstance(self.complexity, tuple | list) and len(self.complexity) == 2):
            raise TypeError(f"complexity must be a pair, the smallest and the largest, got {self.complexity!r}")
        low, high = (checks.number("complexity", value, "[0, 4]") for value in self.complexity)
        self._set(complexity=(low, high))
        fewest, most = self.phrase_limits()
        if fewest > most:
            raise ValueError(f"complexity leaves no network: grids of {height} x {width} have none in [{low}, {high}]")

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        patches: int = self.colours ** (self.patch * self.patch)
        return patches + 2

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        return [
            self.key(Domain.CELLS),
            self.task_key(Domain.WEIGHTS),
            self.key(Domain.TASKS),
            self.colours,
            self.height,
            self.width,
            self.patch,
            self.burn_in,
            0 if self.task_count else self.sequences_per_task,
            self.task_count or 0,
            self.first_task,
            *self.phrase_limits(),
        ], [start_weights()]

    def phrase_limits(self) -> tuple[int, int]:
        """The fewest and the most phrases that a network's ten first grids may have."""
        cells = MEASURED_GRIDS * self.height * self.width
        if self.complexity is None:
            return 0, cells
        exact = Context(prec=28)  # the same on every machine
        whole = cells * exact.ln(Decimal(self.colours))
        low, high = (exact.multiply(Decimal(value), whole) for value in self.complexity)

        def nats(phrases: int) -> Decimal:
            return exact.multiply(Decimal(phrases), exact.ln(Decimal(phrases + 1)))

        counts = range(cells + 1)
        return bisect_left(counts, low, key=nats), bisect_right(counts, high, key=nats) - 1

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """NotImplementedError: what a network that is not known does next has no short form."""
        raise NotImplementedError("the law of the next patch over all networks has no short form")

    @classmethod
    def lee2026(cls, **changes: Any) -> Self:
        """The size of arXiv 2603.10055: 12 x 12 cells of ten colours in patches of 2 x 2, ten steps left out."""
        settings: dict[str, Any] = {"colours": 10, "height": 12, "width": 12, "patch": 2, "burn_in": 10}
        return cls(**settings | changes)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        return [
            cls.lee2026(burn_in=1),
            cls(colours=3, height=3, width=6, patch=3, burn_in=2, sequences_per_task=5, seed=3),
            cls(colours=16, height=1, width=1, patch=1, burn_in=0, task_count=4),
            cls(colours=2, height=4, width=8, patch=4, burn_in=3, first_task=2**64 - 3),
            cls(colours=2, height=5, width=5, patch=5, burn_in=0, sequences_per_task=2**64 - 1),
            cls(colours=5, height=4, width=6, burn_in=1, sequences_per_task=7, complexity=(0.6, 0.8), first_task=2**40),
            cls(colours=2, height=4, width=4, patch=1, task_count=4, complexity=(0, 0.6)),
        ]


def start_weights() -> Array:
    """The weights e^g, out of 2^24, of the normal numbers g that sums of four bytes stand for, uint32 (1021,)."""
    below_largest = np.arange(BYTE_SUMS) - (BYTE_SUMS - 1.0)
    return np.floor(exponential(below_largest / math.sqrt(21845.0)) * 2**24 + 0.5).astype(np.uint32)
