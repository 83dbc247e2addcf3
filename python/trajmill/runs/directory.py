"""A run is a directory: its configuration, metrics, checkpoints, circumstances, and last of all its result.

``config.json`` says everything needed to repeat it, ``environment.json`` where it ran, ``metrics.jsonl`` what happened,
``checkpoints/step_N.safetensors`` where it stood (the newest and the one before it, in the end the last one),
``result.json`` exists if and only if it finished. A program that writes holds a lock on ``config.json``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmill.core.files import contents, leftovers, lock, remove, replacing, sync, write_whole
from trajmill.core.sealing import sealed
from trajmill.runs.reading import (
    CONFIG,
    METRICS,
    PROVENANCE,
    REPLAY,
    RESULT,
    RunError,
    checkpoints,
    read_config,
    read_lines,
    read_state,
)
from trajmill.training.checkpoint import CheckpointError, DamagedCheckpointError, restore_tensors, save_checkpoint
from trajmill.training.metrics import append_line, metrics_line, resized
from trajmill.training.state import Growing, TrainingState


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run on disk, being written by one program."""

    path: Path

    @classmethod
    def open(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        defaults: Mapping[str, Any] | None = None,
        places: Collection[str] = (),
    ) -> RunDirectory:
        """Create the directory whole, or with `resume` go on with an unfinished run of the same `config`.

        `config` is plain JSON and holds at least ``kind``, ``seeds``, ``dataset``, ``environment``, ``variant`` and
        ``config``. A finished run is never changed but for one of more updates, which makes it go on: to resume it
        opens it, to start it again is an error. `defaults` of ``config`` stand for settings that an older version did
        not have. A run may go on with another label and schedule, scored elsewhere, and with the same data under other
        paths, which are the settings `places` (``method.text`` is one of the method): checkpoints know the content;
        also, with a warning, on another device or with other threads, which change only rounding.
        """
        run = cls(path)
        if not contents(path) and not path.is_file():
            run._create(config)
            return run
        known = run.described()
        if not resume and run.finished:
            raise RunError(f"{path} holds a finished run; choose another directory or remove this one")
        if not resume:
            raise RunError(
                f"{path} holds an unfinished run; go on with --resume (resume=True), or choose another place"
            )
        wanted = json.loads(json.dumps(config))
        _fill(known, json.loads(json.dumps({"config": defaults or {}})))
        moved = _moved(known, wanted)
        made = run.update
        freed = _free(known, wanted, places)
        if freed != wanted:
            raise RunError(f"{path} was started with other settings: {_differences(freed, wanted)}")
        updates = wanted["config"].get("schedule", {}).get("updates", made)
        if updates < made:
            raise RunError(f"{path} has made {made:,} updates, {updates:,} were asked for; ask for at least as many")
        if known != wanted and (updates > made or not run.finished):
            with run.locked():
                _write_json(path / CONFIG, wanted)
                (path / RESULT).unlink(missing_ok=True)
        if moved and not run.finished:
            message = (
                f"{path} continues on another device or thread count; results match an uninterrupted run up to "
                f"rounding: {moved}"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        return run

    @property
    def finished(self) -> bool:
        """Whether the run has its result."""
        return (self.path / RESULT).is_file()

    @property
    def update(self) -> int:
        """Updates that its newest checkpoint has made, 0 without any."""
        newest = self.newest_checkpoint()
        return 0 if newest is None else int(newest.stem.removeprefix("step_"))

    @property
    def seed_count(self) -> int:
        """Seeds that the run is of."""
        return len(self.described()["seeds"])

    def _create(self, config: Mapping[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as part:
                (part / "checkpoints").mkdir(parents=True)
                _write_json(part / CONFIG, config)
                _write_json(part / PROVENANCE, circumstances())
                (part / METRICS).touch()
        except OSError as error:
            raise RunError(f"{self.path} cannot be made a run directory: {error.strerror or error}") from error

    def described(self) -> dict[str, Any]:
        """What ``config.json`` says."""
        return read_config(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other programs from writing here until the end of the block, or of this process, however it ends."""
        with (self.path / CONFIG).open("r+b") as file:
            if lock(file) is False:
                raise RunError(
                    f"{self.path} is being written by another process; wait for it, end it, or choose another directory"
                )
            if os.fstat(file.fileno()).st_ino != (self.path / CONFIG).stat().st_ino:  # written anew
                raise RunError(f"{self.path} is being written by another process; wait for it, then try again")
            yield

    def log(self, phase: str, update: int, wall_seconds: float, metrics: Mapping[str, Sequence[float]]) -> None:
        """Add one line to ``metrics.jsonl``."""
        append_line(self.path / METRICS, metrics_line(phase, update, wall_seconds, metrics))

    def clear_metrics(self) -> None:
        """Empty ``metrics.jsonl``."""
        write_whole(self.path / METRICS, b"")

    def lines(self, phase: str | None = None) -> list[dict[str, Any]]:
        """Lines of one phase or of all, in order; None where a seed had no finite value."""
        if not (self.path / METRICS).is_file():
            raise RunError(f"{self.path / METRICS} is missing; restore it or start again")
        lines = read_lines(self.path, finished=self.finished)
        return [line for line in lines if phase in (None, line["phase"])]

    def save(self, state: TrainingState, update: int, metadata: Mapping[str, Any]) -> None:
        """Write a checkpoint, then remove all older ones but the last."""
        path = self.path / "checkpoints" / f"step_{update:09d}.safetensors"
        older = [other for other in self.checkpoints() if other != path]
        try:
            sync(self.path / METRICS)  # what the checkpoint takes as logged
            if isinstance(state, Growing):
                state.store(self.path / REPLAY)
            save_checkpoint(path, state, {**metadata, "update": update})
        except OSError as error:
            last = self.newest_checkpoint()
            kept = f"the newest is {last}" if last else "there is none"
            raise RunError(
                f"the checkpoint of update {update:,} cannot be written to {path.parent}: "
                f"{error.strerror or error}; {kept}: make room there, then go on with --resume"
            ) from error
        for other in older[1:]:
            remove(other)

    def checkpoints(self) -> list[Path]:
        """Paths of checkpoints, the newest first."""
        return checkpoints(self.path)

    def newest_checkpoint(self) -> Path | None:
        """Path of the newest checkpoint, if there is one."""
        return next(iter(self.checkpoints()), None)

    def restore(self, state: TrainingState, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Fill `state` from the newest checkpoint that is whole, and drop what was logged after it.

        `metadata` is what the run would write; a checkpoint that says otherwise is refused. Gives the checkpoint's own,
        or ``{"update": 0}`` when there is none. A damaged checkpoint is reported and removed if an older one is
        whole: the updates after that are made again, with the same numbers.
        """
        for folder in (self.path, self.path / "checkpoints", *(self.path / REPLAY).glob("*")):
            for leftover in leftovers(folder):
                remove(leftover)
        (self.path / "checkpoints").mkdir(exist_ok=True)
        known, damage = self._read_newest()
        tensors, found = known or ({}, {"update": 0})
        if known:
            origin = str(self.checkpoints()[len(damage)])
            wanted = json.loads(json.dumps(metadata or {}))
            if "dataset_sha256" in wanted:
                del wanted["dataset"]  # its name, where its content is known
            for name in wanted.get("places", ()):
                del wanted["method"][name]
            _check_same(wanted, found, origin)
            moving = state.moving()
            if "metrics" in tensors.keys() & moving.keys():
                fitting = resized(tensors["metrics"], moving["metrics"].shape[0], int(found["update"]))
                tensors = {**tensors, "metrics": fitting}
            restore_tensors(moving, tensors, origin)
            if isinstance(state, Growing):
                state.load(self.path / REPLAY)
        for path, error in damage:
            warnings.warn(
                f"{error}; going on from update {found['update']:,}, the checkpoint before it",
                RuntimeWarning,
                stacklevel=2,
            )
            remove(path)
        kept = [line for line in self.lines() if line["update"] <= found["update"]]
        text = "".join(json.dumps(sealed(line)) + "\n" for line in kept)
        write_whole(self.path / METRICS, text.encode())
        return found

    def _read_newest(
        self,
    ) -> tuple[tuple[dict[str, Tensor], dict[str, Any]] | None, list[tuple[Path, DamagedCheckpointError]]]:
        """The newest whole checkpoint, and the damaged ones that are newer."""
        damage: list[tuple[Path, DamagedCheckpointError]] = []
        for path in self.checkpoints():
            try:
                return read_state(path), damage
            except DamagedCheckpointError as error:
                damage.append((path, error))
        if damage:
            raise RunError(
                f"{damage[0][1]}; there is no older one: restore it, or remove it to start this run from its beginning"
            )
        return None, []

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keep the last checkpoint alone, and write the result, which marks the run as finished."""
        for path in self.checkpoints()[1:]:
            remove(path)
        _write_json(self.path / RESULT, result)


def circumstances() -> dict[str, Any]:
    """Command, versions, machine and commit: what a number's reader asks next."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))}
        | {"python": platform.python_version()},
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "processor": _processor(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "commit": _commit(),
    }


_PACKAGES = ("trajmill", "numpy", "torch", "safetensors", "gymnasium", "mujoco")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str | None:
    """Commit of the checkout this file is in, marked when files differ from it; None outside a checkout of trajmill.

    A package that is installed below another project's checkout is not that project's.
    """
    here = Path(__file__)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, env=environment)
        return done.stdout.strip()

    try:
        if git("ls-files", "--full-name", here.name) != "python/trajmill/runs/directory.py":
            return None
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*") or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def _fill(known: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Add what is missing in `known`, in place."""
    for name, default in defaults.items():
        if isinstance(default, dict) and isinstance(known.get(name), dict):
            _fill(known[name], default)
        else:
            known.setdefault(name, default)


def _free(known: Mapping[str, Any], wanted: Mapping[str, Any], places: Collection[str]) -> dict[str, Any]:
    """The settings `known`, with all from `wanted` that a run may change: label, schedule, places of scores and data.

    Checkpoints tell the content of data, and of runs that they learned from. No path in place of one is another run.
    """
    was, now = deepcopy(known["config"]), wanted["config"]
    free = {"schedule", "variant", "compute.evaluation", "dataset", "limit", *places}
    for name in free:
        *records, setting = name.split(".")
        before, after = was, now
        for record in records:
            before, after = before.get(record, {}), after.get(record, {})
        if (
            setting in before
            and setting in after
            and (bool(before[setting]) == bool(after[setting]) or name == "limit")
        ):
            before[setting] = after[setting]
    shares = [[each.rpartition("=")[2] for each in config.get("mix") or ()] for config in (was, now)]
    if shares[0] == shares[1] and "mix" in was:
        was["mix"] = now["mix"]
    names = {"variant", "dataset"} if "dataset" in now else {"variant"}  # without one the name tells the content
    return {**known, "config": was} | {name: wanted[name] for name in names & wanted.keys()}


def _moved(known: dict[str, Any], wanted: Mapping[str, Any]) -> str:
    """Differences of where to compute, which `known` then takes over from `wanted`, in place."""
    was, now = known["config"].get("compute", {}), wanted["config"].get("compute", {})
    places = {name: now[name] for name in ("device", "threads", "rows") if name in was and name in now}
    told = _differences({name: was[name] for name in places}, places)
    was.update(places)
    return told


def _check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], origin: str) -> None:
    """Raise unless the metadata `found` say the same as `wanted` of all that both name, also in objects in them."""
    for name in sorted(wanted.keys() & found.keys()):
        here, there = wanted[name], found[name]
        if isinstance(here, dict) and isinstance(there, dict):
            _check_same(here, there, origin)
        elif here != there:
            raise CheckpointError(f"{origin} belongs to another run: its {name} is {there!r}, here it is {here!r}")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    record = sealed(json.loads(json.dumps(value, allow_nan=False)))  # as it will be read
    write_whole(path, (json.dumps(record, indent=2) + "\n").encode())


def _differences(known: Any, wanted: Any, name: str = "") -> str:
    if isinstance(known, dict) and isinstance(wanted, dict):
        parts = [
            _differences(known.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
            for key in sorted(known.keys() | wanted.keys())
            if known.get(key) != wanted.get(key)
        ]
        return ", ".join(parts)
    return f"{name} was {known!r}, now {wanted!r}"
