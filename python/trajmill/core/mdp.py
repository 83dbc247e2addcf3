"""Markov decision processes with random policies and transitions, sampled by compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmill import _core
from trajmill.core import checks, pictures
from trajmill.core.column import Column
from trajmill.core.law import Arrays, no_extra
from trajmill.core.sampler import ExplicitStream, Sampler, explicit_seed


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class MDPSample:
    """Trajectories of an MDP: ``states[i, t + 1]`` follows ``actions[i, t]`` taken in ``states[i, t]``."""

    states: NDArray[Any]  # (N, L + 1) integers in [0, state_count)
    actions: NDArray[Any]  # (N, L) integers in [0, action_count)

    def __repr__(self) -> str:
        count, length = self.actions.shape
        return f"<MDPSample: {count:,} trajectories of {length:,} transitions, {self.states.dtype}>"

    def _repr_html_(self) -> str:
        return pictures.html(repr(self), pictures.token_cells(self.states))


class MDP(Sampler):
    """A random MDP: a softmax row over actions for each state, one over next states for each (state, action).

    Logits are ``u ~ Uniform(0, 1)``, fixed by the seed. Source: arXiv 2310.00771, section 4; deviations: every
    (state, action) has a row of its own, and trajectories start anywhere (the authors' generator shares rows and starts
    all trajectories in one state).

    There are `state_count` (S) states and `action_count` (A) actions, both >= 1. The temperatures are softmax divisors
    > 0; inf makes rows uniform. With `start` ``"random"`` each trajectory starts in a uniformly drawn state, with
    ``"fixed"`` all start where trajectory 0 does. `seed`, `backend`, `threads` and errors are as in `MarkovChain`.
    """

    _SETTINGS = "state_count action_count policy_temperature transition_temperature seed start backend"
    _core: _core.MDP
    _policy_row: Callable[[int], NDArray[np.float64]]
    _transition_row: Callable[[int, int], NDArray[np.float64]]

    def __init__(
        self,
        *,
        state_count: int,
        action_count: int,
        policy_temperature: float = 1.0,
        transition_temperature: float = 1.0,
        seed: int = 42,
        start: Literal["random", "fixed"] = "random",
        backend: Literal["auto", "dense", "implicit"] = "auto",
        threads: int | None = None,
    ) -> None:
        self.state_count = checks.state_count("state_count", state_count)
        self.action_count = checks.state_count("action_count", action_count)
        self.policy_temperature: float | None = checks.temperature("policy_temperature", policy_temperature)
        self.transition_temperature: float | None = checks.temperature("transition_temperature", transition_temperature)
        self.seed = checks.seed(seed)
        self.start = checks.choice("start", start, ("random", "fixed"))
        law = _core.MDPLaw(
            state_count=self.state_count,
            action_count=self.action_count,
            policy_temperature=self.policy_temperature,
            transition_temperature=self.transition_temperature,
            fixed_start=self.start == "fixed",
            seed=self.seed,
        )
        self._policy_row, self._transition_row = law.policy_probabilities, law.transition_probabilities
        self._core = _core.MDP(
            law,
            backend=checks.choice("backend", backend, ("auto", "dense", "implicit")),
            memory_limit=checks.memory_limit(),
            threads=checks.thread_count(threads),
        )

    @classmethod
    def from_probabilities(
        cls,
        policy: ArrayLike,
        transition: ArrayLike,
        *,
        seed: int = 42,
        start: Literal["random", "fixed"] = "random",
        stream: ExplicitStream = "v2",
    ) -> MDP:
        """An explicit MDP: `policy` (S, A) and `transition` (S, A, S), rows >= 0 that sum to 1.

        The draws depend on the seed and on all probabilities; with `stream` ``"v1"``, that of version 0.1, on the seed
        and the sizes alone.
        """
        pi = checks.distributions("policy", policy, (None, None))
        states, actions = pi.shape
        p = checks.distributions("transition", transition, (states, actions, states))
        mdp = cls.__new__(cls)
        mdp.state_count, mdp.action_count = states, actions
        mdp.policy_temperature = mdp.transition_temperature = None
        mdp.seed, mdp.start = checks.seed(seed), checks.choice("start", start, ("random", "fixed"))
        fixed = mdp.start == "fixed"
        mdp._policy_row, mdp._transition_row = lambda s: pi[s].copy(), lambda s, a: p[s, a].copy()
        mdp._core = _core.MDP.from_probabilities(
            policy=pi,
            transition=p,
            fixed_start=fixed,
            seed=explicit_seed(mdp.seed, stream, pi, p),
            memory_limit=checks.memory_limit(),
            threads=1,
        )
        mdp._explicit = partial(cls.from_probabilities, pi, p, seed=mdp.seed, start=start, stream=stream)
        return mdp

    def sample(
        self,
        trajectory_count: int,
        length: int,
        *,
        first_trajectory: int = 0,
        out: MDPSample | None = None,
        threads: int | None = None,
    ) -> MDPSample:
        """Trajectories `first_trajectory` to `first_trajectory` + `trajectory_count` - 1, of `length` transitions.

        Trajectory i is the same whichever call makes it. `out` may be an earlier result of the same shape, to be
        filled again.
        """
        count = checks.integer("trajectory_count", trajectory_count, 0, 2**63 - 1)
        first = checks.integer("first_trajectory", first_trajectory, 0, 2**64 - 1)
        data = self._output(count, length, out)
        self._core.sample(
            first_trajectory=first, states=data.states, actions=data.actions, threads=checks.thread_count(threads)
        )
        return data

    def sample_trajectories(
        self,
        indexes: Sequence[int] | NDArray[Any],
        length: int,
        *,
        out: MDPSample | None = None,
        threads: int | None = None,
    ) -> MDPSample:
        """The trajectories of the given numbers (n,), in that order: row k is trajectory ``indexes[k]`` of `sample`."""
        numbers = checks.indexes("indexes", indexes)
        data = self._output(len(numbers), length, out)
        self._core.sample_trajectories(
            indexes=numbers, states=data.states, actions=data.actions, threads=checks.thread_count(threads)
        )
        return data

    def _output(self, count: int, length: int, out: MDPSample | None) -> MDPSample:
        steps = checks.integer("length", length, 0, 2**32 - 1)
        old_states, old_actions = (None, None) if out is None else (out.states, out.actions)
        return MDPSample(
            states=checks.output("out.states", old_states, (count, steps + 1), None, self.state_count),
            actions=checks.output("out.actions", old_actions, (count, steps), None, self.action_count),
        )

    @property
    def vocabulary_size(self) -> int:
        """Of the states; actions have a number of their own."""
        return self.state_count

    def columns(self, length: int, extra: Sequence[str] = ()) -> tuple[Column, ...]:
        """See `RowLaw`: ``states``, one more than `length`, and ``actions``."""
        no_extra(self, extra)
        states, actions = (checks.smallest_dtype(count).name for count in (self.state_count, self.action_count))
        return (
            Column(name="states", dtype=states, row_length=length + 1),
            Column(name="actions", dtype=actions, row_length=length),
        )

    def fill(self, first_sequence: int, arrays: Arrays, threads: int | None = None) -> None:
        """See `RowLaw`."""
        out = MDPSample(states=arrays["states"], actions=arrays["actions"])
        self.sample(*out.actions.shape, first_trajectory=first_sequence, out=out, threads=threads)

    def pick(self, indexes: Sequence[int] | NDArray[Any], arrays: Arrays, threads: int | None = None) -> None:
        """See `RowLaw`."""
        out = MDPSample(states=arrays["states"], actions=arrays["actions"])
        self.sample_trajectories(indexes, out.actions.shape[1], out=out, threads=threads)

    def policy_probabilities(self, state: int) -> NDArray[np.float64]:
        """The exact law of the action in `state`, float64 (A,)."""
        checks.require_memory("a row", 8 * self.action_count, "there are too many actions")
        return self._policy_row(checks.integer("state", state, 0, self.state_count - 1))

    def transition_probabilities(self, state: int, action: int) -> NDArray[np.float64]:
        """The exact law of the state after `action` in `state`, float64 (S,)."""
        checks.require_memory("a row", 8 * self.state_count, "there are too many states")
        s = checks.integer("state", state, 0, self.state_count - 1)
        return self._transition_row(s, checks.integer("action", action, 0, self.action_count - 1))

    def state_vectors(self, dimension: int) -> NDArray[np.float32]:
        """Fixed Uniform(-1, 1) vectors that stand for the states, float32 (S, dimension); the same for every seed."""
        return _core.state_codebook(self.state_count, checks.integer("dimension", dimension, 1, 2**31))

    def action_vectors(self, dimension: int) -> NDArray[np.float32]:
        """Fixed Uniform(-1, 1) vectors that stand for the actions, float32 (A, dimension); the same for every seed."""
        return _core.action_codebook(self.action_count, checks.integer("dimension", dimension, 1, 2**31))
