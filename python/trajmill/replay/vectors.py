"""Transitions as rows of one matrix, scaled for a generative model; and back again.

A row is [observation, action, reward, next observation, terminal], as in SynthER (arXiv 2303.06614, released code, but
for the place of the terminal). Columns that are constant in the data need no model: they are left out, and put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.data import Transitions
from trajmill.replay.replay_buffer import ReplayBuffer
from trajmill.replay.tables import Table

FloatArray = NDArray[np.float32]
Scaling = Literal["standard", "minmax"]
SATURATION = 0.999
"""actions are multiplied by this before atanh, so that 1 stays finite"""
_EPSILON = 1e-5
_NARROW = 1e-3
"""range of a column below which that is left out"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorCode:
    """What turns transitions into vectors of about unit variance, and such vectors into transitions.

    W = 2·O + A + 2 columns, of which K vary and are modelled.
    """

    observation_dim: int
    action_dim: int
    offset: tuple[float, ...]
    """(W,): mean, or middle of the range; the value itself of a constant column"""
    scale: tuple[float, ...]
    """(W,): spread, > 0; 0 marks a constant column"""
    unbounded_actions: bool = False
    """whether actions are atanh(0.999·a) in the vectors, so that they stay within ±1/0.999 when they come back"""
    bounded: bool = False
    """whether vectors stay in [-1, 1]"""

    @classmethod
    def fit(
        cls,
        transitions: Transitions,
        scaling: Scaling = "standard",
        *,
        unbounded_actions: bool = False,
        keep_constant: bool = False,
    ) -> Self:
        """Measure transitions.

        ``"standard"`` subtracts the mean and divides by the standard deviation (n−1) + 1e-5, but for the terminal;
        ``"minmax"`` maps [min, max + 1e-5] to [-1, 1]. In a column that varies by less than 1e-3 both leave out the
        1e-5, which would drown it. `keep_constant` models constant columns too, as the released code does. ValueError
        for fewer than two rows, for numbers that are not finite, and if every column is constant.
        """
        if len(transitions) < 2:
            raise ValueError(f"a generative model needs at least 2 transitions, got {len(transitions)}")
        if unbounded_actions and np.abs(transitions.action).max() > 1.0:
            raise ValueError(
                f"unbounded_actions needs actions in [-1, 1], got one of {np.abs(transitions.action).max():g}; clip "
                "them or leave the setting out"
            )
        rows = matrix(transitions, unbounded_actions=unbounded_actions)
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            raise ValueError(f"transition {finite.argmin()} has a NaN or an infinite number; clean the dataset first")
        low, high = rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
        constant = low == high
        epsilon = np.where(constant | (high - low >= _NARROW), _EPSILON, 0.0)
        if scaling == "minmax":
            offset, scale = (low + high + epsilon) / 2.0, (high + epsilon - low) / 2.0
        else:
            offset, scale = rows.mean(0, dtype=np.float64), rows.std(0, ddof=1, dtype=np.float64) + epsilon
            offset[-1], scale[-1] = 0.0, 1.0
        if constant.all():
            raise ValueError("every column of the data is constant, so there is nothing to learn")
        if not keep_constant:
            offset, scale = np.where(constant, low, offset), np.where(constant, 0.0, scale)
        numbers = (tuple(column.astype(np.float32).tolist()) for column in (offset, scale))
        shape = (transitions.observation.shape[1], transitions.action.shape[1])
        return cls(
            observation_dim=shape[0],
            action_dim=shape[1],
            offset=next(numbers),
            scale=next(numbers),
            unbounded_actions=unbounded_actions,
            bounded=scaling == "minmax",
        )

    @property
    def kept(self) -> NDArray[np.intp]:
        """Numbers of the K columns that vary."""
        return np.flatnonzero(self.scale)

    @property
    def numbers(self) -> tuple[FloatArray, FloatArray]:
        """Offset and scale as arrays (W,)."""
        return np.asarray(self.offset, np.float32), np.asarray(self.scale, np.float32)

    def encode(self, transitions: Transitions) -> FloatArray:
        """Vectors (N, K)."""
        rows = matrix(transitions, unbounded_actions=self.unbounded_actions)[:, self.kept]
        offset, scale = self.numbers
        encoded: FloatArray = (rows - offset[self.kept]) / scale[self.kept]
        return encoded

    def decode(self, vectors: FloatArray) -> Transitions:
        """Transitions of vectors (N, K): a terminal is more than 0.5; nothing else is rounded or clipped."""
        offset, scale = self.numbers
        rows: FloatArray = np.tile(offset, (len(vectors), 1))
        rows[:, self.kept] += vectors * scale[self.kept]
        o, a = self.observation_dim, self.action_dim
        observation, action, reward, next_observation, terminal = np.split(rows, np.cumsum([o, a, 1, o]), axis=1)
        if self.unbounded_actions:
            action = (np.tanh(action) / SATURATION).astype(np.float32)
        return Transitions(
            observation=np.ascontiguousarray(observation),
            action=np.ascontiguousarray(action),
            reward=reward[:, 0].copy(),
            next_observation=np.ascontiguousarray(next_observation),
            terminal=terminal[:, 0] > 0.5,
            truncated=np.zeros(len(rows), np.bool_),
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; float32 values survive the round trip exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote."""
        return cls(**{**values, "offset": tuple(values["offset"]), "scale": tuple(values["scale"])})


def matrix(transitions: Transitions, *, unbounded_actions: bool = False) -> FloatArray:
    """Transitions as rows (N, W)."""
    action = transitions.action
    if unbounded_actions:
        action = np.arctanh(np.float32(SATURATION) * action)
    columns = (transitions.reward[:, None], transitions.next_observation, transitions.terminal[:, None])
    return np.concatenate([transitions.observation, action, *columns], axis=1, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFacts:
    """What is known of vectors as a method sees them."""

    code: VectorCode
    dimension: int
    """K"""
    relevance: tuple[float, ...] = ()
    """quantiles 0, 0.01, …, 1 of the number that generation can be conditioned on; empty without one"""


@dataclass(frozen=True, slots=True)
class VectorBatch:
    """Vectors, and the relevance of each if the rows have one."""

    vector: Tensor  # (S, B, K)
    relevance: Tensor | None = None  # (S, B), standardized

    def __getitem__(self, update: int) -> VectorBatch:
        """The batch of one update."""
        return VectorBatch(self.vector[update], None if self.relevance is None else self.relevance[update])


@dataclass(frozen=True, kw_only=True)
class VectorRows:
    """Transitions as vectors."""

    transitions: Transitions
    code: VectorCode
    relevance: NDArray[Any] | None = None
    """(N,): how relevant each is, as it was measured"""
    relevance_scale: tuple[float, float] = (0.0, 1.0)
    """mean and deviation, which standardize it"""
    batch = VectorBatch

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.transitions)

    @cached_property
    def columns(self) -> dict[str, FloatArray]:
        """The columns of a batch, N rows each."""
        columns = {"vector": self.code.encode(self.transitions)}
        if self.relevance is not None:
            mean, deviation = self.relevance_scale
            columns["relevance"] = ((self.relevance - mean) / deviation).astype(np.float32)
        return columns

    @property
    def facts(self) -> VectorFacts:
        """See `Table`."""
        relevance = self.columns.get("relevance")
        quantiles = () if relevance is None else np.quantile(relevance, np.linspace(0.0, 1.0, 101)).tolist()
        return VectorFacts(code=self.code, dimension=len(self.code.kept), relevance=tuple(quantiles))

    def with_relevance(self, values: NDArray[Any]) -> VectorRows:
        """The same rows with a relevance (N,), which is standardized; ValueError if it is not finite or constant."""
        if not np.isfinite(values).all():
            raise ValueError("a relevance is NaN or infinite; give a run that has not diverged")
        if values.min() == values.max():
            raise ValueError(
                f"every row has the relevance {values.min():g}, so there is nothing to ask for; leave the condition out"
            )
        values = values.astype(np.float64)
        return replace(self, relevance=values, relevance_scale=(float(values.mean()), float(values.std())))

    def like(self, first: VectorRows) -> VectorRows:
        """These transitions, as vectors by the code of `first`, their relevance on its scale.

        ValueError for a column that is left out because it is constant in `first`, if it is another one here.
        """
        rows = matrix(self.transitions, unbounded_actions=first.code.unbounded_actions)
        offset, scale = first.code.numbers
        lost = ((rows != offset) & (scale == 0.0)).any(0)
        if lost.any():
            raise ValueError(
                f"{int(lost.sum())} columns of a transition, the first one column {int(lost.argmax())}, are constant "
                "in the dataset and not in one that is mixed in, so a model would lose them; make that one the dataset"
            )
        return replace(self, code=first.code, relevance_scale=first.relevance_scale)

    def source(self) -> ReplayBuffer:
        """See `Rows`."""
        buffer = ReplayBuffer(len(self), {name: (column.shape[1:], "f4") for name, column in self.columns.items()})
        buffer.add(**self.columns)
        return buffer

    def table(self, device: torch.device, dtype: torch.dtype, more: Sequence[VectorRows] = ()) -> VectorTable:
        """See `Rows`."""
        parts = [[column.reshape(len(rows), -1) for column in rows.columns.values()] for rows in (self, *more)]
        return VectorTable(torch.from_numpy(np.block(parts)).to(device, dtype), self.facts)


class VectorTable(Table[VectorBatch, VectorFacts]):
    """Vectors on one device; `rows` (N, K), and their relevance in one column more if they have one."""

    def __init__(self, rows: Tensor, facts: VectorFacts) -> None:
        super().__init__(rows.device, rows.dtype, facts)
        self.rows, self.row_count = rows, len(rows)

    def gather(self, index: Tensor, source: Tensor | None = None) -> VectorBatch:
        """See `Table`."""
        rows = self.rows.index_select(0, index.flatten()).view(*index.shape, -1)
        if not self.facts.relevance:
            return VectorBatch(rows)
        return VectorBatch(rows[..., :-1].contiguous(), rows[..., -1])
