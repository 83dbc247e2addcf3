"""Updates of an algorithm in fp32 and in bf16, beside a peer and beside their own matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from record import Row, in_turns
from torch.utils._python_dispatch import TorchDispatchMode

from trajmill.models.precision import reduce_products

Work = Callable[[], None]


class _Products(TorchDispatchMode):
    """Notes every matrix product with its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Sequence[Any], Mapping[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if str(func).rpartition(".")[0] in ("aten.bmm", "aten.baddbmm", "aten.mm", "aten.addmm"):
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def products_alone(step: Work) -> Work:
    """The matrix products of one step, forward and backward, on the same operands, and nothing else."""
    with _Products() as noted:
        step()

    def again() -> None:
        with torch.no_grad():
            for func, args, kwargs in noted.calls:
                func(*args, **kwargs)

    return again


def update_rows(
    name: str, create: Callable[[], Work], peer: Work, against: str, *, seeds: int = 1, target_seconds: float = 0.5
) -> list[Row]:
    """One row per precision, each seed's updates counted; `create` makes a step of its own for each."""

    def in_precision(step: Work, reduces: bool) -> Work:
        def work() -> None:
            reduce_products(reduces)
            step()

        return work

    works = {"peer": peer}
    for precision in ("fp32", "bf16"):
        works[precision] = in_precision(create(), precision == "bf16")
        works[f"{precision} products"] = products_alone(works[precision])
    taken = in_turns(works, target_seconds=target_seconds)
    rows = [
        Row(
            name=f"{name}, {precision}",
            value=seeds / taken[precision],
            unit="updates/s",
            against=against,
            ratio=seeds * taken["peer"] / taken[precision],
            limit="its matrix products alone",
            limit_share=taken[f"{precision} products"] / taken[precision],
        )
        for precision in ("fp32", "bf16")
    ]
    return [*rows, Row(name=f"  {against}", value=1 / taken["peer"], unit="updates/s")]
