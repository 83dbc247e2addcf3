"""Networks that say what a state, or an action in it, is worth; some predict more, say, the next observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trajmill.models.mlp import activations, head, hidden, mlp, seeded_generator
from trajmill.models.precision import batched, to_product_dtype
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
    takes: hidden_sizes, layers, layer_norm.
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


def values_and_slopes(parameters: Mapping[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """`values_of` (S, E, n) and the gradients ∇_x Q (S, E, n, d) at inputs (S, n, d); both reach the parameters.

    Between the kinks of its ReLUs a network is affine, if it has no layer norm, which is not taken here: its value is
    ∇_x Q·x and, for every layer, the gradient with respect to the bias times the bias. So one chain of products from
    the value down to the input gives both, and one way back through it the parameters' gradient of any function of
    both. Differentiating values_of twice takes half as many products again.
    """
    seed_count = len(inputs)
    inputs = for_each_member(parameters, inputs)
    with torch.no_grad():
        opened = list(activations(parameters, inputs))
    slope = parameters["value.weight"].mT.expand(-1, inputs.shape[1], -1)
    value = parameters["value.bias"].expand(-1, inputs.shape[1], 1)
    for index in reversed(range(len(opened))):
        weight, bias = (parameters[f"hidden.{index}.{name}"] for name in ("weight", "bias"))
        slope = torch.ops.aten.threshold_backward(to_product_dtype(slope), opened[index], 0)
        value = batched(torch.baddbmm, value, slope.to(value.dtype), bias.mT)
        slope = batched(torch.bmm, slope, to_product_dtype(weight).mT)
    slope = slope.to(value.dtype)
    value = value + (slope * inputs).sum(-1, keepdim=True)
    return value.unflatten(0, (seed_count, -1)).squeeze(-1), slope.unflatten(0, (seed_count, -1))


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
