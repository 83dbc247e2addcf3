"""Multi-query associative recall."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from trajmill.core import checks, power_law
from trajmill.core.law import Array, Domain, Floats, Law

MOST_PLACES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociativeRecall(Law):
    """Pairs of a key and a value, then every key once more, and after it its value; loss_mask is 1 on that value.

    Of a vocabulary of V tokens, keys are 1 to V / 2 - 1 and values V / 2 to V - 1 (V / 2 rounded down), all different.
    The rest of a row, after the 2 `pairs` tokens of the pairs, is places for two tokens. Key after key takes one that
    is free, the g-th (from 1 on) with a weight of g^(`power` - 1), so short gaps are likelier with a small power; other
    places hold 0, or uniform tokens. The gaps depend on the length, so that a row is no prefix of a longer one. Source:
    MQAR of arXiv 2312.04927.
    """

    kernel_columns: ClassVar[tuple[str, ...]] = ("loss_mask",)
    presets: ClassVar[tuple[str, ...]] = ("zoology",)

    vocabulary: int = 8192
    """V, 4 to 65,536"""
    pairs: int = 8
    """keys and their values, 1 to V / 2 - 1; a row has at least four tokens for each"""
    power: float = 0.01
    """the law of gaps, in (0, 2]; 1: uniform"""
    uniform_filler: bool = False
    """whether uniform tokens stand where no query does; otherwise 0"""

    def check(self) -> None:
        """See `Law.check`."""
        vocabulary = checks.integer("vocabulary", self.vocabulary, 4, 2**16)
        self._set(
            vocabulary=vocabulary,
            pairs=checks.integer("pairs", self.pairs, 1, vocabulary // 2 - 1),
            power=checks.number("power", self.power, "(0, 2]"),
            uniform_filler=checks.boolean("uniform_filler", self.uniform_filler),
        )

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return self.vocabulary

    @property
    def prefix_stable(self) -> bool:
        """See `Law.prefix_stable`."""
        return False

    def check_length(self, length: int) -> None:
        """See `Law.check_length`."""
        least, most = 4 * self.pairs, 2 * (self.pairs + MOST_PLACES)
        if length and (length % 2 or not least <= length <= most):
            raise ValueError(f"length must be even, {least} to {most}, or 0, got {length}")

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        places = max(length // 2, 2 * self.pairs) - self.pairs
        numbers = [self.key(Domain.RECALL), self.vocabulary, self.pairs, self.uniform_filler]
        return numbers, [power_law.limits(places, self.power)]

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`; NotImplementedError unless gaps are uniform and fillers are 0."""
        if self.uniform_filler:
            raise NotImplementedError("a uniform token may look like a query, which no one can tell before its value")
        if self.power != 1:
            raise NotImplementedError("which places are taken tells of the order of draws, which has no closed form")
        count, length = tokens.shape
        rows, half = np.arange(count), self.vocabulary // 2
        known = np.zeros((count, self.vocabulary), np.int64)  # the value of a key, and what is used up is not 0
        asked = np.zeros((count, self.vocabulary), bool)
        places = length // 2 - self.pairs
        key = np.zeros(count, np.int64)
        for t in range(length):
            law = np.zeros((count, self.vocabulary))
            place = t // 2 - self.pairs
            token = tokens[:, t].astype(np.int64)
            if t % 2 == 0:
                fresh = known[:, 1:half] == 0 if place < 0 else (known[:, 1:half] > 0) & ~asked[:, 1:half]
                left = fresh.sum(1)
                some = np.ones(count) if place < 0 else left / (places - place)
                some = np.clip(some, 0, 1) * (left > 0)  # what no row of this law does is predicted by anything
                law[:, 1:half] = fresh * (some / np.maximum(left, 1))[:, None]
                law[:, 0] = 1 - some
                key = token
            elif place < 0:
                fresh = known[:, half:] == 0
                law[:, half:] = fresh / fresh.sum(1, keepdims=True)
                known[rows, key], known[rows, token] = token, 1
            else:
                law[rows, known[rows, key] * (key > 0)] = 1
                asked[rows, key] = True
            yield law

    def expected_loss(self, length: int) -> float | None:
        """See `Law.expected_loss`; closed where predictions are."""
        if length == 0 or self.uniform_filler or self.power != 1:
            return None
        counts = (self.vocabulary // 2 - 1, self.vocabulary - self.vocabulary // 2, length // 2 - self.pairs)
        return sum(math.lgamma(n + 1) - math.lgamma(n - self.pairs + 1) for n in counts) / length

    @classmethod
    def zoology(cls, pairs: int = 8, **settings: Any) -> Self:
        """Zoology's MQAR (arXiv 2312.04927), for rows of 64 to 512 tokens with 4 to 64 pairs."""
        return cls(pairs=pairs, vocabulary=8192, power=0.01, **settings)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        return [
            cls(),
            cls(vocabulary=40, pairs=16, power=1.0, seed=7),
            cls(vocabulary=4, pairs=1, power=1.0),
            cls(vocabulary=256, pairs=5, power=1.0),
            cls(vocabulary=256, pairs=16, power=2.0, uniform_filler=True),
            cls(vocabulary=65_536, pairs=3, power=0.5, uniform_filler=True),
            cls(vocabulary=257, pairs=15, power=1e-3),
        ]
