"""Pre-train on synthetic data: no dataset, no environment, no reward.

The backbone of a Decision Transformer learns to predict the tokens of a random Markov chain, the critics of CQL the
next state of a random MDP (arXiv 2310.00771, sections 3 and 4). `trajmill train dt|cql --init` starts from the run that
comes out. With --text the backbone reads text files instead, and torchrun spreads its batches over processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from trajmill.cli.session import Outcome
from trajmill.cli.train import tell
from trajmill.core.progress import Progress
from trajmill.pipelines.cql import ENVIRONMENT_DIMENSIONS, PretrainCQLConfig, pretrain_cql
from trajmill.pipelines.language_model import PretrainDTConfig, pretrain_dt
from trajmill.training.distributed import is_first

EXAMPLES = """
  trajmill pretrain dt --out runs/backbone
  trajmill pretrain dt --law iid --schedule.updates 1000 --method.length 128 --out runs/iid
  trajmill pretrain dt --stream reference --out runs/authors
  trajmill pretrain dt --text wiki.train.raw --vocabulary gpt2 --schedule.updates 80000 --out runs/wiki
  torchrun --nproc-per-node 2 -m trajmill pretrain dt --out runs/backbone
  trajmill pretrain cql --environment hopper --out runs/pretrain
  trajmill pretrain cql --environment hopper --law identity --out runs/identity
  trajmill pretrain cql --environment ant --schedule.updates 20000 --state-count 1000 --action-count 1000 --out runs/ant
  trajmill train cql --dataset hopper-sac-replay-10k --init runs/pretrain --out runs/hopper
"""

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = tyro.extras.literal_type_from_choices(ENVIRONMENT_DIMENSIONS)


def _hopper() -> PretrainCQLConfig:
    observation_dim, action_dim = ENVIRONMENT_DIMENSIONS["hopper"]
    return PretrainCQLConfig(observation_dim=observation_dim, action_dim=action_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainCQL:
    """Pre-train CQL's critics to predict the next state of a random MDP, or a control that has no dynamics."""

    out: Path
    """run directory to create"""
    resume: bool = False
    """go on with an unfinished run in --out that has the same settings"""
    workers: int | None = None
    """processes that share the seeds, with the same result; None is one per CPU core, or one in all on a GPU"""
    environment: TaskName | None = None
    """environment whose dimensions the critics get: sets --observation-dim and --action-dim"""
    config: Annotated[PretrainCQLConfig, tyro.conf.arg(name="")] = field(default_factory=_hopper)

    def run(self, progress: Progress) -> Outcome:
        """Pre-train."""
        config = self.config
        if self.environment is not None:
            observation_dim, action_dim = ENVIRONMENT_DIMENSIONS[self.environment]
            config = replace(config, observation_dim=observation_dim, action_dim=action_dim)
        return tell(pretrain_cql(config, self.out, progress, resume=self.resume, workers=self.workers))


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainDT:
    """Pre-train a Decision Transformer's backbone on the tokens of a random chain, or on text."""

    out: Path
    """run directory to create"""
    resume: bool = False
    """go on with an unfinished run in --out that has the same settings"""
    workers: int | None = None
    """processes that share the seeds, with the same result; None is a core each, or one on a GPU or with dropout"""
    config: Annotated[PretrainDTConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainDTConfig)

    def run(self, progress: Progress) -> Outcome | None:
        """Pre-train."""
        path = pretrain_dt(self.config, self.out, progress, resume=self.resume, workers=self.workers)
        return tell(path) if is_first() else None


COMMANDS = {"cql": PretrainCQL, "dt": PretrainDT}
