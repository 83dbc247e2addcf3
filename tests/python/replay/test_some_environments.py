"""Rows of some of the environments that a buffer is for: what follows what, whichever are left out and in any order."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_oracle import ReplayOracle, Row, same

import trajmill as tm

SCHEMA: dict[str, Any] = {
    "observation": ((2,), "f4"),
    "reward": "f4",
    "next_observation": ((2,), "f4"),
    "terminal": "?",
    "truncated": "?",
}
SHARED = {"next_observation": "observation"}


class Environments:
    """Environments that walk on at random, end, are truncated, or are reset without either."""

    def __init__(self, count: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.at = self.random.standard_normal((count, 2)).astype(np.float32)

    def step(self, environment: int) -> Row:
        end = self.random.choice(["", "terminal", "truncated", "reset"], p=[0.8, 0.07, 0.07, 0.06])
        after = self.random.standard_normal(2).astype(np.float32)
        row = {
            "observation": self.at[environment].copy(),
            "reward": np.float32(self.random.standard_normal()),
            "next_observation": after,
            "terminal": end == "terminal",
            "truncated": end == "truncated",
        }
        self.at[environment] = self.random.standard_normal(2) if end else after
        return row

    def some(self, most: int) -> list[int]:
        """Numbers of environments: a subset, all of them in order, several steps of a few; up to `most`."""
        count = len(self.at)
        kind = self.random.integers(4)
        if kind == 0:
            return list(range(count)) * int(self.random.integers(0, most // count + 1))
        if kind == 1:
            return self.random.integers(0, count, self.random.integers(0, most + 1)).tolist()
        chosen = self.random.permutation(count)[: self.random.integers(1, count + 1)]
        return (np.sort(chosen) if kind == 2 else chosen).tolist()


def columns_of(rows: list[Row]) -> dict[str, Any]:
    columns = {name: np.array([row[name] for row in rows]) for name in SCHEMA}
    return columns if rows else {name: values[:0] for name, values in columns_of([Environments(1, 0).step(0)]).items()}


def assert_agree(buffer: tm.ReplayBuffer, oracle: ReplayOracle) -> None:
    slots = oracle.slots()
    assert (len(buffer), buffer.row_count) == (len(slots), oracle.added)
    for name, values in buffer[slots].items():
        wanted = np.array([oracle.batch_row(slot)[name] for slot in slots], values.dtype).reshape(values.shape)
        assert same(values, wanted), name
    for name, values in buffer.rows(slots).items():
        wanted = np.array([oracle.rows[oracle.number(slot)][name] for slot in slots], values.dtype)
        assert same(values, wanted.reshape(values.shape)), name


@pytest.mark.filterwarnings("ignore:n_step")
@pytest.mark.parametrize("n_step", [1, 2, 3, 4, 5])
def test_any_rows_of_any_environments(tmp_path: Path, n_step: int) -> None:
    kinds: list[dict[str, Any]] = [{"shared": SHARED}, {}, {"shared": SHARED, "prioritized": True}]
    for kind, (environments, rounds) in enumerate([(2, 9), (3, 2), (5, 6)], n_step):
        path, options, is_stored = tmp_path / str(environments), kinds[kind % 3], kind % 2 == 0
        settings = {"environment_count": environments, "n_step": n_step, "discount": 0.9}
        oracle = ReplayOracle(rounds * environments, **settings)
        settings |= options
        if is_stored:
            settings["path"] = path
        buffer = tm.ReplayBuffer(oracle.capacity, SCHEMA, **settings)
        world = Environments(environments, seed=n_step)
        for turn in range(45):
            numbers = world.some(oracle.capacity)
            rows = [world.step(number) for number in numbers]
            together = numbers == list(range(environments)) * (len(numbers) // environments)
            given = {} if together and turn % 2 else {"environments": np.array(numbers, np.uint8)}
            assert buffer.add(**columns_of(rows), **given) == oracle.add(rows, numbers)
            assert_agree(buffer, oracle)
            if turn % 15 == 7 and is_stored:
                buffer.close()
                buffer = tm.ReplayBuffer(oracle.capacity, SCHEMA, **settings)
                assert_agree(buffer, oracle)
            elif turn % 15 == 7:
                buffer.save(path)
                buffer = tm.ReplayBuffer.load(path)
                assert_agree(buffer, oracle)
            elif turn % 30 == 29:
                buffer.clear()
                oracle.clear()
        if options.get("prioritized") or not oracle.rows:
            continue
        mixed = tm.MixedReplay({"one": (buffer, 1.0), "same": (buffer, 1.0)}).sample(40)
        drawn = [slot for _ in range(2) for slot in oracle.draw(20)]
        assert same(mixed["reward"], np.array([oracle.batch_row(slot)["reward"] for slot in drawn], np.float32))


def test_left_out_rows_break_nothing() -> None:
    """Next-step autoreset: the row of a step that resets is left out, and n-step returns go on around it."""
    buffer = tm.ReplayBuffer(64, SCHEMA, n_step=3, discount=0.5, environment_count=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(5):
            keep = [0, 1, 3] if step == 2 else [0, 1, 2, 3]
            here = np.array([[10.0 * e + step - (e == 2 and step > 2), 0.0] for e in keep], np.float32)
            flags = np.zeros(len(keep), bool)
            buffer.add(
                observation=here,
                next_observation=here + np.array([1, 0], np.float32),
                reward=np.ones(len(keep)),
                terminal=flags,
                truncated=flags,
                environments=keep,
            )
    assert buffer.break_count == 0
    batch = buffer[:]
    begin = batch["observation"][:, 0]
    last = np.where(begin // 10 == 2, 24, begin // 10 * 10 + 5)
    steps = np.minimum(3, last - begin)
    np.testing.assert_array_equal(batch["discount"], 0.5**steps)
    np.testing.assert_array_equal(batch["next_observation"][:, 0], begin + steps)


@pytest.mark.parametrize(
    ("environments", "error", "message"),
    [
        ([0, 1, 4], ValueError, r"environments must be in \[0, 4\), got 4 at 2"),
        ([0, -1, 2], ValueError, r"environments must be in \[0, 4\), got -1 at 1"),
        (np.array([0, 1, 2**63], np.uint64), ValueError, r"environments must be in \[0, 4\)"),
        ([0, 1], ValueError, "environments must have one number for each of 3 rows, got 2"),
        ([], ValueError, "environments must have one number for each of 3 rows, got 0"),
        (2, TypeError, "environments must be integers in one dimension"),
        ([0.0, 1.0, 2.0], TypeError, "environments must be integers in one dimension"),
        ([True, True, False], TypeError, "environments must be integers in one dimension, got bool"),
        (None, TypeError, "environments must be integers|array"),
    ],
)
def test_environments_that_there_are_not(environments: Any, error: type[Exception], message: str) -> None:
    buffer = tm.ReplayBuffer(8, SCHEMA, environment_count=4)
    world = Environments(4, seed=0)
    with pytest.raises(error, match=message):
        buffer.add(**columns_of([world.step(0) for _ in range(3)]), environments=environments)
    assert (len(buffer), buffer.row_count) == (0, 0)


def test_what_add_says_without_environments() -> None:
    world = Environments(4, seed=0)
    rows = columns_of([world.step(0) for _ in range(3)])
    with pytest.raises(ValueError, match=r"a multiple of 4, got 3; for .* some of them say .* environments=\[0, 1\]"):
        tm.ReplayBuffer(8, SCHEMA, environment_count=4).add(**rows)
    one = tm.ReplayBuffer(8, SCHEMA)
    one.add(**rows, environments=[0, 0, 0])
    with pytest.raises(ValueError, match=r"environments must be in \[0, 1\), got 1 at 0"):
        one.add(**rows, environments=[1, 0, 0])
    with pytest.raises(ValueError, match="the schema has a column 'environments'"):
        tm.ReplayBuffer(8, SCHEMA | {"environments": "i4"}, environment_count=2)
    named = tm.ReplayBuffer(8, {"environments": "i4"})
    named.add(environments=[5, 6])
    with pytest.raises(ValueError, match="got a column 'x'"):
        named.add(environments=[5, 6], x=[1, 2])
    assert named[:]["environments"].tolist() == [5, 6]
