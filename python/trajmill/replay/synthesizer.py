"""What makes transitions from a trained model, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from trajmill.data import Transitions
from trajmill.replay.vectors import VectorCode
from trajmill.training.draws import Draws, even, shaped_normals
from trajmill.training.runner import captured

FIRST_SITE = 16
"""sites of the draws: training of the same seed draws from those before"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesizer:
    """Makes blocks of transitions; a block depends on the seed and on its number alone."""

    code: VectorCode
    vectors: Callable[[Draws, Tensor], Tensor]
    """gives the vectors of a block (block_size, K) from chance and the number, an int64 scalar; can be captured"""
    sites: Mapping[str, int]
    """words that it needs, see `Draws`"""
    block_size: int
    device: torch.device
    evaluations: int = 1
    """how often a block asks a network"""
    clip_actions: bool = False
    _makers: dict[int, tuple[Tensor, Callable[[], Tensor]]] = field(default_factory=dict)

    def draws(self, seed: int) -> Draws:
        """The chance of all blocks of a seed."""
        return Draws.of([seed], self.sites, self.device, first_site=FIRST_SITE)

    def block(self, seed: int, number: int) -> Transitions:
        """The transitions of a block; on a GPU all blocks of a seed are one graph."""
        if seed not in self._makers:
            block = torch.zeros((), dtype=torch.int64, device=self.device)
            make = partial(self.vectors, self.draws(seed), block)
            self._makers[seed] = block, captured(make) if self.device.type == "cuda" else make
        block, make_vectors = self._makers[seed]
        block.fill_(number)
        transitions = self.code.decode(make_vectors().float().cpu().numpy())
        return replace(transitions, action=transitions.action.clip(-1.0, 1.0)) if self.clip_actions else transitions


def decoding(
    code: VectorCode,
    decode: Callable[[Tensor], Tensor],
    latent_count: int,
    *,
    block_size: int,
    device: torch.device,
    clip_actions: bool,
) -> Synthesizer:
    """One whose model makes a vector of `latent_count` numbers: `decode` maps normals (1, n, ·) to (1, n, K)."""

    @torch.no_grad()
    def vectors(draws: Draws, block: Tensor) -> Tensor:
        words = draws.words(block, 1)["latent"][0]
        return decode(shaped_normals(words, (block_size, latent_count), torch.float32))[0]

    return Synthesizer(
        code=code,
        vectors=vectors,
        sites={"latent": even(block_size * latent_count)},
        block_size=block_size,
        device=device,
        clip_actions=clip_actions,
    )
