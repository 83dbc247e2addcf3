"""Batches of a source one after another, as arrays or as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as counting
from typing import TYPE_CHECKING, Any, overload

from trajmill.core import checks

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch


class Batches:
    """What every source of batches has beside its method `sample`."""

    @overload
    def batches(
        self, batch_size: int, *, count: int | None = None, device: None = None
    ) -> Iterator[dict[str, npt.NDArray[Any]]]: ...
    @overload
    def batches(
        self, batch_size: int, *, count: int | None = None, device: str | torch.device
    ) -> Iterator[dict[str, torch.Tensor]]: ...
    def batches(
        self, batch_size: int, *, count: int | None = None, device: str | torch.device | None = None
    ) -> Iterator[dict[str, Any]]:
        """The batches that `sample` gives, `count` of them or without an end; with `device`, as tensors on it.

        `tm.feed` gives the same batches to a GPU faster: a thread draws them ahead.
        """
        size = checks.integer("batch_size", batch_size, 1)
        numbers = counting() if count is None else range(checks.integer("count", count, 0))
        return self._batches(size, numbers, device)

    def _batches(self, batch_size: int, numbers: Any, device: str | torch.device | None) -> Iterator[dict[str, Any]]:
        for _ in numbers:
            batch = self.sample(batch_size)  # type: ignore[attr-defined]
            if device is None:
                yield batch
                continue
            import torch

            yield {name: torch.as_tensor(values, device=device) for name, values in batch.items()}
