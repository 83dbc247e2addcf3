"""The stacked Adam against torch's."""

from __future__ import annotations

import pytest
import torch

from trajmill.models.stack import Stack
from trajmill.training.adam import Adam


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_equals_torch_row_by_row_with_a_rate_per_row(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rates = [1e-3, 3e-4, 1e-1]
    values = [{"w": torch.randn(3, 2, generator=generator), "b": torch.randn(2, generator=generator)} for _ in rates]
    stack = Stack.of(values).to(torch.device("cpu"), dtype)
    ours = Adam.of([stack], [torch.tensor(rates, dtype=torch.float64)])
    theirs = [{name: value.to(dtype).clone().requires_grad_() for name, value in one.items()} for one in values]
    optimizers = [torch.optim.Adam(one.values(), lr=rate) for one, rate in zip(theirs, rates, strict=True)]
    for _ in range(50):
        target = torch.randn(3, 3, 2, generator=generator).to(dtype)

        def loss(w: torch.Tensor, b: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            return ((w * b.unsqueeze(-2) - goal) ** 2).sum()

        ours.minimize(loss(stack.parameters["w"], stack.parameters["b"], target))
        for one, optimizer, goal in zip(theirs, optimizers, target, strict=True):
            optimizer.zero_grad()
            loss(one["w"], one["b"], goal).backward()
            optimizer.step()
    for row, one in enumerate(theirs):
        for name, value in one.items():
            gap = (stack.parameters[name][row] - value).detach().abs().max() / value.detach().abs().max()
            assert float(gap) <= tolerance


def test_leaves_without_gradient_stay_bitwise() -> None:
    stack = Stack.of([{"used": torch.ones(2), "unused": torch.randn(3)}])
    before = stack.parameters["unused"].detach().clone()
    optimizer = Adam.of([stack], [torch.tensor([0.1])])
    for _ in range(3):
        optimizer.minimize((stack.parameters["used"] ** 2).sum())
    assert torch.equal(stack.parameters["unused"], before)
    assert not torch.equal(stack.parameters["used"], torch.ones(1, 2))
