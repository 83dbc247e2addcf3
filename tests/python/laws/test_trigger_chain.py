"""Chains with triggers: what the battery cannot know."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from test_battery import assert_equal, rows_of, twin_rows

from trajmill import _core
from trajmill.core.law import Domain
from trajmill.laws.trigger_chain import TriggerChain

THREE = ((0.1, 0.6, 0.3), (0.7, 0.0, 0.3), (0.25, 0.5, 0.25))
FOUR = ((0.4, 0.3, 0.2, 0.1), (0.5, 0.5, 0.0, 0.0), (0.0, 0.2, 0.0, 0.8), (0.3, 0.3, 0.3, 0.1))


def sequential_chance(chances: np.ndarray, chosen: tuple[int, ...]) -> float:
    """Of drawing these one after another without replacement."""
    left, result = 1.0, 1.0
    for state in chosen:
        result *= chances[state] / left
        left -= chances[state]
    return result


def chance_of_row(law: TriggerChain, tokens: tuple[int, ...]) -> float:
    """The sum over all triggers in order and all their outputs."""
    first, chain, states = law.stationary(), np.array(law.probabilities), range(law.vocabulary_size)
    total = 0.0
    for triggers in itertools.permutations(states, law.triggers):
        for outputs in itertools.product(states, repeat=law.triggers):
            output = dict(zip(triggers, outputs, strict=True))
            chance = sequential_chance(first, triggers) / len(states) ** law.triggers * first[tokens[0]]
            for last, token in itertools.pairwise(tokens):
                chance *= float(output[last] == token) if last in output else chain[last, token]
            total += chance
    return total


@pytest.mark.parametrize(
    "law",
    [
        TriggerChain(probabilities=THREE, triggers=1),
        TriggerChain(probabilities=THREE, triggers=2),
        TriggerChain(probabilities=FOUR, triggers=3),
        TriggerChain(probabilities=THREE, triggers=3),
    ],
    ids=["one", "two", "three", "all"],
)
def test_predictions_are_the_sum_over_all_triggers_and_outputs(law: TriggerChain) -> None:
    length = 6 if law.vocabulary_size == 3 else 4
    rows = np.array(list(itertools.product(range(law.vocabulary_size), repeat=length)), np.uint8)
    chances = np.array([chance_of_row(law, tuple(row)) for row in rows.tolist()])
    assert chances.sum() == pytest.approx(1)
    can_come = chances > 0
    said = np.exp(-law.losses(rows[can_come]).sum(1))
    np.testing.assert_allclose(said, chances[can_come], rtol=1e-9)


def test_predictions_hold_where_states_are_rare() -> None:
    """The integral against the sum over all draws, for one stationary chance of 2**-30."""
    rare = 2.0**-30
    law = TriggerChain(probabilities=((0.75, 0.25 - rare, rare),) * 3, triggers=2)
    for tokens in ((0, 0, 1, 0), (2, 2, 2, 0), (0, 2, 0, 2)):
        said = math.exp(-law.losses(np.array([tokens])).sum())
        assert said == pytest.approx(chance_of_row(law, tokens), rel=1e-9)


def test_a_long_row_keeps_its_predictions_finite() -> None:
    law = TriggerChain.from_text("abracadabra", triggers=2)
    losses = law.losses(law.sample(20, 3000))
    assert np.isfinite(losses).all() and (losses >= -1e-9).all()


def test_tokens_of_loss_mask_1_cost_nothing_once_triggers_are_known() -> None:
    law = TriggerChain(probabilities=np.full((20, 20), 1 / 20).tolist(), triggers=3)
    rows = law.sample(100, 200, columns=["loss_mask"])
    losses, mask = law.losses(rows["tokens"]), rows["loss_mask"] == 1
    assert losses[mask].mean() < 0.25 < math.log(20) - 0.25 < losses[~mask].mean()


def test_outputs_follow_triggers_always_and_the_mask_is_on_from_the_second_time() -> None:
    law = TriggerChain(probabilities=FOUR, triggers=2)
    rows = law.sample(2000, 100, columns=["loss_mask"])
    counts = np.zeros(3, int)
    for tokens, mask in zip(rows["tokens"].tolist(), rows["loss_mask"].tolist(), strict=True):
        assert mask[0] == mask[1] == 0
        targets = {tokens[t - 1] for t in range(1, 100) if mask[t]}
        counts[len(targets)] += 1
        for state in targets:
            after = [t + 1 for t in range(99) if tokens[t] == state]
            assert len({tokens[t] for t in after}) == 1
            assert [mask[t] for t in after] == [0] + [1] * (len(after) - 1)
    assert counts[2] > 1000


def test_triggers_are_drawn_without_replacement_from_the_stationary_law() -> None:
    """How often each state is a trigger: recognised by its second time."""
    law = TriggerChain(probabilities=((0.5, 0.25, 0.125, 0.125),) * 4, triggers=2)
    rows = law.sample(4000, 400, columns=["loss_mask"])
    hits = np.zeros(4)
    for tokens, mask in zip(rows["tokens"], rows["loss_mask"], strict=True):
        hits[np.unique(tokens[:-1][mask[1:] == 1])] += 1
    first = law.stationary()
    said = np.zeros(4)
    for pair in itertools.permutations(range(4), 2):
        said[list(pair)] += sequential_chance(first, pair)
    # A sequence whose triggers lead to one another may never come to the other one, so ask for what must be.
    assert (hits <= 4000 * said + 4.5 * np.sqrt(4000 * said * (1 - said))).all()
    starts = np.bincount(rows["tokens"][:, 0], minlength=4)
    assert (np.abs(starts - 4000 * first) < 4.5 * np.sqrt(4000 * first * (1 - first))).all()


def test_the_stationary_law_is_stationary() -> None:
    law = TriggerChain(probabilities=FOUR, triggers=1)
    np.testing.assert_allclose(law.stationary() @ np.array(FOUR), law.stationary(), rtol=1e-15)


def test_a_text_gives_its_pairs_in_a_ring() -> None:
    law = TriggerChain.from_text("abac", triggers=1)
    assert law.probabilities == ((0.0, 0.5, 0.5), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    np.testing.assert_allclose(law.stationary(), [0.5, 0.25, 0.25], rtol=1e-15)  # how often each character comes
    assert TriggerChain.from_text("aaa", triggers=1).probabilities == ((1.0,),)


def test_many_states_and_triggers_equal_the_twin() -> None:
    chance = np.random.default_rng(1)
    table = chance.dirichlet(np.full(256, 0.2), 256) + 1e-6
    law = TriggerChain(probabilities=(table / table.sum(1, keepdims=True)).tolist(), triggers=64)
    assert_equal(rows_of(law, 5, 40, 100), twin_rows(law, 5, 40, 100))
    with pytest.raises(NotImplementedError, match="the posterior of 64 triggers among 256 states takes too long"):
        law.losses(law.sample(1, 10))


def test_the_law_of_triggers_and_the_cells_are_those_of_the_chain() -> None:
    law = TriggerChain(probabilities=((0.25, 0.75), (0.5, 0.5)), triggers=1)
    numbers, (cells, limits) = law.core(10)
    assert numbers == [law.key(Domain.TOKENS), law.key(Domain.BURSTS), 2, 1]
    assert limits.tolist() == [int(2**32 * Fraction(2, 5)), 0]
    assert cells.shape == (6,)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"probabilities": ((0.5, 0.5),)}, r"probabilities must be of \(S, S\), with S 1 to 256, got \(1, 2\)"),
        ({"probabilities": np.full((257, 257), 1 / 257)}, r"probabilities must be of \(S, S\), with S 1 to 256"),
        ({"probabilities": ((0.5, 0.4), (0.5, 0.5))}, "probabilities rows must sum to 1"),
        ({"probabilities": ((1.5, -0.5), (0.5, 0.5))}, "probabilities must hold finite numbers >= 0"),
        ({"probabilities": ()}, "probabilities must have shape"),
        ({"probabilities": ((1.0, 0.0), (0.5, 0.5))}, "probabilities must lead from every state to every other"),
        (
            {"probabilities": ((1 - 2**-33, 2**-33), (1.0, 0.0))},
            r"probabilities must leave every state a stationary chance of 2\*\*-31",
        ),
        ({"triggers": 0}, "triggers must be between 1 and 3"),
        ({"triggers": 4}, "triggers must be between 1 and 3"),
        ({"probabilities": np.full((80, 80), 1 / 80), "triggers": 65}, "triggers must be between 1 and 64"),
    ],
)
def test_what_is_no_law_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TriggerChain(**{"probabilities": THREE, "triggers": 1} | settings)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="text must have 1 to 256 different characters, got 0"):
        TriggerChain.from_text("")
    with pytest.raises(ValueError, match="got 257"):
        TriggerChain.from_text("".join(map(chr, range(257))))
    with pytest.raises(TypeError, match="text must be a text"):
        TriggerChain.from_text(b"abc")  # type: ignore[arg-type]


def test_arrays_lists_and_tuples_are_one_law() -> None:
    laws = {TriggerChain(probabilities=form, triggers=2) for form in (THREE, [list(row) for row in THREE])}  # type: ignore[arg-type]
    assert laws | {TriggerChain.from_probabilities(np.array(THREE), triggers=2)} == laws


def test_the_kernel_refuses_numbers_it_could_not_trust_and_survives_all_others() -> None:
    chance = np.random.default_rng(0)
    edges = np.array([0, 1, 2, 3, 17, 63, 64, 65, 255, 256, 257, 2**32, 2**64 - 1], object)
    kept = 0
    for _ in range(2000):
        numbers = [int(number) for number in chance.choice(edges, 4)]
        states = numbers[2] if 1 <= numbers[2] <= 257 else 5
        high = states if chance.random() < 0.8 else 256
        cells = chance.integers(0, 2**24, states * (states + 1)) << 8 | chance.integers(0, high, states * (states + 1))
        limits = chance.integers(0, 2**32, states, dtype=np.uint32)
        if chance.random() < 0.3:
            limits[:] = chance.choice([0, 2**32 - 1])
        tables = [cells.astype(np.uint32), limits]
        if chance.random() < 0.1:
            tables[int(chance.integers(2))] = np.zeros(int(chance.integers(9)), np.uint32)
        try:
            law = _core.Law("trigger_chain", numbers=numbers, tables=tables)
        except ValueError as error:
            assert "trigger" in str(error)
            continue
        kept += 1
        for length in (0, 1, 5, 130):
            tokens, mask = np.zeros((3, length), chance.choice(["u1", "u2", "u8"])), np.zeros((3, length), np.uint8)
            law.fill(first_sequence=2**64 - 4, tokens=tokens, loss_mask=mask, threads=1)
            assert not length or (tokens.max() < states and mask.max() <= 1)
    assert kept > 100
