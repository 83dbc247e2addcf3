"""The authors' own data, bit for bit: the streams and conventions of the paper's released code (arXiv 2310.00771).

Everything here reproduces that code, its quirks included, so that results can be compared with the paper's. For new
work use MarkovChain and MDP, whose streams are sound and much faster. docs/reference-streams.md has the differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill import _core
from trajmill.core import checks


class ReferenceChain:
    """The authors' n-step Markov chain, with the settings of `markov_tokens`; keeps its rows between iterations."""

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
        out: NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> NDArray[Any]:
        """One iteration of the authors' program; see `markov_tokens`."""
        chosen, tokens = _round(self.state_count, worker_count, batch_size, length, iteration, workers, out)
        self._core.sample(chosen, out=tokens, threads=checks.thread_count(threads))
        return tokens

    def probabilities(self, context: Sequence[int] = ()) -> NDArray[np.float64]:
        """The law of what follows `context` (oldest token first, at most `order` of them), float64 (S,)."""
        states = checks.context(context, self.order, self.state_count)
        generator = np.random.default_rng([state + 1 + self.seed for state in states] or self.seed)
        logits = generator.random(self.state_count)
        weights = np.exp((logits - logits.max()) / self.temperature)
        law: NDArray[np.float64] = weights / weights.sum()
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
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """One iteration of the authors' n-step Markov chain: int64 (batch_size, length), or `out`, integers to fill.

    The authors' program starts `worker_count` processes, each of which draws ``batch_size // worker_count`` sequences
    of `length` tokens an iteration from generators of its own; a different worker count therefore makes different
    tokens. It writes blocks as processes happen to finish; here they come in worker order. `workers`, a range of step
    1, chooses whose blocks to make; default all. Any `iteration` >= 0 can be made without the ones before it. The
    length, too, enters the seeds of all iterations but the first.

    `order` past tokens, 1 to 32, decide on the next of `state_count` tokens, >= 1. `temperature` is a softmax divisor
    > 0; inf makes every row uniform. `seed`, of rows and draws, has 64 bits; the authors use 666. Of `threads` at most
    `worker_count` find work; default every core.

    TypeError or ValueError for a value of the wrong type or out of range, or seeds that would pass 64 bits.
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
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """One iteration of the authors' independent uniform tokens; parameters and result as for `markov_tokens`."""
    states = checks.state_count("state_count", state_count)
    chosen, tokens = _round(states, worker_count, batch_size, length, iteration, workers, out)
    _core.reference_iid_tokens(
        state_count=states,
        seed=checks.seed(seed),
        round=chosen,
        out=tokens,
        memory_limit=checks.memory_limit(),
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
) -> dict[str, NDArray[np.int64]]:
    """The authors' random MDP: `trajectory_count` trajectories of `length` transitions, one after another.

    The authors make 1000 trajectories of 1000 transitions with 100 states and 100 actions. Their program has no seed to
    choose. Pairs (s, a) of equal ``8 s + 7 a`` share one transition row. The softmax divisors are > 0; one of them may
    be inf (uniform), but not both, since the authors' program then draws without a seed. With `random_start` the start
    state depends on the trajectory; otherwise all start in one, which depends on `trajectory_count`. `trajectories`, a
    range of step 1, chooses which of them to make; default all.

    The result has ``observations``, ``actions`` and ``next_observations``, each int64 (trajectories made * length,):
    indices, in the authors' order and under their names. `codebooks` has the vectors that stand for them.

    TypeError or ValueError for a value of the wrong type or out of range, or seeds that NumPy's legacy generator would
    not take.
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
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The paper's fixed vectors of states and actions, bit for bit as its released code draws them.

    They are the default wherever the numbers of an MDP become vectors: in `MDPTransitions`, in forward dynamics and in
    exports to D4RL's format. (`MDP.state_vectors` are others, which do not depend on the number of states.)

    Both come from one legacy NumPy stream with seed 0, states first, so the action vectors depend on all four sizes.
    They are Uniform(-1, 1), float32 (state_count, observation_dim) and (action_count, action_dim). ValueError if they
    need more than half of the memory.
    """
    states = (
        checks.state_count("state_count", state_count),
        checks.integer("observation_dim", observation_dim, 1, 2**31),
    )
    actions = checks.state_count("action_count", action_count), checks.integer("action_dim", action_dim, 1, 2**31)
    checks.require_memory(
        "the vectors", 16 * (math.prod(states) + math.prod(actions)), "use fewer states or smaller vectors"
    )
    stream = np.random.RandomState(0)
    state_vectors, action_vectors = 2 * stream.rand(*states) - 1, 2 * stream.rand(*actions) - 1
    return state_vectors.astype(np.float32), action_vectors.astype(np.float32)


def block_size(worker_count: int, batch_size: int) -> int:
    """Sequences that one worker makes in an iteration; ValueError unless all make equally many, at least one."""
    count = checks.integer("worker_count", worker_count, 1, 2**32 - 1)
    rows = checks.integer("batch_size", batch_size, 1, 2**63 - 1)
    if rows % count:
        fault = f"batch_size must be a multiple of worker_count = {count}, got {rows}"
        raise ValueError(f"{fault}; the authors' program drops the rest, which leaves {rows - rows % count}")
    return rows // count


def _round(
    state_count: int,
    worker_count: int,
    batch_size: int,
    length: int,
    iteration: int,
    workers: range | None,
    out: NDArray[Any] | None,
) -> tuple[_core.ReferenceRound, NDArray[Any]]:
    """What is made of an iteration, and the array for its tokens."""
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
    shape = len(made) * block, checks.integer("length", length, 0, 2**32)
    return chosen, checks.output("out", out, shape, np.int64 if out is None else None, state_count)


def _some_of(name: str, chosen: range | None, count: int) -> range:
    if chosen is None:
        return range(count)
    if not isinstance(chosen, range) or chosen.step != 1 or chosen.start < 0 or chosen.stop > count:
        raise ValueError(f"{name} must be a range of step 1 within range({count}), got {chosen!r}")
    return chosen
