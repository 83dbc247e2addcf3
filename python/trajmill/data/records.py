"""The records that hold real data: a whole file, a set of transitions, one episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmill.core import pictures

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Columns = dict[str, NDArray[Any]]  # one row per step, named as in D4RL's files: COLUMNS, "infos/qpos"

COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
INFOS, METADATA = "infos/", "metadata/"


class Steps(TypedDict):
    """N >= 2 steps as the writers take them; they store numbers as float32 and flags as bool."""

    observations: ArrayLike  # (N, O)
    actions: ArrayLike  # (N, A)
    rewards: ArrayLike  # (N,)
    terminals: ArrayLike  # (N,) the task ended here
    timeouts: ArrayLike  # (N,) a limit cut the episode here; never both in one row
    next_observations: ArrayLike | None  # (N, O) what really followed, also where an episode ends; None if unknown
    infos: NotRequired[Mapping[str, ArrayLike] | None]  # (N, ...) in their own dtype: "qpos", "qvel" before the step
    metadata: NotRequired[Mapping[str, Any] | None]  # provenance: text, numbers, or whatever JSON can hold


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Dataset:
    """One file of consecutive steps in D4RL's schema, checked and cast; fields are plural, as in the file.

    Row i is the step taken at time i of the recording; episodes follow each other. ``terminals`` and ``timeouts`` are
    never both set in one row. N rows, O observation numbers, A action numbers.
    """

    name: str
    path: Path
    observations: FloatArray  # (N, O)
    actions: FloatArray  # (N, A)
    rewards: FloatArray  # (N,)
    terminals: BoolArray  # (N,) the MDP ended here
    timeouts: BoolArray  # (N,) a limit cut the episode here
    next_observations: FloatArray | None  # (N, O), the observation that really followed, also at the end of an episode
    infos: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # before the step: "qpos" (N, nq), "qvel" (N, nv)
    metadata: Mapping[str, Any] = field(default_factory=dict)  # provenance: file attributes, scalars of `metadata/`
    ordered: bool = True  # False: a set of transitions, whose rows do not follow each other

    def to_write(self) -> Steps:
        """What the writers take, as in ``write_d4rl(path, **dataset.to_write())``."""
        metadata = dict(self.metadata) | ({} if self.ordered else {"ordered": False})
        columns = {name: getattr(self, name) for name in COLUMNS}
        return cast(Steps, columns | {"infos": self.infos, "metadata": metadata})

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.rewards)

    def __repr__(self) -> str:
        ends = np.count_nonzero(self.episode_ends)
        sizes = f"{len(self):,} rows, {self.observation_dim} observations, {self.action_dim} actions, {ends:,} episodes"
        return f"<Dataset {self.name}: {sizes}>"

    def _repr_html_(self) -> str:
        ends = np.flatnonzero(self.episode_ends) + 1
        if not self.ordered or len(ends) == 0:
            return pictures.html(repr(self), pictures.bars(self.rewards, "rewards of the rows in their order"))
        totals = np.concatenate(([0.0], np.cumsum(self.rewards, dtype=np.float64)))[ends]
        return pictures.html(repr(self), pictures.bars(np.diff(totals, prepend=0.0), "returns of the episodes"))

    @property
    def observation_dim(self) -> int:
        """How many numbers an observation has (O)."""
        return int(self.observations.shape[1])

    @property
    def action_dim(self) -> int:
        """How many numbers an action has (A)."""
        return int(self.actions.shape[1])

    @property
    def episode_ends(self) -> BoolArray:
        """Bool (N,): the row is the last of its episode; for slicing only, never in a target."""
        return self.terminals | self.timeouts

    def rows(self, rows: NDArray[Any] | slice) -> Dataset:
        """The dataset with only the rows of these numbers (n,), or of a mask (N,), in this order.

        It stays `ordered` where each row that ends no episode is followed by the one that followed it here.
        """
        numbers = np.arange(len(self))[rows]
        follow = (numbers[1:] == numbers[:-1] + 1) | self.episode_ends[numbers[:-1]]
        taken = {name: values[rows] for name in COLUMNS if (values := getattr(self, name)) is not None}
        infos = {name: values[rows] for name, values in self.infos.items()}
        return replace(self, **taken, infos=infos, ordered=self.ordered and bool(follow.all()))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Transitions:
    """Steps in the form that temporal-difference methods learn from, in the order of the file.

    `trajmill.data.episodes.followed` says which row the next one follows. Only ``terminal`` stops the bootstrap; the
    next observation of a ``truncated`` step still has a value.
    """

    observation: FloatArray  # (N, O)
    action: FloatArray  # (N, A)
    reward: FloatArray  # (N,)
    next_observation: FloatArray  # (N, O)
    terminal: BoolArray  # (N,)
    truncated: BoolArray  # (N,)
    ordered: ClassVar[bool] = True

    def __repr__(self) -> str:
        sizes = f"{len(self):,} rows, {self.observation.shape[1]} observations, {self.action.shape[1]} actions"
        return f"<{type(self).__name__}: {sizes}>"

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.reward)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class UnorderedTransitions(Transitions):
    """Transitions in no order: no row follows another, whatever the observations look like."""

    ordered: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Episode:
    """One episode from reset to its end; arrays are views into the dataset. T timesteps."""

    start: int  # the file's row of timestep 0
    observation: FloatArray  # (T, O)
    action: FloatArray  # (T, A)
    reward: FloatArray  # (T,)
    terminal: bool  # how it ended: True, the MDP ended; False, a limit cut it

    def __repr__(self) -> str:
        end = "terminal" if self.terminal else "cut"
        return f"<Episode from row {self.start:,}: {len(self):,} steps, return {self.undiscounted_return:,.1f}, {end}>"

    def __len__(self) -> int:
        """Number of timesteps T."""
        return len(self.reward)

    @property
    def undiscounted_return(self) -> float:
        """Sum of the rewards, added in double precision."""
        return float(self.reward.sum(dtype=np.float64))
