"""A stack: the parameters of many equal networks, one flat row each, seen as named ``[rows, ...]`` parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

ALIGNMENT = 16
"""parameters begin at multiples of this many numbers, so that fp32 matrices begin at 64-byte lines"""


@dataclass(frozen=True, slots=True)
class Stack:
    """Parameters of `rows` networks of one shape; nothing in it is ever rebound, only written in place.

    An ensemble of E networks per seed is S·E rows, seed by seed. Gaps between aligned parameters stay zero.
    """

    flat: Tensor
    """(rows, width): all numbers of one network in one row, which is what an optimizer and a target update work on"""
    parameters: dict[str, Tensor]
    """name -> (rows, *shape): views of `flat`; those of a trainable stack ask for gradients"""
    _detached: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = {name: parameter.detach() for name, parameter in self.parameters.items()}
        object.__setattr__(self, "_detached", found)

    @classmethod
    def of(cls, networks: Sequence[Mapping[str, Tensor]]) -> Stack:
        """Trainable stack of the given networks, one row each; all have the same names and shapes."""
        if not networks:
            raise ValueError("a stack needs at least one network, got none")
        columns = {name: torch.stack([network[name] for network in networks]) for name in networks[0]}
        first = next(iter(columns.values()))
        flat = first.new_zeros(len(networks), sum(_padded(values[0].numel()) for values in columns.values()))
        stack = _view(flat, {name: values.shape[1:] for name, values in columns.items()})
        for name, values in columns.items():
            stack[name].copy_(values)
        return cls(flat, {name: parameter.requires_grad_() for name, parameter in stack.items()})

    def like(self, flat: Tensor) -> Stack:
        """Look at another (rows, width) buffer, such as a gradient or a target, by the same names; not trainable."""
        return Stack(flat, _view(flat, {name: parameter.shape[1:] for name, parameter in self.parameters.items()}))

    def copy(self) -> Stack:
        """Fixed copy of the same values: a target network."""
        return self.like(self.flat.clone())

    def detached(self) -> Mapping[str, Tensor]:
        """Parameters in the same memory through which no gradient flows."""
        return self._detached

    def columns(self, name: str) -> slice:
        """Where the numbers of a parameter are in each row of `flat`."""
        parameter = self.parameters[name]
        start = parameter.storage_offset() - self.flat.storage_offset()
        return slice(start, start + parameter[0].numel())

    def parameter_count(self) -> int:
        """Numbers in one network, without the gaps."""
        return sum(parameter[0].numel() for parameter in self.parameters.values())

    def to(self, device: torch.device, dtype: torch.dtype) -> Stack:
        """Trainable stack of the same values on `device`."""
        moved = self.like(self.flat.to(device, dtype, copy=True))
        return Stack(moved.flat, {name: parameter.requires_grad_() for name, parameter in moved.parameters.items()})


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _view(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    views, start = {}, 0
    for name, shape in shapes.items():
        size = shape.numel()
        views[name] = flat.detach()[:, start : start + size].view(len(flat), *shape)
        start += _padded(size)
    return views
