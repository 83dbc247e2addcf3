"""Loggers of a run: TensorBoard's event files, W&B, trackio. All repeat what ``metrics.jsonl`` says."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

from trajmill.core import checks
from trajmill.runs.watching import Logger, Record


def curves(record: Record) -> Iterator[tuple[str, str, float]]:
    """Who measured what in a record, with the value: each seed and, of several seeds, their mean.

    The first is ``mean`` or such as ``seed_3``; the second such as ``evaluation/normalized_score``. A mean of seeds of
    which one is not finite is NaN.
    """
    for name, values in record.metrics.items():
        tag = f"{record.phase}/{name}"
        if len(values) > 1:
            yield "mean", tag, float(values.mean())
        yield from ((f"seed_{seed}", tag, value) for seed, value in zip(record.seeds, values.tolist(), strict=True))


class TensorBoard:
    """Event files in the run directory: ``tensorboard --logdir RUN`` shows a curve for each seed and the mean."""

    name: ClassVar[str] = "tensorboard"

    def __init__(self) -> None:
        self._kind = _needed("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writers: dict[str, Any] = {}

    def begin(self, path: Path, identity: str, settings: Mapping[str, Any]) -> None:
        """See `Logger`."""
        self._path = path / self.name

    def log(self, record: Record) -> None:
        """See `Logger`."""
        for who, tag, value in curves(record):
            if who not in self._writers:
                self._writers[who] = self._kind(str(self._path / who))
            self._writers[who].add_scalar(tag, value, record.update)
        for writer in self._writers.values():
            writer.flush()

    def end(self) -> None:
        """See `Logger`."""
        while self._writers:
            self._writers.popitem()[1].close()


class Wandb:
    """A run of W&B, in the run directory; ``WANDB_MODE=offline`` needs no account. Seeds are ``seed_3/train/...``.

    `options` are those of ``wandb.init``. The project is ``WANDB_PROJECT``, or trajmill.
    """

    name: ClassVar[str] = "wandb"

    def __init__(self, **options: Any) -> None:
        self._library, self._options = _needed(self.name, self.name), options

    def begin(self, path: Path, identity: str, settings: Mapping[str, Any]) -> None:
        """See `Logger`."""
        options = self._defaults(path, identity) | {"config": dict(settings), "resume": "allow"} | self._options
        self._run = self._library.init(**options)

    def _defaults(self, path: Path, identity: str) -> dict[str, Any]:
        project = os.environ.get("WANDB_PROJECT", "trajmill")
        own = {"project": project, "name": path.name, "id": identity, "dir": str(path)}
        return own | {"reinit": "create_new"}  # beside a run of the caller's

    def log(self, record: Record) -> None:
        """See `Logger`."""
        whole = "mean" if len(record.seeds) > 1 else f"seed_{record.seeds[0]}"
        values = {tag if who == whole else f"{who}/{tag}": value for who, tag, value in curves(record)}
        self._run.log(values, step=record.update)

    def end(self) -> None:
        """See `Logger`."""
        self._run.finish()


class Trackio(Wandb):
    """A run of trackio, in its own database; ``trackio show --project trajmill`` opens it. `options` are its own."""

    name: ClassVar[str] = "trackio"

    def _defaults(self, path: Path, identity: str) -> dict[str, Any]:
        return {"project": "trajmill", "name": f"{path.name}-{identity}", "embed": False}

    def begin(self, path: Path, identity: str, settings: Mapping[str, Any]) -> None:
        """See `Logger`."""
        with redirect_stdout(sys.stderr):  # results alone go to stdout
            Wandb.begin(self, path, identity, settings)

    def end(self) -> None:
        """See `Logger`."""
        with redirect_stdout(sys.stderr):
            self._library.finish()  # else it would finish the run once more at the exit


_KINDS = {kind.name: kind for kind in (TensorBoard, Wandb, Trackio)}


def loggers_of(given: str | Sequence[str | Logger]) -> list[Logger]:
    """Loggers by their names, or as they are; TypeError for what is neither."""
    if not isinstance(given, str | Sequence):
        raise TypeError(f"loggers must be a sequence of names and loggers, got {given!r}")
    names = [given] if isinstance(given, str) else given
    found = [logger_named(each) if isinstance(each, str) else each for each in names]
    for each in found:
        if not all(hasattr(each, name) for name in ("name", "begin", "log", "end")):
            raise TypeError(f"a logger is one of {', '.join(_KINDS)}, or has name, begin, log and end; got {each!r}")
    return found


def logger_named(name: str) -> Logger:
    """A logger as it is by default; ValueError if there is none, RuntimeError if its library is missing."""
    kind: Any = _KINDS[checks.choice("logger", name, tuple(_KINDS))]
    logger: Logger = kind()
    return logger


def _needed(module: str, library: str) -> Any:
    """A module of a library; RuntimeError with what to install if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"the logger {library} needs {error.name}, which is not installed: pip install 'trajmill[{library}]'"
        ) from error
