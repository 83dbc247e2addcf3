"""Bursty sequences: what the battery cannot know."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from trajmill import _core
from trajmill.laws.bursty_sequences import BurstySequences


def test_a_burst_has_its_ways_shots_and_others() -> None:
    law = BurstySequences.chan(p_bursty=1.0)
    rows = law.sample(500, columns=["loss_mask"])
    assert rows["tokens"].shape == (500, 18) and (rows["loss_mask"] == [0] * 17 + [1]).all()
    for row in rows["tokens"].tolist():
        items, labels = row[::2], row[1::2]
        assert labels == [1603 + item for item in items]
        assert sorted(Counter(items[:-1]).values()) == [1, 1, 3, 3]
        assert items[:-1].count(items[-1]) == 3
    places = (rows["tokens"][:, :16:2] == rows["tokens"][:, 16:17]).sum(0)
    assert (np.abs(places - 500 * 3 / 8) < 4.5 * math.sqrt(500 * 15 / 64)).all()  # shuffled


def test_nine_sequences_in_ten_are_bursty() -> None:
    items = BurstySequences.chan().sample(20_000)[:, ::2]
    bursty = sum(sorted(Counter(row).values()) == [1, 1, 3, 4] for row in items.tolist())
    assert abs(bursty - 18_000) < 4.5 * math.sqrt(1800) + 5  # hardly any of the others looks like one


def test_classes_follow_zipf() -> None:
    law = BurstySequences(classes=30, exponent=1.5, p_bursty=0.0)
    counts = np.bincount(law.sample(20_000)[:, ::2].ravel(), minlength=30)
    chances = np.arange(1, 31) ** -1.5
    chances /= chances.sum()
    assert (np.abs(counts - 180_000 * chances) < 4.5 * np.sqrt(180_000 * chances)).all()


def test_fresh_labels_are_different_and_uniform() -> None:
    law = BurstySequences(classes=20, labels="fresh", label_count=9)
    tokens = law.sample(20_000)
    for row in tokens[:300].tolist():
        pairs = set(zip(row[::2], row[1::2], strict=True))
        assert len(pairs) == len({item for item, _ in pairs}) == len({label for _, label in pairs})
    for column in (1, 17):
        hits = np.bincount(tokens[:, column] - 20, minlength=9)
        assert (np.abs(hits - 20_000 / 9) < 4.5 * math.sqrt(20_000 / 9)).all()


def test_losses_of_targets() -> None:
    tokens = np.array([[0, 5, 1, 6, 0, 5], [0, 5, 1, 6, 2, 9], [0, 5, 0, 5, 2, 9]])
    law = BurstySequences(classes=5, shots=1, ways=1, pairs=2, labels="fresh", label_count=7)
    np.testing.assert_allclose(law.target_losses(tokens), [0, math.log(5), math.log(6)])
    assert (BurstySequences(classes=5, shots=1, ways=1, pairs=2).target_losses(tokens) == 0).all()
    iid = BurstySequences(classes=6, p_bursty=0.0, labels="fresh", label_count=12)
    rows = iid.sample(300)
    np.testing.assert_allclose(iid.target_losses(rows), iid.losses(rows)[:, -1], atol=1e-12)
    with pytest.raises(NotImplementedError, match="the shuffled items of a burst"):
        law.losses(tokens)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": 3}, "classes must be between 4 and 32768"),
        ({"classes": 32_769}, "classes must be between"),
        ({"exponent": -0.1}, r"exponent must be in \[0, 8\]"),
        ({"exponent": 4.0}, "exponent must leave the rarest class a chance of 2"),
        ({"shots": 0}, "shots must be between 1 and 8"),
        ({"ways": 0}, "ways must be at least 1"),
        ({"ways": 3}, "ways x shots must be at most pairs = 8, got 3 x 3"),
        ({"pairs": 4097}, "pairs must be between 1 and 4096"),
        ({"p_bursty": 1.1}, r"p_bursty must be in \[0, 1\]"),
        ({"labels": "permuted"}, "labels must be one of 'fixed', 'fresh'"),
        ({"label_count": 5}, "label_count must be None with fixed labels"),
        ({"labels": "fresh", "label_count": 8}, "label_count must be between 9 and 32768"),
    ],
)
def test_what_is_no_law_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BurstySequences(**settings)


def test_the_kernel_refuses_numbers_it_could_not_trust_and_survives_all_others() -> None:
    chance = np.random.default_rng(0)
    edges = np.array([0, 1, 2, 3, 4, 8, 9, 40, 300, 4096, 4097, 32_768, 32_769, 2**32, 2**64 - 1], object)
    kept = 0
    for _ in range(3000):
        numbers = [int(number) for number in chance.choice(edges, 7)]
        numbers[2:4] = [number % 5 for number in numbers[2:4]]
        size = numbers[1] if numbers[1] < 40_000 else 5
        try:
            limits = chance.integers(0, 2**32, size, dtype=np.uint32)
            law = _core.Law("bursty_sequences", numbers=numbers, tables=[limits])
        except ValueError as error:
            assert "bursty sequences" in str(error)
            continue
        kept += 1
        if numbers[4] > 300:
            continue
        for length in (0, 1, 17, 700):
            tokens, mask = np.zeros((3, length), chance.choice(["u1", "u2", "u8"])), np.zeros((3, length), np.uint8)
            law.fill(first_sequence=2**64 - 4, tokens=tokens, loss_mask=mask, threads=1)
    assert kept > 30
