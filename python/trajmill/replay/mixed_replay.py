"""Batches whose rows come from several sources, real and synthetic, in exact proportions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from trajmill import _core
from trajmill.core import checks
from trajmill.replay.batches import Batches

Batch: TypeAlias = dict[str, npt.NDArray[Any]]


class Resumable:
    """A source whose draws depend on its seed and on how many came before, so that a resumed run continues them."""

    seed: int
    draw_count: int

    def state_dict(self) -> dict[str, Any]:
        """Seed and number of draws made, ready for JSON."""
        return {"seed": self.seed, "draw_count": self.draw_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; ValueError if that was a source with another seed."""
        if state.get("seed") != self.seed:
            raise ValueError(f"the state belongs to seed {state.get('seed')}, this source has seed {self.seed}")
        self.draw_count = checks.integer("draw_count", state.get("draw_count"), 0, 2**64 - 1)


class Sampler(Protocol):
    """Anything that makes batches: an object with this method, or the bare function."""

    def sample(self, batch_size: int, /) -> Batch:
        """A dict of arrays with `batch_size` rows."""


Source: TypeAlias = _core.BatchSource | Sampler | Callable[[int], Batch]
Weight: TypeAlias = float | _core.LinearWeight | Callable[[int], float]
Transform: TypeAlias = Callable[[Batch], Batch]
_Column: TypeAlias = tuple[str, tuple[int, ...], np.dtype[Any]]


def linear(start: float, end: float, steps: int) -> _core.LinearWeight:
    """A weight that goes from `start` at draw 0 in a straight line to `end` at draw `steps`, and stays there."""
    weights = checks.number("start", start, "[0, inf)"), checks.number("end", end, "[0, inf)")
    return _core.LinearWeight(*weights, checks.integer("steps", steps, 1, 2**64 - 1))


class MixedReplay(Batches, _core.MixedReplay):
    """Batches from several sources: exactly ``batch_size`` rows, exactly as many of each source as its weight asks.

    A batch holds the rows of the first source, then those of the second and so on, and a column ``source``, uint8 (B,):
    the number of each row's source in `names`. While the weights do not change, the rows that a source gave and those
    it was owed since the start differ by less than one at the end of every batch. Compiled sources write their rows
    into the batch in place; those of Python functions are copied once.

    >>> import trajmill as tm
    >>> mdp = tm.MDP(state_count=100, action_count=100)
    >>> first = tm.MDPTransitions(mdp, observation_dim=17, action_dim=6, trajectory_count=10, length=10, seed=1)
    >>> other = tm.MDPTransitions(mdp, observation_dim=17, action_dim=6, trajectory_count=10, length=10, seed=2)
    >>> mixed = tm.MixedReplay({"first": (first, 2), "other": (other, 1)})
    >>> [int((mixed.sample(4)["source"] == 0).sum()) for _ in range(3)]
    [3, 3, 2]

    Parameters
    ----------
    sources
        Name -> (source, weight), 1 to 256 of them. A source is a buffer or anything compiled, an object with
        ``sample(batch_size)``, or a function of the batch size. The latter two return dicts of arrays with the columns
        of the mixture that `fill` does not give; at least one source must be compiled. Weights are relative: numbers
        >= 0, `linear`, or functions of the number of the draw (0, 1, ...). A source of weight 0 may still be empty.
    columns
        Which columns a batch has; default those of all sources. Other columns of a source are dropped.
    fill
        Column -> value in the rows of sources that lack it. ``indexes`` -1 and ``weights`` 1 are the default, so that
        priorities are updated only where ``batch["source"]`` is that of the prioritised buffer.
    transform
        Name -> function that replaces columns in the rows of that source, such as a world model's next observations. It
        gets a dict of copies of these rows without ``source`` and returns a dict of the columns to replace: arrays of
        the same shape, converted as `ReplayBuffer` converts what is added. It can change nothing else.

    Raises
    ------
    TypeError, ValueError
        From the constructor if sources disagree about a column or lack it; from `sample` if a weight is negative or
        all are zero, or if a function returns something else. A draw that failed does not count, but the sources before
        the one that failed have moved on.
    RuntimeError
        From `sample` if one of its functions draws from the mixture itself or changes it.

    A mixture is pickled with its sources, if they and its functions can be (a `ReplayBuffer` cannot: save() it).
    """

    names: tuple[str, ...]
    sources: tuple[Source, ...]

    def __init__(
        self,
        sources: Mapping[str, tuple[Source, Weight]],
        *,
        columns: Sequence[str] | None = None,
        fill: Mapping[str, float] | None = None,
        transform: Mapping[str, Transform] | None = None,
    ) -> None:
        checks.instance("sources", sources, Mapping, "a dictionary of (source, weight) by name")
        self._made_of = sources, columns, fill, transform
        fill = {"indexes": -1, "weights": 1.0, **(fill or {})}
        transform = transform or {}
        for name in transform:
            checks.choice("transform", name, tuple(sources))
        for name, pair in sources.items():
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"source {name!r} must be given as (source, weight), got {pair!r}")
        self.names = tuple(sources)
        self.sources = tuple(source for source, _ in sources.values())
        mixed = _mixed_columns(self.sources, columns)
        from_functions = [column for column in mixed if column[0] not in fill]
        compiled = tuple(
            (name, _compiled(name, source, from_functions), _weight(name, weight), transform.get(name))
            for name, (source, weight) in sources.items()
        )
        fills = (np.broadcast_to(np.asarray(fill[name]), shape) if name in fill else None for name, shape, _ in mixed)
        super().__init__(sources=compiled, columns=[(*column, row) for column, row in zip(mixed, fills, strict=True)])

    def __repr__(self) -> str:
        parts = (f"{name!r}: {type(source).__name__}" for name, source in zip(self.names, self.sources, strict=True))
        return f"MixedReplay({', '.join(parts)})"

    @property
    def draw_count(self) -> int:
        """Draws made so far; also the number of the next."""
        return self.state[0]

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next draws, ready for JSON if the sources' states are.

        A source's part is its ``state_dict``, or else its ``draw_count`` (a ReplayBuffer saves its rows by itself), or
        None: then it is up to the caller.
        """
        draw_count, credit = self.state
        states = {
            name: source.state_dict() if hasattr(source, "state_dict") else getattr(source, "draw_count", None)
            for name, source in zip(self.names, self.sources, strict=True)
        }
        return {"draw_count": draw_count, "credit": dict(zip(self.names, credit, strict=True)), "sources": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, sources included; ValueError if it is of other sources or not whole.

        A state that is refused changes nothing, unless a source's own does.
        """
        try:
            names, credit, states = list(state["credit"]), list(state["credit"].values()), dict(state["sources"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the state is not one that state_dict gave: it lacks {error}") from error
        if names != list(self.names) or list(states) != list(self.names):
            raise ValueError(f"the state is of sources {names}, this mixture has {list(self.names)}")
        now = checks.integer("draw_count", state.get("draw_count"), 0, 2**64 - 1), credit
        _core.Shares(len(credit)).credit = credit  # refuses what draws cannot have led to
        source: Any
        for name, source in zip(self.names, self.sources, strict=True):
            if hasattr(source, "load_state_dict"):
                source.load_state_dict(states[name])
            elif hasattr(source, "draw_count"):
                source.draw_count = states[name]
        self.state = now

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._made_of, self.state)


def _restored(cls: type[MixedReplay], made_of: tuple[Any, ...], state: tuple[int, list[float]]) -> MixedReplay:
    sources, columns, fill, transform = made_of
    mixture = cls(sources, columns=columns, fill=fill, transform=transform)
    mixture.state = state
    return mixture


def _mixed_columns(sources: Sequence[Source], wanted: Sequence[str] | None) -> list[_Column]:
    """The columns of all compiled sources, each as the first source that has it describes it, or those wanted."""
    known: dict[str, _Column] = {}
    for source in sources:
        if isinstance(source, _core.BatchSource):
            known |= {column[0]: column for column in source.batch_columns if column[0] not in known}
    if not known:
        raise ValueError("at least one source must be compiled, such as a buffer: it says what the columns are")
    return [known[checks.choice("columns", name, tuple(known))] for name in (known if wanted is None else wanted)]


def _compiled(name: str, source: Source, columns: Sequence[_Column]) -> _core.BatchSource:
    if isinstance(source, _core.BatchSource):
        return source
    function = getattr(source, "sample", source)
    if not callable(function):
        raise TypeError(f"source {name!r} must be a buffer, have a method sample or be a function, got {source!r}")
    return _core.CallableSource(name, function, columns)


def _weight(name: str, weight: Weight) -> _core.LinearWeight | Callable[[int], float]:
    if isinstance(weight, _core.LinearWeight) or callable(weight):
        return weight
    constant = checks.number(f"the weight of source {name!r}", weight, "[0, inf)")
    return _core.LinearWeight(constant, constant, 0)
