"""Runs a study of laws: language models on sequences that a law draws, beside what simple predictors lose on them.

A variant is a `language_model` of one law, which may start from a pre-trained one of another. It learns from fresh
sequences, the same for all seeds, and is measured on sequences held out from them. Every seed has a pre-training run of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trajmill.algorithms import language_model
from trajmill.core.law import Array, Floats, Law
from trajmill.core.progress import Progress
from trajmill.evaluation.statistics import Interval, bootstrap_interval
from trajmill.experiments.settings import TrainConfig
from trajmill.models.language_model import token_logits
from trajmill.replay.token_table import TokenTable
from trajmill.report.comparison import Comparison, Entry
from trajmill.report.figures import FULL, Curve, Panel, curves_svg
from trajmill.runs.engines import Engine, RunJob
from trajmill.runs.reading import RunRecord, checkpoints, read_state
from trajmill.studies.cells import ReproduceConfig, finished_run, path_name, scaled
from trajmill.studies.measures import Results
from trajmill.studies.records import Column, Place, Study, Variant
from trajmill.training.settings import configured

HELD_OUT = "held-out sequences"
EVALUATIONS = 50
"""of a run, at least, so that flat parts of a curve can be seen"""
LOSS, ACCURACY = "loss, nats a target", "accuracy, %"


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """What someone who has not been trained loses on the held-out sequences: a line beside the curves."""

    label: str
    losses: Callable[[Law, Array], Floats]
    """of the tokens (n, T) of a law's sequences, (n, T)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LawStudy(Study):
    """A figure over the updates of language models that learn a law, and a table of where they end."""

    columns: tuple[Column, ...] = ()
    """of variants of `language_model`, all of the same law"""
    predictors: tuple[Predictor, ...] = ()
    accuracy: bool = False
    """whether the table also says how often the likeliest token is the right one"""

    @property
    def places(self) -> tuple[Place, ...]:
        """See `Study.places`."""
        return (HELD_OUT,)


class LawResults(Results):
    """What such a study left behind."""

    @property
    def _study(self) -> LawStudy:
        assert isinstance(self.study, LawStudy)
        return self.study

    @property
    def _records(self) -> dict[str, RunRecord]:
        return {name: self._read(path) for (name, _), path in self.runs.items()}

    @cached_property
    def predicted(self) -> dict[str, float]:
        """By label, the mean loss of each predictor over the targets of the held-out sequences."""
        config = _method(next(iter(self._records.values())))
        rows, law = language_model.generate(config), language_model.law_of(config)
        read = rows.read(rows.row_count - rows.held_out_count, rows.held_out_count)
        mask = read["loss_mask"][:, 1:] != 0 if rows.has_mask else np.ones(read["tokens"][:, 1:].shape, bool)
        return {
            each.label: float(each.losses(law, read["tokens"])[:, 1:][mask].mean()) for each in self._study.predictors
        }

    @cached_property
    def comparison(self) -> Comparison:
        """Where every variant ends, mean over seeds; predictors have no seeds."""
        records = self._records
        found = [records.get(column.trained.name) for column in self.study.columns]
        failed = Entry(why_empty="failed")
        rows = {LOSS: [failed if record is None else _entry(_losses(record)[1][-1], 4) for record in found]}
        if self._study.accuracy:
            rows[ACCURACY] = [failed if record is None else _entry(100 * accuracy(record), 1) for record in found]
        for value in self.predicted.values():
            rows[LOSS].append(Entry(ours=Interval(estimate=value, low=value, high=value), digits=4))
            if self._study.accuracy:
                rows[ACCURACY].append(Entry())
        heads = (*(column.label for column in self.study.columns), *self.predicted)
        return Comparison(columns=heads, rows={name: tuple(row) for name, row in rows.items()}, place="measured")

    def drawings(self) -> list[str]:
        """Held-out losses over updates, and the predictors as lines across them."""
        curves: list[Curve] = []
        records = self._records
        for column in self.study.columns:
            if column.trained.name not in records:
                continue
            updates, values = _losses(records[column.trained.name])
            curves.append(Curve.of_seeds(len(curves), updates, values, label=column.label, members=True))
        across = np.array([0.0, max(curve.x[-1] for curve in curves)])
        for label, value in self.predicted.items():
            curves.append(Curve(style=len(curves), x=across, center=np.full(2, value), label=label))
        panel = Panel(title="held-out loss", x_label="updates", y_label=LOSS, curves=curves)
        ends = "; ".join(f"{curve.label} ends at {curve.center[-1]:.3g}" for curve in curves)
        about = f"{self.study.title}. {ends}"
        return [curves_svg(f"{self.study.name}-1", panel, alternative=about, size=(FULL, 4.2))]


def run_laws(
    variants: Sequence[Variant], output: Path, config: ReproduceConfig, progress: Progress, engine: Engine
) -> dict[tuple[str, Place], Path]:
    """Train every variant, and before it what it starts from; see `run_cells`."""
    starts, runs = dict[Path, TrainConfig[Any]](), dict[Path, tuple[Variant, TrainConfig[Any], tuple[Path, ...]]]()
    for variant in variants:
        *before, (path, settings) = law_runs(variant, output, config)
        starts |= dict(before)
        runs[path] = variant, settings, tuple(start for start, _ in before)
    engine.make("pre-training", [_job(path, settings) for path, settings in starts.items()], progress)
    engine.make("training", [_job(path, settings, needs) for path, (_, settings, needs) in runs.items()], progress)
    return {(runs[path][0].name, HELD_OUT): path for path in engine.without_failed([*runs])}


def law_path(variant: Variant, output: Path) -> Path:
    """Run directory of a variant."""
    return output / "runs" / path_name(variant.name)


def _job(path: Path, settings: TrainConfig[Any], needs: tuple[Path, ...] = ()) -> RunJob:
    return RunJob(name=settings.variant, work=finished_run, arguments=(settings, path), makes=path, needs=needs)


def law_runs(
    variant: Variant, output: Path, config: ReproduceConfig
) -> Iterator[tuple[Path, TrainConfig[language_model.Config]]]:
    """Directory and settings of what the variant starts from, if anything, and of the variant itself."""
    start, init = variant.start, None
    if start is not None:
        init = output / "pretraining" / path_name(start.name)
        before = Variant(name=f"{start.name} pre-training", method=start.method, updates=start.updates)
        yield init, _settings(before, None, config, config.share_before)
    yield law_path(variant, output), _settings(variant, init, config, config.update_share)


def _settings(variant: Variant, init: Path | None, config: ReproduceConfig, share: float) -> TrainConfig[Any]:
    config = replace(config, evaluation_count=max(config.evaluation_count, EVALUATIONS))
    method, schedule = scaled(variant.method, variant.updates, share, variant.updates, config)
    return TrainConfig(
        init=init, seeds=config.seeds, method=method, schedule=schedule, compute=config.compute, variant=variant.name
    )


def _method(record: RunRecord) -> language_model.Config:
    return configured(language_model.Config, record.settings["method"])


def _losses(record: RunRecord) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Updates (n,), and held-out losses (n, seed_count)."""
    series = record.evaluation("held_out_loss")
    assert series is not None  # a finished run has some
    return series.updates, series.values


def _entry(values: NDArray[np.float64], digits: int) -> Entry:
    if not np.isfinite(values).all():
        return Entry(why_empty="no finite loss", digits=digits)
    return Entry(ours=bootstrap_interval(values), seed_count=len(values), digits=digits)


@torch.no_grad()
def accuracy(record: RunRecord) -> NDArray[np.float64]:
    """How often the likeliest token is the target, of each seed of a finished run on its held-out sequences."""
    config, (tensors, known) = _method(record), read_state(checkpoints(record.path)[0])
    table = TokenTable(
        language_model.generate(config), len(known["seeds"]), config.batch_size, torch.device("cpu"), torch.float32
    )
    model = language_model.create(config, table, known["seeds"]).model.like(tensors["model"]).parameters
    right, count = torch.zeros(len(known["seeds"])), 0
    for tokens, targets in table.held_out():
        scores = token_logits(model, config.backbone, tokens.long())
        goal = tokens[:, :, 1:] if targets is None else targets[:, :, :-1]
        right += (scores[:, :, :-1].argmax(-1) == goal).sum((1, 2))
        count += int((goal[0] >= 0).sum())
    return (right / count).double().numpy()
