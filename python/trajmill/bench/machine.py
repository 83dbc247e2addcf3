"""Which machine it is, and whether anything else used it while it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import trajmill
from trajmill import _core
from trajmill.core import limits

OTHERS_CORES = 0.25
"""cores that other processes may use before a machine counts as busy"""
STOLEN = 0.01
"""share of this machine's time that a hypervisor may give to others"""
CLOCK_CHANGE = 0.1
"""relative change of a core's frequency that is reported"""
MODULES = ("torch", "jax", "numba", "cpprb", "torchrl", "stable_baselines3")


def environment() -> dict[str, object]:
    """Machine, versions, commit (of a checkout) and command: what goes with every number."""
    found = {module: getattr(sys.modules.get(module), "__version__", None) for module in MODULES}
    return {
        "machine": machine(),
        "versions": {
            **{"trajmill": trajmill.__version__, "numpy": np.__version__, "python": platform.python_version()},
            **{module: str(version) for module, version in found.items() if version is not None},
        },
        "commit": commit(Path(trajmill.__file__).resolve().parents[2]),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def machine(root: Path = Path("/")) -> dict[str, object]:
    """Processor, instruction set in use, system, cores and memory of this process, and who sets the frequency."""
    lines = _lines(root / "proc/cpuinfo")
    governors = sorted({_text(path) for path in root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")})
    return {
        "cpu": next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown"),
        "simd": _core.simd_level(),
        "system": platform.platform(),
        "cores": limits.usable_cores(),
        "memory_gib": round(limits.usable_memory() / 2**30, 1),
        "governor": ", ".join(governors) or "unknown",
    }


def commit(root: Path) -> str:
    """The commit of a checkout at `root`, or nothing: an installed package is known by its version."""
    if not (root / ".git").exists():
        return ""
    try:
        words = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git there
        return ""


@dataclass(frozen=True, slots=True)
class Load:
    """What the machine had done at one moment."""

    seconds: float
    """of the clock"""
    own: float
    """processor seconds of this process and those it started"""
    busy: float | None
    """processor seconds of all processes that the system shows; None if it shows none"""
    stolen: float
    """seconds that a hypervisor gave to others"""
    cores: int
    """that `busy` and `stolen` are the sum of"""
    hertz: tuple[float, ...]
    """of each core, where the system tells"""

    @classmethod
    def now(cls, root: Path = Path("/")) -> Load:
        """Read it."""
        lines, tick = _lines(root / "proc/stat"), os.sysconf("SC_CLK_TCK")
        # user nice system idle iowait irq softirq steal guest guest_nice
        ticks = next(([int(word) for word in line.split()[1:9]] for line in lines if line.startswith("cpu ")), None)
        times, busy, stolen = os.times(), None, 0.0
        if ticks is not None and len(ticks) == 8:
            user, nice, system, _, _, irq, soft, steal = ticks
            busy, stolen = (user + nice + system + irq + soft) / tick, steal / tick
        paths = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        return cls(
            seconds=time.monotonic(),
            own=times.user + times.system + times.children_user + times.children_system,
            busy=busy,
            stolen=stolen,
            cores=max(1, sum(line.startswith("cpu") for line in lines) - 1),
            hertz=tuple(1e3 * float(text) for path in paths if (text := _text(path)).isdecimal()),
        )

    def complaints_since(self, before: Load) -> Iterator[str]:
        """Why what was measured since an earlier moment may be too slow."""
        passed = max(self.seconds - before.seconds, 1e-9)
        if self.busy is not None and before.busy is not None:
            others = (self.busy - before.busy - (self.own - before.own)) / passed
            if others > OTHERS_CORES:
                yield f"other processes used {others:.1f} of {self.cores} cores while this was measured"
        stolen = (self.stolen - before.stolen) / passed / self.cores
        if stolen > STOLEN:
            yield f"the hypervisor gave {stolen:.0%} of this machine's time to others"


def clock_complaints(seen: list[Load]) -> Iterator[str]:
    """Whether the fastest core was slower at some of these moments than at others."""
    fastest = [max(load.hertz) for load in seen if load.hertz]
    if fastest and min(fastest) < (1 - CLOCK_CHANGE) * max(fastest):
        yield f"the fastest core ran at {min(fastest) / 1e9:.1f} to {max(fastest) / 1e9:.1f} GHz"


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
