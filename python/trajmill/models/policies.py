"""Policies: deterministic (TD3), Gaussian, and the tanh-squashed Gaussian of SAC and CQL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trajmill.models.mlp import head, hidden, mlp, seeded_generator
from trajmill.models.stack import Stack

LOG_STD_RANGE = (-20.0, 2.0)
"""clamp of the log standard deviation (young-geng/CQL)"""


def policies(
    observation_dim: int,
    output_dim: int,
    seeds: Sequence[int],
    *,
    more: Mapping[str, Tensor] = MappingProxyType({}),
    **shape: Any,
) -> Stack:
    """Fresh networks ``[o -> hidden sizes -> output_dim]``, one row a seed, each with the further values `more`.

    `shape` is what `mlp` takes: hidden_sizes, layers, layer_norm.
    """

    def one(seed: int) -> dict[str, Tensor]:
        values = mlp(observation_dim, {"output": output_dim}, seeded_generator(seed, "policy"), **shape)
        return values | dict(more)

    return Stack.of([one(seed) for seed in seeds])


def outputs(parameters: Mapping[str, Tensor], observation: Tensor) -> Tensor:
    """Numbers of the output layer: (S, n, o) -> (S, n, output_dim)."""
    return head(parameters, "output", hidden(parameters, observation))


def deterministic(parameters: Mapping[str, Tensor], observation: Tensor) -> Tensor:
    """TD3's action, tanh of the outputs: (S, n, o) -> (S, n, a) in (-1, 1)."""
    return outputs(parameters, observation).tanh()


def tanh_gaussian(observation_dim: int, action_dim: int, seeds: Sequence[int], **shape: Any) -> Stack:
    """Fresh policies ``[o -> hidden sizes -> 2a]``, one row a seed (young-geng/CQL); `shape` is what `mlp` takes.

    The log standard deviation is scaled and shifted by two trainable scalars, 1.0 and −1.0 at the start.
    """
    scalars = {"log_std_multiplier": torch.tensor(1.0), "log_std_offset": torch.tensor(-1.0)}
    return policies(observation_dim, 2 * action_dim, seeds, more=scalars, **shape)


def gaussian(parameters: Mapping[str, Tensor], observation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation before the tanh: (S, n, o) -> 2 × (S, n, a)."""
    mean, log_std = outputs(parameters, observation).chunk(2, -1)
    multiplier, offset = (parameters[f"log_std_{name}"][:, None, None] for name in ("multiplier", "offset"))
    return mean, torch.addcmul(offset, multiplier, log_std).clamp(*LOG_STD_RANGE)


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reparameterized action ``tanh(mean + std·noise)`` and its log-density.

    ``mean`` and ``log_std`` broadcast against the standard normal ``noise`` (..., a); gives (..., a) and (...).
    log(1 − tanh²x) is computed as 2·(ln 2 − x + logsigmoid(2x)), exact for large actions, as in torch's TanhTransform.
    """
    raw = torch.addcmul(mean, log_std.exp(), noise)
    return raw.tanh(), _log_density(raw, noise, log_std)


def action_density(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """Log-density of given actions inside (-1, 1): (..., a) -> (...)."""
    # of numbers with gaps between them, which torch takes one by one: several at once, it rounds them otherwise
    raw = torch.stack([action, action], -1)[..., 0].atanh()
    return _log_density(raw, (raw - mean) * (-log_std).exp(), log_std)


def _log_density(raw: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of ``tanh(raw)``, where ``raw`` is `noise` standard deviations off the mean.

    On a CPU torch's softplus rounds the last few numbers of a tensor otherwise than the rest, so that a value would
    depend on how many seeds there are; its logsigmoid does not.
    """
    normal = -0.5 * noise.square() - (log_std + 0.5 * math.log(2.0 * math.pi))
    squash = 2.0 * (math.log(2.0) - raw + functional.logsigmoid(2.0 * raw))
    return (normal - squash).sum(-1)


def tanh_gaussian_action(parameters: Mapping[str, Tensor], observation: Tensor) -> Tensor:
    """Action taken in evaluation, tanh(mean): (S, n, o) -> (S, n, a)."""
    return gaussian(parameters, observation)[0].tanh()
