"""Updates a second of CQL and its pre-training on one core, beside eager PyTorch: ``python benchmarks/bench_cql.py``.

Seeds on one core share its arithmetic, so many seeds cannot be faster here than one after another; what they gain on a
GPU is not measured by this file.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from baselines.cql import cql_updates, forward_dynamics_updates
from record import Row, write

import trajmill as tm
from trajmill.algorithms import cql, forward_dynamics
from trajmill.core.reference import codebooks
from trajmill.data import load_dataset, qlearning_transitions
from trajmill.training.device import keep_freed_memory
from trajmill.training.transitions import TransitionTable

CPU, FLOAT = torch.device("cpu"), torch.float32
ROUNDS = 9


def side_by_side(ours: Callable[[], None], peer: Callable[[], None], updates: int) -> tuple[float, float]:
    """Median updates a second of both, measured in turns so that a busy machine slows both alike."""
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        for work, kept in zip((ours, peer), rates, strict=True):
            started = perf_counter()
            work()
            if turn:  # the first does not count
                kept.append(updates / (perf_counter() - started))
    return float(np.median(rates[0])), float(np.median(rates[1]))


def repeated(work: Callable[[], None], count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            work()

    return run


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    unit, against = "updates/s", "eager PyTorch, one seed"
    rows = []

    transitions = qlearning_transitions(load_dataset("halfcheetah-sac-replay-10k"))
    names = ("observation", "action", "reward", "next_observation", "terminal")
    columns = {name: getattr(transitions, name).astype(np.float32) for name in names}
    table = TransitionTable.of(transitions, action_limit=0.999, device=CPU, dtype=FLOAT)
    for seeds in (1, 8):
        state = cql.create(cql.CQLConfig(), table, list(range(seeds)))
        ours, peer = side_by_side(
            lambda s=state, count=16 // seeds: cql.step(s, count), repeated(cql_updates(columns), 16), updates=16
        )
        name = f"CQL update, HalfCheetah, {seeds} seed{'s' * (seeds > 1)} (each counted)"
        rows.append(Row(name=name, value=ours, unit=unit, against=against, ratio=ours / peer))
        rows.append(Row(name=f"  eager PyTorch beside {seeds} of ours", value=peer, unit=unit))

    mdp = tm.MDP(state_count=100, action_count=100, seed=42).sample(1000, 1000)
    vectors = codebooks(100, 100, 17, 6)
    indexed = forward_dynamics.IndexedTransitions.of(mdp.states, mdp.actions, *vectors, device=CPU, dtype=FLOAT)
    pretraining = forward_dynamics.create(forward_dynamics.ForwardDynamicsConfig(), indexed, [0])
    triples = indexed.triples.numpy().astype(np.int64)
    ours, peer = side_by_side(
        lambda: forward_dynamics.step(pretraining, 100),
        repeated(forward_dynamics_updates(triples, *vectors), 100),
        updates=100,
    )
    rows.append(Row(name="pre-training update, 1 seed", value=ours, unit=unit, against=against, ratio=ours / peer))
    rows.append(Row(name="  eager PyTorch", value=peer, unit=unit))
    write("cql", rows)


if __name__ == "__main__":
    main()
