"""Training from Python in one call, and a run that is on disk as an object."""

from __future__ import annotations

import html
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajmill.core import checks
from trajmill.core.display import display
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.evaluation.statistics import average_last_four
from trajmill.experiments import train as training
from trajmill.experiments.keywords import settings_of
from trajmill.experiments.loggers import loggers_of
from trajmill.experiments.policy import LoadedPolicy, load_policy
from trajmill.report.comparison import number
from trajmill.report.figures import Curve, Panel, curves_svg, standalone
from trajmill.runs.processes import is_one_of_several
from trajmill.runs.reading import RunRecord, Series, read_run
from trajmill.runs.watching import Callback, Logger


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """What is in a run directory, finished or not, as it was when it was read; a path for functions that take one."""

    record: RunRecord
    """everything: settings, circumstances, result, series"""

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.record.path

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.record.kind

    @property
    def seeds(self) -> tuple[int, ...]:
        """The S training seeds."""
        return self.record.seeds

    @property
    def update(self) -> int:
        """The last update on record."""
        return self.record.update

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.record.finished

    @property
    def scores(self) -> dict[int, float]:
        """Of each seed the mean of its last four evaluations, NaN if it diverged; empty if nothing was scored.

        Normalized scores, or returns in environments of which D4RL has no reference; of an unfinished run, so far.
        """
        name, _ = self.record.score
        found = self.record.evaluation(name)
        return {} if found is None else dict(zip(self.seeds, average_last_four(found.values).tolist(), strict=True))

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Series]]:
        """By phase (``train``, ``evaluation``) and name: ``updates`` (n,) and ``values`` (n, S), both NumPy arrays."""
        return self.record.series

    def policy(self, *, seed: int | None = None) -> LoadedPolicy:
        """The newest policies, as `trajmill.load_policy` gives them."""
        return load_policy(self.path, seed=seed)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<run {self.path}: {self._summary()}>"

    def _summary(self) -> str:
        of_data = self.record.dataset or self.record.environment
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        parts = [f"{self.method} on {of_data}" if of_data else self.method, f"{self.update:,} updates", seeds]
        if self.scores:
            parts.append(f"{self.record.score[1]} {number(sum(self.scores.values()) / len(self.scores))}")
        return ", ".join(parts if self.finished else [*parts, "not finished"])

    def _repr_html_(self) -> str:
        """A line and the learning curve, for notebooks."""
        summary = f"<p>{html.escape(self._summary())}<br><small>{html.escape(str(self.path))}</small></p>"
        found = self._curve()
        if found is None:
            return summary
        phase, name, series = found
        label = self.record.score[1] if phase == "evaluation" and name == self.record.score[0] else name
        curve = Curve.of_seeds(0, series.updates, series.values, members=True)
        panel = Panel(title="", x_label="updates", y_label=label.replace("_", " "), curves=[curve], markers=True)
        name = f"run-{zlib.crc32(bytes(self.path)):x}"  # a notebook may show several runs
        svg = curves_svg(name, panel, alternative=f"{label} over updates", size=(6.5, 2.8))
        return summary + standalone(svg).partition("\n")[2]

    def _curve(self) -> tuple[str, str, Series] | None:
        """The phase, name and values that say most of how the run went."""
        score, _ = self.record.score
        for phase in ("evaluation", "train"):
            if metrics := self.metrics.get(phase):
                name = score if score in metrics else next((each for each in metrics if "loss" in each), None)
                name = name or next(iter(metrics))
                return phase, name, metrics[name]
        return None


def load_run(path: AnyPath) -> Run:
    """Read a run directory; ValueError if it is none, or damaged."""
    return Run(read_run(path))


def train(
    method: str,
    /,
    *,
    out: AnyPath,
    updates: int | None = None,
    resume: bool = False,
    processes: int | None = None,
    progress: bool | Progress = True,
    callback: Callback | None = None,
    loggers: str | Sequence[str | Logger] = (),
    **settings: Any,
) -> Run:
    """Train a method, all seeds in one program, and score it as it learns: ``trajmill train`` as a function.

    `settings` are those of the command under the same names, and groups of them are dicts::

        run = tm.train("td3_bc", dataset="hopper-sac-replay-10k", seeds=[0, 1, 2], out="runs/hopper", updates=20_000,
                       method={"hidden_sizes": [512, 512]}, schedule={"evaluation_interval": 2000})

    `updates` is short for ``schedule={"updates": ...}``. The run directory `out` is new, or with `resume` that of an
    unfinished run of the same settings. By default as many `processes` as there are CPU cores share the seeds (one on a
    GPU), with the same result; the script needs no ``if __name__ == "__main__":`` for that.

    `progress` is shown on stderr, on a terminal or in a notebook as bars; False shows none, and a `Progress` replaces
    it. `callback` is called here with each new `trajmill.runs.watching.Record`: ``record.metrics["return_mean"]`` is an
    array with a number for each seed. If it returns True the run stops there with a checkpoint, unfinished; what it
    raises does the same, and is raised. `loggers` are names of ``tensorboard``, ``wandb`` and ``trackio``, or objects
    of `trajmill.experiments.loggers`.

    Ctrl-C stops the run with a checkpoint and raises KeyboardInterrupt; ``resume=True`` continues any run that stopped.
    ValueError and TypeError name settings that are unknown, missing or out of range, before anything is written.
    """
    if updates is not None:
        settings = {"schedule.updates": updates, **settings}
    for name, function in (("progress", progress), ("callback", callback)):
        if not (function is None or isinstance(function, bool) or callable(function)):
            raise TypeError(f"{name} must be a function, got {function!r}")
    checks.boolean("resume", resume)
    path, opened = local_path(out), loggers_of(loggers)
    config = settings_of(method, settings)
    shown = display() if progress is True else nullcontext(progress or silent)
    if processes is None and is_one_of_several():  # such a process starts no others
        processes = 1
    try:
        with shown as reports:
            training.train(config, path, reports, resume=resume, processes=processes, callback=callback, loggers=opened)
    except KeyboardInterrupt as stop:
        stop.add_note(f"The last checkpoint is kept in {path}: call again with resume=True to go on.")
        raise
    return load_run(path)
