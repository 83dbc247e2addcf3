"""The run that torchrun's processes share in tests."""

from __future__ import annotations

from tiny_runs import tiny

from trajmill.training.settings import Schedule

PRETRAIN = tiny(
    "language_model",
    seeds=(3, 4),
    method={"decay_updates": 50},
    schedule=Schedule(updates=12, log_interval=4, evaluation_interval=6, checkpoint_interval=6, unroll=4),
)
