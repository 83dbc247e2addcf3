"""The replay buffer's draws, laws, conversions and errors; its behaviour as a whole is in test_replay_model.py."""

from __future__ import annotations

import gc
import hashlib
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_rows import SCHEMA, assert_equal, rows
from scipy import stats

import trajmill as tm
from trajmill.data.records import Transitions
from trajmill.training.device import keep_freed_memory


def filled(count: int = 100, capacity: int = 100, **options: Any) -> tm.ReplayBuffer:
    buffer = tm.ReplayBuffer(capacity, SCHEMA, **options)
    buffer.add(**rows(0, count))
    return buffer


def memory_in_use() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "golden"),
    [
        ({}, "427246fef4f1bcb3"),
        ({"seed": 2**64 - 1}, "6acafd7508d652ef"),
        ({"n_step": 3}, "92c55ca5d2676481"),
        ({"prioritized": True, "alpha": 1.0}, "60e4545dcb23c8bf"),
    ],
)
def test_draws_never_change(options: dict[str, Any], golden: str) -> None:
    buffer = filled(**options)
    if options.get("prioritized"):
        buffer.update_priorities(np.arange(100), np.arange(100) / 8)
    digest = hashlib.sha256()
    for _ in range(3):
        for name, values in buffer.sample(33).items():
            if name != "weights":  # they go through the C library's pow
                digest.update(values.tobytes())
    assert digest.hexdigest()[:16] == golden


def test_draws_without_replacement_never_change() -> None:
    assert filled().sample(5, replace=False)["reward"].tolist() == [47, 90, 85, 15, 18]


def test_a_draw_depends_on_its_number_and_not_on_threads_out_or_other_calls() -> None:
    buffer, other = filled(capacity=200), filled(capacity=200)
    first, second = buffer.sample(30_000), buffer.sample(30_000)
    out = {name: np.full_like(values, 1) for name, values in first.items()}
    assert other.sample(30_000, out, threads=3) is out
    assert_equal(out, first)
    assert (first["reward"] != second["reward"]).any()
    other.draw_count = 1
    assert_equal(other.sample(30_000), second)
    other.draw_count = 1
    assert_equal(other.sample(100), {name: values[:100] for name, values in second.items()})
    assert other.draw_count == 2


def test_more_than_a_task_of_rows_is_drawn_alike_by_any_number_of_threads() -> None:
    buffer = filled(n_step=3, shared={"next_observation": "observation"})
    for batch_size in (1, 2, 3, 63, 64, 65, 4095, 4096, 4097, 9001):
        buffer.draw_count = 7
        wanted = buffer.sample(batch_size)
        for threads in (2, 5):
            buffer.draw_count = 7
            assert_equal(buffer.sample(batch_size, threads=threads), wanted)


def test_uniform_draws_are_uniform_and_independent() -> None:
    buffer = filled(seed=3)
    first, second = (buffer.sample(400_000)["reward"].astype(int) for _ in range(2))
    pairs = np.bincount(first * 100 + second, minlength=10_000)
    # chi-square over 10,000 pairs; fixed seed, and one right law in 10^4 would fail
    assert stats.chisquare(pairs).pvalue > 1e-4
    neighbours = np.bincount(first[:-1] * 100 + first[1:], minlength=10_000)
    assert stats.chisquare(neighbours).pvalue > 1e-4


def test_draws_without_replacement_are_distinct_and_uniform() -> None:
    buffer = filled()
    counts = np.zeros(100)
    for _ in range(4_000):
        drawn = buffer.sample(10, replace=False)["reward"].astype(int)
        assert len(set(drawn)) == 10
        counts[drawn] += 1
    assert stats.chisquare(counts).pvalue > 1e-4
    assert sorted(buffer.sample(100, replace=False)["reward"]) == list(range(100))


def test_an_epoch_has_every_row_once_and_goes_on_from_a_cursor() -> None:
    buffer = filled(95)
    batches = list(buffer.epoch(20, epoch=4))
    assert [len(batch["reward"]) for batch in batches] == [20, 20, 20, 20, 15]
    order = np.concatenate([batch["reward"] for batch in batches])
    assert sorted(order) == list(range(95))
    rest = np.concatenate([batch["reward"] for batch in buffer.epoch(7, epoch=4, first_row=33)])
    np.testing.assert_array_equal(rest, order[33:])
    assert (order != np.concatenate([batch["reward"] for batch in buffer.epoch(20, epoch=5)])).any()
    assert buffer.draw_count == 0
    with pytest.raises(RuntimeError, match="rows were added during an epoch"):
        for _ in buffer.epoch(20):
            buffer.add(**rows(0, 1))


# --- priorities -------------------------------------------------------------------------------------------------------


def priority_p_value(size: int, *, updates: int, draws: int, seed: int) -> float:
    """Of the rows drawn against their priorities, after `updates` random ones in batches of 4,096; a tenth is zero."""
    random = np.random.default_rng(seed)
    buffer = tm.ReplayBuffer(size, {"id": "u4"}, prioritized=True, alpha=1.0, seed=seed)
    for begin in range(0, size, 2**20):
        buffer.add(id=np.arange(begin, min(size, begin + 2**20), dtype=np.uint32))
    priorities = np.ones(size)
    for _ in range(updates // 4096):
        indexes = random.integers(0, size, 4096)
        values = random.random(4096) ** 3 * (random.random(4096) > 0.1)
        buffer.update_priorities(indexes, values)
        priorities[indexes] = values
    counts = np.zeros(size, np.int64)
    out = None
    for _ in range(draws // 2**16):
        out = buffer.sample(2**16, out)
        np.testing.assert_array_equal(out["id"], out["indexes"])
        counts += np.bincount(out["indexes"], minlength=size)
    assert not counts[priorities == 0].any()
    bins = min(size, 4096)  # neighbours together, so that each bin has many draws
    drawn, law = counts.reshape(bins, -1).sum(1), priorities.reshape(bins, -1).sum(1) / priorities.sum()
    for begin in (0, size // 2):  # odd rows and the upper half, which trees of float32 miss
        odd = priorities[begin + 1 :: 2].sum() / priorities.sum() * counts.sum()
        assert abs(counts[begin + 1 :: 2].sum() - odd) < 6 * np.sqrt(odd)
    # Stratified counts spread less than independent ones, for which the p-value would be uniform.
    common = law * counts.sum() >= 5
    drawn, law = np.append(drawn[common], drawn[~common].sum()), np.append(law[common], law[~common].sum())
    return float(stats.chisquare(drawn[law > 0], counts.sum() * law[law > 0]).pvalue)


@pytest.mark.parametrize("size", [1000, 2**15])
def test_rows_are_drawn_in_proportion_to_priority(size: int) -> None:
    assert priority_p_value(size, updates=10**6, draws=2**20, seed=1) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 2**16, 2**20, 2**24, 2**25])
def test_rows_are_drawn_in_proportion_to_priority_at_scale(size: int) -> None:
    assert priority_p_value(size, updates=10**7, draws=2**24, seed=2) > 1e-4


def test_new_rows_get_the_largest_priority_ever_set_and_at_least_one() -> None:
    buffer = filled(5, capacity=6, prioritized=True, alpha=1.0)
    assert buffer._weights(range(5)).tolist() == [1.0] * 5
    buffer.update_priorities([0, 1], [0.25, 8.0])
    buffer.update_priorities([1], [0.5])
    buffer.add(**rows(5, 2))  # overwrites row 0
    assert buffer.largest_priority == 8.0
    assert buffer._weights(range(6)).tolist() == [8.0, 0.5, 1.0, 1.0, 1.0, 8.0]


def test_alpha_and_beta() -> None:
    buffer = filled(4, capacity=4, prioritized=True, alpha=0.5, beta=1.0)
    buffer.update_priorities(range(4), [4.0, 1.0, 0.25, 0.0])
    np.testing.assert_allclose(buffer._weights(range(4)), [2.0, 1.0, 0.5, 0.0])
    for beta in (None, 0.3):
        batch = buffer.sample(50, beta=beta)
        power = {0: 2.0, 1: 1.0, 2: 0.5}
        wanted = [(0.5 / power[i]) ** (1.0 if beta is None else beta) for i in batch["indexes"].tolist()]
        np.testing.assert_allclose(batch["weights"], wanted, rtol=1e-6)
    buffer.beta = 0.0
    assert (buffer.sample(9)["weights"] == 1).all()


def test_draws_are_stratified() -> None:
    buffer = filled(prioritized=True)
    assert sorted(buffer.sample(100)["indexes"]) == list(range(100))


def test_bad_priorities_change_nothing() -> None:
    buffer = filled(10, prioritized=True)
    before = buffer._weights(range(10)).tolist()
    for bad in (-1.0, np.nan, np.inf, -np.inf, 1e29):
        with pytest.raises(ValueError, match=r"priorities must be numbers from 0 to 1e[+]28, got .* at 1"):
            buffer.update_priorities([0, 1], [5.0, bad])
    for slot in (-1, 10, 99, 100, 2**62):
        with pytest.raises(IndexError, match=f"indexes must be slots that hold a row, got {slot} where 10 of 100"):
            buffer.update_priorities([0, slot], [5.0, 5.0])
    with pytest.raises(ValueError, match="one priority for each of 2 indexes, got 1"):
        buffer.update_priorities([0, 1], [5.0])
    with pytest.raises(TypeError, match="indexes must be integers in one dimension, got float64"):
        buffer.update_priorities([0.0], [5.0])
    assert buffer._weights(range(10)).tolist() == before
    buffer.update_priorities(range(10), np.zeros(10))
    with pytest.raises(ValueError, match="every priority is zero"):
        buffer.sample(1)


# --- adding -----------------------------------------------------------------------------------------------------------


def test_values_are_converted_where_nothing_is_lost() -> None:
    buffer = tm.ReplayBuffer(10, {"f": "f4", "i": "i2", "b": "?", "v": ((2,), "f2")})
    buffer.add(f=1, i=np.int64(-300), b=np.uint8(1), v=[0.1, np.nan])
    buffer.add(f=np.float64(0.1), i=True, b=False, v=np.arange(4.0)[::2])
    batch = buffer[:]
    np.testing.assert_array_equal(batch["f"], np.array([1, 0.1], np.float32))
    assert (batch["i"].tolist(), batch["b"].tolist()) == ([-300, 1], [True, False])
    np.testing.assert_array_equal(batch["v"], np.array([[0.1, np.nan], [0, 2]], np.float16))
    for column, value, needed in (("i", 70_000, "int16"), ("i", 1.0, "int16"), ("b", 2, "bool"), ("f", 1j, "float32")):
        with pytest.raises(TypeError, match=f"column '{column}' needs {needed}, got .* that cannot be converted"):
            buffer.add(**{"f": 0, "i": 0, "b": 0, "v": [0, 0]} | {column: value})
    assert len(buffer) == 2


def test_views_of_any_layout_are_stored_as_they_look() -> None:
    columns = rows(0, 12)
    buffer = tm.ReplayBuffer(12, SCHEMA)
    buffer.add(**{name: np.repeat(values, 2, 0)[::2] for name, values in columns.items()})
    assert_equal(buffer[:], columns)
    big_endian = {name: values.astype(values.dtype.newbyteorder(">")) for name, values in columns.items()}
    buffer.add(**big_endian)
    assert_equal(buffer[:], columns)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"reward": None}, r"add lacks the column 'reward'"),
        ({"done": np.zeros(4)}, r"add got a column 'done' that the schema does not have"),
        (
            {"action": np.zeros((4, 3))},
            r"column 'action' needs shape \(2,\) for one row or \(rows, 2\) for many, got \(4, 3\)",
        ),
        ({"action": np.zeros((3, 2))}, r"all columns need equally many rows: 'action' has 3, those before it 4"),
        (
            {"reward": np.zeros((4, 1))},
            r"column 'reward' needs shape \(\) for one row or \(rows,\) for many, got \(4, 1\)",
        ),
        ({"reward": 0.0}, r"all columns need equally many rows: 'reward' has 1, those before it 4"),
    ],
)
def test_rows_that_do_not_fit_the_schema(changes: dict[str, Any], error: str) -> None:
    buffer = filled(3)
    columns = {name: values for name, values in (rows(0, 4) | changes).items() if values is not None}
    with pytest.raises(ValueError, match=error):
        buffer.add(**columns)
    assert len(buffer) == 3


class NoArray:
    """As a tensor that requires gradients."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("use tensor.detach()")


def test_what_is_no_array_says_why() -> None:
    buffer = filled(3, prioritized=True)
    with pytest.raises(TypeError, match=r"column 'reward' must be an array, got .*NoArray.*: use tensor.detach\(\)"):
        buffer.add(**rows(0, 1) | {"reward": NoArray()})
    with pytest.raises(TypeError, match=r"priorities must be an array, got .*NoArray.*: use tensor.detach\(\)"):
        buffer.update_priorities([0], NoArray())
    with pytest.raises(TypeError, match="priorities must be numbers, got <U1"):
        buffer.update_priorities([0], ["a"])
    with pytest.raises(TypeError, match=r"indexes must be an array, got .*NoArray.*: use tensor.detach\(\)"):
        buffer.update_priorities(NoArray(), [1.0])


def test_a_batch_larger_than_the_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 101 rows does not fit into a buffer of 100 rows"):
        filled(101)
    with pytest.raises(ValueError, match=r"for all 2 environments together, .* a multiple of 2, got 3"):
        filled(3, environment_count=2)


def test_transitions_come_in_as_they_are() -> None:
    columns = rows(0, 50)
    buffer = tm.ReplayBuffer.from_transitions(
        Transitions(**columns), seed=4, shared={"next_observation": "observation"}
    )
    assert (buffer.capacity, len(buffer)) == (50, 50)
    assert_equal(buffer[:], columns)


# --- shared columns ---------------------------------------------------------------------------------------------------


def test_shared_observations_take_their_place_once_and_entries_are_used_again() -> None:
    shared = tm.ReplayBuffer(1000, SCHEMA, shared={"next_observation": "observation"})
    for begin in range(0, 50_000, 250):
        shared.add(**rows(begin, 250))
    size = shared._used_extents()[3][1]
    assert size <= 120 * 16  # a hundred episodes end in the buffer, and batches in between
    for begin in range(50_000, 53_000):
        shared.add(**{name: values[0] for name, values in rows(begin, 1).items()})
    size = shared._used_extents()[3][1]
    assert size <= 130 * 16
    assert_equal(shared[:], rows(52_000, 1000))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "error"),
    [
        ({"capacity": 0}, ValueError, "capacity must be between 1 and"),
        ({"capacity": 2.5}, TypeError, "capacity must be an integer, got 2.5"),
        ({"capacity": 2**61}, ValueError, "more than memory can address"),
        ({"schema": {}}, ValueError, "the schema must have at least one column"),
        ({"schema": [("a", "f4")]}, TypeError, "schema must map names to"),
        ({"schema": {"a": "S3"}}, TypeError, "column 'a' needs a bool, integer or float dtype"),
        ({"schema": {"a": ">f4"}}, TypeError, "column 'a' needs a bool, integer or float dtype of the machine's byte"),
        ({"schema": {"a": object}}, TypeError, "column 'a' needs a bool, integer or float dtype"),
        ({"schema": {"a": "nonsense"}}, TypeError, r"column 'a' must be given as \(shape, dtype\) or dtype"),
        ({"schema": {"a": ((0,), "f4")}}, ValueError, "the shape of column 'a' must be between 1 and"),
        ({"schema": {3: "f4"}}, TypeError, "names of columns must be non-empty strings, got 3"),
        ({"seed": -1}, ValueError, "seed must be between 0 and"),
        ({"environment_count": 3}, ValueError, "capacity must be a multiple of environment_count 3, got 100"),
        ({"n_step": 0}, ValueError, "n_step must be between 1 and"),
        ({"discount": 1.5}, ValueError, "discount must be in"),
        ({"discount": float("nan")}, ValueError, "discount must be in"),
        ({"discount": "high"}, TypeError, "discount must be a number, got 'high'"),
        ({"prioritized": True, "alpha": -1.0}, ValueError, "alpha must be in"),
        ({"prioritized": True, "alpha": None}, TypeError, "alpha must be a number, got None"),
        ({"beta": 11}, ValueError, "beta must be in"),
        ({"shared": {"next": "observation"}}, ValueError, "shared must name two columns of the schema, got 'next'"),
        (
            {"shared": {"action": "observation"}},
            ValueError,
            "'action' cannot be shared with 'observation': their dtype",
        ),
        ({"shared": {"reward": "reward"}}, ValueError, "'reward' cannot be shared with 'reward'"),
        (
            {"shared": {"terminal": "truncated", "truncated": "terminal"}},
            ValueError,
            "'truncated' is itself shared, so 'terminal' cannot be",
        ),
        ({"schema": {"reward": "i4", "terminal": "?"}, "n_step": 2}, ValueError, "needs a column 'reward' of float32"),
        ({"schema": {"reward": "f4"}, "n_step": 2}, ValueError, "n_step > 1 needs a column 'terminal'"),
        ({"schema": {"reward": "f4", "terminal": "f4"}, "n_step": 2}, ValueError, "needs one byte, .* in 'terminal'"),
        (
            {"schema": SCHEMA | {"discount": "f4"}, "n_step": 2},
            ValueError,
            "a column 'discount', which is a name for what the buffer itself adds",
        ),
        (
            {"schema": {"indexes": "f4"}, "prioritized": True},
            ValueError,
            "a column 'indexes', which is a name for what",
        ),
    ],
)
def test_settings_that_make_no_buffer(arguments: dict[str, Any], kind: type[Exception], error: str) -> None:
    with pytest.raises(kind, match=error):
        tm.ReplayBuffer(**{"capacity": 100, "schema": SCHEMA} | arguments)


def test_draws_that_cannot_be_made() -> None:
    empty = tm.ReplayBuffer(10, SCHEMA)
    with pytest.raises(ValueError, match="the buffer is empty; add transitions before drawing"):
        empty.sample(1)
    buffer = filled(10)
    with pytest.raises(ValueError, match=r"batch_size must be between 1 and 2\^33, got 0"):
        buffer.sample(0)
    with pytest.raises(ValueError, match="without replacement a batch has at most the 10 rows of the buffer, got 11"):
        buffer.sample(11, replace=False)
    with pytest.raises(ValueError, match="a prioritised buffer draws with replacement"):
        filled(10, prioritized=True).sample(2, replace=False)
    with pytest.raises(ValueError, match="the buffer draws uniformly; make it with prioritized=True"):
        buffer.update_priorities([0], [1.0])
    assert buffer.draw_count == 0
    for slot in (-1, 10):
        with pytest.raises(IndexError, match=f"slots that hold a row, got {slot} where 10 of 100 slots are taken"):
            buffer[[slot]]


def test_an_out_that_does_not_fit() -> None:
    buffer = filled(10)
    good = buffer.sample(4)
    read_only = good["reward"].copy()
    read_only.flags.writeable = False
    for bad in (
        np.empty(4, "f8"),
        np.empty(5, "f4"),
        np.empty((4, 1), "f4"),
        np.empty(8, "f4")[::2],
        np.empty(17, "u1")[1:].view("f4"),
        read_only,
        [0.0] * 4,
    ):
        with pytest.raises(
            ValueError, match=r"out\['reward'\] must be a writeable C-contiguous array \(4,\) of float32"
        ):
            buffer.sample(4, good | {"reward": bad})
    with pytest.raises(ValueError, match="out lacks the column 'reward'"):
        buffer.sample(4, {name: values for name, values in good.items() if name != "reward"})
    with pytest.raises(TypeError, match="out must be a batch, a dict of arrays"):
        buffer.sample(4, list(good.values()))


def test_a_buffer_is_not_pickled_and_says_what_it_is() -> None:
    buffer = filled(10)
    with pytest.raises(TypeError, match=r"save\(\) it"):
        pickle.dumps(buffer)
    assert repr(buffer).startswith("ReplayBuffer(10 of 100 rows: observation, action")
    buffer.close()
    assert "closed" in repr(buffer)
    with pytest.raises(ValueError, match="the buffer is closed"):
        buffer.sample(1)
    with pytest.raises(ValueError, match="the buffer is closed"):
        buffer.add(**rows(0, 1))


# --- resources --------------------------------------------------------------------------------------------------------


@pytest.mark.unsanitized
@pytest.mark.filterwarnings("ignore:n_step")  # rows that do not continue one another
def test_nothing_is_left_behind() -> None:
    buffer = filled(prioritized=True, n_step=3, shared={"next_observation": "observation"})

    def use(count: int) -> None:
        out = buffer.sample(64)
        for i in range(count):
            buffer.sample(64, out)
            buffer.update_priorities(out["indexes"], out["weights"])
            buffer.add(**rows(7 * i, 5))
            buffer.sample(3)
            filled(20).close()

    use(500)
    gc.collect()
    before = memory_in_use()
    use(3000)
    gc.collect()
    assert memory_in_use() - before < 2**20


@pytest.mark.unsanitized
@pytest.mark.parametrize("prioritized", [False, True])
def test_room_that_is_not_used_takes_no_memory(prioritized: bool) -> None:
    keep_freed_memory()  # as training does: what was freed is used again, whether it was written to or not
    tm.ReplayBuffer(2**30, {"x": "f4"}, prioritized=prioritized).close()
    before = memory_in_use()
    buffer = tm.ReplayBuffer(2**30, {"x": "f4"}, prioritized=prioritized)
    for _ in range(2):
        buffer.add(x=np.arange(100))
        assert set(buffer.sample(64)["x"]) <= set(range(100))
        buffer.clear()
        assert len(buffer) == 0
    buffer.add(x=np.arange(100, 103))
    assert set(buffer.sample(64)["x"]) == {100, 101, 102}
    assert memory_in_use() - before < 2**24  # huge pages; a byte for each row would be 2**30


@pytest.mark.parametrize("prioritized", [False, True])
def test_room_that_cannot_be_had_is_refused_at_once(prioritized: bool) -> None:
    with pytest.raises(MemoryError, match="a buffer of 1,125,899,906,842,624 rows needs more memory than there is"):
        tm.ReplayBuffer(2**50, {"x": "f4"}, prioritized=prioritized)


def test_python_threads_draw_and_add_at_once() -> None:
    buffer = filled(1000, capacity=1000, shared={"next_observation": "observation"})
    faults: list[str] = []

    def draw() -> None:
        out = buffer.sample(500)
        for _ in range(150):
            buffer.sample(500, out)
            if (out["action"][:, 0] != 2 * out["reward"]).any() or (out["observation"][:, 0] != out["reward"]).any():
                faults.append("a torn row")

    def add() -> None:
        for begin in range(0, 15_000, 100):
            buffer.add(**rows(begin, 100))

    threads = [threading.Thread(target=work) for work in (draw, draw, draw, add)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert buffer.draw_count == 453


def test_a_priority_whose_power_underflows_is_drawn_all_the_same() -> None:
    buffer = tm.ReplayBuffer(4, {"x": "f4"}, prioritized=True, alpha=10.0)
    buffer.add(x=[0.0, 1.0, 2.0, 3.0])
    buffer.update_priorities([0, 1, 2, 3], [0.0, 1e-40, 0.0, 0.0])
    assert set(buffer.sample(8)["x"].tolist()) == {1.0}
