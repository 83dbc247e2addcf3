"""Make many more transitions like those of a dataset: a model learns them and is sampled.

DATASET is a name or path of any dataset that is read here: D4RL's HDF5, Minari, SynthER's npz. The model is trained in
OUT/model, its transitions are kept in OUT/shards, and --export writes them into one file. Before the work begins, a
probe of two seconds says how long it will take, and how much disk and memory; --estimate says only that. Interrupted or
killed at any point, the same command continues and ends with the same bytes.

Discrete actions, one column of whole numbers, are one-hot inside and numbers again in the results. Images must be
encoded into vectors first. No environment is needed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trajmill.algorithms import method_named
from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress, duration, silent

EXAMPLES = """
  trajmill upsample hopper-sac-replay-10k --count 5M --out runs/more
  trajmill upsample hopper-sac-replay-10k --count 5M --out runs/more --estimate
  trajmill upsample hopper-sac-replay-10k --count 250k --out runs/fast --sampler fast --method.width 256
  trajmill upsample A.hdf5 --count 5M --model runs/model --export d4rl synther --out runs/again
  trajmill upsample hopper-sac-replay-10k --count 1M --noise-level 1.0 --precision bf16 --out runs/near
"""
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_count(text: str) -> int:
    """``5M``, ``250k``, ``1_000_000`` or ``1.5M``."""
    match = re.fullmatch(r"(\d[\d_,]*)(\.\d+)?([kmg]?)", text.strip().lower())
    exact = match and float(f"0{match[2] or ''}") * _FACTORS[match[3]]
    if match is None or exact is None or exact != round(exact):
        raise ValueError(f"a count is a whole number such as 5M, 250k or 1_000_000, got {text!r}")
    return int(re.sub("[_,]", "", match[1])) * _FACTORS[match[3]] + round(exact)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsample:
    """What the command asks for beside the settings of the method, which follow from its name."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """name of a bundled dataset, or path of a file"""
    count: Annotated[str, tyro.conf.arg(metavar="N")]
    """transitions to make: 5M, 250k, 1_000_000"""
    out: Path
    """directory to create, or to continue"""
    estimate: tyro.conf.FlagCreatePairsOff[bool] = False
    """say what it would take, and do nothing"""
    model: Path | None = None
    """run directory of a finished model of the same dataset and method; by default one is trained"""
    limit: int | None = None
    """steps, at least 1, after which the environment cut episodes, where the file does not mark it"""
    export: tuple[Literal["d4rl", "minari", "synther"], ...] = ("d4rl",)
    """files to write: d4rl is OUT/upsampled.hdf5, synther OUT/upsampled.npz, minari OUT/upsampled-v0"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of making transitions: bf16 takes half the time where the hardware has it; --compute.precision is training's"""
    quality: bool = True
    """do not measure 50,000 of the transitions beside the real ones, which OUT/quality.html shows"""
    seed: int = 0
    """names the model and its transitions, [0, 2^64)"""

    def run(self, progress: Progress) -> Outcome:
        from trajmill.experiments.upsample import Job, UpsampleConfig

        given: Any = self
        config = UpsampleConfig(
            count=parse_count(self.count),
            method=given.settings,
            sampling=given.sampling,
            schedule=given.schedule,
            compute=given.compute,
            precision=self.precision,
            seed=self.seed,
            model=self.model,
            limit=self.limit,
            export=self.export,
            quality=self.quality,
        )
        job = Job.of(self.dataset, self.out, config)
        if self.estimate or not (job.finished or progress is silent):
            estimate = job.estimate()
            if self.estimate:
                return Outcome(asdict(estimate), str(estimate))
            print(estimate, file=sys.stderr)
        made = job.run(progress)
        return Outcome(asdict(made), self._summary(made))

    def _summary(self, made: Any) -> str:
        """What was made, and what to do with it."""
        share = f"{made.terminal_count / made.count:.2%} of the rows, {made.real_terminal_share:.2%} in the data"
        lines = [
            f"{made.directory}: {made.count:,} transitions, {made.made:,} of them new, in {duration(made.seconds)}"
        ]
        lines += [f"model: {made.model}", *(f"{name}: {path}" for name, path in made.files.items())]
        lines += [f"quality: {made.report}"] if made.report is not None else []
        lines.append(f"terminals: {made.terminal_count:,} ({share})")
        outside = ", ".join(f"{value:.2%} of the {name}" for name, value in made.outside.items())
        lines.append(f"outside the range of the data: {outside}")
        if made.category_count:
            lines.append(f"actions: {made.category_count} discrete ones")
        if made.constant_columns:
            listed = ", ".join(made.constant_columns[:8]) + (", ..." if len(made.constant_columns) > 8 else "")
            lines.append(f"constant in the data, and so in what was made: {listed}")
        if "d4rl" in made.files and not made.category_count:  # the agents here have continuous actions
            path = made.files["d4rl"]
            lines.append(
                f"train on it: trajmill train METHOD --dataset {self.dataset} --mix {path}=0.5 --out runs/mixed"
            )
        return "\n".join(lines)


def command_of(words: Sequence[str]) -> type[Upsample]:
    """The command for the method that the words name, or for the default one, with its settings."""
    from trajmill.algorithms import synthesizing_methods
    from trajmill.training.device import ComputeConfig
    from trajmill.training.settings import Schedule

    names = synthesizing_methods()
    given = [word.removeprefix("--method=") for word in words if word.startswith("--method=")]
    given += [word for flag, word in pairwise(words) if flag == "--method"]
    method = method_named(given[-1] if given and given[-1] in names else names[0])
    chosen: Any = Literal[tuple(names)]
    own: list[Any] = [
        ("method", Annotated[chosen, tyro.conf.arg(help="what learns and makes the transitions")], names[0]),
        ("sampling", Annotated[method.Sampling, tyro.conf.arg(name="")], field(default_factory=method.Sampling)),
        ("settings", Annotated[method.Config, tyro.conf.arg(name="method")], field(default_factory=method.Config)),
        ("schedule", Schedule, method.SCHEDULE),
        ("compute", ComputeConfig, field(default_factory=ComputeConfig)),
    ]
    command = make_dataclass("Upsample", own, bases=(Upsample,), frozen=True, kw_only=True)
    command.__doc__ = Upsample.__doc__
    return command


COMMANDS = {"": command_of}
