"""Benchmark rows and the file they are kept in: machine, versions, commit and command travel with every number."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter

from trajmill.bench import machine
from trajmill.bench.record import Row, keep, row

__all__ = [
    "RESULTS",
    "Row",
    "alternating",
    "dd_read",
    "dd_write",
    "disk",
    "disk_rates",
    "environment",
    "keep",
    "row",
    "seconds",
    "write",
]

RESULTS = Path(__file__).parent / "results"


def seconds(work: Callable[[], object], *, rounds: int = 7, of: Callable[[Sequence[float]], float] = median) -> float:
    """Median time of one call, or what `of` takes of the times, after one call that does not count."""
    work()
    times = []
    for _ in range(rounds):
        started = perf_counter()
        work()
        times.append(perf_counter() - started)
    return of(times)


def alternating(works: Mapping[str, Callable[[], object]], *, rounds: int = 7) -> dict[str, float]:
    """Median seconds of a call of each; rounds alternate, and the first one does not count.

    A call on a GPU waits until its work is done.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = perf_counter()
            work()
            if number > 0:
                times[name].append(perf_counter() - started)
    return {name: median(each) for name, each in times.items()}


def disk() -> Path:
    """The directory whose disk is measured: the first argument, by default the current one."""
    return Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()


def dd(*words: str) -> None:
    """Run ``dd`` with blocks of 16 MiB."""
    subprocess.run(["dd", "bs=16M", *words], check=True, capture_output=True)


def dd_write(path: Path, size: int) -> Callable[[], None]:
    """Write so many bytes past the system's memory."""
    return lambda: dd("if=/dev/zero", f"of={path}", f"count={size // 2**24}", "oflag=direct", "conv=fsync")


def dd_read(path: Path) -> Callable[[], None]:
    """Read a file past the system's memory."""
    return lambda: dd(f"if={path}", "of=/dev/null", "iflag=direct")


def disk_rates(
    works: Mapping[str, Callable[[], object]], size: int, before: Mapping[str, Callable[[], object]]
) -> dict[str, float]:
    """Median GB/s of works on `size` bytes, some `before` which something is called that does not count.

    Rounds alternate, since disks of virtual machines change their minds.
    """
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(5):
        for name, work in works.items():
            before.get(name, bool)()
            started = perf_counter()
            made = work()  # freeing it is another matter
            rates[name].append(size / (perf_counter() - started) / 1e9)
            del made
    return {name: median(values) for name, values in rates.items()}


def environment() -> dict[str, object]:
    """Machine, versions, commit and command."""
    return machine.environment() | {"command": "python " + " ".join(sys.argv)}


def write(name: str, rows: Sequence[Row], out: Path | None = None) -> None:
    """Print the rows and keep them as results/NAME.json, or in another file."""
    keep(out or RESULTS / f"{name}.json", {"rows": [asdict(one) for one in rows]} | environment())
    for one in rows:
        ratio = f"  {one.ratio:,.1f}x {one.against}" if one.ratio is not None else ""
        share = f"  {one.limit_share:.0%} of {one.limit}" if one.limit_share is not None else ""
        print(f"{one.name:<52} {one.value:>10.4g} {one.unit}{ratio}{share}")
