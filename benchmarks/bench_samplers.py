"""What faster samplers cost in quality: ``python benchmarks/bench_samplers.py DATASET [UPDATES]``.

A model of the first size that the peers of a method offer learns the dataset; each sampler makes 6,144 transitions of
it, which are stepped again in the simulator and compared with the data. Rates are samples a second of one thread.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from time import perf_counter

import numpy as np
import torch
from baselines import peers_of
from record import Row, row, write

from trajmill.algorithms import method_named, method_names
from trajmill.data import Transitions, environment_of, load_dataset, qlearning_transitions
from trajmill.evaluation.quality import measure_quality
from trajmill.training.device import ComputeConfig
from trajmill.training.runner import Runner

BLOCKS = 6


def measured(name: str, dataset: str, updates: int) -> list[Row]:
    """Rows of all samplers of a method."""
    method, peers, data = method_named(name), peers_of(name), load_dataset(dataset)
    assert peers is not None
    device = ComputeConfig(device="cpu").apply()
    config = replace(next(iter(peers.SIZES.values())), decay_updates=updates)
    rows = method.prepare(config, data)
    state = method.create(config, rows.table(device, torch.float32), [0])
    Runner(method.step, state, state.period).run(updates)
    known = {"method": asdict(config), **method.describe(state)}
    real, found, first = qlearning_transitions(data), [], None
    for title, sampling in peers.SAMPLINGS.items():
        maker = method.synthesize(state.moving(), known, sampling, device=device)
        started = perf_counter()
        blocks = [maker.block(7, number) for number in range(BLOCKS)]
        rate = BLOCKS * maker.block_size / (perf_counter() - started)
        made = Transitions(
            **{part: np.concatenate([getattr(block, part) for block in blocks]) for part in Transitions.__slots__}
        )
        quality = measure_quality(real, made, environment_id=environment_of(data), row_count=len(made))
        values = {finding.name: finding.value for finding in quality.findings}
        first = first or (title, rate, values)
        found.append(row(f"{name}, {title}: samples", rate, "samples/s", over=(first[0], first[1])))
        for measure in ("dynamics error", "reward error", "marginal score, states", "correlation score"):
            value, of_first = values[measure], first[2][measure]
            assert value is not None and of_first is not None
            found.append(row(f"  {measure}", value, "", over=(first[0], of_first)))
    return found


def main() -> None:
    dataset, updates = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    names = [name for name in method_names() if hasattr(peers_of(name), "SAMPLINGS")]
    write("samplers", [one for name in names for one in measured(name, dataset, updates)])


if __name__ == "__main__":
    main()
