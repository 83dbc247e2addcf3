"""Updates a second of the Decision Transformer on one core, beside the released way: ``python benchmarks/bench_dt.py``.

Data path included: ours gathers windows from a table, the other one pads them in a Python loop. The arithmetic is the
same but for what nobody asks of the last block. Batch 64, K = 20.
"""

from __future__ import annotations

from functools import partial

import torch
from baselines.decision_transformer import decision_transformer_updates
from record import write
from updates import update_rows

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
    columns = {
        "observation": dataset.observations,
        "action": dataset.actions,
        "reward": dataset.rewards,
        "terminal": dataset.terminals,
        "truncated": dataset.timeouts,
    }
    write(
        "dt",
        update_rows(
            "Decision Transformer update, HalfCheetah",
            lambda: partial(dt.step, dt.create(dt.DTConfig(), table, [0])),
            decision_transformer_updates(columns),
            "the released way, eager PyTorch",
            target_seconds=1.0,
        ),
    )


if __name__ == "__main__":
    main()
