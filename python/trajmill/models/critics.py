"""Networks that say what a state, or an action in it, is worth; some predict more, say, the next observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trajmill.models.mlp import head, hidden, mlp, seeded_generator
from trajmill.models.stack import Stack


def critics(
    input_dim: int,
    seeds: Sequence[int],
    *,
    ensemble_size: int = 2,
    predicted_dim: int = 0,
    stream: str = "critic",
    **shape: Any,
) -> Stack:
    """Fresh networks ``[input_dim -> hidden sizes -> 1]``, S·E rows, seed by seed.

    With `predicted_dim` a second output layer makes a prediction of so many numbers from the shared hidden layers.
    `stream` names the initial values, which differ from seed to seed and from member to member; `shape` is what `mlp`
    takes: hidden_sizes, layers.
    """
    heads = {"value": 1} | ({"dynamics": predicted_dim} if predicted_dim else {})
    return Stack.of(
        [
            mlp(input_dim, heads, seeded_generator(seed, f"{stream}.{member}"), **shape)
            for seed in seeds
            for member in range(ensemble_size)
        ]
    )


def values_of(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The value that every network gives the same inputs: (S, n, d) -> (S, E, n)."""
    features = hidden(parameters, for_each_member(parameters, inputs))
    return head(parameters, "value", features).view(len(inputs), -1, inputs.shape[1])


def values_by_sum(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """`values_of` by another order of adding, of which the last digits of CQL's numbers are made."""
    features = hidden(parameters, for_each_member(parameters, inputs))
    found = (features * parameters["value.weight"].mT).sum(-1) + parameters["value.bias"][:, 0]
    return found.view(len(inputs), -1, inputs.shape[1])


def predictions(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """What the second head of every network predicts from the same inputs: (S, n, d) -> (S, E, n, predicted_dim)."""
    found = head(parameters, "dynamics", hidden(parameters, for_each_member(parameters, inputs)))
    return found.view(len(inputs), -1, *found.shape[1:])


def for_each_member(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Inputs of each seed repeated for its ensemble members: (S, n, d) -> (S·E, n, d)."""
    members = parameters["value.bias"].shape[0] // inputs.shape[0]
    return inputs.repeat_interleave(members, 0) if members > 1 else inputs


def join(observation: Tensor, action: Tensor) -> Tensor:
    """Input of a critic, (..., o) and (..., a) -> (..., o+a); the observation broadcasts to the actions."""
    return torch.cat([observation.expand(*action.shape[:-1], -1), action], -1)
