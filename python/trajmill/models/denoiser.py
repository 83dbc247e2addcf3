"""The residual MLP that SynthER's diffusion model denoises transitions with (arXiv 2303.06614, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional

from trajmill.models.mlp import affine, linear, named, seeded_generator
from trajmill.models.stack import Stack

FREQUENCIES = 8
"""random Fourier frequencies of the noise level, drawn once and never trained"""


def denoisers(
    dimension: int, seeds: Sequence[int], *, condition_dim: int = 0, width: int, depth: int, embedding_dim: int
) -> Stack:
    """Fresh networks, one row a seed, with torch's default initial values; `depth` residual blocks of one layer."""

    def one(seed: int) -> dict[str, Tensor]:
        generator = seeded_generator(seed, "denoiser")
        layers = {
            "noise.0": (1 + 2 * FREQUENCIES, embedding_dim),
            "noise.1": (embedding_dim, embedding_dim),
            "input": (dimension + condition_dim, embedding_dim),
            "projection": (embedding_dim, width),
            **{f"block.{number}": (width, width) for number in range(depth)},
            "output": (width, dimension),
        }
        values = {"frequencies": torch.randn(1, FREQUENCIES, generator=generator)}
        for name, (input_dim, output_dim) in layers.items():
            values |= named(name, linear(input_dim, output_dim, generator))
        return values

    return Stack.of([one(seed) for seed in seeds])


def trainable_count(stack: Stack) -> int:
    """Numbers of one network that are trained."""
    return stack.parameter_count() - FREQUENCIES


def residual_mlp(parameters: Mapping[str, Tensor], inputs: Tensor, noise_level: Tensor) -> Tensor:
    """F(x; c): inputs (S, n, dimension + condition_dim), noise levels (S, n or 1, 1) -> (S, n, dimension)."""

    def layer(name: str, features: Tensor) -> Tensor:
        weight = parameters[f"{name}.weight"]
        return affine(features.to(weight.dtype), weight, parameters[f"{name}.bias"])

    angle = (2.0 * math.pi) * noise_level * parameters["frequencies"].detach()
    level = torch.cat([noise_level, angle.sin(), angle.cos()], -1)
    hidden = layer("input", inputs) + layer("noise.1", functional.silu(layer("noise.0", level)))
    hidden = layer("projection", hidden)
    for number in count():
        if f"block.{number}.weight" not in parameters:
            break
        hidden = hidden + layer(f"block.{number}", hidden.relu())
    return layer("output", hidden.relu()).to(inputs.dtype)
