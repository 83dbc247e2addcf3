"""What the training room asks of an algorithm's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class TrainingState(Protocol):
    """Preallocated tensors that a step changes in place and never rebinds."""

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by its name in a checkpoint; all on one device."""


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix` and a slash."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
