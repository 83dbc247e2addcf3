"""How fast chains and MDPs are sampled, beside what a user would write, and how far from the machine's limits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill import _core
from trajmill.bench import limits
from trajmill.bench.group import Builder, Group, Options
from trajmill.core.markov_chain import MarkovChain
from trajmill.core.mdp import MDP

UNIT = "G tokens/s"
LENGTH = 1024
FEWER = 4096
"""sequences of laws that are slower, or sampled in many ways"""
STATES = 100
PHILOX, LOOKUPS, WRITES = "Philox", "look-ups", "memory writes"


def groups(options: Options) -> list[Builder]:
    """The chain of the paper on one thread, on all, by each instruction set; other chains; MDPs."""
    found: list[Builder] = [one_thread]
    if options.threads > 1:
        found.append(all_threads)
    found.append(instruction_sets)
    laws: dict[str, dict[str, Any]] = {
        "chain, 1,000 states": {"state_count": 1000},
        "chain of order 2, 100 states": {"state_count": 100, "order": 2},
        "chain, 100,000 states, no table": {"state_count": 100_000},
    }
    found += [partial(other_chain, title, law) for title, law in laws.items()]
    return [*found, transitions]


def fewer(options: Options) -> int:
    """Sequences of a call where 4,096 will do."""
    return min(FEWER, options.sequences)


def one_thread(options: Options, stack: ExitStack) -> Group:
    """The chain that the paper pre-trains on, 100 states, one byte a token."""
    group = Group(f"chain, {STATES} states, {options.sequences:,} x {LENGTH:,} tokens, 1 thread", UNIT)
    chain = MarkovChain(state_count=STATES, seed=42)
    out = np.zeros((options.sequences, LENGTH), np.uint8)
    # a token is a word of Philox, a look-up of a cell, and a byte that is written
    all_limits = (PHILOX, LOOKUPS, WRITES)
    fresh = partial(chain.sample, options.sequences, LENGTH, threads=1)
    group.ours("trajmill, memory used again", partial(fresh, out=out), out.size, limits=all_limits)
    group.ours("trajmill, new memory", fresh, out.size, limits=all_limits)
    rows = np.array([chain.probabilities([state]) for state in range(STATES)])
    small = out[:256]
    group.peer("numba, a loop over alias tables", lambda: numba_chain(rows, small), small.size, needs=("numba",))
    group.peer("NumPy, all sequences together", lambda: numpy_chain(rows, 4096, 64), 4096 * 64)
    authors = partial(authors_tokens, STATES, 1.0, 666, 32, 16)
    group.peer("the paper's program (NumPy)", lambda: authors, 32 * 16)
    group.limit(PHILOX, *limits.philox(stack))
    group.limit(LOOKUPS, *limits.lookups(4 * STATES * STATES))
    group.limit(WRITES, *limits.memory_writes(stack, out))
    return group


def all_threads(options: Options, stack: ExitStack) -> Group:
    """The same on every thread."""
    threads = options.threads
    group = Group(f"chain, {STATES} states, {options.sequences:,} x {LENGTH:,} tokens, {threads} threads", UNIT)
    chain, out = MarkovChain(state_count=STATES, seed=42), np.zeros((options.sequences, LENGTH), np.uint8)
    work = partial(chain.sample, options.sequences, LENGTH, out=out, threads=threads)
    group.ours("trajmill, memory used again", work, out.size, limits=(PHILOX, WRITES))
    group.limit(PHILOX, *limits.philox(stack, threads))
    group.limit(WRITES, *limits.memory_writes(stack, out, threads))
    return group


def instruction_sets(options: Options, stack: ExitStack) -> Group:
    """The same by every instruction set that this machine has, each beside its own Philox."""
    rows = fewer(options)
    group = Group(f"chain, {STATES} states, {rows:,} x {LENGTH:,} tokens, 1 thread, by instruction set", UNIT)
    stack.callback(_core.set_simd_level, _core.simd_level())
    chain, out = MarkovChain(state_count=STATES, seed=42), np.zeros((rows, LENGTH), np.uint8)
    for level in _core.available_simd_levels():
        name, choose = f"{PHILOX}, {level}", partial(_core.set_simd_level, level)
        work = partial(chain.sample, rows, LENGTH, out=out, threads=1)
        group.ours(level, work, out.size, limits=(name,), before=choose)
        group.limit(name, *limits.philox(stack), before=choose)
    return group


def other_chain(title: str, law: dict[str, Any], options: Options, stack: ExitStack) -> Group:
    """A chain with larger tables, or with none."""
    rows = fewer(options)
    group = Group(f"{title}, {rows:,} x {LENGTH:,} tokens, 1 thread", UNIT)
    chain = MarkovChain(seed=42, **law)
    out = chain.sample(rows, LENGTH)
    # docs/streams.md; without a table a token takes a proposal at least
    words = 2 if chain.backend == "dense" and chain.state_count > 256 else 1
    names = [PHILOX]
    work, amount = limits.philox(stack)
    group.limit(PHILOX, work, amount / words)
    if chain.backend == "dense":
        # a cell is as many words as a draw
        work, amount = limits.lookups(4 * words * chain.state_count ** (chain.order + 1))
        group.limit(LOOKUPS, work, amount)
        names.append(LOOKUPS)
    sample = partial(chain.sample, rows, LENGTH, out=out, threads=1)
    group.ours("trajmill, memory used again", sample, out.size, limits=tuple(names))
    return group


def transitions(options: Options, stack: ExitStack) -> Group:
    """Transitions of the random MDP of the paper: an action and a next state each."""
    rows = fewer(options)
    group = Group(f"MDP, 100 states, 100 actions, {rows:,} x 1,000 steps, 1 thread", "G transitions/s")
    mdp = MDP(state_count=100, action_count=100, seed=42)
    data = mdp.sample(rows, 1000)
    work = partial(mdp.sample, rows, 1000, out=data, threads=1)
    group.ours("trajmill, memory used again", work, data.actions.size, limits=(PHILOX,))
    philox, amount = limits.philox(stack)
    group.limit(PHILOX, philox, amount / 2)
    return group


# --- what a user would write ------------------------------------------------------------------------------------------


def alias_tables(rows: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Vose's tables of each row, for `numba_alias_chain`."""
    threshold, alias = np.ones(rows.shape, np.float32), np.zeros(rows.shape, np.uint8)
    for s, scaled in enumerate(rows * rows.shape[1]):
        small, large = [list(np.flatnonzero(c)) for c in (scaled < 1, scaled >= 1)]
        while small and large:
            low, high = small.pop(), large[-1]
            threshold[s, low], alias[s, low] = scaled[low], high
            scaled[high] -= 1 - scaled[low]
            if scaled[high] < 1:
                small.append(large.pop())
    return threshold, alias


@cache
def numba_alias_chain() -> Callable[..., None]:
    """A compiled loop, (threshold, alias, out, seed): one alias draw a token from numba's generator."""
    import numba

    @numba.njit  # type: ignore[untyped-decorator]
    def loop(threshold: Any, alias: Any, out: Any, seed: int) -> None:
        np.random.seed(seed)  # noqa: NPY002  (the only generator numba loops have)
        states = threshold.shape[0]
        for i in range(out.shape[0]):
            state = 0
            for t in range(out.shape[1]):
                scaled = np.random.random() * states  # noqa: NPY002
                column = int(scaled)
                state = column if scaled - column < threshold[state, column] else alias[state, column]
                out[i, t] = state

    return loop  # type: ignore[no-any-return]


def numba_chain(rows: NDArray[np.float64], out: NDArray[np.uint8]) -> limits.Call:
    """A call that fills `out` by the loop."""
    return partial(numba_alias_chain(), *alias_tables(rows), out, 1)


def numpy_chain(rows: NDArray[np.float64], count: int, length: int) -> limits.Call:
    """A call that draws all sequences step by step: a uniform number each, sought in the cumulative sums of its row."""
    # row s occupies [s, s + 1), so that one sorted array holds all rows
    sums = (np.arange(len(rows))[:, None] + rows.cumsum(1).clip(max=1 - 1e-12)).reshape(-1)
    random, states = np.random.default_rng(0), len(rows)
    out = np.zeros((count, length), np.uint8)

    def work() -> NDArray[np.uint8]:
        state = random.integers(states, size=count)
        for t in range(length):
            found = np.searchsorted(sums, state + random.random(count), side="right")
            state = (found - state * states).clip(max=states - 1)
            out[:, t] = state
        return out

    return work


def authors_tokens(state_count: int, temperature: float, seed: int, rows: int, length: int) -> NDArray[np.int64]:
    """One worker's block of a chain of order 1 (rows, length) by the released program of arXiv 2310.00771.

    A fresh generator and row for each token, and a one-trial multinomial; written here from the program's description,
    and leaner: no scikit-learn around the softmax, no processes, no files.
    """
    out = np.zeros((rows, length), np.int64)
    for step in range(length):
        sampler = np.random.default_rng(seed + step)
        if step == 0:
            first = softmax(np.random.default_rng(seed).random(state_count) / temperature)
            out[:, 0] = sampler.choice(state_count, size=rows, p=first)
            continue
        for sequence in out:
            logits = np.random.default_rng([int(sequence[step - 1]) + 1 + seed]).random(state_count)
            sequence[step] = np.argmax(sampler.multinomial(1, softmax(logits / temperature)))
    return out


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights that sum to 1."""
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
