"""Timing in turns, counting launches and operations, ceilings of the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from baselines.loops import Run
from capture_lint import OperationRecorder
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

CLOCKS_AGREE = 0.02
"""greatest relative difference between CUDA events and the host's clock"""


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(slots=True)
class Contender:
    """One way to make updates, ready to run."""

    name: str
    seeds: int
    run: Run
    """makes that many updates, a multiple of `period`; may return before they are done"""
    finish: Callable[[], object]
    """waits until they are"""
    is_finite: Callable[[], bool] = lambda: True
    period: int = 1
    events: bool = False
    """time by CUDA events; else by the host's clock"""
    prepared_seconds: float = 0.0
    """what building, warming up, compiling and capturing took"""
    memory_bytes: int | None = None
    """greatest memory of the device while it was prepared and first run, from what was there before"""
    updates: int = 1
    """of a block"""
    seconds: list[float] = field(default_factory=list)
    """per update, one a block"""
    host_seconds: list[float] = field(default_factory=list)

    def calibrate(self, block_seconds: float, device: torch.device) -> None:
        """Choose how many updates a block has; runs some."""
        count = self.period
        while True:
            taken = self._time(count, device)[1]
            if taken > 0.2 * block_seconds:
                break
            count *= 2 if taken > 0.02 * block_seconds else 5
        self.updates = max(1, round(block_seconds / (taken / count) / self.period)) * self.period

    def block(self, device: torch.device) -> None:
        """Time one block."""
        by_events, by_host = self._time(self.updates, device)
        self.seconds.append(by_events / self.updates)
        self.host_seconds.append(by_host / self.updates)

    def _time(self, count: int, device: torch.device) -> tuple[float, float]:
        """Seconds by the contender's clock, and by the host's."""
        self.finish()
        started = perf_counter()
        if not self.events:
            self.run(count)
            self.finish()
            taken = perf_counter() - started
            return taken, taken
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self.run(count)
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1e3, perf_counter() - started

    def rates(self) -> tuple[float, float, float]:
        """Median and quartiles of updates a second, summed over the seeds."""
        found = [self.seeds / taken for taken in self.seconds]
        low, _, high = quantiles(found, n=4, method="inclusive") if len(found) > 1 else (found[0],) * 3
        return median(found), low, high

    def clocks_agree(self) -> bool:
        """Does the host's clock say the same."""
        one, other = median(self.seconds), median(self.host_seconds)
        return abs(one - other) <= CLOCKS_AGREE * other


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


def in_blocks(
    contenders: Sequence[Contender],
    device: torch.device,
    *,
    rounds: int,
    block_seconds: float,
    after_round: Callable[[], None],
    deadline: float,
) -> None:
    """Blocks in turns, A B C A B C, until all rounds are made or the deadline (of `perf_counter`) is near."""
    for contender in contenders:
        contender.calibrate(block_seconds, device)
    for _ in range(rounds):
        started = perf_counter()
        for contender in contenders:
            contender.block(device)
        after_round()
        if perf_counter() + (perf_counter() - started) > deadline:
            break


class _Counter(OperationRecorder):
    """Counts operations that launch work, also those that a graph could not hold."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
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


def best_seconds(work: Callable[[], object], device: torch.device, *, rounds: int = 5) -> float:
    """Least time of one call, after one that does not count."""
    work()
    synchronize(device)
    times = []
    for _ in range(rounds):
        started = perf_counter()
        work()
        synchronize(device)
        times.append(perf_counter() - started)
    return min(times)


def ceilings(device: torch.device, *, tiny: bool = False) -> dict[str, float]:
    """What the device can do at best: copies, matrix products alone and batched at our shapes, graph nodes."""
    on_gpu = device.type == "cuda"
    is_large = on_gpu and not tiny
    count = 2**30 if is_large else 2**24
    tensors = [torch.randn(count, device=device) for _ in range(2)]
    found = {"copy_gb_per_s": 8e-9 * count / best_seconds(lambda: tensors[0].copy_(tensors[1]), device)}
    tensors.clear()
    side, members, rows = (8192, 40, 2560) if is_large else (512, 2, 256)
    shapes = {
        "": (1, side, side, side, ""),
        " batched, first layer,": (members, rows, 24, 256, ""),
        " batched, second layer,": (members, rows, 256, 256, ""),
        " batched, second layer, input gradient,": (members, rows, 256, 256, "right"),
        " batched, second layer, weight gradient,": (members, 256, rows, 256, "left"),
        " batched, perceptron of a transformer,": (members // 2, rows * 3 // 2, 128, 512, ""),
    }
    before = torch.get_float32_matmul_precision()
    for name, dtype in (("fp32", torch.float32), *([("tf32", torch.float32)] * on_gpu), ("bf16", torch.bfloat16)):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        for shape, (b, m, k, n, transposed) in shapes.items():
            one, other = (torch.randn(b, *size, device=device, dtype=dtype) for size in ((m, k), (k, n)))
            one = one.mT.contiguous().mT if transposed == "left" else one
            other = other.mT.contiguous().mT if transposed == "right" else other
            product = torch.bmm if b > 1 else lambda one, other: torch.mm(one[0], other[0])
            taken = best_seconds(lambda product=product, one=one, other=other: product(one, other), device)
            found[f"{name}{shape or '_'}{' ' if shape else ''}gflop_per_s"] = 2e-9 * b * m * k * n / taken
            del one, other
    torch.set_float32_matmul_precision(before)
    if on_gpu:
        found |= _gpu_ceilings(device)
        torch.cuda.empty_cache()
    return found


def _gpu_ceilings(device: torch.device) -> dict[str, float]:
    """Microseconds of one dependent node of a graph, and GB a second from pinned memory."""
    small, nodes = torch.zeros(1024, device=device), 1000
    small.add_(1.0)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(nodes):
            small.add_(1.0)
    found = {"graph_node_us": 1e6 * best_seconds(graph.replay, device) / nodes}
    host = torch.randn(2**26).pin_memory()
    there = torch.empty_like(host, device=device)
    taken = best_seconds(lambda: there.copy_(host, non_blocking=True), device)
    return found | {"host_to_device_gb_per_s": 4e-9 * 2**26 / taken}


def trace(work: Callable[[], object], path: str, device: torch.device) -> list[dict[str, Any]]:
    """Profile some updates: a Chrome trace at `path`, and the kernels (or operations) that take longest."""
    work()
    profile = _profiled(work, device)
    with suppress(RuntimeError):
        profile.export_chrome_trace(path)
    kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    totals: dict[str, list[float]] = {}
    for event in profile.events():
        if event.device_type == kind:
            own = event.time_range.elapsed_us() if device.type == "cuda" else event.self_cpu_time_total
            totals.setdefault(event.name, []).append(own)
    longest = sorted(totals.items(), key=lambda item: -sum(item[1]))[:40]
    return [{"name": name[:200], "calls": len(times), "us": sum(times)} for name, times in longest]
