"""Figures of a study, from its runs or, where nothing is trained, from the laws themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import trajmill as tm
from trajmill.evaluation import statistics
from trajmill.pipelines.studies.cells import short_name
from trajmill.pipelines.studies.measures import Results
from trajmill.pipelines.studies.records import Column, Study
from trajmill.report import figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One set of axes."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[figures.Curve, ...]
    log_y: bool = False


def panels_of(results: Results) -> list[Panel]:
    """Every panel that the runs have something for."""
    study = results.study
    if study.figure == "transition rows":
        return [rows_panel(column) for column in study.columns]
    datasets = list(dict.fromkeys(dataset for _, dataset in results.runs))
    if not datasets:
        return []
    over = f"average over {len(datasets)} data sets" if len(datasets) > 1 else short_name(datasets[0])
    panels = []
    for group in dict.fromkeys(column.group for column in study.columns):
        columns = [column for column in study.columns if column.group == group]
        title = f"{group}, {over}" if group else over
        panels.append(_panel(results, columns, datasets, title))
    return [panel for panel in panels if panel.curves]


def _panel(results: Results, columns: list[Column], datasets: list[str], title: str) -> Panel:
    figure = results.study.figure
    if figure == "data ratios":
        names = dict.fromkeys(column.line for column in columns)
        lines = [
            _ratio_curve(results, [column for column in columns if column.line == name], datasets, style)
            for style, name in enumerate(names)
        ]
        return Panel(title=title, x_label="share of the data, %", y_label="normalized score", curves=_drawn(lines))
    unique: dict[str, Column] = {}
    for column in columns:  # several columns of one variant measure different things of one curve
        assert column.variant is not None
        name = column.variant.name
        unique[name] = replace(column, label=name) if name in unique else column
    draw = _loss_curve if figure == "loss curves" else _score_curve
    lines = [draw(results, column, datasets, style) for style, column in enumerate(unique.values())]
    return Panel(
        title=title,
        x_label="updates, pre-training counted" if figure == "shifted curves" else "fine-tuning updates",
        y_label="training loss" if figure == "loss curves" else "normalized score",
        curves=_drawn(lines),
        log_y=figure == "loss curves" and all(variant.method == "dt" for variant in results.study.variants.values()),
    )


def _drawn(lines: list[figures.Curve | None]) -> tuple[figures.Curve, ...]:
    return tuple(line for line in lines if line is not None)


def _score_curve(results: Results, column: Column, datasets: list[str], style: int) -> figures.Curve | None:
    """Mean over data sets and seeds; None unless every data set was run."""
    assert column.variant is not None
    runs = [run for dataset in datasets if (run := results.run(column.variant, dataset)) is not None]
    series = [scores for run in runs if (scores := run.evaluation("normalized_score")) is not None]
    if len(series) < len(datasets):
        return None
    steps = series[0].gradient_steps.astype(np.float64)
    if results.study.figure == "shifted curves" and column.variant.pretraining is not None:
        steps = steps + results.pretraining(runs[0]).gradient_step
    center, low, high = statistics.curve_band(np.mean([scores.values for scores in series], axis=0))
    return figures.Curve(style=style, x=steps, center=center, low=low, high=high, label=column.label)


LOSS = {"dt": "loss", "cql": "q_loss"}
"""DT's error of the actions; CQL's Bellman and conservative loss together, as the paper draws them"""


def _loss_curve(results: Results, column: Column, datasets: list[str], style: int) -> figures.Curve | None:
    """Mean over data sets and seeds, from the second line of metrics on; None unless every data set was run."""
    assert column.variant is not None
    runs = [run for dataset in datasets if (run := results.run(column.variant, dataset)) is not None]
    series = [losses for run in runs if (losses := run.series.get("finetune", {}).get(LOSS[run.kind[6:]])) is not None]
    if len(series) < len(datasets) or len(series[0].gradient_steps) < 2:
        return None
    center, low, high = statistics.curve_band(np.mean([losses.values[1:] for losses in series], axis=0))
    steps = series[0].gradient_steps[1:].astype(np.float64)
    return figures.Curve(style=style, x=steps, center=center, low=low, high=high, label=column.label)


def _ratio_curve(results: Results, columns: list[Column], datasets: list[str], style: int) -> figures.Curve | None:
    points = []
    for column in columns:
        values = [results.values(column, dataset) for dataset in datasets]
        if column.variant is not None and all(value is not None for value in values):
            scores = np.stack([value for value in values if value is not None], axis=1)
            if np.isfinite(scores).all():
                points.append((column.variant.ratio * 100, statistics.bootstrap_interval(scores)))
    if not points:
        return None
    return figures.Curve(
        style=style,
        x=np.array([x for x, _ in points]),
        center=np.array([interval.estimate for _, interval in points]),
        low=np.array([interval.low for _, interval in points]),
        high=np.array([interval.high for _, interval in points]),
        label=columns[0].line,
    )


def rows_panel(column: Column) -> Panel:
    """A row of a chain, in ascending order."""
    chain = tm.MarkovChain(state_count=100, order=1, temperature=column.temperature, seed=42)
    row = np.sort(chain.probabilities([0]))
    curve = figures.Curve(style=0, x=np.arange(1.0, 101.0), center=row)
    return Panel(title=column.label, x_label="next state, by probability", y_label="probability", curves=(curve,))


def drawn_figures(study: Study, panels: list[Panel]) -> list[str]:
    """The panels as SVG, for a page."""
    return [
        figures.curves_svg(
            f"{study.name}-{number}",
            panel.curves,
            title=panel.title,
            x_label=panel.x_label,
            y_label=panel.y_label,
            alternative=f"{study.title}: {panel.title}. "
            + "; ".join(f"{c.label or 'line'} ends at {c.center[-1]:.3g}" for c in panel.curves),
            width=figures.FULL if len(panels) == 1 else figures.HALF,
            height=4.2 if len(panels) == 1 else 3.4,
            markers=study.figure not in ("transition rows", "loss curves"),
            log_y=panel.log_y,
        )
        for number, panel in enumerate(panels, start=1)
    ]
