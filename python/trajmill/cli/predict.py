"""Measure how far the predictions of a trained model of the dynamics are off.

Errors are mean squared errors of standardized next observations, one to five steps ahead and by the distance to the
nearest row that the model learned from, beside those of predicting no change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Group

from trajmill.cli.session import Outcome, columns
from trajmill.core.progress import Progress
from trajmill.experiments.prediction import PredictConfig, measure_predictions

EXAMPLES = """
  trajmill predict runs/model
  trajmill predict runs/model --dataset other.hdf5 --horizon 3
  trajmill predict runs/model --seed 0 --json
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """Measure a run's model."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """directory of a training run"""
    config: Annotated[PredictConfig, tyro.conf.arg(name="")] = field(default_factory=PredictConfig)

    def run(self, progress: Progress) -> Outcome:
        report = measure_predictions(self.path, self.config, progress)
        heads = ("rows", "model", "no change")
        ahead, near = columns(right=("steps ahead", *heads)), columns(right=("distance to the data", *heads))
        for step in report.ahead:
            ahead.add_row(str(step.steps), f"{step.row_count:,}", f"{step.error:.4f}", f"{step.identity_error:.4f}")
        for group in report.by_distance:
            distance = f"{group.nearest:.2f} to {group.farthest:.2f}"
            near.add_row(distance, f"{group.row_count:,}", f"{group.error:.4f}", f"{group.identity_error:.4f}")
        which = "all rows of" if self.config.dataset else "held-out rows of"
        heading = (
            f"{which} {report.dataset}, {report.update:,} updates; mean squared error of standardized observations"
        )
        return Outcome(report.to_dict(), Group(heading, "", ahead, "", near))


COMMANDS = {"": Predict}
