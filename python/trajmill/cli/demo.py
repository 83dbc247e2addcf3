"""From a fresh clone to a policy that beats its data, in minutes on two cores and without a network.

Mills a billion Markov-chain tokens and a million MDP transitions, trains TD3+BC on a bundled Hopper dataset, scores it
in MuJoCo beside the policy that recorded the data, and writes a report. A two-second probe says first how long all this
will take; on a slow or busy machine training is shortened.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Group, RenderableType
from rich.markup import escape

from trajmill.cli.session import Outcome, columns
from trajmill.core.progress import Progress, duration, silent
from trajmill.experiments.demo import DemoConfig, DemoPlan, DemoResult, run_demo

EXAMPLES = """
  trajmill demo --out runs/demo
  trajmill demo --out runs/demo-long --updates 50000 --seconds 3600
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Run the demonstration."""

    config: Annotated[DemoConfig, tyro.conf.arg(name="")] = field(default_factory=DemoConfig)
    out: Path = Path("runs/demo")
    """directory to fill; an earlier demonstration there is replaced, anything else is left alone and refused"""

    def run(self, progress: Progress) -> Outcome:
        """Run it and show what came out."""

        def announce(plan: DemoPlan) -> None:
            if progress is not silent:
                print(plan, file=sys.stderr)

        result = run_demo(self.out, progress, self.config, announce=announce)
        data = {
            "report": str(result.report),
            "run": str(result.run),
            "seconds": result.seconds,
            "plan": asdict(result.plan),
            "rates": [{**asdict(rate), "per_second": rate.per_second} for rate in result.rates],
            "data_score": result.data_score,
            "policy_score": asdict(result.policy_score),
        }
        return Outcome(data, _text(result, self.config))


def _text(result: DemoResult, config: DemoConfig) -> RenderableType:
    rates = columns("sampler", right=("made", "time", "rate"))
    for rate in result.rates:
        rates.add_row(rate.name, f"{rate.count:,}", f"{rate.seconds:.3f} s", str(rate))
    scores = columns("policy", right=("score", "95 % interval", "seeds"))
    scores.add_row("that recorded the data", f"{result.data_score:.1f}", "", "")
    policy = result.policy_score
    interval = f"{policy.low:.1f} to {policy.high:.1f}"
    scores.add_row("learned by TD3+BC", f"[bold]{policy.estimate:.1f}[/]", interval, str(len(config.seeds)))
    end = escape(f"Done in {duration(result.seconds)}. Report: {result.report}")
    return Group(
        "[bold]The mill[/]",
        rates,
        f"\n[bold]Normalized scores on {escape(config.dataset)}[/]",
        scores,
        f"\n{result.verdict}",
        end,
    )


COMMANDS = {"": Demo}
