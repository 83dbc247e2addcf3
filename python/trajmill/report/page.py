"""One self-contained HTML page about some runs: no script, no network, light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from trajmill.algorithms import method_of_kind
from trajmill.core.files import check_writable, write_whole
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import duration
from trajmill.evaluation import statistics
from trajmill.report.aggregates import aggregate_section, data_of
from trajmill.report.comparison import number
from trajmill.report.examples import data_section
from trajmill.report.figures import FULL, HALF, MARKER_PATHS, Curve, Panel, compact, curves_svg
from trajmill.report.provenance import RUN_HEADS, origins, provenance, shared
from trajmill.report.sections import Section, grouped
from trajmill.runs.reading import RunError, RunRecord, Series, read_run

Found = tuple[RunRecord, Series]
"""a run and one of its metrics"""
SAME = 1e-6
"""a metric whose values differ by less than this share of the greatest one is constant: it has no panel"""


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
    order: Sequence[str] = (),
) -> Path:
    """Write the HTML page about `runs` to `output`, replaced in one move, and return its path.

    `runs` are run directories; variants keep this order and take their looks from it, after the names in `order`, which
    figures of `extra_sections` show; unfinished runs are marked. With `extra_sections` there may be no runs. `summary`
    is plain text under the title. Where a pre-training run has measured what the best predictor would lose, a line
    shows it.

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
    styles = _styles(scored, pretrained, order)
    rows = [score(run) for run in scored]
    intervals = [row.final for row in rows if row.final]
    training, constants = _training_metrics(scored, styles)
    loader, undefined = jinja2.PackageLoader("trajmill.report", "templates"), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, undefined=undefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "count": lambda value: f"{value:,}", "duration": duration}
    page = environment.get_template("report.html.j2").render(
        title=title,
        summary=summary.splitlines(),
        score_groups=grouped((data_of(row.run), row) for row in rows),
        scale=(min([0.0, *(each.low for each in intervals)]), max([1.0, *(each.high for each in intervals)])),
        keys={run.variant: styles[run.variant] for run in scored},
        curves=_learning_curves(scored, styles),
        pretraining=_pretraining(pretrained, styles),
        training=training,
        constants=constants,
        aggregates=aggregate_section(scored, styles),
        extra_sections=[*_starts(scored), *extra_sections, *filter(None, [data_section(records)])],
        origins=origins(records),
        run_heads=RUN_HEADS,
        shared=shared([provenance(run) for run in records]),
        styles=styles,
        markers=MARKER_PATHS,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, page.encode(errors="replace"))
    return output


def _styles(scored: Sequence[RunRecord], pretrained: Sequence[RunRecord], order: Sequence[str]) -> dict[str, int]:
    """The look of each variant on the whole page; a run has the look of the first variant that starts from it."""
    names = dict.fromkeys([*order, *(run.variant for run in scored)])
    starts = {local_path(init): run.variant for run in reversed(scored) if (init := run.settings.get("init"))}
    owners = {run.variant: starts.get(run.path, run.variant) for run in pretrained if run.variant not in names}
    looks = {name: look for look, name in enumerate(dict.fromkeys([*names, *owners.values()]))}
    return looks | {variant: looks[owner] for variant, owner in owners.items()}


def _refuse_twins(records: Sequence[RunRecord]) -> None:
    paths = grouped(((run.kind, run.variant, run.dataset), run.path) for run in records)
    for (_, variant, dataset), (first, *others) in paths.items():
        if others:
            raise RunError(f"{first} and {others[0]} are both {variant!r} on {dataset}; name their variants apart")


def _curves(
    group: Sequence[Found], styles: Mapping[str, int], *, members: bool = True, trained: bool = False
) -> list[Curve]:
    """The mean over seeds of each run's metric, and with `members` each seed's.

    What is `trained` has a first point apart, if that is the first update alone.
    """
    return [
        Curve.of_seeds(
            styles[run.variant],
            each.updates,
            each.values,
            members=members,
            first_apart=trained and each.updates[0] == 1,
        )
        for run, each in group
    ]


def _starts(runs: Sequence[RunRecord]) -> list[Section]:
    """What runs that began from another one measured before their first update, if there are such."""
    begun = [run for run in runs if run.series.get("start")]
    if not begun:
        return []
    names = list(dict.fromkeys(name for run in begun for name in run.series["start"]))
    rows = [("variant", *map(_words, names))]
    for run in begun:
        means = (run.series["start"][name].values[-1].mean() if name in run.series["start"] else None for name in names)
        rows.append((f"{run.variant} · {data_of(run)}", *(number(mean) for mean in means)))
    text = "What the critics that a run began from said before its first update, mean over seeds."
    return [Section(name="starts", title="At the start", text=text, tables=(tuple(rows),))]


def _learning_curves(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> list[str]:
    """One figure for each dataset, with all its variants on the same axes."""
    found = ((run, run.evaluation(run.score[0])) for run in runs)
    groups = grouped((data_of(run), (run, series)) for run, series in found if series is not None)
    size = (FULL, 3.6) if len(groups) == 1 else (HALF, 3.1)
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
            curves=_curves([(run, loss)], styles, trained=True),
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


def _training_metrics(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Small panels of what training logged, losses first, one for each metric and dataset; and what is constant."""
    groups = grouped(
        ((data_of(run), metric), (run, series))
        for run in runs
        for metric, series in run.series.get("train", {}).items()
    )
    several = len({dataset for dataset, _ in groups}) > 1
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], "loss" not in item[0][1]))
    drawn: list[str] = []
    constants: dict[str, dict[str, str]] = {}
    for (dataset, metric), group in ordered:
        changing = [(run, series) for run, series in group if not _is_constant(series)]
        for run, series in group:
            if _is_constant(series):
                constants.setdefault(_words(metric), {})[run.variant] = compact(float(series.values.flat[0]))
        if not changing:
            continue
        title = _words(metric) + (f" · {dataset}" if several else "")
        curves = _curves(changing, styles, members=False, trained=True)
        panel = Panel(title=title, x_label="updates", y_label="", curves=curves)
        about = f"{_words(metric)} during training on {dataset}. {_ends(changing, 3)}"
        drawn.append(curves_svg(f"training-{len(drawn)}", panel, alternative=about, size=(HALF, 2.7)))
    return drawn, [_constant(metric, values) for metric, values in constants.items()]


def _constant(metric: str, values: Mapping[str, str]) -> str:
    """A metric that does not change, in words, by variant if they differ."""
    if len(set(values.values())) == 1:
        return f"{metric} {next(iter(values.values()))}"
    return f"{metric} " + ", ".join(f"{value} ({variant})" for variant, value in values.items())


def _is_constant(series: Series) -> bool:
    """Whether a metric has one value, of all seeds from the first line to the last."""
    return bool(np.ptp(series.values) <= SAME * np.abs(series.values).max())


def _ends(group: Sequence[Found], digits: int) -> str:
    """Where the curves end, in words."""
    return "; ".join(f"{run.variant} ends at {number(series.values[-1].mean(), digits)}" for run, series in group)


def _words(name: str) -> str:
    return name.replace("_", " ")
