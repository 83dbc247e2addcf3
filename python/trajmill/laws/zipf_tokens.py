"""Tokens that are frequent as words are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from trajmill import _core
from trajmill.core import checks
from trajmill.core.alias import alias_cells, alias_law, alias_parts, zipf
from trajmill.core.law import Array, Domain, Floats, Law


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipfTokens(Law):
    """Independent tokens by the law of Zipf and Mandelbrot: that of rank r in proportion to (r + shift)^-exponent.

    A token is drawn from an alias table as dense chains are (docs/streams.md, "Dense draws"). The token of rank r is
    row r - 1 of the order of `token_count` rows that a corpus has in epoch 0 for the law's task key (domain 49) as its
    seed, so laws of one seed and one size share it; or r - 1, if they are not `shuffled`.
    """

    presets: ClassVar[tuple[str, ...]] = ("papadimitriou2023",)

    token_count: int = 256
    """size of the vocabulary V, 1 to 16,777,216"""
    exponent: float = 1.0
    """how fast frequencies fall with the rank, 0 (not at all) to 64"""
    shift: float = 0.0
    """what is added to the rank, 0 to 2^32: the more, the closer the most frequent tokens are to one another"""
    shuffled: bool = True
    """whether ranks go to tokens in an order of their own"""

    def check(self) -> None:
        """See `Law.check`."""
        self._set(
            token_count=checks.integer("token_count", self.token_count, 1, 2**24),
            exponent=checks.number("exponent", self.exponent, "[0, 64]"),
            shift=checks.number("shift", self.shift, "[0, 4294967296]"),
            shuffled=checks.boolean("shuffled", self.shuffled),
        )

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return self.token_count

    def ids(self) -> Array:
        """The tokens of ranks 1, 2, ... (token_count,)."""
        ranks = np.arange(self.token_count, dtype=np.uint64)
        if not self.shuffled:
            return ranks
        return _core.permute(ranks, size=self.token_count, seed=self.task_key(Domain.ZIPF_IDS), epoch=0)

    def _probabilities(self) -> Floats:
        """Of all tokens, before they are rounded to the cells of a table."""
        probabilities = np.empty(self.token_count)
        probabilities[self.ids()] = zipf(self.token_count, self.exponent, self.shift)
        return probabilities

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        return [self.key(Domain.TOKENS), self.token_count], [alias_cells(self._probabilities()[None])[0]]

    def law(self) -> Floats:
        """The exact probabilities of all tokens (token_count,)."""
        return alias_law(*alias_parts(self._probabilities()))

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`: the same for every token."""
        law = self.law()
        for _ in range(tokens.shape[1]):
            yield np.broadcast_to(law, (len(tokens), len(law)))

    def expected_loss(self, length: int) -> float | None:
        """See `Law.expected_loss`."""
        return self.entropy_rate()

    def entropy_rate(self) -> float:
        """See `Law.entropy_rate`: the entropy of one token."""
        law = self.law()
        law = law[law > 0]
        return float(-law @ np.log(law))

    @classmethod
    def papadimitriou2023(cls, **changes: Any) -> Self:
        """500 words in proportion to 1 / (r + 2.7), as in Papadimitriou and Jurafsky (2023)."""
        return cls(**{"token_count": 500, "exponent": 1.0, "shift": 2.7} | changes)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        return [
            cls(),
            cls.papadimitriou2023(),
            cls(token_count=10, exponent=0.0, shuffled=False),
            cls(token_count=257, exponent=1.3, shift=10.5, seed=9),
            cls(token_count=1),
            cls(token_count=300, exponent=64.0),
            cls(token_count=70_000, exponent=0.5, shift=2.0**32),
        ]
