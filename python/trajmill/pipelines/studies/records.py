"""What a study is: columns of variants, each pre-trained or not, over data sets; and what a paper printed for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Method = Literal["dt", "cql"]
Statistic = Literal[
    "average last four",
    "best",
    "updates to 90 %",
    "pre-training minutes",
    "fine-tuning hours",
    "weight cosine with random start",
    "weight cosine with pre-trained start",
    "feature cosine with random start",
    "feature cosine with pre-trained start",
]
FigureKind = Literal["curves", "shifted curves", "loss curves", "data ratios", "transition rows"]
"""scores over updates, one panel a group of columns; the same moved right by the updates of pre-training; the training
loss over updates; scores over the share of the data, one panel a group; rows of Markov chains, one panel a column,
nothing to train"""

DIGITS: Mapping[Statistic, int] = {
    "fine-tuning hours": 2,
    "weight cosine with random start": 4,
    "weight cosine with pre-trained start": 4,
    "feature cosine with random start": 5,
    "feature cosine with pre-trained start": 4,
}
"""decimals shown, where not one"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """One pre-trained start, shared by all variants and studies that name it."""

    name: str
    method: Method
    updates: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """what differs from the defaults of `PretrainDTConfig` or `PretrainCQLConfig`"""
    needs_text: bool = False
    """whether it learns from a text that the user gives"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to train on a data set, all seeds at once; what it parameters out is the paper's default."""

    name: str
    method: Method
    updates: int
    pretraining: Pretraining | None = None
    """None starts from scratch"""
    ratio: float = 1.0
    """share of the data set, in (0, 1]: of its trajectories for DT, of its transitions for CQL"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """what differs from the defaults of `TrainDTConfig` or `TrainCQLConfig`"""
    update_settings: Mapping[str, Any] = field(default_factory=dict)
    """what differs from the defaults of `DTConfig` or `CQLConfig`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table or a line of a figure."""

    label: str
    variant: Variant | None
    """None if nothing is to be trained"""
    printed: str = ""
    """key of the paper's own numbers; empty if there are none on record"""
    statistic: Statistic = "average last four"
    group: str = ""
    """panel of a figure"""
    line: str = ""
    """line of a figure over data ratios"""
    temperature: float = 1.0
    """of the chain, where nothing is trained"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A table or a figure."""

    name: str
    title: str
    columns: tuple[Column, ...]
    datasets: tuple[str, ...]
    figure: FigureKind = "curves"
    notes: tuple[str, ...] = ()
    """what a reader has to know: deviations, what the paper parameters open"""

    @property
    def variants(self) -> dict[str, Variant]:
        """By name, each once."""
        return {column.variant.name: column.variant for column in self.columns if column.variant is not None}

    @property
    def pretrainings(self) -> dict[str, Pretraining]:
        """By name, each once."""
        found = (variant.pretraining for variant in self.variants.values())
        return {pretraining.name: pretraining for pretraining in found if pretraining is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A column as a paper printed it; None and absent names are not on record."""

    means: Mapping[str, float]
    """by data set"""
    deviations: Mapping[str, float]
    average: float | None = None
    average_deviation: float | None = None


@cache
def printed_columns() -> Mapping[str, Printed]:
    """The numbers of arXiv 2310.00771 by table and column."""
    content = json.loads((files(__package__) / "paper_a.json").read_text(encoding="utf-8"))

    def by_dataset(values: list[float | None]) -> dict[str, float]:
        pairs = zip(content["datasets"], values, strict=True) if values else ()
        return {dataset: value for dataset, value in pairs if value is not None}

    return {
        name: Printed(
            means=by_dataset(column.get("means", [])),
            deviations=by_dataset(column.get("deviations", [])),
            average=column.get("average"),
            average_deviation=column.get("average_deviation"),
        )
        for name, column in content["columns"].items()
    }
