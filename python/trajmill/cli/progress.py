"""Progress for people: bars on a terminal, a line every few seconds elsewhere. Both show rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

import rich.progress
from rich.console import Console
from rich.text import Text

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0
BAR_MINIMUM_WIDTH = 110
"""columns of a terminal that has room for a bar beside the numbers"""


class RichProgress:
    """Bars on the terminal behind stderr."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        bar = [rich.progress.BarColumn(bar_width=24)] if console.width >= BAR_MINIMUM_WIDTH else []
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            *bar,
            rich.progress.TaskProgressColumn(),
            _AmountColumn(),
            _RateColumn(),
            rich.progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            refresh_per_second=1 / REDRAW_SECONDS,
            speed_estimate_period=10.0,
        )
        self._tasks: dict[str, rich.progress.TaskID] = {}
        self._drawn: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, task: str, completed: int, total: int, unit: str) -> None:
        """Move the bar of `task`, which appears when it is first named."""
        now = time.monotonic()
        if completed < total and now - self._drawn.get(task, 0.0) < REDRAW_SECONDS:
            return
        self._drawn[task] = now
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(task, total=total, unit=unit)
        self._bars.update(self._tasks[task], completed=completed, total=total)


class _AmountColumn(rich.progress.ProgressColumn):
    """``12,000 / 100,000 updates``."""

    def render(self, task: rich.progress.Task) -> Text:
        return Text(f"{amount(task.completed)} / {amount(task.total or 0)} {task.fields['unit']}", style="dim")


class _RateColumn(rich.progress.ProgressColumn):
    """``407 updates/s``: of the last seconds while running, of the whole when done."""

    def render(self, task: rich.progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate(speed, task.fields["unit"]) if speed else "", style="cyan")


@dataclass(slots=True)
class _Line:
    """What a plain line needs to remember of its task."""

    started: float
    first: int
    printed: float
    finished: bool = False


class PlainProgress:
    """A line for each running task every five seconds, and one when it is done."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lines: dict[str, _Line] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()

    def __call__(self, task: str, completed: int, total: int, unit: str) -> None:
        """Print if it is time to."""
        now = self._clock()
        line = self._lines.get(task)
        if line is None or (line.finished and completed < total):
            line = self._lines[task] = _Line(started=now, first=completed, printed=now)
        done = completed >= total
        if line.finished or (not done and now - line.printed < LINE_SECONDS):
            return
        line.printed, line.finished = now, done
        elapsed = now - line.started
        speed = (completed - line.first) / elapsed if elapsed > 0 else 0.0
        parts = [f"{task}: {amount(completed)} / {amount(total)} {unit}"]
        if speed > 0:
            parts.append(rate(speed, unit))
            parts.append(f"{duration(elapsed)} in all" if done else f"{duration((total - completed) / speed)} left")
        print("  ".join(parts), file=self._stream, flush=True)


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


def duration(seconds: float) -> str:
    """Time for people: ``4.2 s``, ``48 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
