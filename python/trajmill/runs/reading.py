"""Reads run directories, also those of earlier versions.

An unfinished run says so, a damaged one is refused. Only one kind of damage is forgiven: the cut last line that a
killed run leaves, and the run then counts as unfinished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.algorithms import method_named, method_names, method_of_kind, name_of
from trajmill.core import pictures
from trajmill.core.json_input import parse_json, read_json
from trajmill.core.paths import AnyPath, input_path, local_path
from trajmill.core.sealing import unsealed
from trajmill.data import has_reference_score
from trajmill.training.checkpoint import Former, read_checkpoint

CONFIG, RESULT, METRICS, PROVENANCE = "config.json", "result.json", "metrics.jsonl", "environment.json"
LOGGERS = "loggers.json"
"""how many records each logger has had"""
REPLAY = "replay"
"""folder of what agents that learn online have collected: ``SEED/FIRST_ROW.safetensors``"""
PROCESSES = "processes"
"""folder of a run whose seeds are shared by several processes: ``NUMBER`` is the run of one of them until all join"""
RUN_SETTINGS = {"dataset", "mix", "environment", "init", "seeds", "evaluation_episode_count"}
RUN_SETTINGS |= {"method", "schedule", "compute", "variant", "predict", "predict_other_data"}
RUN_SETTINGS |= {"prediction_rate", "prediction_horizon", "prediction_seed", "relevance"}
RUN_SETTINGS |= {"interaction", "environments", "capacity"}
"""settings of a run that are not its method's"""


class RunError(ValueError):
    """A directory that is not a run, or whose files are damaged or contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric over updates."""

    updates: NDArray[np.int64]
    """(point_count,), not decreasing"""
    values: NDArray[np.float64]
    """(point_count, seed_count); NaN where a seed has no finite value"""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunRecord:
    """What there is to know of one run directory."""

    path: Path
    kind: str
    """the method's name, such as ``"cql"``"""
    variant: str
    dataset: str | None
    environment: str | None
    seeds: tuple[int, ...]
    config: Mapping[str, Any]
    """all of config.json"""
    provenance: Mapping[str, Any]
    """environment.json: versions, machine, commit"""
    result: Mapping[str, Any] | None
    """result.json, which a run writes last; None means the run has not finished"""
    series: Mapping[str, Mapping[str, Series]]
    """by phase (``train``, ``evaluation``), then by metric name"""
    wall_seconds: float
    """of the last line of metrics.jsonl"""

    def __repr__(self) -> str:
        end = "finished" if self.finished else "not finished"
        return f"<{self.kind} run {self.path.name}: {len(self.seeds)} seeds, {self.update:,} updates, {end}>"

    def _repr_html_(self) -> str:
        scores = self.evaluation(self.score[0])
        if scores is None:
            return pictures.html(repr(self))
        means = [values[np.isfinite(values)].mean() for values in scores.values if np.isfinite(values).any()]
        return pictures.html(repr(self), pictures.bars(means, f"{self.score[1]}s of the evaluations, means over seeds"))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The run's settings, those of its method under ``method``."""
        settings: Mapping[str, Any] = self.config["config"]
        return settings

    @property
    def score(self) -> tuple[str, str]:
        """The metric of evaluations that counts, and its name: returns where D4RL has no reference of a score."""
        if self.environment is not None and not has_reference_score(self.environment):
            return "return_mean", "return"
        return "normalized_score", "normalized score"

    @property
    def finished(self) -> bool:
        """Whether the run reached its end."""
        return self.result is not None

    @property
    def update(self) -> int:
        """The last update on record."""
        return int(max((s.updates[-1] for metrics in self.series.values() for s in metrics.values()), default=0))

    def evaluation(self, metric: str) -> Series | None:
        """Evaluations of `metric`, if there are any."""
        return self.series.get("evaluation", {}).get(metric)


def read_run(path: AnyPath) -> RunRecord:
    """Read and check one run directory; RunError if it is missing, not a run, damaged, or contradicts itself."""
    path = local_path(path)
    if not path.is_dir():
        raise RunError(f"{path} is not a directory; give run directories, such as runs/NAME")
    config = read_config(path)
    seeds = config.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise RunError(f"{path / CONFIG}: seeds must be a list of integers, at least one, got {seeds!r}")
    result = read_object(path / RESULT) if (path / RESULT).exists() else None
    lines = read_lines(path, finished=result is not None)
    series = _series(path, lines, len(seeds))
    wall_seconds = float(lines[-1]["wall_seconds"]) if lines else 0.0
    if result is None and not lines:
        series, wall_seconds = _of_parts(path, seeds)
    method = method_of_kind(config["kind"])
    if result is not None and hasattr(method, "policy") and not series.get("evaluation"):
        raise RunError(f"{path} is marked finished but holds no evaluation; its {METRICS} was replaced or cut")
    return RunRecord(
        path=path,
        kind=config["kind"],
        variant=str(config.get("variant") or path.name),
        dataset=config.get("dataset"),
        environment=config.get("environment"),
        seeds=tuple(seeds),
        config=config,
        provenance=read_object(path / PROVENANCE) if (path / PROVENANCE).exists() else {},
        result=result,
        series=series,
        wall_seconds=wall_seconds,
    )


def parts_of(path: Path) -> list[Path]:
    """Runs of the processes that share a run; a killed process may leave a directory with another name."""
    found = [*(path / PROCESSES).glob("[0-9]*"), *(path / "workers").glob("[0-9]*")]  # as earlier versions called it
    return sorted(found, key=lambda part: int(part.name) if part.name.isdigit() else 0)


def _of_parts(path: Path, seeds: Sequence[int]) -> tuple[dict[str, dict[str, Series]], float]:
    """What the processes that share a run have all measured so far, and for how long they have run."""
    parts = [read_run(part) for part in parts_of(path) if (part / CONFIG).is_file()]
    if [seed for part in parts for seed in part.seeds] != list(seeds):
        return {}, 0.0  # one has not begun yet
    joined: dict[str, dict[str, Series]] = {}
    names = [(phase, name) for phase, metrics in parts[0].series.items() for name in metrics]
    for phase, name in names:
        if not all(name in part.series.get(phase, {}) for part in parts):
            continue
        found = [(part.seeds, part.series[phase][name]) for part in parts]
        common = sorted(set.intersection(*(set(series.updates.tolist()) for _, series in found)))
        values = np.full((len(common), len(seeds)), np.nan)
        for part_seeds, series in found:
            last = dict(zip(series.updates.tolist(), series.values, strict=True))
            columns = [seeds.index(seed) for seed in part_seeds]
            for row, update in enumerate(common):
                values[row, columns] = last[update]
        if common:
            joined.setdefault(phase, {})[name] = Series(updates=np.array(common, np.int64), values=values)
    return joined, max(part.wall_seconds for part in parts)


def read_config(path: Path) -> dict[str, Any]:
    """What ``config.json`` of a run says, in today's form."""
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run directory: it has no {CONFIG}")
    config = read_object(path / CONFIG)
    if not isinstance(config.get("kind"), str):
        raise RunError(f"{path / CONFIG} does not name the kind of its run")
    former = _former(config["kind"])
    if former is None:
        return config
    name, how, known = former
    settings = dict(config["config"])
    moved = {key: settings.pop(key) for key in list(settings) if key in known - RUN_SETTINGS}
    method = how.settings(settings["method"] | moved)
    settings["method"] = {key: value for key, value in method.items() if value is not None}  # left open then
    return config | {"kind": name, "config": settings}


def read_lines(path: Path, *, finished: bool) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, in today's form."""
    try:
        content = (path / METRICS).read_bytes()
    except FileNotFoundError:
        if not finished:
            return []
        raise RunError(f"{path} is marked finished but has no {METRICS}") from None
    except OSError as error:
        raise RunError(f"{path / METRICS} cannot be read: {error.strerror}; restore it or start again") from error
    found = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_line(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and not finished:  # no newline after it: the run was killed while writing it
                break
            raise RunError(f"{path / METRICS}, line {number} is damaged: {error}; restore it or start again") from None
    return found


def _line(text: bytes) -> dict[str, Any]:
    record = unsealed(parse_json(text))
    phase, update = record["phase"], record["gradient_step"] if "gradient_step" in record else record["update"]
    metrics = {name: list(row) for name, row in record["metrics"].items()}
    for row in metrics.values():
        [None if value is None else float(value) for value in row]
    return {
        "phase": "train" if phase in ("pretrain", "finetune") else str(phase),
        "update": int(update),
        "wall_seconds": float(record["wall_seconds"]),
        "metrics": metrics,
    }


def _series(path: Path, lines: list[dict[str, Any]], seed_count: int) -> dict[str, dict[str, Series]]:
    """By phase and metric; RunError if a line has another number of seeds or goes back."""
    found: dict[tuple[str, str], tuple[list[int], list[list[float]]]] = {}
    where = f"{path / METRICS}, line"
    for number, line in enumerate(lines, start=1):
        for name, row in line["metrics"].items():
            if len(row) != seed_count:
                raise RunError(f"{where} {number}: {name} must have {seed_count} values, one a seed, got {row!r}")
            updates, values = found.setdefault((line["phase"], name), ([], []))
            if updates and line["update"] < updates[-1]:
                raise RunError(
                    f"{where} {number}: {line['phase']} goes back from update {updates[-1]} to {line['update']}"
                )
            updates.append(line["update"])
            values.append([math.nan if value is None else float(value) for value in row])
    series: dict[str, dict[str, Series]] = {}
    for (phase, name), (updates, values) in found.items():
        series.setdefault(phase, {})[name] = Series(updates=np.asarray(updates, np.int64), values=np.asarray(values))
    return series


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}; restore it or start again") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise RunError(f"{path} is damaged: it must hold an object, not {kind}; restore it or start again")
    try:
        return unsealed(value)
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}; else restore it or start again") from None


def checkpoints(path: Path) -> list[Path]:
    """Paths of a run's checkpoints, the newest first."""
    return sorted((path / "checkpoints").glob("step_*.safetensors"), reverse=True)


def newest_checkpoints(path: Path) -> list[Path]:
    """The newest checkpoint of a run, or that of each process that shares one which is not finished; RunError if none.

    Together they hold all seeds, in the run's order.
    """
    if found := checkpoints(path):
        return found[:1]
    parts = [part for part in parts_of(path) if (part / CONFIG).is_file()]
    newest = [found[0] for part in parts if (found := checkpoints(part))]
    if not newest:
        raise RunError(f"{path} has no checkpoint yet; let it run further")
    if len(newest) < len(parts):
        raise RunError(f"{len(parts) - len(newest)} of the processes that share {path} have no checkpoint yet; wait")
    return newest


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a checkpoint, in today's form; with it the method's settings, if its run has them."""
    tensors, known = read_checkpoint(path)
    former = _former(known.get("kind", ""))
    if former is not None:
        name, how, _ = former
        tensors = {how.tensors.get(key, key): tensor for key, tensor in tensors.items()}
        known = known | {"kind": name} | ({"method": how.settings(known["method"])} if "method" in known else {})
    if "gradient_step" in known:
        known["update"] = known.pop("gradient_step")
    run = path.parent.parent
    if "method" not in known and (run / CONFIG).is_file():
        known["method"] = read_config(run)["config"]["method"]
    return tensors, known


def _former(kind: str) -> tuple[str, Former, frozenset[str]] | None:
    """Today's name of a kind of an earlier version, how that wrote its runs, and today's settings of the method."""
    method = None if kind in method_names() else method_of_kind(kind)
    if method is None:
        return None
    return name_of(method.SMALL), method.FORMER, frozenset(field.name for field in fields(method.Config))


def read_start(init: AnyPath, option: str = "init") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a run starts from: the newest checkpoint of a run directory, a checkpoint, or another program's files.

    `option` is the one that names it.
    """
    path = init = input_path(init)
    if init.is_dir() and not ((init / "checkpoints").is_dir() or _is_run(init)):
        return _read_exported(init, option)
    if init.is_dir():
        found = checkpoints(init)
        if not found:
            raise RunError(f"{option} {init} has no checkpoint yet; let that run go further, or give another")
        path = found[0]
    tensors, known = read_state(path)
    if 0 in not_finite(tensors, len(known["seeds"])):
        raise RunError(
            f"{option} {init} has numbers that are not finite: its first seed, {known['seeds'][0]}, diverged; train it "
            f"again with another seed or a smaller learning rate"
        )
    return tensors, known


def _is_run(directory: Path) -> bool:
    """Whether a directory is a run's, be it one that has just begun; other programs have a config.json too."""
    try:
        config = read_json(directory / CONFIG)
        return isinstance(config, dict) and "kind" in config
    except (OSError, ValueError):
        return False


def read_able(
    path: AnyPath, option: str, function: str, cannot: str
) -> tuple[Callable[..., Any], dict[str, Tensor], dict[str, Any]]:
    """A function of the method that made a run or checkpoint, and what it takes: tensors and metadata.

    RunError as for `read_start`, and if the method lacks the function: it `cannot`, such as "predicts nothing".
    """
    tensors, known = read_start(path, option)
    method = method_of_kind(known.get("kind", ""))
    if not hasattr(method, function):
        able = ", ".join(name for name in method_names() if hasattr(method_named(name), function))
        raise RunError(f"{option} {path} is of {known.get('kind')!r}, which {cannot}; give a run of {able}")
    return getattr(method, function), tensors, known


def _read_exported(directory: Path, option: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Files of another program, by the first method that understands them."""
    reasons = []
    for name in method_names():
        method = method_named(name)
        if hasattr(method, "read_exported"):
            try:
                tensors, known = method.read_exported(directory)
            except ValueError as error:
                reasons.append(str(error))
            else:
                return tensors, known
    raise RunError(
        f"{option} {directory} is neither a run directory nor a model of another program: {'; '.join(reasons)}"
    )


def not_finite(tensors: Mapping[str, Tensor], seed_count: int) -> list[int]:
    """Positions of the seeds of which a number is NaN or infinite; metrics, which may be empty, do not count."""
    bad = torch.zeros(seed_count, dtype=torch.bool)
    for name, tensor in tensors.items():
        if name != "metrics" and tensor.ndim and tensor.is_floating_point():
            bad |= ~tensor.isfinite().reshape(seed_count, -1).all(1).cpu()
    return [int(position) for position in bad.nonzero()]
