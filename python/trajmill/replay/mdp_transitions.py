"""Random transitions of a discrete MDP, as vectors: the synthetic data of CQL's pre-training as a batch source."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from trajmill import _core
from trajmill.core import MDP, checks
from trajmill.replay.counters import Resumable


class MDPTransitions(Resumable, _core.MDPTransitions):
    """Transitions drawn uniformly, with replacement, from trajectories of an MDP (arXiv 2310.00771, section 4).

    A batch holds vectors that stand for states and actions: ``observation`` float32 (B, observation_dim), ``action``
    float32 (B, action_dim) and ``next_observation`` as ``observation``. Only the numbers of state, action and next
    state are kept, 3 bytes a transition up to 256 states, so the paper's million takes 3 MB. Row i of draw n depends on
    the seed, n and i alone. A model may learn to predict something other than the next state: see `from_arrays`.

    Parameters
    ----------
    observation_dim, action_dim
        Lengths of the vectors, which are those of ``mdp.state_vectors`` and ``mdp.action_vectors``.
    trajectory_count, length
        Trajectories, and transitions of each, >= 1; the paper has 1000 of 1000.
    first_trajectory
        Number of the first trajectory, to keep the data of several sources apart.
    seed
        64-bit seed of the draws; the trajectories depend on the MDP alone.
    threads
        Threads that make the trajectories; default every core.

    Attributes
    ----------
    rows : (N, 3) unsigned integers
        State, action and target of every transition; read-only, as are the codebooks.
    state_vectors, action_vectors, target_vectors : float32 (count, dimension)
        Row k stands for state, action or target k; targets have the vectors of the states unless others were given.
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
        sample = mdp.sample(
            checks.integer("trajectory_count", trajectory_count, 1, 2**63 - 1),
            checks.integer("length", length, 1, 2**32 - 1),
            first_trajectory=first_trajectory,
            threads=threads,
        )
        super().__init__(
            rows=_packed(sample.states[:, :-1], sample.actions, sample.states[:, 1:]),
            state_vectors=mdp.state_vectors(observation_dim),
            action_vectors=mdp.action_vectors(action_dim),
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
        """Transitions and codebooks of your own, such as the authors' stream or a corpus of trajectories.

        Of a corpus with the columns ``states`` and ``actions``, ``rows = corpus[:]`` gives
        ``(rows["states"][:, :-1], rows["actions"], rows["states"][:, 1:])``.

        Parameters
        ----------
        states, actions, next_states
            Integers >= 0 of equal shapes: transition i goes from ``states.flat[i]`` to ``next_states.flat[i]``.
            TypeError or ValueError if shapes disagree, there is no transition, or a number has no vector.
        state_vectors, action_vectors
            Float32 (S, observation_dim) and (A, action_dim): row k stands for state or action k.
        target_vectors
            Float32 (T, target_dim): row k stands for number k of `next_states`, which may then be the numbers of any
            other targets. They come as ``next_observation``; default `state_vectors`.
        seed
            64-bit seed of the draws.
        """
        if not states.shape == actions.shape == next_states.shape:
            raise ValueError(
                "states, actions and next_states must have equal shapes, got "
                f"{states.shape}, {actions.shape} and {next_states.shape}"
            )
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


def _packed(*columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(state, action, target) of every transition, in the smallest unsigned dtype."""
    for name, values in zip(("states", "actions", "next_states"), columns, strict=True):
        if values.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got {values.dtype}")
        if values.size == 0 or values.min() < 0 or values.max() >= 2**32:
            raise ValueError(f"{name} must hold at least one number, all in [0, 2**32)")
    largest = max(int(values.max()) for values in columns)
    dtype = checks.smallest_dtype(largest + 1)
    return np.stack([values.reshape(-1) for values in columns], axis=1, dtype=dtype, casting="unsafe")


def _codebook(name: str, vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    array = np.ascontiguousarray(vectors, np.float32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape (count, dimension), both >= 1, got {array.shape}")
    return array
