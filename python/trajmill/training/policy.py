"""Trained policies in the form that evaluation asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.data import Normalizer
from trajmill.models.stack import Stack

Act = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""parameters of S networks, observations (S, E, O) -> actions (S, E, A)"""


@dataclass(frozen=True, slots=True)
class Policy:
    """One network a seed and how it acts; it needs nothing of the training."""

    network: Stack
    act: Act
    normalizer: Normalizer | None = None

    @classmethod
    def restored(cls, network: Stack, act: Act, metadata: Mapping[str, Any]) -> Policy:
        """With the normalizer that `metadata` has."""
        return cls(network, act, Normalizer.of_metadata(metadata))

    def metadata(self) -> dict[str, Any]:
        """What `restored` has to know."""
        return {"normalizer": None if self.normalizer is None else self.normalizer.to_dict()}

    @torch.no_grad()
    def __call__(self, observations: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map observations (S, E, O) to actions (S, E, A)."""
        seen = observations if self.normalizer is None else self.normalizer.normalize(np.asarray(observations))
        return self.act(self.network.detached(), torch.as_tensor(seen).to(self.network.flat)).float().cpu().numpy()
