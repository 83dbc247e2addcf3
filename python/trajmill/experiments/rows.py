"""What a run learns from: the rows of its datasets, of predictions and of mixtures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.algorithms import name_of
from trajmill.core.progress import Progress
from trajmill.data import Dataset, load_dataset, qlearning_transitions
from trajmill.data.actions import ActionLimit
from trajmill.data.environments import find_environment, task_of
from trajmill.data.errors import warn_about
from trajmill.data.subsets import divide_actions
from trajmill.experiments.prediction import (
    TrainedModel,
    check_model,
    identity_of,
    identity_of_run,
    load_model,
    predicted_rows,
)
from trajmill.experiments.settings import DatasetTrainConfig, TrainConfig
from trajmill.replay.tables import Mixture, TransitionRows
from trajmill.runs.reading import read_able


def model_of(config: TrainConfig[Any], method: ModuleType, dataset: Dataset | None) -> TrainedModel | None:
    """What predicts next observations; ValueError for a method that learns to predict them itself."""
    if not isinstance(config, DatasetTrainConfig) or dataset is None or config.predict is None:
        return None
    if hasattr(method, "predict"):
        raise ValueError(
            f"{name_of(config.method)} learns to predict next observations, and with predicted ones in place of real "
            f"ones it would learn another model's errors and be measured on them; leave out --predict"
        )
    model = load_model(config.predict, config.prediction_seed)
    check_model(model, dataset, other_data=config.predict_other_data)
    return model


def rows_of(
    config: TrainConfig[Any],
    method: ModuleType,
    dataset: Dataset | None,
    model: TrainedModel | None,
    action_limit: ActionLimit,
    progress: Progress,
    known: dict[str, Any],
) -> Any:
    """What the method learns from: made from its settings, or of a dataset, of predictions, of more datasets.

    Actions are in units of `action_limit`, which a model that predicts does not know.
    `known` receives what tells the content of the latter from that of others.
    """
    if not isinstance(config, DatasetTrainConfig) or dataset is None:
        return method.generate(config.method, progress)
    first = method.prepare(config.method, divide_actions(dataset, action_limit))
    if config.relevance is not None:
        first, known["relevance"] = _with_relevance(first, config.method, config.relevance)
    share = max(0.0, 1.0 - sum(config.shares.values()))
    sources = [(first, share)]
    if model is not None:
        rate = config.prediction_rate
        predicted = predicted_rows(first, model.with_actions_in(action_limit), config.prediction_horizon)
        sources = [(first, share * (1.0 - rate)), (predicted, share * rate)]
    others = {name: load_dataset(name, limit=config.limit) for name in config.shares}
    if others:
        known["mix"] = [identity_of(other) | {"share": config.shares[name]} for name, other in others.items()]
    for name, other in others.items():
        sizes = (other.observation_dim, other.action_dim)
        if sizes != (dataset.observation_dim, dataset.action_dim):
            raise ValueError(
                f"mix {name} has {sizes[0]} observation and {sizes[1]} action numbers, dataset {dataset.name} has "
                f"{dataset.observation_dim} and {dataset.action_dim}"
            )
        tasks = [find_environment(each) for each in (other, dataset)]
        if differ(*tasks):
            warn_about(f"mix {name} was recorded in {tasks[0]}, dataset {dataset.name} in {tasks[1]}; mixed as asked")
        rows = method.prepare(config.method, divide_actions(other, action_limit))
        if config.relevance is not None:
            rows, _ = _with_relevance(rows, config.method, config.relevance)
        sources.append((rows.like(first), config.shares[name]))
    parts, weights = zip(*((rows, weight) for rows, weight in sources if weight > 1e-9), strict=True)
    return parts[0] if len(parts) == 1 else Mixture.of(parts, weights)


def differ(one: str | None, other: str | None) -> bool:
    """Whether two environments are known and not versions of the same one."""
    return None not in (one, other) and len({str(each).lower().partition("-v")[0] for each in (one, other)}) > 1


def _with_relevance(rows: Any, settings: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    """The rows with how relevant a run finds each, and what tells that run; ValueError if there is no condition."""
    if not (hasattr(rows, "with_relevance") and hasattr(settings, "condition")):
        raise ValueError("relevance is for methods that learn with a condition, which this one does not; leave it out")
    relevance, tensors, known = read_able(path, "relevance", "relevance", "finds nothing relevant")
    real = rows.transitions
    sizes, wanted = (real.observation.shape[1], real.action.shape[1]), (known["observation_dim"], known["action_dim"])
    if sizes != wanted:
        raise ValueError(f"{path} takes {wanted[0]} observation and {wanted[1]} action numbers, the data has {sizes}")
    return rows.with_relevance(relevance(tensors, known, real)), identity_of_run(known)


def offline_columns(dataset: Dataset, environment: str) -> dict[str, NDArray[np.float32]]:
    """The columns of a dataset as batches of agents that learn online have them: raw, actions within ±1."""
    task = task_of(environment)
    transitions = qlearning_transitions(divide_actions(dataset, task.action_limit), "d4rl")
    shown = task.observation_dim  # D4RL's files of Ant have zeros after these
    columns = TransitionRows(transitions=transitions).columns
    return {name: rows[:, :shown] if "observation" in name else rows for name, rows in columns.items()}
