"""Tables: all that a method sees of its data is batches, chosen by random words that have addresses.

`Rows` are what is learned from, in host memory. They become a table in one of two places, with equal batches: on the
training device, where one gather makes a batch, or in the compiled replay engine on the host, which draws ahead and
feeds the device. Rows of several sources, such as real and synthetic ones, make a mixture, which is a table like any
other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill import _core
from trajmill.data import Dataset, Normalizer, Transitions
from trajmill.models.decision_transformer import Windows
from trajmill.replay.feed import Feed, torch_dtype
from trajmill.replay.mdp_transitions import MDPTransitions
from trajmill.replay.mixed_replay import MixedReplay
from trajmill.replay.replay_buffer import ReplayBuffer
from trajmill.replay.token_table import TokenRows, TokenTable
from trajmill.replay.trajectory_buffer import TrajectoryBuffer
from trajmill.training.draws import indexes

BatchT = TypeVar("BatchT")
FactsT = TypeVar("FactsT")


class Table(Generic[BatchT, FactsT]):
    """Makes batches on `device`, with numbers of `dtype`; `facts` is what networks and losses must know of the data."""

    row_count: int
    """rows on the device that can be drawn"""

    def __init__(self, device: torch.device, dtype: torch.dtype, facts: FactsT) -> None:
        self.device, self.dtype, self.facts = device, dtype, facts

    def draw(self, words: Tensor) -> BatchT:
        """The batches of U updates of S seeds that the 32-bit words (U, S, B) of site 0 of `Draws` choose."""
        return self.gather(indexes(words, self.row_count))

    def gather(self, index: Tensor, source: Tensor | None = None) -> BatchT:
        """Rows `index` (..., B) int64; `source` (..., B) uint8 goes into the batch where it has such a column."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Fed`."""


class Rows(Protocol):
    """What a method learns from, in host memory."""

    @property
    def batch(self) -> type[Any]:
        """The dataclass of a batch."""

    @property
    def facts(self) -> Any:
        """See `Table`."""

    def source(self) -> _core.BatchSource:
        """The rows in the replay engine; its columns have the names of the batch's fields."""

    def table(self, device: torch.device, dtype: torch.dtype, more: Sequence[Any] = ()) -> Table[Any, Any]:
        """The rows on a device, followed by those of `more`, in one table."""

    def __len__(self) -> int:
        """Number of rows, or of windows, that can be drawn."""


def table_of(
    rows: Rows | Mixture | TokenRows,
    place: Literal["device", "host"],
    *,
    seeds: Sequence[int],
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A table of the rows on the training device, or on the host in the replay engine, where tokens always are."""
    if isinstance(rows, TokenRows):
        return TokenTable(rows, len(seeds), batch_size, device, dtype)
    if place == "host":
        return HostTable(rows, seeds, batch_size, device, dtype)
    if isinstance(rows, Mixture):
        return ResidentMixture(rows, batch_size, device, dtype)
    return rows.table(device, dtype)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Tensors of S seeds; those of several updates have an axis of updates before the axis of seeds."""

    def __getitem__(self, update: int) -> Self:
        """The batch of one update."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: column[update] for name, column in columns.items() if column is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionFacts:
    """What is known of transitions as a method sees them."""

    observation_dim: int
    action_dim: int
    lowest_reward: float = -math.inf
    greatest_reward: float = math.inf
    """infinite where rewards are still to come"""
    normalizer: Normalizer | None = None
    held_out: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """columns of the rows that are not in the table, for measuring"""


@dataclass(frozen=True, slots=True)
class TransitionBatch(_Batch):
    """Transitions."""

    observation: Tensor  # (S, B, O)
    action: Tensor  # (S, B, A)
    reward: Tensor  # (S, B)
    terminal: Tensor  # (S, B), 0.0 or 1.0
    next_observation: Tensor  # (S, B, O)
    source: Tensor | None = None  # (S, B) uint8, in a mixture the number of each row's source
    return_to_go: Tensor | None = None  # (S, B), where the rows have it


@dataclass(frozen=True, kw_only=True)
class TransitionRows:
    """Transitions, and what is done to them before a method sees them."""

    transitions: Transitions
    normalizer: Normalizer | None = None
    """standardizes observations"""
    reward_factor: float | None = 1.0
    reward_shift: float = 0.0
    """rewards become factor · reward + shift; a factor of None is known to those of `like` alone"""
    action_limit: float | None = None
    """actions are clipped to ± this"""
    held_out: NDArray[np.bool_] | None = None
    """(N,): transitions that are kept from training; a method finds them in the table's facts"""
    return_to_go: NDArray[np.float32] | None = None
    """(N,): a further column of batches, of the rewards as the method sees them"""
    batch = TransitionBatch

    def __len__(self) -> int:
        """Number of transitions to train on."""
        return len(self.transitions) - (0 if self.held_out is None else int(self.held_out.sum()))

    @property
    def columns(self) -> dict[str, NDArray[np.float32]]:
        """The columns of a batch, a row for each transition to train on."""
        if self.held_out is None:
            return self._all_columns
        return {name: column[~self.held_out] for name, column in self._all_columns.items()}

    @cached_property
    def _all_columns(self) -> dict[str, NDArray[np.float32]]:
        """The columns of all transitions."""
        if len(self) == 0:
            raise ValueError("training needs at least one transition, got none")
        rows, limit = self.transitions, self.action_limit
        columns = {
            "observation": rows.observation,
            "action": rows.action if limit is None else np.clip(rows.action, -limit, limit),
            "reward": rows.reward,
            "terminal": rows.terminal.astype(np.float32),
            "next_observation": rows.next_observation,
        }
        if self.return_to_go is not None:
            columns["return_to_go"] = self.return_to_go
        self._check_finite(columns)  # before a NaN in one row gets into the scaling of all
        if self.normalizer is not None:
            for name in ("observation", "next_observation"):
                columns[name] = self.normalizer.normalize(columns[name])
        if self.reward_factor is None:
            raise ValueError(
                "rewards are scaled by the returns of whole episodes, but these rows are in no order; mix them with "
                "the dataset that they were made from (--dataset), or leave out the scaling"
            )
        if (self.reward_factor, self.reward_shift) != (1.0, 0.0):
            columns["reward"] = rows.reward * np.float32(self.reward_factor) + np.float32(self.reward_shift)
        self._check_finite(columns)
        return columns

    def _check_finite(self, columns: Mapping[str, NDArray[np.float32]]) -> None:
        for name, column in columns.items():
            finite = np.isfinite(column)
            if not finite.all():
                bad = finite.reshape(len(self.transitions), -1).all(1).argmin()
                raise ValueError(f"{name} of transition {bad} is NaN or infinite; clean the dataset first")

    @property
    def facts(self) -> TransitionFacts:
        """See `Table`."""
        reward, mask = self.columns["reward"], self.held_out
        return TransitionFacts(
            observation_dim=self.transitions.observation.shape[1],
            action_dim=self.transitions.action.shape[1],
            lowest_reward=float(reward.min()),
            greatest_reward=float(reward.max()),
            normalizer=self.normalizer,
            held_out={} if mask is None else {name: column[mask] for name, column in self._all_columns.items()},
        )

    def like(self, first: TransitionRows) -> TransitionRows:
        """These transitions, prepared as those of `first` are."""
        return replace(first, transitions=self.transitions, held_out=self.held_out, return_to_go=self.return_to_go)

    def source(self) -> ReplayBuffer:
        """See `Rows`."""
        buffer = ReplayBuffer(len(self), {name: (column.shape[1:], "f4") for name, column in self.columns.items()})
        buffer.add(**self.columns)
        return buffer

    def table(self, device: torch.device, dtype: torch.dtype, more: Sequence[TransitionRows] = ()) -> TransitionTable:
        """See `Rows`."""
        parts = [[column.reshape(len(rows), -1) for column in rows.columns.values()] for rows in (self, *more)]
        return TransitionTable(torch.from_numpy(np.block(parts)).to(device, dtype), self.facts)


class TransitionTable(Table[TransitionBatch, TransitionFacts]):
    """Transitions on one device as one packed row matrix: one gather makes a batch.

    `rows` (N, O + A + 2 + O) are observation, action, reward, terminal, next observation; there may be one more column,
    the return to go.
    """

    def __init__(self, rows: Tensor, facts: TransitionFacts) -> None:
        super().__init__(rows.device, rows.dtype, facts)
        self.rows, self.row_count = rows, len(rows)

    def gather(self, index: Tensor, source: Tensor | None = None) -> TransitionBatch:
        """See `Table`."""
        rows = self.rows.index_select(0, index.flatten()).view(*index.shape, -1)
        o, a = self.facts.observation_dim, self.facts.action_dim
        # in memory of their own, as from the host: torch's functions may round numbers with gaps between them otherwise
        returns = rows.shape[-1] - (o + a + 2 + o)  # one column or none
        columns = [column.contiguous() for column in torch.split(rows, [o, a, 1, 1, o, returns], -1)]
        observation, action, reward, terminal, next_observation, return_to_go = columns
        return TransitionBatch(
            observation,
            action,
            reward[..., 0],
            terminal[..., 0],
            next_observation,
            source,
            return_to_go[..., 0] if returns else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFacts:
    """What is known of windows as a method sees them."""

    observation_dim: int
    action_dim: int
    greatest_timestep: int
    normalizer: Normalizer


class WindowRows:
    """Windows of steps of a dataset's episodes; `options` are those of `TrajectoryBuffer`."""

    batch = Windows

    def __init__(self, dataset: Dataset, options: dict[str, Any]) -> None:
        self._dataset, self._options = dataset, options
        # The windows of two steps that begin at every step hold all that longer ones do.
        self._pairs = TrajectoryBuffer.from_dataset(dataset, **options | {"context_length": 2})

    def __len__(self) -> int:
        """Number of steps; each begins a window."""
        return self._pairs.step_count

    @cached_property
    def facts(self) -> WindowFacts:
        """See `Table`."""
        assert self._pairs.normalizer is not None
        return WindowFacts(
            observation_dim=self._dataset.observation_dim,
            action_dim=self._dataset.action_dim,
            greatest_timestep=int(self._windows["timestep"].max()),
            normalizer=self._pairs.normalizer,
        )

    @cached_property
    def _windows(self) -> dict[str, NDArray[Any]]:
        """The windows of two steps, one from each step."""
        return self._pairs.windows(range(len(self)))

    def like(self, first: WindowRows) -> WindowRows:
        """These windows, with the options and the normalizer of `first`."""
        return WindowRows(self._dataset, first._options | {"normalizer": first.facts.normalizer})

    def source(self) -> TrajectoryBuffer:
        """See `Rows`."""
        columns = ("observation", "action", "return_to_go")
        return TrajectoryBuffer.from_dataset(self._dataset, **{"columns": columns} | self._options)

    def table(self, device: torch.device, dtype: torch.dtype, more: Sequence[WindowRows] = ()) -> WindowTable:
        """See `Rows`."""
        parts = (self, *more)
        pairs = {name: np.concatenate([rows._windows[name] for rows in parts]) for name in self._windows}
        is_last = ~pairs["mask"][:, 0]  # the last step of an episode comes second in its window, behind a padded one
        window, place = np.arange(len(is_last)), is_last.astype(np.intp)
        steps = {
            name: torch.from_numpy(np.append(pairs[name][window, place], pairs[name][-1:, 0], axis=0)).to(device)
            for name in ("observation", "action", "return_to_go", "timestep")
        }
        ends = np.flatnonzero(is_last) + 1
        return WindowTable(
            torch.cat([steps["observation"], steps["action"], steps["return_to_go"][:, None]], 1).to(dtype),
            steps["timestep"],
            torch.from_numpy(ends[np.searchsorted(ends, window, side="right")]).to(device),
            length=self._options.get("context_length", 20),
            facts=self.facts,
        )


class WindowTable(Table[Windows, WindowFacts]):
    """Steps of whole episodes on one device, one after another; windows are gathered there (arXiv 2310.00771).

    Every step begins a window of up to K steps of its episode: drawing a step uniformly is drawing an episode in
    proportion to its length and a start within it uniformly, as the released code does.

    `rows` (N + 1, O + A + 1) are observation, action, return-to-go, and `timestep` (N + 1,) int64 their numbers; the
    last of each is a padded step. `end` (N,) int64 is the row after the last one of a step's episode, `length` is K.
    """

    def __init__(self, rows: Tensor, timestep: Tensor, end: Tensor, *, length: int, facts: WindowFacts) -> None:
        super().__init__(rows.device, rows.dtype, facts)
        self.rows, self.timestep, self.end, self.length = rows, timestep, end, length
        self.row_count = len(end)

    def gather(self, index: Tensor, source: Tensor | None = None) -> Windows:
        """Windows of up to K steps from the steps `index` (..., B) int64 on."""
        taken = (self.end[index] - index).clamp_(max=self.length)[..., None]
        step = torch.arange(self.length, device=index.device) - (self.length - taken)  # negative in the padding
        mask = step >= 0
        row = torch.where(mask, index[..., None] + step, self.row_count)
        rows = self.rows[row]
        return Windows(
            observation=rows[..., : self.facts.observation_dim],
            action=rows[..., self.facts.observation_dim : -1],
            return_to_go=rows[..., -1],
            timestep=self.timestep[row],
            mask=mask,
        )


@dataclass(frozen=True, slots=True)
class CodedFacts:
    """How many numbers the vectors have."""

    observation_dim: int
    action_dim: int
    predicted_dim: int


@dataclass(frozen=True, slots=True)
class CodedBatch(_Batch):
    """Vectors of states and actions, and those to predict."""

    observation: Tensor  # (S, B, O)
    action: Tensor  # (S, B, A)
    next_observation: Tensor  # (S, B, predicted_dim)


@dataclass(frozen=True, kw_only=True)
class CodedRows:
    """Transitions of a discrete MDP as integers, and the vectors that stand for them."""

    name: str
    transitions: MDPTransitions
    batch = CodedBatch

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.transitions.rows)

    @property
    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """The vectors of states (·, O), of actions (·, A), and to predict (·, predicted_dim)."""
        names = ("state_vectors", "action_vectors", "target_vectors")
        return {name: getattr(self.transitions, name) for name in names}

    @property
    def facts(self) -> CodedFacts:
        """See `Table`."""
        return CodedFacts(*(vectors.shape[1] for vectors in self.vectors.values()))

    def like(self, first: CodedRows) -> CodedRows:
        """These transitions, if the numbers in them stand for the vectors that those in `first` do."""
        for name, vectors in self.vectors.items():
            if not np.array_equal(vectors, first.vectors[name]):
                raise ValueError(f"{self.name} and {first.name} cannot be mixed: their {name} differ")
        return self

    def source(self) -> MDPTransitions:
        """See `Rows`."""
        return self.transitions

    def table(self, device: torch.device, dtype: torch.dtype, more: Sequence[CodedRows] = ()) -> CodedTable:
        """See `Rows`."""
        rows = np.concatenate([part.transitions.rows for part in (self, *more)]).astype(np.int32)
        vectors = [torch.tensor(vectors, device=device, dtype=dtype) for vectors in self.vectors.values()]
        return CodedTable(torch.from_numpy(rows).to(device), vectors, self.facts)


class CodedTable(Table[CodedBatch, CodedFacts]):
    """Transitions of a discrete MDP on one device: three integers a row, looked up in tables of vectors.

    `rows` (N, 3) int32 are the numbers of state, action, and what is to be predicted; `vectors` are those of
    `CodedRows`.
    """

    def __init__(self, rows: Tensor, vectors: Sequence[Tensor], facts: CodedFacts) -> None:
        super().__init__(rows.device, vectors[0].dtype, facts)
        self.rows, self.vectors, self.row_count = rows, vectors, len(rows)

    def gather(self, index: Tensor, source: Tensor | None = None) -> CodedBatch:
        """See `Table`."""
        numbers = self.rows.index_select(0, index.flatten()).unbind(-1)
        pairs = zip(self.vectors, numbers, strict=True)
        return CodedBatch(*(vectors.index_select(0, number).view(*index.shape, -1) for vectors, number in pairs))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Rows of several sources: every batch has exactly as many of each as its weight asks (see `MixedReplay`)."""

    parts: tuple[Any, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, parts: Sequence[Any], weights: Sequence[float]) -> Self:
        """All parts prepared as the first one, the real data, was; `weights` are relative."""
        first, *others = parts
        return cls((first, *(part.like(first) for part in others)), tuple(weights))

    @property
    def batch(self) -> Any:
        """See `Rows`."""
        return self.parts[0].batch

    @property
    def facts(self) -> Any:
        """Those of the first part, with the least and greatest numbers of all."""
        facts = [part.facts for part in self.parts]
        ends = {"lowest_reward": min, "greatest_reward": max, "greatest_timestep": max}
        known = {name: end for name, end in ends.items() if hasattr(facts[0], name)}
        return replace(facts[0], **{name: end(getattr(each, name) for each in facts) for name, end in known.items()})

    def source(self) -> MixedReplay:
        """The mixture in the replay engine."""
        pairs = zip(self.parts, self.weights, strict=True)
        return MixedReplay({str(number): (part.source(), weight) for number, (part, weight) in enumerate(pairs)})


class ResidentMixture(Table[Any, Any]):
    """A mixture on the training device: the rows that `HostTable` draws of the same one, update by update.

    In each batch the rows of the first source come first, and so on. How many each gets follows `Shares` from the first
    update on; the host says so before each period (`Fed`).
    """

    def __init__(self, mixture: Mixture, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device, dtype, mixture.facts)
        self._table = mixture.parts[0].table(device, dtype, mixture.parts[1:])
        self._sizes = torch.tensor([len(part) for part in mixture.parts], device=device)
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._weights, self._batch_size = list(mixture.weights), batch_size
        self._shares, self._next = _core.Shares(len(self._weights)), 0
        self.reserve(1)

    def reserve(self, count: int) -> None:
        """See `Fed`."""
        self._ends = torch.zeros(count, len(self._weights), dtype=torch.int64, device=self.device)

    def feed(self, first: int, count: int) -> None:
        """See `Fed`."""
        if first < self._next:
            self._shares, self._next = _core.Shares(len(self._weights)), 0
        for _ in range(self._next, first):  # what is given depends on what was given before
            self._shares.split(self._batch_size, self._weights)
        self._next = first + count
        ends = np.cumsum([self._shares.split(self._batch_size, self._weights) for _ in range(count)], 1)
        self._ends[:count].copy_(torch.from_numpy(ends))

    def draw(self, words: Tensor) -> Any:
        """See `Table`; B is the batch size that the mixture was made for."""
        place = torch.arange(words.shape[-1], device=self.device)
        source = (place >= self._ends[: len(words), :, None]).sum(1)  # (U, B)
        index = self._starts[source][:, None] + indexes(words, self._sizes[source][:, None])
        return self._table.gather(index, source.to(torch.uint8)[:, None].expand_as(index))


class HostTable(Table[Any, Any]):
    """Rows in the replay engine, on the host: a thread of the core draws the batches ahead, and `feed` takes them.

    The batches are those of a table on the device, row by row. Only the batches of one period are on the device at a
    time, so there may be many more rows than its memory holds.
    """

    def __init__(
        self, rows: Rows | Mixture, seeds: Sequence[int], batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(device, dtype, rows.facts)
        self._batch, self._shape = rows.batch, (len(seeds), batch_size)
        self._batches = _core.SeededBatches(source=rows.source(), seeds=list(seeds), batch_size=batch_size)
        self._feed: Feed | None = None
        self._next = 0
        self.reserve(1)

    def reserve(self, count: int) -> None:
        """See `Fed`."""
        names = {field.name for field in fields(self._batch)}
        self._slots = {}
        for name, shape, dtype in self._batches.batch_columns:
            if name in names:
                kept = self.dtype if dtype.kind == "f" else torch_dtype(dtype)
                self._slots[name] = torch.zeros(count, *self._shape, *shape, dtype=kept, device=self.device)

    def feed(self, first: int, count: int) -> None:
        """See `Fed`."""
        if self._feed is None or first != self._next:
            self.close()
            self._batches.set_update(first)
            self._feed = Feed(self._batches, self.device, batch_size=self._batches.row_count)
        for slot in range(count):
            columns = next(self._feed)
            for name, slots in self._slots.items():
                slots[slot].copy_(columns[name].view_as(slots[slot]))
        self._next = first + count

    def draw(self, words: Tensor) -> Any:
        """See `Table`; the engine has used the words already, so these are not looked at."""
        return self._batch(**{name: slots[: len(words)] for name, slots in self._slots.items()})

    def close(self) -> None:
        """Stop drawing ahead."""
        if self._feed is not None:
            self._feed.close()
        self._feed = None
