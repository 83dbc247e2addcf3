"""Who follows a run while it goes on: a callback and loggers, which get each of its records once, in order."""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trajmill.core.files import write_whole
from trajmill.core.sealing import sealed
from trajmill.runs.reading import LOGGERS, read_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What all seeds of a run have measured after an update: a line of ``metrics.jsonl``."""

    phase: str
    """``train``: means since the record before; ``evaluation``; ``start``: before the first update, where there is a
    start to speak of"""
    update: int
    """updates made"""
    wall_seconds: float
    """since the run began, without the time between an interruption and going on"""
    seeds: tuple[int, ...]
    metrics: Mapping[str, NDArray[np.float64]]
    """name -> (S,), a value for each seed; NaN where it is not finite"""

    @classmethod
    def of(
        cls,
        phase: str,
        update: int,
        seconds: float,
        seeds: Sequence[int],
        metrics: Mapping[str, Sequence[float | None]],
    ) -> Record:
        """A record of plain lists; None is NaN."""
        arrays = {name: np.array(values, np.float64) for name, values in metrics.items()}
        return cls(phase=phase, update=update, wall_seconds=seconds, seeds=tuple(seeds), metrics=arrays)

    @classmethod
    def of_line(cls, line: Mapping[str, Any], seeds: Sequence[int]) -> Record:
        """A line of ``metrics.jsonl``, as `RunDirectory.lines` gives it."""
        return cls.of(line["phase"], line["update"], line["wall_seconds"], seeds, line["metrics"])

    @classmethod
    def joined(cls, parts: Sequence[Record]) -> Record:
        """One record of the seeds of all, in their order; of the same phase and update."""
        seeds = tuple(seed for part in parts for seed in part.seeds)
        metrics = {name: np.concatenate([part.metrics[name] for part in parts]) for name in parts[0].metrics}
        seconds = max(part.wall_seconds for part in parts)
        return cls(phase=parts[0].phase, update=parts[0].update, wall_seconds=seconds, seeds=seeds, metrics=metrics)


Callback = Callable[[Record], object]
"""called with each new record; True ends the run early"""


class Stopped(Exception):
    """A callback returned True."""


class Logger(Protocol):
    """Writes records where people look at them."""

    name: str

    def begin(self, path: Path, identity: str, settings: Mapping[str, Any]) -> None:
        """Open what is written to: for a run in `path`, of `settings` as in ``config.json``.

        `identity` is the same whenever this run goes on, and no other run has it.
        """

    def log(self, record: Record) -> None:
        """Write a record."""

    def end(self) -> None:
        """Close what `begin` opened."""


@dataclass(slots=True)
class Watch:
    """A callback and loggers, and how much of a run each has seen.

    A callback gets what is measured from now on. A logger gets what it has not had, also of the time before it was
    there; ``loggers.json`` in the run directory says how far it is. A logger that fails is reported and left out, for
    the run is worth more; a callback that fails, or returns True, ends the run.
    """

    callback: Callback | None = None
    loggers: Sequence[Logger] = ()
    _path: Path | None = None
    _count: int = 0
    """records so far"""
    _seen: dict[str, int] = field(default_factory=dict)
    """by logger, how many of them it has had"""
    _identity: str = ""

    @contextmanager
    def of(self, path: Path, settings: Mapping[str, Any]) -> Iterator[None]:
        """Open the loggers for a run, until the end of the block; RuntimeError if one cannot."""
        if not self.loggers:
            yield
            return
        self._path = path / LOGGERS
        known = read_object(self._path) if self._path.is_file() else {}
        self._identity, self._seen = known.get("identity", secrets.token_hex(4)), known.get("seen", {})
        begun = list[Logger]()
        try:
            for logger in self.loggers:
                try:
                    logger.begin(path, self._identity, settings)
                except Exception as error:
                    raise RuntimeError(
                        f"{logger.name} cannot begin to log: {error}; put that right and resume, or leave it out"
                    ) from error
                begun.append(logger)
            yield
        finally:
            for logger in begun:
                try:
                    logger.end()
                except Exception as error:
                    self._leave_out(logger, error)

    def known(self, records: Iterable[Record]) -> None:
        """Take the records of the run so far."""
        for record in records:
            self._log(record)
        self._note()

    def __call__(self, record: Record) -> None:
        """Take a new record; raises what the callback raises, and `Stopped` if it returns True."""
        self._log(record)
        self._note()
        if self.callback is None:
            return
        try:
            answer = self.callback(record)
        except Exception as error:
            error.add_note(
                f"The callback raised this at the {record.phase} record of update {record.update:,}. The run has "
                f"stopped with a checkpoint; resume=True goes on from there."
            )
            raise
        if isinstance(answer, bool | np.bool_) and answer:
            raise Stopped

    def _log(self, record: Record) -> None:
        self._count += 1
        for logger in self.loggers:
            if self._seen.get(logger.name, 0) >= self._count:
                continue
            try:
                logger.log(record)
            except Exception as error:
                self._leave_out(logger, error)
            else:
                self._seen[logger.name] = self._count

    def _leave_out(self, logger: Logger, error: Exception) -> None:
        self.loggers = [other for other in self.loggers if other is not logger]
        warnings.warn(
            f"{logger.name} failed: {error}; the run goes on without it, and resuming sends what it has missed",
            RuntimeWarning,
            stacklevel=3,
        )

    def _note(self) -> None:
        if self._path is not None:
            known = sealed({"identity": self._identity, "seen": self._seen})
            write_whole(self._path, (json.dumps(known) + "\n").encode())
