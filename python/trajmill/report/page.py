"""One self-contained HTML page about some runs: no script, no network, light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import numpy as np

from trajmill.algorithms import method_of_kind
from trajmill.core.files import write_whole
from trajmill.evaluation import statistics
from trajmill.report.comparison import Comparison, number
from trajmill.report.figures import FULL, HALF, Curve, Panel, Rate, bars_svg, curves_svg
from trajmill.runs.reading import RunError, RunRecord, Series, read_run

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Something that a caller adds to the page."""

    name: str
    """unique on the page; letters, digits and hyphens"""
    title: str
    text: str = ""
    """plain text, one paragraph per line"""
    figures: tuple[str, ...] = ()
    """SVGs from `trajmill.report.figures`"""
    caption: str = ""
    comparison: Comparison | None = None
    """table above the figures"""
    leading: bool = False
    """whether it comes before the scores and curves of the runs, not after them"""


def rates_section(
    name: str, title: str, groups: Sequence[Sequence[Rate]], *, text: str = "", caption: str = ""
) -> Section:
    """Section of horizontal bars, such as sampler rates beside a baseline's; each group has a scale of its own."""
    drawn = [bars_svg(f"{name}-{index}", rates, alternative="Bar chart") for index, rates in enumerate(groups)]
    return Section(name=name, title=title, text=text, figures=tuple(drawn), caption=caption)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One line of the score table; None stands for what the run has not measured."""

    run: RunRecord
    final: statistics.Interval | None = None
    best: float | None = None
    raw_return: float | None = None
    evaluation_count: int = 0
    failed_seeds: tuple[int, ...] = ()
    """seeds with a missing evaluation among those averaged"""


def score(run: RunRecord) -> Score:
    """Score a run by its evaluations: the average of the last four, with a 95 % bootstrap interval over seeds.

    When a seed has no finite score in those evaluations the run gets none: an average over the seeds that survived
    would flatter it.
    """
    scores, returns = run.evaluation("normalized_score"), run.evaluation("return_mean")
    if scores is None:
        return Score(run=run)
    count, final = min(4, len(scores.updates)), statistics.average_last_four(scores.values)
    failed = tuple(seed for seed, value in zip(run.seeds, final, strict=True) if math.isnan(value))
    if failed:
        return Score(run=run, evaluation_count=count, failed_seeds=failed)
    return Score(
        run=run,
        final=statistics.bootstrap_interval(final),
        best=float(statistics.best(scores.values).mean()),
        raw_return=float(statistics.average_last_four(returns.values).mean()) if returns else None,
        evaluation_count=count,
    )


def write_report(
    runs: Sequence[Path],
    output: Path,
    *,
    title: str = "trajmill report",
    summary: str = "",
    extra_sections: Sequence[Section] = (),
    loss_floors: Mapping[Path, float] | None = None,
) -> Path:
    """Write the page about `runs` to `output` and return its path.

    Parameters
    ----------
    runs
        Run directories; variants keep this order and take their colors from it. Unfinished runs are shown and marked.
    output
        The HTML file; replaced in one move, so that a reader never sees half a page.
    summary
        Plain text under the title.
    extra_sections
        Shown after the scores and curves of the runs, or before them (`Section.leading`); with any of them, there may
        be no runs.
    loss_floors
        By pre-training run: the least loss that any predictor can reach, drawn as a line.

    Raises
    ------
    RunError
        If a directory is not a run or is damaged, or if two runs have the same variant and dataset.
    """
    if not runs and not extra_sections:
        raise RunError("a report needs at least one run directory")
    records = [read_run(path) for path in runs]
    _refuse_twins(records)
    scored = [run for run in records if run.environment is not None]
    pretrained = [run for run in records if run.environment is None]
    variants = dict.fromkeys(run.variant for run in [*scored, *pretrained])
    styles = {variant: index for index, variant in enumerate(variants)}
    rows = [score(run) for run in scored]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trajmill.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "count": lambda value: f"{value:,}", "duration": _duration}
    page = environment.get_template("report.html.j2").render(
        title=title,
        summary=summary.splitlines(),
        score_groups=_grouped((_data(row.run), row) for row in rows),
        scale=_axis(rows),
        keys={run.variant: styles[run.variant] for run in scored},
        curves=_learning_curves(scored, styles),
        pretraining=_pretraining(pretrained, styles, loss_floors or {}),
        training=_training_metrics(scored, styles),
        extra_sections=extra_sections,
        records=records,
        shared=_shared_provenance(records),
        configurations={run.path: json.dumps(run.config, indent=2) for run in records},
        styles=styles,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, page.encode())
    return output


def _refuse_twins(records: Sequence[RunRecord]) -> None:
    seen: dict[tuple[str, str, str | None], Path] = {}
    for run in records:
        key = (run.kind, run.variant, run.dataset)
        if key in seen:
            raise RunError(
                f"{seen[key]} and {run.path} are both {run.variant!r} on {run.dataset}; name their variants apart"
            )
        seen[key] = run.path


def _grouped(pairs: Iterable[tuple[KeyT, ValueT]]) -> dict[KeyT, list[ValueT]]:
    """Values by key, in the order of their first appearance."""
    groups: dict[KeyT, list[ValueT]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _data(run: RunRecord) -> str:
    return run.dataset or "no dataset"


def _axis(rows: Sequence[Score]) -> tuple[float, float]:
    """Ends of the axis on which the score table draws its intervals."""
    intervals = [row.final for row in rows if row.final]
    low = min([0.0, *(interval.low for interval in intervals)])
    high = max([1.0, *(interval.high for interval in intervals)])
    return low, high


def _learning_curves(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> list[str]:
    """One figure for each dataset, with all its variants on the same axes."""
    groups = _grouped(
        (_data(run), (run, series)) for run in runs if (series := run.evaluation("normalized_score")) is not None
    )
    return [
        curves_svg(
            f"curve-{index}",
            Panel(
                title=dataset,
                x_label="updates",
                y_label="normalized score",
                curves=[
                    Curve.of_seeds(styles[run.variant], series.updates, series.values, members=True)
                    for run, series in group
                ],
                markers=True,
            ),
            alternative=f"Learning curves on {dataset}. {_ends(group, 1)}",
            size=(FULL, 4.2) if len(groups) == 1 else (HALF, 3.1),
        )
        for index, (dataset, group) in enumerate(groups.items())
    ]


def _pretraining(runs: Sequence[RunRecord], styles: Mapping[str, int], floors: Mapping[Path, float]) -> list[str]:
    """The loss of each pre-training run, averaged over its parts, with its floor where it is known."""
    losses = [(run, *found) for run in runs if (found := _mean_loss(run.series.get("train", {}))) is not None]
    panels = []
    for index, (run, name, loss) in enumerate(losses):
        floor = f"floor {number(floors[run.path], 4)}" if run.path in floors else ""
        panel = Panel(
            title=run.variant,
            x_label="updates",
            y_label=_scale_of(run, name),
            curves=[Curve.of_seeds(styles[run.variant], loss.updates, loss.values, members=True)],
            level=(floors[run.path], floor) if floor else None,
        )
        first, last = (number(loss.values[point].mean(), 4) for point in (0, -1))
        alternative = f"Pre-training loss of {run.variant}: {first} to {last}" + (f"; {floor}" if floor else "")
        size = (FULL if len(losses) == 1 else HALF, 3.0)
        panels.append(curves_svg(f"pretraining-{index}", panel, alternative=alternative, size=size))
    return panels


def _mean_loss(metrics: Mapping[str, Series]) -> tuple[str, Series] | None:
    """Name of the first loss, and the mean of all of them."""
    losses = {name: series for name, series in metrics.items() if name.startswith("loss")}
    if not losses:
        return None
    name, first = next(iter(losses.items()))
    values = np.mean([series.values for series in losses.values()], axis=0)
    return name, Series(updates=first.updates, values=values)


def _scale_of(run: RunRecord, metric: str) -> str:
    """What the run's method says that a metric is measured in."""
    scales: Mapping[str, str] = getattr(method_of_kind(run.kind), "SCALES", {})
    return scales.get(metric, _words(metric))


def _training_metrics(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> list[str]:
    """Small panels of what training logged, losses first; one panel for each metric and dataset."""
    groups = _grouped(
        ((_data(run), metric), (run, series)) for run in runs for metric, series in run.series.get("train", {}).items()
    )
    several = len({dataset for dataset, _ in groups}) > 1
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], "loss" not in item[0][1]))
    return [
        curves_svg(
            f"training-{index}",
            Panel(
                title=_words(metric) + (f" · {dataset}" if several else ""),
                x_label="updates",
                y_label="",
                curves=[Curve.of_seeds(styles[run.variant], series.updates, series.values) for run, series in group],
            ),
            alternative=f"{_words(metric)} during training on {dataset}. {_ends(group, 3)}",
            size=(HALF, 2.7),
        )
        for index, ((dataset, metric), group) in enumerate(ordered)
    ]


def _ends(group: Sequence[tuple[RunRecord, Series]], digits: int) -> str:
    """Where the curves end, in words."""
    return "; ".join(f"{run.variant} ends at {number(series.values[-1].mean(), digits)}" for run, series in group)


def _shared_provenance(records: Sequence[RunRecord]) -> dict[str, str]:
    """What environment.json says and all runs agree on."""
    first, *others = [_flatten(run.provenance) for run in records if run.provenance] or [{}]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flatten(item, f"{prefix}{key}.")
        elif item is not None:
            flat[prefix + key] = " ".join(map(str, item)) if isinstance(item, list) else str(item)
    return flat


def _words(name: str) -> str:
    return name.replace("_", " ")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
