"""Everything that is timed on one pipeline: peers R0 to R4, and ours eager, captured and compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from baselines.loops import captured, host_indexed, paper_style, without_syncs

from throughput.measure import Contender, synchronize
from throughput.pipelines import UNROLL, Ours, Pipeline, all_finite
from trajmill.algorithms import cql, forward_dynamics
from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms import language_model as lm
from trajmill.training.adam import Adam
from trajmill.training.philox import Draws
from trajmill.training.runner import Runner

DESCRIPTIONS = {
    "R0": "paper-style eager: modules, batches by NumPy, .to(device), .item() of every metric",
    "R1": "CORL-style eager: data on the device, indexes by NumPy, .item() of every metric",
    "R2": "R0 without syncs, data on the device",
    "R3": "a CUDA graph of one seed, batches copied from the host",
    "R3 compiled": "the same, compiled first",
    "R4": "JAX: a scan of updates inside one compiled call; several seeds by vmap",
    "ours eager": "one Python call a period",
    "ours": "a CUDA graph of a period (on a CPU the eager period)",
    "ours compiled": "the same with losses, random numbers and optimizer compiled first",
}
PEERS = ("R0", "R1", "R2", "R3", "R3 compiled")

Build = Callable[[], Contender]


def reason_against(pipeline: Pipeline, name: str, seeds: int, device: torch.device) -> str | None:
    """Why a contender makes no sense here, or None."""
    if name in pipeline.without:
        return pipeline.without[name]
    if name in PEERS and seeds > 1:
        return "it trains one seed"
    if pipeline.name == "lm" and seeds > 1:
        return "one seed fills a GPU; several are trained one after another"
    if name == "ours eager" and device.type == "cpu":
        return "on a CPU this is ours"
    if name == "ours eager" and seeds > 1:
        return "one seed shows what launches cost"
    return None


def build(pipeline: Pipeline, name: str, seeds: int, device: torch.device, precision: str) -> Contender:
    """Make a contender ready; raises what its parts raise."""
    if name == "R4":
        return _in_jax(pipeline, seeds, precision)
    if name.startswith("ours"):
        return _ours(pipeline, name, seeds, device)
    return _peer(pipeline, name, device, precision)


def autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[object]]:
    """What a peer's update runs in."""
    return partial(torch.autocast, device.type, torch.bfloat16) if precision == "bf16" else nullcontext


def _peer(pipeline: Pipeline, name: str, device: torch.device, precision: str) -> Contender:
    torch.manual_seed(0)
    kind, context = name.split(maxsplit=1)[0], autocast(device, precision)
    learner = pipeline.learner(kind, device)
    if kind == "R0":
        run = paper_style(learner, pipeline.released_batch(), device, context)
    elif kind == "R1":
        run = host_indexed(learner, *pipeline.indexed(device), context)
    elif kind == "R2":
        run = without_syncs(learner, pipeline.device_batch(device), context)
    else:
        run = captured(learner, pipeline.packed_batch(), device, context, compiled="compiled" in name)
    return Contender(
        name=name,
        seeds=1,
        run=run,
        finish=partial(synchronize, device),
        is_finite=lambda: all(bool(parameter.isfinite().all()) for parameter in learner.parameters()),
        events=device.type == "cuda",
    )


def _ours(pipeline: Pipeline, name: str, seeds: int, device: torch.device) -> Contender:
    ours = pipeline.ours(seeds, device)
    if name == "ours eager":
        run, period = partial(eager, ours), 1
    else:
        step = compiled(ours) if name == "ours compiled" else ours.step
        run, period = Runner(step, ours.state, UNROLL, feed=ours.feed).run, UNROLL
    return Contender(
        name=name,
        seeds=seeds,
        run=run,
        finish=partial(synchronize, device),
        is_finite=lambda: all_finite(ours.state),
        period=period,
        events=device.type == "cuda",
    )


def eager(ours: Ours, count: int) -> None:
    """Updates without a graph, the feed as if there were periods of one."""
    for update in range(count):
        if ours.feed is not None:
            ours.feed(update, 1)
        ours.step(ours.state, 1)


PURE = {
    cql.step: (cql, ("sample_actions", "policy_loss", "critic_losses")),
    forward_dynamics.step: (forward_dynamics, ("predictions",)),
    dt.step: (dt, ("loss",)),
    lm.step: (lm, ("token_losses",)),
}
"""what is compiled of each step, beside the random numbers and the optimizer: functions that change nothing"""


def compiled(ours: Ours) -> Callable[..., None]:
    """The step with its larger parts compiled.

    As a whole it cannot be: the optimizer changes buffers whose views the losses read, which the compiler refuses.
    """
    module, names = PURE[ours.step]
    places = [(module, name) for name in names] + [(Adam, "apply"), (Draws, "composed")]
    parts = [(place, name, torch.compile(getattr(place, name), dynamic=False)) for place, name in places]

    def step(state: Any, count: int = 1) -> None:
        with ExitStack() as stack:
            for place, name, function in parts:
                stack.enter_context(patch.object(place, name, function))
            ours.step(state, count)

    return step


def _in_jax(pipeline: Pipeline, seeds: int, precision: str) -> Contender:
    import jax
    from baselines.jax_updates import PRECISIONS

    jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    chunk = {"paper": {"lm": 4, "dt": 50}.get(pipeline.name, 200)}.get(pipeline.size, 10)
    run, finish, losses = pipeline.in_jax(seeds, chunk)

    def is_finite() -> bool:
        return bool((abs(losses()) < float("inf")).all())

    return Contender(name="R4", seeds=seeds, run=run, finish=finish, is_finite=is_finite, period=chunk)
