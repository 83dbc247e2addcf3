"""Run one subject: its groups share the time, and the machine is watched meanwhile."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from time import perf_counter

from trajmill.bench.group import Builder, Options
from trajmill.bench.machine import Load, clock_complaints, environment
from trajmill.bench.measure import in_turns
from trajmill.bench.record import Missing, Rate, Result
from trajmill.core import checks
from trajmill.core.progress import Progress, silent

SUBJECTS = ("sampler", "corpus", "replay", "feed", "training")
SCATTER = 0.15
"""width between the quartiles of one of our rates, over its median, from which the result counts as busy"""
ABOVE = 1.1
"""share of a limit that cannot be right: one of both was disturbed"""


def bench(subject: str, options: Options, seconds: float, progress: Progress = silent) -> Result:
    """Measure one of `SUBJECTS` for about so many seconds, which its groups share, making them ready included."""
    try:
        module = importlib.import_module(f"trajmill.bench.{checks.choice('subject', subject, SUBJECTS)}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("trajmill"):
            raise
        fault = f"the benchmark of {subject} needs {error.name}, which is not installed"
        raise RuntimeError(f"{fault}: pip install 'trajmill[train]'") from error
    return measured(subject, module.groups(options), options, seconds, progress)


def measured(
    subject: str, builders: Sequence[Builder], options: Options, seconds: float, progress: Progress = silent
) -> Result:
    """Make groups ready one after another, time each, and say what may have disturbed it."""
    began, seen = perf_counter(), [Load.now()]
    rows: list[Rate] = []
    missing: list[Missing] = []
    for number, build in enumerate(builders):
        progress(f"bench {subject}", number, len(builders), "groups")
        with ExitStack() as stack:
            group = build(options, stack)
            share = (seconds - (perf_counter() - began)) / (len(builders) - number)
            in_turns([entry.contender for entry in group.entries], max(share, 0.0))
            rows += group.rates()
            missing += group.missing
        seen.append(Load.now())
    progress(f"bench {subject}", len(builders), len(builders), "groups")
    complaints = [
        *seen[-1].complaints_since(seen[0]),
        *clock_complaints(seen[1:]),
        *scattered(rows),
        *above_limits(rows),
    ]
    return Result(
        subject=subject,
        options={name: str(value) if name == "folder" else value for name, value in asdict(options).items()},
        seconds=perf_counter() - began,
        busy=bool(complaints),
        warnings=complaints,
        missing=missing,
        rows=rows,
        environment=environment(),
    )


def scattered(rows: Sequence[Rate]) -> list[str]:
    """A complaint about our rates whose quartiles are far apart."""
    wide = [rate for rate in rows if rate.role == "ours" and rate.high - rate.low > SCATTER * rate.value]
    if not wide:
        return []
    worst = max(wide, key=lambda rate: (rate.high - rate.low) / rate.value)
    width = (worst.high - worst.low) / worst.value
    return [
        f"{len(wide)} of {sum(rate.role == 'ours' for rate in rows)} rates of trajmill scatter, most of all "
        f"{worst.name!r} ({worst.group}), whose quartiles are {width:.0%} of the median apart"
    ]


def above_limits(rows: Sequence[Rate]) -> list[str]:
    """A complaint about rates that are higher than what is possible."""
    return [
        f"{rate.name!r} ({rate.group}) is at {rate.limit_share:.0%} of {rate.limit}, so one of both was disturbed"
        for rate in rows
        if rate.limit_share is not None and rate.limit_share > ABOVE
    ]
