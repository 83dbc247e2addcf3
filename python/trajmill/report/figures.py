"""Matplotlib figures as inline SVG that follows the page: its font, and its colors in light and dark.

Figures are drawn in stand-in colors, each then replaced by a CSS variable that the page defines twice.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from trajmill.evaluation.statistics import curve_band
from trajmill.report.comparison import number

PALETTE = ("#0072b2", "#d55e00", "#008f68", "#a8487d", "#b07a00", "#3a9bd6", "#555555")
"""the page's colors in light, which the color-blind can tell apart (after Okabe and Ito)"""
_STAND_INS = {"ink": "#010101", "muted": "#010102", "rule": "#010103"}
_STAND_INS |= {f"series-{number}": f"#02020{number}" for number in range(1, len(PALETTE) + 1)}
"""by variable of the page"""
INK, MUTED, GRID, *SERIES = _STAND_INS.values()
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (6, 2)), (0, (2, 2)), (0, (6, 2, 2, 2)))
LIGHT = dict(zip(_STAND_INS, ("#1a1e23", "#5b6672", "#dfe3e7", *PALETTE), strict=True), font="sans-serif")
"""values of the page's variables in light, for figures that stand alone"""
FULL, HALF = 11.0, 5.4
"""figure widths in inches: the whole column of a page, or one of two"""
LONGEST = 40
"""characters of a name in a figure"""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "trajmill",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    **dict.fromkeys(("axes.titlecolor", "text.color"), INK),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.linewidth": 0.8,
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

    @classmethod
    def of_seeds(
        cls, style: int, x: NDArray[Any], values: NDArray[np.float64], *, label: str = "", members: bool = False
    ) -> Curve:
        """Mean over seeds of `values`, (point_count, seed_count), with a 95 % band, and each seed if they are few."""
        x, (center, low, high) = x.astype(np.float64), curve_band(values)
        if values.shape[1] == 1:
            return cls(style=style, x=x, center=center, label=label)
        shown = values if members and values.shape[1] <= 5 else None
        return cls(style=style, x=x, center=center, low=low, high=high, members=shown, label=label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Curves on shared axes."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    markers: bool = False
    """whether to mark each point, for curves of few points"""
    level: tuple[float, str] | None = None
    """a horizontal line and its label, such as a known floor"""
    log_y: bool = False
    """whether the vertical axis is logarithmic"""
    counts: bool = True
    """whether the horizontal axis counts something and has whole numbers only"""


def curves_svg(name: str, panel: Panel, *, alternative: str, size: tuple[float, float]) -> str:
    """Draw a panel.

    `name` is unique on the page and keeps the ids of two figures apart; `alternative` says what the figure shows, for
    those who cannot see it; `size` is width and height in inches of 72 points, which the page scales to its column.
    """

    def draw(axes: Axes) -> None:
        for curve in panel.curves:
            color = SERIES[curve.style % len(SERIES)]
            if curve.members is not None:
                axes.plot(curve.x, curve.members, color=color, linewidth=0.8, alpha=0.35)
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.16, linewidth=0)
            marker = MARKERS[curve.style % len(MARKERS)] if panel.markers else None
            dashes = DASHES[curve.style % len(DASHES)] if len(panel.curves) > 1 else "-"
            label = shown(curve.label)
            axes.plot(curve.x, curve.center, color=color, marker=marker, linestyle=dashes, label=label)
        if any(curve.label for curve in panel.curves):
            axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
        if panel.level is not None:
            value, text = panel.level
            axes.axhline(value, color=MUTED, linewidth=1.0, linestyle=(0, (3, 3)))
            below: dict[str, Any] = {"xytext": (0, -4), "textcoords": "offset points", "ha": "right", "va": "top"}
            axes.annotate(text, (1, value), xycoords=("axes fraction", "data"), color=MUTED, fontsize=9, **below)
            axes.margins(y=0.16)
        axes.set(title=shown(panel.title), xlabel=shown(panel.x_label), ylabel=shown(panel.y_label))
        axes.xaxis.set_major_formatter(lambda value, _: compact(value))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=panel.counts, steps=[1, 2, 5, 10]))
        if panel.log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(lambda value, _: compact(value))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))

    return _svg(name, draw, alternative, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A bar: how fast one way of doing a job went, or another number with a name."""

    label: str
    value: float
    text: str
    """the value for people, such as ``"0.94 G tokens/s"``"""
    ours: bool
    """whether it is highlighted: our way, not what it is compared with"""


def bars_svg(name: str, rates: Sequence[Rate], *, alternative: str) -> str:
    """Draw horizontal bars from the top down; each ends in its own text, so there is no value axis."""

    def draw(axes: Axes) -> None:
        values, places = [rate.value for rate in rates], range(len(rates))[::-1]
        axes.barh(places, values, height=0.62, color=[SERIES[0] if rate.ours else MUTED for rate in rates])
        for place, rate in zip(places, rates, strict=True):
            weight, end = "bold" if rate.ours else "normal", (rate.value, place)
            axes.annotate(
                shown(rate.text), end, xytext=(6, 0), textcoords="offset points", va="center", fontweight=weight
            )
        axes.set_yticks(places, [shown(rate.label) for rate in rates])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set(xticks=[], xlim=(0, max(values) * 1.3))
        axes.set_position((0.25, 0.02, 0.75, 0.96))  # the same room for labels everywhere, so that bars line up

    described = "; ".join(f"{rate.label}: {rate.text}" for rate in rates)
    return _svg(name, draw, f"{alternative}. {described}", (FULL, 0.3 + 0.36 * len(rates)), layout=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Neighboring columns that an axis names once."""

    label: str
    size: int


def columns_svg(
    name: str, values: Sequence[float], floors: Sequence[float], groups: Sequence[Group], y_label: str, alternative: str
) -> str:
    """Draw a bar for each of N columns, and a line through the floor of each; groups of columns in turn."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(values))
        axes.bar(places, values, width=0.72, color=SERIES[0], label="synthetic")
        edges = np.arange(len(values) + 1) - 0.5
        axes.stairs(floors, edges, baseline=None, color=SERIES[1], linewidth=1.6, label="real rows, the floor")
        _name_groups(axes.xaxis, groups)
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
        axes.set(ylabel=y_label, xlim=(-0.6, len(values) - 0.4), ylim=(0, 1.08 * max(*values, *floors, 1e-9)))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    return _svg(name, draw, alternative, (FULL, 3.2))


def changes_svg(name: str, changes: NDArray[np.float64], groups: Sequence[Group], title: str, alternative: str) -> str:
    """Draw a symmetric matrix of changes (N, N) below its diagonal: one color for more, one for less, pale for little.

    The deepest color is the largest change, which the legend names.
    """

    def draw(axes: Axes) -> None:
        deepest = float(np.abs(changes).max()) or 1.0
        for color, sign, word in ((SERIES[1], 1.0, "more"), (SERIES[0], -1.0, "less")):
            shades = np.tril(np.clip(sign * changes / deepest, 0.0, 1.0), k=-1)
            cells = [(int(row), int(column)) for row, column in np.argwhere(shades > 0.02)]
            squares = [_square(column, row) for row, column in cells]
            alphas = [float(shades[cell]) for cell in cells]
            axes.add_collection(PolyCollection(squares, facecolors=[color] * len(squares), alpha=alphas or None))
            axes.plot([], [], "s", color=color, markersize=8, label=f"{word}, up to {number(sign * deepest, 2)}")
        size = len(changes)
        axes.plot([-0.5, size - 0.5], [-0.5, size - 0.5], color=GRID, linewidth=1.0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.grid(False)
            _name_groups(axis, groups)
        axes.set(title=title, xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
        axes.legend(frameon=False, fontsize=9, loc="upper right")

    return _svg(name, draw, alternative, (HALF, 4.4))


def _square(x: float, y: float) -> list[tuple[float, float]]:
    return [(x + right - 0.5, y + up - 0.5) for right, up in ((0, 0), (1, 0), (1, 1), (0, 1))]


def _name_groups(axis: Axis, groups: Sequence[Group]) -> None:
    """Name groups of places at their middles, with a line where one ends."""
    ends = np.cumsum([group.size for group in groups]) - 0.5
    middles = [end - group.size / 2 for end, group in zip(ends, groups, strict=True)]
    axis.set_ticks(middles, [shown(group.label) for group in groups])
    axis.set_ticks(ends[:-1], minor=True)
    axis.grid(True, which="minor")
    axis.set_tick_params(which="both", length=0)


def standalone(svg: str) -> str:
    """A page's figure as a file of its own: light colors, a white ground."""
    svg = re.sub(r"var\(--([a-z0-9-]+)\)", lambda match: LIGHT[match[1]], svg)
    svg = re.sub(r"<svg([^>]*)>", r'<svg\1><rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg}'


def printable(text: str) -> str:
    """A text without what neither a font nor XML has, such as bytes of a file's name that are no text."""
    return "".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text)


def shown(name: str) -> str:
    """A name as a figure has it: printable, not too long, and never one that Matplotlib hides."""
    name = printable(name)
    if len(name) > LONGEST:
        name = f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}"
    return f"\u200b{name}" if name.startswith("_") else name


def compact(value: float) -> str:
    """Short form of a count: 950, 1.5k, 20k, 3M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _svg(
    name: str, draw: Callable[[Axes], None], alternative: str, size: tuple[float, float], layout: Any = "constrained"
) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout=layout)
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        draw(axes)
        sink = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts may have it
            FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    for variable, color in _STAND_INS.items():
        text = text.replace(color, f"var(--{variable})")
    opening = f'<svg role="img" aria-label="{html.escape(printable(alternative))}" data-test="figure-{name}"'
    return text.replace("<svg", opening, 1)
