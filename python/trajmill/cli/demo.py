"""From a fresh clone to a scored policy, in minutes on two cores and without a network.

Mills a billion Markov-chain tokens and a million MDP transitions, pre-trains CQL critics on the transitions,
fine-tunes with and without them on a bundled Hopper dataset, scores both in MuJoCo, and writes a report. It is a
demonstration, not the paper's experiment: a few thousand updates where the paper makes a million.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Group, RenderableType
from rich.table import Table

from trajmill.cli.progress import duration
from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.pipelines.demo import PAPER_UPDATES, DemoConfig, DemoResult, run_demo
from trajmill.report import Score, read_run, score

EXAMPLES = """
  trajmill demo --out runs/demo
  trajmill demo --out runs/demo-long --finetune-updates 20000 --evaluation-period 2000
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Run the demonstration."""

    config: Annotated[DemoConfig, tyro.conf.arg(name="")] = field(default_factory=DemoConfig)
    out: Path = Path("runs/demo")
    """directory to fill; an earlier demonstration there is replaced, anything else is left alone and refused"""

    def run(self, progress: Progress) -> Outcome:
        """Run it and tell the scores."""
        result = run_demo(self.out, progress, self.config)
        scores = [score(read_run(path)) for path in result.runs.values()]
        scores = [row for row in scores if row.final is not None]
        data = {
            "report": str(result.report),
            "seconds": result.seconds,
            "rates": [{**asdict(rate), "per_second": rate.per_second} for rate in result.rates],
            "scores": [
                {
                    "variant": row.run.variant,
                    "dataset": row.run.dataset,
                    "seeds": row.run.seeds,
                    "average_last_four": asdict(row.final) if row.final else None,
                    "best": row.best,
                    "return": row.raw_return,
                }
                for row in scores
            ],
        }
        return Outcome(data, _text(result, scores, self.config))


def _text(result: DemoResult, scores: list[Score], config: DemoConfig) -> RenderableType:
    rates = Table(title="The mill", title_justify="left", title_style="bold", box=None, pad_edge=False)
    rates.add_column("sampler", header_style="dim", no_wrap=True)
    for name in ("made", "time", "rate"):
        rates.add_column(name, justify="right", header_style="dim", no_wrap=True)
    for rate in result.rates:
        rates.add_row(rate.name, f"{rate.count:,}", f"{rate.seconds:.3f} s", str(rate))
    table = Table(
        title=f"\nNormalized scores on {config.dataset}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("variant", header_style="dim")
    for name in ("final", "95 % interval", "best", "return", "seeds"):
        table.add_column(name, justify="right", header_style="dim")
    for row in scores:
        if row.final is None:
            table.add_row(row.run.variant, "no finite score")
            continue
        table.add_row(
            row.run.variant,
            f"[bold]{row.final.estimate:.1f}[/]",
            f"{row.final.low:.1f} to {row.final.high:.1f}",
            f"{row.best:.1f}",
            f"{row.raw_return:,.0f}",
            str(len(row.run.seeds)),
        )
    return Group(
        rates,
        table,
        f"\nA short demonstration: {config.finetune_updates:,} updates where the paper makes {PAPER_UPDATES:,}.",
        f"Done in {duration(result.seconds)}. Report: {result.report}",
    )


COMMANDS = {"": Demo}
