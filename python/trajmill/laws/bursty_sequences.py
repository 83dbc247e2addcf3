"""Bursty sequences of items with labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from trajmill.core import checks, power_law
from trajmill.core.law import Array, Domain, Floats, Law


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstySequences(Law):
    """Items, each with its label after it, and a query, whose label is the target: loss_mask is 1 on the last token.

    Items are of C `classes`, tokens 0 to C - 1; class r (from 0 on) has a weight of (r + 1)^-`exponent`. A sequence is
    bursty with chance `p_bursty`: then `ways` classes have `shots` pairs each, all other pairs have a class of their
    own, the classes are drawn one after another without replacement, those of the ways first, the pairs are shuffled,
    and the query is of the first class. Otherwise all classes, the query's too, are drawn independently. Labels are
    tokens from C on. Source: arXiv 2205.05055, with symbols in place of images.
    """

    kernel_columns: ClassVar[tuple[str, ...]] = ("loss_mask",)
    presets: ClassVar[tuple[str, ...]] = ("chan",)

    classes: int = 1603
    """C, 1 to 32,768"""
    exponent: float = 1.0
    """of the weights of classes, in [0, 8], and small enough that every class has a chance; 0: uniform"""
    shots: int = 3
    """pairs of a class in a bursty sequence, at least 1"""
    ways: int = 2
    """classes with so many pairs, at least 1; `ways` x `shots` is at most `pairs`"""
    pairs: int = 8
    """pairs of an item and its label before the query, 1 to 4,096; a row has 2 `pairs` + 2 tokens"""
    p_bursty: float = 0.9
    """chance of a bursty sequence, in [0, 1]"""
    labels: str = "fixed"
    """fixed: the label of class r is C + r; fresh: in every sequence, its classes have labels of their own, all
    different and uniform among `label_count`"""
    label_count: int | None = None
    """fresh labels, more than `pairs` and at most 32,768; None with fixed ones"""

    def check(self) -> None:
        """See `Law.check`."""
        labels = checks.choice("labels", self.labels, ("fixed", "fresh"))
        pairs = checks.integer("pairs", self.pairs, 1, 4096)
        shots = checks.integer("shots", self.shots, 1, pairs)
        ways = checks.integer("ways", self.ways, 1)
        if ways * shots > pairs:
            raise ValueError(f"ways x shots must be at most pairs = {pairs}, got {ways} x {shots}")
        if labels == "fixed" and self.label_count is not None:
            raise ValueError("label_count must be None with fixed labels, of which every class has one")
        count = None if labels == "fixed" else checks.integer("label_count", self.label_count, pairs + 1, 2**15)
        needed = pairs - ways * shots + ways
        self._set(
            classes=checks.integer("classes", self.classes, needed, 2**15),
            exponent=checks.number("exponent", self.exponent, "[0, 8]"),
            shots=shots,
            ways=ways,
            pairs=pairs,
            p_bursty=checks.number("p_bursty", self.p_bursty, "[0, 1]"),
            labels=labels,
            label_count=count,
        )
        rarest = self.classes**-self.exponent / sum(r**-self.exponent for r in range(1, self.classes + 1))
        if rarest * 2**32 < 2:
            raise ValueError(f"exponent must leave the rarest class a chance of 2**-31, got {self.exponent}")

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return self.classes + (self.label_count or self.classes)

    @property
    def fixed_length(self) -> int | None:
        """See `Law.fixed_length`."""
        return 2 * self.pairs + 2

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        threshold = round(self.p_bursty * 2**32)
        numbers = [self.classes, self.shots, self.ways, self.pairs, threshold, self.label_count or 0]
        return [self.key(Domain.BURSTS), *numbers], [self._limits()]

    def _limits(self) -> Array:
        """The law of classes."""
        return power_law.limits(self.classes, 1 - self.exponent)

    def target_losses(self, tokens: Array) -> Floats:
        """The nats of the target in rows (n, 2 `pairs` + 2), (n,): of a label, once its item has been seen.

        0 where the query's class has come before, or labels are fixed; else those of a fresh label.
        """
        items = tokens[:, ::2].astype(np.int64)
        if self.label_count is None:
            return np.zeros(len(tokens))
        ordered = np.sort(items[:, :-1], 1)
        seen = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
        known = (items[:, :-1] == items[:, -1:]).any(1)
        losses: Floats = np.where(known, 0.0, np.log(self.label_count - seen))
        return losses

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`; NotImplementedError for bursts (see `target_losses`)."""
        if self.p_bursty > 0:
            raise NotImplementedError("the shuffled items of a burst have no closed law; see target_losses")
        count, length = tokens.shape
        rows = np.arange(count)
        chances = power_law.chances(self._limits())
        label = np.full((count, self.classes), -1)
        used = np.zeros((count, self.vocabulary_size - self.classes), bool)
        for t in range(length):
            law = np.zeros((count, self.vocabulary_size))
            if t % 2 == 0:
                law[:, : self.classes] = chances
                yield law
                continue
            item = np.minimum(tokens[:, t - 1].astype(np.int64), self.classes - 1)
            known = item if self.label_count is None else label[rows, item]
            free = ~used / np.maximum((~used).sum(1, keepdims=True), 1)
            law[:, self.classes :] = np.where((known < 0)[:, None], free, 0)
            law[rows[known >= 0], self.classes + known[known >= 0]] = 1
            yield law
            given = np.clip(tokens[:, t].astype(np.int64) - self.classes, 0, used.shape[1] - 1)
            label[rows, item], used[rows, given] = given, True

    def expected_loss(self, length: int) -> float | None:
        """See `Law.expected_loss`; closed with fixed labels and without bursts."""
        if self.p_bursty > 0 or self.label_count is not None or length != self.fixed_length:
            return None
        chances = power_law.chances(self._limits())
        return float(-chances @ np.log(chances)) / 2

    @classmethod
    def chan(cls, **settings: Any) -> Self:
        """ArXiv 2205.05055: 1,603 classes by Zipf's law, 3 shots of 2 ways and 2 others in nine sequences of ten."""
        return cls(**{"classes": 1603, "exponent": 1.0, "shots": 3, "ways": 2, "pairs": 8, "p_bursty": 0.9} | settings)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        return [
            cls(),
            cls(classes=20, p_bursty=0.5, labels="fresh", label_count=9, seed=7),
            cls(classes=50, p_bursty=0.0),
            cls(classes=12, p_bursty=0.0, exponent=0.0, labels="fresh", label_count=30),
            cls(classes=5, shots=1, ways=2, pairs=5, p_bursty=1.0, exponent=3.0),
            cls(classes=1, shots=1, ways=1, pairs=1, p_bursty=0.0),
            cls(classes=300, shots=2, ways=8, pairs=40, labels="fresh", label_count=2**15),
        ]
