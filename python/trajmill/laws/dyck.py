"""Bracket sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from trajmill.core import checks
from trajmill.core.alias import alias_law, alias_parts, zipf
from trajmill.core.law import Array, Domain, Floats, Law


@dataclass(frozen=True, slots=True, kw_only=True)
class Dyck(Law):
    """Brackets, nested or crossing: an opening one of a drawn type, or a closing one.

    At depth 0 a bracket opens, at `max_depth` one closes, and elsewhere one opens with `open_probability`. Nested, a
    closing bracket closes the last that is open. Crossing (k-shuffle), it closes one of the types that are open, each
    as likely as the others however many brackets of it are open: the r-th smallest of m types, where r is what is left
    of the token's word, (x - P) m / (2^32 - P), or x m / 2^32 where no bracket could have opened. Opening brackets are
    the tokens 0 to `pairs` - 1, closing ones `pairs` to 2 `pairs` - 1. The column ``states`` is the depth after each
    token. Source: arXiv 2502.19249 (`hu2025`, `hu2025_nested`) and 2601.21725 (`shinnick`, `shinnick_shuffle`).
    """

    presets: ClassVar[tuple[str, ...]] = ("hu2025", "hu2025_nested", "shinnick", "shinnick_shuffle")
    kernel_columns: ClassVar[tuple[str, ...]] = ("states",)
    extra_columns: ClassVar[tuple[str, ...]] = ("loss_mask", "task", "states")

    pairs: int = 64
    """types of brackets k, 1 to 32,768"""
    max_depth: int | None = 16
    """brackets that can be open at once, 1 to 65,536; None: no limit"""
    open_probability: float = 0.5
    """chance to open a bracket where one may open and one may close, in (0, 1)"""
    balanced: bool = False
    """every bracket is closed when the row ends, whose length must be even; a row is then no prefix of a longer one"""
    initial_depth: int = 0
    """brackets that a row begins with, 0 to the maximal depth"""
    longest_word: int | None = None
    """place of a token in its word, from depth 0 to depth 0, from which on only closing ones follow; None: no limit"""
    paired: bool = True
    """whether a closing bracket is another token than its opening one"""
    crossing: bool = False
    """whether a bracket may close before those that opened after it"""
    types: str = "uniform"
    """law of the type of an opening bracket: "uniform", or "zipf", type r - 1 in proportion to 1 / (r + 2.7)"""

    def check(self) -> None:
        """See `Law.check`."""
        pairs = checks.integer("pairs", self.pairs, 1, 2**15)
        depth = None if self.max_depth is None else checks.integer("max_depth", self.max_depth, 1, 2**16)
        longest = None if self.longest_word is None else checks.integer("longest_word", self.longest_word, 2, 2**32)
        chance = checks.number("open_probability", self.open_probability, "(0, 1)")
        if not pairs < round(chance * 2**32) < 2**32:
            raise ValueError(f"open_probability must exceed pairs / 2**32 and stay below 1 - 2**-33, got {chance}")
        self._set(
            pairs=pairs,
            max_depth=depth,
            open_probability=chance,
            balanced=checks.boolean("balanced", self.balanced),
            initial_depth=checks.integer("initial_depth", self.initial_depth, 0, 2**16 if depth is None else depth),
            longest_word=longest,
            paired=checks.boolean("paired", self.paired),
            crossing=checks.boolean("crossing", self.crossing),
            types=checks.choice("types", self.types, ("uniform", "zipf")),
        )

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return self.pairs * (1 + self.paired)

    @property
    def prefix_stable(self) -> bool:
        """See `Law.prefix_stable`."""
        return not self.balanced

    def check_length(self, length: int) -> None:
        """See `Law.check_length`."""
        if self.balanced and (length % 2 or length < 2 * self.initial_depth):
            least = f", at least twice the initial depth {self.initial_depth}," if self.initial_depth else ""
            raise ValueError(f"length of balanced rows must be even{least} got {length}")

    def states_bound(self, length: int) -> int:
        """See `Law.state_count`."""
        return min(length, self.max_depth or length) + 1

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        tables = []
        if self.types == "zipf":
            thresholds, aliases = alias_parts(zipf(self.pairs, 1.0, 2.7))
            of_opening = thresholds * np.uint64(self._threshold) >> np.uint64(32)
            tables = [np.concatenate([thresholds, of_opening]).astype(np.uint32), aliases]
        return [
            self.key(Domain.CROSSING_DYCK if self.crossing else Domain.NESTED_DYCK),
            self.pairs,
            self.max_depth or 0,
            self._threshold,
            self.initial_depth,
            self.longest_word or 0,
            self.paired,
            self.balanced,
            self.crossing,
        ], tables

    @property
    def _threshold(self) -> int:
        """What a word must be below to open."""
        return round(self.open_probability * 2**32)

    @property
    def _type_law(self) -> Floats:
        """The law of the type of an opening bracket."""
        if self.types == "uniform":
            return np.full(self.pairs, 1 / self.pairs)
        return alias_law(*alias_parts(zipf(self.pairs, 1.0, 2.7)))

    @property
    def _type_entropy(self) -> float:
        """Nats of that law."""
        law = self._type_law
        return float(-law @ np.log(law))

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`; NotImplementedError without pairs, where the tokens do not tell the open brackets."""
        if not self.paired:
            raise NotImplementedError("without pairs, tokens do not tell whether a bracket opened or closed")
        count, length = tokens.shape
        rows = np.arange(count)
        # crossing: how many are open of each type; nested: the stack of types
        opened = np.zeros((count, self.pairs if self.crossing else self.states_bound(length) + 1), np.int64)
        depth, place = np.zeros(count, np.int64), np.zeros(count, np.int64)
        types = self._type_law
        for t in range(length):
            place[depth == 0] = 0
            opening = self._opening(t, depth, place, length)
            law = np.zeros((count, self.vocabulary_size))
            law[:, : self.pairs] = opening[:, None] * types
            if self.crossing:
                is_open = opened > 0
                law[:, self.pairs :] = is_open * ((1 - opening) / np.maximum(is_open.sum(1), 1))[:, None]
            else:
                law[rows, opened[rows, depth] + self.pairs] += 1 - opening
            yield law
            # what no row of this law does is predicted by anything
            token = tokens[:, t].astype(np.int64)
            opens = token < self.pairs
            depth += np.where(opens, 1, -1)
            np.clip(depth, 0, self.states_bound(length), out=depth)
            if self.crossing:
                opened[rows, token % self.pairs] += np.where(opens, 1, -1)
            else:
                opened[rows[opens], depth[opens]] = token[opens]
            place += 1

    def _opening(self, t: int, depth: Array, place: Array, length: int) -> Floats:
        """The chance that a bracket opens."""
        chance = np.full(len(depth), self._threshold / 2**32)
        closes = np.zeros(len(depth), bool) if self.max_depth is None else depth >= self.max_depth
        if self.longest_word is not None:
            closes = closes | (place >= self.longest_word - 1)
        if self.balanced:
            closes = closes | (depth + 1 >= length - t)
        chance[closes] = 0
        chance[(depth == 0) | (t < self.initial_depth)] = 1
        return chance

    def expected_loss(self, length: int) -> float | None:
        """See `Law.expected_loss`; closed where what follows depends on the depth alone."""
        if self.longest_word is not None or not self.paired or self.crossing:
            return None
        depths = np.arange(self.states_bound(length))
        chances = np.zeros(len(depths))
        chances[0], total = 1.0, 0.0
        for t in range(length):
            opening = self._opening(t, depths, depths, length)
            total += float(chances @ (_binary_entropy(opening) + opening * self._type_entropy))
            opened = chances * opening
            closed = chances - opened
            chances = np.append(closed[1:], 0.0)
            chances[1:] += opened[:-1]
        return total / length if length else None

    def entropy_rate(self) -> float | None:
        """See `Law.entropy_rate`: nested, that of a birth-death chain of depths, half of whose steps open."""
        if self.longest_word is not None or self.balanced or not self.paired or self.max_depth is None or self.crossing:
            return None
        p = self._threshold / 2**32
        depths = np.arange(self.max_depth + 1)
        # detailed balance: what goes up from a depth comes down to it
        up = np.where(depths == 0, 1.0, p)
        down = np.where(depths == self.max_depth, 1.0, 1 - p)
        logs = np.concatenate([[0.0], np.cumsum(np.log(up[:-1]) - np.log(down[1:]))])
        law = np.exp(logs - logs.max())
        law /= law.sum()
        inner = 1 - law[0] - law[-1]
        return float(inner * _binary_entropy(np.array(p)) + self._type_entropy / 2)

    @classmethod
    def hu2025(cls, **changes: Any) -> Self:
        """The k-shuffle of arXiv 2502.19249, with the depth of its program (copies of its listing say 16)."""
        return cls(**{"pairs": 64, "max_depth": 8, "open_probability": 0.51, "crossing": True} | changes)

    @classmethod
    def hu2025_nested(cls, **changes: Any) -> Self:
        """The k-Dyck language of arXiv 2502.19249, with words of up to 510 tokens."""
        return cls(**{"pairs": 64, "max_depth": 16, "open_probability": 0.5, "longest_word": 510} | changes)

    @classmethod
    def shinnick(cls, **changes: Any) -> Self:
        """The k-Dyck language of arXiv 2601.21725, whose rows are balanced."""
        return cls(**{"pairs": 64, "max_depth": None, "open_probability": 0.49, "balanced": True} | changes)

    @classmethod
    def shinnick_shuffle(cls, **changes: Any) -> Self:
        """The k-shuffle of arXiv 2601.21725."""
        return cls(**{"pairs": 64, "max_depth": 16, "open_probability": 0.5, "crossing": True} | changes)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        return [
            cls(),
            cls(pairs=3, max_depth=4, open_probability=0.3, seed=7),
            cls(pairs=1, max_depth=1),
            cls(pairs=200, max_depth=None, open_probability=0.49, balanced=True),
            cls(pairs=5, max_depth=6, open_probability=0.9, initial_depth=5),
            cls(pairs=7, max_depth=16, longest_word=10, paired=False),
            cls(pairs=2**15, max_depth=2**16, open_probability=0.999),
            cls.hu2025(),
            cls.shinnick_shuffle(pairs=40, max_depth=None, balanced=True, open_probability=0.49, seed=3),
            cls(
                pairs=5,
                max_depth=9,
                open_probability=0.7,
                initial_depth=4,
                longest_word=20,
                crossing=True,
                types="zipf",
            ),
            cls(pairs=1, max_depth=3, crossing=True, paired=False),
            cls(pairs=65, max_depth=30, open_probability=0.6, crossing=True, types="zipf"),
            cls(pairs=2**15, max_depth=None, open_probability=0.9, crossing=True),
            cls(pairs=300, max_depth=4, types="zipf"),
        ]


def _binary_entropy(p: Any) -> Any:
    """Nats of a coin."""
    q = np.clip(p, 1e-300, 1)
    r = np.clip(1 - p, 1e-300, 1)
    return -(p * np.log(q) + (1 - p) * np.log(r))
