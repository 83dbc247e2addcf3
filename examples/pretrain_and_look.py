"""A small language model on fresh bracket sequences, beside what the best predictor loses."""

import json
from dataclasses import replace
from pathlib import Path

from trajmill.algorithms import language_model
from trajmill.experiments.settings import TrainConfig
from trajmill.experiments.train import train
from trajmill.training.settings import Schedule

method = replace(
    language_model.SMALL,
    law="dyck",
    law_fields=("pairs=2", "max_depth=3"),
    length=32,
    batch_size=32,
    learning_rate=3e-3,
    warmup_updates=20,
    decay_updates=301,
    dropout=False,
)
schedule = Schedule(updates=300, evaluation_interval=100)
run = train(TrainConfig(method=method, schedule=schedule, seeds=(0, 1)), Path("run-brackets"))

for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
    if line["phase"] == "evaluation":
        held_out, optimum = (line["metrics"][name] for name in ("held_out_loss", "optimal_loss"))
        print(f"after {line['update']} updates: {held_out[0]:.3f} and {held_out[1]:.3f} nats; optimum {optimum[0]:.3f}")
