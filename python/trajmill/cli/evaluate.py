"""Score the trained policies of a run in its environment: all its seeds at once, on the same episodes.

A score of 0 is a random policy, 100 is D4RL's expert; where D4RL has neither, the return is told alone. Published
results use 10 episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Group

from trajmill.cli.session import Outcome, columns
from trajmill.core.progress import Progress
from trajmill.data import has_reference_score
from trajmill.evaluation.statistics import bootstrap_interval
from trajmill.experiments.evaluate import EvaluateConfig, evaluate_run

EXAMPLES = """
  trajmill evaluate runs/hopper
  trajmill evaluate runs/hopper --episode-count 100 --episode-seed 1
  trajmill evaluate runs/hopper --exact --json
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Score a run's policies."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """directory of a training run"""
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)

    def run(self, progress: Progress) -> Outcome:
        evaluation = evaluate_run(self.path, self.config, progress)
        result = evaluation.result
        scores, returns = result.normalized_scores, result.returns.mean(axis=1)
        scored = has_reference_score(result.environment_id)
        table = columns(right=("seed", *["score"] * scored, "return", "episode length"))
        rows = zip(evaluation.seeds, scores, returns, result.lengths.mean(axis=1), strict=True)
        for seed, score, mean_return, length in rows:
            shown = [f"{score:.1f}" if np.isfinite(score) else ""] * scored
            table.add_row(str(seed), *shown, f"{mean_return:,.1f}", f"{length:,.0f}")
        failed = [str(seed) for seed, value in zip(evaluation.seeds, returns, strict=True) if not np.isfinite(value)]
        closing = f"no finite score for seed {', '.join(failed)}, which diverged; a mean without it would mislead"
        if not failed:
            interval = bootstrap_interval(scores if scored else returns)
            closing = f"mean {'score' if scored else 'return'} {interval.estimate:,.1f}"
            if len(scores) > 1:
                closing += f", 95 % interval over seeds {interval.low:.1f} to {interval.high:.1f}"
        data = {"run": str(self.path), "update": evaluation.update, "seeds": evaluation.seeds, **result.to_dict()}
        heading = f"{result.environment_id}, {self.config.episode_count} episodes, {evaluation.update:,} updates"
        return Outcome(data, Group(heading, "", table, "", closing))


COMMANDS = {"": Evaluate}
