"""Generative models beside their matrix products alone and a plain loop: ``python benchmarks/bench_products.py``.

The device is the first argument, ``cuda`` or else the CPU; the second one is the file to write.

An update, and samples a second, at the sizes of HalfCheetah, on one thread of a CPU or in a graph on a GPU. Rounds of
the contenders alternate. The products are those of the same shapes, each into memory of its own, one after another;
nothing else is computed. Whoever reaches them would have no other work at all. The sizes, layers and samplers are those
that the peers of a method offer (`baselines`: ``SIZES``, ``layers``, ``FROM_OUTSIDE``, ``SAMPLINGS``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from baselines import peers_of, plain_loop_of
from record import Row, alternating, row, write

from trajmill.algorithms import method_named, method_names
from trajmill.bench.feed import synchronize
from trajmill.bench.training import ENVIRONMENT, made_up
from trajmill.training import runner
from trajmill.training.device import ComputeConfig

BLOCK = 1024
SHORT = 4
"""levels of the samplers that are timed; samples a second follow from the time of an evaluation"""
SECONDS = 0.4
"""of a block of updates, about"""
Work = Callable[[], object]


def products(
    peers: ModuleType, config: Any, columns: int, rows: int, level_rows: int, device: torch.device, *, backward: bool
) -> Work:
    """The products of a pass forward, or of one forward and one back."""
    layers = peers.layers(config, columns, rows, level_rows)

    def fresh(*size: int) -> torch.Tensor:
        return torch.randn(1, *size, device=device)

    inputs, weights = [fresh(n, i) for n, i, o in layers], [fresh(i, o) for n, i, o in layers]
    outputs, gradients = ([fresh(n, o) for n, i, o in layers] for _ in range(2))
    of_weights, of_inputs = [fresh(i, o) for n, i, o in layers], [fresh(n, i) for n, i, o in layers]

    def work() -> None:
        for each, weight, output in zip(inputs, weights, outputs, strict=True):
            torch.bmm(each, weight, out=output)
        for number in reversed(range(len(layers) if backward else 0)):
            torch.bmm(inputs[number].mT, gradients[number], out=of_weights[number])
            if number not in peers.FROM_OUTSIDE:
                torch.bmm(gradients[number], weights[number].mT, out=of_inputs[number])

    return captured(work, device)


def captured(work: Work, device: torch.device) -> Work:
    """The same as a graph, on a GPU."""
    return work if device.type == "cpu" else runner.captured(work)


def timed(works: Mapping[str, Work], device: torch.device, *, rounds: int = 7) -> dict[str, float]:
    """Median seconds of a call of each, until the device is done."""

    def finished(work: Work) -> Work:
        def run() -> None:
            work()
            synchronize(device)

        return run

    return alternating({name: finished(work) for name, work in works.items()}, rounds=rounds)


def training(name: str, size: str, config: Any, rows: Any, device: torch.device) -> Iterator[Row]:
    """Updates a second."""
    method, peers = method_named(name), peers_of(name)
    assert peers is not None
    state = method.create(config, rows.table(device, torch.float32), [0])
    updates = runner.Runner(method.step, state, state.period)
    alone = products(peers, config, rows.facts.dimension, *[config.batch_size] * 2, device, backward=True)
    one = timed({"one": alone}, device, rounds=3)["one"]
    count = max(1, round(SECONDS / one / state.period)) * state.period
    works: dict[str, Work] = {"ours": lambda: updates.run(count), "alone": lambda: [alone() for _ in range(count)]}
    if device.type == "cpu":
        loop = plain_loop_of(name)(rows.columns, config, 0)
        works["plain loop"] = lambda: loop.run(count)
    rates = {contender: count / each for contender, each in timed(works, device).items()}
    over = ("plain loop", rates["plain loop"]) if "plain loop" in rates else None
    limit = ("its matrix products alone", rates["alone"])
    yield row(f"{name} update, {size}, batch {config.batch_size}", rates["ours"], "updates/s", over=over, limit=limit)
    if over is not None:
        yield row(f"  plain loop, {size}", over[1], "updates/s", limit=limit)


def sampling(name: str, size: str, config: Any, rows: Any, device: torch.device) -> Iterator[Row]:
    """Samples a second of each sampler, in float32 and bfloat16."""
    method, peers = method_named(name), peers_of(name)
    assert peers is not None
    state = method.create(config, rows.table(device, torch.float32), [0])
    known = {"method": asdict(config), **method.describe(state)}
    number = torch.zeros((), dtype=torch.int64, device=device)

    def maker(sampling: Any, *, bfloat16: bool, levels: int | None = SHORT) -> Any:
        options = {"device": device, "block_size": BLOCK, "bfloat16": bfloat16}
        return method.synthesize(state.moving(), known, replace(sampling, levels=levels), **options)

    def work(made: Any) -> Work:
        return captured(partial(made.vectors, made.draws(0), number), device)

    choices = [(title, sampling, low) for title, sampling in peers.SAMPLINGS.items() for low in (False, True)]
    makers = {
        f"{title}, {'bf16' if low else 'fp32'}": maker(sampling, bfloat16=low) for title, sampling, low in choices
    }
    works = {title: work(made) for title, made in makers.items()}
    alone = products(peers, config, rows.facts.dimension, BLOCK, 1, device, backward=False)
    times = timed({"alone": alone, **works}, device, rounds=5)
    first: tuple[str, float] | None = None
    for title, sampling, low in choices:
        key = f"{title}, {'bf16' if low else 'fp32'}"
        evaluation = times[key] / makers[key].evaluations
        rate = BLOCK / evaluation / maker(sampling, bfloat16=low, levels=None).evaluations
        first = first or (f"the {key}", rate)
        # as if an evaluation were its products alone, in float32
        limit = ("its fp32 products alone", rate * evaluation / times["alone"])
        yield row(f"{name} samples, {size}, {key}", rate, "samples/s", over=first, limit=limit)


def main() -> None:
    device = ComputeConfig(device=sys.argv[1] if len(sys.argv) > 1 else "cpu").apply()  # type: ignore[arg-type]
    data, found = made_up("small"), []
    for name in method_names():
        method = method_named(name)
        for size, config in getattr(peers_of(name), "SIZES", {}).items():
            rows = method.prepare(method.adapt(config, data, ENVIRONMENT), data)
            for part in (training, sampling):
                found += part(name, size, config, rows, device)
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    write("products" if device.type == "cpu" else "products_cuda", found, out)


if __name__ == "__main__":
    main()
