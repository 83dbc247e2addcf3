"""Diffusion beside its matrix products alone and a plain loop: ``python benchmarks/bench_diffusion.py [cpu|cuda]``.

An update at batch 256, and samples a second, at the sizes of HalfCheetah (42 columns), on one thread of a CPU or in a
graph on a GPU. Rounds of the contenders alternate. The products are those of the same shapes, each into memory of its
own, one after another; nothing else is computed. Whoever reaches them would have no other work at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from time import perf_counter

import torch
from baselines import plain_loop_of
from record import Row, row, write
from throughput.workload import ENVIRONMENT, made_up

from trajmill.algorithms import diffusion
from trajmill.replay.synthesizer import Synthesizer
from trajmill.replay.vectors import VectorRows
from trajmill.training.device import ComputeConfig
from trajmill.training.runner import Runner

WIDTHS, BLOCK = (256, 1024), 1024
UPDATES = {256: 40, 1024: 10}
SAMPLINGS = {"paper": diffusion.Sampling(), "fast": diffusion.Sampling(sampler="fast")}
Work = Callable[[], object]
SHORT = 4
"""levels of the samplers that are timed; samples a second follow from the time of an evaluation"""


def shapes(config: diffusion.Config, columns: int, rows: int, level_rows: int) -> list[tuple[int, int, int]]:
    """Rows, inputs and outputs of each layer."""
    embedding, width = config.embedding_dim, config.width
    first = [(level_rows, 17, embedding), (level_rows, embedding, embedding)]
    blocks = [(rows, width, width)] * config.depth
    return [*first, (rows, columns, embedding), (rows, embedding, width), *blocks, (rows, width, columns)]


def products(layers: list[tuple[int, int, int]], device: torch.device, dtype: torch.dtype, *, backward: bool) -> Work:
    """The products of a pass forward, or of one forward and one back."""

    def fresh(*size: int) -> torch.Tensor:
        return torch.randn(1, *size, device=device).to(dtype)

    inputs, weights = [fresh(n, i) for n, i, o in layers], [fresh(i, o) for n, i, o in layers]
    outputs, gradients = ([fresh(n, o) for n, i, o in layers] for _ in range(2))
    of_weights, of_inputs = [fresh(i, o) for n, i, o in layers], [fresh(n, i) for n, i, o in layers]

    def work() -> None:
        for each, weight, output in zip(inputs, weights, outputs, strict=True):
            torch.bmm(each, weight, out=output)
        if not backward:
            return
        for number in reversed(range(len(layers))):
            torch.bmm(inputs[number].mT, gradients[number], out=of_weights[number])
            if number not in (0, 2):  # what comes from outside has no gradient
                torch.bmm(gradients[number], weights[number].mT, out=of_inputs[number])

    return work


def captured(work: Work, device: torch.device) -> Work:
    """The same as a graph, on a GPU."""
    if device.type == "cpu":
        return work
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def alternating(works: Mapping[str, Work], device: torch.device, *, rounds: int = 7) -> dict[str, float]:
    """Median seconds of a call of each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number > 0:
                times[name].append(perf_counter() - started)
    return {name: median(each) for name, each in times.items()}


def training(width: int, rows: VectorRows, device: torch.device) -> list[Row]:
    """Updates a second."""
    config, count = replace(diffusion.Config(batch_size=256), width=width), UPDATES[width]
    state = diffusion.create(config, rows.table(device, torch.float32), [0])
    runner = Runner(diffusion.step, state, 10)
    layers = shapes(config, rows.facts.dimension, 256, 256)
    alone = captured(products(layers, device, torch.float32, backward=True), device)
    works: dict[str, Work] = {"ours": lambda: runner.run(count), "products": lambda: [alone() for _ in range(count)]}
    if device.type == "cpu":
        loop = plain_loop_of("diffusion")(rows.columns, config, 0)
        works["plain loop"] = lambda: loop.run(count)
    rates = {name: count / each for name, each in alternating(works, device).items()}
    over = ("plain loop", rates["plain loop"]) if "plain loop" in rates else None
    limit = ("its matrix products alone", rates["products"])
    found = [row(f"diffusion update, width {width}, batch 256", rates["ours"], "updates/s", over=over, limit=limit)]
    if over is not None:
        found.append(row(f"  plain loop, width {width}", over[1], "updates/s", limit=limit))
    return found


def sampling(width: int, rows: VectorRows, device: torch.device) -> list[Row]:
    """Samples a second of each sampler, in float32 and bfloat16."""
    config = replace(diffusion.Config(batch_size=256), width=width)
    state = diffusion.create(config, rows.table(device, torch.float32), [0])
    known = {"method": {name: getattr(config, name) for name in ("width", "depth", "embedding_dim", "condition")}}
    known |= diffusion.describe(state)
    alone = products(shapes(config, rows.facts.dimension, BLOCK, 1), device, torch.float32, backward=False)
    number = torch.zeros((), dtype=torch.int64, device=device)

    def maker(name: str, *, bfloat16: bool, levels: int | None = SHORT) -> Synthesizer:
        settings = replace(SAMPLINGS[name], levels=levels)
        made: Synthesizer = diffusion.synthesize(
            state.moving(), known, settings, device=device, block_size=BLOCK, bfloat16=bfloat16
        )
        return made

    contenders = {(name, bfloat16): maker(name, bfloat16=bfloat16) for name in SAMPLINGS for bfloat16 in (False, True)}
    works: dict[str, Work] = {
        f"{name} {bfloat16}": captured(lambda made=made: made.vectors(0, number), device)  # type: ignore[misc]
        for (name, bfloat16), made in contenders.items()
    }
    times = alternating(works | {"products": captured(alone, device)}, device, rounds=5)
    found, paper = [], 0.0
    for (name, bfloat16), made in contenders.items():
        evaluation = times[f"{name} {bfloat16}"] / made.evaluations
        rate = BLOCK / evaluation / maker(name, bfloat16=bfloat16, levels=None).evaluations
        paper = paper or rate
        title = f"samples, {name}, width {width}, {'bf16' if bfloat16 else 'fp32'}"
        limit = ("its products alone in fp32 (share of the time of an evaluation)", 1.0)
        made_row = row(title, rate, "samples/s", over=("the paper's in fp32", paper))
        found.append(replace(made_row, limit=limit[0], limit_share=times["products"] / evaluation))
    return found


def main() -> None:
    device = ComputeConfig(device=sys.argv[1] if len(sys.argv) > 1 else "cpu").apply()  # type: ignore[arg-type]
    rows = diffusion.prepare(diffusion.adapt(diffusion.Config(), made_up("small"), ENVIRONMENT), made_up("small"))
    found = [one for part in (training, sampling) for width in WIDTHS for one in part(width, rows, device)]
    write("diffusion" if device.type == "cpu" else "diffusion_cuda", found)


if __name__ == "__main__":
    main()
