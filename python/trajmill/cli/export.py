"""Write what a run has learned for another program: a policy as a file, a language model as Hugging Face's GPT-2.

A policy's file maps observations to actions, in the environment's units, and needs no trajmill. `trajmill train ...
--init DIR` also starts from GPT-2's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.experiments.evaluate import export_run
from trajmill.experiments.export import SUFFIXES
from trajmill.experiments.policy import load_policy

EXAMPLES = """
  trajmill export runs/hopper policy.onnx
  trajmill export runs/hopper policy.pt2 --seed 3
  trajmill export runs/backbone gpt2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Write a run's newest checkpoint."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """directory of a run"""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DEST")]
    """file of a policy, or directory of a model, to create"""
    format: Literal["torch", "torchscript", "onnx"] | None = None
    """of a policy: torch.export, TorchScript, ONNX; by default as DEST ends: .pt2, .pt, .onnx. A DEST with another name
    is a directory in the format of the run's method"""
    seed: int | None = None
    """of which the policy is written; by default the run's first one"""

    def run(self, progress: Progress) -> Outcome:
        if self.format is None and self.out.suffix not in SUFFIXES:
            if self.seed is not None:
                raise ValueError(f"seed is of a policy: let DEST end in {', '.join(SUFFIXES)}, or give --format")
            update = export_run(self.path, self.out)
            names = ", ".join(sorted(path.name for path in self.out.iterdir()))
            return Outcome({"out": str(self.out), "update": update}, f"{self.out}: {names}, after {update:,} updates")
        policy = load_policy(self.path, seed=self.seed)
        if self.seed is None:
            policy = load_policy(self.path, seed=policy.seeds[0])
        policy.export(self.out, format=self.format)
        (seed,) = policy.seeds
        data = {"out": str(self.out), "update": policy.update, "seed": seed}
        return Outcome(data, f"{self.out}: the policy of seed {seed} after {policy.update:,} updates")


COMMANDS = {"": Export}
