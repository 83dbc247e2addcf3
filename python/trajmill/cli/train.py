"""Train policies on a real dataset, all seeds in one program, and score them as they learn.

The run directory holds the settings, every metric, the newest checkpoint and, once finished, the scores. Interrupted,
it goes on from its last checkpoint: give the same command with --resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from trajmill.cli.progress import duration
from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.pipelines.cql import TrainCQLConfig, train_cql
from trajmill.pipelines.decision_transformer import TrainDTConfig, train_dt
from trajmill.report import read_run, score

EXAMPLES = """
  trajmill train cql --dataset hopper-sac-replay-10k --out runs/hopper --schedule.updates 20000
  trajmill train cql --dataset hopper_medium-v2.hdf5 --seeds 0 1 2 3 --out runs/hopper-medium
  trajmill train cql --dataset hopper-sac-replay-10k --init runs/pretrain --variant pre-trained --out runs/pretrained
  trajmill train cql --dataset hopper-sac-replay-10k --seeds 0 1 2 --method.cql-weight 1 5 10 --out runs/weights
  trajmill train dt --dataset hopper-sac-replay-10k --init runs/backbone --variant synthetic --out runs/transformer
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCQL:
    """Train CQL, from scratch or from critics pre-trained on a synthetic MDP."""

    out: Path
    """run directory to create"""
    resume: bool = False
    """go on with an unfinished run in --out that has the same settings"""
    workers: int | None = None
    """processes that share the seeds, with the same result; None is one per CPU core, or one in all on a GPU"""
    config: Annotated[TrainCQLConfig, tyro.conf.arg(name="")]

    def run(self, progress: Progress) -> Outcome:
        """Train."""
        return tell(train_cql(self.config, self.out, progress, resume=self.resume, workers=self.workers))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainDT:
    """Train a Decision Transformer, from scratch or on a backbone pre-trained on synthetic tokens."""

    out: Path
    """run directory to create"""
    resume: bool = False
    """go on with an unfinished run in --out that has the same settings"""
    workers: int | None = None
    """processes that share the seeds, with the same result; None is one per CPU core, or one in all on a GPU"""
    config: Annotated[TrainDTConfig, tyro.conf.arg(name="")]

    def run(self, progress: Progress) -> Outcome:
        """Train."""
        return tell(train_dt(self.config, self.out, progress, resume=self.resume, workers=self.workers))


def tell(path: Path) -> Outcome:
    """What a finished run says of itself."""
    run = read_run(path)
    result = dict(run.result or {})
    seeds = f"{len(run.seeds)} seed{'s' * (len(run.seeds) > 1)}"
    lines = [f"{path}: {run.gradient_step:,} updates of {seeds} in {duration(run.wall_seconds)}"]
    if result.get("workers", 1) > 1:
        lines[0] += (
            f" by {result['workers']} processes, which shared the seeds (--workers; by default one per CPU core)"
        )
    lines += [f"seed {seed} diverged at update {update:,}" for seed, update in result.get("diverged", {}).items()]
    scored = score(run)
    if scored.final is not None and scored.best is not None:
        interval = f", 95 % interval over seeds {scored.final.low:.1f} to {scored.final.high:.1f}"
        lines.append(
            f"normalized score on {run.dataset}, average of the last {scored.evaluation_count} evaluations: "
            f"{scored.final.estimate:.1f}{interval if len(run.seeds) > 1 else ''}; best {scored.best:.1f}"
        )
    if scored.failed_seeds:
        failed = ", ".join(map(str, scored.failed_seeds))
        lines.append(f"no finite score for seed {failed}, so no mean; each seed's own are in {path / 'result.json'}")
    return Outcome({"run": str(path), **result}, "\n".join(lines))


COMMANDS = {"cql": TrainCQL, "dt": TrainDT}
