"""How much work studies are: roughly for any machine, and in hours of this one, from a few updates that it makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trajmill.algorithms import method_named, name_of
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import duration
from trajmill.data.environments import Task
from trajmill.experiments.settings import TrainConfig
from trajmill.experiments.train import probe
from trajmill.experiments.upsample.job import MODEL
from trajmill.replay.ring import Turns
from trajmill.runs.directory import RunDirectory
from trajmill.runs.processes import process_count
from trajmill.studies.cells import (
    Cell,
    ReproduceConfig,
    dataset_facts,
    model_config,
    model_place,
    pretraining_config,
    pretraining_path,
    run_path,
    share_path,
    short_name,
    training_config,
    upsample_config,
)
from trajmill.studies.laws import HELD_OUT, law_runs
from trajmill.studies.records import Place, Study, Variant
from trajmill.training.device import ComputeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How much work a study is on a machine that has none of its runs."""

    cells: int
    pretrainings: int
    cpu_core_hours: float
    gpu_hours: float


def estimate(study: Study) -> Estimate:
    """Rough work of a whole study, from the methods' `SECONDS` of an update; evaluation in MuJoCo comes on top.

    Models of datasets, and of what agents meet, count with what they make.
    """
    sizes = len({short_name(place).split("-")[0] for place in study.places})
    starts = [(start, sizes if start.sized_by else 1) for start in study.pretrainings.values()]
    earlier = {each.after.name: each.after for each in study.variants.values() if each.after}
    variants = (study.variants | earlier).values()
    seeds = {variant.name: len(study.seeds[: variant.seed_count]) * len(study.places) for variant in variants}
    work: list[tuple[Any, float]] = [(variant.method, variant.updates * seeds[variant.name]) for variant in variants]
    work += [(start.method, start.updates * count) for start, count in starts]
    models: dict[Any, tuple[Any, float]] = {}
    for variant in variants:
        of_data = variant.ratio, variant.rows
        if variant.prediction is not None and variant.prediction.rate > 0.0:
            model = variant.prediction.model
            models[model.name, of_data] = model.method, model.updates
        if variant.synthetic is not None:
            model, made = variant.synthetic.model, variant.synthetic
            updates = model.updates + _updates_for(model.method, made.sampling, made.count)
            models[model.name, of_data] = model.method, updates
        if variant.meets is not None and variant.synthesis.every is not None:
            own, turns = variant.synthesis, Turns.of(variant.meets, 1, variant.method.batch_size)
            count = own.due_within(turns, variant.updates)
            updates = own.updates + _updates_for(own.method, own.sampling, own.count)
            work.append((own.method, updates * count * seeds[variant.name]))
    work += [(method, updates * len(study.places)) for method, updates in models.values()]
    cpu, gpu = (sum(updates * _seconds(method)[machine] for method, updates in work) / 3600 for machine in (0, 1))
    pretrainings = sum(count for _, count in starts)
    cells = len(study.variants) * len(study.places)
    return Estimate(cells=cells, pretrainings=pretrainings, cpu_core_hours=cpu, gpu_hours=gpu)


def _seconds(method: Any) -> tuple[float, float]:
    """Of an update, on a core and on a GPU; with other sizes than by default, in proportion to its products."""
    cpu, gpu = getattr(method_named(name_of(method)), "SECONDS", (0.01, 0.0001))
    size = _products(method) / _products(type(method)())
    return cpu * size, gpu * size


def _products(method: Any) -> float:
    """What an update multiplies, up to a factor: the method's own, or rows and the square of the widest layer."""
    module = method_named(name_of(method))
    if hasattr(module, "products"):
        own: float = module.products(method)
        return own
    width: int = getattr(method, "width", None) or max(getattr(method, "hidden_sizes", (1,)))
    return _rows(method) * width**2


def _rows(method: Any) -> int:
    """Of a batch."""
    rows: int = getattr(method, "batch_size", None) or 256
    return rows


def _updates_for(method: Any, sampling: Any, count: int) -> float:
    """How many updates of a model take as long as making transitions: each row of a batch costs three evaluations."""
    return count * getattr(sampling, "evaluations", 1) / (3 * _rows(method))


def cost(variant: Variant, seed_count: int) -> float:
    """Rough seconds of a cell's updates on a core: shards are balanced by it, so it follows from settings alone."""
    return variant.updates * update_cost(variant.method) * min(variant.seed_count or seed_count, seed_count)


def update_cost(method: Any) -> float:
    """Rough seconds of an update of one seed on a core."""
    return _seconds(method)[0]


# --- hours of this machine ---

PROBE_SECONDS = 0.5
"""of updates of each kind, at least"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is left of studies, and how long it will take here."""

    runs: int
    """all that are still to be trained, those of pre-training and of models included"""
    updating_hours: float
    scoring_hours: float
    """at most: episodes may end early"""
    hours: float
    """of all, by as many processes as there are"""
    processes: int
    beside: bool
    """whether policies are scored beside the updates"""
    machine: str

    def __str__(self) -> str:
        if not self.runs:
            return "nothing is left to train"
        hours = self.updating_hours, self.scoring_hours, self.hours
        updating, scoring, whole = (duration(3600 * each) for each in hours)
        text = f"{self.runs} runs are left, which will take about {whole} on {self.machine}"
        text += f" with {self.processes} processes" if self.processes > 1 else ""
        place = "beside them" if self.beside else "between them"
        text += f": updates {updating}, scoring {place} at most {scoring}"
        if self.beside and self.scoring_hours > self.updating_hours:
            text += "; --compute.threads gives the scoring more cores"
        return text


def predict(planned: Sequence[tuple[Sequence[Cell], ReproduceConfig]], output: AnyPath) -> Prediction:
    """How long the cells of studies will take that share `output`; makes a few updates of each kind, and keeps nothing.

    A kind is a method with a number of seeds; the time of its other settings follows from what their updates multiply.
    Raises ValueError where agents learn online: what their updates learn from has yet to be met.
    """
    pieces: dict[Path, _Piece] = {}
    for cells_of, config in planned:
        for variant, place in cells_of:
            pieces |= {piece.path: piece for piece in _pieces(variant, place, local_path(output), config)}
    left = [piece for piece in pieces.values() if not piece.finished]
    compute = planned[0][1].compute if planned else ComputeConfig()
    on_gpu = compute.device != "cpu" and torch.cuda.is_available()
    beside, times = compute.scores_beside(on_gpu=on_gpu), list[tuple[float, float]]()
    for kind in {piece.kind: None for piece in left}:
        alike = [piece for piece in pieces.values() if piece.kind == kind]
        least = min(alike, key=lambda piece: _products(piece.settings.method))
        tried = probe(replace(least.settings, **least.alone), PROBE_SECONDS, scored=True)
        for piece in (piece for piece in left if piece.kind == kind):
            size = _products(piece.settings.method) / _products(least.settings.method)
            schedule = piece.settings.schedule
            evaluations = -(-schedule.updates // schedule.evaluation_interval)
            times.append((piece.updates * size * tried.update_seconds, evaluations * tried.scoring_seconds))
    processes = process_count(planned[0][1].processes if planned else None, compute, max(1, len(left)))
    return Prediction(
        runs=len(left),
        updating_hours=sum(updating for updating, _ in times) / 3600,
        scoring_hours=sum(scoring for _, scoring in times) / 3600,
        hours=sum(max(both) if beside else sum(both) for both in times) / processes / 3600,
        processes=processes,
        beside=beside,
        machine=torch.cuda.get_device_name() if on_gpu else "this CPU",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A run of a study."""

    path: Path
    settings: TrainConfig[Any]
    updates: float
    """what it takes, with what its model makes"""
    finished: bool

    @property
    def kind(self) -> tuple[str, int]:
        """What has one rate."""
        return name_of(self.settings.method), len(self.settings.seeds)

    @property
    def alone(self) -> dict[str, Any]:
        """Changes that let it be tried before what it needs is there."""
        return {"init": None}


def _pieces(variant: Variant, place: Place, output: Path, config: ReproduceConfig) -> Iterator[_Piece]:
    """The run of a cell, and those that it needs."""
    if place == HELD_OUT:
        yield from (_piece(path, settings) for path, settings in law_runs(variant, output, config))
        return
    if variant.meets is not None or isinstance(place, Task):
        raise ValueError(
            f"{variant.name} learns online, so a few updates do not tell how long it will take; "
            "`trajmill reproduce --list` has rough hours"
        )
    source, sizes, environment, _ = dataset_facts(place)
    share, _ = share_path(variant, place, output)
    if (before := pretraining_path(variant, place, output)) is not None:
        yield _piece(before, pretraining_config(variant, sizes, config))
    if variant.prediction is not None and variant.prediction.rate > 0.0:
        model = variant.prediction.model
        yield _piece(model_place(output, "models", model, share), model_config(model, source, config))
    if (made := variant.synthetic) is not None:
        path = model_place(output, "upsampled", made.model, share) / MODEL
        settings, count = model_config(made.model, source, config), upsample_config(variant, config).count
        yield _piece(path, settings, _updates_for(settings.method, made.sampling, count))
    plain = replace(variant, prediction=None, synthetic=None, noise=None)  # which cost little beside the updates
    yield _piece(run_path(variant, place, output), training_config(plain, source, environment, None, config))


def _piece(path: Path, settings: TrainConfig[Any], more: float = 0.0) -> _Piece:
    return _Piece(
        path=path, settings=settings, updates=settings.schedule.updates + more, finished=RunDirectory(path).finished
    )
