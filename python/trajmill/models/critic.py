"""Action-value networks, with or without a second head that predicts, say, the next observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trajmill.models.mlp import affine, hidden, mlp, seeded_generator
from trajmill.models.stack import Stack


def critic(
    observation_dim: int,
    action_dim: int,
    seeds: Sequence[int],
    *,
    ensemble_size: int = 2,
    predicted_dim: int = 0,
    orthogonal: bool = False,
) -> Stack:
    """Fresh critics ``[o+a -> 256 -> 256 -> 1]``, S·E rows, seed by seed (arXiv 2310.00771; young-geng/CQL).

    With `predicted_dim` a second output layer (256 -> predicted_dim) makes a prediction from the shared hidden layers,
    such as the next observation.
    """
    heads = {"value": 1} | ({"dynamics": predicted_dim} if predicted_dim else {})
    return Stack.of(
        [
            mlp(observation_dim + action_dim, heads, seeded_generator(seed, f"critic.{member}"), orthogonal=orthogonal)
            for seed in seeds
            for member in range(ensemble_size)
        ]
    )


def action_values(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Q(s, a) of every critic at the same inputs: (S, n, o+a) -> (S, E, n)."""
    seeds, count, _ = inputs.shape
    features = hidden(parameters, for_each_member(parameters, inputs))
    # a matrix product with one column is slower than its definition, forward and backward
    values = (features * parameters["value.weight"].mT).sum(-1) + parameters["value.bias"]
    return values.view(seeds, -1, count)


def predictions(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """What the second head of every critic predicts at the same inputs: (S, n, o+a) -> (S, E, n, predicted_dim)."""
    seeds, count, _ = inputs.shape
    features = hidden(parameters, for_each_member(parameters, inputs))
    return affine(parameters, "dynamics", features, exact=True).view(
        seeds, -1, count, parameters["dynamics.bias"].shape[-1]
    )


def for_each_member(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Inputs of each seed repeated for its ensemble members: (S, n, d) -> (S·E, n, d)."""
    members = parameters["value.bias"].shape[0] // inputs.shape[0]
    return inputs.repeat_interleave(members, 0) if members > 1 else inputs


def join(observation: Tensor, action: Tensor) -> Tensor:
    """Input of a critic, (..., o) and (..., a) -> (..., o+a); the observation broadcasts to the actions."""
    return torch.cat([observation.expand(*action.shape[:-1], -1), action], -1)
