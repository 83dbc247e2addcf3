"""Adam over stacks: elementwise on ``[rows, width]``, hence as many independent Adams as there are rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trajmill.models.stack import Stack


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma & Ba's Adam as ``torch.optim.Adam`` computes it, without host scalars, so that it can be captured.

    The loss it minimizes must be a *sum* over seeds of per-seed means: then no seed's update depends on another's.
    """

    parameters: tuple[Stack, ...]
    learning_rates: tuple[Tensor, ...]
    """one (rows, 1) float64 tensor per stack"""
    gradients: tuple[Stack, ...]
    first_moments: tuple[Tensor, ...]
    second_moments: tuple[Tensor, ...]
    update_count: Tensor
    """float64 scalar"""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @classmethod
    def of(cls, parameters: Sequence[Stack], learning_rates: Sequence[Tensor]) -> Adam:
        """Fresh optimizer; `learning_rates` holds one (rows,) tensor per stack."""
        return cls(
            parameters=tuple(parameters),
            learning_rates=tuple(rate.to(torch.float64)[:, None] for rate in learning_rates),
            gradients=tuple(stack.like(torch.zeros_like(stack.flat)) for stack in parameters),
            first_moments=tuple(torch.zeros_like(stack.flat) for stack in parameters),
            second_moments=tuple(torch.zeros_like(stack.flat) for stack in parameters),
            update_count=parameters[0].flat.new_zeros((), dtype=torch.float64),
        )

    def minimize(self, loss: Tensor) -> None:
        """One update of every stack from a scalar loss; leaves that the loss does not reach keep their values."""
        self.differentiate(loss)
        self.apply()

    def differentiate(self, loss: Tensor) -> None:
        """Fill `gradients`."""
        leaves = [leaf for stack in self.parameters for leaf in stack.leaves.values()]
        slots = [slot for stack in self.gradients for slot in stack.leaves.values()]
        found = torch.autograd.grad(loss, leaves, materialize_grads=True)
        torch._foreach_copy_(slots, list(found))

    @torch.no_grad()
    def apply(self) -> None:
        """Move the parameters along `gradients`."""
        self.update_count.add_(1.0)
        correction1 = 1.0 - self.beta1**self.update_count
        correction2 = (1.0 - self.beta2**self.update_count).sqrt()
        for stack, rate, gradient, first, second in zip(
            self.parameters, self.learning_rates, self.gradients, self.first_moments, self.second_moments, strict=True
        ):
            dtype = stack.flat.dtype
            first.lerp_(gradient.flat, 1.0 - self.beta1)
            second.mul_(self.beta2).addcmul_(gradient.flat, gradient.flat, value=1.0 - self.beta2)
            # rate/c1 · m / (√v/c2 + ε), with c2 multiplied through
            scale = second.sqrt().add_((self.epsilon * correction2).to(dtype))
            direction = torch.div(first, scale, out=scale)
            stack.flat.addcmul_(direction, (rate * (correction2 / correction1)).to(dtype), value=-1.0)

    def moving(self) -> dict[str, Tensor]:
        """Everything an update changes beside the parameters."""
        tensors = {"update_count": self.update_count}
        for index, (first, second) in enumerate(zip(self.first_moments, self.second_moments, strict=True)):
            tensors |= {f"first_moment.{index}": first, f"second_moment.{index}": second}
        return tensors
