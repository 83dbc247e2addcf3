"""Say how good synthetic transitions are: beside real ones, and every number beside what real rows get in their place.

Marginal scores (1 minus the largest distance of the distributions), correlation, distance to the nearest real row,
memorized and copied rows, numbers out of range. If the data is from a known environment, the simulator repeats the
steps, and the errors stand beside those of real rows with noise that are as far from the data as the synthetic rows.

Floors come from real rows: hold some back from the model, best whole episodes, and give them as --held-out. Without
them half of the real rows stand in for the synthetic ones, which tells as much about everything but memorizing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import ConsoleRenderable, Group
from rich.markup import escape

from trajmill.cli.session import Outcome, columns
from trajmill.core.files import check_writable
from trajmill.core.progress import Progress
from trajmill.data import load_dataset, qlearning_transitions
from trajmill.data.environments import simulated_environment
from trajmill.evaluation.quality import NoiseKind, measure_quality
from trajmill.report.quality import findings_table, write_quality_report

EXAMPLES = """
  trajmill quality train.hdf5 samples.npz --held-out held-out.hdf5 --out quality.html
  trajmill quality halfcheetah-sac-replay-10k samples.npz --rows 5000 --json
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureQuality:
    """Measure synthetic transitions against real ones."""

    real: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REAL")]
    """name or path of the dataset that the model learned from"""
    synthetic: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SYNTHETIC")]
    """path of what it made: .npz as SynthER's, or any other dataset"""
    held_out: str | None = None
    """name or path of real rows that it did not learn from, for the floors"""
    limit: int | None = None
    """steps, at least 1, after which the environment cut episodes, where files do not mark it"""
    out: Path | None = None
    """write an HTML page with pictures too; an older one is replaced"""
    rows: int = 50_000
    """most rows of each side, >= 2; nearest rows are looked for among all real ones"""
    environment: str | None = None
    """Gymnasium id for the simulator; by default the real dataset's own, "none" for no simulator"""
    noise: NoiseKind = "additive"
    """the noise to compare with"""
    seed: int = 0
    """names the draw of rows and noise, [0, 2^64)"""

    def run(self, progress: Progress) -> Outcome:
        if self.out is not None:
            check_writable(self.out, as_file=True)
        real, synthetic = load_dataset(self.real, limit=self.limit), load_dataset(self.synthetic, limit=self.limit)
        held_out = None if self.held_out is None else load_dataset(self.held_out, limit=self.limit)
        quality = measure_quality(
            qlearning_transitions(real),
            qlearning_transitions(synthetic),
            held_out=None if held_out is None else qlearning_transitions(held_out),
            environment_id=simulated_environment(real) if self.environment is None else _named(self.environment),
            row_count=self.rows,
            noise=self.noise,
            seed=self.seed,
            progress=progress,
        )
        heads, *lines = findings_table(quality)
        table = columns(heads[0], right=heads[1:3])
        table.add_column(heads[3])
        for line in lines:
            table.add_row(*map(escape, line))
        told: list[ConsoleRenderable | str] = [
            f"{quality.row_count:,} rows of each side; {quality.real_count:,} real rows searched",
            table,
        ]
        if self.out is not None:
            told.append(escape(f"report: {write_quality_report(quality, self.out)}"))
        return Outcome(asdict(quality), Group(*told))


def _named(environment: str) -> str | None:
    return None if environment == "none" else environment


COMMANDS = {"": MeasureQuality}
