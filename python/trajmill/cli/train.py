"""Train a method, all seeds in one program, and score it as it learns.

The run directory holds the settings, every metric, the newest checkpoint and, once finished, the scores. An interrupted
run continues from its last checkpoint: give the same command with --resume.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trajmill.algorithms import learns_online, method_named, method_names, name_of, synthesizing_methods
from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress, duration, silent

EXAMPLES = """
  trajmill train METHOD --help
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """What the command asks for beside the settings of the run."""

    out: Path
    """run directory to create"""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """continue an unfinished run in --out that has the same settings"""
    processes: Annotated[int | None, tyro.conf.arg(aliases=["--workers"])] = None
    """processes that share the seeds; by default one per CPU core, or one in all on a GPU. The result is the same, on
    CPUs with one --compute.threads to the last bit, else up to rounding"""
    log: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """loggers that get all metrics too; each is an extra: pip install 'trajmill[tensorboard]'"""

    def run(self, progress: Progress) -> Outcome | None:
        from trajmill.experiments.loggers import logger_named
        from trajmill.experiments.settings import OnlineTrainConfig
        from trajmill.experiments.train import train
        from trajmill.training.distributed import is_first

        config = config_of(self.config)  # type: ignore[attr-defined]
        if isinstance(config, OnlineTrainConfig) and config.synthesis.every is not None and progress is not silent:
            from trajmill.experiments.synthesis import cost

            print(cost(config, self.out), file=sys.stderr)
        loggers = [logger_named(name) for name in self.log]
        path = train(config, self.out, progress, resume=self.resume, processes=self.processes, loggers=loggers)
        return summary_of(path) if is_first() else None


def config_of(parsed: Any) -> Any:
    """The settings that were parsed, as a record of the kind that `experiments` knows."""
    from trajmill.experiments.settings import kind_of_settings

    kind, _ = kind_of_settings(method_named(name_of(parsed.method)))
    return kind(**{setting.name: getattr(parsed, setting.name) for setting in fields(parsed)})


def settings_of(name: str) -> type[Any]:
    """What a run of a method can be told, with the method's own defaults."""
    from trajmill.experiments.settings import SynthesisConfig, kind_of_settings

    method = method_named(name)
    base: Any
    base, defaults = kind_of_settings(method)
    own = [(name, type(default), field(default=default)) for name, default in defaults.items()]
    if learns_online(method):
        model: Any = method_named(synthesizing_methods()[0])
        synthesis: Any = SynthesisConfig[model.Config, model.Sampling]
        own.append(("synthesis", synthesis, field(default_factory=SynthesisConfig)))
    settings = make_dataclass(base.__name__, own, bases=(base[method.Config],), frozen=True, kw_only=True)
    settings.__doc__ = base.__doc__
    return settings


def command_of(name: str, words: Sequence[str] = ()) -> type[Train]:
    """The command of a method, made when it is asked for: methods import torch, their names do not."""
    method, settings = method_named(name), settings_of(name)
    parsed = ("config", Annotated[settings, tyro.conf.arg(name="")])
    command = make_dataclass(name, [parsed], bases=(Train,), frozen=True, kw_only=True)
    command.__doc__, command.EXAMPLES = method.__doc__, method.EXAMPLES  # type: ignore[attr-defined]
    return command


def summaries() -> dict[str, str]:
    """What each method is, from the first line of its file."""
    folder = files("trajmill.algorithms")
    modules = {name: ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")) for name in method_names()}
    return {name: (ast.get_docstring(module) or "").partition("\n")[0] for name, module in modules.items()}


def summary_of(path: Path) -> Outcome:
    """The scores of a finished run, or what it says in their place."""
    from trajmill.report import score
    from trajmill.runs.reading import RESULT, read_run

    run = read_run(path)
    result = dict(run.result or {})
    seeds = f"{len(run.seeds)} seed{'s' * (len(run.seeds) > 1)}"
    lines = [f"{path}: {run.update:,} updates of {seeds} in {duration(run.wall_seconds)}"]
    if result.get("processes", 1) > 1:
        shared = "which shared the seeds (--processes; by default one per CPU core)"
        lines[0] += f" by {result['processes']} processes, {shared}"
    lines += [f"seed {seed} diverged at update {update:,}" for seed, update in result.get("diverged", {}).items()]
    if run.series.get("start"):
        found = (f"{name} {series.values[-1].mean():.1f}" for name, series in run.series["start"].items())
        lines.append(f"before the first update, mean over seeds: {', '.join(found)}")
    scored = score(run)
    if scored.final is not None and scored.best is not None:
        interval = f", 95 % interval over seeds {scored.final.low:.1f} to {scored.final.high:.1f}"
        lines.append(
            f"{run.score[1]} on {run.dataset}, average of the last {scored.evaluation_count} evaluations: "
            f"{scored.final.estimate:.1f}{interval if len(run.seeds) > 1 else ''}; best {scored.best:.1f}"
        )
    if scored.failed_seeds:
        failed = ", ".join(map(str, scored.failed_seeds))
        lines.append(f"no finite score for seed {failed}, so no mean; each seed's own are in {path / RESULT}")
    return Outcome({"run": str(path), **result}, "\n".join(lines))


COMMANDS = {name: partial(command_of, name) for name in method_names()}
SUMMARIES = summaries
