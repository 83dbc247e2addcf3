"""Cores and memory that this process may use: of a container its own, not the machine's."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, by its affinity and its control groups' quota; a part of one counts whole."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    return min(here, _quota(root))


@cache  # draws ask for it, and reading takes as long as a small draw
def _quota(root: Path) -> int:
    quotas = [2**30]
    for directory in _groups(root, "cpu"):
        quota, period = (*_words(directory / "cpu.max"), "max", "100000")[:2]
        if quota == "max":  # no version 2 here, or no limit
            quota = next(iter(_words(directory / "cpu.cfs_quota_us")), "-1")
            period = next(iter(_words(directory / "cpu.cfs_period_us")), "100000")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            quotas.append(max(1, math.ceil(int(quota) / int(period))))
    return min(quotas)


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the machine's, or fewer where a control group says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for directory in _groups(root, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limits += [int(word) for word in _words(directory / name) if word.isdecimal()]
    return min(limits)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Directories of the control groups that this process is in, of version 2 and 1, with those above them.

    Within a container the path of a group may be the host's, of which only the end is visible: the top always counts.
    """
    top = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = (*line.split(":", 2), "", "")[:3]
        tops = [top, top / "unified"] if names == "" else [top / controller] * (controller in names.split(","))
        for each in tops:
            group = each / path.lstrip("/")
            yield from (place for place in (group, *group.parents) if place == each or each in place.parents)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
