"""Adam over stacks: elementwise on ``[rows, width]``, hence as many independent Adams as there are rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trajmill.models.stack import Stack


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma & Ba's Adam as ``torch.optim.Adam`` computes it, without host scalars, so that it can be captured.

    With `weight_decay` it is ``torch.optim.AdamW`` (Loshchilov & Hutter 2019); `clip_norm` scales each seed's gradient
    as ``clip_grad_norm_`` does, for stacks of one row a seed.

    The loss it minimizes must be a *sum* over seeds of per-seed means: then no seed's update depends on another's.
    """

    stacks: tuple[Stack, ...]
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
    weight_decay: tuple[float, ...] | None = None
    """one per stack; None decays nothing"""
    clip_norm: float | None = None
    """greatest L2 norm of one seed's gradient; None clips nothing"""
    decay_after_step: bool = False
    """add epsilon before the bias correction and decay after the step, as the AdamW of the transformers library did"""
    all_reduce: Callable[[Tensor], None] | None = None
    """makes a tensor the mean over all processes that train together, in place; None trains alone"""

    @classmethod
    def of(
        cls,
        stacks: Sequence[Stack],
        learning_rates: Sequence[Tensor],
        *,
        epsilon: float = 1e-8,
        weight_decay: tuple[float, ...] | None = None,
        clip_norm: float | None = None,
        decay_after_step: bool = False,
        all_reduce: Callable[[Tensor], None] | None = None,
    ) -> Adam:
        """Fresh optimizer; `learning_rates` holds one (rows,) tensor per stack."""
        return cls(
            stacks=tuple(stacks),
            learning_rates=tuple(rate.to(torch.float64)[:, None] for rate in learning_rates),
            gradients=tuple(stack.like(torch.zeros_like(stack.flat)) for stack in stacks),
            first_moments=tuple(torch.zeros_like(stack.flat) for stack in stacks),
            second_moments=tuple(torch.zeros_like(stack.flat) for stack in stacks),
            update_count=stacks[0].flat.new_zeros((), dtype=torch.float64),
            epsilon=epsilon,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            decay_after_step=decay_after_step,
            all_reduce=all_reduce,
        )

    def minimize(self, loss: Tensor, factor: Tensor | float = 1.0) -> None:
        """One update of every stack from a scalar loss, all learning rates times `factor`.

        Parameters that the loss does not reach keep their values, but for the decay.
        """
        self.differentiate(loss)
        self.apply(factor)

    def differentiate(self, loss: Tensor) -> None:
        """Fill `gradients`, with their mean over all processes."""
        parameters = [parameter for stack in self.stacks for parameter in stack.parameters.values()]
        slots = [slot for stack in self.gradients for slot in stack.parameters.values()]
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        torch._foreach_copy_(slots, list(found))
        if self.all_reduce is not None:
            for gradient in self.gradients:
                self.all_reduce(gradient.flat)

    def gradient_norms(self) -> Tensor:
        """L2 norm of each row of `gradients` over all stacks, (rows,); for stacks of one row a seed."""
        return torch.stack([gradient.flat.square().sum(1) for gradient in self.gradients]).sum(0).sqrt()

    @torch.no_grad()
    def apply(self, factor: Tensor | float = 1.0) -> None:
        """Move the parameters along `gradients`, all learning rates times `factor`."""
        if self.clip_norm is not None:
            scale = (self.clip_norm / (self.gradient_norms() + 1e-6)).clamp_(max=1.0)
            for gradient in self.gradients:
                gradient.flat.mul_(scale[:, None])
        self.update_count.add_(1.0)
        correction1 = 1.0 - self.beta1**self.update_count
        correction2 = (1.0 - self.beta2**self.update_count).sqrt()
        decays = self.weight_decay or (0.0,) * len(self.stacks)
        for stack, base_rate, gradient, first, second, decay in zip(
            self.stacks,
            self.learning_rates,
            self.gradients,
            self.first_moments,
            self.second_moments,
            decays,
            strict=True,
        ):
            dtype = stack.flat.dtype
            rate = base_rate * factor
            kept = (1.0 - rate * decay).to(dtype)
            if decay and not self.decay_after_step:
                stack.flat.mul_(kept)
            first.lerp_(gradient.flat, 1.0 - self.beta1)
            second.mul_(self.beta2).addcmul_(gradient.flat, gradient.flat, value=1.0 - self.beta2)
            # rate/c1 · m / (√v/c2 + ε), with c2 multiplied through
            epsilon = self.epsilon if self.decay_after_step else (self.epsilon * correction2).to(dtype)
            scale = second.sqrt().add_(epsilon)
            direction = torch.div(first, scale, out=scale)
            stack.flat.addcmul_(direction, (rate * (correction2 / correction1)).to(dtype), value=-1.0)
            if decay and self.decay_after_step:
                stack.flat.mul_(kept)

    def moving(self) -> dict[str, Tensor]:
        """Everything an update changes beside the parameters."""
        tensors = {"update_count": self.update_count}
        for index, (first, second) in enumerate(zip(self.first_moments, self.second_moments, strict=True)):
            tensors |= {f"first_moment.{index}": first, f"second_moment.{index}": second}
        return tensors
