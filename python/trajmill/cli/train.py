"""Train policies on a real dataset, all seeds in one program, and score them as they learn.

The run directory holds the settings, every metric, the newest checkpoint and, once finished, the scores. Interrupted,
it goes on from its last checkpoint: give the same command with --resume.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.pipelines.cql import TrainCQLConfig, train_cql

EXAMPLES = """
  trajmill train cql --dataset hopper-sac-replay-10k --out runs/hopper --schedule.updates 20000
  trajmill train cql --dataset hopper_medium-v2.hdf5 --seeds 0 1 2 3 --out runs/hopper-medium
  trajmill train cql --dataset hopper-sac-replay-10k --init runs/pretrain --variant pre-trained --out runs/pretrained
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCQL:
    """Train CQL, from scratch or from critics pre-trained on a synthetic MDP."""

    out: Path
    """run directory to create"""
    resume: bool = False
    """go on with an unfinished run in --out that has the same settings"""
    config: Annotated[TrainCQLConfig, tyro.conf.arg(name="")]

    def run(self, progress: Progress) -> Outcome:
        """Train."""
        return tell(train_cql(self.config, self.out, progress, resume=self.resume))


def tell(run: Path) -> Outcome:
    """What a finished run says of itself."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return Outcome({"run": str(run), **result})


COMMANDS = {"cql": TrainCQL}
