"""Updates a second of the Decision Transformer on one core, beside the released way: ``python benchmarks/bench_dt.py``.

Data path included: ours gathers windows from a table, the other one pads them in a Python loop. The arithmetic is the
same but for what nobody asks of the last block, and matrix products take three quarters of the time, so this is where
it ends on a CPU.
"""

from __future__ import annotations

import torch
from baselines.decision_transformer import decision_transformer_updates
from record import Row, in_turns, write

import trajmill as tm
from trajmill.algorithms import decision_transformer as dt
from trajmill.training.device import keep_freed_memory
from trajmill.training.windows import WindowTable


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset = tm.load_dataset("halfcheetah-sac-replay-10k")
    pairs = tm.TrajectoryBuffer.from_dataset(dataset, context_length=2)
    table = WindowTable.of(pairs.windows(range(pairs.step_count)), device=torch.device("cpu"), dtype=torch.float32)
    state = dt.create(dt.DTConfig(), table, [0])
    columns = {
        "observation": dataset.observations,
        "action": dataset.actions,
        "reward": dataset.rewards,
        "terminal": dataset.terminals,
        "truncated": dataset.timeouts,
    }
    works = {"trajmill": lambda: dt.step(state), "released way": decision_transformer_updates(columns)}
    taken = in_turns(works, rounds=9, target_seconds=1.0)
    ours, theirs = 1 / taken["trajmill"], 1 / taken["released way"]
    unit = "updates/s"
    name = "Decision Transformer update, HalfCheetah, batch 64, K = 20"
    write(
        "dt",
        [
            Row(name=name, value=ours, unit=unit, against="the released way, eager PyTorch", ratio=ours / theirs),
            Row(name="  the released way", value=theirs, unit=unit),
        ],
    )


if __name__ == "__main__":
    main()
