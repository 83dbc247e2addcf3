"""Score a method on datasets beside its plain loop and the policy that made the data; prints a table in Markdown.

    python tools/plain_loop_scores.py td3_bc hopper.hdf5 halfcheetah.hdf5 --out scores --updates 50000

The plain loop is `plain_loop` in the method's own test: the same equations in plain PyTorch, one seed after another,
with its own batches and initial weights, so scores agree within their intervals and not to the last digit. Both are
scored in the same ten episodes every 5,000 updates. What is finished is kept in --out and not made again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trajmill.algorithms import method_named
from trajmill.data import environment_of, load_dataset, summarize
from trajmill.evaluation.rollout import evaluate_policy
from trajmill.evaluation.statistics import bootstrap_interval, mean
from trajmill.experiments.settings import DatasetTrainConfig
from trajmill.experiments.train import train
from trajmill.runs.directory import RunDirectory
from trajmill.training.settings import plain

TESTS = Path(__file__).resolve().parent.parent / "tests"
INTERVAL = 5_000
"""updates between evaluations"""


def main() -> None:
    """Make what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plain-seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| dataset | behaviour | trajmill, last 4 scores | plain loop, last 4 scores | best of both |")
    print("| --- | --- | --- | --- | --- |")
    for name in given.datasets:
        print(row(given, name), flush=True)


def row(given: argparse.Namespace, name: str) -> str:
    """One line of the table."""
    method = method_named(given.method)
    dataset = load_dataset(name)
    out = given.out / f"{given.method}-{dataset.name}"
    schedule = replace(method.SCHEDULE, updates=given.updates, evaluation_interval=INTERVAL)
    config = DatasetTrainConfig(
        dataset=name, method=method.Config(), schedule=schedule, seeds=tuple(range(given.seeds))
    )
    train(config, out, resume=out.exists(), processes=1)
    lines = RunDirectory(out).lines("evaluation")
    ours = np.array([line["metrics"]["normalized_score"] for line in lines if line["update"] > 0]).T
    theirs = [plain_scores(given, method, name, seed) for seed in range(given.plain_seeds)]
    behaviour = summarize(dataset).normalized_score
    cells = [cell(scores[:, -4:].mean(1)) for scores in (ours, np.array(theirs))]
    best = " / ".join(f"{np.mean(np.max(scores, axis=1)):.1f}" for scores in (ours, np.array(theirs)))
    return f"| {dataset.name} | {behaviour:.1f} | {cells[0]} | {cells[1]} | {best} |"


def plain_scores(given: argparse.Namespace, method: Any, name: str, seed: int) -> list[float]:
    """Scores of the plain loop with this seed, one an evaluation."""
    dataset = load_dataset(name)
    environment = environment_of(dataset)
    path = given.out / f"{given.method}-{dataset.name}-plain-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())["scores"]
    settings = method.Config()
    settings = method.adapt(settings, dataset, environment) if hasattr(method, "adapt") else settings
    rows = method.prepare(settings, dataset)
    sys.path[:0] = [str(TESTS / folder) for folder in ("support", "reference", "python/algorithms")]
    loop = importlib.import_module(f"test_{given.method}").plain_loop(rows.columns, settings, seed)

    def act(observations: np.ndarray) -> np.ndarray:
        seen = observations if rows.normalizer is None else rows.normalizer.normalize(observations)
        return loop.act(torch.as_tensor(seen[0], dtype=torch.float32)).numpy()[None]

    scores = []
    for update in range(INTERVAL, given.updates + 1, INTERVAL):
        loop.run(INTERVAL)
        result = evaluate_policy(act, environment, seed_count=1, episode_seed=update, threads=1)
        scores.append(float(result.normalized_scores[0]))
        print(f"plain loop, seed {seed}: {update:,} updates, score {scores[-1]:.1f}", file=sys.stderr, flush=True)
    path.write_text(json.dumps({"settings": plain(settings), "seed": seed, "scores": scores}))
    return scores


def cell(scores: np.ndarray) -> str:
    """Mean and interval over seeds, with each seed's."""
    interval = bootstrap_interval(scores, mean)
    each = ", ".join(f"{score:.0f}" for score in scores)
    return f"{interval.estimate:.1f} [{interval.low:.1f}, {interval.high:.1f}] ({each})"


if __name__ == "__main__":
    main()
