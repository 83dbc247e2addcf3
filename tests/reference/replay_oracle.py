"""A replay buffer, slowly: a list of rows, and the draws as cpp/include/trajmill/replay_buffer.hpp words them."""

from __future__ import annotations

from typing import Any

import numpy as np
from corpus_order import derived_key, permuted

from trajmill import _core

REPLAY_INDEXES, REPLAY_ORDER = 14, 15  # the domains' numbers

Row = dict[str, Any]


def same(a: Any, b: Any) -> bool:
    """Equal byte by byte."""
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


class ReplayOracle:
    def __init__(
        self, capacity: int, *, seed: int = 0, environment_count: int = 1, n_step: int = 1, discount: float = 0.99
    ) -> None:
        self.capacity, self.seed = capacity, seed
        self.environments, self.n_step, self.discount = environment_count, n_step, discount
        self.rows: dict[int, Row] = {}  # by number
        self.environment_of: dict[int, int] = {}  # by number
        self.priorities: dict[int, float] = {}
        self.largest_priority = 1.0
        self.added = self.draws = 0

    def add(self, rows: list[Row], environments: list[int] | None = None) -> int:
        slot = self.added % self.capacity
        for i, row in enumerate(rows):
            self.rows[self.added], self.priorities[self.added] = row, self.largest_priority
            self.environment_of[self.added] = i % self.environments if environments is None else environments[i]
            self.rows.pop(self.added - self.capacity, None)
            self.priorities.pop(self.added - self.capacity, None)
            self.added += 1
        return slot

    def clear(self) -> None:
        self.rows, self.priorities = {}, {}
        self.added = -(-self.added // self.capacity) * self.capacity

    def number(self, slot: int) -> int:
        return next(number for number in self.rows if number % self.capacity == slot)

    def neighbour(self, number: int, step: int) -> int | None:
        """The number of the row after (step 1) or before (-1) one in its environment, if it is there."""
        other = number + step
        while other in self.rows:
            if self.environment_of[other] == self.environment_of[number]:
                return other
            other += step
        return None

    def slots(self) -> list[int]:
        """Slots that hold a row, in the order in which draws count them."""
        taken = [number % self.capacity for number in self.rows]
        return sorted(taken) if len(taken) == self.capacity else taken

    def uniform(self, row: int, draw: int) -> int:
        key = derived_key(self.seed, REPLAY_INDEXES)
        words = _core.philox4x32([row // 2, draw % 2**32, draw >> 32, 0], key)
        return words[row % 2 * 2] << 32 | words[row % 2 * 2 + 1]

    def draw(self, batch_size: int, *, replace: bool = True) -> list[int]:
        """The slots of the next draw."""
        draw, size, slots = self.draws, len(self.rows), self.slots()
        self.draws += 1
        if not replace:
            key = derived_key(self.seed, REPLAY_ORDER, size, draw)
            return [slots[permuted(r, size=size, key=key)] for r in range(batch_size)]
        return [slots[self.uniform(r, draw) * size >> 64] for r in range(batch_size)]

    def check_prioritized(self, slots: list[int], alpha: float) -> None:
        """Fail unless `slots` are a next draw: each within rounding of its place in the sum."""
        weights = np.array(
            [self.priorities[self.number(slot)] ** alpha for slot in range(self.capacity) if self.has(slot)]
        )
        taken = [slot for slot in range(self.capacity) if self.has(slot)]
        ends = np.cumsum(weights)
        draw, count = self.draws, len(slots)
        self.draws += 1
        for r, slot in enumerate(slots):
            target = (r + (self.uniform(r, draw) >> 11) / 2**53) / count * ends[-1]
            at = taken.index(slot)
            assert weights[at] > 0
            assert ends[at] - weights[at] - 1e-9 * ends[-1] <= target <= ends[at] + 1e-9 * ends[-1]

    def has(self, slot: int) -> bool:
        return any(number % self.capacity == slot for number in self.rows)

    def epoch(self, epoch: int) -> list[int]:
        size, slots = len(self.rows), self.slots()
        key = derived_key(self.seed, REPLAY_ORDER, size, epoch, 1)
        return [slots[permuted(r, size=size, key=key)] for r in range(size)]

    def batch_row(self, slot: int) -> Row:
        """What a batch has of the row in a slot."""
        number = self.number(slot)
        if self.n_step == 1:
            return self.rows[number]
        steps = [self.rows[number]]
        while len(steps) < self.n_step and not (steps[-1]["terminal"] or steps[-1]["truncated"]):
            following = self.neighbour(number, 1)
            if following is None or not same(steps[-1]["next_observation"], self.rows[following]["observation"]):
                break
            number = following
            steps.append(self.rows[number])
        reward, factor = 0.0, 1.0
        for step in steps:
            reward += factor * float(step["reward"])
            factor *= self.discount
        last = {name: steps[-1][name] for name in ("next_observation", "terminal", "truncated")}
        return steps[0] | last | {"reward": np.float32(reward), "discount": np.float32(factor)}

    def update_priorities(self, slots: list[int], priorities: list[float]) -> None:
        for slot, priority in zip(slots, priorities, strict=True):
            self.priorities[self.number(slot)] = priority
            self.largest_priority = max(self.largest_priority, priority)
