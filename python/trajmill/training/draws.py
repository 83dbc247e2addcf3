"""Philox4x32-10 in torch integers: every random number of training has an address, on any device.

Key = the 64-bit seed of a run; counter = (lane, step, site, domain). So the numbers of one seed do not depend on how
many seeds run beside it, on the device, or on where a run was stopped and resumed. Integers are exactly those of
Random123 (Salmon et al. 2011); uniforms are exact in float32 and equal in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trajmill import _core

TRAINING_DOMAIN = 0x7472_6169
"""last word of every counter (ASCII "trai"): training never shares numbers with another user of the same seed"""

_MASK = 0xFFFF_FFFF


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on int64 tensors that hold 32-bit words; counter and key words broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(0xD251_1F53, c0)
        high1, low1 = _multiply(0xCD9E_8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E37_79B9) & _MASK, (k1 + 0xBB67_AE85) & _MASK
    return c0, c1, c2, c3


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 64-bit product, without overflowing int64."""
    low = constant * (word & 0xFFFF)
    high = constant * (word >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def uniforms(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in (0, 1), the centers of 2^23 equal cells, from 32-bit words."""
    return ((words >> 9).to(dtype) + 0.5) * 2.0**-23


def normals(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard normals by Box-Muller, |z| < 5.77, from an even number of 32-bit words on the last axis."""
    radius_uniform, angle_uniform = uniforms(words, dtype).reshape(*words.shape[:-1], -1, 2).unbind(-1)
    radius = (-2.0 * radius_uniform.log()).sqrt_()
    angle = angle_uniform * (2.0 * math.pi)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(-2)


def even(count: int) -> int:
    """The least even number of at least `count`: normals come in pairs, so an odd number of them has one to spare."""
    return count + count % 2


def shaped_normals(words: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Standard normals (..., *shape) from an `even` number of 32-bit words on the last axis."""
    found: Tensor = normals(words, dtype)[..., : math.prod(shape)].unflatten(-1, shape)
    return found


def indexes(words: Tensor, count: Tensor | int) -> Tensor:
    """Integers in [0, count) with a bias of at most count / 2^32."""
    return (words * count) >> 32


@dataclass(frozen=True, slots=True)
class Draws:
    """The random words one update of every seed needs, by site.

    A site is a named place in an algorithm that consumes chance, such as ``"batch"``; its number is its position.
    """

    key: tuple[Tensor, Tensor]
    """low and high word of each seed, each (S, 1) int64"""
    lane: Tensor
    """(L,) int64: which four words of its site a lane makes"""
    site: Tensor
    """(L,) int64: number of the site"""
    sizes: Mapping[str, int]
    """words of each site"""

    @classmethod
    def of(cls, seeds: Sequence[int], sizes: Mapping[str, int], device: torch.device, *, first_site: int = 0) -> Draws:
        """Draws for the given 64-bit seeds; the sites are numbered from `first_site` on.

        Site 0 is that of the rows of a batch: the replay engine draws the same rows on the host.
        """
        lanes = [-(-size // 4) for size in sizes.values()]
        key = torch.tensor([[seed & _MASK, seed >> 32] for seed in seeds], dtype=torch.int64)
        return cls(
            key=(key[:, :1].to(device), key[:, 1:].to(device)),
            lane=torch.cat([torch.arange(count) for count in lanes]).to(device),
            site=torch.repeat_interleave(first_site + torch.arange(len(lanes)), torch.tensor(lanes)).to(device),
            sizes=dict(sizes),
        )

    @property
    def seed_count(self) -> int:
        """S."""
        return len(self.key[0])

    @property
    def seeds(self) -> list[int]:
        """The seeds that the numbers are of."""
        return [low | high << 32 for low, high in zip(*(words.flatten().tolist() for words in self.key), strict=True)]

    def words(self, step: Tensor, count: int) -> dict[str, Tensor]:
        """Words of the `count` updates from `step` (an int64 scalar tensor) on: site -> (count, S, size) int64."""
        blocks = self._compiled(step, count) if step.device.type == "cpu" else self.words_by_torch(step, count)
        flat = blocks.flatten(-2)
        result, start = {}, 0
        for name, size in self.sizes.items():
            result[name] = flat[..., start : start + size]
            start += -(-size // 4) * 4
        return result

    def words_by_torch(self, step: Tensor, count: int) -> Tensor:
        """All blocks of `words`, (count, S, L, 4), in torch operations, on any device; can be captured."""
        steps = step + torch.arange(count, device=step.device)
        domain = torch.full_like(steps, TRAINING_DOMAIN)[:, None, None]
        return torch.stack(philox((self.lane, steps[:, None, None], self.site, domain), self.key), -1)

    def _compiled(self, step: Tensor, count: int) -> Tensor:
        """The same by the core, on the CPU, ten times as fast."""
        seeds = (self.key[0] | self.key[1] << 32).flatten().numpy()
        words = _core.philox_words(
            seeds, self.lane.numpy(), self.site.numpy(), int(step.numpy()), count, TRAINING_DOMAIN
        )
        return torch.from_numpy(words)
