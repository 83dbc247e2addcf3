"""Updates a second of CQL and its pre-training on one core, beside eager PyTorch: ``python benchmarks/bench_cql.py``.

Each seed's updates are counted. Seeds on one core share its arithmetic, so many seeds cannot be faster here than one
after another; what they gain on a GPU is not measured by this file.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from baselines.cql import cql_updates, forward_dynamics_updates
from record import write
from updates import update_rows

import trajmill as tm
from trajmill.algorithms import cql, forward_dynamics
from trajmill.core.reference import codebooks
from trajmill.data import load_dataset, qlearning_transitions
from trajmill.training.device import keep_freed_memory
from trajmill.training.transitions import TransitionTable

CPU, FLOAT = torch.device("cpu"), torch.float32


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []

    transitions = qlearning_transitions(load_dataset("halfcheetah-sac-replay-10k"))
    names = ("observation", "action", "reward", "next_observation", "terminal")
    columns = {name: getattr(transitions, name).astype(np.float32) for name in names}
    table = TransitionTable.of(transitions, action_limit=0.999, device=CPU, dtype=FLOAT)
    for seeds in (1, 8):
        rows += update_rows(
            f"CQL update, HalfCheetah, {seeds} seed{'s' * (seeds > 1)}",
            lambda seeds=seeds: partial(cql.step, cql.create(cql.CQLConfig(), table, list(range(seeds)))),
            cql_updates(columns),
            "eager PyTorch, one seed",
            seeds=seeds,
        )

    mdp = tm.MDP(state_count=100, action_count=100, seed=42).sample(1000, 1000)
    vectors = codebooks(100, 100, 17, 6)
    indexed = forward_dynamics.IndexedTransitions.of(mdp.states, mdp.actions, *vectors, device=CPU, dtype=FLOAT)
    config = forward_dynamics.ForwardDynamicsConfig()
    triples = np.stack([mdp.states[:, :-1], mdp.actions, mdp.states[:, 1:]], -1).reshape(-1, 3).astype(np.int64)
    rows += update_rows(
        "CQL pre-training update, 1 seed",
        lambda: partial(forward_dynamics.step, forward_dynamics.create(config, indexed, [0])),
        forward_dynamics_updates(triples, *vectors),
        "eager PyTorch",
    )
    write("cql", rows)


if __name__ == "__main__":
    main()
