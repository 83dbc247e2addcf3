"""Figures of a study, from its runs or, where nothing is trained, from the Markov chains themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trajmill.core.markov_chain import MarkovChain
from trajmill.evaluation import statistics
from trajmill.report.figures import FULL, HALF, Curve, Panel, Rate, bars_svg, curves_svg
from trajmill.report.sections import grouped
from trajmill.studies.cells import labels
from trajmill.studies.measures import Authors, Results
from trajmill.studies.records import Column, Place, Quantity, Study

Y_LABELS: dict[Quantity, str] = {
    "scores": "normalized score",
    "losses": "training loss",
    "value distributions": "density over the data",
}
BINS = 60
"""of a distribution"""


def drawn_figures(results: Results) -> list[str]:
    """The study's figures as SVG, for a page."""
    study = results.study
    if study.figure == "bars":
        return _bars(results)
    drawn, panels = [], panels_of(results)
    size = (FULL, 3.8) if len(panels) == 1 else (HALF, 3.4)
    for number, panel in enumerate(panels, start=1):
        ends = "; ".join(f"{curve.label or 'line'} ends at {curve.center[-1]:.3g}" for curve in panel.curves)
        about = f"{study.title}: {panel.title}. {ends}"
        drawn.append(curves_svg(f"{study.name}-{number}", panel, alternative=about, size=size))
    return drawn


def looks(study: Study) -> dict[str, int]:
    """The look of each variant, by name: the same in every figure of the study and of its page."""
    return {name: look for look, name in enumerate(study.variants)}


def panels_of(results: Results) -> list[Panel]:
    """Every panel of curves for which there are runs; those of the paper's authors after ours."""
    if results.study.figure == "transition rows":
        return [_rows_panel(column) for column in results.study.columns]
    return _panels(results) + ([] if results.authors is None else authors_panels(results.authors))


def authors_panels(authors: Authors) -> list[Panel]:
    """The panels of the authors' own runs."""
    return [replace(panel, title=f"authors' runs: {panel.title}") for panel in _panels(authors)]


def _panels(results: Results | Authors) -> list[Panel]:
    study = results.study
    panels, groups = [], grouped((column.group, column) for column in study.columns)
    for over, datasets in _dataset_groups(results).items():
        for group, columns in groups.items():
            title = f"{group}, {over}" if group else over
            if study.figure == "data ratios":
                panels.append(_ratio_panel(results, columns, datasets, title))
                continue
            for quantity in study.quantities:
                if quantity != "value distributions":
                    panels.append(_panel(results, columns, datasets, title, quantity))
                elif isinstance(results, Results):
                    panels.append(_distribution_panel(results, columns, datasets, title))
    return [panel for panel in panels if panel.curves]


def _dataset_groups(results: Results | Authors) -> dict[str, list[Place]]:
    """The datasets that a panel averages over, by what the panel says of them."""
    datasets = list(results.datasets)
    if results.study.per_dataset or len(datasets) == 1:
        return {label: [dataset] for dataset, label in labels(datasets).items()}
    return {f"average over {len(datasets)} {results.study.kind}": datasets} if datasets else {}


def _panel(
    results: Results | Authors, columns: list[Column], datasets: Sequence[Place], title: str, quantity: Quantity
) -> Panel:
    unique: dict[str, Column] = {}
    for column in columns:  # several columns of one variant measure different things of one curve
        name = column.trained.name
        unique[name] = replace(column, label=name) if name in unique else column
    look_of = looks(results.study)
    curves = [
        Curve.of_seeds(
            look_of[name],
            series.updates,
            series.values,
            label=column.label,
            first_apart=quantity == "losses" and isinstance(results, Results),  # the first line of a run is of update 1
        )
        for name, column in unique.items()
        if (series := results.curve(column, datasets, quantity)) is not None
    ]
    label = "updates"
    if any(column.trained.start is not None for column in columns):
        shifted = any(column.shifted for column in columns)
        label = "updates, pre-training included" if shifted else "fine-tuning updates"
    if all(column.trained.meets for column in columns):
        label = "steps of the environment"
    return Panel(
        title=title,
        x_label=label,
        y_label=Y_LABELS[quantity] if "loss" in results.study.loss else results.study.loss.replace("_", " "),
        curves=curves,
        markers=quantity == "scores",
        log_y=quantity == "losses" and results.study.log_loss,
    )


def _distribution_panel(results: Results, columns: list[Column], datasets: Sequence[Place], title: str) -> Panel:
    """How often the critics in the end give the data each value; all but the outermost 0.5 % on both sides."""
    values, look_of = [], looks(results.study)
    for column in columns:
        runs = [run for dataset in datasets if (run := results.run(column.trained, dataset)) is not None]
        if len(runs) == len(datasets):
            values.append((column, np.concatenate([results.data_values(run) for run in runs], axis=1)))
    curves = []
    if values:
        low, high = np.quantile(np.concatenate([of_column for _, of_column in values], axis=1), (0.005, 0.995))
        edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
        for column, of_column in values:
            counts = np.stack([np.histogram(of_seed, edges)[0] for of_seed in of_column], axis=1)
            density = counts / (of_column.shape[1] * (edges[1] - edges[0]))
            look, middles = look_of[column.trained.name], (edges[:-1] + edges[1:]) / 2
            curves.append(Curve.of_seeds(look, middles, density, label=column.label))
    x_label = "value that the critics give in the end"
    return Panel(title=title, x_label=x_label, y_label=Y_LABELS["value distributions"], curves=curves, counts=False)


def _ratio_panel(results: Results | Authors, columns: list[Column], datasets: Sequence[Place], title: str) -> Panel:
    """Lines over the share of the data; each has the look of its first variant."""
    curves, look_of = [], looks(results.study)
    for line, of_line in grouped((column.line, column) for column in columns).items():
        look = look_of[of_line[0].trained.name]
        points = [
            (column.trained.ratio * 100, statistics.bootstrap_interval(scores))
            for column in of_line
            if (scores := results.over(column, datasets)) is not None
        ]
        if points:
            shares, center, low, high = np.array([(share, at.estimate, at.low, at.high) for share, at in points]).T
            curves.append(Curve(style=look, x=shares, center=center, low=low, high=high, label=line))
    return Panel(title=title, x_label="share of the data, %", y_label=Y_LABELS["scores"], curves=curves, markers=True)


def _rows_panel(column: Column) -> Panel:
    """A row of a chain, in ascending order."""
    chain = MarkovChain(state_count=100, order=1, temperature=column.temperature, seed=42)
    row = np.sort(chain.probabilities([0]))
    curve = Curve(style=None, x=np.arange(1.0, 101.0), center=row)
    return Panel(title=column.label, x_label="next state, by probability", y_label="probability", curves=[curve])


def _bars(results: Results) -> list[str]:
    """One bar for each column, mean over the datasets that were run, and one as printed; a figure for each group."""
    drawn, look_of = [], looks(results.study)
    groups = grouped((column.group, column) for column in results.study.columns)
    for number, (group, columns) in enumerate(groups.items(), start=1):
        means = [
            (column, float(values.mean()))
            for column in columns
            for datasets in _dataset_groups(results).values()
            if (values := results.over(column, datasets)) is not None
        ]
        bars = []
        for column, mean in means:
            text, look = f"{mean:.{column.digits}f}", look_of[column.trained.name]
            bars.append(Rate(label=column.label, value=mean, text=text, ours=True, style=look))
            if (printed := results.printed(column).average) is not None:
                bars.append(Rate(label=f"{column.label}, paper", value=printed, text=f"{printed:g}", ours=False))
        if bars:
            title = f"{results.study.title}: {group}" if group else results.study.title
            drawn.append(bars_svg(f"{results.study.name}-{number}", bars, alternative=title))
    return drawn
