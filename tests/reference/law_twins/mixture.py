"""Rows of several laws, slowly."""

from __future__ import annotations

import importlib
from fractions import Fraction
from typing import Any

from trajmill.laws.mixture import Mixture


def row(law: Mixture, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    place, number = address(law, index)
    part = law.laws[place]
    made = importlib.import_module(f"law_twins.{part.kind()}").row(part, number, length)
    offset = sum(each.vocabulary_size for each in law.laws[:place]) if law.separate else 0
    mask = made.get("loss_mask", [1] * length)
    return {"tokens": [token + offset for token in made["tokens"]], "loss_mask": mask, "task": [place]}


def address(law: Mixture, index: int) -> tuple[int, int]:
    """The place of the row's law, and the number of its sequence."""
    before = [0] * len(law.laws)
    for rows, weights in law.stages:
        period = order_of(weights)
        if index < rows:
            return within(period, weights, before, index)
        for place in range(len(weights)):
            before[place] += rows // len(period) * weights[place] + period[: rows % len(period)].count(place)
        index -= rows
    return within(order_of(law.weights), law.weights, before, index)


def order_of(weights: tuple[int, ...]) -> list[int]:
    """Places of laws in a period."""
    rows = [
        (Fraction(2 * rank + 1, 2 * weight), place) for place, weight in enumerate(weights) for rank in range(weight)
    ]
    return [place for _, place in sorted(rows)]


def within(period: list[int], weights: tuple[int, ...], before: list[int], index: int) -> tuple[int, int]:
    """A row of the stage that is on."""
    block, place_in_period = divmod(index, len(period))
    place = period[place_in_period]
    return place, before[place] + block * weights[place] + period[:place_in_period].count(place)
