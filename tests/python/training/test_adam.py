"""The stacked Adam against torch's, and against the transformers library's written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

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


def test_parameters_without_gradient_stay_bitwise() -> None:
    stack = Stack.of([{"used": torch.ones(2), "unused": torch.randn(3)}])
    before = stack.parameters["unused"].detach().clone()
    optimizer = Adam.of([stack], [torch.tensor([0.1])])
    for _ in range(3):
        optimizer.minimize((stack.parameters["used"] ** 2).sum())
    assert torch.equal(stack.parameters["unused"], before)
    assert not torch.equal(stack.parameters["used"], torch.ones(1, 2))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("own_mode", [False, True])
def test_moments_without_gradient_become_zero_and_move_nothing(fused: bool, own_mode: bool) -> None:
    least = torch.tensor([1e-40, 0.0])
    values = torch.tensor([1.0, 1e-30])
    stack = Stack.of([{"value": values.clone()}])
    optimizer = Adam.of([stack], [torch.tensor([1e-3])], fused=fused)
    theirs = values.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=1e-3)
    torch.set_flush_denormal(own_mode)
    try:
        for update in range(1200):  # 0.9 to the power of 1,200 is 1e-55
            gradient = torch.ones(2) if update == 0 else torch.zeros(2)
            optimizer.gradients[0].parameters["value"].copy_(gradient)
            optimizer.apply()
            theirs.grad = gradient
            reference.step()
            assert bool((least * 1)[0] == 0) == own_mode  # all else is computed as before
    finally:
        torch.set_flush_denormal(False)
    assert not optimizer.first_moments[0].any()
    assert optimizer.second_moments[0].any()
    if not own_mode:
        assert 0 < float(reference.state[theirs]["exp_avg"].abs().max()) < 1.2e-38  # for ever
    torch.testing.assert_close(stack.parameters["value"].detach()[0], theirs.detach(), rtol=1e-6, atol=0)


Networks = list[dict[str, Tensor]]


def networks(count: int) -> Networks:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(3, 2, generator=generator, dtype=torch.float64) for name in ("w", "b")} for _ in range(count)
    ]


def loss_of(parameters: dict[str, Tensor], update: int) -> Tensor:
    """One number per row; gradients of very different size."""
    scale = torch.tensor([[1.0, 1e-3], [30.0, 1.0], [0.0, 5.0]], dtype=torch.float64)
    return ((parameters["w"] * parameters["b"].sin() - 0.1 * update) * scale).square().sum((-2, -1))


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_decay_clipping_and_a_factor_are_those_of_adamw(clip_norm: float | None) -> None:
    """Two stacks with decays of their own, each row a seed whose gradient is clipped over both."""
    values = networks(3)
    stacks = [Stack.of([{name: one[name]} for one in values]) for name in ("w", "b")]
    rates = torch.tensor([1e-3, 1e-2, 1e-1])
    ours = Adam.of(stacks, [rates, rates], weight_decay=(0.1, 0.0), clip_norm=clip_norm, epsilon=1e-4)
    theirs = [{name: value.clone().requires_grad_() for name, value in one.items()} for one in values]
    optimizers = [
        torch.optim.AdamW(
            [{"params": [one["w"]], "weight_decay": 0.1}, {"params": [one["b"]], "weight_decay": 0.0}],
            lr=float(rate),
            eps=1e-4,
        )
        for one, rate in zip(theirs, rates, strict=True)
    ]
    for update in range(30):
        factor = 1.0 / (1 + update)
        joint = {"w": stacks[0].parameters["w"], "b": stacks[1].parameters["b"]}
        ours.minimize(loss_of(joint, update).sum(), factor)
        for one, optimizer, rate in zip(theirs, optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = float(rate) * factor
            optimizer.zero_grad()
            loss_of(one, update).backward()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(one.values(), clip_norm)
            optimizer.step()
    for row, one in enumerate(theirs):
        for stack, name in zip(stacks, ("w", "b"), strict=True):
            torch.testing.assert_close(stack.detached()[name][row], one[name].detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["w", "b"])
def test_a_parameter_moved_twice_is_one_that_adamw_has_listed_twice(name: str) -> None:
    """Wherever it is in its stack; clipping counts its gradient once, and the other stack moves once."""
    values = networks(3)
    stacks = [Stack.of(values), Stack.of([{"w": one["b"], "b": one["w"]} for one in values])]
    rates = torch.tensor([1e-3, 1e-2, 1e-1], dtype=torch.float64)
    ours = Adam.of(stacks, [rates, rates], weight_decay=(0.1, 0.0), clip_norm=0.5, epsilon=1e-6, twice=name)
    theirs = [
        {
            (place, key): stack.detached()[key][row].clone().requires_grad_()
            for place, stack in enumerate(stacks)
            for key in "wb"
        }
        for row in range(3)
    ]
    optimizers = []
    for one, rate in zip(theirs, rates.tolist(), strict=True):
        doubled = [one[0, "w"], one[0, "b"], one[0, name]]
        groups = [{"params": doubled, "weight_decay": 0.1}, {"params": [one[1, "w"], one[1, "b"]], "weight_decay": 0.0}]
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizers.append(torch.optim.AdamW(groups, lr=rate, eps=1e-6, foreach=False))
    for update in range(30):
        ours.minimize(sum(loss_of(stack.parameters, update) for stack in stacks))
        for one, optimizer in zip(theirs, optimizers, strict=True):
            optimizer.zero_grad()
            sum(loss_of({key: one[place, key] for key in "wb"}, update) for place in range(2)).backward()
            torch.nn.utils.clip_grad_norm_(one.values(), 0.5)
            optimizer.step()
    for row, one in enumerate(theirs):
        for (place, key), value in one.items():
            torch.testing.assert_close(stacks[place].detached()[key][row], value.detach(), rtol=1e-9, atol=1e-12)


def test_decay_after_the_step_is_that_of_transformers() -> None:
    """Epsilon outside the bias correction, then decay of what the step has made."""
    stack, plain = Stack.of(networks(1)), networks(1)[0]
    ours = Adam.of(
        [stack], [torch.tensor([1e-2], dtype=torch.float64)], weight_decay=(0.1,), epsilon=1e-2, decay_after_step=True
    )
    first, second = ({name: torch.zeros_like(value) for name, value in plain.items()} for _ in range(2))
    for update in range(1, 6):
        ours.minimize(loss_of(stack.parameters, update).sum())
        asked = {name: value.clone().requires_grad_() for name, value in plain.items()}
        gradients = torch.autograd.grad(loss_of(asked, update), list(asked.values()))
        for (name, value), gradient in zip(plain.items(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            size = 1e-2 * math.sqrt(1 - 0.999**update) / (1 - 0.9**update)
            value.sub_(size * first[name] / (second[name].sqrt() + 1e-2))
            value.mul_(1 - 1e-2 * 0.1)
    for name, value in plain.items():
        torch.testing.assert_close(stack.detached()[name][0], value, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_all_processes() -> None:
    """Before they are clipped and used: here the other process has none, so the mean is half."""
    stack = Stack.of(networks(2))
    optimizer = Adam.of([stack], [torch.ones(2)], all_reduce=lambda tensor: tensor.div_(2))
    loss = loss_of(stack.parameters, 1).sum()
    alone = torch.autograd.grad(loss, list(stack.parameters.values()), retain_graph=True)
    optimizer.differentiate(loss)
    for found, gradient in zip(optimizer.gradients[0].parameters.values(), alone, strict=True):
        assert torch.equal(found, gradient / 2)
    norms = torch.stack([gradient.square().sum((1, 2)) for gradient in alone]).sum(0).sqrt()
    torch.testing.assert_close(optimizer.gradient_norms(), norms / 2)


def test_everything_that_moves_has_a_name() -> None:
    stacks = [Stack.of(networks(2)), Stack.of(networks(2))]
    optimizer = Adam.of(stacks, [torch.ones(2), torch.ones(2)])
    names = {"update_count", *(f"{moment}_moment.{index}" for moment in ("first", "second") for index in range(2))}
    before = {name: tensor.clone() for name, tensor in optimizer.moving().items()}
    optimizer.minimize(sum(loss_of(stack.parameters, 1).sum() for stack in stacks))
    assert optimizer.moving().keys() == names
    assert not any(torch.equal(tensor, before[name]) for name, tensor in optimizer.moving().items())
