"""Everything that is timed on one method: its plain loop, peers R0 to R4, and ours eager, captured and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from baselines import has_plain_loop
from baselines.loops import captured, host_indexed, paper_style, without_syncs
from torch import nn

from throughput.measure import Contender, synchronize
from throughput.workload import Eager, Workload, all_finite
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
UNROLL = 8


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
        ("one seed shows what launches cost", name == "ours eager" and seeds > 1),
    )
    return next((reason for reason, holds in reasons if reason is not None and holds), None)


def build(workload: Workload, name: str, seeds: int, device: torch.device, precision: str) -> Contender:
    """Make a contender ready; raises what its parts raise."""
    context = partial(torch.autocast, device.type, torch.bfloat16) if precision == "bf16" else nullcontext
    if name == "R4":
        return _in_jax(workload, seeds, precision)
    if name.startswith("ours"):
        return _ours(workload, name, seeds, device)
    torch.manual_seed(0)
    make = _plain_loop if name == "plain loop" else _peer
    run, parameters = make(workload, name, device, context)
    return Contender(
        name=name,
        seeds=1,
        run=run,
        finish=partial(synchronize, device),
        is_finite=lambda: all(bool(parameter.isfinite().all()) for parameter in parameters),
        events=device.type == "cuda",
    )


Context = Callable[[], AbstractContextManager[object]]
Made = tuple[Callable[[int], None], list[torch.Tensor]]
"""what makes updates, and the parameters it changes"""


def _plain_loop(workload: Workload, name: str, device: torch.device, context: Context) -> Made:
    loop = workload.plain_loop()

    def run(count: int) -> None:
        with context():
            loop.run(count)

    return run, list(_parameters(vars(loop).values()))


def _parameters(things: Any) -> Iterator[torch.Tensor]:
    """Parameters of the modules among some things and the lists among them."""
    for thing in things:
        if isinstance(thing, nn.Module):
            yield from thing.parameters()
        elif isinstance(thing, list | tuple):
            yield from _parameters(thing)


def _peer(workload: Workload, name: str, device: torch.device, context: Context) -> Made:
    kind, peers = name.split(maxsplit=1)[0], workload.peers
    learner = peers.learner(kind, workload, device)
    if kind == "R0":
        run = paper_style(learner, peers.released_batch(workload), device, context)
    elif kind == "R1":
        run = host_indexed(learner, *workload.gather(device), workload.config.batch_size, device, context)
    elif kind == "R2":
        run = without_syncs(learner, workload.device_batch(device), context)
    else:
        run = captured(learner, workload.host_batch(), device, context, compiled="compiled" in name)
    return run, learner.parameters()


def _ours(workload: Workload, name: str, seeds: int, device: torch.device) -> Contender:
    state, period = workload.ours(seeds, device), 1
    if name == "ours eager":
        run = Eager(workload.method, state).run
    else:
        step = compiled(workload) if name == "ours compiled" else workload.method.step
        runner = Runner(step, state, UNROLL)
        run, period = runner.run, runner.unroll
    return Contender(
        name=name,
        seeds=seeds,
        run=run,
        finish=partial(synchronize, device),
        is_finite=lambda: all_finite(state),
        period=period,
        events=device.type == "cuda",
    )


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

    def is_finite() -> bool:
        return bool((abs(losses()) < float("inf")).all())

    return Contender(name="R4", seeds=seeds, run=run, finish=finish, is_finite=is_finite, period=chunk)
