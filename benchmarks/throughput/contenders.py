"""Everything that is timed on one method: its plain loop, peers R0 to R4, and ours eager, captured and compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from baselines import has_plain_loop, plain_loop_of
from baselines.loops import Context, captured, eager
from torch import Tensor, nn

from throughput.measure import Contender, all_finite
from throughput.workload import Workload
from trajmill.bench.feed import synchronize
from trajmill.bench.training import UNROLL, Eager
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws
from trajmill.training.runner import Runner

DESCRIPTIONS = {
    "plain loop": "CORL-style eager on a CPU: modules, batches by NumPy, .item() of every loss; from the method's test",
    "R0": "paper-style eager: modules, batches by NumPy, .to(device), .item() of every metric",
    "R1": "CORL-style eager: data on the device, indexes by NumPy, .item() of every metric",
    "R2": "R0 without syncs, data on the device",
    "R3": "a CUDA graph of one seed, batches copied from the host",
    "R3 compiled": "the same, compiled first",
    "R4": "JAX: a scan of updates inside one compiled call; several seeds by vmap",
    "ours eager": "one Python call an update",
    "ours": "a CUDA graph of a period (on a CPU the eager period)",
    "ours compiled": "the same with losses, random numbers and optimizer compiled first",
}


def trains_several(name: str) -> bool:
    """Can the contender train several seeds together."""
    return name == "R4" or name.startswith("ours")


def reason_against(workload: Workload, name: str, seeds: int, device: torch.device) -> str | None:
    """Why a contender makes no sense here, or None."""
    on_cpu, needed = device.type == "cpu", "in_jax" if name == "R4" else "learner"
    reasons = (
        (workload.offered("WITHOUT", {}).get(name), True),
        ("its test has no plain loop", name == "plain loop" and not has_plain_loop(workload.name)),
        ("it trains on a CPU", name == "plain loop" and not on_cpu),
        ("benchmarks/baselines has none for this method", name[0] == "R" and workload.offered(needed) is None),
        ("it trains one seed", seeds > 1 and not trains_several(name)),
        (workload.offered("ONE_SEED"), seeds > 1),
        ("on a CPU this is ours", name == "ours eager" and on_cpu),
        # seen with torch 2.13: compiled, counter.add_(1) leaves a counter without axes as it was
        ("compiled for a CPU, torch forgets to count updates", "compiled" in name and on_cpu),
        ("one seed shows what launches cost", name == "ours eager" and seeds > 1),
    )
    return next((reason for reason, holds in reasons if reason is not None and holds), None)


def build(workload: Workload, name: str, seeds: int, device: torch.device, precision: str) -> Contender:
    """Make a contender ready; raises what its parts raise."""
    context = partial(torch.autocast, device.type, torch.bfloat16) if precision == "bf16" else nullcontext
    torch.manual_seed(0)
    if name == "R4":
        return _in_jax(workload, seeds, precision)
    if name.startswith("ours"):
        contender = _ours(workload, name, seeds, device)
    elif name == "plain loop":
        contender = _plain_loop(workload, context)
    else:
        contender = _peer(workload, name, device, context)
    contender.finish = partial(synchronize, device)
    return contender


def _plain_loop(workload: Workload, context: Context) -> Contender:
    loop = plain_loop_of(workload.name)(workload.rows.columns, workload.config, 0)
    parts = [part for thing in vars(loop).values() for part in (thing if isinstance(thing, list) else [thing])]
    networks = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))

    def run(count: int) -> None:
        with context():
            loop.run(count)

    return Contender(run, is_finite=lambda: all_finite(networks.parameters()))


def _peer(workload: Workload, name: str, device: torch.device, context: Context) -> Contender:
    kind, peers, size = name.split(maxsplit=1)[0], workload.peers, workload.config.batch_size
    learner = peers.learner(kind, workload, device)
    if kind == "R3":
        run = captured(learner, workload.host_batch(), device, context, compiled="compiled" in name)
        return Contender(run, is_finite=lambda: all_finite(learner.parameters()))
    if kind == "R0":
        released = peers.released_batch(workload)

        def batch() -> list[Tensor]:
            return [torch.from_numpy(array).to(device) for array in released()]
    elif kind == "R1":
        count, gather = workload.gather(device)

        def batch() -> list[Tensor]:
            return gather(torch.from_numpy(np.random.randint(count, size=size)).to(device))  # noqa: NPY002
    else:
        batch = workload.device_batch(device)
    run = eager(learner, batch, context, reads_metrics=kind != "R2")
    return Contender(run, is_finite=lambda: all_finite(learner.parameters()))


def _ours(workload: Workload, name: str, seeds: int, device: torch.device) -> Contender:
    state = workload.ours(seeds, device)
    runner: Any = Eager(workload.method, state)
    if name != "ours eager":
        runner = Runner(compiled(workload) if name == "ours compiled" else workload.method.step, state, UNROLL)
    return Contender(runner.run, is_finite=lambda: all_finite(state.moving().values()), period=runner.unroll)


def compiled(workload: Workload) -> Callable[..., None]:
    """The step with its larger parts compiled.

    As a whole it cannot be: the optimizer changes buffers whose views the losses read, which the compiler refuses.
    """
    method = workload.method
    places = [(method, name) for name in workload.offered("COMPILED", ())]
    places += [(Adam, "apply"), (Draws, "words_by_torch")]
    parts = [(place, name, torch.compile(getattr(place, name), dynamic=False)) for place, name in places]

    def step(state: Any, count: int = 1, first: int = 0) -> None:
        with ExitStack() as stack:
            for place, name, function in parts:
                stack.enter_context(patch.object(place, name, function))
            method.step(state, count, first)

    return step


def _in_jax(workload: Workload, seeds: int, precision: str) -> Contender:
    import jax
    from baselines.in_jax import PRECISIONS, scanned

    jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    on_gpu = getattr(workload.method, "SECONDS", (0.1, 0.01))[1]
    chunk = max(1, min(200, round(0.02 / on_gpu))) if workload.size == "paper" else 10
    *functions, settings = workload.peers.in_jax(workload)
    run, finish, losses = scanned(*functions, **settings, seeds=seeds, chunk=chunk)
    return Contender(run, is_finite=lambda: bool(np.isfinite(losses()).all()), finish=finish, period=chunk)
