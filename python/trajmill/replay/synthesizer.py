"""What makes transitions from a trained model, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trajmill.data import Transitions
from trajmill.replay.vectors import VectorCode
from trajmill.training.draws import Draws, even, shaped_normals

FIRST_SITE = 16
"""sites of the draws: training of the same seed draws from those before"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesizer:
    """Makes blocks of transitions; a block depends on the seed and on its number alone.

    `vectors` gives those of a block (block_size, K) from a seed and the number, an int64 scalar on `device`; it can be
    captured in a graph. `evaluations` is how often it asks a network.
    """

    code: VectorCode
    vectors: Callable[[int, Tensor], Tensor]
    block_size: int
    device: torch.device
    evaluations: int = 1
    clip_actions: bool = False

    def block(self, seed: int, number: int) -> Transitions:
        """The transitions of a block."""
        found = self.vectors(seed, torch.tensor(number, device=self.device))
        transitions = self.code.decode(found.float().cpu().numpy())
        return replace(transitions, action=transitions.action.clip(-1.0, 1.0)) if self.clip_actions else transitions


def latent_normals(seed: int, block: Tensor, count: int, dimension: int) -> Tensor:
    """Standard normals (1, count, dimension) of a block, for models that decode them."""
    draws = Draws.of([seed], {"latent": even(count * dimension)}, block.device, first_site=FIRST_SITE)
    return shaped_normals(draws.words(block, 1)["latent"][0], (count, dimension), torch.float32)
