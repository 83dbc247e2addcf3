"""What runs learned from: a few rows of each dataset, the returns of its episodes, the first tokens of a law."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.algorithms import method_of_kind
from trajmill.data import Dataset, Transitions, load_dataset, qlearning_transitions
from trajmill.replay.tables import CodedRows
from trajmill.replay.token_table import TokenRows
from trajmill.report.comparison import number
from trajmill.report.figures import HALF, Curve, Panel, curves_svg
from trajmill.report.sections import Section
from trajmill.runs.reading import RunRecord
from trajmill.training.settings import configured

ROWS, NUMBERS, TOKENS = 3, 3, 16
"""shown of each source; of each vector in a row; of each sequence"""
HEADS = ("rows", "observation", "action", "reward", "next observation", "terminal")


def data_section(runs: Sequence[RunRecord]) -> Section | None:
    """First rows and episode returns of every dataset that is found, and what laws make; None if there is nothing."""
    tables: list[tuple[tuple[str, ...], ...]] = []
    lines: list[tuple[str, ...]] = []
    figures: list[str] = []
    absent: list[str] = []
    for name, limit in {run.dataset: run.settings.get("limit") for run in runs if run.environment}.items():
        if name is None:
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # training has said them
                dataset = load_dataset(name, limit=limit)
                lines += transition_rows(name, qlearning_transitions(dataset))
        except (ValueError, OSError):
            absent.append(name)
            continue
        if dataset.ordered and dataset.episode_ends.any():
            figures.append(_returns(f"returns-{len(figures)}", dataset))
    made = [row for run in runs if run.environment is None for row in _made_rows(run)]
    if lines:
        tables.append((HEADS, *lines))
    if made:
        tables.append((("run", "learned from"), *made))
    if not tables:
        return None
    text = f"The first rows; of a vector {NUMBERS} numbers, of a sequence {TOKENS} tokens."
    if absent:
        text += f"\nNot found on this machine, or not readable, so not shown: {', '.join(absent)}."
    return Section(name="data", title="The data", text=text, tables=tuple(tables), figures=tuple(figures))


def transition_rows(name: str, rows: Transitions) -> list[tuple[str, ...]]:
    """The first rows for people, as `HEADS` says; `name` is whose they are."""
    return [
        (
            f"{name}, {index}",
            _vector(rows.observation[index]),
            _vector(rows.action[index]),
            number(float(rows.reward[index]), 3),
            _vector(rows.next_observation[index]),
            "yes" if rows.terminal[index] else "no",
        )
        for index in range(min(ROWS, len(rows)))
    ]


def _vector(values: NDArray[np.float32]) -> str:
    flat = np.atleast_1d(values).ravel()
    shown = ", ".join(number(float(value), 2) for value in flat[:NUMBERS])
    return shown if len(flat) <= NUMBERS else f"{shown}, … ({len(flat)})"


def _returns(name: str, dataset: Dataset) -> str:
    """Returns of finished episodes, sorted, over their share."""
    ends = np.flatnonzero(dataset.episode_ends)
    totals = np.cumsum(dataset.rewards, dtype=np.float64)[ends]
    returns = np.sort(np.diff(totals, prepend=0.0))
    shares = 100.0 * np.arange(1, len(returns) + 1) / len(returns)
    low, middle, high = (number(float(np.quantile(returns, at)), 0) for at in (0, 0.5, 1))
    panel = Panel(
        title=f"{dataset.name}: {len(returns):,} episodes",
        x_label="% of episodes, the worst first",
        y_label="return",
        curves=[Curve(style=None, x=shares, center=returns)],
    )
    about = f"Returns of the episodes of {dataset.name}: least {low}, median {middle}, greatest {high}"
    return curves_svg(name, panel, alternative=about, size=(HALF, 2.7))


def _few(settings: Mapping[str, Any]) -> dict[str, int]:
    """Settings by which a law makes its first rows alone: they are the same, however many follow."""
    fewest = {"trajectory_count": 1, "held_out_count": settings.get("batch_size", 1)}
    return {name: count for name, count in fewest.items() if name in settings}


def _made_rows(run: RunRecord) -> list[tuple[str, str]]:
    """The beginning of what a law, a corpus or a text gave a run; nothing if it cannot be made again here."""
    method = method_of_kind(run.kind)
    if method is None or not hasattr(method, "generate"):
        return []
    try:
        found = method.generate(configured(method.Config, {**run.settings["method"], **_few(run.settings["method"])}))
    except (ValueError, TypeError, KeyError, OSError):  # of a later version, say, or a file that is not here
        return []
    if isinstance(found, TokenRows):
        tokens = found.read(0, 1)["tokens"][0, :TOKENS]
        return [(run.variant, f"{' '.join(map(str, tokens))} … ({found.length:,} tokens)")]
    if isinstance(found, CodedRows):
        rows = found.transitions.rows[:ROWS].tolist()
        return [(run.variant, ", ".join(f"s {state} a {action} → {target}" for state, action, target in rows))]
    return []
