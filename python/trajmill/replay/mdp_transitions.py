"""Random transitions of a discrete MDP, as vectors: the synthetic data of CQL's pre-training as a batch source."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from trajmill import _core
from trajmill.core import MDP, checks
from trajmill.core.reference import codebooks
from trajmill.replay.batches import Batches
from trajmill.replay.mixed_replay import Resumable


class MDPTransitions(Batches, Resumable, _core.MDPTransitions):
    """Transitions drawn uniformly, with replacement, from trajectories of an MDP (arXiv 2310.00771, section 4).

    A batch holds vectors that stand for states and actions: ``observation`` float32 (B, observation_dim), ``action``
    float32 (B, action_dim) and ``next_observation`` as ``observation``. The vectors are `codebooks`. Only numbers are
    kept, 3 bytes a transition up to 256 states. Row i of draw n depends on the seed, n and i alone, the trajectories on
    the MDP: there are `trajectory_count` of them, numbered from `first_trajectory` on, of `length` transitions each
    (the paper has 1000 of 1000). `threads` make them, by default on every core.

    ``rows`` (N, 3) are the numbers of state, action and target of every transition, the smallest unsigned integers that
    hold them; row k of ``state_vectors``, ``action_vectors`` and ``target_vectors``, float32 (count, dimension), stands
    for number k. The target is the next state, unless `from_arrays` was given another. All are read-only.
    """

    def __init__(
        self,
        mdp: MDP,
        *,
        observation_dim: int,
        action_dim: int,
        trajectory_count: int = 1000,
        length: int = 1000,
        first_trajectory: int = 0,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        checks.instance("mdp", mdp, MDP, "an MDP")
        count = checks.integer("trajectory_count", trajectory_count, 1, 2**63 - 1)
        steps = checks.integer("length", length, 1, 2**32 - 1)
        sample = mdp.sample(count, steps, first_trajectory=first_trajectory, threads=threads)
        states, actions = codebooks(mdp.state_count, mdp.action_count, observation_dim, action_dim)
        super().__init__(
            rows=_packed(sample.states[:, :-1], sample.actions, sample.states[:, 1:]),
            state_vectors=states,
            action_vectors=actions,
            target_vectors=None,
            seed=checks.seed(seed),
        )

    @classmethod
    def from_arrays(
        cls,
        states: npt.NDArray[Any],
        actions: npt.NDArray[Any],
        next_states: npt.NDArray[Any],
        *,
        state_vectors: npt.ArrayLike,
        action_vectors: npt.ArrayLike,
        target_vectors: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> Self:
        """Transitions and vectors of your own, such as the authors' stream or a corpus of trajectories.

        `states`, `actions` and `next_states` are integers >= 0 of equal shapes; of a corpus, ``rows = corpus[:]`` gives
        ``(rows["states"][:, :-1], rows["actions"], rows["states"][:, 1:])``. If a model is to predict something other
        than the next state, `next_states` are its numbers and `target_vectors` (T, target_dim) its vectors, which come
        as ``next_observation``. TypeError or ValueError if shapes disagree or a number has no vector.
        """
        if not states.shape == actions.shape == next_states.shape:
            shapes = f"{states.shape}, {actions.shape} and {next_states.shape}"
            raise ValueError(f"states, actions and next_states must have equal shapes, got {shapes}")
        source = cls.__new__(cls)
        _core.MDPTransitions.__init__(
            source,
            rows=_packed(states, actions, next_states),
            state_vectors=_codebook("state_vectors", state_vectors),
            action_vectors=_codebook("action_vectors", action_vectors),
            target_vectors=None if target_vectors is None else _codebook("target_vectors", target_vectors),
            seed=checks.seed(seed),
        )
        return source

    def __repr__(self) -> str:
        sizes = f"{self.state_vectors.shape[1]} observations, {self.action_vectors.shape[1]} actions"
        return f"MDPTransitions({len(self):,} rows, {sizes}, seed={self.seed})"

    def __reduce__(self) -> tuple[Any, ...]:
        vectors = self.state_vectors, self.action_vectors, self.target_vectors
        return _restored, (type(self), self.rows, *vectors, self.seed, self.draw_count)


def _restored(
    cls: type[MDPTransitions],
    rows: npt.NDArray[Any],
    states: npt.NDArray[np.float32],
    actions: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32],
    seed: int,
    draw_count: int,
) -> MDPTransitions:
    source = cls.__new__(cls)
    _core.MDPTransitions.__init__(
        source, rows=rows, state_vectors=states, action_vectors=actions, target_vectors=targets, seed=seed
    )
    source.draw_count = draw_count
    return source


def _packed(*columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(state, action, target) of every transition, in the smallest unsigned dtype."""
    for name, values in zip(("states", "actions", "next_states"), columns, strict=True):
        checks.unmasked(name, values)
        if values.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got {values.dtype}")
        if values.size == 0 or values.min() < 0 or values.max() >= 2**32:
            raise ValueError(f"{name} must hold at least one number, all in [0, 2**32)")
    dtype = checks.smallest_dtype(max(int(values.max()) for values in columns) + 1)
    return np.stack([values.reshape(-1) for values in columns], axis=1, dtype=dtype, casting="unsafe")


def _codebook(name: str, vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    array = checks.floats(name, vectors, np.float32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape (count, dimension), both >= 1, got {array.shape}")
    return array
