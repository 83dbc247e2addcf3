"""Entropy rates: published ones of the authors' chains, chains known by hand, chains without a single law."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trajmill.core import MarkovChain
from trajmill.core.entropy import entropy_rate, stationary
from trajmill.core.reference import ReferenceChain


@pytest.mark.parametrize(
    ("state_count", "temperature", "rate"),
    [
        (10, 1.0, 2.263664),
        (100, 0.01, 1.019321),
        (100, 0.1, 3.310539),
        (100, 1.0, 4.564843),
        (100, 10.0, 4.604757),
        (100, 100.0, 4.605166),
    ],
)
def test_the_authors_chains_have_the_known_rates(state_count: int, temperature: float, rate: float) -> None:
    chain = ReferenceChain(1, state_count, temperature, 666)
    rows = np.stack([chain.probabilities([state]) for state in range(state_count)])
    assert entropy_rate(rows) == pytest.approx(rate, abs=1e-6)


def test_rows_of_the_authors_chain() -> None:
    chain = ReferenceChain(2, 100, 1.0, 666)
    assert chain.probabilities()[:3] == pytest.approx([0.01308026, 0.01056387, 0.01047648], abs=1e-8)
    assert chain.probabilities([0])[:3] == pytest.approx([0.00569700, 0.01325276, 0.00949886], abs=1e-8)
    assert chain.probabilities([78])[41] == pytest.approx(0.00848622, abs=1e-8)
    assert not np.allclose(chain.probabilities([78, 0]), chain.probabilities([0, 78]))
    with pytest.raises(ValueError, match="at most order = 2 states, got 3"):
        chain.probabilities([1, 2, 3])


def test_chains_known_by_hand() -> None:
    flip = np.array([[0.9, 0.1], [0.4, 0.6]])
    law = stationary(flip)
    assert law is not None and law == pytest.approx([0.8, 0.2])
    rows = [-sum(p * math.log(p) for p in row) for row in flip.tolist()]
    assert entropy_rate(flip) == pytest.approx(0.8 * rows[0] + 0.2 * rows[1])
    assert entropy_rate(np.array([[0.0, 1.0], [1.0, 0.0]])) == 0.0
    assert entropy_rate(np.ones((1, 1))) == 0.0
    uniform = MarkovChain(state_count=7, temperature=math.inf)
    assert entropy_rate(np.stack([uniform.probabilities([s]) for s in range(7)])) == pytest.approx(math.log(7))


def test_a_chain_that_hardly_moves() -> None:
    """Rare moves of 1e-30 and 3e-30 still weigh the states 3 to 1."""
    law = stationary(np.array([[1.0, 1e-30], [3e-30, 1.0]]))
    assert law is not None and law == pytest.approx([0.75, 0.25])


def test_two_closed_classes_have_no_rate() -> None:
    assert entropy_rate(np.eye(2)) is None
