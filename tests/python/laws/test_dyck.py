"""Brackets: published numbers, what every row is, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import trajmill as tm
from trajmill import _core
from trajmill.core.alias import alias_cells, alias_law, alias_parts, zipf


def stationary(depth: int, p: float) -> np.ndarray:
    """The law of depths, from what goes up and comes down."""
    law = np.ones(depth + 1)
    for d in range(depth):
        law[d + 1] = law[d] * (1 if d == 0 else p) / (1 if d + 1 == depth else 1 - p)
    return law / law.sum()


def test_the_entropy_rate_is_that_of_the_specification() -> None:
    assert tm.Dyck().entropy_rate() == pytest.approx(2.7293, abs=5e-5)
    assert tm.Dyck().expected_loss(2048) == pytest.approx(2.737, abs=5e-4)


@pytest.mark.parametrize(("law", "loss"), [(tm.Dyck.hu2025(), 3.349), (tm.Dyck.shinnick_shuffle(), 3.642)])
def test_crossing_rows_have_the_losses_of_the_specification(law: tm.Dyck, loss: float) -> None:
    assert law.expected_loss(10) is None
    losses = law.losses(law.sample(300, 1024))[:, 256:].mean(1)
    assert losses.mean() == pytest.approx(loss, abs=4 * losses.std() / np.sqrt(len(losses)) + 5e-4)


@pytest.mark.parametrize("crossing", [False, True])
def test_depths_have_the_law_of_a_birth_death_chain(crossing: bool) -> None:
    law = tm.Dyck(pairs=3, max_depth=5, open_probability=0.6, crossing=crossing)
    rows = law.sample(20_000, 201, columns=("states",))["states"][:, 199:]  # an even and an odd step
    seen = np.bincount(rows.ravel(), minlength=6) / rows.size
    np.testing.assert_allclose(seen, stationary(5, 0.6), atol=4 / np.sqrt(len(rows)))


@pytest.mark.parametrize("law", [law for law in tm.Dyck.examples() if law.paired])
def test_no_row_closes_what_is_not_open(law: tm.Dyck) -> None:
    rows = law.sample(50, 300, columns=("states",))
    for tokens, depths in zip(rows["tokens"].tolist(), rows["states"].tolist(), strict=True):
        stack: list[int] = []
        counts: Counter[int] = Counter()
        word = 0
        for t, (token, depth) in enumerate(zip(tokens, depths, strict=True)):
            if token < law.pairs:
                assert law.longest_word is None or word < law.longest_word - 1 or t < law.initial_depth or not stack
                stack.append(token)
                counts[token] += 1
            elif law.crossing:
                assert counts[token - law.pairs] > 0
                counts[token - law.pairs] -= 1
                stack.pop()
            else:
                assert stack.pop() == token - law.pairs
            assert len(stack) == depth <= (law.max_depth or 300)
            word = word + 1 if stack else 0
        assert not law.balanced or not stack


def test_crossing_closes_an_open_type_whatever_the_number_of_its_brackets() -> None:
    law = tm.Dyck(pairs=2, max_depth=4, crossing=True)
    np.testing.assert_allclose(law.predictive([0, 0, 1]), [0.25, 0.25, 0.25, 0.25])  # not 2 to 1
    np.testing.assert_allclose(law.predictive([0, 0, 1, 0]), [0, 0, 0.5, 0.5])
    tokens = law.sample(100_000, 4)
    after = tokens[(tokens[:, :3] == [0, 0, 1]).all(1), 3]
    closing = after[after >= 2]
    assert abs((closing == 2).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(closing))


def test_brackets_of_one_type_cross_as_they_nest() -> None:
    """But for the words that decide: the law is the same."""
    nested, crossing = tm.Dyck(pairs=1), tm.Dyck(pairs=1, crossing=True)
    tokens = nested.sample(20, 64)
    np.testing.assert_allclose(crossing.losses(tokens), nested.losses(tokens))


def test_types_in_proportion_to_zipf_have_that_law() -> None:
    law = tm.Dyck(pairs=50, types="zipf", max_depth=1)
    opened = law.sample(4000, 100)[:, ::2]
    weights = 1 / (np.arange(1, 51) + 2.7)
    weights /= weights.sum()
    seen = np.bincount(opened.ravel(), minlength=50) / opened.size
    np.testing.assert_allclose(seen, weights, atol=4.5 * np.sqrt(weights[0] / opened.size))
    np.testing.assert_allclose(law.predictive([])[:50], weights, atol=1e-8)
    assert law.expected_loss(2) == pytest.approx(-weights @ np.log(weights) / 2, rel=1e-6)
    assert law.entropy_rate() == pytest.approx(-weights @ np.log(weights) / 2, rel=1e-6)


@pytest.mark.parametrize(("count", "exponent", "shift"), [(10, 1.0, 2.7), (300, 1.3, 0.0), (5000, 0.0, 1.0)])
def test_zipf_is_a_power_in_whole_numbers(count: int, exponent: float, shift: float) -> None:
    law = (np.arange(1, count + 1) + shift) ** -exponent
    law /= law.sum()
    np.testing.assert_allclose(zipf(count, exponent, shift), law, rtol=1e-14)
    np.testing.assert_allclose(alias_law(*alias_parts(zipf(count, exponent, shift))), law, atol=1e-7 / count)


def test_an_alias_table_is_of_a_law() -> None:
    np.testing.assert_array_equal(alias_cells(np.array([[0.0, 1.0]])), [[1, 1]])
    for bad in ([0.5, 0.4], [-0.1, 1.1], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="probabilities"):
            alias_cells(np.array([bad]))
    with pytest.raises(ValueError, match="at least one"):
        alias_cells(np.zeros((1, 0)))


def test_presets_are_the_papers() -> None:
    for name in tm.Dyck.presets:
        assert isinstance(getattr(tm.Dyck, name)(seed=3), tm.Dyck)
    hu = tm.Dyck.hu2025()
    assert (hu.pairs, hu.max_depth, hu.open_probability, hu.crossing) == (64, 8, 0.51, True)
    words = tm.Dyck.hu2025_nested(max_depth=2, open_probability=0.999).sample(20, 2040, columns=("states",))["states"]
    ends = [np.flatnonzero(row == 0) for row in words]
    assert max(np.diff(end, prepend=-1).max() for end in ends) == 510
    assert not tm.Dyck.shinnick(max_depth=None).prefix_stable
    assert tm.Dyck.shinnick_shuffle(open_probability=0.6).open_probability == 0.6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pairs": 0}, "pairs must be between 1 and 32768, got 0"),
        ({"pairs": 2**15 + 1}, "pairs must be between 1 and 32768"),
        ({"max_depth": 0}, "max_depth must be between 1 and 65536"),
        ({"open_probability": 0.0}, r"open_probability must be in \(0, 1\)"),
        ({"open_probability": 1.0}, r"open_probability must be in \(0, 1\)"),
        ({"open_probability": 1e-9}, "open_probability must exceed"),
        ({"initial_depth": 17}, "initial_depth must be between 0 and 16"),
        ({"longest_word": 1}, "longest_word must be between 2"),
        ({"crossing": 1}, "crossing must be True or False"),
        ({"types": "zipfian"}, "types must be one of 'uniform', 'zipf'"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        tm.Dyck(**changes)


def test_lengths_that_no_balanced_row_has_are_refused() -> None:
    with pytest.raises(ValueError, match="must be even"):
        tm.Dyck.shinnick().sample(1, 7)
    with pytest.raises(ValueError, match="twice the initial depth 3"):
        tm.Dyck(balanced=True, initial_depth=3, crossing=True).sample(1, 4)


def test_without_pairs_there_is_no_exact_law() -> None:
    with pytest.raises(NotImplementedError, match="without pairs"):
        tm.Dyck(paired=False, crossing=True).losses(np.zeros((1, 2), np.uint8))


def test_the_core_refuses_numbers_that_its_kernel_cannot_trust() -> None:
    numbers, tables = tm.Dyck(pairs=4, types="zipf", crossing=True).core(8)
    for at, value in [(1, 0), (1, 2**15 + 1), (2, 2**16 + 1), (3, 4), (3, 2**32), (4, 17), (5, 2**33), (6, 2), (8, 2)]:
        with pytest.raises(ValueError, match="Dyck"):
            _core.Law("dyck", numbers=[*numbers[:at], value, *numbers[at + 1 :]], tables=tables)
    alias_out = [tables[0], np.array([0, 1, 2, 4], np.uint32)]
    for wrong in ([tables[0]], [tables[0][1:], tables[1]], [tables[0], tables[1][1:]], alias_out):
        with pytest.raises(ValueError, match="Dyck"):
            _core.Law("dyck", numbers=numbers, tables=wrong)
