"""Batches of training made on the host: against a slow twin that computes words and indexes arrays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from replay_oracle import ReplayOracle
from replay_rows import SCHEMA, assert_equal, rows

import trajmill as tm
from trajmill import _core
from trajmill.replay import SeededBatches, Shares, linear

DOMAIN = 0x7472_6169  # of training
SEEDS = [0, 7, 2**32, 2**32 + 7, 2**64 - 1]
Batch = dict[str, np.ndarray]


def words(seed: int, update: int, count: int, site: int = 0) -> np.ndarray:
    """The first words of a site at an update, as training draws them."""
    lanes = np.arange(-(-count // 4))
    key = np.array([seed], np.uint64).view(np.int64)
    return _core.philox_words(key, lanes, np.full_like(lanes, site), update, 1, DOMAIN).reshape(-1)[:count]


class Table:
    """Rows by number."""

    def __init__(self, columns: Batch) -> None:
        self.columns = columns

    def choose(self, groups: Sequence[np.ndarray]) -> list[Batch]:
        """The rows of each group of words."""
        return [{name: a[group * len(a) >> 32] for name, a in self.columns.items()} for group in groups]


class Mixture:
    """Parts of (table or mixture, weight, transform); all groups are split alike."""

    def __init__(self, parts: Sequence[tuple[Any, Callable[[int], float], Any]], columns: Batch) -> None:
        self.parts = parts
        self.columns = columns
        """what the mixture's batches hold, each with a row for the parts that lack it"""
        self.draw_count = 0
        self.shares = Shares(len(parts))

    def choose(self, groups: Sequence[np.ndarray]) -> list[Batch]:
        counts = self.shares.split(len(groups[0]), [weight(self.draw_count) for _, weight, _ in self.parts])
        self.draw_count += 1
        made: list[list[Batch]] = [[] for _ in groups]
        begin = 0
        for number, ((part, _, transform), count) in enumerate(zip(self.parts, counts, strict=True)):
            if count == 0:
                continue
            for group, batch in enumerate(part.choose([words[begin : begin + count] for words in groups])):
                own = {name: batch.get(name, np.repeat(row[None], count, 0)) for name, row in self.columns.items()}
                own |= transform(own) if transform else {}
                made[group].append(own | {"source": np.full(count, number, np.uint8)})
            begin += count
        return [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in made]


def joined(groups: list[Batch]) -> Batch:
    return {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}


# --- one kind of source each: the source and its twin ---


def replay(capacity: int = 120, count: int = 90, **options: Any) -> tuple[Any, Any]:
    buffer = tm.ReplayBuffer(capacity, SCHEMA, seed=5, **options)
    oracle = ReplayOracle(capacity, discount=0.9, **{k: v for k, v in options.items() if k == "n_step"})
    for first in range(0, count, 30):
        made = rows(first, 30)
        buffer.add(**made)
        oracle.add([{name: values[i] for name, values in made.items()} for i in range(30)])
    twin = [oracle.batch_row(slot) for slot in oracle.slots()]
    return buffer, Table({name: np.stack([row[name] for row in twin]) for name, _, _ in buffer.batch_columns})


def interrupted() -> tuple[Any, Any]:
    """A buffer whose process died while it overwrote rows: some slots are empty, and rows begin in the middle."""
    buffer, _ = replay(60, 90)
    buffer._memory[:32].view(np.uint64)[:] = 40, 90, 0, 0  # the first row, the next one: the state of version 1
    buffer._restore(version=1)
    assert buffer._slots().tolist() == [*range(40, 60), *range(30)]
    return buffer, Table(rows(40, 50))


def windows() -> tuple[Any, Any]:
    made = rows(0, 100)
    buffer = tm.TrajectoryBuffer(**{k: v for k, v in made.items() if k != "next_observation"}, context_length=6, seed=5)
    return buffer, Table(buffer.windows(range(buffer.step_count)))


def transitions(with_targets: bool = False) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    states, actions, targets = (rng.integers(0, bound, 70) for bound in (20, 5, 20))
    books = [rng.random(shape, np.float32) for shape in ((20, 3), (5, 2), (20, 4))]
    source = tm.MDPTransitions.from_arrays(
        states,
        actions,
        targets,
        state_vectors=books[0],
        action_vectors=books[1],
        target_vectors=books[2] if with_targets else None,
    )
    target_book = books[2] if with_targets else books[0]
    return source, Table(
        {"observation": books[0][states], "action": books[1][actions], "next_observation": target_book[targets]}
    )


def many() -> tuple[Any, Any]:
    """So many transitions that every bit of a word counts."""
    number = np.arange(1_000_000)
    book = np.arange(1000, dtype=np.float32)[:, None]
    source = tm.MDPTransitions.from_arrays(
        number % 1000, number // 1000, number % 1000, state_vectors=book, action_vectors=book
    )
    state, action = book[number % 1000], book[number // 1000]
    return source, Table({"observation": state, "action": action, "next_observation": state})


def doubled(batch: Batch) -> Batch:
    return {"action": batch["action"] * 2 + len(batch["action"])}


def mixture() -> tuple[Any, Any]:
    """Real rows, synthetic ones that lack a column, and real ones that a function changes; weights move."""
    (real, real_twin), (made, made_twin) = replay(), transitions()
    weights = [lambda draw: 1.0, linear(0.2, 1.0, 6), lambda draw: 0.3 * (draw % 2)]
    fill = {"reward": -2.5, "terminal": False, "truncated": True}
    source = tm.MixedReplay(
        {"real": (real, weights[0]), "made": (made, weights[1]), "changed": (real, weights[2])},
        fill=fill,
        transform={"changed": doubled},
    )
    filled = {name: np.full(shape, fill.get(name, 0), dtype) for name, shape, dtype in real.batch_columns}
    parts = zip((real_twin, made_twin, real_twin), weights, (None, None, doubled), strict=True)
    return source, Mixture(list(parts), filled)


def nested() -> tuple[Any, Any]:
    """A mixture of a mixture and a buffer, with fewer columns than its sources have."""
    (inner, inner_twin), (other, other_twin) = mixture(), replay(60, 60)
    source = tm.MixedReplay({"other": (other, 1), "inner": (inner, 2)}, columns=("observation", "action", "reward"))
    columns = {name: np.zeros(shape, dtype) for name, shape, dtype in other.batch_columns}
    return source, Mixture(
        [(other_twin, lambda _: 1.0, None), (inner_twin, lambda _: 2.0, None)],
        {name: columns[name] for name in ("observation", "action", "reward")},
    )


KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "rows": replay,
    "full": lambda: replay(60, 60),
    "overwritten": lambda: replay(60, 150),
    "interrupted": interrupted,
    "shared": lambda: replay(60, 150, shared={"next_observation": "observation"}),
    "n_step": lambda: replay(60, 150, n_step=3, discount=0.9),
    "shared n_step": lambda: replay(n_step=3, discount=0.9, shared={"next_observation": "observation"}),
    "windows": windows,
    "transitions": transitions,
    "targets": lambda: transitions(with_targets=True),
    "many transitions": many,
    "mixture": mixture,
    "nested": nested,
}


def batch_of(twin: Any, update: int, batch_size: int, seeds: Sequence[int] = SEEDS, site: int = 0) -> Batch:
    return joined(twin.choose([words(seed, update, batch_size, site) for seed in seeds]))


# --- the same rows as the twin's ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch_size", "site", "threads"), [(21, 0, 1), (8, 3, 3), (1, 0, 1), (700, 0, 4)])
def test_batches_are_those_of_the_twin(kind: str, batch_size: int, site: int, threads: int) -> None:
    source, twin = KINDS[kind]()
    batches = SeededBatches(source, seeds=SEEDS, batch_size=batch_size, site=site)
    assert batches.row_count == len(SEEDS) * batch_size and batches.batch_columns == source.batch_columns
    out = None
    for update in range(7):
        assert batches.update == update
        out = batches.sample(batches.row_count, out, threads)
        assert_equal(out, batch_of(twin, update, batch_size, site=site))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_of_many_equals_a_source_of_its_own(kind: str) -> None:
    together = SeededBatches(KINDS[kind]()[0], seeds=SEEDS, batch_size=10)
    alone = [SeededBatches(KINDS[kind]()[0], seeds=[seed], batch_size=10) for seed in SEEDS]
    for _ in range(5):
        expected = joined([batches.sample(10) for batches in alone])
        assert_equal(together.sample(10 * len(SEEDS)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_any_update_can_be_the_next_one(kind: str) -> None:
    (source, _), (other, _) = KINDS[kind](), KINDS[kind]()
    unbroken = SeededBatches(source, seeds=SEEDS, batch_size=9)
    jumping = SeededBatches(other, seeds=SEEDS, batch_size=9)
    expected = [unbroken.sample(unbroken.row_count) for _ in range(12)]
    for update in (11, 3, 4, 0, 7):
        jumping.set_update(update)
        assert jumping.update == update
        assert_equal(jumping.sample(jumping.row_count), expected[update])
    jumping.set_update(12)
    if isinstance(source, tm.MixedReplay):
        assert other.state == source.state
    assert_equal(jumping.sample(jumping.row_count), unbroken.sample(unbroken.row_count))


def test_late_updates() -> None:
    source, twin = replay()
    batches = SeededBatches(source, seeds=SEEDS, batch_size=5)
    for update in (2**31, 2**32 - 1):
        batches.set_update(update)
        assert_equal(batches.sample(batches.row_count), batch_of(twin, update, 5))
    with pytest.raises(ValueError, match=r"the number of an update must be below 2\^32, got 4294967296"):
        batches.sample(batches.row_count)
    with pytest.raises(ValueError, match=r"must be below 2\^32, got 4294967296"):
        batches.set_update(2**32)
    assert batches.update == 2**32


@pytest.mark.parametrize("kind", KINDS)
def test_a_feed_draws_ahead_and_goes_back(kind: str) -> None:
    pytest.importorskip("torch")
    source, twin = KINDS[kind]()
    batches = SeededBatches(source, seeds=SEEDS, batch_size=6)
    for begin in (0, 5):  # the second feed goes on behind the last batch handed out
        with tm.feed(batches, "cpu", batch_size=batches.row_count, ahead=3) as feed:
            for update in range(begin, begin + 5):
                batch = {name: tensor.numpy() for name, tensor in next(feed).items()}
                assert_equal(batch, batch_of(twin, update, 6))
        assert batches.update == begin + 5
        if isinstance(source, tm.MixedReplay):
            assert source.state == (twin.draw_count, twin.shares.credit)


def test_a_resumed_feed_continues() -> None:
    pytest.importorskip("torch")
    batches, twin = SeededBatches(mixture()[0], seeds=SEEDS, batch_size=6), mixture()[1]
    for update in range(4):
        batch_of(twin, update, 6)
    batches.set_update(4)
    with tm.feed(batches, "cpu", batch_size=batches.row_count) as feed:
        batch = {name: tensor.numpy() for name, tensor in next(feed).items()}
    assert_equal(batch, batch_of(twin, 4, 6))


def test_draws_of_the_source_itself_are_left_alone() -> None:
    source, twin = replay()
    batches = SeededBatches(source, seeds=SEEDS, batch_size=6)
    expected = replay()[0].sample(40)
    batches.sample(batches.row_count)
    assert source.draw_count == 0
    assert_equal(source.sample(40), expected)
    assert_equal(batches.sample(batches.row_count), batch_of(twin, 1, 6))


def test_rows_that_are_added_are_chosen_from_the_next_update_on() -> None:
    source, _ = replay(120, 30)
    batches = SeededBatches(source, seeds=SEEDS, batch_size=50)
    batches.sample(batches.row_count)
    source.add(**rows(30, 60))
    assert_equal(batches.sample(batches.row_count), batch_of(replay(120, 90)[1], 1, 50))


# --- mixtures ---


def test_counts_are_exact_and_equal_for_every_seed() -> None:
    source, _ = replay()
    mixed = tm.MixedReplay({name: (source, weight) for name, weight in (("a", 1), ("b", 6), ("c", 4))})
    batches = SeededBatches(mixed, seeds=SEEDS, batch_size=13)
    got = np.zeros(3, int)
    for update in range(200):
        numbers = batches.sample(batches.row_count)["source"].reshape(len(SEEDS), 13)
        assert (numbers == numbers[0]).all() and (np.diff(numbers[0].astype(int)) >= 0).all()
        got += np.bincount(numbers[0], minlength=3)
        assert (np.abs(got - 13 * (update + 1) * np.array([1, 6, 4]) / 11) < 1).all()
    assert mixed.draw_count == 200


def test_a_transform_gets_the_rows_of_one_seed_at_a_time() -> None:
    source, twin = replay()
    seen = []

    def keep(batch: Batch) -> Batch:
        seen.append({name: values.copy() for name, values in batch.items()})
        return {}

    mixed = tm.MixedReplay({"plain": (source, 1), "model": (source, 1)}, transform={"model": keep})
    batches = SeededBatches(mixed, seeds=SEEDS, batch_size=8)
    batches.sample(batches.row_count)
    for seed, batch in zip(SEEDS, seen, strict=True):
        assert_equal(batch, twin.choose([words(seed, 0, 8)[4:]])[0])


def test_shares_split_and_keep_what_they_owe() -> None:
    shares = Shares(2)
    assert [shares.split(4, [2, 1]) for _ in range(3)] == [[3, 1], [3, 1], [2, 2]]
    assert shares.credit == pytest.approx([0, 0])
    shares.split(1, [1, 1])
    credit = shares.credit
    other = Shares(2)
    other.credit = credit
    assert [other.split(3, [1, 1]) for _ in range(4)] == [shares.split(3, [1, 1]) for _ in range(4)]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0], [0.0, 0.0], [-1.0, 2.0], [1.0, np.nan], [1.0, np.inf]])
def test_shares_refuse_weights_that_make_no_sense(weights: list[float]) -> None:
    shares = Shares(2)
    with pytest.raises(ValueError, match="weight"):
        shares.split(4, weights)
    with pytest.raises(ValueError, match="there must be one credit for each of 2 sources, got 3"):
        shares.credit = [0.0, 0.0, 0.0]
    assert shares.credit == [0.0, 0.0]


# --- what is refused, and does not count ---


def made_by_a_function(count: int) -> Batch:
    return rows(0, count)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tm.ReplayBuffer(9, SCHEMA, prioritized=True),
            "a prioritised buffer draws rows by priority and cannot be asked",
        ),
        (lambda: tm.ReplayBuffer(9, SCHEMA), "the source is empty, so no row can be chosen"),
        (
            lambda: tm.MixedReplay({"real": (replay()[0], 1), "made": (made_by_a_function, 1)}),
            "the source cannot be asked for rows by number",
        ),
        (lambda: SeededBatches(replay()[0], seeds=[1], batch_size=20), "the source cannot be asked for rows by number"),
    ],
)
def test_sources_that_cannot_be_asked_by_number(make: Callable[[], Any], message: str) -> None:
    source = make()
    batches = SeededBatches(source, seeds=[1, 2], batch_size=10)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            batches.sample(20)
    assert batches.update == 0
    if isinstance(source, tm.MixedReplay):
        assert source.state == (0, [0.0, 0.0])


def test_what_is_no_update() -> None:
    source, _ = replay()
    for options, message in (
        ({"seeds": [], "batch_size": 4}, "there must be at least one seed, got none"),
        ({"seeds": [1], "batch_size": 0}, r"batch_size must be between 1 and 2\^33, got 0"),
        ({"seeds": [1, 2], "batch_size": 2**33}, r"batch_size must be between 1 and 2\^33, got 17179869184"),
    ):
        with pytest.raises(ValueError, match=message):
            SeededBatches(source, **options)
    with pytest.raises(TypeError):
        SeededBatches(source, seeds=[-1], batch_size=4)
    batches = SeededBatches(source, seeds=SEEDS, batch_size=4)
    with pytest.raises(ValueError, match="an update of 5 seeds with 4 rows each has 20 rows, got batch_size 4"):
        batches.sample(4)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        batches.sample(20, None, 0)
    source.close()
    with pytest.raises(ValueError, match="the buffer is closed"):
        batches.sample(20)
    assert batches.update == 0


def test_a_function_cannot_draw_from_its_own_batches() -> None:
    source, _ = replay()
    mixed = tm.MixedReplay({"real": (source, 1)}, transform={"real": lambda _: batches.sample(4)})
    batches = SeededBatches(mixed, seeds=[1], batch_size=4)
    with pytest.raises(RuntimeError, match="a function of a mixture must neither draw from that mixture nor change it"):
        batches.sample(4)
    jumping = tm.MixedReplay({"real": (source, lambda draw: batches.set_update(draw) or 1.0)})
    batches = SeededBatches(jumping, seeds=[1], batch_size=4)
    with pytest.raises(RuntimeError, match="must neither draw from that mixture nor change it"):
        batches.sample(4)
    assert batches.update == 0


def test_an_update_that_cannot_be_reached_changes_nothing() -> None:
    def weight(draw: int) -> float:
        if draw == 4:
            raise RuntimeError("out of order")
        return 0.3

    source, _ = replay()
    mixed = tm.MixedReplay({"a": (source, 0.5), "b": (source, weight)})
    batches = SeededBatches(mixed, seeds=[1], batch_size=7)
    batches.set_update(2)
    state = mixed.state
    with pytest.raises(RuntimeError, match="out of order"):
        batches.set_update(6)
    assert batches.update == 2 and mixed.state == state


def test_sources_live_as_long_as_their_batches() -> None:
    source, twin = replay()
    alive = weakref.ref(source)
    batches = SeededBatches(source=source, seeds=SEEDS, batch_size=4)
    del source
    gc.collect()
    assert_equal(batches.sample(batches.row_count), batch_of(twin, 0, 4))
    del batches
    gc.collect()
    assert alive() is None
