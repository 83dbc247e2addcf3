"""Timing in turns, counting launches and operations, ceilings of the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import baselines  # noqa: F401  (tests/support, where capture_lint is)
import torch
from capture_lint import OperationRecorder
from record import seconds
from torch import Tensor
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from trajmill.bench import measure
from trajmill.bench.feed import synchronize


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Is no number of them infinite or NaN; False if there are none, as nothing was looked at then."""
    found = [bool(tensor.isfinite().all()) for tensor in tensors]
    return bool(found) and all(found)


@dataclass(slots=True)
class Contender(measure.Contender):
    """One way to make updates, of one seed or of several together."""

    is_finite: Callable[[], bool] = lambda: True
    prepared_seconds: float = 0.0
    """what building, warming up, compiling and capturing took"""
    memory_bytes: int | None = None
    """greatest memory of the device while it was prepared and first run, from what was there before"""

    @property
    def seeds(self) -> int:
        """How many seeds an update trains: what it counts for."""
        return round(self.amount)


def prepared(build: Callable[[], Contender], device: torch.device) -> Contender:
    """Build and try one contender; raises what that raises, and ArithmeticError for losses that are not finite."""
    started = perf_counter()
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    contender = build()
    contender.run(contender.period)
    contender.finish()
    if not contender.is_finite():
        raise ArithmeticError("its losses are not finite")
    contender.prepared_seconds = perf_counter() - started
    if device.type == "cuda":
        contender.memory_bytes = torch.cuda.max_memory_allocated(device) - before
    return contender


class _Counter(OperationRecorder):
    """Counts operations that launch work, also those that a graph could not hold."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append((str(func), (), ()))
        return func(*args, **(kwargs or {}))


def counted(once: Callable[[], object], device: torch.device, *, updates: int = 1) -> dict[str, float]:
    """What an eager update takes: operations, GFLOP of its matrix products, and on a GPU kernels and their time.

    `once` makes so many `updates`, of which the mean is given.
    """
    once()
    with _Counter() as counter:
        once()
    found: dict[str, float] = {"operations": counter.launch_count()}
    with FlopCounterMode(display=False) as flops:
        once()
    found["gflop"] = flops.get_total_flops() / 1e9
    if device.type == "cuda":
        kernels = [event for event in _profiled(once, device).events() if event.device_type == DeviceType.CUDA]
        found["kernels"] = len(kernels)
        found["kernel_us"] = sum(event.time_range.elapsed_us() for event in kernels)
    return {name: value / updates for name, value in found.items()}


def _profiled(work: Callable[[], object], device: torch.device) -> torch.profiler.profile:
    """A profile of one call."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    synchronize(device)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        synchronize(device)
    return profile


def in_turns(
    works: Mapping[str, Callable[[], object]], *, block_seconds: float, finish: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Median seconds of one call of each, in blocks in turns; `finish` waits for what calls have begun."""

    contenders = [measure.Contender(measure.calling(work), finish=finish, name=name) for name, work in works.items()]
    measure.in_blocks(contenders, rounds=9, block_seconds=block_seconds)
    return {contender.name: median(contender.seconds) for contender in contenders}


def ceilings(device: torch.device, *, tiny: bool = False) -> dict[str, float]:
    """What the device can do at best: copies, matrix products, on a GPU also graph nodes and copies from the host."""
    on_gpu = device.type == "cuda"
    count, side = (2**30, 8192) if on_gpu and not tiny else (2**24, 512)

    def best(work: Callable[[], object]) -> float:
        return seconds(lambda: (work(), synchronize(device)), rounds=5, of=min)

    source, target = (torch.randn(count, device=device) for _ in range(2))
    found = {"copy_gb_per_s": 8e-9 * count / best(lambda: target.copy_(source))}
    before = torch.get_float32_matmul_precision()
    for name in ("fp32", "tf32", "bf16") if on_gpu else ("fp32", "bf16"):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        one = torch.randn(side, side, device=device, dtype=torch.bfloat16 if name == "bf16" else torch.float32)
        found[f"{name}_gflop_per_s"] = 2e-9 * side**3 / best(lambda one=one: one @ one)
    torch.set_float32_matmul_precision(before)
    if on_gpu:
        small, nodes = torch.zeros(1024, device=device), 1000
        small.add_(1.0)
        synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(nodes):
                small.add_(1.0)
        found["graph_node_us"] = 1e6 * best(graph.replay) / nodes
        host, there = torch.randn(2**26).pin_memory(), torch.empty(2**26, device=device)
        taken = best(lambda: there.copy_(host, non_blocking=True))
        found["host_to_device_gb_per_s"] = 4e-9 * 2**26 / taken
    return found


def trace(work: Callable[[], object], path: str, device: torch.device) -> list[dict[str, Any]]:
    """Profile some updates: a Chrome trace at `path`, and the kernels (or operations) that take longest."""
    work()
    profile, on_gpu = _profiled(work, device), device.type == "cuda"
    with suppress(RuntimeError):
        profile.export_chrome_trace(path)
    kind, own = (DeviceType.CUDA, "self_device_time_total") if on_gpu else (DeviceType.CPU, "self_cpu_time_total")
    found = [one for one in profile.key_averages() if one.device_type == kind]
    found.sort(key=lambda one: -getattr(one, own))
    return [{"name": one.key[:200], "calls": one.count, "us": getattr(one, own)} for one in found[:40]]
