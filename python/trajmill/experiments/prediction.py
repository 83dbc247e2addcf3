"""Models of the dynamics at work: rows whose next observations they predict, and how far their predictions are off."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.algorithms import method_named
from trajmill.core import checks
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data import Dataset, Transitions, load_dataset
from trajmill.data.actions import ActionLimit, to_environment
from trajmill.data.episodes import followed
from trajmill.evaluation.prediction import (
    ErrorAhead,
    ErrorAtDistance,
    Predict,
    errors_ahead,
    errors_by_distance,
    open_loop,
)
from trajmill.replay.tables import TransitionRows
from trajmill.runs.reading import read_able, read_config
from trajmill.training.settings import at_least, configured

_IDENTITY = ("dataset_sha256", "following_sha256")
GREATEST_HORIZON = 5
"""steps ahead that arXiv 2312.09844 leaves open"""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The model of a checkpoint."""

    predict: Predict
    known: Mapping[str, Any]
    """metadata of the checkpoint"""

    def with_actions_in(self, limit: ActionLimit) -> TrainedModel:
        """The same model for actions that are in units of `limit`."""

        def predict(
            observation: NDArray[np.float32], action: NDArray[np.float32], draw: int = 0
        ) -> NDArray[np.float32]:
            return self.predict(observation, to_environment(action, limit), draw)

        return replace(self, predict=predict)

    def identity(self) -> dict[str, Any]:
        """What tells this model from others."""
        return identity_of_run(self.known)


def identity_of_run(known: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run's first seed from others, for checkpoints of a run that learns from it; of its metadata."""
    first_seed, *_ = known["seeds"]
    names = ("kind", "update", "method", "data", *_IDENTITY, "mix", "model", "relevance", "start")
    found = {name: known[name] for name in names if name in known} | {"seed": first_seed}
    if "method" in found:
        found["method"] = {key: one for key, one in found["method"].items() if key not in known.get("places", ())}
    return found


def load_model(path: AnyPath, seed: int | None = None) -> TrainedModel:
    """The model of a run or checkpoint, its first seed's; with `seed` its predictions are drawn, if it can do so.

    ValueError if there is none, the first seed diverged, or its method predicts nothing.
    """
    predict, tensors, known = read_able(path, "predict", "predict", "predicts no next observations")
    return TrainedModel(predict(tensors, known, seed=seed), known)


def check_model(model: TrainedModel, dataset: Dataset, *, other_data: bool) -> None:
    """ValueError if the model is not of the dataset's sizes, or learned from other data, unless that is wanted."""
    known, sizes = model.known, (dataset.observation_dim, dataset.action_dim)
    if (known["observation_dim"], known["action_dim"]) != sizes:
        raise ValueError(
            f"the model takes {known['observation_dim']} observation and {known['action_dim']} action numbers, "
            f"dataset {dataset.name} has {sizes[0]} and {sizes[1]}"
        )
    if not other_data and not learned_from(known, dataset):
        raise ValueError(
            f"the model learned from {known['dataset']}, not from these rows of {dataset.name}: train one on them, or "
            f"give --predict-other-data"
        )


def predicted_rows(rows: Any, model: TrainedModel, steps: int) -> TransitionRows:
    """The same rows with the next observations that the model predicts `steps` ahead; the given rows stay as they are.

    A row that ends in a terminal keeps what really followed, which no target uses. ValueError for rows without next
    observations.
    """
    if not isinstance(rows, TransitionRows):
        raise ValueError("predict replaces next observations, which this method does not learn from; leave it out")
    real = rows.transitions
    if steps > 1 and not followed(real).any():
        raise ValueError(
            f"prediction_horizon {steps} needs rows that follow each other, but no row is followed by the next one; "
            "take 1, or a dataset with whole episodes in order"
        )
    predicted = open_loop(model.predict, real, steps)
    next_observation = np.where(real.terminal[:, None], real.next_observation, predicted)
    return replace(rows, transitions=replace(real, next_observation=next_observation))


def identity_of(dataset: Dataset) -> dict[str, str]:
    """What tells the content of a dataset from that of others, wherever it lies.

    SHA-256 of its steps, and of what follows them; checkpoints of earlier versions have the first alone.
    """
    steps = (dataset.observations, dataset.actions, dataset.rewards, dataset.terminals, dataset.timeouts)
    following = () if dataset.next_observations is None else (dataset.next_observations,)
    return dict(zip(_IDENTITY, (_digest(steps), _digest((*following, np.bool_(dataset.ordered)))), strict=True))


def learned_from(known: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether the metadata of a checkpoint names the content of the dataset."""
    return "dataset_sha256" in known and all(known.get(name, own) == own for name, own in identity_of(dataset).items())


def _digest(columns: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for column in columns:
        digest.update(f"{column.shape} {column.dtype}".encode())
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """On which rows a model is measured."""

    dataset: str | None = None
    """another dataset, all rows of which are predicted; by default the rows that the model's training held out"""
    limit: int | None = None
    """steps, at least 1, after which the environment cut its episodes, where the file does not mark it"""
    horizon: int = GREATEST_HORIZON
    """steps ahead, 1 to 5"""
    group_count: int = 5
    """groups of rows of equal size, by their distance to the data, at least 1"""
    row_count: int = 2000
    """rows that are compared with all data, at least 1; drawn at random if there are more"""
    seed: int | None = None
    """names the draws of a stochastic model, at least 0; by default its mean is predicted"""

    def __post_init__(self) -> None:
        checks.integer("horizon", self.horizon, 1, GREATEST_HORIZON)
        at_least(1, group_count=self.group_count, row_count=self.row_count)
        at_least(0, seed=self.seed or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionReport:
    """Errors of a model."""

    run: Path
    dataset: str
    update: int
    """updates that the run has made"""
    ahead: list[ErrorAhead]
    by_distance: list[ErrorAtDistance]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "run": str(self.run)}


def measure_predictions(
    run: AnyPath, config: PredictConfig | None = None, progress: Progress = silent
) -> PredictionReport:
    """Errors of a run's model; distances are those to the rows of its dataset that it was trained on.

    Several steps ahead, a held-out row is reached through rows that training saw; another dataset has none of those.
    """
    config, run = config or PredictConfig(), local_path(run)
    model, settings = load_model(run, config.seed), read_config(run)
    method = method_named(settings["kind"])
    of_method = configured(method.Config, settings["config"]["method"])
    progress("predict", 0, 2, "measurements")
    dataset = load_dataset(settings["config"]["dataset"], limit=settings["config"].get("limit"))
    check_model(model, dataset, other_data=False)
    rows = method.prepare(of_method, dataset)
    trained = np.ones(len(rows.transitions), np.bool_) if rows.held_out is None else ~rows.held_out
    transitions, chosen = rows.transitions, ~trained
    if config.dataset is not None:
        dataset = load_dataset(config.dataset, limit=config.limit)
        check_model(model, dataset, other_data=True)
        transitions = method.prepare(of_method, dataset).transitions
        chosen = np.ones(len(transitions), np.bool_)
    ahead = errors_ahead(model.predict, transitions, rows.normalizer, chosen, config.horizon)
    progress("predict", 1, 2, "measurements")
    some = chosen.nonzero()[0]
    if len(some) > config.row_count:
        some = np.sort(np.random.default_rng(0).choice(some, config.row_count, replace=False))
    data, queries = _rows(rows.transitions, trained), _rows(transitions, some)
    by_distance = errors_by_distance(model.predict, queries, rows.normalizer, data, config.group_count)
    progress("predict", 2, 2, "measurements")
    return PredictionReport(
        run=run, dataset=dataset.name, update=int(model.known["update"]), ahead=ahead, by_distance=by_distance
    )


def _rows(transitions: Transitions, rows: Any) -> Transitions:
    """The chosen rows."""
    return Transitions(**{field.name: getattr(transitions, field.name)[rows] for field in fields(Transitions)})
