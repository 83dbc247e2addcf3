"""Multi-layer perceptrons with ReLU: initial values of one network, forward pass of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count

import torch
from torch import Generator, Tensor
from torch.nn import functional

from trajmill.models.precision import batched, to_product_dtype

HIDDEN_SIZES = (256, 256)
"""widths of hidden layers where nobody asks for others: those of TD3, CQL and their kin"""

Layer = Callable[[int, int, Generator], dict[str, Tensor]]
"""(in, out, generator) -> initial weight (in, out) and bias (1, out)"""


def linear(input_dim: int, output_dim: int, generator: Generator) -> dict[str, Tensor]:
    """Torch's default layer: weight (in, out) and bias (1, out) uniform on ±1/√in."""
    bound = 1.0 / math.sqrt(input_dim)
    weight = torch.empty(input_dim, output_dim).uniform_(-bound, bound, generator=generator)
    return {"weight": weight, "bias": torch.empty(1, output_dim).uniform_(-bound, bound, generator=generator)}


def xavier(input_dim: int, output_dim: int, generator: Generator, *, gain: float = 1.0) -> dict[str, Tensor]:
    """Xavier-uniform weight times `gain`, bias zero."""
    bound = gain * math.sqrt(6.0 / (input_dim + output_dim))
    weight = torch.empty(input_dim, output_dim).uniform_(-bound, bound, generator=generator)
    return {"weight": weight, "bias": torch.zeros(1, output_dim)}


def small_linear(input_dim: int, output_dim: int, generator: Generator) -> dict[str, Tensor]:
    """Output layer of young-geng/CQL: Xavier-uniform weight with a gain of 0.01, bias zero."""
    return xavier(input_dim, output_dim, generator, gain=0.01)


def uniform(bound: float) -> Layer:
    """Layer whose weight and bias are uniform on ±`bound`."""

    def layer(input_dim: int, output_dim: int, generator: Generator) -> dict[str, Tensor]:
        shapes = {"weight": (input_dim, output_dim), "bias": (1, output_dim)}
        return {name: torch.empty(shape).uniform_(-bound, bound, generator=generator) for name, shape in shapes.items()}

    return layer


def orthogonal(gain: float) -> Layer:
    """Layer with orthonormal rows or columns times `gain`, bias zero."""

    def layer(input_dim: int, output_dim: int, generator: Generator) -> dict[str, Tensor]:
        weight = torch.empty(output_dim, input_dim)
        torch.nn.init.orthogonal_(weight, gain=gain, generator=generator)
        return {"weight": weight.T.contiguous(), "bias": torch.zeros(1, output_dim)}

    return layer


def mlp(
    input_dim: int,
    heads: Mapping[str, int],
    generator: Generator,
    *,
    hidden_sizes: Sequence[int] = HIDDEN_SIZES,
    layers: tuple[Layer, Layer] = (linear, linear),
    layer_norm: bool = False,
) -> dict[str, Tensor]:
    """Initial values of one network: hidden layers ``hidden.<i>.*``, then one output layer ``<head>.*`` per head.

    `layers` makes the values of a hidden layer and of an output layer. With `layer_norm` every hidden layer is
    normalized before its ReLU (Ba et al. 2016), times ``hidden.<i>.scale`` plus ``hidden.<i>.shift``, (1, size) each.
    """
    hidden_layer, output_layer = layers
    values: dict[str, Tensor] = {}
    for index, size in enumerate(hidden_sizes):
        values |= named(f"hidden.{index}", hidden_layer(input_dim, size, generator))
        if layer_norm:
            values |= named(f"hidden.{index}", {"scale": torch.ones(1, size), "shift": torch.zeros(1, size)})
        input_dim = size
    for head, output_dim in heads.items():
        values |= named(head, output_layer(input_dim, output_dim, generator))
    return values


def named(prefix: str, layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer whose names begin with `prefix`."""
    return {f"{prefix}.{name}": value for name, value in layer.items()}


def part_of(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters whose names begin with `prefix` and a dot, without it: those of one of several networks."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in parameters.items() if name.startswith(start)}


def affine(inputs: Tensor, weight: Tensor, bias: Tensor, *, exact: bool = False) -> Tensor:
    """Row-wise ``x W + b``: (rows, n, in), (rows, in, out), (rows, 1, out) -> (rows, n, out).

    `exact` computes in the precision of the weights.
    """
    if exact:
        return batched(torch.baddbmm, bias, inputs.to(weight.dtype), weight)
    return batched(torch.baddbmm, *map(to_product_dtype, (bias, inputs, weight)))


def head(parameters: Mapping[str, Tensor], name: str, features: Tensor) -> Tensor:
    """Output layer of this name: (rows, n, last hidden size) -> (rows, n, out)."""
    return affine(features, parameters[f"{name}.weight"], parameters[f"{name}.bias"], exact=True)


def hidden(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Last hidden activation: (rows, n, in) -> (rows, n, last hidden size)."""
    last = inputs
    for activation in activations(parameters, inputs):
        last = activation
    return last


def activations(parameters: Mapping[str, Tensor], inputs: Tensor) -> Iterator[Tensor]:
    """Hidden activations, layer by layer: (rows, n, in) -> (rows, n, hidden size) each."""
    for index in count():
        layer = f"hidden.{index}"
        if f"{layer}.weight" not in parameters:
            break
        inputs = affine(inputs, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"])
        if f"{layer}.scale" in parameters:
            inputs = functional.layer_norm(inputs.to(parameters[f"{layer}.scale"].dtype), inputs.shape[-1:])
            inputs = torch.addcmul(parameters[f"{layer}.shift"], inputs, parameters[f"{layer}.scale"])
        inputs = inputs.relu_()
        yield inputs


def export_network(parameters: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One network as the state dict of plain ``nn.Linear`` modules: weights (out, in), biases (out,)."""
    values = {name: parameter[row].detach() for name, parameter in parameters.items()}
    return {
        name: (
            value[0] if name.endswith((".bias", ".scale", ".shift")) else value.T if value.ndim == 2 else value
        ).clone()
        for name, value in values.items()
    }


def seeded_generator(seed: int, stream: str) -> Generator:
    """CPU generator for the initial values of one network of one seed; independent of how many seeds there are."""
    mixed = seed & 0xFFFF_FFFF_FFFF_FFFF
    for byte in stream.encode():
        mixed = ((mixed ^ byte) * 0x0000_0100_0000_01B3 + 0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF_FFFF_FFFF
    return torch.Generator().manual_seed(mixed)
