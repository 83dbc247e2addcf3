"""The replay buffer against a list of rows, whatever is done to it and in whatever order."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import windows_twin
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from replay_oracle import ReplayOracle, Row, same

import trajmill as tm

SCHEMA: dict[str, Any] = {
    "truncated": "?",
    "observation": ((2,), "f4"),
    "reward": "f4",
    "next_observation": ((2,), "f4"),
    "terminal": "?",
    "id": "u2",
}
ALPHA = 0.7


class ReplayMachine(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 2**64 - 1),
        environments=st.sampled_from([1, 1, 3, 4]),
        rounds=st.integers(1, 7),
        n_step=st.sampled_from([1, 1, 2, 3, 5]),
        is_shared=st.booleans(),
        is_prioritized=st.booleans(),
        is_stored=st.booleans(),
    )
    def begin(
        self,
        seed: int,
        environments: int,
        rounds: int,
        n_step: int,
        is_shared: bool,
        is_prioritized: bool,
        is_stored: bool,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name) / "buffer"
        self.is_stored = is_stored
        self.options: dict[str, Any] = {"seed": seed, "environment_count": environments, "n_step": n_step}
        self.oracle = ReplayOracle(rounds * environments, discount=0.9, **self.options)
        self.options |= {"discount": 0.9, "prioritized": is_prioritized, "alpha": ALPHA}
        self.options["following"] = {"next_observation": "observation"}
        if is_shared:
            self.options["shared"] = {"next_observation": "observation"}
        self.is_prioritized = is_prioritized
        self.buffer = self.open()
        self.random = np.random.default_rng(seed)
        self.next_id = 0

    def open(self) -> tm.ReplayBuffer:
        path = self.file if self.is_stored else None
        return tm.ReplayBuffer(self.oracle.capacity, SCHEMA, path=path, **self.options)

    def teardown(self) -> None:
        if hasattr(self, "buffer"):
            self.buffer.close()
            self.folder.cleanup()

    def new_rows(self, environments: list[int]) -> list[Row]:
        """Rows that mostly follow one another, with few values, so that chance makes equal observations too."""
        rows: list[Row] = []
        latest = {self.oracle.environment_of[number]: row for number, row in sorted(self.oracle.rows.items())}
        for environment in environments:
            previous = latest.get(environment)
            follows = previous is not None and self.random.random() < 0.7
            values = np.array([0.0, -0.0, 1.0, np.nan], np.float32)
            rows.append(
                {
                    "observation": previous["next_observation"]
                    if follows and previous
                    else self.random.choice(values, 2),
                    "next_observation": self.random.choice(values, 2),
                    "reward": np.float32(self.random.standard_normal()),
                    "terminal": self.random.random() < 0.1,
                    "truncated": self.random.random() < 0.1,
                    "id": self.next_id % 2**16,
                }
            )
            latest[environment] = rows[-1]
            self.next_id += 1
        return rows

    def add(self, environments: list[int], *, are_given: bool) -> None:
        rows = self.new_rows(environments)
        columns = {name: np.array([row[name] for row in rows], self.buffer[:0][name].dtype) for name in SCHEMA}
        columns = {
            name: values.reshape(len(rows), *self.buffer[:0][name].shape[1:]) for name, values in columns.items()
        }
        given = {"environments": environments} if are_given else {}
        assert self.buffer.add(**columns, **given) == self.oracle.add(rows, environments)

    @rule(share=st.floats(0, 1))
    def add_batch(self, share: float) -> None:
        environments = self.oracle.environments
        rounds = round(share * self.oracle.capacity / environments)
        self.add(list(range(environments)) * rounds, are_given=False)

    @precondition(lambda self: self.oracle.environments == 1)
    @rule()
    def add_step(self) -> None:
        (row,) = self.new_rows([0])
        assert self.buffer.add(**row) == self.oracle.add([row])

    @rule(data=st.data())
    def add_of_some_environments(self, data: st.DataObject) -> None:
        one = st.integers(0, self.oracle.environments - 1)
        self.add(data.draw(st.lists(one, max_size=min(12, self.oracle.capacity))), are_given=True)

    @rule(data=st.data())
    def add_step_of_an_environment(self, data: st.DataObject) -> None:
        environment = data.draw(st.integers(0, self.oracle.environments - 1))
        (row,) = self.new_rows([environment])
        assert self.buffer.add(**row, environments=environment) == self.oracle.add([row], [environment])

    @precondition(lambda self: self.oracle.rows)
    @rule(batch_size=st.integers(1, 200), threads=st.integers(1, 3))
    def sample(self, batch_size: int, threads: int) -> None:
        if not self.is_prioritized:
            self.check(self.buffer.sample(batch_size, threads=threads), self.oracle.draw(batch_size))
        elif any(self.oracle.priorities.values()):
            batch = self.buffer.sample(batch_size, beta=0.5)
            slots = batch.pop("indexes").tolist()
            self.oracle.check_prioritized(slots, ALPHA)
            priorities = np.array([self.oracle.priorities[self.oracle.number(slot)] for slot in slots])
            wanted = (priorities**ALPHA / (priorities**ALPHA).min()) ** -0.5
            np.testing.assert_allclose(batch.pop("weights"), wanted, rtol=1e-5)
            self.check(batch, slots)

    @precondition(lambda self: self.oracle.rows and not self.is_prioritized)
    @rule(share=st.floats(0, 1))
    def sample_without_replacement(self, share: float) -> None:
        batch_size = max(1, round(share * len(self.oracle.rows)))
        slots = self.oracle.draw(batch_size, replace=False)
        assert len(set(slots)) == batch_size
        self.check(self.buffer.sample(batch_size, replace=False), slots)

    @rule(batch_size=st.integers(1, 9), epoch=st.integers(0, 3), share=st.floats(0, 1))
    def epoch(self, batch_size: int, epoch: int, share: float) -> None:
        slots = self.oracle.epoch(epoch) if self.oracle.rows else []
        first = round(share * len(slots))
        batches = list(self.buffer.epoch(batch_size, epoch=epoch, first_row=first))
        for i, batch in enumerate(batches):
            begin = first + i * batch_size
            self.check(batch, slots[begin : begin + batch_size])
        assert len(batches) == -(-(len(slots) - first) // batch_size)

    @precondition(lambda self: self.is_prioritized and self.oracle.rows)
    @rule(data=st.data())
    def update_priorities(self, data: st.DataObject) -> None:
        slots = data.draw(st.lists(st.sampled_from(self.oracle.slots()), max_size=12))
        priorities = [data.draw(st.sampled_from([0.0, 1e-6, 0.5, 1.0, 3.0])) for _ in slots]
        self.buffer.update_priorities(slots, priorities)
        self.oracle.update_priorities(slots, priorities)

    @precondition(lambda self: self.oracle.rows and not self.is_prioritized)
    @rule(batch_size=st.integers(1, 40), weight=st.sampled_from([0.0, 0.5, 1.0, 7.0]))
    def mix(self, batch_size: int, weight: float) -> None:
        made = {
            name: np.ones((40, *values.shape[1:]), values.dtype)
            for name, values in self.buffer[self.oracle.slots()[:1]].items()
        }
        mixed = tm.MixedReplay(
            {
                "buffer": (self.buffer, 1.0),
                "made": (lambda count: {name: values[:count] for name, values in made.items()}, weight),
            }
        )
        given = owed = 0.0
        for _ in range(3):
            batch = mixed.sample(batch_size)
            source = batch.pop("source")
            count = int((source == 0).sum())
            given, owed = given + count, owed + batch_size / (1 + weight)
            assert abs(given - owed) < 1 and source.tolist() == [0] * count + [1] * (batch_size - count)
            assert all((values[count:] == 1).all() for values in batch.values())
            self.check(
                {name: values[:count] for name, values in batch.items()}, self.oracle.draw(count) if count else []
            )

    @precondition(lambda self: any(row["terminal"] or row["truncated"] for row in self.oracle.rows.values()))
    @rule(context_length=st.integers(1, 5), data=st.data())
    def windows(self, context_length: int, data: st.DataObject) -> None:
        rows = [self.oracle.rows[number] for number in sorted(self.oracle.rows)]
        columns = {name: np.nan_to_num(np.array([row[name] for row in rows])) for name in ("observation", "reward")}
        columns["action"] = columns["observation"][:, :1] + 1
        columns |= {name: np.array([row[name] for row in rows]) for name in ("terminal", "truncated")}
        episodes = windows_twin.split(columns)
        starts = [(number, start) for number, episode in enumerate(episodes) for start in range(len(episode["reward"]))]
        chosen = data.draw(st.lists(st.integers(0, len(starts) - 1), min_size=1, max_size=5))
        buffer = tm.TrajectoryBuffer(**columns, context_length=context_length, normalizer=None)
        expected = windows_twin.windows(episodes, [starts[i] for i in chosen], context_length, 0.0, 1.0, flags=())
        found = buffer.windows(chosen)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)

    @precondition(lambda self: self.oracle.rows and not self.is_prioritized)
    @rule(batch_size=st.integers(1, 20), batches=st.integers(0, 4))
    def feed(self, batch_size: int, batches: int) -> None:
        with tm.feed(self.buffer, "cpu", batch_size=batch_size, ahead=3) as feed:
            for _ in range(batches):
                batch = {name: values.numpy() for name, values in next(feed).items()}
                self.check(batch, self.oracle.draw(batch_size))

    @precondition(lambda self: self.oracle.rows and not self.is_prioritized)
    @rule(batch_size=st.integers(1, 20))
    def copy_to_a_device(self, batch_size: int) -> None:
        draws = self.oracle.draws
        resident = self.buffer.to("cpu")
        for _ in range(2):
            batch = {name: values.numpy() for name, values in resident.sample(batch_size).items()}
            self.check(batch, self.oracle.draw(batch_size))
        self.oracle.draws = draws

    @rule()
    def clear(self) -> None:
        self.buffer.clear()
        self.oracle.clear()

    @precondition(lambda self: not self.is_stored)
    @rule()
    def save_and_load(self) -> None:
        self.buffer.save(self.file)
        self.buffer.close()
        self.buffer = tm.ReplayBuffer.load(self.file)

    @precondition(lambda self: self.is_stored)
    @rule()
    def close_and_open(self) -> None:
        self.buffer.close()
        self.buffer = self.open()

    @invariant()
    def every_row_is_there(self) -> None:
        if hasattr(self, "buffer"):
            assert len(self.buffer) == len(self.oracle.rows)
            assert (self.buffer.row_count, self.buffer.draw_count) == (self.oracle.added, self.oracle.draws)
            assert self.buffer.largest_priority == self.oracle.largest_priority
            self.check(self.buffer[self.oracle.slots()], self.oracle.slots())

    def check(self, batch: dict[str, Any], slots: list[int]) -> None:
        assert list(batch) == [*SCHEMA, "discount"][: len(SCHEMA) + (self.oracle.n_step > 1)]
        rows = [self.oracle.batch_row(slot) for slot in slots]
        for name, values in batch.items():
            wanted = np.array([row[name] for row in rows], values.dtype).reshape(values.shape)
            assert same(values, wanted), name


TestReplay = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:n_step")(
    ReplayMachine.TestCase
)
TestReplay.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
