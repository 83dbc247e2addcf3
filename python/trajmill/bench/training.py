"""Updates a second of every method, beside the matrix products of an update alone.

What is trained comes from the contract of `trajmill.algorithms`, so that a method file that is dropped in is measured
too. Data are random, never zeros: arithmetic on zeros draws less power, and may run faster than real data will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trajmill.algorithms import learns_online, method_named, method_names
from trajmill.bench.feed import synchronize
from trajmill.bench.group import Builder, Group, Options
from trajmill.core.progress import silent
from trajmill.data import Dataset, qlearning_transitions
from trajmill.replay.tables import TransitionRows, table_of
from trajmill.training.device import ComputeConfig, device_named, torch_as_it_was
from trajmill.training.runner import Runner, captured
from trajmill.training.settings import decaying

ENVIRONMENT, OBSERVATION, ACTION = "HalfCheetah-v4", 17, 6  # Walker2d's sizes too
EPISODES = {"paper": (1000, 1000), "small": (20, 1000), "tiny": (20, 50)}
"""size -> episodes of the made-up dataset, and their steps; tiny also takes the method's `SMALL` settings"""
UNROLL = 8
SEEDS = 20
"""that a GPU trains together, as the papers do"""
LONGEST_UPDATE = 0.3
"""seconds on a CPU, by what the method says of itself; slower ones get smaller batches"""
PRODUCTS = "matrix products"


def made_up(size: str) -> Dataset:
    """Random steps; every second episode ends by a limit."""
    episodes, length = EPISODES[size]
    random, count = np.random.default_rng(0), episodes * length
    ends, cut = np.arange(count) % length == length - 1, np.arange(count) // length % 2 == 1
    observations, following = (random.standard_normal((count, OBSERVATION), np.float32) for _ in range(2))
    following[:-1][~ends[:-1]] = observations[1:][~ends[:-1]]  # inside episodes the next row
    return Dataset(
        name="made-up",
        path=Path("made-up"),
        observations=observations,
        actions=random.uniform(-0.99, 0.99, (count, ACTION)).astype(np.float32),
        rewards=random.standard_normal(count, np.float32),
        terminals=ends & ~cut,
        timeouts=ends & cut,
        next_observations=following,
    )


class Workload:
    """One method at one size: "paper", "small" (what a CPU does in seconds) or "tiny" (for tests).

    At the size "small", some `settings` replace those of the paper.
    """

    def __init__(self, name: str, size: str, settings: dict[str, Any] | None = None) -> None:
        self.name, self.size, self.method = name, size, method_named(name)
        config = self.method.SMALL if size == "tiny" else self.method.Config()
        if size == "small":
            config = replace(config, **(settings or {}))
        makes_data = hasattr(self.method, "generate")
        self.dataset = None if makes_data else made_up(size)
        if hasattr(self.method, "adapt"):
            config = self.method.adapt(config, self.dataset, None if makes_data else ENVIRONMENT)
        self.config = config = decaying(config, self.method.SCHEDULE)
        if makes_data:
            self.rows = self.method.generate(config, silent)
        elif learns_online(self.method):
            assert self.dataset is not None
            self.rows = TransitionRows(transitions=qlearning_transitions(self.dataset, "d4rl"))
        else:
            self.rows = self.method.prepare(config, self.dataset)

    def ours(self, seeds: int, device: torch.device) -> Any:
        """A fresh state."""
        config, numbers = self.config, range(seeds)
        table = table_of(self.rows, "device", seeds=numbers, batch_size=config.batch_size, device=device)
        return self.method.create(config, table, list(numbers))


class Eager:
    """Updates of a state without a graph, one Python call each."""

    unroll = 1

    def __init__(self, method: Any, state: Any) -> None:
        self._method, self._state, self._done = method, state, 0
        parts = [getattr(state, field.name) for field in fields(state)]
        self._fed = [part for part in parts if hasattr(part, "feed")]
        for part in self._fed:
            part.reserve(1)

    def run(self, count: int) -> None:
        """Make `count` updates."""
        for _ in range(count):
            for part in self._fed:
                part.feed(self._done, 1)
            self._method.step(self._state, 1, self._done % self._state.period)
            self._done += 1


def groups(options: Options) -> list[Builder]:
    """A group for each method."""
    return [partial(updates, name) for name in options.methods or method_names()]


def updates(name: str, options: Options, stack: ExitStack) -> Group:
    """One seed, and on a GPU many seeds together, whose updates are added up; float32, one thread of a CPU."""
    stack.enter_context(torch_as_it_was())
    on_gpu = device_named(options.device).type == "cuda"
    device = ComputeConfig(device="cuda" if on_gpu else "cpu").apply()
    size = "tiny" if options.tiny else "paper" if on_gpu else "small"
    workload = Workload(name, size, {} if on_gpu else smaller(name))
    group = Group(f"{name}, batch {workload.config.batch_size:,}, {device}", "updates/s", 1.0)
    finish, method = partial(synchronize, device), workload.method
    one = workload.ours(1, device)
    work = products(partial(Eager(method, one).run, one.period), device)
    for seeds in (1, SEEDS) if on_gpu and not shares_chance(workload) else (1,):
        state = workload.ours(seeds, device)
        runner = Runner(method.step, state, UNROLL if on_gpu else state.period)
        limits = (PRODUCTS,) if seeds == 1 else ()
        title = f"trajmill, {seeds} seed{'s' * (seeds > 1)}"
        group.ours(title, runner.run, seeds, limits=limits, counted=True, period=runner.unroll, finish=finish)
    group.limit(PRODUCTS, work, one.period, finish=finish)
    return group


def shares_chance(workload: Workload) -> bool:
    """Whether the seeds of a process share random numbers: such a method trains one seed at a time."""
    return bool(getattr(workload.method, "shares_chance", lambda _: False)(workload.config))


def smaller(name: str) -> dict[str, Any]:
    """The size of a batch with which an update takes no longer than `LONGEST_UPDATE` on a CPU."""
    method = method_named(name)
    seconds, size = getattr(method, "SECONDS", (0.01, 0.01))[0], method.Config().batch_size
    return {} if seconds <= LONGEST_UPDATE else {"batch_size": max(1, int(size * LONGEST_UPDATE / seconds))}


class _Products(TorchDispatchMode):
    """Writes down the operands of every matrix product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operands: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and torch would import its compiler to say so, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = str(func).partition(".")[2].partition(".")[0]
        if name in ("mm", "bmm"):
            self.operands.append((like(args[0]), like(args[1])))
        elif name in ("addmm", "baddbmm"):
            self.operands.append((like(args[1]), like(args[2])))
        return func(*args, **(kwargs or {}))


def like(tensor: Tensor) -> Tensor:
    """Random numbers laid out as a tensor has them."""
    made = torch.empty_like(tensor, memory_format=torch.preserve_format)
    return made.copy_(torch.randn(tensor.shape, device=tensor.device).to(tensor.dtype))


def products(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The matrix products that some work makes, with its shapes and layouts, each into memory of its own.

    Nothing else is computed: whoever reaches their rate would have no other work at all.
    """
    work()
    with _Products() as recorded:
        work()
    outputs = [torch.matmul(one, other) for one, other in recorded.operands]

    def alone() -> None:
        for (one, other), out in zip(recorded.operands, outputs, strict=True):
            torch.matmul(one, other, out=out)

    return captured(alone) if device.type == "cuda" else alone
