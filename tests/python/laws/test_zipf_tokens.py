"""Zipf's tokens: their frequencies, their order, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import trajmill as tm
from trajmill import _core


def test_frequencies_are_a_power_of_the_rank() -> None:
    law = tm.ZipfTokens(token_count=1000, exponent=1.2, shift=1.5)
    exact = (np.arange(1, 1001) + 1.5) ** -1.2
    exact /= exact.sum()
    np.testing.assert_allclose(law.law()[law.ids()], exact, atol=1e-12)
    tokens = law.sample(4000, 500)
    seen = np.bincount(tokens.ravel(), minlength=1000)[law.ids()] / tokens.size
    assert (np.abs(seen - exact) < 5 * np.sqrt(exact / tokens.size) + 1e-9).all()


def test_the_entropy_is_that_of_the_law() -> None:
    uniform = tm.ZipfTokens(token_count=37, exponent=0.0)
    assert uniform.entropy_rate() == pytest.approx(math.log(37), abs=1e-9)
    harmonic = sum(1 / r for r in range(1, 501))
    exact = sum(math.log(r * harmonic) / (r * harmonic) for r in range(1, 501))
    law = tm.ZipfTokens(token_count=500)
    assert law.entropy_rate() == law.expected_loss(7) == pytest.approx(exact, abs=1e-9)


def test_ranks_have_one_order_for_a_seed_and_a_size() -> None:
    law = tm.ZipfTokens(token_count=300)
    assert sorted(law.ids()) == list(range(300))
    assert list(law.ids()) != list(range(300))
    np.testing.assert_array_equal(law.ids(), tm.ZipfTokens(token_count=300, exponent=2.0).ids())
    assert list(law.ids()) != list(tm.ZipfTokens(token_count=300, seed=43).ids())
    np.testing.assert_array_equal(tm.ZipfTokens(token_count=300, shuffled=False).ids(), np.arange(300))


def test_laws_that_differ_share_no_draws() -> None:
    one, other = tm.ZipfTokens(token_count=2, exponent=0.0), tm.ZipfTokens(token_count=2, exponent=0.0, shift=1.0)
    equal = one.sample(100, 1000) == other.sample(100, 1000)  # of the same two probabilities
    assert abs(equal.mean() - 0.5) < 4 * 0.5 / np.sqrt(equal.size)


def test_words_of_papadimitriou_and_jurafsky() -> None:
    law = tm.ZipfTokens.papadimitriou2023(shuffled=False)
    assert law.law()[0] / law.law()[499] == pytest.approx(502.7 / 3.7, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_count": 0}, "token_count must be between 1 and 16777216, got 0"),
        ({"token_count": 2**24 + 1}, "token_count must be between"),
        ({"exponent": -0.1}, r"exponent must be in \[0, 64\]"),
        ({"exponent": math.nan}, "exponent must be in"),
        ({"shift": -0.5}, r"shift must be in \[0, 4294967296\]"),
        ({"shuffled": 0}, "shuffled must be True or False"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        tm.ZipfTokens(**changes)


def test_the_core_refuses_a_table_of_another_size() -> None:
    for numbers, words in (([1, 3], 2), ([1, 257], 257), ([1, 0], 0), ([1, 2**24 + 1], 3), ([1], 1)):
        with pytest.raises(ValueError, match="Zipf"):
            _core.Law("zipf_tokens", numbers=numbers, tables=[np.zeros(words, np.uint32)])
