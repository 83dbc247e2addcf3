"""What peers with multi-layer perceptrons share."""

from __future__ import annotations

import torch
from plain_loops import from_values
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from trajmill.models.mlp import export_network
from trajmill.models.stack import Stack


def adam(parameters: list[nn.Parameter], rate: float, *, on_graph: bool) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, rate, fused=on_graph or None, capturable=on_graph and parameters[0].is_cuda)


def load(network: nn.Module, stack: Stack, row: int, head: str) -> Tensor:
    """Copy one of our networks into a peer's; gives all its numbers as a vector."""
    network.load_state_dict(from_values(export_network(stack.parameters, row), head).state_dict())
    return numbers(network)


def numbers(network: nn.Module) -> Tensor:
    """All parameters as a vector."""
    return parameters_to_vector(network.parameters()).detach().clone()


def ours(stack: Stack, row: int, head: str) -> Tensor:
    """All numbers of one of our networks in the order of `numbers`."""
    return numbers(from_values(export_network(stack.parameters, row), head)).to(stack.flat.device)
