"""Mixtures: shares, order, curricula, tokens of their own, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import trajmill as tm

A, B = tm.Dyck(pairs=3, max_depth=4, seed=1), tm.Dyck(pairs=8, max_depth=2, seed=2)


def test_every_period_has_the_shares_and_each_law_its_sequences_in_order() -> None:
    mixture = tm.Mixture(laws=(A, B), weights=(3, 1))
    which, numbers = mixture.addresses(np.arange(400, dtype=np.uint64))
    assert (which.reshape(-1, 4) == 1).sum(1).tolist() == [1] * 100
    for place, law in enumerate((A, B)):
        rows = np.flatnonzero(which == place)
        assert numbers[rows].tolist() == list(range(len(rows)))
        np.testing.assert_array_equal(mixture.sample(400, 20)[rows], law.sample(len(rows), 20))


def test_a_curriculum_goes_through_its_stages_and_no_sequence_comes_twice() -> None:
    mixture = tm.Mixture(laws=(A, B), stages=((10, (1, 0)), (10, (1, 1))), weights=(0, 1))
    which, numbers = mixture.addresses(np.arange(40, dtype=np.uint64))
    assert which[:10].tolist() == [0] * 10
    assert sorted(which[10:20].tolist()) == [0] * 5 + [1] * 5
    assert which[20:].tolist() == [1] * 20
    for place in range(2):
        assert numbers[which == place].tolist() == list(range((which == place).sum()))


def test_laws_have_tokens_of_their_own_if_asked() -> None:
    mixture = tm.Mixture(laws=(A, B), separate=True)
    assert (mixture.vocabulary_size, mixture.offsets) == (6 + 16, (0, 6))
    rows = mixture.sample(64, 32, columns=["task", "loss_mask"])
    assert rows["tokens"][rows["task"][:, 0] == 0].max() < 6 <= rows["tokens"][rows["task"][:, 0] == 1].min()
    assert rows["loss_mask"].all()
    assert tm.Mixture(laws=(A, B)).vocabulary_size == 16


def test_a_mixture_is_a_corpus_and_a_spec() -> None:
    mixture = tm.Mixture(laws=(A, B), weights=(1, 2))
    corpus = tm.VirtualCorpus(mixture, sequence_count=30, length=16, columns=["task"])
    assert corpus[:]["task"][:, 0].tolist() == [1, 0, 1] * 10
    spec = mixture.spec()
    assert spec["laws"][1] == {"kind": "dyck", **B.spec()}
    assert tm.Mixture.from_spec(spec) == mixture


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "a mixture needs laws, got none"),
        ({"laws": (A, 3)}, "a law of a mixture is a Law, or its fields with its kind, got 3"),
        ({"laws": (A, {"kind": "song"})}, "there is no law of kind 'song'"),
        ({"laws": (A, B), "weights": (1,)}, r"weights must be 2 whole numbers, one for each law, got \(1,\)"),
        ({"laws": (A, B), "weights": (0.75, 0.25)}, "a weight must be an integer, got 0.75"),
        ({"laws": (A, B), "weights": (0, 0)}, "weights must sum to 1 to 65,536, got 0"),
        ({"laws": (A, B), "stages": ((0, (1, 1)),)}, "rows of a stage must be between 1 and"),
        ({"laws": (A, B), "stages": (5,)}, r"a stage is \(rows, weights\), got 5"),
    ],
)
def test_bad_mixtures_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        tm.Mixture(**fields)
