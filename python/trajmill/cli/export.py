"""Write what a run has learned in another program's format, such as a language model as Hugging Face's GPT-2.

Of the run's seeds the first one is written. `trajmill train ... --init DIR` also starts from such files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.experiments.evaluate import export_run

EXAMPLES = """
  trajmill export runs/backbone gpt2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Write a run's newest checkpoint."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """directory of a run"""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DEST")]
    """directory to create"""

    def run(self, progress: Progress) -> Outcome:
        update = export_run(self.path, self.out)
        names = ", ".join(sorted(path.name for path in self.out.iterdir()))
        return Outcome({"out": str(self.out), "update": update}, f"{self.out}: {names}, after {update:,} updates")


COMMANDS = {"": Export}
