"""Windows of consecutive steps for the Decision Transformer, drawn and padded in the compiled core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from trajmill import _core
from trajmill.core import checks
from trajmill.data.episodes import check_order
from trajmill.data.normalizer import Normalizer
from trajmill.data.records import BoolArray, Dataset, FloatArray
from trajmill.replay.batches import Batches
from trajmill.replay.mixed_replay import Resumable

StepColumn = Literal["observation", "action", "reward", "return_to_go", "terminal", "truncated"]
"""What a window may show of each step; ``timestep`` and ``mask`` always come with it."""

_NORMALIZER_EPSILON = 1e-6  # added to the standard deviation, as in the Decision Transformer's code
_LARGEST = float(np.finfo(np.float32).max)
_FLAG_PADDING = 2  # neither False nor True


class TrajectoryBuffer(Batches, Resumable, _core.TrajectoryBuffer):
    """Episodes from which windows of K steps are drawn (arXiv 2106.01345 and the code of arXiv 2201.12122).

    An episode is chosen in proportion to its length, with replacement, and a start in it uniformly: together a uniform
    step of all. The window holds the K steps from there; if fewer are left in the episode, they come behind padding.

    ==================  =================  ================================================================
    ``observation``     float32 (B, K, O)  normalized; padding is a zero observation, see `observation_padding`
    ``action``          float32 (B, K, A)  padding is `action_padding`
    ``reward``          float32 (B, K)     as given; padding 0
    ``return_to_go``    float32 (B, K)     rewards from this step to the end of the episode / `return_scale`; padding 0
    ``timestep``        int64 (B, K)       number of the step in its episode, at most `timestep_limit` - 1; padding 0
    ``mask``            bool (B, K)        False in the padding
    ``terminal``        uint8 (B, K)       if asked for, as is ``truncated``: 0 or 1; padding 2
    ==================  =================  ================================================================

    Window i of draw n depends on the seed, n and i alone. Returns are summed in float64 from the end of an episode and
    rounded once; the authors' code adds float32 numbers anew for each sample. Float32 arrays other than observations
    are kept as they are, without a copy (they may be memory-mapped), so do not write to them.

    Parameters
    ----------
    observation, action, reward
        Float (N, O), (N, A) and (N,): row i is the step at time i of a recording, episodes follow each other.
    terminal, truncated
        Bool (N,): the episode ends with this row, because the MDP ended or because a limit cut it.
    context_length
        Steps K of a window, >= 1.
    columns
        Which of the step columns a batch has.
    normalizer
        ``"fit"`` measures mean and population standard deviation + 1e-6 of all episodes; None changes nothing.
    observation_padding
        ``"before"``: padding is 0 before normalization, hence -mean / scale after it, as in the authors' training
        code; ``"after"``: 0 after it, as in their evaluation code.
    action_padding
        -10 in the authors' training code, 0 in their evaluation code.
    discount
        In [0, 1]; 1 in the paper.
    return_scale
        What returns-to-go are divided by, > 0; 1000 for the locomotion tasks.
    timestep_limit
        Later timesteps count as the last one before the limit; None for no limit.
    top_fraction
        Keep the episodes of highest return as long as their steps are at most this fraction of all, in (0, 1]. The
        first is always kept; of equal returns the later one comes first. Normalization still measures all episodes.
    strict_budget
        True: "less than" in place of "at most", as in the code of arXiv 2201.12122, which therefore never samples the
        episode of lowest return.
    keep_tail
        Whether rows after the last end are an episode too; by default an unfinished episode is dropped.
    seed
        64-bit seed of the draws.

    Raises
    ------
    TypeError, ValueError
        For shapes that disagree, numbers that are not finite or out of range, or if no episode is finished.
    """

    normalizer: Normalizer | None
    """how observations were normalized; evaluate with it"""
    episodes: npt.NDArray[np.uint64]
    """(M, 2): first row and length of each episode windows are drawn from; `windows` numbers their steps in this order,
    from 0 to ``step_count`` - 1"""

    def __init__(
        self,
        *,
        observation: npt.ArrayLike,
        action: npt.ArrayLike,
        reward: npt.ArrayLike,
        terminal: npt.ArrayLike,
        truncated: npt.ArrayLike,
        context_length: int = 20,
        columns: Sequence[StepColumn] = ("observation", "action", "reward", "return_to_go"),
        normalizer: Normalizer | Literal["fit"] | None = "fit",
        observation_padding: Literal["before", "after"] = "before",
        action_padding: float = -10.0,
        discount: float = 1.0,
        return_scale: float = 1000.0,
        timestep_limit: int | None = 1000,
        top_fraction: float = 1.0,
        strict_budget: bool = False,
        keep_tail: bool = False,
        seed: int = 0,
    ) -> None:
        observations, actions = _floats("observation", observation, 2), _floats("action", action, 2)
        rewards = _floats("reward", reward, 1)
        terminals, truncations = _flags("terminal", terminal), _flags("truncated", truncated)
        given = {"action": actions, "reward": rewards, "terminal": terminals, "truncated": truncations}
        for name, array in given.items():
            if len(array) != len(observations):
                wanted = f"one row a step like observation, {len(observations)}"
                raise ValueError(f"{name} must have {wanted}, got {len(array)}")
        checks.number("discount", discount, "[0, 1]")
        checks.number("return_scale", return_scale, f"(0, {_LARGEST}]")
        checks.number("action_padding", action_padding, f"[{-_LARGEST}, {_LARGEST}]")
        for name in columns:
            checks.choice("columns", name, get_args(StepColumn))
        if len(set(columns)) < len(columns):
            raise ValueError(f"columns must be different, got {tuple(columns)}")
        episodes = _split(terminals | truncations, keep_tail)
        if isinstance(normalizer, str):
            checks.choice("normalizer", normalizer, ("fit",))
            normalizer = Normalizer.fit(observations[: int(episodes[-1].sum())], _NORMALIZER_EPSILON)
        self.normalizer = normalizer
        zeros = np.zeros((1, observations.shape[1]), np.float32)
        if normalizer is not None:
            observations = _core.normalize_rows(observations, normalizer.mean, normalizer.scale)
            if checks.choice("observation_padding", observation_padding, ("before", "after")) == "before":
                zeros = _core.normalize_rows(zeros, normalizer.mean, normalizer.scale)
        no_reward, no_flag = np.zeros((), np.float32), np.full((), _FLAG_PADDING, np.uint8)
        steps: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {  # and the padding of one
            "observation": (observations, zeros[0]),
            "action": (actions, np.full(actions.shape[1], action_padding, np.float32)),
            "reward": (rewards, no_reward),
            "terminal": (terminals.view(np.uint8), no_flag),
            "truncated": (truncations.view(np.uint8), no_flag),
        }
        if "return_to_go" in columns:
            returns = _core.returns_to_go(rewards, episodes, discount, return_scale)
            if not np.isfinite(returns).all():
                raise ValueError("returns must be finite in float32; scale the rewards, or pass a larger return_scale")
            steps["return_to_go"] = (returns, no_reward)
        limit = checks.integer("timestep_limit", 2**63 - 1 if timestep_limit is None else timestep_limit, 1, 2**63 - 1)
        self.episodes = _select(episodes, rewards, top_fraction, strict_budget)
        self._core_arguments: dict[str, Any] = {
            "episodes": self.episodes,
            "arrays": tuple((name, *steps[name]) for name in columns),
            "context_length": checks.integer("context_length", context_length, 1, 2**32 - 1),
            "timestep_limit": limit,
            "seed": checks.seed(seed),
        }
        super().__init__(**self._core_arguments)

    def __repr__(self) -> str:
        columns = ", ".join(name for name, _, _ in self.batch_columns)
        steps = int(self.episodes[:, 1].sum())
        return f"TrajectoryBuffer({len(self.episodes):,} episodes of {steps:,} steps together: {columns})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.__dict__, self.draw_count)

    @classmethod
    def from_dataset(cls, dataset: Dataset, **options: Any) -> Self:
        """Windows of a dataset, whose timeouts are the truncated steps; `options` are those of the class.

        DatasetError if its rows do not follow each other (`trajmill.data.episodes.check_order`).
        """
        check_order(dataset)
        return cls(
            observation=dataset.observations,
            action=dataset.actions,
            reward=dataset.rewards,
            terminal=dataset.terminals,
            truncated=dataset.timeouts,
            **options,
        )

    def windows(  # type: ignore[override]  # any integers here, uint64 in the core
        self, starts: Sequence[int] | npt.NDArray[Any], out: dict[str, npt.NDArray[Any]] | None = None, threads: int = 1
    ) -> dict[str, npt.NDArray[Any]]:
        """The windows that start at the given steps of `episodes`, a batch as `sample` gives it; IndexError outside."""
        return super().windows(checks.indexes("starts", starts), out, threads)


def _restored(cls: type[TrajectoryBuffer], attributes: dict[str, Any], draw_count: int) -> TrajectoryBuffer:
    buffer = cls.__new__(cls)
    buffer.__dict__.update(attributes)
    _core.TrajectoryBuffer.__init__(buffer, **buffer._core_arguments)
    buffer.draw_count = draw_count
    return buffer


def _floats(name: str, values: npt.ArrayLike, axes: int) -> FloatArray:
    """Finite float32 numbers, one row a step, C-contiguous; `values` themselves where they are that already."""
    array = checks.floats(name, values, np.float32)
    if array.ndim != axes or 0 in array.shape[1:]:
        wanted = "(N, dimension >= 1)" if axes == 2 else "(N,)"
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    if array.size and not np.isfinite([array.min(), array.max()]).all():  # both are NaN if one number is
        row = int(np.isfinite(array).reshape(len(array), -1).all(axis=1).argmin())
        raise ValueError(f"{name} must be finite in float32, got {array[row]} in row {row}")
    return array


def _flags(name: str, values: npt.ArrayLike) -> BoolArray:
    array = np.ascontiguousarray(checks.unmasked(name, values))
    if array.dtype != np.bool_ or array.ndim != 1:
        raise TypeError(f"{name} must be bool (N,), got {array.dtype} {array.shape}; cast flags with .astype(bool)")
    return array


def _split(ends: BoolArray, keep_tail: bool) -> npt.NDArray[np.uint64]:
    """First row and length of each episode; they follow each other from row 0 on."""
    stops = ends.nonzero()[0] + 1
    if keep_tail and len(ends) and not ends[-1]:
        stops = np.append(stops, len(ends))
    if len(stops) == 0:
        remedy = "set terminal or truncated, or keep_tail=True"
        raise ValueError(f"none of the {len(ends)} rows ends an episode, so there is no whole episode; {remedy}")
    starts = np.concatenate(([0], stops[:-1]))
    return np.stack([starts, stops - starts], axis=1).astype(np.uint64)


def _select(
    episodes: npt.NDArray[np.uint64], rewards: FloatArray, top_fraction: float, strict_budget: bool
) -> npt.NDArray[np.uint64]:
    """The episodes of highest return that fit the budget of steps, in the order of the recording."""
    fraction = checks.number("top_fraction", top_fraction, "(0, 1]")
    lengths = episodes[:, 1].astype(np.int64)
    budget = max(int(fraction * lengths.sum()), 1)
    starts, end = episodes[:, 0].astype(np.intp), int(episodes[-1].sum())
    returns = np.add.reduceat(rewards[:end], starts, dtype=np.float64)
    best_first = np.argsort(returns, kind="stable")[::-1]
    steps = np.cumsum(lengths[best_first])
    kept = steps < budget if strict_budget else steps <= budget
    kept[0] = True
    return episodes[np.sort(best_first[kept])]
