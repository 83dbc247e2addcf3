"""Elementary cellular automata."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from trajmill.core import checks
from trajmill.core.law import Array, Domain, Floats, Law

SEPARATOR = 2
"""token that ends a row"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellularAutomaton(Law):
    """Rows of a ring of cells, each cell a function of the three above it: an elementary automaton of Wolfram's.

    The first row is uniform: cell c is bit c mod 32 of word c div 32 of the sequence. Later, a cell is bit
    4 left + 2 cell + right of the rule. Rows follow one another; tokens are 0, 1 and, with `row_separator`, 2. The
    column ``task`` is the number of the sequence's rule in the list of rules, and ``states`` the number of the row,
    steps that are not shown included. Source: arXiv 2410.02536 (`zhang2024`).
    """

    presets: ClassVar[tuple[str, ...]] = ("zhang2024",)
    kernel_columns: ClassVar[tuple[str, ...]] = ("task", "states")
    extra_columns: ClassVar[tuple[str, ...]] = ("loss_mask", "task", "states")

    rule: int | tuple[int, ...] | str = "all"
    """Wolfram's number of the rule, 0 to 255; a list of up to 256 of them, of which a sequence has one; "all" 256"""
    sequences_per_task: int | None = None
    """sequences in a row that share a rule, k, at least 1: sequence i has rule i div k of the list, which begins again
    when it ends; None: a sequence draws one of the list"""
    cells: int = 100
    """cells of the ring, 1 to 65,536"""
    window: tuple[int, int] | None = None
    """first cell and number of cells that are shown; None: the whole ring"""
    stride: int = 1
    """steps from one row that is shown to the next, 1 to 65,536"""
    burn_in: int = 0
    """steps before the first row that is shown, 0 to 65,536"""
    row_separator: bool = False
    """whether a token 2 ends each row"""

    def check(self) -> None:
        """See `Law.check`."""
        rule: Any = self.rule
        if isinstance(rule, str):
            checks.choice("rule", rule, ("all",))
        elif isinstance(rule, tuple | list):
            rule = tuple(checks.integer("rule", item, 0, 255) for item in rule)
            if not 1 <= len(rule) <= 256:
                raise ValueError(f"rule must be a list of 1 to 256 rules, got {len(rule)}")
        else:
            rule = checks.integer("rule", rule, 0, 255)
        cells = checks.integer("cells", self.cells, 1, 2**16)
        window = self.window
        if window is not None:
            if not (isinstance(window, tuple | list) and len(window) == 2):
                raise TypeError(f"window must be a pair, its first cell and its number of cells, got {window!r}")
            first = checks.integer("window's first cell", window[0], 0, cells - 1)
            window = first, checks.integer("window's number of cells", window[1], 1, cells - first)
        shared = self.sequences_per_task
        self._set(
            rule=rule,
            sequences_per_task=None if shared is None else checks.integer("sequences_per_task", shared, 1, 2**64 - 1),
            cells=cells,
            window=window,
            stride=checks.integer("stride", self.stride, 1, 2**16),
            burn_in=checks.integer("burn_in", self.burn_in, 0, 2**16),
            row_separator=checks.boolean("row_separator", self.row_separator),
        )

    @property
    def rules(self) -> tuple[int, ...]:
        """The rules that sequences may have."""
        if isinstance(self.rule, str):
            return tuple(range(256))
        return (self.rule,) if isinstance(self.rule, int) else self.rule

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return 2 + self.row_separator

    def states_bound(self, length: int) -> int:
        """See `Law.state_count`."""
        width = self._window[1] + self.row_separator
        return self.burn_in + max(length - 1, 0) // width * self.stride + 1

    @property
    def _window(self) -> tuple[int, int]:
        return self.window or (0, self.cells)

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        return [
            self.key(Domain.CELLS),
            self.key(Domain.TASKS),
            self.cells,
            *self._window,
            self.stride,
            self.burn_in,
            self.row_separator,
            self.sequences_per_task or 0,
        ], [np.array(self.rules, np.uint32)]

    def _require_whole_rows(self) -> None:
        """NotImplementedError unless the first row is uniform and each row decides the next."""
        if self._window[1] < self.cells:
            raise NotImplementedError("a window of a wider ring does not decide what its next row is")
        if self.burn_in:
            raise NotImplementedError("the law of a row after a burn-in has no short form")

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`: a cell is what most of the rules say that explain all cells so far.

        NotImplementedError for a window of a wider ring, and after a burn-in.
        """
        self._require_whole_rows()
        count, length = tokens.shape
        rules = np.array(self.rules)
        # which rules explain what has been seen (rules, n), and what each says of the next row (rules, n, cells)
        explain = np.ones((len(rules), count)) if task is None else np.equal.outer(np.arange(len(rules)), task)
        explain = explain.astype(np.float64)
        said: Array | None = None
        for t in range(length):
            row, cell = divmod(t, self.cells + self.row_separator)
            law = np.zeros((count, self.vocabulary_size))
            if cell == self.cells:
                law[:, SEPARATOR] = 1
                yield law
                continue
            if cell == 0 and row > 0:
                start = t - self.cells - self.row_separator
                said = np.broadcast_to(tokens[:, start : start + self.cells] & 1, (len(rules), count, self.cells))
                for _ in range(self.stride):
                    said = _next_row(said, rules)
            if said is None:
                law[:, :2] = 0.5
                yield law
                continue
            total = explain.sum(0)
            ones = np.einsum("rn,rn->n", explain, said[:, :, cell])
            law[:, 1] = np.where(total > 0, ones / np.maximum(total, 1), 0.5)  # no rule: not a row of this law
            law[:, 0] = 1 - law[:, 1]
            yield law
            explain *= said[:, :, cell] == tokens[:, t]

    def expected_loss(self, length: int) -> float | None:
        """See `Law.expected_loss`; closed for one rule, where the first row alone is open."""
        if len(set(self.rules)) > 1 or self._window[1] < self.cells or self.burn_in or not length:
            return None
        return math.log(2) * min(length, self.cells) / length

    def entropy_rate(self) -> float:
        """See `Law.entropy_rate`: nothing, since the first row and the rule fix a sequence however long."""
        return 0.0

    @classmethod
    def zhang2024(cls, **changes: Any) -> Self:
        """Windows of 100 cells of a ring of 1,000, as in arXiv 2410.02536 (there at random places and times)."""
        settings: dict[str, Any] = {"cells": 1000, "window": (0, 100)}
        return cls(**settings | changes)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        return [
            cls(cells=20),
            cls(rule=30),
            cls(rule=90, cells=64),
            cls(rule=(110, 184, 110), sequences_per_task=3, cells=13, row_separator=True, seed=5),
            cls(rule=(204, 51), cells=1, stride=3, sequences_per_task=2**64 - 1),
            cls(rule=(30, 45, 106), cells=7, stride=5, row_separator=True),
            cls(rule=110, cells=2),
            cls(cells=63, burn_in=10, stride=2),
            cls.zhang2024(window=(900, 100), burn_in=7),
            cls(rule="all", cells=2**12, window=(4000, 40), sequences_per_task=1),
        ]


def _next_row(rows: Array, rules: Array) -> Array:
    """The step of every rule (r,) from its rows (r, n, cells)."""
    index = 4 * np.roll(rows, 1, -1).astype(np.uint8) + 2 * rows + np.roll(rows, -1, -1)
    bits = (rules[:, None] >> np.arange(8) & 1).astype(np.uint8)
    following: Array = bits[np.arange(len(rules))[:, None, None], index]
    return following
