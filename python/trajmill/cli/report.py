"""Write one self-contained HTML page about run directories.

It shows scores with bootstrap intervals, learning curves, losses, and where every number comes from. It needs no
network and runs no script. Unfinished runs are shown and marked as such; damaged ones are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.report import write_report

EXAMPLES = """
  trajmill report runs/from_scratch runs/pretrained runs/pretraining --out report.html
  trajmill report runs/* --title "Hopper, 20 seeds"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Write one page about runs."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...", help_behavior_hint="")]
    """run directories, at least one; variants take their order and colors from it"""
    out: Path = Path("report.html")
    """the page to write; an older one is replaced"""
    title: str = "trajmill report"
    """heading of the page"""

    def run(self, progress: Progress) -> Outcome:
        page = write_report(self.runs, self.out, title=self.title)
        return Outcome({"report": str(page)}, f"report: {page}")


COMMANDS = {"": Report}
