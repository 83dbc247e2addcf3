"""A picture of a result: rates as bars, quartiles as whiskers, limits of the machine as marks."""

from __future__ import annotations

import io
from itertools import groupby
from math import log10
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trajmill.bench.record import Rate, Result
from trajmill.core.files import write_whole

OURS, PEER, INK, LIMIT = "#2a9d8f", "#9aa2aa", "#4a5058", "#d1495b"
ROW_INCHES, TITLE_INCHES = 0.24, 0.62
WIDTH = 9.0
LOGARITHMIC = 30
"""ratio of the largest to the smallest rate of a group from which its scale is logarithmic"""


def draw(result: Result) -> bytes:
    """The picture as SVG, on white, so that it can be read on any page."""
    groups = [list(rates) for _, rates in groupby(result.rows, key=lambda rate: rate.group)]
    heights = [TITLE_INCHES + ROW_INCHES * len(rates) for rates in groups]
    with mpl.rc_context({"svg.hashsalt": "trajmill", "svg.fonttype": "none", "font.size": 8.5}):
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.7), layout="constrained")
        every = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, rates in zip(every, groups, strict=True):
            _group(axes, rates)
        machine = result.environment["machine"]
        title = f"trajmill bench {result.subject}: {machine['cpu']}, {machine['simd']}, {machine['cores']} cores"
        if result.busy:
            title += "\nTHE MACHINE WAS BUSY: measure again before you rely on these rates"
        figure.suptitle(title, fontsize=10, color=LIMIT if result.busy else INK)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def write(result: Result, path: Path) -> None:
    """Write the picture whole or not at all."""
    write_whole(path, draw(result))


def _group(axes: Axes, rates: list[Rate]) -> None:
    """One group on a scale of its own, from zero, or logarithmic if the rates are too far apart for that."""
    least, reach = min(rate.low for rate in rates), max(rate.high for rate in rates)
    decades = log10(reach / least)
    if reach > LOGARITHMIC * least:
        axes.set_xscale("log")
        axes.set_xlim(least / 2, reach * 10 ** (0.45 * decades))
    else:
        axes.set_xlim(0, reach * 1.45)
    for place, rate in enumerate(rates):
        if rate.role == "limit":
            axes.plot([rate.value] * 2, [-0.45, place + 0.3], color=LIMIT, linewidth=0.9, linestyle=(0, (3, 2)))
            axes.plot(rate.value, place, marker="|", markersize=10, markeredgewidth=2, color=LIMIT)
        else:
            whiskers = [[rate.value - rate.low], [rate.high - rate.value]]
            axes.barh(place, rate.value, height=0.7, color=OURS if rate.role == "ours" else PEER)
            axes.errorbar(rate.value, place, xerr=whiskers, color=INK, linewidth=0.8, capsize=2)
        share = f", {rate.limit_share:.0%} of {rate.limit}" if rate.limit_share is not None else ""
        axes.annotate(
            f"{rate.value:.3g}{share}",
            (rate.value if rate.role == "limit" else rate.high, place),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=LIMIT if rate.role == "limit" else INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            zorder=5,
        )
    axes.set_ylim(len(rates) - 0.4, -0.6)
    axes.set_yticks(range(len(rates)), [f"limit: {r.name}" if r.role == "limit" else r.name for r in rates])
    axes.set_title(f"{rates[0].group}   [{rates[0].unit}]", loc="left", fontsize=9, color=INK)
    axes.tick_params(colors=INK, length=2)
    for name in ("top", "right", "left"):
        axes.spines[name].set_visible(False)
