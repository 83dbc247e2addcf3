"""What mixed batches cost: ``python benchmarks/bench_mixtures.py``.

Half of each batch is of another dataset, or has predicted next observations; both are mixtures of two tables with as
many rows. One seed, batch 256, on one thread: the time of a batch of the mixture and of one dataset, each with its
random words, beside the time of a whole update.
"""

from __future__ import annotations

from typing import Any

import torch
from record import Row, alternating, row, write
from throughput.workload import Workload

from trajmill.algorithms import method_named, method_names
from trajmill.replay.tables import Mixture, TransitionRows, table_of
from trajmill.training.device import ComputeConfig

UPDATES = 8


def measured(name: str) -> list[Row]:
    """The shares of a method."""
    method, workload = method_named(name), Workload(name, "small")
    config, rows = workload.config, workload.rows
    if not isinstance(rows, TransitionRows) or not hasattr(method, "policy"):
        return []

    def state_of(source: Any) -> Any:
        device = torch.device("cpu")
        table = table_of(source, "device", seeds=[0], batch_size=config.batch_size, device=device)
        return method.create(config, table, [0])

    plain, mixed = state_of(rows), state_of(Mixture.of((rows, rows), (0.5, 0.5)))
    mixed.table.reserve(UPDATES)

    def batches(state: Any) -> None:
        if state is mixed:
            state.table.feed(0, UPDATES)
        state.table.draw(state.draws.words(state.step, UPDATES)["batch"])

    found = alternating(
        {
            "update": lambda: method.step(plain, UPDATES, 0),
            "plain": lambda: batches(plain),
            "mixed": lambda: batches(mixed),
        },
        rounds=15,
    )
    whole = found["update"] + found["mixed"] - found["plain"]
    return [
        row(
            f"{name}: batches of a mixture",
            1e3 * found["mixed"] / UPDATES,
            "ms",
            limit=("an update", 1e3 * whole / UPDATES),
        ),
        row(
            f"{name}: what mixing adds",
            1e3 * (found["mixed"] - found["plain"]) / UPDATES,
            "ms",
            limit=("an update", 1e3 * whole / UPDATES),
        ),
    ]


def main() -> None:
    ComputeConfig(device="cpu").apply()
    write("mixtures", [one for name in method_names() for one in measured(name)])


if __name__ == "__main__":
    main()
