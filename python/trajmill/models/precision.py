"""How precisely the networks' matrix products are computed: a setting of the process, like torch's own.

Reduced, the operands and results of the products of hidden layers, attention and tied outputs are bfloat16; sums inside
a product stay fp32. Parameters, optimizers, embeddings, output layers, normalizations, softmax, log-densities, action
values and losses stay fp32. float64 networks are never reduced.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_reduces = False


def use_bfloat16(wanted: bool) -> None:
    """Compute products of fp32 tensors in bfloat16 from now on, or exactly again."""
    global _reduces  # noqa: PLW0603
    _reduces = wanted


def uses_bfloat16() -> bool:
    """Whether products are computed in bfloat16 now."""
    return _reduces


def to_product_dtype(tensor: Tensor) -> Tensor:
    """The tensor as a matrix product takes it; gradients return in the tensor's own precision."""
    return tensor.to(torch.bfloat16) if _reduces and tensor.dtype == torch.float32 else tensor


def batched(product: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """`product` of operands (S, ..., ., .), the last two of which are multiplied; on CPUs row k is the same for any S.

    For a batch of one with a side of one number, torch takes BLAS's products of vectors, which add in another order. It
    is computed twice here, in a batch of two, as cheap as it is: a seed alone has the numbers it has among others.
    """
    left, right = operands[-2:]
    if right.device.type == "cpu" and right.shape[:-2].numel() == 1 and 1 in (*left.shape[-2:], right.shape[-1]):
        return product(*(operand.expand(2, *operand.shape[1:]) for operand in operands))[:1]
    return product(*operands)
