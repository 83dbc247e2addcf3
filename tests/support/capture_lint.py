"""Finds on a CPU what would break a CUDA graph: host reads, data-dependent shapes, moving or changing things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trajmill.training.state import TrainingState

FORBIDDEN = {
    "aten._local_scalar_dense": "reads a value on the host (.item(), float(tensor), if tensor)",
    "aten.nonzero": "has a shape that depends on data",
    "aten.masked_select": "has a shape that depends on data",
    "aten._unique2": "has a shape that depends on data",
    "aten.unique_dim": "has a shape that depends on data",
    "aten.unique_consecutive": "has a shape that depends on data",
    "aten.lift_fresh": "copies a host value into a new tensor (torch.tensor(...))",
    "aten.normal_": "draws from torch's own generator",
    "aten.uniform_": "draws from torch's own generator",
    "aten.bernoulli_": "draws from torch's own generator",
    "aten.random_": "draws from torch's own generator",
    "aten.native_dropout": "draws from torch's own generator",
}

Operation = tuple[str, tuple[tuple[int, ...], ...], tuple[torch.dtype, ...]]


class CaptureError(AssertionError):
    """A step does something that a CUDA graph cannot hold."""


class OperationRecorder(TorchDispatchMode):
    """Writes down every operation with the shapes and dtypes it sees; refuses those in `FORBIDDEN`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and torch would import its compiler to say so, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Check and note one operation, then run it."""
        name = str(func).rpartition(".")[0]
        if name in FORBIDDEN:
            raise CaptureError(f"{func} {FORBIDDEN[name]}; a captured step must not")
        tensors = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in ("aten.index", "aten.index_put_") and any(tensor.dtype == torch.bool for tensor in tensors[1:]):
            raise CaptureError(f"{func} indexes by a boolean mask, whose result shape depends on data")
        if len({tensor.device for tensor in tensors}) > 1:
            raise CaptureError(f"{func} mixes devices {sorted({str(tensor.device) for tensor in tensors})}")
        self.operations.append((str(func), *zip(*((tuple(t.shape), t.dtype) for t in tensors), strict=True)))  # type: ignore[arg-type]
        return func(*args, **(kwargs or {}))

    def launch_count(self) -> int:
        """Operations that do work on the device, that is, without views and empty allocations."""
        return sum(not _is_free(name) for name, *_ in self.operations)


def _is_free(name: str) -> bool:
    schema = name.removeprefix("aten.").split(".")[0]
    return schema in _FREE


_FREE = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "slice", "select", "split", "chunk", "unbind"),
        *("t", "transpose", "permute", "unsqueeze", "squeeze", "detach", "alias", "as_strided", "split_with_sizes"),
        *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    }
)


def capture_lint(step: Callable[[], None], state: TrainingState) -> OperationRecorder:
    """Run two steps and raise `CaptureError` unless a graph could hold them; gives the record of the second.

    Allowed: any pure device operation. Checked: no operation of `FORBIDDEN`, no boolean-mask index, no mixed devices,
    the same list of (operation, shapes, dtypes) both times, and every tensor of the state where it was.
    """
    places = {name: tensor.data_ptr() for name, tensor in state.moving().items()}
    records = [OperationRecorder(), OperationRecorder()]
    for record in records:
        with record:
            step()
    first, second = (record.operations for record in records)
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            raise CaptureError(f"operation {index} changed between two steps: {one} became {other}")
    if len(first) != len(second):
        raise CaptureError(f"the first step issued {len(first)} operations, the second {len(second)}")
    moved = [name for name, tensor in state.moving().items() if tensor.data_ptr() != places.get(name)]
    if moved:
        raise CaptureError(f"a step must write in place, but it rebound {', '.join(moved)}")
    return records[1]
