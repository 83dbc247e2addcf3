"""What plain PyTorch loops of one seed share: networks of `nn.Linear`, and random batches as CORL draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

COLUMNS = ("observation", "action", "reward", "terminal", "next_observation")


def mlp(sizes: Sequence[int], output: nn.Module | None = None) -> nn.Sequential:
    """Linear layers with ReLU between them, torch's default initial values."""
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += ([nn.ReLU()] if index else []) + [nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers, *([] if output is None else [output]))


def from_values(values: Mapping[str, Tensor], head: str, output: nn.Module | None = None) -> nn.Sequential:
    """The network whose state dict `trajmill.models.mlp.export_network` wrote."""
    depth = sum(name.startswith("hidden.") for name in values) // 2
    names = [*(f"hidden.{index}" for index in range(depth)), head]
    first, *_ = sizes = [values[names[0] + ".weight"].shape[1], *(len(values[name + ".bias"]) for name in names)]
    network = mlp(sizes, output).to(values[head + ".bias"].dtype)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, name in zip(linear, names, strict=True):
        layer.weight.data.copy_(values[f"{name}.weight"])
        layer.bias.data.copy_(values[f"{name}.bias"])
    assert first == linear[0].in_features
    return network


def soft_update(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Move a target network towards its source, parameter by parameter."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.data.copy_(rate * new.data + (1.0 - rate) * old.data)


class Batches:
    """Random rows of all columns, drawn with replacement by NumPy; `names` are those of transitions."""

    def __init__(
        self, columns: Mapping[str, NDArray[Any]], batch_size: int, seed: int, names: Sequence[str] = COLUMNS
    ) -> None:
        self._columns = [torch.from_numpy(columns[name]) for name in names]
        self._batch_size, self._random = batch_size, np.random.default_rng(seed)

    def draw(self) -> list[Tensor]:
        """The columns of one batch."""
        index = self._random.integers(0, len(self._columns[0]), size=self._batch_size)
        return [column[index] for column in self._columns]
