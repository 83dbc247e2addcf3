"""Peers of forward-dynamics pre-training: two modules, one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from plain_loops import mlp
from throughput.workload import Workload
from torch import Tensor, nn
from torch.nn import functional

from baselines.loops import adam, load, numbers, ours, relative
from trajmill.algorithms import forward_dynamics

WITHOUT = {"R1": "CORL has no pre-training on synthetic transitions"}
COMPILED = ("predictions",)


class ForwardDynamics:
    """One seed: two networks predict the next state's vector from those of state and action."""

    def __init__(self, workload: Workload, device: torch.device, *, on_graph: bool) -> None:
        config, facts = workload.config, workload.rows.facts
        sizes = [facts.observation_dim + facts.action_dim, *config.hidden_sizes, facts.predicted_dim]
        self.models = nn.ModuleList(mlp(sizes) for _ in range(2)).to(device)
        self.optimizer = adam(self.parameters(), config.learning_rate, on_graph=on_graph)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.models.parameters())

    def update(self, observation: Tensor, action: Tensor, following: Tensor) -> list[Tensor]:
        """One update; gives the loss, on the device."""
        inputs = torch.cat([observation, action], 1)
        losses = [functional.mse_loss(model(inputs).float(), following) for model in self.models]
        loss = losses[0] + losses[1]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return [loss.detach()]


def learner(peer: str, workload: Workload, device: torch.device) -> ForwardDynamics:
    return ForwardDynamics(workload, device, on_graph=peer == "R3")


def released_batch(workload: Workload) -> Callable[[], list[np.ndarray]]:
    data, size = workload.rows.transitions, workload.config.batch_size
    rows, vectors = data.rows.astype(np.int64), (data.state_vectors, data.action_vectors, data.target_vectors)

    def batch() -> list[np.ndarray]:
        chosen = rows[np.random.randint(len(rows), size=size)]  # noqa: NPY002
        return [table[chosen[:, column]] for column, table in enumerate(vectors)]

    return batch


def distance(workload: Workload, device: torch.device) -> dict[str, float]:
    """Loss and change of the first model in one update on the same rows."""
    state, peer = workload.ours(1, device), learner("R0", workload, device)
    before, _ = (load(model, state.critic, row, "dynamics") for row, model in enumerate(peer.models))
    batch = state.table.draw(state.draws.words(state.step, 1)["batch"])[0]
    loss = peer.update(batch.observation[0], batch.action[0], batch.next_observation[0])[0]
    forward_dynamics.update(state, batch)
    moved = ours(state.critic, 0, "dynamics") - before
    return {
        "R0 loss": relative(loss, state.metrics.values[0, 0].sum()),
        "R0 change of a model": relative(numbers(peer.models[0]) - before, moved),
    }


def in_jax(workload: Workload) -> tuple[Any, ...]:
    from baselines.in_jax import forward, jax, jnp, mlp, random

    config, facts, found = workload.config, workload.rows.facts, workload.rows.transitions
    sizes = [facts.observation_dim + facts.action_dim, *config.hidden_sizes, facts.predicted_dim]

    def initial(key: Any) -> Any:
        return jax.vmap(lambda k: mlp(k, sizes))(random.split(key))

    def loss(models: Any, key: Any, data: Any, _: Any) -> Any:
        rows = data["rows"][random.randint(key, (config.batch_size,), 0, len(data["rows"]))]
        inputs = jnp.concatenate([data["states"][rows[:, 0]], data["actions"][rows[:, 1]]], -1)
        predicted = jax.vmap(forward, in_axes=(0, None))(models, inputs)
        return ((predicted - data["targets"][rows[:, 2]]) ** 2).mean((1, 2)).sum()

    data = {"rows": found.rows.astype(np.int32), "states": found.state_vectors, "actions": found.action_vectors}
    return initial, loss, data | {"targets": found.target_vectors}, {"rate": config.learning_rate}
