"""Associative recall: what the battery cannot know."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from law_twins import associative_recall as twin

from trajmill import _core
from trajmill.laws.associative_recall import AssociativeRecall


@pytest.mark.parametrize("uniform_filler", [False, True])
def test_every_key_comes_back_once_with_its_value(uniform_filler: bool) -> None:
    law = AssociativeRecall(vocabulary=100, pairs=10, uniform_filler=uniform_filler)
    rows = law.sample(300, 60, columns=["loss_mask"])
    for tokens, mask in zip(rows["tokens"].tolist(), rows["loss_mask"].tolist(), strict=True):
        keys, values = tokens[:20:2], tokens[1:20:2]
        assert len(set(keys)) == len(set(values)) == 10
        assert min(keys) >= 1 and max(keys) < 50 <= min(values) and max(values) < 100
        targets = [t for t in range(60) if mask[t]]
        assert all(t % 2 == 1 and t > 20 for t in targets)
        assert sorted((tokens[t - 1], tokens[t]) for t in targets) == sorted(zip(keys, values, strict=True))
        if not uniform_filler:
            assert sum(token != 0 for token in tokens) == 40


def test_the_first_key_takes_a_place_by_the_power_law() -> None:
    law = AssociativeRecall(vocabulary=1000, pairs=3, power=0.3)
    tokens = law.sample(100_000, 46)
    places = (tokens[:, 6::2] == tokens[:, :1]).argmax(1)
    chances = np.arange(1, 21) ** (0.3 - 1)
    chances /= chances.sum()
    counts = np.bincount(places, minlength=20)
    assert (np.abs(counts - 100_000 * chances) < 4.5 * np.sqrt(100_000 * chances)).all()


def test_keys_and_values_are_uniform() -> None:
    law = AssociativeRecall(vocabulary=20, pairs=4)
    tokens = law.sample(20_000, 16)[:, :8]
    for part, least, count in ((tokens[:, 0::2], 1, 9), (tokens[:, 1::2], 10, 10)):
        for column in part.T:
            hits = np.bincount(column, minlength=20)[least : least + count]
            assert hits.sum() == 20_000
            assert (np.abs(hits - 20_000 / count) < 4.5 * math.sqrt(20_000 / count)).all()


@pytest.mark.parametrize("settings", [{}, {"power": 2.0}, {"uniform_filler": True}])
def test_rows_without_a_free_place_equal_the_twin(settings: dict[str, Any]) -> None:
    """The last keys have been refused so often that they draw among the free places alone."""
    law = AssociativeRecall(vocabulary=500, pairs=60, **settings)
    rows = law.sample(6, 240, columns=["loss_mask"])
    for index in range(6):
        row = twin.row(law, index, 240)
        assert rows["tokens"][index].tolist() == row["tokens"]
        assert rows["loss_mask"][index].tolist() == row["loss_mask"]


def test_targets_have_no_nats() -> None:
    law = AssociativeRecall(vocabulary=64, pairs=6, power=1.0)
    rows = law.sample(100, 60, columns=["loss_mask"])
    losses = law.losses(rows["tokens"])
    assert (losses[rows["loss_mask"] == 1] == 0).all() and np.isfinite(losses).all()


def test_what_has_no_closed_form_says_why() -> None:
    with pytest.raises(NotImplementedError, match="a uniform token may look like a query"):
        AssociativeRecall(power=1.0, uniform_filler=True).losses(np.zeros((1, 64), np.int64))
    with pytest.raises(NotImplementedError, match="which places are taken"):
        AssociativeRecall().losses(np.zeros((1, 64), np.int64))
    assert AssociativeRecall().expected_loss(64) is None


def test_presets_are_those_of_the_papers() -> None:
    law = AssociativeRecall.zoology(64)
    assert (law.vocabulary, law.pairs, law.power) == (8192, 64, 0.01)
    assert law.sample(2, 512).dtype == np.uint16
    assert AssociativeRecall.presets == ("zoology",)


def test_the_longest_rows_can_be_drawn() -> None:
    law = AssociativeRecall(vocabulary=65_536, pairs=2)
    law.check_length(2 * (2 + 2**16))
    assert law.sample(2, 8).all()
    limits = np.arange(1, 2**16 + 1, dtype=np.uint32) << 16  # uniform: those of the law take seconds
    kernel = _core.Law("associative_recall", numbers=law.core(8)[0], tables=[limits])
    tokens = np.zeros((3, 2 * (2 + 2**16)), np.uint16)
    kernel.fill(first_sequence=0, tokens=tokens, threads=1)
    assert ((tokens != 0).sum(1) == 8).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocabulary": 3}, "vocabulary must be between 4 and 65536"),
        ({"vocabulary": 65_537}, "vocabulary must be between"),
        ({"pairs": 0}, "pairs must be between 1 and 4095"),
        ({"pairs": 4096}, "pairs must be between 1 and 4095"),
        ({"vocabulary": 5, "pairs": 2}, "pairs must be between 1 and 1"),
        ({"power": 0.0}, r"power must be in \(0, 2\]"),
        ({"power": 2.1}, r"power must be in \(0, 2\]"),
    ],
)
def test_what_is_no_recall_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AssociativeRecall(**settings)


@pytest.mark.parametrize("length", [1, 30, 33, 2**17 + 18])
def test_lengths_without_room_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="length must be even, 32 to 131088, or 0, got"):
        AssociativeRecall().sample(1, length)


def test_the_kernel_refuses_numbers_it_could_not_trust_and_survives_all_others() -> None:
    chance = np.random.default_rng(0)
    edges = np.array([0, 1, 2, 3, 4, 5, 20, 64, 65, 255, 256, 65_535, 2**16, 2**16 + 1, 2**32, 2**64 - 1], object)
    kept = 0
    for _ in range(600):
        numbers = [int(number) for number in chance.choice(edges, 4)]
        numbers[2] %= 70
        numbers[3] %= 3
        limits = chance.integers(0, 2**32, chance.choice([0, 1, 2, 3, 64, 70, 1000]), dtype=np.uint32)
        try:
            law = _core.Law("associative_recall", numbers=numbers, tables=[limits])
        except ValueError as error:
            assert "associative recall" in str(error)
            continue
        kept += 1
        for length in (0, 1, 70, 3000):
            tokens, mask = np.zeros((3, length), chance.choice(["u1", "u2", "u8"])), np.zeros((3, length), np.uint8)
            law.fill(first_sequence=2**64 - 4, tokens=tokens, loss_mask=mask, threads=1)
    assert kept > 30
    with pytest.raises(ValueError, match="4 numbers and a table"):
        _core.Law("associative_recall", numbers=[0, 4, 1, 0], tables=[])
