"""What there is to see of a law: rows, exact quantities, and how fast it is drawn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from trajmill.core import checks
from trajmill.core.law import Law

TIMED_TOKENS = 2**22
"""tokens drawn at a time for the rate"""
LEAST_SECONDS = 0.2
"""processor time for which they are drawn"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What `look` has found."""

    law: Law
    length: int
    first_sequence: int
    rows: list[dict[str, list[int]]]
    """every column of a row, those that say nothing left out"""
    exact: dict[str, float]
    """nats a token: of the best predictor over rows of this length, and in the limit"""
    tokens_per_second: float

    def data(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "kind": self.law.kind(),
            "law": self.law.spec(),
            "length": self.length,
            "vocabulary_size": self.law.vocabulary_size,
            "prefix_stable": self.law.prefix_stable,
            "columns": ["tokens", *self.law.extra_columns],
            "exact": self.exact,
            "tokens_per_second": self.tokens_per_second,
            "first_sequence": self.first_sequence,
            "rows": self.rows,
        }


def look(law: Law, length: int, *, rows: int = 2, first_sequence: int = 0) -> Seen:
    """Draw `rows` rows of `length` tokens, ask for what is exact, and time one thread."""
    checks.integer("length", length, 1, 2**32)
    count = checks.integer("rows", rows, 1, 2**20)
    drawn = law.sample(count, length, first_sequence=first_sequence, columns=law.extra_columns)
    telling = [name for name, values in drawn.items() if name == "tokens" or len(np.unique(values)) > 1]
    exact = {"over rows of this length": law.expected_loss(length), "in long rows": law.entropy_rate()}
    return Seen(
        law=law,
        length=length,
        first_sequence=first_sequence,
        rows=[{name: drawn[name][number].tolist() for name in telling} for number in range(count)],
        exact={name: value for name, value in exact.items() if value is not None},
        tokens_per_second=_rate(law, length),
    )


def _rate(law: Law, length: int) -> float:
    """Tokens a second of processor time, in an array that is written again and again."""
    out = np.empty((max(1, TIMED_TOKENS // length), length), checks.smallest_dtype(law.vocabulary_size))
    law.sample(len(out), length, out=out, threads=1)
    started, made = time.process_time(), 0
    while (spent := time.process_time() - started) < LEAST_SECONDS:
        law.sample(len(out), length, first_sequence=made, out=out, threads=1)
        made += len(out)
    return made * length / spent
