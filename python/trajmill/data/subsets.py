"""Parts of a data set: the first rows, whole trajectories, single transitions; drawn so that anyone can repeat it.

A draw is the beginning of a keyed permutation (`trajmill._core.permute`, Philox), so a smaller subset of the same seed
is contained in a larger one. What was taken is recorded in the data set's ``metadata["subset"]``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from trajmill import _core
from trajmill.core import checks
from trajmill.data.cuts import qlearning_transitions, split_episodes
from trajmill.data.errors import DatasetError, refuse
from trajmill.data.records import Dataset

SubsetKind = Literal["first", "trajectories", "transitions", "top"]


@dataclass(frozen=True, slots=True)
class Subset:
    """Which part of a data set to take.

    >>> Subset("trajectories", 0.1, seed=3)
    Subset(kind='trajectories', amount=0.1, seed=3)
    """

    kind: SubsetKind
    """``first`` rows of the file; whole ``trajectories`` at random; single ``transitions`` at random; the ``top``
    trajectories by undiscounted return"""
    amount: int | float
    """how many rows or trajectories (int, >= 1), or which share of them (float, in (0, 1])"""
    seed: int = 0
    """names the draw, [0, 2^64); of no effect for ``first`` and ``top``"""

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, get_args(SubsetKind))
        checks.seed(self.seed)
        if isinstance(self.amount, float):
            if not 0.0 < self.amount <= 1.0:
                raise ValueError(f"amount as a share must be in (0, 1], got {self.amount}; give a count as an integer")
        else:
            checks.integer("amount", self.amount, 1, 2**63 - 1)

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> Self:
        """Read ``trajectories:0.1`` (a share has a point) or ``first:10000`` (a count has none).

        Raises
        ------
        ValueError
            If the text is neither.
        """
        kind, _, amount = text.partition(":")
        try:
            number = float(amount) if "." in amount else int(amount)
        except ValueError:
            kinds = "|".join(get_args(SubsetKind))
            raise ValueError(f"a subset is {kinds}:AMOUNT, such as first:10000 or top:0.1, got {text!r}") from None
        return cls(kind, number, seed)  # type: ignore[arg-type]

    def take(self, dataset: Dataset) -> Dataset:
        """The part of `dataset`, in the order of the file.

        Whole trajectories are those that ended; an unfinished last one is never taken. Single transitions keep every
        row whose next observation is known, and the result is no longer `ordered`.

        Raises
        ------
        DatasetError
            If the data set has fewer rows or trajectories than asked for.
        """
        if self.kind == "first":
            part = dataset.rows(slice(self._count(dataset, len(dataset), "rows")))
        elif self.kind == "transitions":
            part = self._transitions(dataset)
        else:
            part = self._trajectories(dataset)
        record: dict[str, Any] = asdict(self) | {"row_count": len(part), "row_count_before": len(dataset)}
        if "subset" in dataset.metadata:
            record["of"] = dataset.metadata["subset"]
        return replace(part, metadata={**dataset.metadata, "subset": record})

    def _count(self, dataset: Dataset, available: int, things: str) -> int:
        if isinstance(self.amount, float):
            return max(1, round(self.amount * available))
        if self.amount > available:
            fault = f"{self.amount:,} {things} were asked for, the data set has {available:,}"
            raise refuse(dataset.path, fault, "ask for fewer, or for a share such as 0.5")
        return self.amount

    def _trajectories(self, dataset: Dataset) -> Dataset:
        episodes = split_episodes(dataset)
        count = self._count(dataset, len(episodes), "trajectories")
        if self.kind == "top":
            returns = np.array([episode.undiscounted_return for episode in episodes])
            chosen = np.argsort(-returns, kind="stable")[:count]
        else:
            chosen = draw(count, len(episodes), self.seed)
        chosen.sort()
        rows = [np.arange(episodes[i].start, episodes[i].start + len(episodes[i])) for i in chosen]
        return dataset.rows(np.concatenate(rows))

    def _transitions(self, dataset: Dataset) -> Dataset:
        if dataset.next_observations is None:
            dataset = _with_next_observations(dataset)
        count = self._count(dataset, len(dataset), "transitions")
        rows = draw(count, len(dataset), self.seed)
        rows.sort()
        return replace(dataset.rows(rows), ordered=False)


def draw(count: int, size: int, seed: int) -> NDArray[np.int64]:
    """The first `count` numbers of the permutation of [0, size) that `seed` names, int64 (count,)."""
    return _core.permute(np.arange(count, dtype=np.uint64), size=size, seed=seed, epoch=0).astype(np.int64)


def _with_next_observations(dataset: Dataset) -> Dataset:
    """The rows whose next observation the next row shows, by D4RL's rule."""
    transitions = qlearning_transitions(dataset, "d4rl")
    if len(transitions) == 0:
        raise DatasetError(f"{dataset.path}: no next observation is known; record 'next_observations'")
    rows = (~dataset.timeouts[:-1]).nonzero()[0]
    return replace(dataset.rows(rows), next_observations=transitions.next_observation)
