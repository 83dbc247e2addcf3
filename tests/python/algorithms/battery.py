"""The battery every algorithm passes: seeds are independent, runs resume exactly, steps can be captured.

An algorithm's test module makes a `Case` and calls `run_check(case, check)` for each of `CHECKS`, and each of
`GPU_CHECKS` with ``"cuda"``. The latter run on a CPU too, where they show little.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from trajmill.training.capture_lint import capture_lint
from trajmill.training.checkpoint import load_checkpoint, save_checkpoint
from trajmill.training.device import ComputeConfig
from trajmill.training.philox import Draws
from trajmill.training.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Case:
    """One algorithm as the battery sees it."""

    create: Callable[..., Any]
    """create(seeds, dtype, device="cpu"): fresh small state of the given seeds"""
    step: Callable[..., None]
    """step(state, count=1)"""
    poison: Callable[[Any, int], None]
    """put a NaN into the parameters of the seed at this position"""
    period: int = 1
    """updates after which the operations of a step repeat"""


def of_seed(state: Any, seed_count: int, position: int) -> dict[str, Tensor]:
    """Everything that moves and belongs to one seed; the seed axis is first, rings have it second."""
    found = {}
    for name, tensor in state.moving().items():
        if tensor.ndim == 0:
            found[name] = tensor
        elif name == "metrics":
            found[name] = tensor[:, position]
        else:
            found[name] = tensor.reshape(seed_count, -1)[position]
    return found


def distance(one: Tensor, other: Tensor) -> float:
    """Relative L2 distance."""
    one, other = one.double().flatten(), other.double().flatten()
    return float((one - other).norm() / other.norm().clamp(min=1e-300))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit, NaN equal to NaN."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor.nan_to_num(nan=12345.0), other[name].nan_to_num(nan=12345.0)), name


def check_seed_of_many_equals_a_run_of_its_own(case: Case) -> None:
    for dtype, updates, tolerance in ((torch.float64, 20, 1e-12), (torch.float32, 1, 1e-6), (torch.float32, 20, 1e-3)):
        seeds = [11, 5, 2**63 + 9]
        many = case.create(seeds, dtype)
        case.step(many, updates)
        for position, seed in enumerate(seeds):
            alone = case.create([seed], dtype)
            case.step(alone, updates)
            theirs, ours = of_seed(alone, 1, 0), of_seed(many, len(seeds), position)
            for name in theirs:
                if name != "metrics":
                    assert distance(ours[name], theirs[name]) <= tolerance, (name, dtype, updates)


def check_a_poisoned_seed_stays_alone(case: Case) -> None:
    clean, sick = case.create([1, 2, 3], torch.float32), case.create([1, 2, 3], torch.float32)
    case.poison(sick, 1)
    case.step(clean, 5)
    case.step(sick, 5)
    assert_same(of_seed(sick, 3, 0), of_seed(clean, 3, 0))
    assert_same(of_seed(sick, 3, 2), of_seed(clean, 3, 2))
    assert any(tensor.isnan().any() for tensor in of_seed(sick, 3, 1).values())


def check_seeds_may_come_in_any_order(case: Case) -> None:
    forward, backward = case.create([7, 8, 9], torch.float32), case.create([9, 7, 8], torch.float32)
    case.step(forward, 5)
    case.step(backward, 5)
    for position, other in ((0, 1), (1, 2), (2, 0)):
        assert_same(of_seed(forward, 3, position), of_seed(backward, 3, other))


def check_seeds_differ(case: Case) -> None:
    state = case.create([7, 8], torch.float32)
    case.step(state, 1)
    one, other = of_seed(state, 2, 0), of_seed(state, 2, 1)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def check_save_load_continue_equals_never_stopping(case: Case, folder: Path) -> None:
    unbroken, first = case.create([4, 6], torch.float32), case.create([4, 6], torch.float32)
    case.step(unbroken, 2 * 4 * case.period)
    case.step(first, 4 * case.period)
    save_checkpoint(folder / "half.safetensors", first, {"note": "half way"})
    second = case.create([4, 6], torch.float32)
    case.step(second, 1)
    assert load_checkpoint(folder / "half.safetensors", second) == {"note": "half way"}
    case.step(second, 4 * case.period)
    assert_same(second.moving(), unbroken.moving())


def check_unroll_changes_nothing(case: Case) -> None:
    by_one, by_many = case.create([4, 6], torch.float32), case.create([4, 6], torch.float32)
    Runner(case.step, by_one, case.period).run(6 * case.period)
    Runner(case.step, by_many, 4 * case.period).run(6 * case.period)
    assert_same(by_one.moving(), by_many.moving())


def check_step_can_be_captured(case: Case) -> None:
    for dtype in (torch.float32, torch.float64):
        state = case.create([1, 2], dtype)
        before = copy.deepcopy({name: tensor.clone() for name, tensor in state.moving().items()})
        with patch.object(Draws, "_compiled", Draws.words_by_torch):  # as on a GPU
            capture_lint(lambda state=state: case.step(state, case.period), state)
        moved = [name for name, tensor in state.moving().items() if not torch.equal(before[name], tensor)]
        assert set(moved) >= set(before) - {"metrics"}, f"a step left {set(before) - set(moved)} as it was"


CHECKS: dict[str, Callable[..., None]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}


def gpu_check_a_captured_graph_equals_the_step(case: Case, device: str) -> None:
    """Bit for bit after 100 updates, with the warm-up that capturing undoes and the remainder it does not hold."""
    eager, captured = (case.create([4, 6], torch.float32, device) for _ in range(2))
    with deterministic():
        runner = Runner(case.step, captured, 8 * case.period)
        assert_same(captured.moving(), eager.moving())
        runner.run(100 * case.period)
        case.step(eager, 100 * case.period)
    assert_same(captured.moving(), eager.moving())


def gpu_check_captured_twice_and_in_parts_is_the_same(case: Case, device: str) -> None:
    """A run that stops after 50 updates and is captured again continues to the same numbers."""
    whole, parts = (case.create([4, 6], torch.float32, device) for _ in range(2))
    with deterministic():
        Runner(case.step, whole, 4 * case.period).run(100 * case.period)
        for done in (0, 50 * case.period):
            Runner(case.step, parts, 4 * case.period, done=done).run(50 * case.period)
    assert_same(parts.moving(), whole.moving())


def gpu_check_seed_of_five_equals_a_run_of_its_own(case: Case, device: str) -> None:
    """Another number of seeds may take other kernels, hence the tolerances, which grow with the updates."""
    seeds = [11, 5, 2**63 + 9, 0, 77]
    for dtype, updates, tolerance in (
        (torch.float64, 100, 1e-12),
        (torch.float32, 1, 1e-6),
        (torch.float32, 100, 1e-3),
    ):
        many = case.create(seeds, dtype, device)
        case.step(many, updates)
        for position in (0, 2, 4):
            alone = case.create([seeds[position]], dtype, device)
            case.step(alone, updates)
            theirs, ours = of_seed(alone, 1, 0), of_seed(many, len(seeds), position)
            for name in parameters(theirs):
                assert distance(ours[name], theirs[name]) <= tolerance, (name, dtype, updates)


def gpu_check_a_poisoned_seed_stays_alone(case: Case, device: str) -> None:
    clean, sick = case.create([1, 2, 3], torch.float32, device), case.create([1, 2, 3], torch.float32, device)
    case.poison(sick, 1)
    with deterministic():
        for state in (clean, sick):
            Runner(case.step, state, 4 * case.period).run(8 * case.period)
    assert_same(of_seed(sick, 3, 0), of_seed(clean, 3, 0))
    assert_same(of_seed(sick, 3, 2), of_seed(clean, 3, 2))
    assert any(tensor.isnan().any() for tensor in of_seed(sick, 3, 1).values())


def gpu_check_gradients_of_less_precision_are_near(case: Case, device: str) -> None:
    """One update's gradients of each seed, all parameters together, against float64 on the CPU."""
    exact = case.create([4, 6], torch.float64, "cpu")
    case.step(exact, 1)
    for precision, tolerance in (("fp32", 1e-5), ("tf32", 1e-3), ("bf16", 2e-2)):
        try:
            compute = ComputeConfig(device=device, precision=precision)
        except ValueError:
            continue  # not to be had
        try:
            compute.apply()
            state = case.create([4, 6], torch.float32, device)
            case.step(state, 1)
        finally:
            ComputeConfig(device="cpu").apply()
        for ours, theirs in zip(state.optimizer.gradients, exact.optimizer.gradients, strict=True):
            for found, expected in zip(ours.flat, theirs.flat, strict=True):
                assert distance(found.cpu(), expected) <= tolerance, precision


def parameters(tensors: dict[str, Tensor]) -> list[str]:
    """Names of what is learned."""
    return [name for name in tensors if name not in ("metrics", "step") and not name.startswith("adam.")]


@contextmanager
def deterministic() -> Iterator[None]:
    """Kernels that add in one order; sums by atomics would make two eager runs differ."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


GPU_CHECKS: dict[str, Callable[[Case, str], None]] = {
    name.removeprefix("gpu_check_"): check for name, check in list(globals().items()) if name.startswith("gpu_check_")
}


def run_check(case: Case, check: str, folder: Path) -> None:
    """Run one of `CHECKS`."""
    torch.set_num_threads(1)
    if "folder" in CHECKS[check].__annotations__:
        CHECKS[check](case, folder)
    else:
        CHECKS[check](case)
