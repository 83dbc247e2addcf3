"""Matplotlib figures as inline SVG that follows the page: its font, and its colors in light and dark.

Figures are drawn in stand-in colors, each then replaced by a CSS variable that the page defines twice.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

INK, MUTED, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#02020{index}" for index in range(1, 8))
"""stand-ins for --series-1 .. --series-7, the page's color-blind-safe palette (after Okabe and Ito)"""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (6, 2)), (0, (2, 2)), (0, (6, 2, 2, 2)))

_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--rule)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(SERIES, start=1)
}
LIGHT = {"ink": "#1a1e23", "muted": "#5b6672", "rule": "#dfe3e7", "font": "sans-serif"} | {
    f"series-{index}": color
    for index, color in enumerate(
        ("#0072b2", "#d55e00", "#008f68", "#a8487d", "#b07a00", "#3a9bd6", "#555555"), start=1
    )
}
"""values of the page's variables in light, for figures that stand alone"""
FULL, HALF = 11.0, 5.4
"""figure widths in inches: the whole column of a page, or one of two"""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trajmill",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line with its uncertainty, in the look of series number `style`."""

    style: int
    x: NDArray[np.float64]
    center: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    members: NDArray[np.float64] | None = None
    """(point_count, member_count) thin lines behind the mean, such as single seeds"""
    label: str = ""
    """name in a legend; without any, the figure has none"""


def curves_svg(
    name: str,
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    alternative: str,
    width: float,
    height: float,
    markers: bool = False,
    level: tuple[float, str] | None = None,
    log_y: bool = False,
) -> str:
    """Draw lines on shared axes.

    Parameters
    ----------
    name
        Unique on the page: it keeps the ids of two figures apart.
    alternative
        What the figure shows, in words, for those who cannot see it.
    width, height
        In inches at 72 points; the page scales the figure to its column.
    markers
        Whether to mark each point, for curves of few points.
    level
        A horizontal line and its label, such as a known floor.
    log_y
        Whether the vertical axis is logarithmic.
    """

    def draw(axes: Axes) -> None:
        for curve in curves:
            color = SERIES[curve.style % len(SERIES)]
            if curve.members is not None:
                axes.plot(curve.x, curve.members, color=color, linewidth=0.8, alpha=0.35)
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.16, linewidth=0)
            marker = MARKERS[curve.style % len(MARKERS)] if markers else None
            dashes = DASHES[curve.style % len(DASHES)] if len(curves) > 1 else "-"
            axes.plot(curve.x, curve.center, color=color, marker=marker, linestyle=dashes, label=curve.label)
        if any(curve.label for curve in curves):
            axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
        if level is not None:
            axes.axhline(level[0], color=MUTED, linewidth=1.0, linestyle=(0, (3, 3)))
            axes.annotate(
                level[1],
                (1, level[0]),
                xycoords=("axes fraction", "data"),
                xytext=(0, -4),
                textcoords="offset points",
                ha="right",
                va="top",
                color=MUTED,
                fontsize=9,
            )
            axes.margins(y=0.16)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))

    return _svg(name, draw, alternative, width, height)


def bars_svg(
    name: str,
    labels: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    *,
    highlighted: Sequence[bool],
    alternative: str,
    width: float,
) -> str:
    """Draw labelled horizontal bars from the top down; each ends in its own text, so there is no value axis."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(values))[::-1]
        colors = [SERIES[0] if strong else MUTED for strong in highlighted]
        axes.barh(places, values, height=0.62, color=colors)
        for place, value, text, strong in zip(places, values, texts, highlighted, strict=True):
            weight = "bold" if strong else "normal"
            axes.annotate(
                text, (value, place), xytext=(6, 0), textcoords="offset points", va="center", fontweight=weight
            )
        axes.set_yticks(places, labels)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.set_xlim(0, max(values) * 1.3)
        figure = axes.get_figure()
        if isinstance(figure, Figure):  # the same room for labels in every such figure, so that their bars line up
            figure.set_layout_engine("none")
        axes.set_position((0.25, 0.02, 0.75, 0.96))

    return _svg(name, draw, alternative, width, 0.3 + 0.36 * len(values))


def standalone(svg: str) -> str:
    """A page's figure as a file of its own: light colors, a white ground."""
    svg = re.sub(r"var\(--([a-z0-9-]+)\)", lambda match: LIGHT[match[1]], svg)
    svg = re.sub(r"<svg([^>]*)>", r'<svg\1><rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg}'


def compact(value: float) -> str:
    """Short form of a count: 950, 1.5k, 20k, 3M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _svg(name: str, draw: Callable[[Axes], None], alternative: str, width: float, height: float) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        draw(axes)
        sink = io.StringIO()
        canvas.print_svg(sink, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    opening = f'<svg role="img" aria-label="{_attribute(alternative)}" data-test="figure-{name}"'
    return text.replace("<svg", opening, 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
