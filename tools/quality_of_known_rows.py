"""Print the quality of rows whose faults are known: what each measure notices, as a table for docs/quality.md.

    python tools/quality_of_known_rows.py halfcheetah-sac-replay-10k --rows 2000

Half of the episodes are the real rows. The other half, held out, gives the floors, and with faults the synthetic rows.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace

import numpy as np

from trajmill.core.display import PlainProgress
from trajmill.data import Transitions, environment_of, load_dataset, qlearning_transitions
from trajmill.evaluation.quality import Measured, Quality, measure_quality, with_noise


def main() -> None:
    """Measure each set of rows, and print as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="name or path of a dataset with whole episodes")
    parser.add_argument("--rows", type=int, default=50_000, help="most rows of each side")
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    rows = qlearning_transitions(dataset)
    rng = np.random.default_rng(0)
    episodes = np.concatenate(([0], np.cumsum(dataset.episode_ends)[:-1]))
    chosen = rng.permutation(int(episodes[-1]) + 1)[: (int(episodes[-1]) + 1) // 2]
    is_real = np.isin(episodes, chosen)[: len(rows)]
    real, held_out = take(rows, is_real), take(rows, ~is_real)
    permuted = replace(held_out, action=rng.permutation(held_out.action))
    made = {
        "half of the real rows again": take(real, rng.permutation(len(real))[: len(real) // 2]),
        "held-out rows, noise of 0.1 deviations": noisy(held_out, 0.1, rng),
        "held-out rows, noise of 0.3 deviations": noisy(held_out, 0.3, rng),
        "real rows, noise of 0.03 deviations": noisy(real, 0.03, rng),
        "held-out rows, actions permuted": permuted,
    }
    print("| rows | states | actions | correlation | distance | memorized | dynamics error | noise there |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for number, (name, synthetic) in enumerate(made.items()):
        quality = measure_quality(
            real,
            synthetic,
            held_out=held_out,
            environment_id=environment_of(dataset),
            row_count=options.rows,
            progress=PlainProgress(sys.stderr),
        )
        if number == 0:
            print(line("held-out rows (floor)", quality, "floor", ""))
        noise = quality.dynamics.noise.observation_error if quality.dynamics else 0.0
        print(line(name, quality, "value", f"{noise:.3g}"), flush=True)


def take(rows: Transitions, where: np.ndarray) -> Transitions:
    """Some of the rows."""
    return Transitions(**{field.name: getattr(rows, field.name)[where] for field in fields(Transitions)})


def noisy(rows: Transitions, strength: float, rng: np.random.Generator) -> Transitions:
    """The rows with noise on s and s' of a share of each column's deviation."""
    states = np.concatenate((rows.observation, rows.next_observation), axis=1)
    return with_noise(rows, strength, "additive", rng.standard_normal(states.shape, np.float32), states.std(axis=0))


def line(name: str, quality: Quality, side: str, noise: str) -> str:
    """One line of the table: of the synthetic rows, or of the held-out ones."""

    def show(measured: Measured | None, text: str) -> str:
        return "" if measured is None else format(getattr(measured, side), text)

    cells = [
        show(quality.marginal["states"], ".3f"),
        show(quality.marginal["actions"], ".3f"),
        show(quality.correlation, ".3f"),
        show(quality.distance, ".2f"),
        show(quality.memorized, ".2%"),
        show(quality.dynamics.observation_error if quality.dynamics else None, ".2g"),
        noise,
    ]
    return f"| {' | '.join([name, *cells])} |"


if __name__ == "__main__":
    main()
