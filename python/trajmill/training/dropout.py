"""Dropout by numbers with an address: what is dropped depends on the seed, the step and the place alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_LEVELS = 1 << 16

Sites = Mapping[str, tuple[float, tuple[int, ...]]]
"""site -> probability of dropping a number, shape of the numbers of one seed"""


def dropout_sizes(sites: Sites) -> dict[str, int]:
    """32-bit words each site needs: two decisions a word."""
    return {site: (torch.Size(shape).numel() + 1) // 2 for site, (_, shape) in sites.items()}


def dropout_factors(sites: Sites, words: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Site -> (S, *shape) of zeros and 1 / (1 - p), from words (S, size) int64.

    p is rounded to a multiple of 2^-16, and the factor with it, so that the expectation is kept exactly.
    """
    factors = {}
    for site, (probability, shape) in sites.items():
        dropped = round(probability * _LEVELS)
        # both halves of a word at once, as signed numbers; flipping the highest bit of each keeps their order
        levels = (words[site].to(torch.int32) ^ ~0x7FFF_7FFF).view(torch.int16)
        kept = levels[:, : torch.Size(shape).numel()] >= dropped - _LEVELS // 2
        factors[site] = kept.to(dtype).mul_(_LEVELS / (_LEVELS - dropped)).view(-1, *shape)
    return factors
