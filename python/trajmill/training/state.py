"""What the training room asks of a method's state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from trajmill.training.metrics import MetricRing


class TrainingState(Protocol):
    """Preallocated tensors that a step changes in place and never rebinds; a dataclass."""

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by its name in a checkpoint; all on one device."""

    @property
    def metrics(self) -> MetricRing:
        """The metrics of the last updates."""

    @property
    def period(self) -> int:
        """Updates after which the operations of a step repeat; 1 unless some of them are delayed."""


@runtime_checkable
class Growing(Protocol):
    """A state with more than every checkpoint should repeat, such as the transitions that agents have collected."""

    def store(self, directory: Path) -> None:
        """Write what is new since the last time; a checkpoint follows."""

    def load(self, directory: Path) -> None:
        """Read what belongs to the moving tensors, which have just been filled from a checkpoint."""

    def report(self) -> dict[str, list[float]]:
        """What a line of metrics says besides, one number a seed."""


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix` and a slash."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
