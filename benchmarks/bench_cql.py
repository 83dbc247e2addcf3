"""Updates a second of CQL and its pre-training on one core, beside eager PyTorch: ``python benchmarks/bench_cql.py``.

Seeds on one core share its arithmetic, so many seeds cannot be faster here than one after another; what they gain on a
GPU is not measured by this file.
"""

from __future__ import annotations

import numpy as np
import torch
from baselines.cql import cql_updates, forward_dynamics_updates
from record import Row, in_turns, write

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
    unit, against = "updates/s", "eager PyTorch, one seed"
    rows = []

    transitions = qlearning_transitions(load_dataset("halfcheetah-sac-replay-10k"))
    names = ("observation", "action", "reward", "next_observation", "terminal")
    columns = {name: getattr(transitions, name).astype(np.float32) for name in names}
    table = TransitionTable.of(transitions, action_limit=0.999, device=CPU, dtype=FLOAT)
    for seeds in (1, 8):
        state = cql.create(cql.CQLConfig(), table, list(range(seeds)))
        taken = in_turns({"ours": lambda s=state: cql.step(s, 1), "peer": cql_updates(columns)}, target_seconds=0.5)
        ours, peer = seeds / taken["ours"], 1 / taken["peer"]
        name = f"CQL update, HalfCheetah, {seeds} seed{'s' * (seeds > 1)} (each counted)"
        rows.append(Row(name=name, value=ours, unit=unit, against=against, ratio=ours / peer))
        rows.append(Row(name=f"  eager PyTorch beside {seeds} of ours", value=peer, unit=unit))

    mdp = tm.MDP(state_count=100, action_count=100, seed=42).sample(1000, 1000)
    vectors = codebooks(100, 100, 17, 6)
    indexed = forward_dynamics.IndexedTransitions.of(mdp.states, mdp.actions, *vectors, device=CPU, dtype=FLOAT)
    pretraining = forward_dynamics.create(forward_dynamics.ForwardDynamicsConfig(), indexed, [0])
    triples = np.stack([mdp.states[:, :-1], mdp.actions, mdp.states[:, 1:]], -1).reshape(-1, 3).astype(np.int64)
    works = {
        "ours": lambda: forward_dynamics.step(pretraining, 1),
        "peer": forward_dynamics_updates(triples, *vectors),
    }
    taken = in_turns(works, target_seconds=0.5)
    ours, peer = 1 / taken["ours"], 1 / taken["peer"]
    rows.append(Row(name="pre-training update, 1 seed", value=ours, unit=unit, against=against, ratio=ours / peer))
    rows.append(Row(name="  eager PyTorch", value=peer, unit=unit))
    write("cql", rows)


if __name__ == "__main__":
    main()
