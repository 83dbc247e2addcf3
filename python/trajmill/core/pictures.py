"""How objects look in a notebook: a line of words and a small picture, inline SVG without anything to load."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 8, 48
"""sequences of a picture, and tokens of each"""
MOST_TOKENS = 1_000_000
"""numbers that are made or read for a picture, at most"""
_CELL = 7
_BINS = 60


def html(words: object, picture: str = "") -> str:
    """An object's repr and its picture."""
    return f'<div><code style="white-space: pre-wrap">{escape(str(words))}</code><br>{picture}</div>'


def token_cells(rows: NDArray[Any]) -> str:
    """The first tokens of the first sequences (N, L), a color for each token."""
    shown = np.asarray(rows)[:ROWS, :COLUMNS].astype(np.int64)
    paths = []
    for token in np.unique(shown).tolist():
        squares = "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(shown == token).tolist())
        hue, light = token * 137 % 360, 45 + token * 29 % 25  # neighbors differ much
        paths.append(f'<path fill="hsl({hue} 60% {light}%)" d="{squares}"><title>{token}</title></path>')
    height, width = shown.shape
    return _svg(width, height, width * _CELL, height * _CELL, "".join(paths))


def bars(values: Sequence[float] | NDArray[Any], title: str) -> str:
    """A bar for each value in its order, the means of some where there are many; 0 is the lowest line if it can be."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return ""
    means = [part.mean() for part in np.array_split(numbers, min(_BINS, len(numbers)))]
    low, high = min(0.0, *means, 0.0), max(0.0, *means, 0.0)
    size = (high - low) or 1.0
    drawn = "".join(
        f'<rect x="{place}.1" width="0.8" y="{(high - max(mean, 0.0)) / size:.4f}" height="{abs(mean) / size:.4f}"/>'
        for place, mean in enumerate(means)
    )
    drawn = f'<g fill="#4477aa"><title>{escape(title)}</title>{drawn}</g>'
    return _svg(len(means), 1, max(120, 6 * len(means)), 48, drawn) + f"<br><small>{escape(title)}</small>"


def filled(count: int, capacity: int) -> str:
    """How much of a room is taken."""
    share = count / capacity
    drawn = f'<rect width="1" height="1" fill="#8885"/><rect width="{share:.4f}" height="1" fill="#4477aa"/>'
    return _svg(1, 1, 240, 12, drawn) + f"<br><small>{count:,} of {capacity:,} rows</small>"


def _svg(across: float, down: float, width: int, height: int, drawn: str) -> str:
    box = f'viewBox="0 0 {across} {down}" width="{width}" height="{height}" preserveAspectRatio="none"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{drawn}</svg>'
