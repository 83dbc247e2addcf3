"""The page about synthetic transitions: how good they are beside real ones, in a table and in pictures."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import numpy as np

from trajmill.core.paths import AnyPath
from trajmill.data import Transitions
from trajmill.evaluation.quality import QUANTILES, ColumnQuality, DynamicsQuality, Quality
from trajmill.report.examples import HEADS, NUMBERS, transition_rows
from trajmill.report.figures import FULL, HALF, Curve, Group, Panel, changes_svg, columns_svg, curves_svg
from trajmill.report.page import write_report
from trajmill.report.sections import Section

SHOWN_COLUMNS = 6
"""columns whose distributions are drawn: those that lose most against their floor"""
_SIZE = (HALF, 3.2)
_SYMBOLS = {"observation": "s", "action": "a", "reward": "r", "next observation": "s\u2032"}


def write_quality_report(
    quality: Quality,
    path: AnyPath,
    *,
    title: str = "Quality of synthetic transitions",
    examples: Mapping[str, Transitions] | None = None,
) -> Path:
    """Write one self-contained HTML page about `quality` to `path`, replaced in one move, and return its path.

    `examples` are transitions by the name of what they are, of which the page shows the first rows.
    """
    sections = quality_sections(quality)
    if examples:
        rows = [row for name, transitions in examples.items() for row in transition_rows(name, transitions)]
        text = f"The first rows of each side; of a vector {NUMBERS} numbers."
        sections += (Section(name="examples", title="Some rows", text=text, tables=((HEADS, *rows),), leading=True),)
    return write_report((), path, title=title, summary=_summary(quality), extra_sections=sections)


def findings_table(quality: Quality) -> tuple[tuple[str, ...], ...]:
    """Rows of cells for people: heading, then each finding, its floor, its verdict."""
    lines = [(each.name, _short(each.value), _short(each.floor), each.verdict) for each in quality.findings]
    return (("measure", "synthetic", "real (floor)", "verdict"), *lines)


def quality_sections(quality: Quality) -> tuple[Section, ...]:
    """The parts of the page, for pages about more than one thing."""
    sections = [
        Section(name="quality", title="In numbers", tables=(findings_table(quality),), leading=True),
        Section(
            name="quality-marginals",
            title="Distributions of single numbers",
            text="Largest distance between the distribution functions of synthetic and real rows (1 \u2212 score), for "
            "each number of a transition: s of the state, a of the action, r of the reward, s\u2032 of the next state. "
            "Another sample of real rows is as far as the line says.",
            figures=(_marginals(quality.columns),),
            leading=True,
        ),
        Section(
            name="quality-worst",
            title="The numbers that lose most",
            text="Where a distribution is farthest from its floor. The axis reaches a tenth beyond the real rows.",
            figures=_histograms(quality.columns),
            leading=True,
        ),
    ]
    figures = [_distances(quality)]
    if quality.correlation is not None:
        figures.append(_correlations(quality))
    sections.append(
        Section(
            name="quality-rows",
            title="Whole rows",
            text="How far rows are from the nearest real row: far to the left of held-out real rows would be copies. "
            "And what has become of the correlation of each pair of numbers.",
            figures=tuple(figures),
            leading=True,
        )
    )
    if quality.dynamics is not None:
        sections.append(_dynamics(quality.dynamics))
    return tuple(sections)


def _summary(quality: Quality) -> str:
    floor = "the held-out data" if quality.held_out else "the other half of the real data"
    text = (
        f"{quality.row_count:,} of {quality.synthetic_count:,} synthetic rows beside {quality.reference_count:,} real "
        f"rows; nearest rows are looked for among {quality.real_count:,}. Floors are what as many rows of {floor} get "
        f"in their place."
    )
    if constant := quality.constant_columns:
        names = ", ".join((*constant[:8], "and so on") if len(constant) > 8 else constant)
        text += f"\nConstant, and left out of distances and correlations: {len(constant)} columns, {names}."
    return text


def _groups(columns: tuple[str, ...]) -> list[Group]:
    """Neighbors of one kind, by its symbol: "observation 0" and "observation 1" are s."""
    kinds = groupby(column.rstrip("0123456789 ") for column in columns)
    return [Group(label=_SYMBOLS[kind], size=len(list(found))) for kind, found in kinds]


def _marginals(columns: tuple[ColumnQuality, ...]) -> str:
    losses = [1.0 - column.marginal.value for column in columns]
    floors = [1.0 - column.marginal.floor for column in columns]
    worst = columns[int(np.argmax(losses))]
    about = (
        f"Distance of the distribution of each number from the real one; largest for {worst.name}, {max(losses):.3f}"
    )
    groups = _groups(tuple(column.name for column in columns))
    return columns_svg("quality-marginals", losses, floors, groups, "1 \u2212 marginal score", about)


def _histograms(columns: tuple[ColumnQuality, ...]) -> tuple[str, ...]:
    worst = sorted(columns, key=lambda column: column.marginal.value - column.marginal.floor)[:SHOWN_COLUMNS]
    drawn = []
    for number, column in enumerate(worst):
        edges = np.linspace(*column.edges, len(column.real) + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        sides = (("synthetic", column.synthetic), ("real", column.real))
        curves = [
            Curve(style=style, x=middles, center=100.0 * np.array(shares), label=label)
            for style, (label, shares) in enumerate(sides)
        ]
        title = f"{column.name}: {column.marginal.value:.3f}, floor {column.marginal.floor:.3f}"
        panel = Panel(title=title, x_label=column.name, y_label="% of rows", curves=curves, counts=False)
        about = f"Distribution of {column.name} in synthetic and real rows; marginal score {title.partition(': ')[2]}"
        drawn.append(curves_svg(f"quality-column-{number}", panel, alternative=about, size=_SIZE))
    return tuple(drawn)


def _distances(quality: Quality) -> str:
    shares = 100.0 * np.array(QUANTILES)
    sides = (("synthetic", quality.distance_quantiles), ("real", quality.distance_quantiles_floor))
    curves = [Curve(style=style, x=np.array(at), center=shares, label=label) for style, (label, at) in enumerate(sides)]
    value, floor = map(_short, (quality.distance.value, quality.distance.floor))
    about = (
        f"Rows nearer to a real row than a distance; mean {value} for synthetic rows, {floor} for held-out real ones"
    )
    panel = Panel(
        title="Distance to the nearest real row",
        x_label="distance",
        y_label="% of rows nearer",
        curves=curves,
        counts=False,
    )
    return curves_svg("quality-distances", panel, alternative=about, size=(HALF, 4.4))


def _correlations(quality: Quality) -> str:
    names = tuple(column.name for column in quality.columns if column.name not in quality.constant_columns)
    groups = _groups(names)
    changes = np.array(quality.correlation_change)
    largest = float(np.abs(changes).max())
    about = f"Change of the correlation of each pair of numbers; the largest is {largest:.3f}"
    return changes_svg("quality-correlations", changes, groups, "Change of correlations", about)


def _dynamics(found: DynamicsQuality) -> Section:
    noise = found.noise
    sides = (("synthetic", found.curve), (f"{noise.kind} noise", noise.curve))
    curves = [
        Curve(style=style, x=np.array(curve.distance), center=np.array(curve.error), label=label)
        for style, (label, curve) in zip((0, 4), sides, strict=True)  # 1 is the look of real rows
    ]
    panel = Panel(
        title="Error of the dynamics over distance",
        x_label="distance to the nearest real row",
        y_label="mean squared error",
        curves=curves,
        markers=True,
        log_y=True,
        counts=False,
    )
    ends = (f"{label} from {_short(curve.error[0])} to {_short(curve.error[-1])}" for label, curve in sides)
    at, floor = _short(noise.distance), _short(found.observation_error.floor)
    return Section(
        name="quality-dynamics",
        title=f"What {found.environment_id} says",
        text=f"The simulator is put into the state of {found.row_count:,} synthetic rows, takes the action, and what "
        f"follows is compared; points are tenths of the rows by distance. Noise is on s and s\u2032 of real rows; the "
        f"point at distance {at} is as far from the data as the synthetic rows are on average. Real rows without noise "
        f"have the error {floor}.",
        figures=(curves_svg("quality-dynamics", panel, alternative="; ".join(ends), size=(FULL, 4.2)),),
        leading=True,
    )


def _short(value: float) -> str:
    """Four digits, and no exponent where it can be helped."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 10 or value == 0 else f"{value:.3g}"
