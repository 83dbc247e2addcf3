"""Adam over stacks: elementwise on ``[rows, width]``, hence as many independent Adams as there are rows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trajmill.models.stack import Stack


def cosine(update: Tensor, updates: int) -> Tensor:
    """Share of a step size at `update` (int64), counted from 0: from 1 along a cosine down to 0 after `updates`."""
    return 0.5 * (1.0 + torch.cos(math.pi * (update.to(torch.float64) / updates).clamp(max=1.0)))


@contextmanager
def subnormal_as_zero() -> Iterator[None]:
    """Let this thread's processor take numbers below 1e-38 for zero until the block ends; also a decorator.

    The first moment of a parameter without a gradient, such as those of a unit that is never active, decays until it
    is subnormal, where rounding keeps it for ever, and processors take many times as long over such numbers: after
    2,000 updates those of SAC took 15 % longer. No parameter is moved by them. The block is short, since the mode holds
    for all that the thread computes, simulations included.
    """
    was_zero = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_zero)


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma & Ba's Adam as ``torch.optim.Adam`` computes it, without host scalars, so that it can be captured.

    With `weight_decay` it is ``torch.optim.AdamW`` (Loshchilov & Hutter 2019); `clip_norm` scales each seed's gradient
    as ``clip_grad_norm_`` does, for stacks of one row a seed.

    It minimizes the *sum* of the losses it is given, one number a seed: then no seed's update depends on another's.
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
    twice: str | None = None
    """a parameter of the first stack that every update moves twice along its gradient, as torch's optimizers move one
    that is listed twice: its moments and its count of steps too"""
    rows: tuple[tuple[Tensor, list[list[Tensor]]], ...] = ()
    """if torch's fused kernel makes the update, the rows of each learning rate (or each row, if gradients are clipped):
    parameters, gradients, both moments"""

    @classmethod
    def of(
        cls,
        stacks: Sequence[Stack],
        learning_rates: Sequence[Tensor],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: tuple[float, ...] | None = None,
        clip_norm: float | None = None,
        decay_after_step: bool = False,
        all_reduce: Callable[[Tensor], None] | None = None,
        twice: str | None = None,
        fused: bool = False,
    ) -> Adam:
        """Fresh optimizer; `learning_rates` holds one (rows,) tensor per stack.

        `fused` takes torch's kernel, which reads and writes every number once and knows no decay. It rounds otherwise
        than the steps below, of which the last digits of CQL's and the transformers' runs are made.
        """
        made = cls(
            stacks=tuple(stacks),
            learning_rates=tuple(rate.to(torch.float64)[:, None] for rate in learning_rates),
            gradients=tuple(stack.like(torch.zeros_like(stack.flat)) for stack in stacks),
            first_moments=tuple(torch.zeros_like(stack.flat) for stack in stacks),
            second_moments=tuple(torch.zeros_like(stack.flat) for stack in stacks),
            update_count=stacks[0].flat.new_zeros((), dtype=torch.float64),
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            decay_after_step=decay_after_step,
            all_reduce=all_reduce,
            twice=twice,
        )
        return replace(made, rows=made._rows(), update_count=made.update_count.float()) if fused else made

    def _rows(self) -> tuple[tuple[Tensor, list[list[Tensor]]], ...]:
        """See `rows`."""
        if self.weight_decay is not None:
            raise ValueError("the fused kernel knows no weight decay; leave out fused")
        if self.twice is not None:
            raise ValueError("the fused kernel moves every parameter once; leave out fused")
        if self.clip_norm is not None and len(self.stacks) > 1:
            raise ValueError("the fused kernel clips the gradient of one stack; leave out fused")
        buffers = (
            [stack.flat for stack in self.stacks],
            [gradient.flat for gradient in self.gradients],
            self.first_moments,
            self.second_moments,
        )
        columns = [[row for flat in flats for row in flat.unbind()] for flats in buffers]
        rates = torch.cat(self.learning_rates)[:, 0]
        found = []
        if self.clip_norm is None:
            groups = [(rate, (rates == rate).nonzero()[:, 0].tolist()) for rate in rates.unique()]
        else:  # each row by a number of its own
            groups = [(rate, [place]) for place, rate in enumerate(rates)]
        for rate, places in groups:
            found.append(
                (rate.float() if rate.is_cuda else rate, [[column[place] for place in places] for column in columns])
            )
        return tuple(found)

    def minimize(self, losses: Tensor, factor: Tensor | None = None) -> None:
        """One update of every stack from losses (S,), all learning rates times `factor` if it is given.

        Parameters that the loss does not reach keep their values, but for the decay.
        """
        self.differentiate(losses)
        self.apply(factor)

    def differentiate(self, losses: Tensor) -> None:
        """Fill `gradients`, with their mean over all processes."""
        parameters = [parameter for stack in self.stacks for parameter in stack.parameters.values()]
        slots = [slot for stack in self.gradients for slot in stack.parameters.values()]
        ones = losses.new_ones(()).expand_as(losses)  # as sum() hands them back, to the last digit of what follows
        found = torch.autograd.grad(losses, parameters, ones, materialize_grads=True)
        torch._foreach_copy_(slots, list(found))
        if self.all_reduce is not None:
            for gradient in self.gradients:
                self.all_reduce(gradient.flat)

    def gradient_norms(self) -> Tensor:
        """L2 norm of each row of `gradients` over all stacks, (rows,); for stacks of one row a seed."""
        return torch.stack([gradient.flat.square().sum(1) for gradient in self.gradients]).sum(0).sqrt()

    @torch.no_grad()
    @subnormal_as_zero()
    def apply(self, factor: Tensor | None = None) -> None:
        """Move the parameters along `gradients`, all learning rates times `factor` if it is given."""
        self.update_count.add_(1.0)
        if self.rows:
            self._apply_fused(factor)
            return
        if self.clip_norm is not None:
            scale = (self.clip_norm / (self.gradient_norms() + 1e-6)).clamp_(max=1.0)
            for gradient in self.gradients:
                gradient.flat.mul_(scale[:, None])
        corrections = self._corrections(self.update_count)
        decays = self.weight_decay or (0.0,) * len(self.stacks)
        for place, (stack, base_rate, gradient, first, second, decay) in enumerate(
            zip(
                self.stacks,
                self.learning_rates,
                self.gradients,
                self.first_moments,
                self.second_moments,
                decays,
                strict=True,
            )
        ):
            rate = base_rate if factor is None else base_rate * factor
            numbers = [stack.flat, gradient.flat, first, second]
            if self.twice is None or place > 0:
                self._move(numbers, rate, decay, corrections)
                continue
            doubled = stack.columns(self.twice)
            for others in (slice(doubled.start), slice(doubled.stop, None)):
                self._move([each[:, others] for each in numbers], rate, decay, corrections)
            for count in (2.0 * self.update_count - 1.0, 2.0 * self.update_count):
                self._move([each[:, doubled] for each in numbers], rate, decay, self._corrections(count))

    def _corrections(self, count: Tensor) -> tuple[Tensor, Tensor]:
        """What the first moment, and the root of the second, are divided by in step `count`."""
        return 1.0 - self.beta1**count, (1.0 - self.beta2**count).sqrt()

    def _move(self, numbers: Sequence[Tensor], rate: Tensor, decay: float, corrections: tuple[Tensor, Tensor]) -> None:
        """One step of parameters with their gradients and both moments, (rows, any) each, at step sizes (rows, 1)."""
        flat, gradient, first, second = numbers
        dtype, (correction1, correction2) = flat.dtype, corrections
        kept = (1.0 - rate * decay).to(dtype) if decay else None
        if kept is not None and not self.decay_after_step:
            flat.mul_(kept)
        first.lerp_(gradient, 1.0 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1.0 - self.beta2)
        # rate/c1 · m / (√v/c2 + ε), with c2 multiplied through
        epsilon = self.epsilon if self.decay_after_step else (self.epsilon * correction2).to(dtype)
        scale = second.sqrt().add_(epsilon)
        direction = torch.div(first, scale, out=scale)
        flat.addcmul_(direction, (rate * (correction2 / correction1)).to(dtype), value=-1.0)
        if kept is not None and self.decay_after_step:
            flat.mul_(kept)

    def _apply_fused(self, factor: Tensor | None) -> None:
        """`apply` by torch's kernel, which divides the gradients too if they are to be clipped."""
        divisors: Sequence[Tensor | None] = [None] * len(self.rows)
        if self.clip_norm is not None:
            (gradient,) = self.gradients
            norms = torch.linalg.vector_norm(gradient.flat, dim=1)
            divisor = ((norms + 1e-6) / self.clip_norm).clamp_(min=1.0)
            if gradient.flat.dtype == torch.float32:
                divisors = divisor.unbind()
            else:  # the kernel divides by fp32 numbers alone
                gradient.flat.div_(divisor[:, None])
        for divisor_of_row, (rate, (values, gradients, first, second)) in zip(divisors, self.rows, strict=True):
            torch._fused_adam_(
                *(values, gradients, first, second, [], [self.update_count] * len(values)),
                lr=rate if factor is None else (rate * factor).to(rate.dtype),
                beta1=self.beta1,
                beta2=self.beta2,
                weight_decay=0.0,
                eps=self.epsilon,
                amsgrad=False,
                maximize=False,
                grad_scale=divisor_of_row,
            )

    def moving(self) -> dict[str, Tensor]:
        """Everything an update changes beside the parameters."""
        tensors = {"update_count": self.update_count}
        for index, (first, second) in enumerate(zip(self.first_moments, self.second_moments, strict=True)):
            tensors |= {f"first_moment.{index}": first, f"second_moment.{index}": second}
        return tensors
