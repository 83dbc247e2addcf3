"""Make a dataset in MuJoCo: random, medium, medium-replay, medium-expert or expert, in D4RL's HDF5 schema.

The policies are linear, found by augmented random search (arXiv:1803.07055). Bundled ones play Hopper and HalfCheetah;
--train finds new ones, in about a minute. With --agent they are those of a method that learns online, such as sac, as
D4RL's were: it is trained in a run directory until it is good enough, which takes an hour or more; give the same
command again to go on after an interruption. Equal settings give equal data on one machine, whatever the threads. The
file holds next observations, MuJoCo's states, and where it all comes from; its name says ars or the agent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.experiments.collect import CollectConfig, collect

EXAMPLES = """
  trajmill collect hopper --out hopper-ars-medium.hdf5
  trajmill collect halfcheetah --kind medium-replay --rows 1000000 --out halfcheetah-ars-medium-replay.hdf5
  trajmill collect ant --kind random --out ant-random.hdf5
  trajmill collect walker2d --kind medium-replay --agent METHOD --run runs/walker2d --out walker2d-medium-replay.hdf5
  trajmill collect hopper --kind expert --train --policies hopper.safetensors --seed 1 --out hopper-ars-expert.hdf5
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """Collect episodes of ENV."""

    environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """hopper, halfcheetah, walker2d, ant, invertedpendulum, or another Gymnasium id, such as Pendulum-v1"""
    out: Path
    """HDF5 file to create"""
    config: Annotated[CollectConfig, tyro.conf.arg(name="")] = field(default_factory=CollectConfig)

    def run(self, progress: Progress) -> Outcome:
        made = collect(self.environment, self.out, self.config, progress)
        score = "" if made.normalized_score is None else f" (normalized {made.normalized_score:.1f})"
        text = (
            f"{made.path}: {made.dataset}, {made.row_count:,} rows in {made.episode_count:,} episodes, "
            f"return {made.return_mean:,.1f} ± {made.return_deviation:,.1f}{score}"
        )
        return Outcome(asdict(made), text)


COMMANDS = {"": Collect}
