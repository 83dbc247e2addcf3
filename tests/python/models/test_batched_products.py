"""Products of many networks at once: each has the numbers that it has alone."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from trajmill.models.precision import batched
from trajmill.training.device import torch_as_it_was


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("added", [False, True])
def test_a_network_alone_has_the_numbers_that_it_has_among_others(dtype: torch.dtype, added: bool) -> None:
    """Results and gradients, for sides of one number and of many, as they lie in memory and transposed."""

    def made(first: int, end: int) -> list[Tensor]:
        given = [tensor[first:end].detach().requires_grad_() for tensor in operands]
        found = batched(torch.baddbmm if added else torch.bmm, *given)
        return [found, *torch.autograd.grad(found, given, slopes[first:end])]

    generator = torch.Generator().manual_seed(1)
    with torch_as_it_was():
        torch.set_num_threads(1)
        sides = (1, 11, 256)
        for n, inner, width, turned in product(sides, sides, sides, (False, True)):
            shapes = [(3, n, inner), (3, inner, width)]
            operands = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
            if turned:
                operands = [operand.mT.contiguous().mT for operand in operands]
            if added:
                operands.insert(0, torch.randn(3, 1, width, generator=generator).to(dtype))
            slopes = torch.randn(3, n, width, generator=generator).to(dtype)
            whole = made(0, 3)
            for ends in ((0, 1, 2, 3), (0, 1, 3)):
                parts = zip(*(made(first, end) for first, end in pairwise(ends)), strict=True)
                for one, other in zip(parts, whole, strict=True):
                    assert torch.equal(torch.cat(one), other), (n, inner, width, turned)
