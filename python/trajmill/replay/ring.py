"""A ring of transitions that agents fill while they learn: a table that environments feed.

Every seed steps E environments of its own, all of them together, and keeps its newest transitions. The order depends on
the number of an update alone (`Interaction`): before update u there are ``steps_before(u)`` steps, by the agent as
all updates before have left it. Chance has addresses: the actions of a step are drawn for (seed, step), the start of an
episode for (seed, environment, episode), and the rows of a batch for (seed, update), as in every other table. So a run
that was stopped and goes on, or that has other seeds beside it, makes the same steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.core.files import remove
from trajmill.core.seeds import hashed_seed
from trajmill.data.actions import ActionLimit, to_environment
from trajmill.replay.replay_buffer import ReplayBuffer
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts
from trajmill.training.checkpoint import CheckpointError, read_checkpoint, save_tensors
from trajmill.training.draws import Draws, even, indexes, shaped_normals, uniforms
from trajmill.training.settings import Interaction

Explore = Callable[[Tensor, Tensor], Tensor]
"""observations (S, E, O) and standard normals (S, E, A) -> actions (S, E, A) within ±1"""

_EPISODES = 0x6F6E_6C69
"""first word of the addresses of episodes (ASCII "onli"); those of evaluations have one word"""
_SITE = 1 << 16
"""number of the first site of exploring; a method's own begin at 0"""
_AT_ONCE = 64
"""numbers of updates or steps for which words are made together"""
_WATCHED = 100
"""steps between two of which progress is told"""


class StepResult(Protocol):
    """What a step of B environments gives."""

    @property
    def observation(self) -> NDArray[np.float64]:
        """(B, O)."""

    @property
    def reward(self) -> NDArray[np.float64]:
        """(B,)."""

    @property
    def terminal(self) -> NDArray[np.bool_]:
        """(B,): whether the task ends here."""

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """(B,): whether the environment cuts the episode here; the ring cuts it at a limit too."""


class Environments(Protocol):
    """B environments that are stepped together (`trajmill.evaluation.simulators.Simulator`)."""

    def reset(self, seeds: Sequence[int], slots: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Begin an episode in each of the slots (None: the first ones); observations (len(seeds), O)."""

    def step(self, actions: NDArray[np.float32]) -> StepResult:
        """Step all."""

    def snapshot(self) -> NDArray[np.float64]:
        """All that further steps depend on, (B, K)."""

    def resume(self, snapshot: NDArray[np.float64]) -> None:
        """Go on from a snapshot."""


@dataclass(frozen=True, slots=True)
class Turns:
    """How steps of all environments and updates alternate: so many steps first, then some of each, one of either."""

    first: int
    """steps before the first update"""
    updates: int
    steps: int

    @classmethod
    def of(cls, interaction: Interaction, environment_count: int, batch_size: int) -> Turns:
        """As `interaction` asks; ValueError if they cannot."""
        ratio = Fraction(interaction.updates_per_step).limit_denominator(10**6) * environment_count
        if 1 not in (ratio.numerator, ratio.denominator) or not ratio:
            raise ValueError(
                f"updates for each step of {environment_count} environments must be a whole number or 1 / a whole "
                f"number, at most 1,000,000, got {environment_count} * {interaction.updates_per_step:g}; change "
                f"environments or interaction.updates_per_step"
            )
        before = interaction.random_steps + interaction.warmup_steps
        return cls(-(-max(before + 1, batch_size) // environment_count), ratio.numerator, ratio.denominator)

    def before(self, update: int) -> int:
        """How many steps come before an update, counted from 0."""
        return self.first + update * self.steps // self.updates

    def updates_in(self, steps: int) -> int:
        """How many updates come before another step than the first so many."""
        return max(0, -(-(steps - self.first + 1) * self.updates // self.steps))


class Ring(Table[TransitionBatch, TransitionFacts]):
    """Transitions of S seeds with `environment_count` environments each, the newest `capacity` of each seed.

    `environments` are S·E, seed by seed, whose actions are within `action_limit` and whose episodes are cut after
    `episode_limit` steps, which is a truncation. `facts.normalizer`, if any, standardizes what the agent sees; rows are
    kept as they come. `offline` are rows of which every batch has the share `offline_ratio`, see `mix`. Files of rows
    say what `described` has, plain JSON, beside seed, number of environments and limit of actions
    (`trajmill.data.formats.replay` reads them). ValueError if steps and updates cannot alternate as `interaction` asks.

    An environment that gives NaN, or an agent that acts so, ends its seed: it is named in a RuntimeWarning, its rewards
    are NaN in batches from then on, and the others go on. A row that an environment failed to give has that reward.
    """

    def __init__(
        self,
        environments: Environments,
        seeds: Sequence[int],
        interaction: Interaction,
        *,
        environment_count: int,
        batch_size: int,
        capacity: int,
        episode_limit: int,
        action_limit: ActionLimit,
        facts: TransitionFacts,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        offline: Mapping[str, NDArray[np.float32]] | None = None,
        offline_ratio: float = 0.0,
        described: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(device, dtype, facts)
        self._others: dict[str, tuple[int, Mapping[str, NDArray[Any]]]] = {}  # rows in a batch, and all there are
        self._environments, self._seeds = environments, list(seeds)
        self._shape = shape = (len(seeds), environment_count)
        self._limits: tuple[int, ActionLimit] = episode_limit, action_limit
        self._described = {"environments": environment_count, "action_limit": action_limit} | dict(described or {})
        self._random_steps = interaction.random_steps
        self._turns = Turns.of(interaction, environment_count, batch_size)
        self.period = self._turns.updates
        self._capacity = -(-capacity // environment_count)  # steps
        o, a = facts.observation_dim, facts.action_dim
        numbers = {"observation": o, "action": a, "reward": (), "next_observation": o}
        self._buffer = ReplayBuffer(
            self._capacity * len(seeds) * environment_count,
            {name: (size, "f4") for name, size in numbers.items()} | {"terminal": "?", "truncated": "?"},
            shared={"next_observation": "observation"},
            environment_count=len(seeds) * environment_count,
        )
        self._lost = 0  # steps that were made before the first one in the buffer
        self._stored = 0  # steps whose rows are in files
        cpu = torch.device("cpu")
        draws = Draws.of(seeds, {"action": even(environment_count * a)}, cpu, first_site=_SITE)
        acted = (environment_count, a)
        self._uniform = _Ahead(
            draws, lambda words: uniforms(words[..., : np.prod(acted)], torch.float32).unflatten(-1, acted) * 2.0 - 1.0
        )
        self._noise = _Ahead(draws, lambda words: shaped_normals(words, acted, dtype).to(device))
        self._batch_size = batch_size
        self._words = _Ahead(Draws.of(seeds, {"batch": batch_size}, cpu), lambda words: words)
        self._explore: Explore | None = None
        self._before_step: Callable[[], None] = lambda: None
        self._watch: Callable[[int], None] = lambda steps: None
        first = environments.reset(self._episode_seeds(np.zeros(shape, np.int64), np.arange(np.prod(shape))))
        self._state: dict[str, NDArray[Any]] = {
            "steps": np.zeros((), np.int64),
            "observation": first.astype(np.float32).reshape(*shape, o),
            "simulation": environments.snapshot().reshape(*shape, -1),
            "episode": np.zeros(shape, np.int64),
            "length": np.zeros(shape, np.int64),
            "return_so_far": np.zeros(shape),
            "last_return": np.zeros(shape),
            "has_failed": np.zeros(len(seeds), np.bool_),
        }
        if offline is not None:
            self.mix("offline", {name: rows[None] for name, rows in offline.items()}, offline_ratio)
        self.reserve(1)

    def begin(
        self,
        explore: Explore,
        before_step: Callable[[], None] = lambda: None,
        watch: Callable[[int], None] = lambda steps: None,
    ) -> None:
        """Let `explore` act from now on; it is asked again before every step, and `before_step` called before that.

        `watch` is told now and then how many steps each seed has made.
        """
        self._explore, self._before_step, self._watch = explore, before_step, watch

    def mix(self, name: str, columns: Mapping[str, NDArray[Any]], share: float) -> None:
        """Let every batch have a share of other rows, rounded down, after those of the ring, in the order of first use.

        `columns` (1 or S, N, ...) are those of a batch, raw, for all seeds or for each; rows of that name are replaced.
        """
        count = int(self._batch_size * share)
        self._others[name] = count, {column: self._seen(column, rows) for column, rows in columns.items()}

    @property
    def environment_count(self) -> int:
        """Environments of each seed."""
        return self._shape[1]

    @property
    def steps(self) -> int:
        """How often the environments have been stepped."""
        return int(self._state["steps"])

    def rows(self, position: int) -> dict[str, NDArray[Any]]:
        """All rows of a seed that are kept, as they came: those of one environment after another, in order of time.

        The last one of each environment is truncated unless it is terminal.
        """
        steps = np.arange(self._oldest(), self.steps)
        columns = self._buffer[self._slots_of(position, steps, np.arange(self._shape[1])[:, None]).ravel()]
        columns["truncated"][len(steps) - 1 :: len(steps)] = True
        columns["truncated"] &= ~columns["terminal"]
        return columns

    def has_failed(self, position: int) -> bool:
        """Whether a seed has failed."""
        return bool(self._state["has_failed"][position])

    def fail(self, position: int, fault: str) -> None:
        """Let a seed fail, which is said once: its rewards are NaN from now on."""
        if not self.has_failed(position):
            step = self.steps * self._shape[1]
            message = f"seed {self._seeds[position]} has failed at step {step:,}: {fault}; the others go on"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        self._state["has_failed"][position] = True

    def steps_before(self, update: int) -> int:
        """How often the environments are stepped before an update, counted from 0."""
        return self._turns.before(update)

    def report(self) -> dict[str, list[float]]:
        """Steps made and, once an episode has ended, the mean of every environment's last return; one of each seed."""
        ended = self._state["episode"] > 0
        with np.errstate(invalid="ignore"):
            returns = (self._state["last_return"] * ended).sum(1) / ended.sum(1)
        steps = self.steps * self._shape[1]
        return {"environment_steps": [float(steps)] * len(self._seeds), "training_return": returns.tolist()}

    # --- what is kept in checkpoints and beside them ---

    def moving(self) -> dict[str, Tensor]:
        """All that steps change, but for the rows."""
        self._state["simulation"][...] = self._environments.snapshot().reshape(self._state["simulation"].shape)
        return {name: torch.from_numpy(array) for name, array in self._state.items()}

    def store(self, directory: Path) -> None:
        """Write the rows that are new since the last time into files, one a seed: ``SEED/FIRST_ROW.safetensors``."""
        first, end = max(self._stored, self._oldest()), self.steps
        for position, seed in enumerate(self._seeds if first < end else []):
            slots = self._slots_of(position, np.arange(first, end)[:, None], np.arange(self._shape[1]))
            columns = self._buffer[slots.ravel()]
            path = directory / str(seed) / f"{first * self._shape[1]:012d}.safetensors"
            write_rows(path, columns, {**self._described, "kind": "replay", "seed": seed})
        self._stored = end

    def load(self, directory: Path) -> None:
        """Go on from what `moving` was filled with, and from the rows in the files; those of later steps are removed.

        CheckpointError if some are missing.
        """
        if len(self._buffer):
            raise ValueError("a ring loads rows before it has any")
        self._environments.resume(self._state["simulation"].reshape(int(np.prod(self._shape)), -1))
        e, end = self._shape[1], self.steps
        self._lost = max(0, end - self._capacity)
        parts = [_read_rows(directory / str(seed), self._lost * e, end * e) for seed in self._seeds]
        columns = {
            name: np.stack([part[name].reshape(-1, e, *part[name].shape[1:]) for part in parts], 1) for name in parts[0]
        }
        for begin in range(0, end - self._lost, 4096):
            some = {name: column[begin : begin + 4096] for name, column in columns.items()}
            self._buffer.add(**{name: column.reshape(-1, *column.shape[3:]) for name, column in some.items()})
        self._stored = end

    def _oldest(self) -> int:
        """The first step whose rows are in the buffer."""
        return max(self._lost, self.steps - self._capacity)

    def _slots_of(self, position: Any, step: NDArray[np.int64], environment: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the buffer the rows of seeds (by position), steps and environments are; the three broadcast."""
        s, e = self._shape
        slots: NDArray[np.int64] = ((step - self._lost) % self._capacity * s + position) * e + environment
        return slots

    # --- updates ---

    def reserve(self, count: int) -> None:
        """See `Fed`."""
        o, a = self.facts.observation_dim, self.facts.action_dim
        shape = (count, len(self._seeds), self._batch_size)
        sizes = {"observation": (o,), "action": (a,), "reward": (), "terminal": (), "next_observation": (o,)}
        self._slots = {
            name: torch.zeros(*shape, *size, dtype=self.dtype, device=self.device) for name, size in sizes.items()
        }

    def feed(self, first: int, count: int) -> None:
        """See `Fed`: step the environments until update `first` may be made, and draw the batches.

        No other step belongs between these updates, or RuntimeError: they begin at a multiple of `period` or are few.
        """
        while self.steps < self.steps_before(first):
            self._advance()
        if self.steps_before(first + count - 1) != self.steps:
            raise RuntimeError(f"updates {first} to {first + count - 1} have steps between them")
        words = self._words.of(first, count)  # (U, S, B)
        own = words.shape[-1] - sum(number for number, _ in self._others.values())
        place = slice(0, own)
        parts = [(place, self._own_rows(words[..., place]))]
        for number, columns in self._others.values():
            place = slice(place.stop, place.stop + number)
            seed = np.arange(len(columns["reward"]))[:, None]
            row = indexes(words[..., place], columns["reward"].shape[1]).numpy()
            parts.append((place, {name: column[seed, row] for name, column in columns.items()}))
        for place, columns in parts:
            if self._state["has_failed"].any():
                columns["reward"][:, self._state["has_failed"]] = np.nan
            for name, slots in self._slots.items():
                slots[:count, :, place].copy_(torch.from_numpy(columns[name]))

    def _own_rows(self, words: Tensor) -> dict[str, NDArray[Any]]:
        """The rows in the ring that words (U, S, n) choose, each of its seed's."""
        e = self._shape[1]
        row = indexes(words, (self.steps - self._oldest()) * e).numpy()
        slots = self._slots_of(np.arange(len(self._seeds))[:, None], self._oldest() + row // e, row % e)
        columns = self._buffer[slots.ravel()]
        return {
            name: self._seen(name, column).reshape(*row.shape, *column.shape[1:]) for name, column in columns.items()
        }

    def _seen(self, name: str, column: NDArray[Any]) -> NDArray[Any]:
        """A column as the agent sees it."""
        is_observation = name in ("observation", "next_observation")
        normalizer = self.facts.normalizer
        return normalizer.normalize(column) if is_observation and normalizer is not None else column

    def draw(self, words: Tensor) -> TransitionBatch:
        """See `Table`; the words have been used already, so these are not looked at."""
        return TransitionBatch(**{name: slots[: len(words)] for name, slots in self._slots.items()})

    def close(self) -> None:
        """See `Fed`."""

    # --- steps ---

    def _advance(self) -> None:
        """Step every environment once."""
        self._before_step()
        now, (limit, action_limit) = self._state, self._limits
        observation = now["observation"].reshape(-1, self.facts.observation_dim).copy()
        action = self._choose().reshape(len(observation), -1)
        if not np.isfinite(action).all():
            for position in self._seeds_of(np.any(~np.isfinite(action), axis=1)):
                self._state["has_failed"][position] = True  # its metrics say so
            action = np.where(np.isfinite(action), action, np.float32(0.0))
        result = self._environments.step(to_environment(action, action_limit))
        shown, reward = result.observation.astype(np.float32), result.reward.astype(np.float32)
        terminal = result.terminal
        if not (np.isfinite(shown).all() and np.isfinite(reward).all()):
            broken = ~(np.isfinite(shown).all(1) & np.isfinite(reward))
            for position in self._seeds_of(broken):
                self.fail(position, "its environment gave NaN or infinity")
            shown, reward, terminal = shown.copy(), reward.copy(), terminal | broken
            shown[broken], reward[broken] = observation[broken], np.nan
        length = now["length"].ravel() + 1
        truncated = ((length >= limit) | result.truncated) & ~terminal
        self._buffer.add(
            observation=observation,
            action=action,
            reward=reward,
            next_observation=shown,
            terminal=terminal,
            truncated=truncated,
        )
        now["steps"] += 1
        if self.steps % _WATCHED == 0:
            self._watch(self.steps * self._shape[1])
        now["length"][...] = length.reshape(self._shape)
        now["return_so_far"] += reward.reshape(self._shape)
        now["observation"][...] = shown.reshape(now["observation"].shape)
        ended = np.flatnonzero(terminal | truncated)
        if len(ended):
            self._begin_episodes(ended)

    def _begin_episodes(self, slots: NDArray[np.int64]) -> None:
        """Begin the next episode in some of the environments, ascending."""
        now, place = self._state, np.unravel_index(slots, self._shape)
        now["last_return"][place] = now["return_so_far"][place]
        now["episode"][place] += 1
        now["length"][place] = 0
        now["return_so_far"][place] = 0.0
        now["observation"][place] = self._environments.reset(self._episode_seeds(now["episode"], slots), slots)

    def _episode_seeds(self, episode: NDArray[np.int64], slots: NDArray[np.int64]) -> list[int]:
        """What the environments in some slots are reset with."""
        places = (divmod(slot, self._shape[1]) for slot in slots.tolist())
        return [episode_seed(self._seeds[place[0]], place[1], int(episode[place])) for place in places]

    def _choose(self) -> NDArray[np.float32]:
        """The actions of the next step, (S, E, A): uniform at first, then those of the agent."""
        if self._random_steps and self.steps * self._shape[1] <= self._random_steps:  # as in REDQ's program
            return self._uniform.of(self.steps, 1)[0].numpy()
        if self._explore is None:
            raise RuntimeError("nothing acts: begin() the ring with an agent's way to explore")
        seen = self._seen("observation", self._state["observation"])
        with torch.no_grad():
            noise = self._noise.of(self.steps, 1)[0]
            chosen = self._explore(torch.from_numpy(seen).to(self.device, self.dtype), noise)
        actions: NDArray[np.float32] = chosen.float().cpu().numpy()
        return actions

    def _seeds_of(self, rows: NDArray[np.bool_]) -> list[int]:
        """Positions of the seeds of these rows (S·E,)."""
        found: list[int] = np.flatnonzero(rows.reshape(self._shape).any(1)).tolist()
        return found


def write_rows(path: Path, columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> None:
    """Write rows into a file, in a folder that is made if it is missing; `read_checkpoint` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {name: torch.from_numpy(column) for name, column in columns.items()}, metadata)


class _Ahead:
    """What is made of the words of a site, for many numbers at a time, since one call costs as much as for a few."""

    def __init__(self, draws: Draws, make: Callable[[Tensor], Tensor]) -> None:
        self._draws, self._make = draws, make
        self._first, self._made = 0, torch.empty(0)

    def of(self, first: int, count: int) -> Tensor:
        """(count, S, ...) for the numbers from `first` on."""
        if not self._first <= first <= first + count <= self._first + len(self._made):
            (words,) = self._draws.words(torch.tensor(first), max(count, _AT_ONCE)).values()
            self._first, self._made = first, self._make(words)
        place = first - self._first
        return self._made[place : place + count]


def episode_seed(seed: int, environment: int, episode: int) -> int:
    """What an environment of a seed is reset with for an episode: a 63-bit hash of the three numbers."""
    return hashed_seed(seed, _EPISODES, environment, episode) >> 1


def _read_rows(directory: Path, first: int, end: int) -> dict[str, NDArray[Any]]:
    """The columns of rows `first` to `end` - 1 in the files of a directory; files of later rows are removed."""
    parts, paths = [], sorted(directory.glob("*.safetensors"))
    begins = [int(path.stem) for path in paths]
    for path, begin, next_begin in zip(paths, begins, [*begins[1:], end], strict=True):
        if begin >= end:
            remove(path)
        elif next_begin > first:  # else the ring has overwritten all of its rows
            tensors, _ = read_checkpoint(path)
            kept = slice(max(0, first - begin), end - begin)
            parts.append({name: tensor.numpy()[kept] for name, tensor in tensors.items()})
    if sum(len(part["reward"]) for part in parts) != end - first:
        raise CheckpointError(f"{directory} lacks rows of {first:,} to {end:,}; restore its files, or start again")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
