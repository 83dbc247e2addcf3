"""Matplotlib figures as inline SVG that follows the page: its font, and its colors in light and dark.

Figures are drawn in stand-in colors, each then replaced by a CSS variable that the page defines twice.
"""

from __future__ import annotations

import html
import io
import math
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
MARKER_PATHS = (
    "M15 2a3 3 0 1 1 0 6a3 3 0 1 1 0-6z",
    "M12 2h6v6h-6z",
    "M15 1.2l3.8 7h-7.6z",
    "M15 1l4 4l-4 4l-4-4z",
    "M15 8.8l3.8-7h-7.6z",
    "M13.8 1h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
    "M12.2 1.2l2.8 2 2.8-2 1 1-2 2.8 2 2.8-1 1-2.8-2-2.8 2-1-1 2-2.8-2-2.8z",
)
"""the markers once more, as paths around (15, 5), for keys of the page"""
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (6, 2)), (0, (2, 2)), (0, (6, 2, 2, 2)))
LIGHT = dict(zip(_STAND_INS, ("#1a1e23", "#5b6672", "#dfe3e7", *PALETTE), strict=True), font="sans-serif")
"""values of the page's variables in light, for figures that stand alone"""
FULL, HALF = 6.0, 5.4
"""figure widths in inches: alone on a page, or one of two side by side; both can be read on a telephone"""
LONGEST = 40
"""characters of a name in a figure"""
NOISE = 0.2
"""where values differ by less than this share of the greatest one, an axis from 0 would hide how they differ"""
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
    """A line with its uncertainty."""

    style: int | None
    """its variant's, which gives color, dashes and marker; None for what is of no variant"""
    x: NDArray[np.float64]
    center: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    members: NDArray[np.float64] | None = None
    """(point_count, member_count) thin lines behind the mean, such as single seeds"""
    label: str = ""
    """name in a legend; without any, the figure has none"""
    first_apart: bool = False
    """whether the first point is of another kind than the others, and is drawn as an open circle beside the line"""

    @classmethod
    def of_seeds(
        cls,
        style: int | None,
        x: NDArray[Any],
        values: NDArray[np.float64],
        *,
        label: str = "",
        members: bool = False,
        first_apart: bool = False,
    ) -> Curve:
        """Mean over seeds of `values`, (point_count, seed_count), with a 95 % band, and each seed if they are few."""
        x, (center, low, high) = x.astype(np.float64), curve_band(values)
        if values.shape[1] == 1:
            return cls(style=style, x=x, center=center, label=label, first_apart=first_apart)
        shown = values if members and values.shape[1] <= 5 else None
        return cls(
            style=style, x=x, center=center, low=low, high=high, members=shown, label=label, first_apart=first_apart
        )


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
    those who cannot see it; `size` is width and height in inches of 72 points, which the page scales to its column. A
    legend of more than one line adds to the height.
    """

    def draw(axes: Axes) -> None:
        for curve in panel.curves:
            _draw_curve(axes, curve, markers=panel.markers)
        if panel.level is not None:
            value, text = panel.level
            axes.axhline(value, color=MUTED, linewidth=1.0, linestyle=(0, (3, 3)))
            below: dict[str, Any] = {"xytext": (0, -4), "textcoords": "offset points", "ha": "right", "va": "top"}
            axes.annotate(text, (1, value), xycoords=("axes fraction", "data"), color=MUTED, fontsize=9, **below)
            axes.margins(y=0.16)
        axes.set(title=shown(panel.title), xlabel=shown(panel.x_label), ylabel=shown(panel.y_label))
        axes.xaxis.set_major_formatter(lambda value, _: compact(value))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=panel.counts, steps=[1, 2, 5, 10]))
        if panel.counts:
            axes.set_xlim(left=0)
        if panel.log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(lambda value, _: compact(value))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            _begin_at_zero_or_say_so(axes)
        if labels:
            figure = axes.figure.get_figure(root=True)
            assert figure is not None
            figure.legend(frameon=False, fontsize=9, loc="outside lower left", ncols=columns)

    labels = [shown(curve.label) for curve in panel.curves if curve.label]
    columns = max(1, int(size[0] * 11.5 / (max(map(len, labels), default=0) + 7)))
    size = (size[0], size[1] + 0.19 * max(0, math.ceil(len(labels) / columns) - 1))
    return _svg(name, draw, alternative, size)


def _draw_curve(axes: Axes, curve: Curve, *, markers: bool) -> None:
    color = MUTED if curve.style is None else SERIES[curve.style % len(SERIES)]
    line, look = slice(int(curve.first_apart and len(curve.x) > 1), None), curve.style or 0
    if curve.members is not None:
        axes.plot(curve.x[line], curve.members[line], color=color, linewidth=0.8, alpha=0.35)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x[line], curve.low[line], curve.high[line], color=color, alpha=0.16, linewidth=0)
    axes.plot(
        curve.x[line],
        curve.center[line],
        color=color,
        marker=MARKERS[look % len(MARKERS)] if markers or len(curve.x[line]) == 1 else None,
        linestyle=DASHES[look % len(DASHES)],
        label=shown(curve.label),
    )
    if line.start:
        axes.plot(
            curve.x[:1], curve.center[:1], color=color, marker="o", fillstyle="none", linestyle="none", clip_on=False
        )


def _begin_at_zero_or_say_so(axes: Axes) -> None:
    """Let a vertical axis reach 0, unless what it shows would then be flat: mark such an axis as cut."""
    low, high = axes.dataLim.intervaly
    if not np.isfinite([low, high]).all() or low <= 0 <= high:
        return
    if high - low >= NOISE * max(abs(low), abs(high)):
        axes.set_ylim(bottom=0 if low > 0 else None, top=0 if high < 0 else None)
        return
    cut: dict[str, Any] = {"color": MUTED, "clip_on": False, "transform": axes.transAxes, "linewidth": 1.2}
    for height in (0.02, 0.05):
        axes.plot((-0.012, 0.012), (height - 0.015, height + 0.015), **cut)
    below: dict[str, Any] = {"xytext": (0, -24), "textcoords": "offset points", "va": "top", "color": MUTED}
    axes.annotate("axis cut: not from 0", (0, 0), xycoords="axes fraction", fontsize=8.5, **below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A bar: how fast one way of doing a job went, or another number with a name."""

    label: str
    value: float
    text: str
    """the value for people, such as ``"0.94 G tokens/s"``"""
    ours: bool
    """whether it is highlighted: our way, not what it is compared with"""
    style: int | None = None
    """look of the variant that it is of, as in `Curve`; None for what is not a variant of the page"""


def bars_svg(name: str, rates: Sequence[Rate], *, alternative: str) -> str:
    """Draw horizontal bars from 0 on, from the top down; each ends in its own text, so there is no value axis."""

    def draw(axes: Axes) -> None:
        values, places = np.array([rate.value for rate in rates]), np.arange(len(rates))[::-1]
        colors = [
            (INK if rate.ours else MUTED) if rate.style is None else SERIES[rate.style % len(SERIES)] for rate in rates
        ]
        axes.barh(places, values, height=0.4, color=colors)
        for place, rate in zip(places, rates, strict=True):
            weight = "bold" if rate.ours else "normal"
            beside: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
            axes.annotate(shown(rate.text), (max(rate.value, 0), place), xytext=(6, 0), fontweight=weight, **beside)
            axes.annotate(shown(rate.label), (min(0, values.min()), place), xytext=(0, 16), **beside)
        axes.set_axis_off()
        greatest = values.max() or 1.0
        axes.set(xlim=(min(0, values.min()), max(0, greatest) + 0.35 * abs(greatest)), ylim=(-0.35, len(rates) - 0.2))
        axes.set_position((0.004, 0, 0.996, 1))

    described = "; ".join(f"{rate.label}: {rate.text}" for rate in rates)
    return _svg(name, draw, f"{alternative}. {described}", (HALF, 0.1 + 0.5 * len(rates)), layout=None)


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

    Neither is a color of synthetic or real rows. The deepest color is the largest change, which the legend names.
    """

    def draw(axes: Axes) -> None:
        deepest = float(np.abs(changes).max()) or 1.0
        for color, sign, word in ((SERIES[2], 1.0, "more"), (SERIES[3], -1.0, "less")):
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
    described = f'role="img" aria-label="{html.escape(printable(alternative))}" data-test="figure-{name}"'
    opening = f'<svg {described} style="max-width: {7.2 * size[0]:.1f}rem"'
    return text.replace("<svg", opening, 1)
