"""Figures of a study, from its runs or, where nothing is trained, from the laws themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from trajmill.core.markov_chain import MarkovChain
from trajmill.evaluation import statistics
from trajmill.report import figures
from trajmill.runs.reading import RunRecord, Series
from trajmill.studies.cells import short_name
from trajmill.studies.measures import Results
from trajmill.studies.records import DIGITS, Column, Quantity

Y_LABELS: dict[Quantity, str] = {"scores": "normalized score", "losses": "training loss"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One set of axes."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[figures.Curve, ...]
    markers: bool = True
    log_y: bool = False


def panels_of(results: Results) -> list[Panel]:
    """Every panel of curves that the runs have something for."""
    study = results.study
    if study.figure == "transition rows":
        return [_rows_panel(column) for column in study.columns]
    if study.figure == "bars":
        return []
    panels = []
    for over, datasets in _dataset_groups(results).items():
        for group in dict.fromkeys(column.group for column in study.columns):
            columns = [column for column in study.columns if column.group == group]
            title = f"{group}, {over}" if group else over
            if study.figure == "data ratios":
                panels.append(_ratio_panel(results, columns, datasets, title))
            else:
                panels += [_panel(results, columns, datasets, title, quantity) for quantity in study.quantities]
    return [panel for panel in panels if panel.curves]


def _dataset_groups(results: Results) -> dict[str, list[str]]:
    """The datasets that a panel averages over, by what the panel says of them."""
    datasets = list(dict.fromkeys(dataset for _, dataset in results.runs))
    if results.study.per_dataset or len(datasets) == 1:
        return {short_name(dataset): [dataset] for dataset in datasets}
    return {f"average over {len(datasets)} datasets": datasets} if datasets else {}


def _panel(results: Results, columns: list[Column], datasets: list[str], title: str, quantity: Quantity) -> Panel:
    unique: dict[str, Column] = {}
    for column in columns:  # several columns of one variant measure different things of one curve
        assert column.variant is not None
        name = column.variant.name
        unique[name] = replace(column, label=name) if name in unique else column
    lines = [_curve(results, column, datasets, style, quantity) for style, column in enumerate(unique.values())]
    return Panel(
        title=title,
        x_label="updates, pre-training counted" if any(column.shifted for column in columns) else "fine-tuning updates",
        y_label=Y_LABELS[quantity],
        curves=tuple(line for line in lines if line is not None),
        markers=quantity == "scores",
        log_y=quantity == "losses" and results.study.log_loss,
    )


def _curve(
    results: Results, column: Column, datasets: list[str], style: int, quantity: Quantity
) -> figures.Curve | None:
    """Mean over datasets and seeds, of losses from the second line of metrics on; None unless all datasets were run."""
    assert column.variant is not None
    runs = [run for dataset in datasets if (run := results.run(column.variant, dataset)) is not None]
    series: list[Series | None] = [
        run.evaluation("normalized_score") if quantity == "scores" else _losses(run, results.study.loss) for run in runs
    ]
    found = [each for each in series if each is not None]
    if len(found) < len(datasets) or len(found[0].updates) == 0:
        return None
    updates = found[0].updates.astype(np.float64)
    if column.shifted:
        updates = updates + results.pretraining(runs[0]).update
    center, low, high = statistics.curve_band(np.mean([each.values for each in found], axis=0))
    return figures.Curve(style=style, x=updates, center=center, low=low, high=high, label=column.label)


def _losses(run: RunRecord, name: str) -> Series | None:
    series = run.series.get("train", {}).get(name)
    return None if series is None else Series(updates=series.updates[1:], values=series.values[1:])


def _ratio_panel(results: Results, columns: list[Column], datasets: list[str], title: str) -> Panel:
    names = dict.fromkeys(column.line for column in columns)
    lines = [
        _ratio_curve(results, [column for column in columns if column.line == name], datasets, style)
        for style, name in enumerate(names)
    ]
    drawn = tuple(line for line in lines if line is not None)
    return Panel(title=title, x_label="share of the data, %", y_label=Y_LABELS["scores"], curves=drawn)


def _ratio_curve(results: Results, columns: list[Column], datasets: list[str], style: int) -> figures.Curve | None:
    points = []
    for column in columns:
        scores = results.over(column, datasets)
        if column.variant is not None and scores is not None:
            points.append((column.variant.ratio * 100, statistics.bootstrap_interval(scores)))
    if not points:
        return None
    shares, intervals = zip(*points, strict=True)
    center, low, high = (np.array([getattr(each, name) for each in intervals]) for name in ("estimate", "low", "high"))
    return figures.Curve(style=style, x=np.array(shares), center=center, low=low, high=high, label=columns[0].line)


def _rows_panel(column: Column) -> Panel:
    """A row of a chain, in ascending order."""
    chain = MarkovChain(state_count=100, order=1, temperature=column.temperature, seed=42)
    row = np.sort(chain.probabilities([0]))
    curve = figures.Curve(style=0, x=np.arange(1.0, 101.0), center=row)
    return Panel(
        title=column.label,
        x_label="next state, by probability",
        y_label="probability",
        curves=(curve,),
        markers=False,
    )


def drawn_figures(results: Results) -> list[str]:
    """The study's figures as SVG, for a page."""
    panels, study = panels_of(results), results.study
    alone = len(panels) == 1
    curves = [
        figures.curves_svg(
            f"{study.name}-{number}",
            panel.curves,
            title=panel.title,
            x_label=panel.x_label,
            y_label=panel.y_label,
            alternative=f"{study.title}: {panel.title}. "
            + "; ".join(f"{curve.label or 'line'} ends at {curve.center[-1]:.3g}" for curve in panel.curves),
            width=figures.FULL if alone else figures.HALF,
            height=4.2 if alone else 3.4,
            markers=panel.markers,
            log_y=panel.log_y,
        )
        for number, panel in enumerate(panels, start=1)
    ]
    return curves + (_bars(results) if study.figure == "bars" else [])


def _bars(results: Results) -> list[str]:
    """One bar a column, mean over the datasets that were run; a figure for each group."""
    found = []
    for number, group in enumerate(dict.fromkeys(column.group for column in results.study.columns), start=1):
        values = {
            column: float(scores.mean())
            for column in results.study.columns
            if column.group == group
            for datasets in _dataset_groups(results).values()
            if (scores := results.over(column, datasets)) is not None
        }
        if values:
            text: Callable[[Column], str] = lambda column: f"{values[column]:.{DIGITS.get(column.statistic, 1)}f}"  # noqa: B023, E731
            found.append(
                figures.bars_svg(
                    f"{results.study.name}-{number}",
                    [column.label for column in values],
                    list(values.values()),
                    [text(column) for column in values],
                    highlighted=[column.variant is not None and column.variant.start is not None for column in values],
                    alternative=f"{results.study.title}: {group}. "
                    + "; ".join(f"{column.label} {text(column)}" for column in values),
                    width=figures.FULL,
                )
            )
    return found
