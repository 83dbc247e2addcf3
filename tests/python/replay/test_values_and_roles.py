"""What a column can hold, which columns belong to the next row, and whose draws are whose."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import trajmill as tm
from trajmill import CorpusSampler
from trajmill.core import checks
from trajmill.replay import MDPTransitions, SeededBatches

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
FLOATS = ["f2", "f4", "f8"]
COLUMNS = ["?", *INTEGERS, *FLOATS]
OTHERS = ["c8", "M8[s]", "O", "S3", "U3"]


def edges(dtype: str) -> list[Any]:
    kind = np.dtype(dtype).kind
    if kind == "b":
        return [False, True]
    if kind in "iu":
        limits = np.iinfo(dtype)
        near = {s * 2**p + d for s in (1, -1) for p in (7, 8, 11, 15, 16, 24, 31, 32, 53, 63, 64) for d in (-1, 0, 1)}
        return sorted(n for n in near | {0, 1, limits.min, limits.max} if limits.min <= n <= limits.max)
    limits = np.finfo(dtype)
    return [
        0.0,
        -0.0,
        0.1,
        1.0,
        2.5,
        65519.0,
        65520.0,
        float(limits.max),
        -float(limits.max),
        math.inf,
        math.nan,
        1e-320,
    ]


def fits(value: Any, given: str, column: str) -> bool:
    """The promise, in exact arithmetic."""
    kind, to = np.dtype(given).kind, np.dtype(column).kind
    if kind in "biu":
        with np.errstate(all="ignore"):
            stored = np.array([value], given).astype(column)[0]
        if to == "f" and not math.isfinite(stored):
            return False
        return Fraction(float(stored) if to == "f" else int(stored)) == Fraction(int(value))
    if kind != "f" or to != "f":
        return False
    with np.errstate(all="ignore"):
        value = float(np.array(value, given))
        return not math.isfinite(value) or math.isfinite(float(np.array(value, given).astype(column)))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("given", ["?", *INTEGERS, *FLOATS, "g", ">i4", ">f4", ">f8"])
def test_a_column_holds_what_it_promises(given: str, column: str) -> None:
    buffer = tm.ReplayBuffer(4, {"x": column})
    mixed_with = tm.ReplayBuffer(4, {"x": column, "y": "?"})
    mixed_with.add(x=np.zeros(1, column), y=[True])
    native = given.replace(">", "")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for value in edges(native):
            with np.errstate(all="ignore"):
                array = np.array([value, value], native).astype(given)
            mixed = tm.MixedReplay(
                {"f": (lambda count, a=array: {"x": np.resize(a, count)}, 1), "b": (mixed_with, 1)}, columns=["x"]
            )
            if not fits(value, native, column):
                with pytest.raises(TypeError, match="without loss"):
                    buffer.add(x=array)
                with pytest.raises(TypeError, match="without loss"):
                    mixed.sample(2)
                continue
            for got in (buffer[[buffer.add(x=array)]]["x"], mixed.sample(2)["x"][:1]):
                np.testing.assert_array_equal(got, array[:1].astype(column))
    assert not told


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("given", OTHERS)
def test_other_values_are_refused(given: str, column: str) -> None:
    with pytest.raises(TypeError):
        tm.ReplayBuffer(4, {"x": column}).add(x=np.zeros(2, given))


def test_masks_are_not_dropped() -> None:
    masked = np.ma.array(np.ones(4, "f4"), mask=[0, 1, 0, 0])
    buffer = tm.ReplayBuffer(4, {"x": "f4"})
    with pytest.raises(TypeError, match="masked"):
        buffer.add(x=masked)
    buffer.add(x=np.ma.array(np.ones(4, "f4")))
    with pytest.raises(TypeError, match="masked"):
        tm.MixedReplay({"f": (lambda count: {"x": masked[:count]}, 1), "b": (buffer, 1)}).sample(4)
    slots = np.ma.array([0, 0], mask=[0, 1])
    ranked = tm.ReplayBuffer(4, {"x": "f4"}, prioritized=True)
    ranked.add(x=np.ones(4))
    for use in (
        lambda: ranked[slots],
        lambda: ranked.rows(slots),
        lambda: ranked.update_priorities(slots, [1.0, 2.0]),
        lambda: ranked.update_priorities([0, 1], np.ma.array([1.0, 2.0], mask=[0, 1])),
    ):
        with pytest.raises(TypeError, match="masked"):
            use()
    flags = np.array([0, 0, 0, 1], bool)
    arrays = {"observation": masked[:, None], "action": np.ones((4, 1)), "reward": np.ones(4)}
    with pytest.raises(TypeError, match="observation has masked values"):
        tm.TrajectoryBuffer(**arrays, terminal=flags, truncated=flags, context_length=2)
    with pytest.raises(TypeError, match="masked"):
        tm.MarkovChain.from_probabilities(np.ma.array(np.full((2, 2), 0.5), mask=[[0, 1], [0, 0]]))


TAKERS: dict[str, tuple[str, Any]] = {
    "windows": (
        "f4",
        lambda x: tm.TrajectoryBuffer(
            observation=x.reshape(1, 1),
            action=np.ones((1, 1)),
            reward=np.ones(1),
            terminal=np.ones(1, bool),
            truncated=np.zeros(1, bool),
            normalizer=None,
        ).windows([0])["observation"][0, -1],
    ),
    "codebook": (
        "f4",
        lambda x: MDPTransitions.from_arrays(
            *(np.zeros((1, 1), "u1") for _ in range(3)), state_vectors=x.reshape(1, 1), action_vectors=np.ones((1, 1))
        ).sample(1)["observation"][0],
    ),
    "floats": ("f8", lambda x: checks.floats("x", x, np.float64)),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("given", ["?", *INTEGERS, *FLOATS, ">i4", ">f4", ">f8", *OTHERS])
def test_whatever_takes_floats_keeps_them_or_refuses(taker: str, given: str) -> None:
    column, take = TAKERS[taker]
    native = given.replace(">", "")
    if native in OTHERS:
        with pytest.raises(TypeError, match="real numbers"):
            take(np.ones(1, native))
        return
    with np.errstate(over="ignore"):
        arrays = [np.array([value], native) for value in edges(native)]
    for array in arrays:
        if not np.isfinite(array.astype("f8")):
            continue
        if fits(array[0], native, column):
            np.testing.assert_array_equal(take(array.astype(given)), array.astype(column))
        else:
            with pytest.raises(ValueError, match=re.escape(f"can keep, got {array[0]}")):
                take(array.astype(given))


@pytest.mark.parametrize("values", [[[1j]], [["1"]], [[None]], np.ones((1, 1), "M8[s]")])
def test_a_law_is_of_real_numbers(values: Any) -> None:
    with pytest.raises(TypeError, match="transition must hold real numbers"):
        tm.MarkovChain.from_probabilities(values)


def test_returns_that_overflow_are_refused() -> None:
    ends = np.arange(4) == 3
    steps = {"observation": np.ones((4, 1)), "action": np.ones((4, 1)), "terminal": ends, "truncated": ~ends & ends}
    with pytest.raises(ValueError, match="larger return_scale"):
        tm.TrajectoryBuffer(**steps, reward=np.full(4, 3e38), return_scale=1.0)


@pytest.mark.parametrize(
    ("value", "column"), [(1.5, "i4"), (300, "u1"), (math.nan, "i8"), (2**24 + 1, "f4"), (1e39, "f4")]
)
def test_fills_are_not_rounded(value: float, column: str) -> None:
    buffers = [tm.ReplayBuffer(4, {"a": "f4", "x": column}), tm.ReplayBuffer(4, {"a": "f4"})]
    with warnings.catch_warnings(record=True) as told, pytest.raises(TypeError, match="the fill of 'x'"):
        warnings.simplefilter("always")
        tm.MixedReplay({str(i): (b, 1) for i, b in enumerate(buffers)}, fill={"x": value})
    assert not told


# --- roles of columns -------------------------------------------------------------------------------------------------

NOW, THEN = np.arange(6.0), np.arange(1, 7.0)
BROKEN = [0, 1, 2, 50, 51, 52], [1, 2, 3, 51, 52, 53]  # an episode begins in row 3 that no flag tells of
REST = {"reward": np.ones(6), "terminal": np.zeros(6, bool), "truncated": np.zeros(6, bool)}
REST_SCHEMA = {"reward": "f4", "terminal": "?", "truncated": "?"}
PAIRS: dict[str, dict[str, str]] = {
    "own": {"next_observation": "observation"},
    "other names": {"next_obs": "obs"},
    "nested": {"next_observation/state": "observation/state", "next_observation/image": "observation/image"},
    "two": {"next_observation": "observation", "next_goal": "goal"},
    "no hint": {"b": "a"},
}


@pytest.mark.parametrize("pairs", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("how", ["nothing", "following", "shared", "both"])
@pytest.mark.parametrize("environments", [1, 2])
def test_what_comes_after_n_steps_is_declared_or_refused(pairs: dict[str, str], how: str, environments: int) -> None:
    schema = dict.fromkeys(itertools.chain.from_iterable(pairs.items()), "f4") | REST_SCHEMA
    half = dict(list(pairs.items())[:1])
    options: dict[str, Any] = {
        "nothing": {},
        "following": {"following": pairs},
        "shared": {"shared": pairs},
        "both": {"following": pairs, "shared": half},
    }[how]

    def make() -> tm.ReplayBuffer:
        return tm.ReplayBuffer(16, schema, n_step=3, discount=0.5, environment_count=environments, **options)

    if how == "nothing" and pairs != PAIRS["own"]:
        with pytest.raises(ValueError, match="following="):
            make()
        return
    buffer = make()
    columns = {name: THEN if name in pairs else NOW for name in schema if name not in REST} | REST
    buffer.add(**{name: np.repeat(values, environments) for name, values in columns.items()})
    row = buffer[[0]]
    assert row["reward"] == 1.75
    assert row["discount"] == 0.125
    assert buffer.break_count == 0
    for name, of in pairs.items():
        assert row[name] == 3
        assert row[of] == 0
    raw = buffer.rows(slice(None))
    assert list(raw) == list(schema)
    for name, values in columns.items():
        np.testing.assert_array_equal(raw[name], np.repeat(values, environments))


@pytest.mark.parametrize("of", ["?", *INTEGERS, *FLOATS, ((2,), "f4"), ((2, 2), "f4"), ((4,), "f4")], ids=str)
@pytest.mark.parametrize("to", ["f4", "u1", ((4,), "f4")], ids=str)
@pytest.mark.parametrize("how", ["default", "following", "shared"])
def test_n_steps_are_cut_where_rows_do_not_follow_whatever_they_hold(of: Any, to: Any, how: str) -> None:
    pair = {"next_observation": "observation"}
    schema = {"observation": of, "next_observation": to} | REST_SCHEMA
    options = {} if how == "default" else {how: pair}
    if of != to:
        with pytest.raises(ValueError, match="dtype"):
            tm.ReplayBuffer(16, schema, n_step=3, **options)
        return
    buffer = tm.ReplayBuffer(16, schema, n_step=3, discount=0.5, **options)
    shape = (6, *buffer.batch_columns[0][1])
    now, then = (np.broadcast_to(np.array(x).reshape(6, *[1] * (len(shape) - 1)), shape) for x in BROKEN)
    with pytest.warns(RuntimeWarning, match="break_count"):
        buffer.add(observation=now, next_observation=then, **REST)
    np.testing.assert_array_equal(buffer[[0, 1, 2]]["discount"], [0.125, 0.25, 0.5])


@pytest.mark.parametrize("name", ["reward", "terminal", "truncated"])
@pytest.mark.parametrize("how", ["following", "shared"])
def test_what_n_steps_sum_up_follows_nothing(name: str, how: str) -> None:
    schema = {"a": REST_SCHEMA[name]} | REST_SCHEMA
    with pytest.raises(ValueError, match=f"makes '{name}' itself"):
        tm.ReplayBuffer(16, schema, n_step=3, **{how: {name: "a"}})


@pytest.mark.parametrize("change", ["last bit", "negative zero", "nothing"])
@pytest.mark.parametrize("at_once", [True, False])
def test_breaks_are_counted_and_told_of(change: str, at_once: bool) -> None:
    schema = {"observation": "f4", "next_observation": "f4"} | REST_SCHEMA
    buffer = tm.ReplayBuffer(16, schema, n_step=3, discount=0.5)
    now, then = (np.zeros(6, "f4"), -np.zeros(6, "f4")) if change == "negative zero" else (NOW, THEN)
    if change == "last bit":
        then = np.nextafter(then.astype("f4"), np.float32(np.inf))
    rows = {"observation": now, "next_observation": then} | REST
    rows["truncated"] = np.arange(6) == 2  # an end is no break

    def add() -> None:
        for part in [slice(None)] if at_once else [slice(i, i + 1) for i in range(6)]:
            buffer.add(**{name: values[part] for name, values in rows.items()})

    if change == "nothing":
        add()
        assert buffer.break_count == 0
        return
    with pytest.warns(RuntimeWarning, match="break_count") as told:
        add()
    assert len(told) == 1
    assert buffer.break_count == 4


# --- workers ----------------------------------------------------------------------------------------------------------


def sources() -> dict[str, Any]:
    buffer = tm.ReplayBuffer(1000, {"o": "f4"}, seed=1)
    buffer.add(o=np.arange(1000.0))
    step = np.random.default_rng(0).random((500, 1))
    ends = np.arange(500) % 50 == 49
    windows = tm.TrajectoryBuffer(
        observation=step, action=step, reward=step[:, 0], terminal=ends, truncated=ends, context_length=2
    )
    mdp = tm.MDPTransitions(
        tm.MDP(state_count=50, action_count=9), observation_dim=2, action_dim=2, trajectory_count=9, length=99
    )
    mixed = tm.MixedReplay(
        {"a": (buffer, 0.3), "b": (tm.MixedReplay({"a": (buffer, lambda draw: 1.0)}), 0.7)}, columns=["o"]
    )
    seeded = SeededBatches(tm.MixedReplay({"a": (mdp, 0.3), "b": (mdp, 0.7)}), seeds=[1, 2], batch_size=8)
    return {"buffer": buffer, "windows": windows, "mdp": mdp, "mixed": mixed, "seeded": seeded}


def first_column(batch: dict[str, np.ndarray]) -> bytes:
    return next(iter(batch.values())).tobytes()


@pytest.mark.parametrize("name", ["buffer", "windows", "mdp", "mixed", "seeded"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_make_together_what_one_makes(name: str, workers: int) -> None:
    one = sources()[name]
    wanted = [first_column(one.sample(16)) for _ in range(2 * workers)]
    got = []
    for worker in range(workers):
        source = sources()[name]
        source.share(worker, workers)
        got.append([first_column(source.sample(16)) for _ in range(2)])
    assert [batch for pair in zip(*got, strict=True) for batch in pair] == wanted


def test_a_feed_of_a_worker_goes_back_to_its_own_draws() -> None:
    source, other = sources()["mixed"], sources()["mixed"]
    for each in (source, other):
        each.share(1, 3)
    wanted = [first_column(other.sample(16)) for _ in range(8)]
    got: list[bytes] = []
    for count in (1, 0, 3, 4):
        with tm.feed(source, "cpu", batch_size=16) as feed:
            got += [first_column({n: t.numpy().copy() for n, t in next(feed).items()}) for _ in range(count)]
    assert got == wanted


def test_a_share_is_checked() -> None:
    source = sources()["buffer"]
    for worker, count in ((2, 2), (0, 0), (0, 2**20)):
        with pytest.raises(ValueError, match="worker must be below"):
            source.share(worker, count)
    source.share(0, 2)
    with pytest.raises(RuntimeError, match="already"):
        source.share(1, 2)


@pytest.mark.parametrize("name", ["buffer", "windows", "mixed"])
def test_forked_loader_workers_draw_what_one_process_draws(name: str) -> None:
    torch = pytest.importorskip("torch")
    source = sources()[name]

    class Batches(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            for _ in range(3):
                yield torch.frombuffer(bytearray(first_column(source.sample(8))), dtype=torch.uint8)

    loader = torch.utils.data.DataLoader(Batches(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    drawn = [bytes(batch.numpy()) for batch in loader]
    alone = sources()[name]
    assert drawn == [first_column(alone.sample(8)) for _ in range(6)]


@pytest.mark.parametrize("ahead", [0, 5])
@pytest.mark.parametrize("seed", [None, 3])
def test_an_epoch_that_is_left_loses_no_row(ahead: int, seed: int | None) -> None:
    """`ahead` batches are asked for beyond those that are used, as a loader's workers do."""
    sampler = CorpusSampler(200, batch_size=10, seed=seed)
    left = iter(sampler)
    used = [next(left) for _ in range(3)]
    for _ in range(ahead):
        next(left)
    for _ in range(2):
        assert sorted(np.concatenate(list(sampler))) == list(range(200))
    again = CorpusSampler(200, batch_size=10, seed=seed)
    begun = iter(again)
    for batch in used:
        np.testing.assert_array_equal(next(begun), batch)
    state = again.state_dict(batch_count=3)
    resumed = CorpusSampler(200, batch_size=10, seed=seed)
    resumed.load_state_dict(state)
    assert sorted(np.concatenate([*used, *resumed])) == list(range(200))
    assert sorted(np.concatenate(list(resumed))) == list(range(200))


@pytest.mark.parametrize("row_count", [1, 3, 5000])
def test_columns_are_found_by_name_in_any_order(row_count: int) -> None:
    names = ["é", "Ã©", "e", "ee", "日本"]
    columns = {name: np.arange(row_count, dtype="f4") + 10 * i for i, name in enumerate(names)}
    buffer = tm.ReplayBuffer(row_count, dict.fromkeys(names, "f4"))
    for order in itertools.permutations(names):
        buffer.add(**{name: columns[name] for name in order})
        for name, values in buffer[:].items():
            np.testing.assert_array_equal(values, columns[name])
        out = {name: np.zeros(4, "f4") for name in order}
        found = buffer.sample(4, out=out)
        assert len({(found[name] - columns[name][0]).tobytes() for name in names}) == 1
    with pytest.raises(ValueError, match="add lacks the column 'Ã©'"):
        buffer.add(**{name: columns[name] for name in names if name != "Ã©"})
    with pytest.raises(ValueError, match="got a column"):
        buffer.add(**columns, **{"\ud800": columns["e"]})
