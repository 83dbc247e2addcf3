"""The residual MLP that SynthER's diffusion model denoises transitions with (arXiv 2303.06614, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trajmill.models.mlp import linear, named, seeded_generator
from trajmill.models.precision import to_product_dtype
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


@dataclass(slots=True)
class Tape:
    """What going backward needs of a forward pass."""

    level: Tensor
    raised: Tensor
    """before SiLU"""
    inputs: Tensor
    embedded: Tensor
    active: list[Tensor]
    """what each block, and the output layer, multiplies"""


@torch.no_grad()
def residual_mlp(
    parameters: Mapping[str, Tensor], inputs: Tensor, noise_level: Tensor, *, keep: bool = False
) -> tuple[Tensor, Tape | None]:
    """F(x; c): inputs (S, n, dimension + condition_dim), noise levels (S, n or 1, 1) -> (S, n, dimension).

    With `keep` also what `backpropagate` needs. Written out by hand, since autograd's copies and passes over cold
    memory take as long as half of the products of a network 256 wide; here every pass is over what is in the cache.
    """
    angle = (2.0 * math.pi) * noise_level * parameters["frequencies"]
    level = torch.cat([noise_level, angle.sin(), angle.cos()], -1)
    raised = _affine(parameters, "noise.0", level)
    embedded = _affine(parameters, "input", inputs)
    embedded += _affine(parameters, "noise.1", functional.silu(raised))
    hidden = _affine(parameters, "projection", embedded)
    active = []
    for number in range(_depth(parameters)):
        features = hidden.relu()
        hidden += parameters[f"block.{number}.bias"]
        _add_product(hidden, features, parameters[f"block.{number}.weight"])
        if keep:
            active.append(features)
    active.append(hidden.relu_())
    output = _affine(parameters, "output", hidden)
    return output, Tape(level, raised, inputs, embedded, active) if keep else None


@torch.no_grad()
def backpropagate(
    parameters: Mapping[str, Tensor], tape: Tape, gradient: Tensor, gradients: Mapping[str, Tensor]
) -> None:
    """Write the gradient of each parameter into the one of the same name in `gradients`; `gradient` is the output's."""

    def write(name: str, features: Tensor, of_output: Tensor) -> None:
        weight, bias = (gradients[f"{name}.{kind}"] for kind in ("weight", "bias"))
        left, right = to_product_dtype(features.mT), to_product_dtype(of_output)
        if right.dtype == weight.dtype:
            torch.bmm(left, right, out=weight)
        else:
            weight.copy_(torch.bmm(left, right))
        torch.sum(of_output, 1, keepdim=True, out=bias)

    def back(name: str, of_output: Tensor) -> Tensor:
        weight = to_product_dtype(parameters[f"{name}.weight"].detach())
        return torch.bmm(of_output.to(weight.dtype), weight.mT).to(of_output.dtype)

    *blocks, last = tape.active
    write("output", last, gradient)
    gradient = _through_relu(back("output", gradient), last)
    for number, features in reversed(list(enumerate(blocks))):
        write(f"block.{number}", features, gradient)
        gradient += _through_relu(back(f"block.{number}", gradient), features)
    write("projection", tape.embedded, gradient)
    gradient = back("projection", gradient)
    write("input", tape.inputs, gradient)
    write("noise.1", functional.silu(tape.raised), gradient)
    gradient = torch.ops.aten.silu_backward(back("noise.1", gradient), tape.raised)
    write("noise.0", tape.level, gradient)


def _depth(parameters: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("block.") for name in parameters) // 2


def _affine(parameters: Mapping[str, Tensor], name: str, features: Tensor) -> Tensor:
    """X W + b in the dtype of x; the product in that of W, if it is less precise."""
    weight = to_product_dtype(parameters[f"{name}.weight"].detach())
    found = torch.bmm(features.to(weight.dtype), weight).to(features.dtype)
    return found.add_(parameters[f"{name}.bias"])


def _add_product(total: Tensor, features: Tensor, weight: Tensor) -> None:
    """Add x W to a total."""
    weight = to_product_dtype(weight.detach())
    if weight.dtype == total.dtype:
        total.baddbmm_(features, weight)
    else:
        total += torch.bmm(features.to(weight.dtype), weight)


def _through_relu(gradient: Tensor, active: Tensor) -> Tensor:
    """Zero where relu gave zero, in place."""
    torch.ops.aten.threshold_backward(gradient, active, 0, grad_input=gradient)
    return gradient
