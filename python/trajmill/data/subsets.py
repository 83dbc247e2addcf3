"""Parts of a dataset: the first rows, whole trajectories, single transitions; shorter observations, clipped actions.

A draw is the beginning of a keyed permutation (`trajmill._core.permute`, Philox): anyone can repeat it, and a smaller
subset of the same seed is contained in a larger one. Kinds that begin with ``released`` are drawn as the code of arXiv
2310.00771 draws them, by NumPy's legacy generator. What was taken is recorded in ``metadata["subset"]``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from trajmill import _core
from trajmill.core import checks
from trajmill.data.actions import ActionLimit, to_policy
from trajmill.data.episodes import split_episodes, with_next_rows
from trajmill.data.errors import refuse, refusing
from trajmill.data.records import Dataset

SubsetKind = Literal["first", "trajectories", "transitions", "top", "released-trajectories", "released-transitions"]


@dataclass(frozen=True, slots=True)
class Subset:
    """Which part of a dataset to take.

    Of kind ``first`` are the first rows of the file; ``trajectories`` and ``transitions`` are drawn at random; ``top``
    are the trajectories with the highest undiscounted returns. Of the ``released`` kinds a share is rounded down, and
    transitions are those of D4RL's own function: without rows that a limit cut, the next row's observation the next.

    >>> Subset("trajectories", 0.1, seed=3)
    Subset(kind='trajectories', amount=0.1, seed=3)
    """

    kind: SubsetKind
    amount: int | float  # how many rows or trajectories (int, >= 1), or which share of them (float, in (0, 1])
    seed: int = 0  # names the draw, [0, 2^64), released [0, 2^32); has no effect on ``first`` and ``top``

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, get_args(SubsetKind))
        checks.seed(self.seed)
        if self._released:
            checks.integer("seed of a released kind", self.seed, 0, 2**32 - 1)
        if isinstance(self.amount, float):
            checks.number("amount as a share (a count is an integer)", self.amount, "(0, 1]")
        else:
            checks.integer("amount", self.amount, 1, 2**63 - 1)

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> Self:
        """Read ``trajectories:0.1`` (a share has a point) or ``first:10000`` (a count has none)."""
        kind, _, amount = text.partition(":")
        try:
            number = float(amount) if "." in amount else int(amount)
        except ValueError:
            kinds = "|".join(get_args(SubsetKind))
            raise ValueError(f"a subset is {kinds}:AMOUNT, such as first:10000 or top:0.1, got {text!r}") from None
        return cls(kind, number, seed)  # type: ignore[arg-type]

    def take(self, dataset: Dataset) -> Dataset:
        """The part of `dataset`, in the order of the file; refused if there is less than was asked for.

        Whole trajectories are those that ended; an unfinished last one is never taken. Single transitions keep every
        row whose next observation is known, and the result is no longer `ordered`.
        """
        with refusing(dataset.path):
            if self.kind == "first":
                part = dataset.rows(slice(self._count(len(dataset), "rows")))
            elif self.kind in ("transitions", "released-transitions"):
                d4rl = self._released or dataset.next_observations is None
                known = with_next_rows(dataset) if d4rl else dataset
                if len(known) == 0:
                    raise refuse("no next observation is known", "record 'next_observations'")
                chosen = self._drawn(len(known), "transitions")
                part = replace(known.rows(np.sort(chosen)), ordered=False)
            else:
                episodes = split_episodes(dataset)
                if self.kind == "top":
                    returns = np.array([episode.undiscounted_return for episode in episodes])
                    chosen = np.argsort(-returns, kind="stable")[: self._count(len(episodes), "trajectories")]
                else:
                    chosen = self._drawn(len(episodes), "trajectories")
                taken = [episodes[i] for i in np.sort(chosen)]
                part = dataset.rows(np.concatenate([np.arange(e.start, e.start + len(e)) for e in taken]))
        record: dict[str, Any] = asdict(self) | {"row_count": len(part), "row_count_before": len(dataset)}
        if "subset" in dataset.metadata:
            record["of"] = dataset.metadata["subset"]
        return replace(part, metadata={**dataset.metadata, "subset": record})

    @property
    def _released(self) -> bool:
        return self.kind.startswith("released")

    def _drawn(self, available: int, things: str) -> NDArray[np.int64]:
        """Which of the `available` things are taken, int64 (count,), in the order in which they are drawn."""
        count = self._count(available, things)
        if not self._released:
            return draw(count, available, self.seed)
        return np.random.RandomState(self.seed).choice(available, count, replace=False)

    def _count(self, available: int, things: str) -> int:
        if isinstance(self.amount, float):
            if not self._released:
                return max(1, round(self.amount * available))
            if (count := int(available * self.amount)) == 0:
                fault = f"a share of {self.amount:g} of {available:,} {things} is less than one"
                raise refuse(fault, "ask for a larger share, or for a count such as 1")
            return count
        if self.amount > available:
            fault = f"{self.amount:,} {things} were asked for, the dataset has {available:,}"
            raise refuse(fault, "ask for fewer, or for a share such as 0.5")
        return self.amount


def draw(count: int, size: int, seed: int) -> NDArray[np.int64]:
    """The first `count` numbers of the permutation of [0, size) that `seed` names, int64 (count,)."""
    return _core.permute(np.arange(count, dtype=np.uint64), size=size, seed=seed, epoch=0).astype(np.int64)


def keep_observations(dataset: Dataset, observation_dim: int) -> Dataset:
    """Keep the first numbers of each observation, such as 27 of D4RL's 111 for Ant; the others must all be zero."""
    kept = {"observations": dataset.observations}
    if dataset.next_observations is not None:
        kept["next_observations"] = dataset.next_observations
    with refusing(dataset.path):
        if not 1 <= observation_dim <= dataset.observation_dim:
            fault = f"key 'observations' has {dataset.observation_dim} columns, {observation_dim} were asked for"
            raise refuse(fault, f"ask for 1 to {dataset.observation_dim}")
        for name, values in kept.items():
            if (dropped := values[:, observation_dim:] != 0.0).any():
                row, column = (int(i) for i in np.argwhere(dropped)[0])
                column += observation_dim
                fault = f"key {name!r} holds {values[row, column]} in row {row}, column {column}"
                raise refuse(fault, f"only columns of zeros can be dropped; train on all {dataset.observation_dim}")
            kept[name] = np.ascontiguousarray(values[:, :observation_dim])
    return replace(dataset, **kept)  # type: ignore[arg-type]


def divide_actions(dataset: Dataset, limit: ActionLimit) -> Dataset:
    """Actions in units of an environment's `limit`: policies act within ±1."""
    return dataset if limit == 1.0 else replace(dataset, actions=to_policy(dataset.actions, limit))


def clip_actions(dataset: Dataset, limit: float) -> Dataset:
    """Clip actions to ±`limit`, > 0: 1.0 is what D4RL's environments do, 1 - 1e-6 keeps atanh finite."""
    limit = checks.number("action limit", limit, "(0, inf)")
    return replace(dataset, actions=dataset.actions.clip(-np.float32(limit), np.float32(limit)))
