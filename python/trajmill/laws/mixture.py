"""Several laws in one corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from trajmill.core import checks
from trajmill.core.law import Array, Arrays, Floats, Law
from trajmill.laws import find

MOST_ROWS = 2**16
"""rows of a pattern"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture(Law):
    """Sequences of several laws in fixed shares, which may change in stages.

    Row i of the mixture is the next sequence of one of the laws, whose own sequences 0, 1, 2, ... are all there, in
    order. Weights 3 and 1 give three rows of the first law in every four, spread evenly: shares are not a matter of
    chance. The column ``task`` is the place of the row's law in the list.
    """

    kernel_columns: ClassVar[tuple[str, ...]] = ("loss_mask", "task")
    has_kernel: ClassVar[bool] = False

    laws: tuple[Law, ...] = ()
    """the laws, one at least, each with a seed of its own"""
    weights: tuple[int, ...] = ()
    """rows of each law in every sum of them, whole numbers >= 0; by default 1 for each"""
    stages: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """a curriculum: (rows, weights) of stages that come before, in turn; then `weights` hold for all further rows"""
    separate: bool = False
    """whether the laws have tokens of their own, one law's after the other's, or all begin with token 0"""

    def check(self) -> None:
        """See `Law.check`."""
        laws = tuple(law if isinstance(law, Law) else _law_of(law) for law in self.laws)
        if not laws:
            raise ValueError("a mixture needs laws, got none")
        lengths = {law.fixed_length for law in laws} - {None}
        if len(lengths) > 1:
            raise ValueError(f"laws of a mixture must agree on the length of rows, got {sorted(map(str, lengths))}")
        stages = []
        for stage in self.stages:
            if not isinstance(stage, Sequence) or len(stage) != 2:
                raise TypeError(f"a stage is (rows, weights), got {stage!r}")
            stages.append((checks.integer("rows of a stage", stage[0], 1, 2**62), _weights(stage[1], len(laws))))
        self._set(
            laws=laws,
            weights=_weights(self.weights or (1,) * len(laws), len(laws)),
            stages=tuple(stages),
            separate=checks.boolean("separate", self.separate),
        )

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        sizes = [law.vocabulary_size for law in self.laws]
        return sum(sizes) if self.separate else max(sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """What is added to the tokens of each law."""
        sizes = [law.vocabulary_size if self.separate else 0 for law in self.laws]
        return tuple(accumulate(sizes[:-1], initial=0))

    @property
    def prefix_stable(self) -> bool:
        """See `Law.prefix_stable`."""
        return all(law.prefix_stable for law in self.laws)

    @property
    def fixed_length(self) -> int | None:
        """See `Law.fixed_length`."""
        return next((law.fixed_length for law in self.laws if law.fixed_length is not None), None)

    def check_length(self, length: int) -> None:
        """See `Law.check_length`."""
        for law in self.laws:
            law.check_length(length)

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """A mixture has no kernel: its laws have."""
        raise NotImplementedError("a mixture has no kernel")

    def fill(self, first_sequence: int, arrays: Arrays, threads: int | None = None) -> None:
        """See `Law.fill`."""
        count = np.arange(len(arrays["tokens"]), dtype=np.uint64)
        self.pick(np.uint64(checks.integer("first_sequence", first_sequence, 0, 2**64 - 1)) + count, arrays, threads)

    def pick(self, indexes: Sequence[int] | Array, arrays: Arrays, threads: int | None = None) -> None:
        """See `Law.pick`."""
        which, numbers = self.addresses(checks.indexes("indexes", indexes))
        length = arrays["tokens"].shape[1]
        for place, (law, offset) in enumerate(zip(self.laws, self.offsets, strict=True)):
            rows = np.flatnonzero(which == place)
            if not len(rows):
                continue
            names = [name for name in arrays if name != "task"]
            columns = law.columns(length, names[1:]) if length else ()
            drawn = {column.name: np.empty((len(rows), length), column.dtype) for column in columns}
            if drawn:
                law.pick(numbers[rows], drawn, threads)
            for name, values in drawn.items():
                arrays[name][rows] = values + np.array(offset, arrays[name].dtype) if name == "tokens" else values
        if "task" in arrays:
            arrays["task"][:, 0] = which

    def addresses(self, indexes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Of rows (n,) of the mixture: the place of the law, and the number of the sequence that it gives."""
        stages = [*self.stages, (None, self.weights)]
        starts = list(accumulate((rows for rows, _ in self.stages), initial=0))
        stage_of = np.searchsorted(np.array(starts[1:], np.uint64), indexes, side="right")
        which = np.zeros(len(indexes), np.int64)
        numbers = np.zeros(len(indexes), np.uint64)
        before = np.zeros(len(self.laws), np.uint64)  # sequences that earlier stages took from each law
        for number, (rows, weights) in enumerate(stages):
            pattern, ranks = _pattern(weights)
            mine = np.flatnonzero(stage_of == number)
            blocks, places = np.divmod(indexes[mine] - np.uint64(starts[number]), np.uint64(len(pattern)))
            which[mine] = pattern[places]
            numbers[mine] = before[which[mine]] + blocks * np.array(weights, np.uint64)[which[mine]] + ranks[places]
            if rows is not None:
                whole, rest = divmod(rows, len(pattern))
                counts = whole * np.array(weights) + np.bincount(pattern[:rest], minlength=len(weights))
                before = before + counts.astype(np.uint64)
        return which, numbers

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`; for one who knows which law a row is of."""
        if task is None:
            raise NotImplementedError("what a mixture's best predictor says is open; give the column task")
        parts = []
        for place, (law, offset) in enumerate(zip(self.laws, self.offsets, strict=True)):
            rows = np.flatnonzero(task == place)
            if len(rows):
                parts.append((rows, offset, law.predictions(tokens[rows].astype(np.int64) - offset)))
        for _ in range(tokens.shape[1]):
            law_of_token = np.zeros((len(tokens), self.vocabulary_size))
            for rows, offset, predictions in parts:
                said = next(predictions)
                law_of_token[rows, offset : offset + said.shape[1]] = said
            yield law_of_token

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        brackets = find("dyck")
        two = (brackets(pairs=3, max_depth=4, seed=1), brackets(pairs=8, max_depth=2, seed=2))  # type: ignore[call-arg]
        return [
            cls(laws=two),
            cls(laws=two, weights=(3, 1), separate=True),
            cls(laws=two, weights=(0, 5), stages=((7, (1, 0)), (10, (2, 3)))),
        ]


def _law_of(fields: object) -> Law:
    """A law from its fields and its kind, as a spec has them."""
    if not isinstance(fields, Mapping) or "kind" not in fields:
        raise TypeError(f"a law of a mixture is a Law, or its fields with its kind, got {fields!r}")
    return find(fields["kind"]).from_spec(fields)


def _weights(values: object, count: int) -> tuple[int, ...]:
    """One for each law, some row among them."""
    if not isinstance(values, Sequence) or len(values) != count:
        raise ValueError(f"weights must be {count} whole numbers, one for each law, got {values!r}")
    weights = tuple(checks.integer("a weight", value, 0, MOST_ROWS) for value in values)
    if not 1 <= sum(weights) <= MOST_ROWS:
        raise ValueError(f"weights must sum to 1 to {MOST_ROWS:,}, got {sum(weights)}")
    return weights


def _pattern(weights: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Which law gives each row of a period, and how many of its rows come before: as evenly as weights allow.

    Row k of a law with weight a stands at (k + 1/2) / a of the period; where two meet, the earlier law goes first.
    """
    pairs = [(place, rank) for place, weight in enumerate(weights) for rank in range(weight)]
    total = [(2 * rank + 1, weights[place]) for place, rank in pairs]
    order = sorted(range(len(pairs)), key=lambda row: (total[row][0] / total[row][1], pairs[row][0]))
    places, ranks = zip(*(pairs[row] for row in order), strict=True)
    return np.array(places, np.int64), np.array(ranks, np.uint64)
