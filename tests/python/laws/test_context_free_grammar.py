"""Context-free grammars: published numbers, all derivations counted, edges and refusals."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from law_twins import context_free_grammar as twin

from trajmill import _core
from trajmill.laws.context_free_grammar import ContextFreeGrammar

NESTED = {"S": [("a S b", 0.45), ("", 0.55)]}


def sentences(law: ContextFreeGrammar, rows: np.ndarray) -> list[list[int]]:
    """The whole sentences of rows, without separators."""
    end = law.vocabulary_size - 1
    found = []
    for row in rows.tolist():
        ends = [-1, *(t for t, token in enumerate(row) if token == end)]
        found += [row[a + 1 : b] for a, b in itertools.pairwise(ends)]
    return found


# --- cfg3b ------------------------------------------------------------------------------------------------------------


def test_cfg3b_has_the_published_means() -> None:
    law = ContextFreeGrammar.cfg3b()
    assert law.mean_length == pytest.approx(275.625)
    assert law.mean_choices == pytest.approx(169.25)
    assert law.derivation_entropy == pytest.approx(169.25 * math.log(2))
    assert ContextFreeGrammar.cfg3b(separator=False).entropy_bound == pytest.approx(0.4256, abs=5e-5)
    assert law.entropy_bound == pytest.approx(169.25 * math.log(2) / 276.625)


def test_sentences_of_cfg3b_are_derived_by_its_rules() -> None:
    """Parsed from the bottom up: what spans a sentence must be the root."""
    law = ContextFreeGrammar.cfg3b()
    rows = law.sample(40, 1200)
    found = sentences(law, rows)
    assert len(found) > 80
    rights: dict[str, set[tuple[str, ...]]] = {name: {right for right, _ in rules} for name, rules in law.rules}
    for sentence in found[:4]:
        spans: dict[tuple[int, str], set[int]] = {}
        for t, token in enumerate(sentence):
            spans.setdefault((t, law.terminals[token]), set()).add(t + 1)
        for name in sorted(rights, key=int):  # the lower levels first
            for t in range(len(sentence)):
                for right in rights[name]:
                    ends = {t}
                    for part in right:
                        ends = {b for a in ends for b in spans.get((a, part), ())}
                    spans.setdefault((t, name), set()).update(ends)
        assert len(sentence) in spans[0, "22"]
    lengths = np.array([len(sentence) for sentence in sentences(law, law.sample(300, 30_000))])
    assert abs(lengths.mean() - 275.625) < 4.5 * lengths.std() / math.sqrt(len(lengths)) + 275 * 275 / 30_000


def test_the_first_tokens_of_cfg3b() -> None:
    """By hand: the first choices of sequence 0 are the top bits of its words."""
    law = ContextFreeGrammar.cfg3b()
    table = dict(law.rules)
    bits = [word >> 31 for block in range(40) for word in _core.philox4x32([block, 0, 0, 0], law.key(47))]
    choices: list[int] = []

    def derive(symbol: str) -> list[int]:
        if symbol not in table:
            return [int(symbol) - 1]
        choices.append(bits[len(choices)])
        return [token for part in table[symbol][choices[-1]][0] for token in derive(part)]

    tokens = derive("22")[:64]
    assert law.sample(1, 64)[0].tolist() == tokens


# --- exact quantities -------------------------------------------------------------------------------------------------


def test_derivations_give_their_tokens_and_chances() -> None:
    law = ContextFreeGrammar(rules=NESTED)
    assert law.derivation([0, 0, 1]) == ([0, 0, 1, 1], pytest.approx(2 * math.log(0.45) + math.log(0.55)))
    with pytest.raises(ValueError, match="must go on: 'S' is to be expanded"):
        law.derivation([0, 0])
    with pytest.raises(ValueError, match="must end with the sentence, got 1 more"):
        law.derivation([1, 1])
    with pytest.raises(ValueError, match="a choice for 'S' must be between 0 and 1"):
        law.derivation([2])


def test_sentences_come_with_the_chances_of_their_derivations() -> None:
    law = ContextFreeGrammar(rules=NESTED)
    found = sentences(law, law.sample(3000, 100))[:40_000]
    counts = Counter(len(sentence) // 2 for sentence in found)
    for pairs in range(5):
        chance = 0.45**pairs * 0.55
        assert abs(counts[pairs] / len(found) - chance) < 5 * math.sqrt(chance / len(found))
    assert law.mean_length == pytest.approx(2 * 0.45 / 0.55)


def test_predictions_add_up_all_derivations() -> None:
    """An ambiguous grammar, all of whose derivations up to the tokens that matter are counted one by one."""
    rules = {
        "S": [("A B", 0.7), ("a", 0.3)],
        "A": [("a", 0.4), ("a a", 0.5), ("", 0.1)],
        "B": [("a b", 0.5), ("", 0.5)],
    }
    law = ContextFreeGrammar(rules=rules)

    def derive(
        waiting: tuple[str, ...], tokens: tuple[str, ...], chance: float, into: Counter[tuple[str, ...]]
    ) -> None:
        if len(tokens) == 6:
            into[tokens] += chance  # type: ignore[assignment]
            return
        first, *rest = waiting or ("S", "end")
        if first not in rules:
            derive(tuple(rest), (*tokens, first), chance, into)
            return
        for right, part in rules[first]:
            derive((*right.split(), *rest), tokens, chance * part, into)

    chances: Counter[tuple[str, ...]] = Counter()
    derive((), (), 1.0, chances)
    assert sum(chances.values()) == pytest.approx(1)
    names = [*law.terminals, "end"]
    for row in law.sample(30, 6):
        words = tuple(names[token] for token in row)
        for t, said in enumerate(law.predictions(row[None])):
            before = {words: p for words, p in chances.items() if words[:t] == tuple(names[x] for x in row[:t])}
            exact = [sum(p for words, p in before.items() if words[t] == name) for name in names]
            np.testing.assert_allclose(said[0], np.array(exact) / sum(before.values()), atol=1e-12)
        assert words in chances


def test_the_losses_of_a_sentence_add_up_to_its_derivation() -> None:
    """Where each token tells the right side, a sentence has one derivation."""
    law = ContextFreeGrammar(rules={"S": [("a S S", 0.3), ("b", 0.7)]})
    rows = law.sample(100, 80)
    compared = 0
    for row, losses in zip(rows, law.losses(rows), strict=True):
        ends = [-1, *np.flatnonzero(row == 2)]
        for before, end in itertools.pairwise(ends):
            tokens, log = law.derivation(row[before + 1 : end].tolist())
            assert tokens == row[before + 1 : end].tolist()
            assert losses[before + 1 : end + 1].sum() == pytest.approx(-log)
            compared += 1
    assert compared > 1000


def test_the_mean_loss_of_cfg3b_is_below_the_bound_and_near_it() -> None:
    """Its sentences have few derivations each: over whole sentences the loss is what their choices cost, or less."""
    law = ContextFreeGrammar.cfg3b()
    rows = law.sample(12, 1500)
    shares = []
    for row, losses in zip(rows, law.losses(rows), strict=True):
        ends = np.flatnonzero(row == 3)
        shares.append(losses[: ends[-1] + 1].mean())
    assert 0.95 * law.entropy_bound < np.mean(shares) < law.entropy_bound + 4 * np.std(shares) / math.sqrt(12)


def test_nothing_is_said_after_what_is_impossible() -> None:
    law = ContextFreeGrammar(rules=NESTED)
    losses = law.losses(np.array([[1, 0]]))
    assert losses[0, 0] == math.inf
    assert np.isnan(losses[0, 1])


def test_left_recursion_is_drawn_but_not_predicted() -> None:
    law = ContextFreeGrammar(rules={"S": [("S a", 0.9), ("b", 0.1)]}, separator=False)
    rows = law.sample(2000, 200)
    assert (rows[:, 0] == 1).all()
    assert law.mean_length == pytest.approx(10)
    assert abs(rows[:, 1:].mean() - 0.1) < 4.5 * math.sqrt(0.09 / rows[:, 1:].size)
    with pytest.raises(NotImplementedError, match="'S' may begin with itself"):
        law.predictive([1])


# --- rules in all forms -----------------------------------------------------------------------------------------------


def test_rules_may_be_written_in_several_ways() -> None:
    laws = [
        ContextFreeGrammar(rules=rules)
        for rules in (
            {"1": ["2 3", "3"], "2": [("4", 0.5), ("4 4", 0.5)], "3": ["5"]},
            {1: [[2, 3], [3]], 2: [([4], 0.5), ([4, 4], 0.5)], 3: [[5]]},
            [(1, [(2, 3), (3,)]), (2, ["4", "4 4"]), (3, [(5,)])],
        )
    ]
    assert laws[0] == laws[1] == laws[2]
    assert laws[0].terminals == ("4", "5")
    assert ContextFreeGrammar.from_spec(laws[0].spec()) == laws[0]


def test_terminals_may_be_put_in_order() -> None:
    plain = ContextFreeGrammar(rules=NESTED)
    turned = ContextFreeGrammar(rules=NESTED, terminals=("b", "a", "never"))
    assert (plain.vocabulary_size, turned.vocabulary_size) == (3, 4)
    assert plain.derivation([0, 1])[0] == [0, 1]
    assert turned.derivation([0, 1])[0] == [1, 0]
    assert set(np.unique(turned.sample(50, 50))) == {0, 1, 3}


def test_rules_without_chance_never_come() -> None:
    law = ContextFreeGrammar(rules={"S": [("a", 0.0), ("b", 1.0), ("c", 0.0)], "T": ["d"]})
    assert set(np.unique(law.sample(10, 30))) == {1, 4}
    assert law.mean_choices == 0


def test_long_right_sides_and_many_rules_are_those_of_the_twin() -> None:
    names = [f"{letter}{k}" for k in range(9) for letter in "aST"]
    law = ContextFreeGrammar(
        rules={
            "R": [(" ".join(names), 0.5), (" ".join(f"x{k}" for k in range(23)), 0.5)],
            **{f"S{k}": [f"s{k} T{k} t", ""] for k in range(9)},
            **{f"T{k}": [(f"{k}.{j}", 1 / (3 + k)) for j in range(3 + k)] for k in range(9)},
        }
    )
    rows = law.sample(100, 150)
    for index in range(100):
        assert rows[index].tolist() == twin.row(law, index, 150)["tokens"]


def test_rows_longer_than_what_is_written_together_are_the_twin_s() -> None:
    for law in (ContextFreeGrammar.cfg3b(), ContextFreeGrammar(rules={"S": ["a b c d e f g", "h i j"]})):
        rows = law.sample(6, 2500)
        for index in range(6):
            assert rows[index].tolist() == twin.row(law, index, 2500)["tokens"]


def test_more_than_65536_symbols_may_wait_if_the_row_ends_before_them() -> None:
    """Left recursion ten times deeper than the kernel's stack: what is too far away to be reached is forgotten."""
    law = ContextFreeGrammar(rules={"S": [("S a", 1 - 1e-6), ("b", 1e-6)]}, separator=False)
    rows = law.sample(4, 40)
    assert (rows[:, 0] == 1).all()
    assert (rows[:, 1:] == 0).all()


# --- random grammars --------------------------------------------------------------------------------------------------


def test_random_grammars_have_the_levels_that_are_asked_for() -> None:
    law = ContextFreeGrammar.random_layered(4, 5, 3, (2, 4), seed=3)
    assert len(law.rules) == 1 + 3 * 5
    for name, rules in law.rules:
        level = int(name.partition(".")[0])
        assert len({right for right, _ in rules}) == 3
        for right, _ in rules:
            assert 2 <= len(right) <= 4
            assert all(symbol.startswith(f"{level + 1}.") for symbol in right)
    assert law.vocabulary_size == 6
    assert law != ContextFreeGrammar.random_layered(4, 5, 3, (2, 4), seed=4)
    with pytest.raises(ValueError, match="rules must be between 1 and 2"):
        ContextFreeGrammar.random_layered(2, 2, 3, (1, 1))
    with pytest.raises(ValueError, match="lengths must be"):
        ContextFreeGrammar.random_layered(lengths=(3, 2))


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rules": {}}, "needs rules, got none"),
        ({"rules": {"S": []}}, "rules of 'S' must be a list of right sides"),
        ({"rules": {"S": "a b"}}, "rules of 'S' must be a list of right sides"),
        ({"rules": [("S", ["a"]), ("S", ["b"])]}, "must stand together"),
        ({"rules": {"S": [("a", 0.5), ("b", 0.4)]}}, "must sum to 1, got 0.9"),
        ({"rules": {"S": [("a", 1.5), ("b", -0.5)]}}, r"a probability of 'S' must be in \[0, 1\]"),
        ({"rules": {"S": [("a", 0.5), "b"]}}, "either all right sides of 'S' have a probability or none"),
        ({"rules": {"S": ["a"]}, "start": "T"}, "start must be a symbol with rules"),
        ({"rules": {"S": ["a b"]}, "terminals": ("a",)}, "terminals must be all symbols without rules"),
        ({"rules": {"S": ["a"]}, "terminals": ("a", "a")}, "each once"),
        ({"rules": {"S": ["a"]}, "terminals": ("a", "S")}, "terminals must be"),
        ({"rules": {"S": ["S"]}}, "explosive"),
        ({"rules": {"S": ["S S", "a"]}}, "explosive"),
        ({"rules": {"S": [("T T", 0.99), ("a", 0.01)], "T": [("S", 0.51), ("", 0.49)]}}, "explosive"),
        ({"rules": {"S": [("S a", 1 - 1e-10), ("b", 1e-10)]}}, "explosive"),
        ({"rules": {"S": ["", "T"], "T": [""]}, "separator": False}, "empty sentences alone"),
    ],
)
def test_what_is_no_grammar_is_refused_with_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ContextFreeGrammar(**values)


def test_right_sides_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError, match="a right side of 'S' must be a text or a list of symbols, got 3"):
        ContextFreeGrammar(rules={"S": [3]})


def test_explosive_symbols_that_are_never_reached_do_not_matter() -> None:
    law = ContextFreeGrammar(rules={"S": [("a", 1.0), ("T", 0.0)], "T": ["T T"]})
    assert (law.sample(3, 4) == [[0, 1, 0, 1]]).all()


def test_a_deep_grammar_is_not_taken_for_an_explosive_one() -> None:
    """Many levels that grow make sentences long, but their mean is finite; rounding must not say otherwise."""
    law = ContextFreeGrammar(rules={f"{k}": [f"{k + 1} {k + 1}"] if k < 25 else ["a"] for k in range(26)})
    assert law.mean_length == pytest.approx(2**25)


@pytest.mark.parametrize("rights", [2, 3])
def test_a_word_takes_the_first_right_side_whose_limit_it_is_below(rights: int) -> None:
    """At the limit itself, which chance never finds."""
    word = _core.philox4x32([0, 0, 0, 0], 1)[0]
    for limit, token in ((word + 1, 0), (word, 1)):
        limits = [limit, *[2**32 - 1] * (rights - 1)]
        symbols = np.array([0, rights, limit, 0, rights, 1, 0, 0], np.uint32)
        rules = [*([k, 0, 0, 0, 1, limit, 0, 0] for k, limit in enumerate(limits)), [0, 0, 0, 0, 1 << 16, 0, 0, 0]]
        kernel = _core.Law("context_free_grammar", numbers=[1, 1], tables=[symbols, np.array(rules, np.uint32).ravel()])
        tokens = np.empty((1, 1), np.uint8)
        kernel.fill(first_sequence=0, tokens=tokens, threads=1)
        assert tokens[0, 0] == token


@pytest.mark.parametrize("number", [0, 3, 7])
def test_the_kernel_takes_or_refuses_any_numbers(number: int) -> None:
    """What is not refused stays within its tables; a sanitizer would show it."""
    law = ContextFreeGrammar.examples()[number]
    numbers, tables = law.core(70)
    tried = refused = 0

    def attempt(numbers: list[int], tables: list[np.ndarray]) -> None:
        nonlocal tried, refused
        tried += 1
        try:
            kernel = _core.Law("context_free_grammar", numbers=numbers, tables=tables)
        except ValueError:
            refused += 1
            return
        kernel.fill(first_sequence=2**64 - 6, tokens=np.empty((5, 70), np.uint8), threads=1)

    for value in (1, 2**16, 2**32, 2**63, 2**64 - 1):
        attempt([value, numbers[1]], tables)
        attempt([numbers[0], value], tables)
    attempt(numbers[:1], tables)
    attempt(numbers, tables[:1])
    symbols, rules = tables
    for at in range(8):
        for value in (2**16, 2**31, 2**32 - 1):
            changed = symbols.copy()
            changed[at] = value
            attempt(numbers, [changed, rules])
            for at_rule in (at, len(rules) - 8 + at):
                changed = rules.copy()
                changed[at_rule] = value
                attempt(numbers, [symbols, changed])
    attempt(numbers, [symbols[:-1], rules])
    attempt(numbers, [symbols, rules[:-8]])
    attempt(numbers, [symbols[:0], rules[:0]])
    assert 0 < refused < tried
