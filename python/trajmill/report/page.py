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
from trajmill.core.files import check_writable, write_whole
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import duration
from trajmill.evaluation import statistics
from trajmill.report.comparison import Comparison, number
from trajmill.report.figures import FULL, HALF, Curve, Panel, Rate, bars_svg, curves_svg
from trajmill.runs.reading import RunError, RunRecord, Series, read_run

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")
Found = tuple[RunRecord, Series]
"""a run and one of its metrics"""


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
    table: tuple[tuple[str, ...], ...] = ()
    """another table above them: rows of cells, the first of headings"""
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
    scores, returns = run.evaluation(run.score[0]), run.evaluation("return_mean")
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
    runs: Sequence[AnyPath],
    output: AnyPath,
    *,
    title: str = "trajmill report",
    summary: str = "",
    extra_sections: Sequence[Section] = (),
) -> Path:
    """Write the HTML page about `runs` to `output`, replaced in one move, and return its path.

    `runs` are run directories; variants keep this order and take their colors from it, and unfinished runs are marked.
    With `extra_sections` there may be no runs. `summary` is plain text under the title. Where a pre-training
    run has measured what the best predictor would lose, a line shows it.

    Raises RunError if a directory is not a run or is damaged, or if two runs have the same variant and dataset.
    """
    if not runs and not extra_sections:
        raise RunError("a report needs at least one run directory")
    output = local_path(output)
    check_writable(output, as_file=True)
    records = [read_run(path) for path in runs]
    _refuse_twins(records)
    scored = [run for run in records if run.environment is not None]
    pretrained = [run for run in records if run.environment is None]
    styles = {variant: style for style, variant in enumerate(dict.fromkeys(run.variant for run in scored + pretrained))}
    rows = [score(run) for run in scored]
    intervals = [row.final for row in rows if row.final]
    loader, undefined = jinja2.PackageLoader("trajmill.report", "templates"), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, undefined=undefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "count": lambda value: f"{value:,}", "duration": duration}
    page = environment.get_template("report.html.j2").render(
        title=title,
        summary=summary.splitlines(),
        score_groups=grouped((_data(row.run), row) for row in rows),
        scale=(min([0.0, *(each.low for each in intervals)]), max([1.0, *(each.high for each in intervals)])),
        keys={run.variant: styles[run.variant] for run in scored},
        curves=_learning_curves(scored, styles),
        pretraining=_pretraining(pretrained, styles),
        training=_training_metrics(scored, styles),
        extra_sections=[*_starts(scored), *extra_sections],
        records=records,
        shared=_shared_provenance(records),
        configurations={run.path: json.dumps(run.config, indent=2) for run in records},
        styles=styles,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, page.encode(errors="replace"))
    return output


def _refuse_twins(records: Sequence[RunRecord]) -> None:
    paths = grouped(((run.kind, run.variant, run.dataset), run.path) for run in records)
    for (_, variant, dataset), (first, *others) in paths.items():
        if others:
            raise RunError(f"{first} and {others[0]} are both {variant!r} on {dataset}; name their variants apart")


def grouped(pairs: Iterable[tuple[KeyT, ValueT]]) -> dict[KeyT, list[ValueT]]:
    """Values by key, in the order of their first appearance."""
    groups: dict[KeyT, list[ValueT]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _data(run: RunRecord) -> str:
    return run.dataset or "no dataset"


def _curves(group: Sequence[Found], styles: Mapping[str, int], *, members: bool = True) -> list[Curve]:
    """The mean over seeds of each run's metric, and with `members` each seed's."""
    return [Curve.of_seeds(styles[run.variant], each.updates, each.values, members=members) for run, each in group]


def _starts(runs: Sequence[RunRecord]) -> list[Section]:
    """What runs that began from another one measured before their first update, if there are such."""
    begun = [run for run in runs if run.series.get("start")]
    if not begun:
        return []
    names = list(dict.fromkeys(name for run in begun for name in run.series["start"]))
    rows = [("variant", *map(_words, names))]
    for run in begun:
        means = (run.series["start"][name].values[-1].mean() if name in run.series["start"] else None for name in names)
        rows.append((f"{run.variant} · {_data(run)}", *(number(mean) for mean in means)))
    text = "What the critics that a run began from said before its first update, mean over seeds."
    return [Section(name="starts", title="At the start", text=text, table=tuple(rows))]


def _learning_curves(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> list[str]:
    """One figure for each dataset, with all its variants on the same axes."""
    found = ((run, run.evaluation(run.score[0])) for run in runs)
    groups = grouped((_data(run), (run, series)) for run, series in found if series is not None)
    size = (FULL, 4.2) if len(groups) == 1 else (HALF, 3.1)
    drawn = []
    for index, (dataset, group) in enumerate(groups.items()):
        curves = _curves(group, styles)
        y_label = group[0][0].score[1]
        panel = Panel(title=dataset, x_label="updates", y_label=y_label, curves=curves, markers=True)
        about = f"Learning curves on {dataset}. {_ends(group, 1)}"
        drawn.append(curves_svg(f"curve-{index}", panel, alternative=about, size=size))
    return drawn


def _floor(run: RunRecord) -> float | None:
    """What the best predictor would lose, where the run has measured it."""
    measured = run.series.get("evaluation", {})
    found = [measured[name] for name in ("optimal_loss", "entropy_rate") if name in measured]
    return float(found[0].values[-1].mean()) if found else None


def _pretraining(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> list[str]:
    """The loss of each pre-training run, averaged over its parts, with its floor where it is known."""
    losses = [(run, *found) for run in runs if (found := _mean_loss(run.series.get("train", {}))) is not None]
    size = (FULL if len(losses) == 1 else HALF, 3.0)
    drawn = []
    for index, (run, name, loss) in enumerate(losses):
        least = _floor(run)
        floor = "" if least is None else f"best possible {number(least, 4)}"
        scales: Mapping[str, str] = getattr(method_of_kind(run.kind), "SCALES", {})
        panel = Panel(
            title=run.variant,
            x_label="updates",
            y_label=scales.get(name, _words(name)),
            curves=_curves([(run, loss)], styles),
            level=None if least is None else (least, floor),
        )
        first, last = (number(loss.values[point].mean(), 4) for point in (0, -1))
        about = f"Pre-training loss of {run.variant}: {first} to {last}" + (f"; {floor}" if floor else "")
        drawn.append(curves_svg(f"pretraining-{index}", panel, alternative=about, size=size))
    return drawn


def _mean_loss(metrics: Mapping[str, Series]) -> tuple[str, Series] | None:
    """Name of the first loss, and the mean of all of them."""
    losses = {name: series for name, series in metrics.items() if name.startswith("loss")}
    if not losses:
        return None
    name, first = next(iter(losses.items()))
    values = np.mean([series.values for series in losses.values()], axis=0)
    return name, Series(updates=first.updates, values=values)


def _training_metrics(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> list[str]:
    """Small panels of what training logged, losses first; one panel for each metric and dataset."""
    groups = grouped(
        ((_data(run), metric), (run, series)) for run in runs for metric, series in run.series.get("train", {}).items()
    )
    several = len({dataset for dataset, _ in groups}) > 1
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], "loss" not in item[0][1]))
    drawn = []
    for index, ((dataset, metric), group) in enumerate(ordered):
        title, curves = _words(metric) + (f" · {dataset}" if several else ""), _curves(group, styles, members=False)
        panel = Panel(title=title, x_label="updates", y_label="", curves=curves)
        about = f"{_words(metric)} during training on {dataset}. {_ends(group, 3)}"
        drawn.append(curves_svg(f"training-{index}", panel, alternative=about, size=(HALF, 2.7)))
    return drawn


def _ends(group: Sequence[Found], digits: int) -> str:
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
