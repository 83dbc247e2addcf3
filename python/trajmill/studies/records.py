"""What a study is: columns of variants, over datasets or environments; and what a paper printed for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from typing import Any, Literal

from trajmill.algorithms import learns_online, method_named, name_of
from trajmill.data.environments import Task, task_of
from trajmill.data.subsets import SubsetKind
from trajmill.evaluation.quality import NoiseKind
from trajmill.experiments.settings import SynthesisConfig
from trajmill.training.settings import Interaction

Statistic = Literal[
    "average last four",
    "average of all",
    "best",
    "updates to 90 %",
    "pre-training minutes",
    "fine-tuning hours",
    "mean value of the data",
    "weight cosine with random start",
    "weight cosine with pre-trained start",
    "feature cosine with random start",
    "feature cosine with pre-trained start",
]
Drawing = Literal["curves", "data ratios", "bars", "transition rows"]
"""each group of columns has a panel, with curves over updates, lines over the share of the data, or a bar for each
column; for rows of Markov chains, each column has a panel, and nothing is trained"""
Quantity = Literal["scores", "losses", "value distributions"]

Form = Literal["released", "stated"]
"""whose settings a study has: those of the code that its authors released, or those that the paper states"""
CosineRule = Literal["own", "released"]
"""how `trajmill.studies.similarity` flattens and averages"""

Place = str | Task
"""what variants are trained on: a dataset, by its name or path, or in: an environment, where no data is needed"""

_DIGITS: Mapping[Statistic, int] = {
    "fine-tuning hours": 2,
    "weight cosine with random start": 4,
    "weight cosine with pre-trained start": 3,
    "feature cosine with random start": 5,
    "feature cosine with pre-trained start": 3,
}
"""decimals that are shown, if not one"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """One pre-trained start, shared by all variants and studies that name it."""

    name: str
    method: Any
    """settings of a method that needs no dataset"""
    updates: int
    sized_by: tuple[str, ...] = ()
    """settings that take the sizes of the data's observations and actions; each pair of sizes has its own start"""
    needs_text: bool = False
    """whether it learns from a text that the user gives"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of a dataset, trained on it before the variants that use it."""

    name: str
    method: Any
    """settings of a method that can predict, or make transitions"""
    updates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Next observations that a model predicts in place of the data's."""

    model: Model
    rate: float
    """share of each batch, in [0, 1]"""
    horizon: int = 1
    """steps ahead"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """Transitions that a model has made."""

    model: Model
    sampling: Any
    """the method's `Sampling`"""
    count: int
    """transitions to make"""
    share: float = 1.0
    """of each batch, in (0, 1]; 1 trains on them alone, scaled as the data would be"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Copies of the data with noise on observations and next observations: explicit augmentation."""

    kind: NoiseKind
    """x + strength · deviation of the column · normal, or x · (1 + strength · normal)"""
    strength: float
    copies: int = 10
    share: float = 1.0
    """of each batch, in (0, 1]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to train on a dataset or in an environment, all seeds at once."""

    name: str
    method: Any
    """settings of a method"""
    updates: int
    start: Pretraining | None = None
    """None starts from scratch"""
    ratio: float = 1.0
    """share of the dataset, in (0, 1]"""
    subset: SubsetKind = "transitions"
    """what the share is of"""
    rows: int | None = None
    """about so many rows in whole trajectories, in place of a share"""
    prediction: Prediction | None = None
    synthetic: Synthetic | None = None
    noise: Noise | None = None
    interaction: Interaction | None = None
    """of a method that learns online, also in the environment of a dataset; None takes the method's own"""
    synthesis: SynthesisConfig[Any, Any] = field(default_factory=SynthesisConfig)
    """synthetic transitions for a method that learns online"""
    after: Variant | None = None
    """the variant whose finished run this one goes on from, seed by seed"""
    seed_count: int | None = None
    """how many of the study's seeds it has, the first ones; None has all"""
    family: str = ""
    """its name among the runs of a paper's authors; empty is `name`"""

    @property
    def authors_name(self) -> str:
        """What the runs of a paper's authors call it."""
        return self.family or self.name

    @property
    def meets(self) -> Interaction | None:
        """How the method meets the environment; None if it learns from the dataset."""
        method = method_named(name_of(self.method))
        if not learns_online(method):
            return None
        found: Interaction = self.interaction or method.INTERACTION
        return found if self.after is None else replace(found, random_steps=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table or a line of a figure."""

    label: str
    variant: Variant | None
    """None if nothing is to be trained"""
    minus: Variant | None = None
    """another variant of the study; the column is then of what is left when that one's mean is taken off"""
    printed: str = ""
    """key of the paper's own numbers; empty if there are none on record"""
    statistic: Statistic = "average last four"
    group: str = ""
    """panel of a figure"""
    line: str = ""
    """line of a figure over data ratios"""
    shifted: bool = False
    """whether its curve is moved right by the updates of its pre-training"""
    temperature: float = 1.0
    """of the chain, where nothing is trained"""

    @property
    def trained(self) -> Variant:
        """The variant, in a study that trains."""
        assert self.variant is not None
        return self.variant

    @property
    def digits(self) -> int:
        """Decimals that are shown."""
        return _DIGITS.get(self.statistic, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A table or a figure."""

    name: str
    title: str
    columns: tuple[Column, ...]
    datasets: tuple[str, ...] = ()
    """names or paths"""
    environments: tuple[str, ...] = ()
    """short names, in place of datasets, where all variants learn online from nothing"""
    seeds: tuple[int, ...] = ()
    """the paper's"""
    figure: Drawing = "curves"
    quantities: tuple[Quantity, ...] = ("scores",)
    """what curves show, one panel each; values are the critics', of the data, at the end"""
    per_dataset: bool = False
    """whether each dataset or environment has its own panels, instead of an average over all"""
    loss: str = "loss"
    """metric that a panel of losses shows"""
    log_loss: bool = False
    """whether the axis of losses is logarithmic"""
    printed: Mapping[str, Printed] | None = None
    """the paper's numbers, by the keys of the columns"""
    cosines: CosineRule = "own"
    """how cosines of weights and features are taken"""
    released: Study | None = None
    """the same with the settings of its authors' code, under other names; None if it has one form alone"""
    authors: str = ""
    """file beside this one with the authors' own runs of the variants; empty if there is none"""
    notes: tuple[str, ...] = ()
    """what a reader has to know: deviations, what the paper leaves open"""

    def __post_init__(self) -> None:
        for column in self.columns:
            if column.minus is not None and column.minus not in self.variants.values():
                raise ValueError(
                    f"study {self.name} takes {column.minus.name} off in a column, but has no column of it: add one"
                )
        from_data = [name for name, variant in self.variants.items() if variant.meets is None or variant.after]
        if self.environments and (self.datasets or from_data):
            raise ValueError(
                f"study {self.name} has environments: leave out its datasets, and variants that need one: {from_data}"
            )

    @property
    def kind(self) -> Literal["datasets", "environments"]:
        """What its places are."""
        return "environments" if self.environments else "datasets"

    @property
    def places(self) -> tuple[Place, ...]:
        """All that each variant is trained on or in."""
        return tuple(map(task_of, self.environments)) or self.datasets

    @property
    def variants(self) -> dict[str, Variant]:
        """By name, each once."""
        return {column.variant.name: column.variant for column in self.columns if column.variant is not None}

    @property
    def is_offline(self) -> bool:
        """Whether nothing learns in an environment."""
        return not any(variant.meets or variant.after for variant in self.variants.values())

    @property
    def pretrainings(self) -> dict[str, Pretraining]:
        """By name, each once."""
        return {variant.start.name: variant.start for variant in self.variants.values() if variant.start is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A column as a paper printed it; what is None or absent is not on record."""

    means: Mapping[str, float] = field(default_factory=dict)
    """by dataset"""
    deviations: Mapping[str, float] = field(default_factory=dict)
    average: float | None = None
    average_deviation: float | None = None


def printed_columns(file_name: str) -> dict[str, Printed]:
    """The numbers of a paper by table and column, from a file beside this one."""
    content = json.loads((files(__package__) / file_name).read_text(encoding="utf-8"))

    def by_dataset(values: list[float | None]) -> Any:
        pairs = zip(content["datasets"], values, strict=True)
        return {dataset: value for dataset, value in pairs if value is not None}

    def column_of(entry: Any) -> Printed:
        column = content["columns"][entry] if isinstance(entry, str) else entry  # a name: the column of another table
        return Printed(**{name: by_dataset(each) if isinstance(each, list) else each for name, each in column.items()})

    return {key: column_of(entry) for key, entry in content["columns"].items()}


def smaller(method: Any, *, updates: float = 1.0, batch: float = 1.0, small: bool = False) -> Any:
    """Settings at a smaller scale.

    `updates` is the share of each setting that counts updates (``..._updates``, where 0 stays 0, and of two that differ
    the greater one stays greater, however small the share), `batch` the share of each batch size (``...batch_size``).
    With `small`, settings that have their default become those of the method's `SMALL` instance.
    """
    default, tiny = type(method)(), method_named(name_of(method)).SMALL
    own = {setting.name: getattr(method, setting.name) for setting in fields(method)}
    counts: dict[int | None, int | None] = {None: None, 0: 0}
    last = 0
    for count in sorted({value for name, value in own.items() if name.endswith("_updates") and value}):
        counts[count] = last = max(last + 1, round(count * updates))
    changes: dict[str, Any] = {}
    for name, given in own.items():
        value = getattr(tiny, name) if small and given == getattr(default, name) else given
        if name.endswith("_updates"):  # a small instance's counts are for runs of another length
            value = counts[given]
        if name.endswith("batch_size") and value is not None:
            value = max(1, round(value * batch))
        changes[name] = value
    return replace(method, **changes)
