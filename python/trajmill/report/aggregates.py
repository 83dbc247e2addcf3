"""Scores over all seeds and datasets at once: mean, interquartile mean, and how many runs pass each score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trajmill.evaluation import statistics
from trajmill.evaluation.statistics import Interval
from trajmill.report.comparison import number
from trajmill.report.figures import FULL, Curve, Panel, curves_svg
from trajmill.report.sections import Section
from trajmill.runs.reading import RunRecord

LEAST = 4
"""runs of a variant: of fewer, the interquartile mean is the mean"""
POINTS = 101
"""of a performance profile"""


def aggregate_section(runs: Sequence[RunRecord], styles: Mapping[str, int]) -> Section | None:
    """Means, interquartile means and performance profiles of variants with at least `LEAST` runs; None without any."""
    scores, datasets = common_scores(runs)
    scores = {variant: values for variant, values in scores.items() if values.size >= LEAST}
    if not scores:
        return None
    rows: list[tuple[str, ...]] = [("variant", "mean", "interquartile mean", "runs")]
    for variant, values in scores.items():
        means = (statistics.bootstrap_interval(values, by) for by in (statistics.mean, statistics.interquartile_mean))
        rows.append((variant, *map(_text, means), f"{values.shape[0]} seeds on {_count(datasets)}"))
    text = (
        f"Final scores of all seeds on {_names(datasets)}, each dataset with the same weight. The interquartile mean "
        "is that of the middle half of all runs, so neither one lucky seed nor one that failed decides it. Intervals "
        "are 95 %, by the bootstrap that draws seeds anew within each dataset (Agarwal et al. 2021)."
    )
    return Section(
        name="aggregates",
        title="All seeds and datasets",
        text=text,
        tables=(tuple(rows),),
        figures=(_profiles(scores, styles, runs[0].score[1]),),
        caption="A profile is the share of runs whose final score is greater than the one on the axis. The higher, the "
        "better; bands are 95 % intervals.",
    )


def common_scores(runs: Sequence[RunRecord]) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Final scores (seed_count, dataset_count) by variant, and the datasets: those that all variants have scores on.

    Returns of several environments have no common unit, so there are none of these then. Variants whose datasets have
    different numbers of seeds are left out.
    """
    finals: dict[str, dict[str, NDArray[np.float64]]] = {}
    for run in runs:
        series = run.evaluation(run.score[0])
        if series is not None:
            finals.setdefault(run.variant, {})[data_of(run)] = statistics.average_last_four(series.values)
    units = {run.score[0] if run.score[0] == "normalized_score" else f"return in {run.environment}" for run in runs}
    if not finals or len(units) > 1:
        return {}, []
    datasets = [
        name
        for name in next(iter(finals.values()))
        if all(name in found and np.isfinite(found[name]).all() for found in finals.values())
    ]
    found = {variant: [by_dataset[name] for name in datasets] for variant, by_dataset in finals.items()}
    alike = {variant: each for variant, each in found.items() if len({len(values) for values in each}) == 1}
    return {variant: np.stack(each, axis=1) for variant, each in alike.items()}, datasets


def data_of(run: RunRecord) -> str:
    """What a page calls the data of a run."""
    return run.dataset or "no dataset"


def _profiles(scores: Mapping[str, NDArray[np.float64]], styles: Mapping[str, int], unit: str) -> str:
    low, high = (
        pick(values.min() if pick is min else values.max() for values in scores.values()) for pick in (min, max)
    )
    thresholds = np.linspace(min(0.0, low), max(high, low + 1e-6), POINTS)
    curves, middles = [], []
    for variant, values in scores.items():
        share, below, above = (100.0 * each for each in statistics.performance_profile(values, thresholds))
        curves.append(Curve(style=styles[variant], x=thresholds, center=share, low=below, high=above, label=variant))
        middles.append(f"half of the runs of {variant} are above {number(float(np.median(values)))}")
    panel = Panel(title="Performance profiles", x_label=unit, y_label="% of runs above", curves=curves, counts=False)
    return curves_svg("profiles", panel, alternative=f"Performance profiles: {'; '.join(middles)}", size=(FULL, 3.4))


def _text(interval: Interval) -> str:
    return f"{number(interval.estimate)} [{number(interval.low)}, {number(interval.high)}]"


def _count(datasets: Sequence[str]) -> str:
    return f"{len(datasets)} dataset{'s' * (len(datasets) != 1)}"


def _names(datasets: Sequence[str]) -> str:
    return datasets[0] if len(datasets) == 1 else f"the {len(datasets)} datasets that all variants have scores on"
