"""Benchmark rows and the file they are kept in: machine, versions, commit and command travel with every number."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

import trajmill
from trajmill.core.files import write_whole

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured value, what it is measured against, and how far the limit is."""

    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None
    limit: str | None = None
    limit_share: float | None = None


def row(
    name: str, value: float, unit: str, *, over: tuple[str, float] | None = None, limit: tuple[str, float] | None = None
) -> Row:
    """A row whose value is compared with another one, and with a limit, each by its name."""
    against, ratio = (None, None) if over is None else (over[0], value / over[1])
    bound, share = (None, None) if limit is None else (limit[0], value / limit[1])
    return Row(name=name, value=value, unit=unit, against=against, ratio=ratio, limit=bound, limit_share=share)


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
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:  # no git there
        commit = ""
    found = {module: getattr(sys.modules.get(module), "__version__", None) for module in ("torch", "jax")}
    return {
        "machine": {"cpu": cpu, "simd": trajmill._core.simd_level(), "system": platform.platform()},
        "versions": {
            **{"trajmill": trajmill.__version__, "numpy": np.__version__, "python": platform.python_version()},
            **{module: str(version) for module, version in found.items() if version is not None},
        },
        "commit": commit,
        "command": "python " + " ".join(sys.argv),
    }


def keep(path: Path, record: Mapping[str, object]) -> None:
    """Write a record whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())


def write(name: str, rows: Sequence[Row], out: Path | None = None) -> None:
    """Print the rows and keep them as results/NAME.json, or in another file."""
    keep(out or RESULTS / f"{name}.json", {"rows": [asdict(row) for row in rows]} | environment())
    for row in rows:
        ratio = f"  {row.ratio:,.1f}x {row.against}" if row.ratio is not None else ""
        share = f"  {row.limit_share:.0%} of {row.limit}" if row.limit_share is not None else ""
        print(f"{row.name:<52} {row.value:>10.4g} {row.unit}{ratio}{share}")
