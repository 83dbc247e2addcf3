"""One self-contained HTML page about some runs: no script, no network, light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from trajmill.algorithms import method_of_kind
from trajmill.core.files import write_whole
from trajmill.evaluation import statistics
from trajmill.report import figures
from trajmill.report.comparison import Comparison
from trajmill.report.figures import FULL, HALF
from trajmill.runs.reading import RunError, RunRecord, Series, read_run

SCORE, RETURN = "normalized_score", "return_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Something a caller adds to the page."""

    name: str
    """unique on the page; letters, digits and hyphens"""
    title: str
    text: str = ""
    """plain text, one paragraph a line"""
    figures: tuple[str, ...] = ()
    """SVGs from `trajmill.report.figures`"""
    caption: str = ""
    comparison: Comparison | None = None
    """table above the figures"""
    leading: bool = False
    """whether it comes before the scores and curves of the runs, not after them"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast one way of doing a job went."""

    label: str
    value: float
    text: str
    """the value for people, such as ``"0.94 G tokens/s"``"""
    ours: bool
    """whether this is our way and not what it is measured against"""


def rates_section(
    name: str, title: str, groups: Sequence[Sequence[Rate]], *, text: str = "", caption: str = ""
) -> Section:
    """Section of horizontal bars, such as sampler rates beside a baseline's; each group has a scale of its own."""
    drawn = [
        figures.bars_svg(
            f"{name}-{index}",
            [rate.label for rate in rates],
            [rate.value for rate in rates],
            [rate.text for rate in rates],
            highlighted=[rate.ours for rate in rates],
            alternative="Bar chart. " + "; ".join(f"{rate.label}: {rate.text}" for rate in rates),
            width=FULL,
        )
        for index, rates in enumerate(groups)
    ]
    return Section(name=name, title=title, text=text, figures=tuple(drawn), caption=caption)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One line of the score table; None stands for what the run has not measured."""

    run: RunRecord
    final: statistics.Interval | None
    best: float | None
    raw_return: float | None
    evaluation_count: int
    failed_seeds: tuple[int, ...]
    """seeds with a missing evaluation among those averaged"""


def score(run: RunRecord) -> Score:
    """Score a run by its evaluations: the average of the last four, with a 95 % bootstrap interval over seeds.

    When a seed has no finite score in those evaluations the run gets none: an average over the seeds that survived
    would flatter it.
    """
    scores, returns = run.evaluation(SCORE), run.evaluation(RETURN)
    final = statistics.average_last_four(scores.values) if scores else np.full(len(run.seeds), np.nan)
    failed = tuple(seed for seed, value in zip(run.seeds, final, strict=True) if scores and math.isnan(value))
    whole = scores is not None and not failed
    return Score(
        run=run,
        final=statistics.bootstrap_interval(final) if whole else None,
        best=float(statistics.best(scores.values).mean()) if scores and whole else None,
        raw_return=float(statistics.average_last_four(returns.values).mean()) if returns and whole else None,
        evaluation_count=min(4, len(scores.updates)) if scores else 0,
        failed_seeds=failed,
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
        Shown after what the runs themselves tell, or before it (`Section.leading`); with any, there may be no runs.
    loss_floors
        By pre-training run: the least loss that any predictor can reach, drawn as a line.

    Raises
    ------
    RunError
        If a directory is no run or is damaged, or if two runs carry the same variant and dataset.
    """
    if not runs and not extra_sections:
        raise RunError("a report needs at least one run directory")
    records = [read_run(path) for path in runs]
    _refuse_twins(records)
    page = _render(
        title=title,
        summary=summary,
        records=records,
        extra_sections=extra_sections,
        loss_floors=loss_floors or {},
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


def _render(
    *,
    title: str,
    summary: str,
    records: Sequence[RunRecord],
    extra_sections: Sequence[Section],
    loss_floors: Mapping[Path, float],
) -> str:
    scored = [run for run in records if run.environment is not None]
    pretrained = [run for run in records if run.environment is None]
    variants = list(dict.fromkeys(run.variant for run in [*scored, *pretrained]))
    styles = {variant: index for index, variant in enumerate(variants)}
    rows = [score(run) for run in scored]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trajmill.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "count": lambda value: f"{value:,}", "duration": _duration}
    return environment.get_template("report.html.j2").render(
        title=title,
        summary=summary.splitlines(),
        score_groups=_by_dataset(rows),
        scale=_axis(rows),
        keys=[
            {"variant": variant, "style": styles[variant], "color": styles[variant] % len(figures.SERIES) + 1}
            for variant in dict.fromkeys(run.variant for run in scored)
        ],
        curves=_learning_curves(scored, styles),
        pretraining=_pretraining(pretrained, styles, loss_floors),
        training=_training_metrics(scored, styles),
        extra_sections=extra_sections,
        records=records,
        shared=_shared_provenance(records),
        configurations={run.path: json.dumps(run.config, indent=2) for run in records},
        styles=styles,
    )


def _by_dataset(rows: Sequence[Score]) -> dict[str, list[Score]]:
    groups: dict[str, list[Score]] = {}
    for row in rows:
        groups.setdefault(row.run.dataset or "no dataset", []).append(row)
    return groups


def _axis(rows: Sequence[Score]) -> tuple[float, float]:
    """Ends of the axis on which the score table draws its intervals."""
    intervals = [row.final for row in rows if row.final]
    low = min([0.0, *(interval.low for interval in intervals)])
    high = max([1.0, *(interval.high for interval in intervals)])
    return low, high


def _learning_curves(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> list[str]:
    """One figure a dataset, all its variants on the same axes."""
    groups: dict[str, list[tuple[RunRecord, Series]]] = {}
    for run in runs:
        series = run.evaluation(SCORE)
        if series is not None:
            groups.setdefault(run.dataset or "no dataset", []).append((run, series))
    alone = len(groups) == 1
    return [
        figures.curves_svg(
            f"curve-{index}",
            [_curve(styles[run.variant], series) for run, series in group],
            title=dataset,
            x_label="updates",
            y_label="normalized score",
            alternative=f"Learning curves on {dataset}. "
            + "; ".join(f"{run.variant} ends at {_number(series.values[-1].mean())}" for run, series in group),
            width=FULL if alone else HALF,
            height=4.2 if alone else 3.1,
            markers=True,
        )
        for index, (dataset, group) in enumerate(groups.items())
    ]


def _pretraining(runs: Sequence[RunRecord], styles: Mapping[str, int], floors: Mapping[Path, float]) -> list[str]:
    """The loss of each pre-training run, averaged over its parts, with its floor where it is known."""
    drawn = [(run, *found) for run in runs if (found := _mean_loss(run.series.get("train", {}))) is not None]
    alone = len(drawn) == 1
    panels = []
    for index, (run, name, loss) in enumerate(drawn):
        floor = floors.get(run.path)
        ends = f"{_number(float(loss.values[0].mean()), 4)} to {_number(float(loss.values[-1].mean()), 4)}"
        panels.append(
            figures.curves_svg(
                f"pretraining-{index}",
                [_curve(styles[run.variant], loss)],
                title=run.variant,
                x_label="updates",
                y_label=_scale_of(run, name),
                alternative=f"Pre-training loss of {run.variant}: {ends}"
                + (f"; floor {_number(floor, 4)}" if floor is not None else ""),
                width=FULL if alone else HALF,
                height=3.0,
                level=(floor, f"floor {_number(floor, 4)}") if floor is not None else None,
            )
        )
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
    """Small panels of what training logged, losses first; one panel a metric and dataset."""
    panels: dict[tuple[str, str], list[tuple[RunRecord, Series]]] = {}
    for run in runs:
        for metric, series in run.series.get("train", {}).items():
            panels.setdefault((run.dataset or "no dataset", metric), []).append((run, series))
    several = len({dataset for dataset, _ in panels}) > 1
    ordered = sorted(panels.items(), key=lambda item: (item[0][0], "loss" not in item[0][1]))
    return [
        figures.curves_svg(
            f"training-{index}",
            [_curve(styles[run.variant], series, members=False) for run, series in group],
            title=_words(metric) + (f" · {dataset}" if several else ""),
            x_label="updates",
            y_label="",
            alternative=f"{_words(metric)} during training on {dataset}. "
            + "; ".join(f"{run.variant} ends at {_number(series.values[-1].mean(), 3)}" for run, series in group),
            width=HALF,
            height=2.7,
        )
        for index, ((dataset, metric), group) in enumerate(ordered)
    ]


def _curve(style: int, series: Series, *, members: bool = True) -> figures.Curve:
    seed_count = series.values.shape[1]
    center, low, high = statistics.curve_band(series.values)
    return figures.Curve(
        style=style,
        x=series.updates.astype(np.float64),
        center=center,
        low=low if seed_count > 1 else None,
        high=high if seed_count > 1 else None,
        members=series.values if members and 1 < seed_count <= 5 else None,
    )


def _shared_provenance(records: Sequence[RunRecord]) -> dict[str, str]:
    """What environment.json says and all runs agree on."""
    flat = [_flatten(run.provenance) for run in records if run.provenance]
    if not flat:
        return {}
    return {key: value for key, value in flat[0].items() if all(other.get(key) == value for other in flat)}


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


def _number(value: float | None, digits: int = 1) -> str:
    """Fixed digits, thousands apart, a true minus sign; a dash for what is missing."""
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
