"""Hidden Markov models: published numbers, all paths summed, urns against their law, edges and refusals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from law_twins import hidden_markov_model as twin

from trajmill import _core
from trajmill.core.chances import stationary
from trajmill.laws.hidden_markov_model import HiddenMarkovModel, _Words

TWO = ((0.9, 0.1), (0.25, 0.75))
SEEN = ((0.5, 0.25, 0.25), (0.0, 0.5, 0.5))


def block_chance(law: HiddenMarkovModel, block: tuple[int, ...], model: int = 0) -> float:
    """The chance of a block of tokens: the sum over all paths."""
    pairs = np.array(law.transition_matrices)
    start = law._initials()[model]
    states = range(len(start))
    return sum(
        start[path[0]] * math.prod(pairs[x][a][b] for x, (a, b) in zip(block, itertools.pairwise(path), strict=True))
        for path in itertools.product(states, repeat=len(block) + 1)
    )


def block_entropy(law: HiddenMarkovModel, length: int) -> float:
    chances = [block_chance(law, block) for block in itertools.product(range(law.vocabulary_size), repeat=length)]
    return -sum(p * math.log(p) for p in chances if p > 0)


# --- models of papers -------------------------------------------------------------------------------------------------


def test_mess3_has_the_published_matrices() -> None:
    first, second, _ = HiddenMarkovModel.mess3().transition_matrices
    np.testing.assert_allclose(first, [[0.765, 0.00375, 0.00375], [0.0425, 0.0675, 0.00375], [0.0425, 0.00375, 0.0675]])
    np.testing.assert_allclose(second[1], [0.00375, 0.765, 0.00375])


def test_every_third_token_of_rrxor_is_the_exclusive_or() -> None:
    rows = HiddenMarkovModel.rrxor().sample(500, 30, columns=["states"])
    for tokens, states in zip(rows["tokens"], rows["states"], strict=True):
        begin = int(np.flatnonzero(states == 0)[0])
        words = tokens[begin : begin + 27].reshape(-1, 3)
        np.testing.assert_array_equal(words[:, 0] ^ words[:, 1], words[:, 2])


def test_zero_one_random_repeats_as_its_name() -> None:
    rows = HiddenMarkovModel.zero_one_random(0.3).sample(2000, 30, columns=["states"])
    assert (rows["tokens"][rows["states"] == 0] == 0).all()
    assert (rows["tokens"][rows["states"] == 1] == 1).all()
    ones = rows["tokens"][rows["states"] == 2]
    assert abs(ones.mean() - 0.7) < 4.5 * math.sqrt(0.21 / ones.size)


def test_entropy_rates_are_the_published_ones() -> None:
    assert HiddenMarkovModel.rrxor().entropy_rate() == pytest.approx(2 / 3 * math.log(2))
    assert HiddenMarkovModel.zero_one_random().entropy_rate() == pytest.approx(math.log(2) / 3)
    assert HiddenMarkovModel.mess3().entropy_rate() is None


def test_rrxor_has_36_beliefs() -> None:
    """The number in arXiv 2405.15943."""
    law = HiddenMarkovModel.rrxor()
    tokens = law.sample(4000, 40)
    assert len(np.unique(np.round(np.concatenate(list(law.beliefs(tokens))).reshape(-1, 5), 9), axis=0)) == 36


def test_ginc_is_built_as_its_paper_says() -> None:
    law, other = HiddenMarkovModel.ginc(), HiddenMarkovModel.ginc(held_out=True)
    assert (law.vocabulary_size, law.states_bound(1), law.task_count, law.first_task) == (50, 100, 5, 0)
    assert (other.first_task, other.task_count, other.transition) == (5, 5, law.transition)
    for chain in law._transition():
        blocks = chain.reshape(10, 10, 10, 10)  # value, slot, next value, next slot
        of_values, of_slots = blocks.sum((1, 3)) / 10, blocks.sum((0, 2)) / 10
        np.testing.assert_allclose(chain, np.kron(of_values, of_slots), atol=1e-12)
        assert (np.diag(of_values) >= 0.9).all()
        np.testing.assert_allclose(of_slots.sum(0), 1)  # a mixture of permutations
    rows = law.sample(300, 50, columns=["states", "task"])
    assert ((rows["tokens"] == 0) == (rows["states"] % 10 == 0)).all()
    assert set(rows["task"].ravel()) == set(range(5))
    assert not np.array_equal(rows["tokens"], other.sample(300, 50))
    starts = np.array(law.initial)
    assert (starts.max(1) / starts.min(1) < math.exp(0.1)).all()  # logits in (0, 1) over 10


# --- exact quantities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [HiddenMarkovModel.mess3(0.15, 0.6), HiddenMarkovModel.zero_one_random(0.3)])
def test_predictions_are_those_of_all_paths(law: HiddenMarkovModel) -> None:
    for block in law.sample(5, 6):
        for t, said in enumerate(law.predictions(block[None])):
            prefix = tuple(int(x) for x in block[:t])
            chances = [block_chance(law, (*prefix, x)) for x in range(law.vocabulary_size)]
            np.testing.assert_allclose(said[0], np.array(chances) / sum(chances), atol=1e-12)


def test_both_forms_are_one_law() -> None:
    of_tables = HiddenMarkovModel(transition=TWO, emission=SEEN)
    matrices = np.einsum("hx,hk->xhk", SEEN, TWO)
    of_matrices = HiddenMarkovModel(transition_matrices=matrices)
    tokens = of_tables.sample(50, 20)
    np.testing.assert_allclose(of_tables.losses(tokens), of_matrices.losses(tokens), rtol=1e-12)
    np.testing.assert_allclose(of_tables.belief(tokens[0]), of_matrices.belief(tokens[0]), rtol=1e-12)
    assert of_tables.entropy_bounds(4) == pytest.approx(of_matrices.entropy_bounds(4))


def test_the_mean_loss_is_the_entropy_of_blocks() -> None:
    for law, length in ((HiddenMarkovModel.zero_one_random(0.3), 6), (HiddenMarkovModel.rrxor(), 4)):
        assert law.expected_loss(length) == pytest.approx(block_entropy(law, length) / length)


def test_bounds_close_around_the_entropy_rate() -> None:
    law = HiddenMarkovModel.mess3(0.15, 0.6)
    assert law.entropy_bounds(4)[1] == pytest.approx(block_entropy(law, 5) - block_entropy(law, 4))
    bounds = [law.entropy_bounds(context) for context in range(9)]
    assert all(a[0] <= b[0] + 1e-12 and b[1] <= a[1] + 1e-12 for a, b in itertools.pairwise(bounds))
    low, high = bounds[-1]
    assert high - low < 1e-3
    losses = law.losses(law.sample(2000, 100))[:, 30:].mean(1)
    error = losses.std(ddof=1) / math.sqrt(len(losses))
    assert low - 4 * error < losses.mean() < high + 4 * error
    rrxor = HiddenMarkovModel.rrxor()
    rate = rrxor.entropy_rate()
    assert rate is not None
    assert rrxor.entropy_bounds(5)[0] == pytest.approx(rate)  # the first state and the tokens tell every state
    assert rrxor.entropy_bounds(10)[1] > rate


def test_a_pool_weighs_its_models_by_their_chances() -> None:
    pool = np.stack([HiddenMarkovModel.mess3(0.15, a).transition_matrices for a in (0.3, 0.6, 0.9)])
    law = HiddenMarkovModel(transition_matrices=pool, first_task=1)
    singles = [HiddenMarkovModel(transition_matrices=pool[m]) for m in (1, 2)]
    tokens = law.sample(20, 200)
    sums = np.cumsum([single.losses(tokens) for single in singles], axis=2)
    both = -np.logaddexp(-sums[0], -sums[1]) + math.log(2)
    np.testing.assert_allclose(np.cumsum(law.losses(tokens), axis=1), both, rtol=1e-9)
    given = law.losses(tokens, np.ones(20, np.int64))
    np.testing.assert_allclose(given, singles[1].losses(tokens), rtol=1e-12)
    joint = law.belief(tokens[0, :50])
    assert joint.shape == (2, 3)
    np.testing.assert_allclose(joint[0] / joint[0].sum(), singles[0].belief(tokens[0, :50]), rtol=1e-9)
    with pytest.raises(ValueError, match="task must be below 2, got 2"):
        law.predictive([0], task=2)


def test_nothing_is_said_after_what_is_impossible() -> None:
    law = HiddenMarkovModel.zero_one_random()
    losses = law.losses(np.array([[1, 1, 1, 0]]))
    assert losses[0, 2] == math.inf
    assert np.isnan(losses[0, 3])
    with pytest.raises(ValueError, match="prefix is impossible"):
        law.belief([1, 1, 1])


def test_stationary_laws_are_stationary() -> None:
    words = _Words(5)
    chain = np.array([words.softmax(40, 0.1) for _ in range(40)])
    law = stationary(chain)
    np.testing.assert_allclose(law @ chain, law, rtol=1e-12)
    starts = HiddenMarkovModel(transition=TWO, emission=SEEN).sample(40_000, 1, columns=["states"])["states"]
    assert abs(starts.mean() - 0.1 / 0.35) < 4.5 * 0.5 / math.sqrt(40_000)


@pytest.mark.parametrize("sizes", [(260, 5), (257, 300), (2, 300)], ids=["states", "both", "symbols"])
def test_wide_tables_give_the_rows_of_the_twin(sizes: tuple[int, int]) -> None:
    states, symbols = sizes
    words = _Words(9)
    to, out = words.softmax(states, 0.2), words.softmax(symbols, 0.2)
    law = HiddenMarkovModel(
        transition=[np.roll(to, k) for k in range(states)],
        emission=[np.roll(out, k) for k in range(states)],
        initial=words.softmax(states, 0.2),
    )
    rows = law.sample(20, 18, columns=["states"])
    for index in range(20):
        expected = twin.row(law, index, 18)
        np.testing.assert_array_equal(rows["tokens"][index], expected["tokens"])
        np.testing.assert_array_equal(rows["states"][index], expected["states"])


def test_zeros_stay_zeros_and_small_chances_come() -> None:
    law = HiddenMarkovModel(transition=TWO, emission=((0, 1 - 1e-3, 1e-3), (0, 0, 1)), initial=(1, 0))
    rows = law.sample(3000, 100, columns=["states"])
    assert (rows["tokens"] > 0).all()
    assert (rows["tokens"][rows["states"] == 1] == 2).all()
    rare = (rows["tokens"][rows["states"] == 0] == 2).mean()
    assert rare == pytest.approx(1e-3, rel=0.3)


# --- fresh models -----------------------------------------------------------------------------------------------------


def fresh(**values: Any) -> HiddenMarkovModel:
    return HiddenMarkovModel(
        **({"hidden_count": 3, "symbol_count": 4, "alpha_transition": 0.5, "alpha_emission": 1.0} | values)
    )


def test_urns_draw_as_dirichlet_rows_do() -> None:
    """Each next state and symbol comes with the chance (times it came before + alpha) / (visits + count alpha)."""
    law, count = fresh(), 3000
    rows = law.sample(count, 40, columns=["states"])
    lines = np.arange(count)
    moved, shown = np.zeros((count, 3, 3)), np.zeros((count, 3, 4))
    for tables, alpha, values in ((moved, 0.5, rows["states"][:, 1:]), (shown, 1.0, rows["tokens"][:, :-1])):
        hits, sums, spread = np.zeros((3, 10))
        for t in range(39):
            here = rows["states"][:, t].astype(int)
            seen = tables[lines, here]
            chances = (seen + alpha) / (seen.sum(1, keepdims=True) + alpha * seen.shape[1])
            tenth = np.minimum((10 * chances).astype(int), 9)
            came = np.zeros_like(chances)
            came[lines, values[:, t]] = 1
            hits += np.bincount(tenth.ravel(), came.ravel(), 10)
            sums += np.bincount(tenth.ravel(), chances.ravel(), 10)
            spread += np.bincount(tenth.ravel(), (chances * (1 - chances)).ravel(), 10)
            tables[lines, here, values[:, t]] += 1
        assert (np.abs(hits - sums) < 4.5 * np.sqrt(spread) + 1e-9).all()


def test_sequences_of_a_task_share_their_model_and_others_do_not() -> None:
    """Two draws of one urn agree with the chance (alpha + 1) / (count alpha + 1), of two urns with 1 / count."""
    rows = fresh(hidden_count=1, symbol_count=5, sequences_per_task=3).sample(30_000, 1, columns=["task"])
    np.testing.assert_array_equal(rows["task"][:, 0], np.arange(30_000) // 3)
    first = rows["tokens"].reshape(-1, 3)
    for equal, chance in (
        (first[:, 0] == first[:, 1], 2 / 6),
        (first[:, 0] == first[:, 2], 2 / 6),
        (first[1:, 0] == first[:-1, 0], 1 / 5),
    ):
        assert abs(equal.mean() - chance) < 4.5 * math.sqrt(chance * (1 - chance) / len(equal))


def test_another_first_task_is_another_place_in_the_same_tasks() -> None:
    rows, later = fresh(), fresh(first_task=7)
    assert rows.task_key(35) == later.task_key(35)
    assert not np.array_equal(rows.sample(10, 30), later.sample(10, 30))


def test_the_extremes_of_alpha() -> None:
    rows = fresh(alpha_transition=math.inf, alpha_emission=2**-16 / 4).sample(2000, 60, columns=["states"])
    counts = np.bincount(rows["states"].ravel(), minlength=3)
    assert (np.abs(counts / counts.sum() - 1 / 3) < 4.5 * math.sqrt(2 / 9 / counts.sum())).all()
    one = [len(np.unique(t[s == 0])) <= 1 for t, s in zip(rows["tokens"], rows["states"], strict=True)]
    assert np.mean(one) > 0.99  # every state repeats its first symbol


def test_fresh_models_say_why_they_predict_nothing() -> None:
    with pytest.raises(NotImplementedError, match="no row to show"):
        fresh().predictive([0])
    assert fresh().expected_loss(5) is None
    assert fresh().entropy_rate() is None


# --- edges ------------------------------------------------------------------------------------------------------------


def test_arrays_lists_and_tuples_are_one_law() -> None:
    laws = [
        HiddenMarkovModel(transition=kind(TWO), emission=kind(SEEN), initial=kind((0.5, 0.5)))
        for kind in (np.array, lambda table: np.array(table).tolist(), tuple)
    ]
    assert laws[0] == laws[1] == laws[2]
    assert len({*laws}) == 1
    minus = HiddenMarkovModel(transition=TWO, emission=((0.5, 0.25, 0.25), (-0.0, 0.5, 0.5)), initial=(0.5, 0.5))
    np.testing.assert_array_equal(minus.sample(3, 9), laws[0].sample(3, 9))


def test_a_model_alone_and_the_only_one_of_a_pool_draw_the_same_law() -> None:
    pool = HiddenMarkovModel(transition=[TWO, TWO], emission=[SEEN, SEEN], first_task=1)
    assert pool.task_count == 1
    assert (pool.sample(9, 5, columns=["task"])["task"] == 0).all()


CYCLE = ((0, 1), (1, 0))
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "needs transition_matrices alone, or .*got nothing"),
    ({"transition": TWO}, "got transition"),
    ({"transition": TWO, "emission": SEEN, "hidden_count": 2}, "got emission, hidden_count, transition"),
    ({"transition": TWO, "emission": SEEN[:1]}, "emission"),
    ({"transition": TWO[:1], "emission": SEEN[:1]}, r"\(states, states\)"),
    ({"transition": ((0.5, 0.4), (0, 1)), "emission": SEEN}, "transition: each row must sum to 1, got 0.9"),
    ({"transition": TWO, "emission": ((1, 0.1), (0, 1))}, "emission: each row must sum to 1, got 1.1"),
    ({"transition": ((1.5, -0.5), (0, 1)), "emission": SEEN}, "finite numbers >= 0, got -0.5"),
    ({"transition": ((math.nan, 1), (0, 1)), "emission": SEEN}, "finite numbers >= 0, got nan"),
    ({"transition": ((1, 0), (0, 1)), "emission": SEEN}, "is reducible.*give initial as numbers"),
    ({"transition": ((0.5, 0.5), (0, 1)), "emission": SEEN}, "reducible"),
    ({"transition": [TWO, np.eye(2)], "emission": [SEEN] * 2}, "of model 1 is reducible"),
    ({"transition": CYCLE, "emission": SEEN, "initial": (1, 1)}, "initial: each row must sum to 1"),
    ({"transition": CYCLE, "emission": SEEN, "initial": (1,)}, r"initial must have shape \(2,\)"),
    ({"transition": CYCLE, "emission": SEEN, "initial": "first"}, "initial must be one of 'stationary', 'uniform'"),
    ({"transition": CYCLE, "emission": SEEN, "sequences_per_task": 2}, "sequences_per_task is for fresh"),
    ({"transition": CYCLE, "emission": SEEN, "first_task": 1}, "first_task must be between 0 and 0"),
    ({"transition": CYCLE, "emission": SEEN, "task_count": 2}, "task_count must be between 1 and 1"),
    ({"transition_matrices": TWO}, "3 dimensions"),
    ({"transition_matrices": ((TWO[0],),)}, "as many next states as states"),
    ({"transition_matrices": (TWO, TWO)}, "the pairs of a state must sum to 1, got 2"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED)
def test_what_is_no_model_is_refused_with_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HiddenMarkovModel(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_count": 0}, "hidden_count must be between 1 and 65536"),
        ({"symbol_count": 2**16 + 1}, "symbol_count must be between"),
        ({"alpha_transition": 0.9 * 2**-16 / 3}, "alpha_transition must be .* to 32768, or inf"),
        ({"alpha_emission": 2**15 + 1.0}, "alpha_emission must be"),
        ({"alpha_emission": math.nan}, "alpha_emission must be in"),
        ({"initial": "stationary"}, "fresh models begin with a uniform hidden state"),
        ({"task_count": 3}, "fresh models have no task_count"),
        ({"sequences_per_task": 0}, "sequences_per_task must be between 1"),
        ({"first_task": 2**64}, "first_task must be between 0"),
    ],
)
def test_fresh_models_out_of_range_are_refused_with_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fresh(**values)


def test_tasks_that_do_not_exist_are_refused() -> None:
    law = fresh(first_task=2**64 - 2)
    assert law.sample(2, 3).shape == (2, 3)
    with pytest.raises(ValueError, match="sequence 2 would have a task beyond"):
        law.sample(3, 3)
    with pytest.raises(ValueError, match="sequence 5 would have a task beyond"):
        law.sample_sequences([0, 5], 3)
    with pytest.raises(ValueError, match=r"at most 2\*\*32 tokens"):
        fresh(sequences_per_task=2**31).sample(1, 3)


@pytest.mark.parametrize("number", [0, 3, 5, 6, 9])
def test_the_kernel_takes_or_refuses_any_numbers(number: int) -> None:
    """What is not refused stays within its tables; a sanitizer would show it."""
    law = HiddenMarkovModel.examples()[number]
    numbers, tables = law.core(70)
    tried = refused = 0

    def attempt(numbers: list[int], tables: list[np.ndarray]) -> None:
        nonlocal tried, refused
        tried += 1
        try:
            kernel = _core.Law("hidden_markov_model", numbers=numbers, tables=tables)
        except ValueError:
            refused += 1
            return
        rows = {name: np.empty((5, 1 if name == "task" else 70), np.uint32) for name in ("tokens", "task", "states")}
        kernel.fill(first_sequence=2**64 - 6, **rows, threads=1)

    for at in range(len(numbers)):
        for value in (0, 1, 2, 255, 256, 257, 2**16, 2**16 + 1, 2**31 - 1, 2**31, 2**32, 2**63, 2**63 + 1, 2**64 - 1):
            attempt([*numbers[:at], value, *numbers[at + 1 :]], tables)
    attempt(numbers[:-1], tables)
    attempt(numbers, tables[:-1] if tables else [np.zeros(1, np.uint32)])
    for at, table in enumerate(tables):
        for word in (0, len(table) // 2, len(table) - 1):
            for value in (0, 255, 2**16 - 1, 2**16, 2**32 - 1):
                changed = table.copy()
                changed[word] = value
                attempt(numbers, [*tables[:at], changed, *tables[at + 1 :]])
        attempt(numbers, [*tables[:at], table[:-1], *tables[at + 1 :]])
    assert 0 < refused < tried
