"""Progress for people: bars on a terminal, otherwise a line every few seconds. Both show rate and time left."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TextIO

import rich.progress
from rich.console import Console
from rich.text import Text

from trajmill.core.plain_text import plain_text
from trajmill.core.progress import Progress, duration

__all__ = ["PlainProgress", "RichProgress", "amount", "display", "duration", "rate"]

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0
RATE_LINES = 12
"""lines from which a running task's rate is taken, so that a slow beginning is forgotten"""
BAR_MINIMUM_WIDTH = 110
"""columns of a terminal that has room for a bar beside the numbers"""


def display() -> AbstractContextManager[Progress]:
    """Progress for whoever looks at stderr: bars on a terminal and, with ipywidgets, in a notebook; else lines."""
    in_notebook = Console().is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    return RichProgress() if sys.stderr.isatty() or in_notebook else nullcontext(PlainProgress(sys.stderr))


class RichProgress(rich.progress.Progress):
    """Bars on the terminal behind stderr."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        super().__init__(
            rich.progress.TextColumn("{task.description}", markup=False),
            *([rich.progress.BarColumn(bar_width=24)] if console.width >= BAR_MINIMUM_WIDTH else []),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[amount]}", style="dim"),
            _RateColumn(),
            rich.progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            refresh_per_second=1 / REDRAW_SECONDS,
            speed_estimate_period=10.0,
        )
        self._numbers: dict[str, rich.progress.TaskID] = {}
        self._drawn: dict[str, float] = {}

    def __call__(self, task: str, completed: int, total: int, unit: str) -> None:
        """Move the bar of `task`, which appears when it is first named."""
        now = time.monotonic()
        if completed < total and now - self._drawn.get(task, 0.0) < REDRAW_SECONDS:
            return
        self._drawn[task] = now
        done = f"{amount(completed)} / {amount(total)} {unit}"
        if task not in self._numbers:
            self._numbers[task] = self.add_task(plain_text(task, keep=""), total=total, unit=unit, amount=done)
        number = self._numbers[task]
        if completed < total and self._tasks[number].finished:  # it begins again
            self.reset(number)
        self.update(number, completed=completed, total=total, amount=done)


class _RateColumn(rich.progress.ProgressColumn):
    """``407 updates/s``: of the last seconds while running, of the whole when done."""

    def render(self, task: rich.progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate(speed, task.fields["unit"]) if speed else "", style="cyan")


@dataclass(slots=True)
class _Line:
    """What a plain line needs to remember of its task."""

    points: deque[tuple[float, int]]
    """when so many units were done: at the lines printed last"""
    started: tuple[float, int]
    finished: bool = False


class PlainProgress:
    """A line for each running task every five seconds, and one when it is done."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lines: dict[str, _Line] = {}

    def __call__(self, task: str, completed: int, total: int, unit: str) -> None:
        """Print if it is time to."""
        now = self._clock()
        line = self._lines.get(task)
        if line is None or (line.finished and completed < total):
            line = self._lines[task] = _Line(deque([(now, completed)], RATE_LINES), (now, completed))
        done = completed >= total
        if line.finished or (not done and now - line.points[-1][0] < LINE_SECONDS):
            return
        since, first = line.started if done else line.points[0]
        line.points.append((now, completed))
        line.finished = done
        elapsed = now - since
        speed = (completed - first) / elapsed if elapsed > 0 else 0.0
        parts = [f"{task}: {amount(completed)} / {amount(total)} {unit}"]
        if speed > 0:
            parts.append(rate(speed, unit))
            parts.append(f"{duration(elapsed)} in all" if done else f"{duration((total - completed) / speed)} left")
        print(plain_text("  ".join(parts), keep=""), file=self._stream, flush=True)


def amount(count: float) -> str:
    """Count for people: 12,000 in full, from ten million on 250 M or 1.00 G."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} G"
    return f"{count / 1e6:.0f} M" if count >= 1e7 else f"{count:,.0f}"


def rate(per_second: float, unit: str) -> str:
    """Rate for people, three digits: ``0.94 G tokens/s``, ``37.2 M rows/s``, ``407 updates/s``, ``3.1 updates/s``."""
    for least, size, prefix in ((5e8, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if per_second >= least:
            return f"{per_second / size:.3g} {prefix} {unit}/s"
    return f"{per_second:,.0f} {unit}/s" if per_second >= 100 else f"{per_second:.1f} {unit}/s"
