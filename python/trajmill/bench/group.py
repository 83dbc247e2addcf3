"""Contenders that are timed together: trajmill, its peers, and the limits that its rates are held against."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajmill.bench.measure import Contender, calling
from trajmill.bench.record import Missing, Rate, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the groups of every subject are made for."""

    threads: int
    """that trajmill may use at most"""
    device: str = "cpu"
    """where batches go and training happens, ``"cpu"`` or ``"cuda"``"""
    sequences: int = 65_536
    """that a call of the sampler makes, of 1,024 tokens; other laws than the first make 4,096 at most"""
    rows: int = 1_000_000
    """transitions in buffers"""
    mebibytes: int = 256
    """of a corpus"""
    folder: Path = Path()
    """on the disk that is measured"""
    methods: tuple[str, ...] = ()
    """that are trained; all if empty"""
    tiny: bool = False
    """train each method with its `SMALL` settings, which show nothing but that it works: for tests"""


@dataclass(slots=True)
class Entry:
    """A contender in a group."""

    contender: Contender
    role: Role
    limits: tuple[str, ...]
    """names of limits in the group that hold for it; the lowest one counts"""


@dataclass(slots=True)
class Group:
    """What is timed in turns: rates of one unit, each ``amount / seconds * scale``."""

    title: str
    unit: str
    scale: float = 1e-9
    entries: list[Entry] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    def ours(
        self, name: str, work: Callable[..., object], amount: float, *, limits: tuple[str, ...] = (), **more: Any
    ) -> None:
        """Add something of trajmill: a call of `work` makes `amount`, or ``work(n)`` n times as much if `counted`."""
        self._add("ours", name, work, amount, limits, **more)

    def limit(self, name: str, work: Callable[[], object], amount: float, **more: Any) -> None:
        """Add a limit of the machine, in the group's unit."""
        self._add("limit", name, work, amount, (), **more)

    def peer(
        self,
        name: str,
        build: Callable[[], Callable[[], object]],
        amount: float,
        *,
        needs: tuple[str, ...] = (),
        limits: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        """Add another program: `build` gives its work, and `needs` are packages with their modules, as pip names them.

        One that is not installed, or fails, is written down with the reason, and the others are measured.
        """
        absent = [package for package in needs if importlib.util.find_spec(package.replace("-", "_")) is None]
        if absent:
            reason = f"not installed: pip install {' '.join(absent)}"
            self.missing.append(Missing(group=self.title, peer=name, reason=reason))
            return
        try:
            work = build()
            work()
        except Exception as error:
            reason = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            self.missing.append(Missing(group=self.title, peer=name, reason=reason))
            return
        self._add("peer", name, work, amount, limits, **more)

    def _add(
        self,
        role: Role,
        name: str,
        work: Callable[..., object],
        amount: float,
        limits: tuple[str, ...],
        *,
        counted: bool = False,
        **more: Any,
    ) -> None:
        run = work if counted else calling(work)
        contender = Contender(run, name=name, amount=amount * self.scale, **more)
        self.entries.append(Entry(contender, role, limits))

    def rates(self) -> list[Rate]:
        """What was measured: ours beside the fastest peer and the lowest limit, then peers, then limits."""
        spreads = {entry.contender.name: entry.contender.rate() for entry in self.entries}
        peers = {e.contender.name: spreads[e.contender.name].value for e in self.entries if e.role == "peer"}
        fastest = max(peers, key=peers.__getitem__) if peers else None
        found = []
        for entry in sorted(self.entries, key=lambda entry: ("ours", "peer", "limit").index(entry.role)):
            name = entry.contender.name
            spread = spreads[name]
            lowest = min(entry.limits, key=lambda limit: spreads[limit].value) if entry.limits else None
            against = fastest if entry.role == "ours" else None
            found.append(
                Rate(
                    group=self.title,
                    role=entry.role,
                    name=name,
                    value=spread.value,
                    low=spread.low,
                    high=spread.high,
                    unit=self.unit,
                    blocks=len(entry.contender.seconds),
                    against=against,
                    ratio=None if against is None else spread.value / peers[against],
                    limit=lowest,
                    limit_value=None if lowest is None else spreads[lowest].value,
                    limit_share=None if lowest is None else spread.value / spreads[lowest].value,
                )
            )
        return found


Builder = Callable[[Options, ExitStack], Group]
"""makes a group ready; what it puts on the stack is undone after the group was timed"""
