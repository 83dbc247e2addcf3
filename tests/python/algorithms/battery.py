"""The battery every method passes: seeds are independent, runs resume exactly, steps can be captured.

A method's test module needs a few lines::

    CASES = {"paper": Case(method=td3_bc, config=replace(td3_bc.SMALL, batch_size=16))}
    test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)

The checks know nothing but the contract (`trajmill.algorithms`). Those of a GPU run on a CPU too, where they show
little.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from capture_lint import capture_lint
from gpu import NEEDS_GPU
from small_data import recording
from torch import Tensor

from trajmill.algorithms import learns_online, name_of
from trajmill.data import qlearning_transitions
from trajmill.replay.tables import TransitionRows, table_of
from trajmill.training.adam import Adam
from trajmill.training.checkpoint import read_checkpoint, restore_tensors, save_checkpoint
from trajmill.training.device import ComputeConfig
from trajmill.training.draws import Draws
from trajmill.training.runner import Runner
from trajmill.training.settings import plain

Start = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""tensors and metadata of a checkpoint"""


@dataclass
class Case:
    """A method with settings and data: all that the battery has to be told."""

    method: ModuleType
    config: Any
    """settings, or a function that gives those of some seeds"""
    rows: Any = None
    """what it learns from; None: what the method makes of a small recording, or of its settings alone"""
    start: Callable[[], Start] | None = None
    """gives the checkpoint to start from"""
    sensitivity: float = 1.0
    """how many times farther than usual rounding may move a gradient: small ones cancel more"""

    def __post_init__(self) -> None:
        if self.rows is None:
            self.rows = rows_of(self.method, self.settings([0]))

    def settings(self, seeds: Sequence[int]) -> Any:
        """Settings of a run of these seeds."""
        config = self.config(seeds) if callable(self.config) else self.config
        if hasattr(self.method, "adapt"):
            return self.method.adapt(config, recording(), "Hopper-v4")
        return config

    def create(
        self, seeds: Sequence[int], dtype: torch.dtype = torch.float32, device: str = "cpu", place: str = "device"
    ) -> Any:
        """A fresh state."""
        config = self.settings(seeds)
        table = table_of(
            self.rows, place, seeds=seeds, batch_size=config.batch_size, device=torch.device(device), dtype=dtype
        )
        state = self.method.create(config, table, seeds, metric_capacity=32)
        return state if self.start is None else self.method.start_from(state, *self.start())

    def train(self, state: Any, count: int, *, done: int = 0) -> None:
        """Make `count` updates one by one, never from a graph."""
        for update in range(done, done + count):
            feed(state, update, 1)
            self.method.step(state, 1, update % state.period)
        for part in fed_parts(state):
            part.close()

    def update_all(self, state: Any) -> None:
        """Make the first update, as one in which nothing is delayed."""
        feed(state, 0, 1)
        self.method.step(state, 1, state.period - 1)

    def run(self, state: Any, *counts: int, unroll: int = 8, done: int = 0) -> None:
        """Let a runner make so many updates, then so many more, ..."""
        with Runner(self.method.step, state, unroll, done=done) as runner:
            for count in counts:
                runner.run(count)


def rows_of(method: ModuleType, config: Any) -> Any:
    """What a method learns from; one that learns online, from transitions that stand for those of its ring."""
    if hasattr(method, "generate"):
        return method.generate(config)
    data = recording(range(1, 28))
    if learns_online(method):
        return TransitionRows(transitions=qlearning_transitions(data, "d4rl"))
    return method.prepare(config, data)


def checkpoint_of(method: ModuleType, state: Any, seeds: Sequence[int]) -> Start:
    """Tensors and metadata of a state, as they come back from a file."""
    facts = getattr(state.table, "facts", None)
    known = {"kind": name_of(state.config), "seeds": list(seeds), "method": plain(state.config)}
    known |= {name: getattr(facts, name) for name in ("observation_dim", "action_dim") if hasattr(facts, name)}
    known |= method.policy(state).metadata() if hasattr(method, "policy") else {}
    known |= method.describe(state) if hasattr(method, "describe") else {}
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "state.safetensors", state, known)
        return read_checkpoint(Path(folder) / "state.safetensors")


def fed_parts(state: Any) -> list[Any]:
    """What the host fills before each update."""
    return [part for field in fields(state) if hasattr(part := getattr(state, field.name), "feed")]


def feed(state: Any, first: int, count: int) -> None:
    """Fill it for the updates from `first` on."""
    for part in fed_parts(state):
        part.feed(first, count)


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


def learned(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of what is learned, and of its targets."""
    return [name for name in tensors if name not in ("metrics", "step") and "adam" not in name]


def poison(state: Any, seed_count: int, position: int) -> None:
    """Put a NaN into every network of the seed at this position."""
    for name in learned(state.moving()):
        state.moving()[name].view(seed_count, -1)[position, 0] = torch.nan


def distance(one: Tensor, other: Tensor) -> float:
    """Relative L2 distance."""
    one, other = one.double().flatten(), other.double().flatten()
    return float((one - other).norm() / other.norm().clamp(min=1e-300))


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Bit for bit, NaN equal to NaN."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor.nan_to_num(nan=12345.0), other[name].nan_to_num(nan=12345.0)), name


# --- on a CPU ---------------------------------------------------------------------------------------------------------


def check_seed_of_many_equals_a_run_of_its_own(case: Case) -> None:
    seeds = [11, 5, 2**63 + 9]
    for dtype, tolerances in ((torch.float64, {12: 1e-12}), (torch.float32, {1: 1e-6, 12: 1e-3})):
        many = case.create(seeds, dtype)
        runs = {position: case.create([seeds[position]], dtype) for position in (0, 2)}
        done = 0
        for updates, tolerance in tolerances.items():
            for state in (many, *runs.values()):
                case.train(state, updates - done, done=done)
            done = updates
            for position, alone in runs.items():
                theirs, ours = of_seed(alone, 1, 0), of_seed(many, len(seeds), position)
                for name in theirs:
                    if name != "metrics":
                        assert distance(ours[name], theirs[name]) <= tolerance, (name, dtype, updates)


def check_a_poisoned_seed_stays_alone(case: Case) -> None:
    clean, sick = case.create([1, 2, 3]), case.create([1, 2, 3])
    poison(sick, 3, 1)
    case.train(clean, 5)
    case.train(sick, 5)
    assert_same(of_seed(sick, 3, 0), of_seed(clean, 3, 0))
    assert_same(of_seed(sick, 3, 2), of_seed(clean, 3, 2))
    assert of_seed(sick, 3, 1)["metrics"].isnan().any(), "a NaN should show"


def check_seeds_may_come_in_any_order(case: Case) -> None:
    forward, backward = case.create([7, 8, 9]), case.create([9, 7, 8])
    case.train(forward, 5)
    case.train(backward, 5)
    for position, other in ((0, 1), (1, 2), (2, 0)):
        assert_same(of_seed(forward, 3, position), of_seed(backward, 3, other))


def check_seeds_differ(case: Case) -> None:
    state = case.create([7, 8])
    case.train(state, 1)
    one, other = of_seed(state, 2, 0), of_seed(state, 2, 1)
    assert any(not torch.equal(one[name], other[name]) for name in one), "two seeds are one"


def check_save_load_continue_equals_never_stopping(case: Case) -> None:
    """Stopped after a number of updates that is no multiple of any period."""
    half = 4 * case.create([4, 6]).period + 1
    unbroken, first, second = (case.create([4, 6]) for _ in range(3))
    case.train(unbroken, 2 * half)
    case.train(first, half)
    tensors, _ = checkpoint_of(case.method, first, [4, 6])
    case.train(second, 1)
    restore_tensors(second.moving(), tensors, "the checkpoint")
    case.train(second, half, done=half)
    assert_same(second.moving(), unbroken.moving())


def check_unroll_changes_nothing(case: Case) -> None:
    by_one, by_many = case.create([4, 6]), case.create([4, 6])
    period = by_one.period
    case.train(by_one, 6 * period)
    case.run(by_many, 6 * period, unroll=4 * period)
    assert_same(by_one.moving(), by_many.moving())


def check_the_runner_keeps_the_phase(case: Case) -> None:
    """A schedule stops after the very first update; delayed updates must not shift."""
    whole, parts = case.create([4, 6]), case.create([4, 6])
    case.run(whole, 16)
    case.run(parts, 1, 7, 8)
    assert_same(parts.moving(), whole.moving())


def check_no_two_sites_share_their_words(case: Case) -> None:
    """Chance for one purpose says nothing about chance for another; site 0 is that of the batch."""
    state = case.create([4, 6])
    drawn = [one for field in fields(state) if isinstance(one := getattr(state, field.name), Draws)]
    lanes = [(int(site), int(lane)) for draws in drawn for site, lane in zip(draws.site, draws.lane, strict=True)]
    assert len(set(lanes)) == len(lanes)
    for draws in drawn:
        assert draws.seeds == [4, 6]


def check_step_can_be_captured(case: Case) -> None:
    """A whole period of updates, with the random numbers of a GPU."""
    for dtype in (torch.float32, torch.float64):
        state = case.create([1, 2], dtype)
        for part in fed_parts(state):
            part.reserve(state.period)
        feed(state, 0, state.period)
        before = {name: tensor.clone() for name, tensor in state.moving().items()}
        with patch.object(Draws, "_compiled", Draws.words_by_torch):
            capture_lint(lambda state=state: case.method.step(state, state.period, 0), state)
        if hasattr(case.method, "measure"):  # what is best so far moves at evaluations only
            case.method.measure(state)
        moved = [name for name, tensor in state.moving().items() if not torch.equal(before[name], tensor)]
        assert set(moved) >= set(before) - {"metrics"}, f"a step left {set(before) - set(moved)} as it was"


def check_rows_on_the_host_train_alike(case: Case) -> None:
    """Bit for bit, also where a run is taken up again."""
    on_device, on_host, resumed = (case.create([4, 2**63 + 6], place=place) for place in ("device", "host", "host"))
    case.train(on_device, 20)
    case.run(on_host, 20)
    assert_same(on_host.moving(), on_device.moving())
    case.run(resumed, 7)
    case.run(resumed, 13, done=7)
    assert_same(resumed.moving(), on_device.moving())


def check_metrics_and_their_bounds(case: Case) -> None:
    """Every metric has a number a seed after a period, within its bounds."""
    state = case.create([4, 6])
    case.train(state, state.period)
    means = state.metrics.mean_of_last(0, state.period)
    assert np.isfinite(list(means.values())).all(), means
    bounds = case.method.bounds(state) if hasattr(case.method, "bounds") else {}
    assert bounds.keys() <= means.keys()
    for name, bound in bounds.items():
        assert (np.abs(means[name]) < bound.limits).all() and len(bound.limits) == 2, name
    measured = case.method.measure(state) if hasattr(case.method, "measure") else {}
    for name, values in measured.items():
        assert len(values) == 2 and np.isfinite(values).all(), name


def check_a_restored_policy_acts_as_the_one_trained(case: Case) -> None:
    """Also the policy of a state follows its updates."""
    seeds = [4, 6]
    state = case.create(seeds)
    policy = case.method.policy(state)
    before = acted(policy, state)
    case.train(state, 12)
    after = acted(policy, state)
    assert after.dtype == np.float32 and not np.array_equal(before, after)
    np.testing.assert_array_equal(acted(case.method.restore(*checkpoint_of(case.method, state, seeds)), state), after)


def acted(policy: Any, state: Any) -> np.ndarray:
    """Three steps of actions (3, S, E, A) of two episodes a seed."""
    rng = np.random.default_rng(0)
    seed_count, episodes = state.metrics.values.shape[1], 2
    if hasattr(policy, "start"):
        policy.start(seed_count, episodes)
    found = []
    for _ in range(3):
        shape = (seed_count, episodes, state.table.facts.observation_dim)
        found.append(policy(rng.normal(size=shape).astype(np.float32)))
        if hasattr(policy, "observe"):
            policy.observe(np.ones(shape[:2], np.float32), np.ones(shape[:2], np.bool_))
    return np.stack(found)


CHECKS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def gpu_check_a_captured_graph_equals_the_step(case: Case, device: str) -> None:
    """Bit for bit after 100 updates, with the warm-up that capturing undoes and the remainder it does not hold."""
    eager, captured = (case.create([4, 6], device=device) for _ in range(2))
    count = 100 * eager.period
    with deterministic(), Runner(case.method.step, captured, 8 * eager.period) as runner:
        assert_same(captured.moving(), eager.moving())
        runner.run(count)
        case.train(eager, count)
    assert_same(captured.moving(), eager.moving())


def gpu_check_captured_twice_and_in_parts_is_the_same(case: Case, device: str) -> None:
    """A run that stops after 50 updates and is captured again continues to the same numbers."""
    whole, parts = (case.create([4, 6], device=device) for _ in range(2))
    period = whole.period
    with deterministic():
        case.run(whole, 100 * period, unroll=4 * period)
        for done in (0, 50 * period):
            case.run(parts, 50 * period, unroll=4 * period, done=done)
    assert_same(parts.moving(), whole.moving())


def gpu_check_the_runner_keeps_the_phase(case: Case, device: str) -> None:
    """A graph is only replayed in phase."""
    whole, parts = (case.create([4, 6], device=device) for _ in range(2))
    with deterministic():
        case.run(whole, 32)
        case.run(parts, 1, 7, 8, 16)
    assert_same(parts.moving(), whole.moving())


def gpu_check_rows_on_the_host_train_alike(case: Case, device: str) -> None:
    """The replay engine feeds captured graphs."""
    on_device, on_host = (case.create([4, 6], device=device, place=place) for place in ("device", "host"))
    with deterministic():
        case.run(on_device, 1, 27)
        case.run(on_host, 1, 27)
    assert_same(on_host.moving(), on_device.moving())


def gpu_check_seed_of_five_equals_a_run_of_its_own(case: Case, device: str) -> None:
    """Another number of seeds may take other kernels, hence the tolerances, which grow with the updates."""
    seeds = [11, 5, 2**63 + 9, 0, 77]
    for dtype, updates, tolerance in (
        (torch.float64, 100, 1e-12),
        (torch.float32, 1, 1e-6),
        (torch.float32, 100, 1e-3),
    ):
        many = case.create(seeds, dtype, device)
        case.train(many, updates)
        for position in (0, 2, 4):
            alone = case.create([seeds[position]], dtype, device)
            case.train(alone, updates)
            theirs, ours = of_seed(alone, 1, 0), of_seed(many, len(seeds), position)
            for name in learned(theirs):
                assert distance(ours[name], theirs[name]) <= tolerance, (name, dtype, updates)


def gpu_check_a_poisoned_seed_stays_alone(case: Case, device: str) -> None:
    clean, sick = case.create([1, 2, 3], device=device), case.create([1, 2, 3], device=device)
    poison(sick, 3, 1)
    with deterministic():
        for state in (clean, sick):
            case.run(state, 8 * state.period, unroll=4 * state.period)
    assert_same(of_seed(sick, 3, 0), of_seed(clean, 3, 0))
    assert_same(of_seed(sick, 3, 2), of_seed(clean, 3, 2))
    assert of_seed(sick, 3, 1)["metrics"].isnan().any(), "a NaN should show"


def gpu_check_gradients_of_less_precision_are_near(case: Case, device: str) -> None:
    """One update's gradients of each seed, all parameters together, against float64 on the CPU."""
    exact = case.create([4, 6], torch.float64, "cpu")
    case.update_all(exact)
    for precision, tolerance in (("fp32", 1e-5), ("tf32", 1e-3), ("bf16", 2e-2)):
        try:
            compute = ComputeConfig(device=device, precision=precision)
        except ValueError:
            continue  # not to be had
        try:
            compute.apply()
            state = case.create([4, 6], device=device)
            case.update_all(state)
        finally:
            ComputeConfig(device="cpu").apply()
        for ours, theirs in zip(gradients(state), gradients(exact), strict=True):
            for found, expected in zip(ours, theirs, strict=True):
                assert distance(found.cpu(), expected) <= case.sensitivity * tolerance, precision


def gradients(state: Any) -> list[Tensor]:
    """Those of the last update, (rows, width) for each stack of each optimizer."""
    optimizers = [one for field in fields(state) if isinstance(one := getattr(state, field.name), Adam)]
    return [gradient.flat for optimizer in optimizers for gradient in optimizer.gradients]


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


# --- the test functions of a method's module --------------------------------------------------------------------------


def battery(cases: Mapping[str, Case], *, fast: Collection[str] | None = None) -> Callable[..., None]:
    """Every check on every case; those that are not `fast` run with the slow tests."""

    @pytest.mark.parametrize(("name", "check"), _pairs(cases, CHECKS, fast))
    def test_battery(name: str, check: str) -> None:
        torch.set_num_threads(1)
        CHECKS[check](cases[name])

    return test_battery


def battery_of_a_gpu(cases: Mapping[str, Case]) -> Callable[..., None]:
    """Every check of a GPU on every case."""

    @pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
    @pytest.mark.parametrize(("name", "check"), _pairs(cases, GPU_CHECKS, None))
    def test_battery_of_a_gpu(name: str, check: str, device: str) -> None:
        GPU_CHECKS[check](cases[name], device)

    return test_battery_of_a_gpu


def _pairs(cases: Mapping[str, Case], checks: Mapping[str, Any], fast: Collection[str] | None) -> list[Any]:
    return [
        pytest.param(name, check, marks=() if fast is None or name in fast else pytest.mark.slow, id=f"{name}-{check}")
        for name, case in cases.items()
        for check in checks
        if "policy" not in check or hasattr(case.method, "policy")
    ]
