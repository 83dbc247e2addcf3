"""Environment steps a second of scoring policies, beside Gymnasium: ``python benchmarks/bench_evaluation.py``."""

from __future__ import annotations

import numpy as np
from record import Row, seconds, write

from trajmill.evaluation import evaluate_policy
from trajmill.evaluation.environments import environment_definition

SEEDS, EPISODES = 4, 10


def main() -> None:
    rows = []
    for environment in ("Hopper-v4", "HalfCheetah-v4"):
        weights = np.random.default_rng(0).normal(
            size=(environment_definition(environment).observation_dim, environment_definition(environment).action_dim)
        )

        def act(observations: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
            return np.tanh(observations @ weights).astype(np.float32)

        def rate(*, exact: bool, threads: int, environment: str = environment) -> float:
            def play() -> None:
                nonlocal steps
                steps = evaluate_policy(
                    act,
                    environment,
                    seed_count=SEEDS,
                    episode_count=EPISODES,
                    maximum_steps=200,
                    exact=exact,
                    threads=threads,
                ).environment_steps

            steps = 0
            taken = seconds(play, rounds=5)
            return steps / taken

        gymnasium = rate(exact=True, threads=1)
        for threads in (1, 2):
            value = rate(exact=False, threads=threads)
            name = f"{environment}, {threads} thread{'s' * (threads > 1)}"
            rows.append(
                Row(name=name, value=value, unit="steps/s", against="stepping Gymnasium", ratio=value / gymnasium)
            )
        rows.append(Row(name="  Gymnasium, one environment after another", value=gymnasium, unit="steps/s"))
    write("evaluation", rows)


if __name__ == "__main__":
    main()
