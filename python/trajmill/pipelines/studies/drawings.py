"""Figures of a study, from its runs or, where nothing is trained, from the laws themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import trajmill as tm
from trajmill.evaluation import statistics
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


def panels_of(results: Results) -> list[Panel]:
    """Every panel that the runs have something for."""
    study = results.study
    if study.figure == "transition rows":
        return [rows_panel(column) for column in study.columns]
    datasets = list(dict.fromkeys(dataset for _, dataset in results.runs))
    if not datasets:
        return []
    over = f"average over {len(datasets)} data sets" if len(datasets) > 1 else datasets[0]
    if study.figure == "data ratios":
        groups = list(dict.fromkeys(column.group for column in study.columns))
        lines = [_ratio_curve(results, group, datasets, style) for style, group in enumerate(groups)]
        return [Panel(title=over, x_label="share of the data, %", y_label="normalized score", curves=_drawn(lines))]
    x_label = "updates, pre-training counted" if study.figure == "shifted curves" else "fine-tuning updates"
    panels = []
    for group in dict.fromkeys(column.group for column in study.columns):
        columns = [column for column in study.columns if column.group == group]
        unique = {column.variant.name: column for column in columns if column.variant is not None}
        lines = [_score_curve(results, column, datasets, style) for style, column in enumerate(unique.values())]
        title = f"{group}, {over}" if group else over
        panels.append(Panel(title=title, x_label=x_label, y_label="normalized score", curves=_drawn(lines)))
    return [panel for panel in panels if panel.curves]


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


def _ratio_curve(results: Results, group: str, datasets: list[str], style: int) -> figures.Curve | None:
    points = []
    for column in results.study.columns:
        values = [results.values(column, dataset) for dataset in datasets] if column.group == group else [None]
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
        label=group,
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
            markers=study.figure != "transition rows",
        )
        for number, panel in enumerate(panels, start=1)
    ]
