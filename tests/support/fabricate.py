"""Writes run directories as training does, with made-up numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def fabricate_run(
    path: Path,
    *,
    kind: str = "cql",
    variant: str = "from scratch",
    dataset: str | None = "hopper-sac-replay-10k",
    seeds: tuple[int, ...] = (0, 1, 2),
    level: float = 40.0,
    evaluation_count: int = 8,
    finished: bool = True,
    lose_seed: int | None = None,
) -> Path:
    (path / "checkpoints").mkdir(parents=True)
    generator = np.random.default_rng(len(variant) + len(dataset or ""))
    write(
        path / "config.json",
        {
            "kind": kind,
            "seeds": list(seeds),
            "dataset": dataset,
            "environment": None if dataset is None else "Hopper-v4",
            "variant": variant,
            "config": {"method": {"batch_size": 256, "discount": 0.99, "learning_rate": 3e-4}},
        },
    )
    write(
        path / "environment.json",
        {
            "versions": {"trajmill": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "mujoco": "4.0.0"},
            "machine": "AMD EPYC, 2 cores",
            "commit": "4812cd1",
            "command": ["trajmill", "train", "cql"],
        },
    )
    lines = []
    seed_count = len(seeds)
    if dataset is None:
        for point in range(50):
            loss = 0.339 + 0.0035 * np.exp(-point / 6) + generator.normal(0, 0.0002, (2, seed_count))
            lines.append(line("train", 100 * (point + 1), {"loss_critic_1": loss[0], "loss_critic_2": loss[1]}))
    else:
        for point in range(evaluation_count):
            step = 500 * (point + 1)
            share = 1 - np.exp(-point / 3)
            score = level * share + generator.normal(0, 3, seed_count)
            if lose_seed is not None:
                score[lose_seed] = np.nan
            lines.append(
                line(
                    "train",
                    step,
                    {
                        "bellman_loss": 3 + 4 * np.exp(-point / 2) + generator.normal(0, 0.2, seed_count),
                        "conservative_loss": -1.5 * share + generator.normal(0, 0.1, seed_count),
                        "policy_loss": -20 * share + generator.normal(0, 1, seed_count),
                        "entropy_coefficient": np.exp(-point / 4) + generator.normal(0, 0.01, seed_count),
                    },
                )
            )
            lines.append(line("evaluation", step, {"normalized_score": score, "return_mean": score * 32.546 - 20.27}))
    (path / "metrics.jsonl").write_text("".join(lines))
    if finished:
        write(path / "result.json", {"average_last_four": [level] * seed_count, "best": [level] * seed_count})
    return path


def line(phase: str, step: int, metrics: dict[str, np.ndarray]) -> str:
    values = {name: [None if np.isnan(v) else float(v) for v in row] for name, row in metrics.items()}
    return json.dumps({"phase": phase, "update": step, "wall_seconds": step / 30, "metrics": values}) + "\n"


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
