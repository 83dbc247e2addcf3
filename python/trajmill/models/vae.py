"""Variational autoencoders of observations with a transition of the code: the networks of a world model.

Kingma & Welling, arXiv 1312.6114. One network is an encoder ``[o -> hidden sizes -> 2L]``, a transition
``[L + a -> hidden sizes -> L]`` and a decoder ``[L -> hidden sizes -> o]`` with ReLU, all in one row of a stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trajmill.models.mlp import mlp, named, part_of, seeded_generator
from trajmill.models.policies import outputs
from trajmill.models.stack import Stack


def autoencoders(observation_dim: int, action_dim: int, latent_dim: int, seeds: Sequence[int], **shape: Any) -> Stack:
    """Fresh networks, one row a seed; `shape` is what `mlp` takes: hidden_sizes, layers."""
    sizes = {
        "encoder": (observation_dim, 2 * latent_dim),
        "transition": (latent_dim + action_dim, latent_dim),
        "decoder": (latent_dim, observation_dim),
    }

    def one(seed: int) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name, (inputs, output_dim) in sizes.items():
            values |= named(name, mlp(inputs, {"output": output_dim}, seeded_generator(seed, name), **shape))
        return values

    return Stack.of([one(seed) for seed in seeds])


def encode(parameters: Mapping[str, Tensor], observation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the code: (S, n, o) -> 2 × (S, n, L)."""
    mean, log_variance = outputs(part_of(parameters, "encoder"), observation).chunk(2, -1)
    return mean, log_variance


def sampled(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """The code μ + σ·noise; all (S, n, L)."""
    return torch.addcmul(mean, (0.5 * log_variance).exp(), noise)


def moved(parameters: Mapping[str, Tensor], code: Tensor, action: Tensor) -> Tensor:
    """The next code, this one and the change that the transition predicts: (S, n, L), (S, n, a) -> (S, n, L)."""
    return code + outputs(part_of(parameters, "transition"), torch.cat([code, action], -1))


def decode(parameters: Mapping[str, Tensor], code: Tensor) -> Tensor:
    """The observation that a code stands for: (S, n, L) -> (S, n, o)."""
    return outputs(part_of(parameters, "decoder"), code)


def divergence_from_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)), summed over the numbers of a code (arXiv 1312.6114, appendix B): (..., L) -> (...)."""
    return 0.5 * (mean * mean + log_variance.exp() - 1.0 - log_variance).sum(-1)
