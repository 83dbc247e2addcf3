"""The authors' own data, bit for bit: the streams and conventions of the paper's released code (arXiv 2310.00771).

Everything here reproduces that code, its quirks included, so that results can be compared with the paper's. For new
work use MarkovChain and MDP, whose streams are sound and much faster. docs/reference-streams.md tells the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill import _core
from trajmill.core import checks


class ReferenceChain:
    """The authors' n-step Markov chain; keeps its softmax rows from one iteration to the next.

    Parameters
    ----------
    order
        Past tokens that the next one depends on, 1 to 32.
    state_count
        Number of tokens S, >= 1.
    temperature
        Softmax divisor > 0; inf makes every row uniform.
    seed
        64-bit seed of rows and draws; the authors use 666.
    """

    def __init__(self, order: int, state_count: int, temperature: float, seed: int) -> None:
        self.state_count = checks.state_count("state_count", state_count)
        self.order = checks.integer("order", order, 1, 32)
        self.temperature = checks.temperature("temperature", temperature)
        self.seed = checks.seed(seed)
        self._core = _core.ReferenceChain(
            state_count=self.state_count,
            order=self.order,
            temperature=self.temperature,
            seed=self.seed,
            memory_limit=checks.memory_limit(),
        )

    def tokens(
        self,
        worker_count: int,
        batch_size: int,
        length: int,
        iteration: int,
        *,
        workers: range | None = None,
        out: npt.NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> npt.NDArray[Any]:
        """One iteration of the authors' program; see `markov_tokens`."""
        chosen, shape = _round(worker_count, batch_size, length, iteration, workers)
        tokens = _tokens_out(out, shape, self.state_count)
        self._core.sample(chosen, out=tokens, threads=checks.thread_count(threads))
        return tokens

    def probabilities(self, context: Sequence[int] = ()) -> npt.NDArray[np.float64]:
        """The law of what follows `context` (oldest token first, at most `order` of them), float64 (S,)."""
        states = [checks.integer("context state", state, 0, self.state_count - 1) for state in context]
        if len(states) > self.order:
            raise ValueError(f"context must hold at most order = {self.order} states, got {len(states)}")
        logits = np.random.default_rng([state + 1 + self.seed for state in states] or self.seed).random(
            self.state_count
        )
        weights = np.exp((logits - logits.max()) / self.temperature)
        law: npt.NDArray[np.float64] = weights / weights.sum()
        return law


def markov_tokens(
    order: int,
    state_count: int,
    temperature: float,
    seed: int,
    worker_count: int,
    batch_size: int,
    length: int,
    iteration: int,
    *,
    workers: range | None = None,
    out: npt.NDArray[Any] | None = None,
    threads: int | None = None,
) -> npt.NDArray[Any]:
    """One iteration of the authors' n-step Markov chain: `batch_size` sequences of `length` tokens.

    The authors' program starts `worker_count` processes, each of which draws ``batch_size // worker_count`` sequences
    an iteration from generators of its own; a different worker count therefore makes different tokens. It writes blocks
    as processes happen to finish; here they come in worker order. An iteration needs no other to be made first. The
    length, too, enters the seeds of all iterations but the first.

    Parameters
    ----------
    order
        Past tokens that the next one depends on, 1 to 32.
    state_count
        Number of tokens S, >= 1.
    temperature
        Softmax divisor > 0; inf makes every row uniform.
    seed
        64-bit seed of rows and draws; the authors use 666.
    worker_count, batch_size
        Workers, and sequences of all of them together, a multiple of `worker_count`.
    length
        Tokens of a sequence.
    iteration
        Which iteration, >= 0; the authors' corpora hold iterations 0, 1, 2, ...
    workers
        Whose blocks to make, a range of step 1 and at least one worker; default all. The others need not be made.
    out
        Array of integers to fill instead of a new one.
    threads
        Threads, of which at most `worker_count` find work; default every core.

    Returns
    -------
    int64 (batch_size, length), or `out`; with `workers`, ``batch_size // worker_count`` rows for each of them.

    Raises
    ------
    TypeError, ValueError
        For a value of the wrong type or out of range, or seeds that would pass 64 bits.
    """
    chain = ReferenceChain(order, state_count, temperature, seed)
    return chain.tokens(worker_count, batch_size, length, iteration, workers=workers, out=out, threads=threads)


def iid_tokens(
    state_count: int,
    seed: int,
    worker_count: int,
    batch_size: int,
    length: int,
    iteration: int,
    *,
    workers: range | None = None,
    out: npt.NDArray[Any] | None = None,
    threads: int | None = None,
) -> npt.NDArray[Any]:
    """One iteration of the authors' independent uniform tokens; parameters and result as for `markov_tokens`."""
    states = checks.state_count("state_count", state_count)
    chosen, shape = _round(worker_count, batch_size, length, iteration, workers)
    tokens = _tokens_out(out, shape, states)
    _core.reference_iid_tokens(
        state_count=states,
        seed=checks.seed(seed),
        round=chosen,
        out=tokens,
        threads=checks.thread_count(threads),
    )
    return tokens


def mdp_transitions(
    trajectory_count: int,
    length: int,
    state_count: int,
    action_count: int,
    policy_temperature: float,
    transition_temperature: float,
    random_start: bool = False,
    *,
    trajectories: range | None = None,
    threads: int | None = None,
) -> dict[str, npt.NDArray[np.int64]]:
    """The authors' random MDP: `trajectory_count` trajectories of `length` transitions, one after another.

    The authors' program has no seed to choose. Pairs (s, a) of equal ``8 s + 7 a`` share one transition row; unless
    `random_start` is set, all trajectories start in one state, which depends on `trajectory_count`.

    Parameters
    ----------
    trajectory_count, length
        Trajectories, and transitions of each; the authors make 1000 of 1000.
    state_count, action_count
        Numbers of states S and actions A, >= 1; the authors' default is 100 of each.
    policy_temperature, transition_temperature
        Softmax divisors > 0. One of them may be inf (uniform); both may not, since the authors' program then draws
        without a seed.
    random_start
        Whether the start state depends on the trajectory.
    trajectories
        Which of them to make, a range of step 1; default all. The others need not be made.
    threads
        Threads; default every core.

    Returns
    -------
    ``observations``, ``actions`` and ``next_observations``, each int64 (trajectories made * length,): indices, in the
    authors' order and under their names. `codebooks` has the vectors that stand for them.

    Raises
    ------
    TypeError, ValueError
        For a value of the wrong type or out of range, or seeds that NumPy's legacy generator would not take.
    """
    if not isinstance(random_start, bool | np.bool_):
        raise TypeError(f"random_start must be True or False, got {random_start!r}")
    count = checks.integer("trajectory_count", trajectory_count, 0, 2**32 - 1)
    chosen = _some_of("trajectories", trajectories, count)
    columns = _core.reference_mdp_transitions(
        first_trajectory=chosen.start,
        count=len(chosen),
        trajectory_count=count,
        length=checks.integer("length", length, 0, 2**32 - 1),
        state_count=checks.state_count("state_count", state_count),
        action_count=checks.state_count("action_count", action_count),
        policy_temperature=checks.temperature("policy_temperature", policy_temperature),
        transition_temperature=checks.temperature("transition_temperature", transition_temperature),
        random_start=bool(random_start),
        memory_limit=checks.memory_limit(),
        threads=checks.thread_count(threads),
    )
    return dict(zip(("observations", "actions", "next_observations"), columns, strict=True))


def codebooks(
    state_count: int, action_count: int, observation_dim: int, action_dim: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The paper's fixed vectors of states and actions, bit for bit as its released code draws them.

    Both come from one legacy NumPy stream with seed 0, states first, so the action vectors depend on all four sizes.

    Returns
    -------
    float32 (state_count, observation_dim) and float32 (action_count, action_dim), Uniform(-1, 1).
    """
    states = checks.state_count("state_count", state_count)
    actions = checks.state_count("action_count", action_count)
    dimensions = [
        checks.integer(n, v, 1, 2**31) for n, v in (("observation_dim", observation_dim), ("action_dim", action_dim))
    ]
    stream = np.random.RandomState(0)
    vectors = [2 * stream.rand(n, d) - 1 for n, d in zip((states, actions), dimensions, strict=True)]
    return vectors[0].astype(np.float32), vectors[1].astype(np.float32)


def block_size(worker_count: int, batch_size: int) -> int:
    """Sequences that one worker makes in an iteration; ValueError unless all make equally many, at least one."""
    count = checks.integer("worker_count", worker_count, 1, 2**32 - 1)
    rows = checks.integer("batch_size", batch_size, 1, 2**63 - 1)
    if rows % count:
        raise ValueError(
            f"batch_size must be a multiple of worker_count = {count}, got {rows}; "
            f"the authors' program drops the rest, which leaves {rows - rows % count}"
        )
    return rows // count


def _round(
    worker_count: int, batch_size: int, length: int, iteration: int, workers: range | None
) -> tuple[_core.ReferenceRound, tuple[int, int]]:
    """What is made of an iteration, and the shape of its tokens."""
    block = block_size(worker_count, batch_size)
    made = _some_of("workers", workers, worker_count)
    if not made:
        raise ValueError(f"workers must hold at least one worker, got {workers!r}")
    chosen = _core.ReferenceRound(
        reference_worker_count=worker_count,
        iteration=checks.integer("iteration", iteration, 0, 2**63 - 1),
        first_worker=made.start,
        made_count=len(made),
    )
    return chosen, (len(made) * block, checks.integer("length", length, 0, 2**32))


def _some_of(name: str, chosen: range | None, count: int) -> range:
    if chosen is None:
        return range(count)
    if not isinstance(chosen, range) or chosen.step != 1 or chosen.start < 0 or chosen.stop > count:
        raise ValueError(f"{name} must be a range of step 1 within range({count}), got {chosen!r}")
    return chosen


def _tokens_out(out: npt.NDArray[Any] | None, shape: tuple[int, int], state_count: int) -> npt.NDArray[Any]:
    return checks.output("out", out, shape, np.int64 if out is None else None, state_count)
