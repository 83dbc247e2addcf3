"""Slow, obvious twins of the authors' generators (arXiv 2310.00771), on NumPy's own random objects.

Every draw goes through numpy.random, in the order in which the released programs make them; nothing is kept between two
draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax of one row in the row's own precision, the maximum subtracted first; exp rounded correctly in float32."""
    weights = np.exp((logits - logits.max()).astype(np.float64)).astype(logits.dtype)
    return weights / weights.sum()


# --- chains and independent tokens ----------------------------------------------------------------------------------


def chain_row(history: Sequence[int], state_count: int, temperature: float, seed: int) -> np.ndarray:
    """Law of what follows `history`, which is empty or the last `order` tokens at most, oldest first."""
    key = [int(token) + 1 + seed for token in history] or seed
    return softmax(np.random.default_rng(key).random(state_count) / temperature)


def one_trial(sampler: np.random.Generator, row: np.ndarray) -> int:
    return int(np.argmax(sampler.multinomial(1, row)))


def markov_block(
    order: int,
    state_count: int,
    temperature: float,
    seed: int,
    worker_count: int,
    batch_size: int,
    length: int,
    iteration: int,
    worker: int,
) -> np.ndarray:
    """The tokens that one worker makes in one iteration, int64 (batch_size // worker_count, length)."""
    tokens = np.zeros((batch_size // worker_count, length), np.int64)
    for step in range(length):
        sampler = np.random.default_rng(seed + iteration * length * worker_count + worker_count * step + worker)
        if step == 0:
            first_row = chain_row([], state_count, temperature, seed)
            tokens[:, 0] = sampler.choice(state_count, size=len(tokens), p=first_row)
        else:
            for sequence in tokens:
                history = sequence[max(0, step - order) : step]
                sequence[step] = one_trial(sampler, chain_row(history, state_count, temperature, seed))
    return tokens


def markov_tokens(*, worker_count: int, **settings: int | float) -> np.ndarray:
    """The blocks of all workers in worker order."""
    return np.concatenate([markov_block(worker_count=worker_count, worker=w, **settings) for w in range(worker_count)])


def iid_tokens(
    *, state_count: int, seed: int, worker_count: int, batch_size: int, length: int, iteration: int
) -> np.ndarray:
    blocks = []
    for worker in range(worker_count):
        sampler = np.random.default_rng(seed + iteration * worker_count + worker)
        hits = sampler.multinomial(1, [1 / state_count] * state_count, size=(batch_size // worker_count, length))
        blocks.append(hits.argmax(axis=-1))
    return np.concatenate(blocks)


# --- random MDPs ----------------------------------------------------------------------------------------------------


def mdp_row(seed: int, count: int, temperature: float) -> np.ndarray:
    """Softmax in float32 of uniform logits from the legacy generator, as float64."""
    logits = np.random.RandomState(seed).rand(count) / temperature
    return softmax(logits.astype(np.float32)).astype(np.float64)


def seeded_choice(seed: int, count: int, row_seed: int, temperature: float) -> int:
    stream = np.random.RandomState(seed)
    if temperature == np.inf:
        return int(stream.randint(count))
    row = mdp_row(row_seed, count, temperature)
    cumulative = row.cumsum()
    cumulative /= cumulative[-1]
    return int(cumulative.searchsorted(stream.random_sample(), side="right"))


def mdp_transitions(
    trajectory_count: int,
    length: int,
    state_count: int,
    action_count: int,
    policy_temperature: float,
    transition_temperature: float,
    random_start: bool,
) -> dict[str, np.ndarray]:
    rows = []
    for j in range(trajectory_count):
        state = int(np.random.RandomState(j if random_start else trajectory_count).randint(state_count))
        for t in range(length):
            action = seeded_choice(42 + 1000 * j + 333 * t, action_count, state, policy_temperature)
            row_seed = 888 * state + 777 * action
            following = seeded_choice(666 + 1000 * j + 333 * t, state_count, row_seed, transition_temperature)
            rows.append((state, action, following))
            state = following
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return dict(zip(("observations", "actions", "next_observations"), columns.copy(), strict=True))
