"""Train a method, all seeds in one program, and score it as it learns.

The run directory holds the settings, every metric, the newest checkpoint and, once finished, the scores. An interrupted
run continues from its last checkpoint: give the same command with --resume.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import tyro

from trajmill.algorithms import method_named, method_names
from trajmill.cli.progress import duration
from trajmill.cli.session import Command, Outcome
from trajmill.core.progress import Progress

EXAMPLES = """
  trajmill train METHOD --help
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """What the command asks for beside the settings of the run."""

    out: Path
    """run directory to create"""
    resume: bool = False
    """continue an unfinished run in --out that has the same settings"""
    processes: Annotated[int | None, tyro.conf.arg(aliases=["--workers"])] = None
    """processes that share the seeds, with the same result; None is one per CPU core, or one in all on a GPU"""

    def run(self, progress: Progress) -> Outcome | None:
        """Train."""
        from trajmill.experiments.train import DatasetTrainConfig, TrainConfig, train
        from trajmill.training.distributed import is_first

        parsed: Any = self.config  # type: ignore[attr-defined]
        kind = DatasetTrainConfig if isinstance(parsed, DatasetTrainConfig) else TrainConfig
        config = kind(**{setting.name: getattr(parsed, setting.name) for setting in fields(parsed)})
        path = train(config, self.out, progress, resume=self.resume, processes=self.processes)
        return summary_of(path) if is_first() else None


class Methods(Mapping[str, type[Command]]):
    """The command of each method, made when it is asked for: methods import torch, their names do not."""

    def __getitem__(self, name: str) -> type[Command]:
        if name not in method_names():
            raise KeyError(name)
        from trajmill.experiments.train import DatasetTrainConfig, TrainConfig
        from trajmill.training.settings import Schedule

        method = method_named(name)
        base: Any = DatasetTrainConfig if hasattr(method, "prepare") else TrainConfig
        settings = make_dataclass(
            base.__name__,
            [
                ("method", method.Config, field(default_factory=method.Config)),
                ("schedule", Schedule, field(default=method.SCHEDULE)),
            ],
            bases=(base[method.Config],),
            frozen=True,
            kw_only=True,
            namespace={"__doc__": base.__doc__},
        )
        command = make_dataclass(
            name, [("config", Annotated[settings, tyro.conf.arg(name="")])], bases=(Train,), frozen=True, kw_only=True
        )
        command.__doc__, command.EXAMPLES = method.__doc__, method.EXAMPLES  # type: ignore[attr-defined]
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(method_names())

    def __len__(self) -> int:
        return len(method_names())


def summaries() -> dict[str, str]:
    """What each method is, from the first line of its file."""
    sources = {
        name: (files("trajmill.algorithms") / f"{name}.py").read_text(encoding="utf-8") for name in method_names()
    }
    return {
        name: inspect.cleandoc(ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
        for name, text in sources.items()
    }


def summary_of(path: Path) -> Outcome:
    """What a finished run has to say."""
    from trajmill.report import score
    from trajmill.runs.reading import RESULT, read_run

    run = read_run(path)
    result = dict(run.result or {})
    seeds = f"{len(run.seeds)} seed{'s' * (len(run.seeds) > 1)}"
    lines = [f"{path}: {run.update:,} updates of {seeds} in {duration(run.wall_seconds)}"]
    if result.get("processes", 1) > 1:
        lines[0] += (
            f" by {result['processes']} processes, which shared the seeds (--processes; by default one per CPU core)"
        )
    lines += [f"seed {seed} diverged at update {update:,}" for seed, update in result.get("diverged", {}).items()]
    scored = score(run)
    if scored.final is not None and scored.best is not None:
        interval = f", 95 % interval over seeds {scored.final.low:.1f} to {scored.final.high:.1f}"
        lines.append(
            f"normalized score on {run.dataset}, average of the last {scored.evaluation_count} evaluations: "
            f"{scored.final.estimate:.1f}{interval if len(run.seeds) > 1 else ''}; best {scored.best:.1f}"
        )
    if scored.failed_seeds:
        failed = ", ".join(map(str, scored.failed_seeds))
        lines.append(f"no finite score for seed {failed}, so no mean; each seed's own are in {path / RESULT}")
    return Outcome({"run": str(path), **result}, "\n".join(lines))


COMMANDS = Methods()
SUMMARIES = summaries
