"""What populations of chains are, beyond the battery: published numbers, urns against rows, edges and refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from law_twins import chain_population as chain_population_twin

from trajmill import _core
from trajmill.laws import chain_population
from trajmill.laws.chain_population import ChainPopulation, add_alpha_losses


def dirichlet(**fields: object) -> ChainPopulation:
    return ChainPopulation(**{"rows": "dirichlet"} | fields)  # type: ignore[arg-type]


def assert_means_agree(one: np.ndarray, two: np.ndarray) -> None:
    """Within four standard errors of the difference."""
    error = math.hypot(*(values.std(ddof=1) / math.sqrt(len(values)) for values in (one, two)))
    assert abs(one.mean() - two.mean()) <= 4 * error, (one.mean(), two.mean(), error)


# --- numbers ---


@pytest.mark.parametrize(("states", "nats"), [(2, 0.5), (3, 0.8333), (10, 1.9290), (100, 4.1874)])
def test_mean_entropies_of_dirichlet_rows(states: int, nats: float) -> None:
    law = dirichlet(state_count=states)
    assert law.mean_entropy() == pytest.approx(nats, abs=5e-5)
    rows = np.random.default_rng(0).dirichlet(np.ones(states), 20_000)
    entropies = -(rows * np.log(rows)).sum(1)
    assert abs(entropies.mean() - law.mean_entropy()) <= 4 * entropies.std() / math.sqrt(len(rows))


@pytest.mark.parametrize(("temperature", "gain"), [(1.0, 0.041), (0.5, 0.152), (0.25, 0.479), (0.1, 1.303)])
def test_what_softmax_rows_leave_to_learn_in_context(temperature: float, gain: float) -> None:
    law = ChainPopulation(state_count=5000, temperature=temperature)
    assert math.log(5000) - law.mean_entropy() == pytest.approx(gain, abs=6e-4)
    row = law.probabilities(0, [7])
    assert -(row * np.log(row)).sum() == pytest.approx(law.mean_entropy(), abs=0.05)


@pytest.mark.parametrize(("n", "nats"), [(0, 2.3026), (10, 2.1275), (50, 1.9994)])
def test_bayes_losses_of_the_next_draw_of_a_row(n: int, nats: float) -> None:
    law = dirichlet(state_count=10)
    assert law.loss_of_draw(n) == pytest.approx(nats, abs=5e-5)
    alone = dirichlet(state_count=10, order=0, backend="urn")
    losses = alone.losses(alone.sample(20_000, n + 1))[:, n]
    assert abs(losses.mean() - law.loss_of_draw(n)) <= 4 * losses.std() / math.sqrt(len(losses)) + 1e-12


@pytest.mark.parametrize("backend", ["urn", "table"])
def test_the_mean_loss_of_fresh_chains_is_the_published_one(backend: str) -> None:
    """2.0704 nats by urns and 2.0699 by explicit rows, of 4,096 chains; a quarter of them here."""
    law = dirichlet(state_count=10, backend=backend)
    losses = law.losses(law.sample(1024, 512)).mean(1)
    assert losses.mean() == pytest.approx(2.0702, abs=4 * losses.std() / math.sqrt(1024))


# --- urns are rows ---


@pytest.mark.parametrize("alpha", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_urns_equal_explicit_rows_in_law(alpha: float, order: int) -> None:
    urn, table = (dirichlet(state_count=4, order=order, alpha=alpha, backend=name) for name in ("urn", "table"))
    one, two = urn.losses(urn.sample(2000, 100)), table.losses(table.sample(2000, 100))
    assert_means_agree(one.mean(1), two.mean(1))
    assert_means_agree(one[:, 60:].mean(1), two[:, 60:].mean(1))
    for tokens_of in (lambda law: (law.sample(4000, 40)[:, 5:] == 0).mean(1), pair_share):
        assert_means_agree(tokens_of(urn), tokens_of(table))


def pair_share(law: ChainPopulation) -> np.ndarray:
    """How often a token follows itself."""
    tokens = law.sample(4000, 40, first_sequence=9999)
    return (tokens[:, 1:] == tokens[:, :-1]).mean(1)


def losses_in_tasks(law: ChainPopulation, length: int, task_count: int) -> np.ndarray:
    """Losses (tasks, k) of the sequences of a task for one who has seen those before, too."""
    tokens = law.sample(task_count * law.sequences_per_task, length)
    contexts = law._contexts(tokens)
    joined = chain_population._count_losses(
        tokens.reshape(task_count, -1), contexts.reshape(task_count, -1), law.alpha or 1.0, law.state_count
    )
    return joined.reshape(task_count, law.sequences_per_task, length).mean(2)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_sequences_of_an_urn_have_their_chain_in_common(alpha: float) -> None:
    """Sequence after sequence costs what it costs with rows that are there: later ones less."""
    laws = [dirichlet(state_count=5, alpha=alpha, sequences_per_task=4, backend=name) for name in ("urn", "table")]
    urn, table = (losses_in_tasks(law, 60, 3000) for law in laws)
    for q in range(4):
        assert_means_agree(urn[:, q], table[:, q])
    assert urn[:, 0].mean() - urn[:, 3].mean() > 0.05
    apart = laws[0].losses(laws[0].sample(12_000, 60)).mean(1).reshape(3000, 4)
    assert_means_agree(apart[:, 0], apart[:, 3])  # seen alone, each is worth the same


@pytest.mark.parametrize("states", [30, 1000])
def test_counts_in_a_hash_table_are_those_in_an_array(states: int) -> None:
    """Rows too short for an array of all contexts begin longer ones that have it."""
    law = dirichlet(state_count=states, alpha=0.02)
    whole = law.sample(100, 80 if states == 30 else 1000)
    for length in (1, 2, 50):
        np.testing.assert_array_equal(law.sample(100, length), whole[:, :length])


def test_the_smallest_alpha_repeats_what_came_first() -> None:
    law = dirichlet(state_count=50, alpha=2.0**-16 / 50, backend="urn")
    for row in law.sample(50, 200).tolist():
        successor: dict[int, int] = {}
        for one, two in itertools.pairwise(row):
            assert successor.setdefault(one, two) == two


@pytest.mark.parametrize("backend", ["urn", "table"])
@pytest.mark.parametrize("alpha", [math.inf, 1e300, 2.0**47])
def test_a_large_alpha_is_uniform(alpha: float, backend: str) -> None:
    law = dirichlet(state_count=10, alpha=alpha, backend=backend)
    tokens = law.sample(2000, 64)
    pairs = np.bincount((tokens[:, 1:].astype(int) * 10 + tokens[:, :-1]).ravel(), minlength=100)
    assert ((pairs - 1260) ** 2 / 1260).sum() < 99 + 4 * math.sqrt(2 * 99)
    assert law.losses(tokens[:50]).mean() == pytest.approx(math.log(10), rel=1e-9)


# --- tables and proposals are the same chains ---


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.1}, {"lags": (2,)}, {"parents": (-1, 0, 0, 1, 3, 3, 2)}])
def test_tables_and_proposals_draw_from_the_same_chains(fields: dict[str, object]) -> None:
    settings: dict = {"state_count": 6, "sequences_per_task": 2000, "first_task": 5, "initial": "uniform"} | fields
    table, implicit = (ChainPopulation(**settings, backend=name) for name in ("table", "implicit"))
    for context in ([], [0], [5]):
        np.testing.assert_allclose(
            table.probabilities(2, context), implicit.probabilities(2, context), atol=2.0**-30, rtol=0
        )
    for law in (table, implicit):
        length = law.fixed_length or 20
        rows = law.sample(6000, length, columns=["task"])
        contexts, task = law._contexts(rows["tokens"]), np.repeat(rows["task"], length, axis=1)
        seen = np.zeros((3, 7, 6))
        np.add.at(seen, (task, contexts, rows["tokens"]), 1)
        for z in range(3):
            for context in range(7):
                row = law.probabilities(z, [context - 1] if context else [])
                count = seen[z, context].sum()
                wanted = count * row
                assert wanted.min() >= 0 and (np.abs(seen[z, context] - wanted) <= 5 * np.sqrt(wanted) + 5).all()


def test_cold_rows_are_their_largest_logit() -> None:
    law = ChainPopulation(state_count=9, temperature=1e-9)
    tokens = law.sample(200, 30, columns=["task"])
    for row, task in zip(tokens["tokens"], tokens["task"][:, 0], strict=True):
        assert law.probabilities(int(task), [int(row[3])]).argmax() == row[4]


def test_proposals_refused_for_long_are_scans() -> None:
    law = ChainPopulation(state_count=7, temperature=0.01, backend="implicit", task_count=3)
    rows = law.sample(3, 40, columns=["task"])
    for index in range(3):
        twin = chain_population_twin.row(law, index, 40)
        assert rows["tokens"][index].tolist() == twin["tokens"] and rows["task"][index].tolist() == twin["task"]


def test_a_stationary_start_stays() -> None:
    for law in (
        ChainPopulation.edelman2024(5),
        ChainPopulation.nichani2024(),
        ChainPopulation.edelman2024(3, alpha=0.01),
    ):
        for task in range(4):
            start = law.probabilities(task)
            rows = np.array([law.probabilities(task, [state]) for state in range(law.state_count)])
            np.testing.assert_allclose(start @ rows, start, atol=1e-7)


@pytest.mark.parametrize("states", [1, 2, 7, 256, 257])
def test_alias_cells_hold_the_rounded_law(states: int) -> None:
    law = dirichlet(state_count=states, task_count=5, alpha=0.1)
    capacity = law._capacity
    rows = np.random.default_rng(3).dirichlet(np.full(states, 0.05), 20)
    rows[0], rows[1] = 1 / states, np.eye(states)[0]
    integers = law._integers(rows)
    threshold, alias = chain_population._alias(integers, capacity)
    again = threshold.copy()
    np.add.at(again, (np.arange(20)[:, None], alias), capacity - threshold)
    np.testing.assert_array_equal(again, integers)
    assert threshold.max(initial=0) < capacity and np.abs(integers / (capacity * states) - rows).max() < 1e-6


# --- predictors ---


def test_a_pool_is_retrieved() -> None:
    """Who knows the pool loses at most the log of its size to one who is told the chain."""
    law = ChainPopulation.park2024(16, state_count=5, alpha=0.5)
    rows = law.sample(400, 60, columns=["task"])
    known, told = law.losses(rows["tokens"]), law.losses(rows["tokens"], rows["task"][:, 0])
    excess = (known - told).sum(1)
    assert (excess <= math.log(16) + 1e-9).all() and 1.0 < excess.mean() < math.log(16)
    assert known[:, 40:].mean() < add_alpha_losses(rows["tokens"], 1, 0.5, 5)[:, 40:].mean() - 0.02
    assert sorted(np.unique(rows["task"])) == list(range(16))


def test_counting_in_context_is_the_best_predictor_of_dirichlet_rows() -> None:
    law = dirichlet(state_count=4, order=2, alpha=0.5)
    tokens = law.sample(30, 50)
    np.testing.assert_allclose(law.losses(tokens), add_alpha_losses(tokens, 2, 0.5, 4), rtol=1e-12)
    by_laws = [-np.log(row[np.arange(30), tokens[:, t]]) for t, row in enumerate(law.predictions(tokens))]
    np.testing.assert_allclose(law.losses(tokens), np.stack(by_laws, axis=1), rtol=1e-12)
    others = [add_alpha_losses(tokens, order, alpha, 4).mean() for order, alpha in ((0, 0.5), (1, 0.5), (2, 3.0))]
    assert law.losses(tokens).mean() < min(others)


def test_unigram_losses_count_all_tokens() -> None:
    assert add_alpha_losses(np.array([[1, 1, 0]]), 0, 0.5, 2) == pytest.approx(
        -np.log([[0.5, 1.5 / 2, 0.5 / 3]]), rel=1e-12
    )


def test_laws_without_a_predictor_say_why() -> None:
    tokens = np.zeros((2, 5), np.uint8)
    with pytest.raises(NotImplementedError, match="no conjugate prior"):
        ChainPopulation(state_count=4).losses(tokens)
    with pytest.raises(NotImplementedError, match="stationary start"):
        ChainPopulation.edelman2024().predictions(tokens)
    with pytest.raises(NotImplementedError, match="no rows"):
        dirichlet(backend="urn").losses(tokens, np.zeros(2, int))
    with pytest.raises(ValueError, match="no rows"):
        dirichlet(backend="urn").probabilities(0)


# --- tasks ---


@pytest.mark.parametrize("backend", ["table", "implicit"])
def test_tasks_are_numbered_from_the_first(backend: str) -> None:
    """A population that begins later is the later part of the same population of chains."""
    early, late = (
        ChainPopulation(state_count=8, sequences_per_task=3, first_task=first, backend=backend) for first in (0, 70)
    )
    np.testing.assert_array_equal(early.sample(9, 4, columns=["task"])["task"][:, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(early.probabilities(73, [2]), late.probabilities(3, [2]))


def test_tasks_end_at_64_bits() -> None:
    last = ChainPopulation(first_task=2**64 - 2)
    assert last.sample(2, 5, columns=["task"])["task"].tolist() == [[0], [1]]
    for draw in (lambda: last.sample(3, 5), lambda: last.sample_sequences([0, 2], 5)):
        with pytest.raises(ValueError, match="tasks must stay below 2\\*\\*64: sequence 2"):
            draw()
    assert ChainPopulation(sequences_per_task=2, first_task=2**63).sample_sequences([2**64 - 1], 3).shape == (1, 3)


def test_pools_of_many_chains() -> None:
    law = ChainPopulation(state_count=2, task_count=2**32 - 1, backend="implicit")
    tasks = law.sample(2000, 2, columns=["task"])["task"][:, 0] / 2.0**32
    assert abs(tasks.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 2000)


def test_auto_takes_the_fastest_backend() -> None:
    def auto(**fields: object) -> str:
        return ChainPopulation(**fields).backend  # type: ignore[arg-type]

    assert auto(state_count=16) == "table" and auto(state_count=17) == "implicit"
    assert auto(state_count=2, order=3) == "table" and auto(state_count=2, order=4) == "implicit"
    assert auto(state_count=16, rows="dirichlet") == "table" and auto(state_count=17, rows="dirichlet") == "urn"
    assert auto(state_count=4, rows="dirichlet", alpha=0.5) == "urn"
    assert auto(state_count=4, rows="dirichlet", alpha=0.5, initial="stationary") == "table"
    assert auto(state_count=128, task_count=127) == "table" and auto(state_count=128, task_count=128) == "implicit"
    assert auto(state_count=40, rows="dirichlet", task_count=2) == "table"


@pytest.mark.parametrize("name", ChainPopulation.presets)
def test_presets_draw(name: str) -> None:
    law = getattr(ChainPopulation, name)(seed=3)
    assert law.sample(4, law.fixed_length or 100).shape[0] == 4


# --- refusals ---


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"state_count": 0}, "state_count must be between 1 and 4294967295, got 0"),
        ({"state_count": 2**32}, "state_count must be between"),
        ({"order": 33}, "order must be between 0 and 32"),
        ({"state_count": 2**32 - 1}, "fewer than 2\\*\\*32 contexts, got 4294967296"),
        ({"state_count": 65536, "order": 2}, "fewer than 2\\*\\*32 contexts"),
        ({"lags": (2, 1)}, "lags must increase"),
        ({"lags": ()}, "lags must increase and not be empty"),
        ({"lags": (0,)}, "a lag must be between 1 and 65536, got 0"),
        ({"order": 1, "lags": (1,)}, "one of order, lags and parents, got order and lags"),
        ({"parents": ()}, "parents must be 1 to"),
        ({"parents": (0,)}, "the parent of token 0 must be between -1 and -1"),
        ({"parents": (-1, 0, 2)}, "the parent of token 2 must be between -1 and 1, got 2"),
        ({"rows": "uniform"}, "rows must be one of 'softmax', 'dirichlet'"),
        ({"temperature": 0.0}, "temperature must be in \\(0, inf\\]"),
        ({"alpha": 1.0}, "alpha must be None for rows that have none"),
        ({"rows": "dirichlet", "temperature": 1.0}, "temperature must be None"),
        ({"rows": "dirichlet", "state_count": 16, "alpha": 2.0**-21}, "alpha must be in"),
        ({"sequences_per_task": 0}, "sequences_per_task must be between 1 and 4294967296"),
        ({"task_count": 0}, "task_count must be between 1 and 4294967295"),
        ({"task_count": 2, "sequences_per_task": 2}, "leave sequences_per_task at 1"),
        ({"task_count": 2, "first_task": 2**64 - 1}, "first_task \\+ task_count must be at most 2\\*\\*64"),
        ({"initial": "softmax"}, "initial must be one of"),
        ({"backend": "dense"}, "backend must be one of"),
        ({"backend": "urn"}, "backend 'urn' has no softmax rows"),
        ({"backend": "implicit", "rows": "dirichlet"}, "backend 'implicit' has no dirichlet rows"),
        ({"backend": "urn", "rows": "dirichlet", "task_count": 2}, "an urn cannot have a pool"),
        ({"state_count": 17, "backend": "table"}, "at most 16 states and 4096 contexts, got 17 and 18"),
        ({"state_count": 16, "order": 3, "backend": "table"}, "got 16 and 4369"),
        ({"initial": "stationary", "backend": "implicit"}, "a stationary start needs backend='table'"),
        ({"initial": "stationary", "state_count": 17}, "at most 16 states"),
        ({"initial": "stationary", "order": 2, "state_count": 2}, "contexts of one token"),
        ({"initial": "stationary", "order": 0}, "contexts of one token"),
        ({"rows": "dirichlet", "task_count": 2**20, "state_count": 100}, "may have 2147483647 cells"),
    ],
)
def test_refusals_say_what_is_wrong(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChainPopulation(**fields)  # type: ignore[arg-type]


def test_refused_lengths() -> None:
    law = dirichlet(backend="urn", sequences_per_task=2**31)
    assert law.sample(1, 2).shape == (1, 2)
    with pytest.raises(ValueError, match="length must be at most 2, 2\\*\\*32 / sequences_per_task, got 3"):
        law.sample(1, 3)
    with pytest.raises(ValueError, match="length must be 3"):
        ChainPopulation(parents=(-1, 0, 1)).sample(1, 4)


# --- the kernel trusts nobody ---


def kernel_of(law: ChainPopulation, length: int = 8) -> tuple[list[int], list[np.ndarray]]:
    return law.core(length)


def test_the_kernel_refuses_what_it_could_not_bear() -> None:
    pool = ChainPopulation(state_count=3, task_count=2)
    numbers, tables = kernel_of(pool)
    broken = [tables[0], tables[1] | np.uint32(3)]
    for bad_numbers, bad_tables, words in (
        (numbers[:-1], tables, "has 12 numbers"),
        (numbers, [tables[0], tables[1][:-1]], "must have 24 words"),
        (numbers, broken, "alias must be below 3"),
        ([*numbers[:5], 2**32 - 1, *numbers[6:]], tables, "tasks"),
        ([3, *numbers[1:]], tables, "must be 0 to 2"),
        (numbers, [np.array([2, 1], np.uint32), tables[1]], "lags must increase"),
        (numbers, [np.array([2**16 + 1], np.uint32), tables[1]], "lags must increase"),
        ([*numbers[:3], 1, *numbers[4:]], [np.array([1], np.uint32), tables[1]], "parent of token 0"),
    ):
        with pytest.raises(ValueError, match=words):
            _core.Law("chain_population", numbers=bad_numbers, tables=bad_tables)


HOSTILE = [0, 1, 2, 3, 16, 2**16, 2**31, 2**32 - 1, 2**32, 2**62, 2**64 - 1]


@pytest.mark.parametrize("number", range(len(ChainPopulation.examples())))
def test_hostile_numbers_and_lengths_stay_within_bounds(number: int) -> None:
    """Kernels are called with any length, sequence and words that their check lets pass."""
    law = ChainPopulation.examples()[number]
    random = np.random.default_rng(number)
    numbers, tables = law.core(law.fixed_length or 8)
    for _ in range(12):
        wild, words = list(numbers), [table.copy() for table in tables]
        at = int(random.integers(len(wild) - (law.state_count > 2**20)))  # a cold row of them takes minutes
        wild[at] = HOSTILE[random.integers(len(HOSTILE))]
        if len(words[1]):
            words[1][random.integers(len(words[1]), size=5)] = random.integers(2**32, size=5, dtype=np.uint32)
        try:
            kernel = _core.Law(law.kind(), numbers=wild, tables=words)
        except ValueError:
            continue
        limit = wild[1]
        for length in (0, 1, 5, 33):
            tokens = np.zeros((37, length), np.uint64)
            kernel.fill(first_sequence=2**64 - 38, tokens=tokens, task=np.zeros((37, 1), np.uint32), threads=1)
            assert tokens.max(initial=0) < limit
