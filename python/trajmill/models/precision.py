"""How precisely the networks' matrix products are computed: a setting of the process, like torch's own.

Reduced, the operands and results of the products of hidden layers, attention and tied outputs are bfloat16; sums inside
a product stay fp32. Parameters, optimizers, embeddings, output layers, normalizations, softmax, log-densities, action
values and losses stay fp32. float64 networks are never reduced.
"""

from __future__ import annotations

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
