"""Multi-layer perceptrons with ReLU: initial values of one network, forward pass of many."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from trajmill.models.precision import to_product_dtype

HIDDEN_SIZES = (256, 256)
"""width of the hidden layers of every CQL network (arXiv 2310.00771, Table 16; young-geng/CQL)"""


def linear(input_dim: int, output_dim: int, generator: Generator) -> dict[str, Tensor]:
    """Torch's default layer: weight (in, out) and bias (out,) uniform on ±1/√in."""
    bound = 1.0 / math.sqrt(input_dim)
    weight = torch.empty(input_dim, output_dim).uniform_(-bound, bound, generator=generator)
    return {"weight": weight, "bias": torch.empty(output_dim).uniform_(-bound, bound, generator=generator)}


def small_linear(input_dim: int, output_dim: int, generator: Generator, *, gain: float = 0.01) -> dict[str, Tensor]:
    """Output layer of the paper's networks: Xavier-uniform weight with a gain of 0.01, bias zero."""
    bound = gain * math.sqrt(6.0 / (input_dim + output_dim))
    weight = torch.empty(input_dim, output_dim).uniform_(-bound, bound, generator=generator)
    return {"weight": weight, "bias": torch.zeros(output_dim)}


def orthogonal_linear(input_dim: int, output_dim: int, generator: Generator, *, gain: float) -> dict[str, Tensor]:
    """Layer with orthonormal rows or columns times `gain`, bias zero (gains √2 and 0.01 in young-geng/CQL)."""
    weight = torch.empty(output_dim, input_dim)
    torch.nn.init.orthogonal_(weight, gain=gain, generator=generator)
    return {"weight": weight.T.contiguous(), "bias": torch.zeros(output_dim)}


def mlp(
    input_dim: int, heads: Mapping[str, int], generator: Generator, *, orthogonal: bool = False
) -> dict[str, Tensor]:
    """Initial values of one network: hidden layers ``hidden.<i>.*``, then one output layer ``<head>.*`` per head."""
    values: dict[str, Tensor] = {}
    for index, size in enumerate(HIDDEN_SIZES):
        layer = (
            orthogonal_linear(input_dim, size, generator, gain=math.sqrt(2.0))
            if orthogonal
            else linear(input_dim, size, generator)
        )
        values |= named(f"hidden.{index}", layer)
        input_dim = size
    for head, output_dim in heads.items():
        layer = (
            orthogonal_linear(input_dim, output_dim, generator, gain=0.01)
            if orthogonal
            else small_linear(input_dim, output_dim, generator)
        )
        values |= named(head, layer)
    return values


def named(prefix: str, layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer whose names begin with `prefix`."""
    return {f"{prefix}.{name}": value for name, value in layer.items()}


def affine(parameters: Mapping[str, Tensor], layer: str, inputs: Tensor, *, exact: bool = False) -> Tensor:
    """Row-wise ``x W + b``: (rows, n, in) -> (rows, n, out); `exact` in the parameters' precision, never reduced."""
    bias, weight = parameters[f"{layer}.bias"].unsqueeze(1), parameters[f"{layer}.weight"]
    if exact:
        return torch.baddbmm(bias, inputs.to(weight.dtype), weight)
    return torch.baddbmm(to_product_dtype(bias), to_product_dtype(inputs), to_product_dtype(weight))


def hidden(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Last hidden activation: (rows, n, in) -> (rows, n, 256)."""
    for index in range(len(HIDDEN_SIZES)):
        inputs = affine(parameters, f"hidden.{index}", inputs).relu_()
    return inputs


def export_network(parameters: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One network as the state dict of plain ``nn.Linear`` modules (weights are (out, in) there)."""
    return {name: _transposed(parameter[row].detach()).clone() for name, parameter in parameters.items()}


@torch.no_grad()
def import_network(parameters: Mapping[str, Tensor], row: int, values: Mapping[str, Tensor]) -> None:
    """Write the state dict of plain ``nn.Linear`` modules into one row."""
    if set(values) != set(parameters):
        raise ValueError(f"network needs tensors {sorted(parameters)}, got {sorted(values)}")
    for name, parameter in parameters.items():
        value = _transposed(values[name])
        if value.shape != parameter.shape[1:]:
            raise ValueError(
                f"{name} must have shape {tuple(parameter.shape[1:])} as (in, out), got {tuple(value.shape)}"
            )
        parameter[row].copy_(value)


def seeded_generator(seed: int, stream: str) -> Generator:
    """CPU generator for the initial values of one network of one seed; independent of how many seeds there are."""
    mixed = seed & 0xFFFF_FFFF_FFFF_FFFF
    for byte in stream.encode():
        mixed = ((mixed ^ byte) * 0x0000_0100_0000_01B3 + 0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF_FFFF_FFFF
    return torch.Generator().manual_seed(mixed)


def _transposed(value: Tensor) -> Tensor:
    return value.T if value.ndim == 2 else value
