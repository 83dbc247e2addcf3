"""Settings of a run of any method: what `trajmill.experiments.train` takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import torch

from trajmill.algorithms import learns_online, method_named, synthesizing_methods
from trajmill.core import checks
from trajmill.data.environments import EPISODE_LIMIT
from trajmill.experiments.prediction import GREATEST_HORIZON
from trajmill.replay.ring import Turns
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Interaction, Schedule, at_least, check_seeds, in_range, per_seed

ConfigT = TypeVar("ConfigT")
ModelT = TypeVar("ModelT")
SamplingT = TypeVar("SamplingT")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Generic[ConfigT]):
    """A run of a method that needs no dataset; defaults are the paper's."""

    init: Path | None = None
    """run directory or checkpoint of another method to start from; None starts from scratch"""
    seeds: tuple[int, ...] = (0,)
    """all trained in one program"""
    method: ConfigT
    schedule: Schedule
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    variant: str = ""
    """label in reports; by default the method's"""

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        per_seed(self.method, len(self.seeds), torch.device("cpu"), torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetTrainConfig(TrainConfig[ConfigT]):
    """A run of a method on a dataset; defaults are the paper's."""

    dataset: str
    """name of a bundled dataset, or path of a file"""
    mix: tuple[str, ...] = ()
    """more datasets as NAME_OR_PATH=SHARE, exactly this share of each batch; --dataset has the rest, which may be
    nothing, and normalizes all"""
    limit: int | None = None
    """steps, at least 1, after which the environment cut episodes, where files do not mark it; also for --mix"""
    environment: str | None = None
    """Gymnasium id to evaluate in; None takes the dataset's own"""
    evaluation_episode_count: int = 10
    """episodes per evaluation and seed, at least 1"""
    predict: Path | None = None
    """run directory or checkpoint of a model that predicts next observations of --dataset (arXiv 2312.09844)"""
    prediction_rate: float = 0.5
    """share of --dataset's rows in every batch whose next observations are predicted, [0, 1]"""
    prediction_horizon: int = 1
    """steps, 1 to 5, that predictions are ahead of the last real state, where the episode has so many"""
    prediction_seed: int | None = None
    """names the draw of predictions from a stochastic model, one a row, at least 0; None takes its mean"""
    predict_other_data: bool = False
    """accept a model that has learned from other data than --dataset"""
    relevance: Path | None = None
    """run that says how relevant each row is, for methods with a condition: errors of critics, or of a model"""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        at_least(1, evaluation_episode_count=self.evaluation_episode_count)
        in_range("[0, 1]", prediction_rate=self.prediction_rate)
        checks.integer("prediction_horizon", self.prediction_horizon, 1, GREATEST_HORIZON)
        at_least(0, prediction_seed=self.prediction_seed or 0)
        rest = (self.prediction_rate, self.prediction_horizon, self.prediction_seed, self.predict_other_data)
        if self.predict is None and rest != (0.5, 1, None, False):
            raise ValueError("options of predictions need a model: give --predict RUN too, or leave them out")
        shares = list(self.shares.values())
        if len(self.shares) < len(self.mix) or sum(shares) > 1.0 + 1e-9:
            raise ValueError(f"mix must name different datasets with shares that sum to at most 1, got {self.mix}")

    @property
    def shares(self) -> dict[str, float]:
        """Share of a batch by dataset of `mix`."""
        found = {}
        for text in self.mix:
            name, equals, share = text.rpartition("=")
            try:
                found[name] = checks.number("share", float(share), "(0, 1]")
            except ValueError:
                equals = ""
            if not equals or not name:
                raise ValueError(
                    f"mix takes NAME_OR_PATH=SHARE with a share above 0, at most 1, such as B=0.5, got {text!r}"
                )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisConfig(Generic[ModelT, SamplingT]):
    """Transitions like those of an agent, for its batches: now and then a new model learns them and makes more."""

    every: int | None = None
    """environment steps of each seed between two models, at least 2 (arXiv 2303.06614: 10,000); None makes no model"""
    first: int | None = None
    """environment steps of each seed before the first model, at least 2; None is --synthesis.every"""
    share: float = 0.5
    """of each batch from the first model on, rounded down, (0, 1)"""
    updates: int = 100_000
    """of each model, at least 1"""
    count: int = 1_000_000
    """transitions that each model makes, at least 1; they replace those of the model before"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of making transitions; bf16 takes half the time on CPUs with AVX512_BF16 or AMX, and on GPUs"""
    method: ModelT = field(default_factory=lambda: method_named(synthesizing_methods()[0]).RETRAINED)
    sampling: SamplingT = field(default_factory=lambda: method_named(synthesizing_methods()[0]).Sampling())

    def __post_init__(self) -> None:
        at_least(1, updates=self.updates, count=self.count)
        at_least(2, every=2 if self.every is None else self.every, first=2 if self.first is None else self.first)
        in_range("(0, 1)", share=self.share)
        checks.choice("precision", self.precision, ("fp32", "bf16"))

    def due(self, steps: int) -> int:
        """How many models there have been after so many environment steps of each seed."""
        first = self.first or self.every
        return 0 if self.every is None or first is None or steps < first else (steps - first) // self.every + 1

    def due_within(self, turns: Turns, updates: int, environment_count: int = 1) -> int:
        """How many models a run of so many updates makes; none after its last step."""
        return self.due((turns.before(updates - 1) - 1) * environment_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineTrainConfig(TrainConfig[ConfigT]):
    """A run of a method whose agents learn while they act; defaults are the paper's.

    One update is one of each seed; `interaction` says how many steps of the environment lie between two.
    """

    environment: str
    """hopper, halfcheetah, walker2d, ant, invertedpendulum, or another Gymnasium id, such as Pendulum-v1"""
    interaction: Interaction
    environments: int = 1
    """environments of each seed that are stepped together, at least 1"""
    dataset: str | None = None
    """name of a bundled dataset, or path of a file, of which every batch has a share (arXiv 2302.02948)"""
    offline_ratio: float = 0.5
    """that share, rounded down, (0, 1)"""
    limit: int | None = None
    """steps, at least 1, after which the environment cut episodes of --dataset, where the file does not mark it"""
    capacity: int = 1_000_000
    """transitions of each seed that are kept, the newest, at least 1"""
    synthesis: SynthesisConfig[Any, Any] = field(default_factory=SynthesisConfig)
    evaluation_episode_count: int = 10
    """episodes per evaluation and seed, at least 1"""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        at_least(1, environments=self.environments, capacity=self.capacity)
        at_least(1, evaluation_episode_count=self.evaluation_episode_count)
        in_range("(0, 1)", offline_ratio=self.offline_ratio)
        if self.dataset is None and (self.offline_ratio, self.limit) != (0.5, None):
            raise ValueError(
                "offline_ratio and limit are of a dataset: give --dataset too, or leave them out; the environment "
                f"itself always cuts episodes, most after {EPISODE_LIMIT:,} steps"
            )
        if self.synthesis.every is None and self.synthesis != SynthesisConfig():
            raise ValueError("settings of synthesis need models: give --synthesis.every too, or leave them out")
        if None not in (self.dataset, self.synthesis.every) and self.offline_ratio + self.synthesis.share >= 1.0:
            raise ValueError(
                f"offline_ratio {self.offline_ratio:g} and synthesis.share {self.synthesis.share:g} leave no "
                "rows of the agent's own in a batch; let them be less than 1 together"
            )

    @property
    def turns(self) -> Turns:
        """How steps and updates alternate."""
        return Turns.of(self.interaction, self.environments, self.method.batch_size)  # type: ignore[attr-defined]


def kind_of_settings(method: ModuleType) -> tuple[type[TrainConfig[Any]], dict[str, Any]]:
    """The settings that a run of a method has, and the method's own defaults of some."""
    own = {"method": method.Config(), "schedule": method.SCHEDULE}
    if learns_online(method):
        return OnlineTrainConfig, own | {"interaction": method.INTERACTION}
    return DatasetTrainConfig if hasattr(method, "prepare") else TrainConfig, own
