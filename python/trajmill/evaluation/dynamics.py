"""Check that a dataset was recorded in its environment: repeat single steps in the simulator and compare.

Made-up files pass every check of keys and shapes. And nothing else shows as clearly that the simulator has changed, as
MuJoCo's contact margins have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmill.data import Dataset, environment_of
from trajmill.data.environments import check_environment
from trajmill.data.errors import refuse, refusing
from trajmill.evaluation.environments import EnvironmentDefinition, Float64Array, IndexArray, environment_definition
from trajmill.evaluation.simulators import BatchedEnvironment

QUANTILES = (0.5, 0.9, 0.99, 1.0)
_SLOT_COUNT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicsReport:
    """How far the simulator's steps are from the recorded ones; a row's error is its largest difference."""

    environment_id: str
    margin_fix: bool
    row_count: int  # rows compared
    observation_error_quantiles: dict[float, float]  # quantile to error of the next observation; 1.0 is the maximum
    reward_error_quantiles: dict[float, float]
    tolerance: float
    share_off: float  # of the rows, in observation or (but Ant's) reward by more than the tolerance; 0 to 1
    terminal_mismatch_count: int  # rows where recording and simulator disagree on whether the task ended


def check_dynamics(
    dataset: Dataset,
    *,
    environment_id: str | None = None,
    row_count: int = 600,
    seed: int = 0,
    tolerance: float = 1e-3,
    margin_fix: bool | None = None,
) -> DynamicsReport:
    """Set the simulator to recorded states, step the recorded actions, and compare what follows.

    `row_count` rows, >= 1, are drawn at random without replacement; `seed` names the draw. States come from the file's
    ``qpos`` and ``qvel`` if it has them, else from the observations; then rows whose observation hides the velocity
    (Hopper's and Walker2d's are clipped to ±10) are left out. Without stored next observations the next row's are
    compared, inside episodes only. Every step begins with a zero warm start. Ant's reward measures the torso from where
    MuJoCo last computed it, in the middle of the step before, which no single row knows: its error of some hundredths
    is reported and not held against a row.

    The environment is `environment_of(dataset)` unless `environment_id` names another. `tolerance` is the largest
    difference that counts as right; float32 rounding of a genuine file stays below about 1e-4. `margin_fix` is that of
    `make_gymnasium`. DatasetError if observations or actions have the wrong size for the environment, or no row can be
    compared.
    """
    environment_id = check_environment(dataset, environment_id or environment_of(dataset))
    definition = environment_definition(environment_id)
    candidates = _comparable_rows(dataset, definition)
    count = min(row_count, len(candidates))
    rows = np.sort(np.random.default_rng(seed).choice(candidates, count, replace=False))
    with BatchedEnvironment(environment_id, min(_SLOT_COUNT, count), margin_fix=margin_fix) as environment:
        blocks = [rows[first : first + environment.count] for first in range(0, count, environment.count)]
        errors = [_block_errors(dataset, environment, block) for block in blocks]
    observation_error, reward_error, mismatch = (np.concatenate(parts) for parts in zip(*errors, strict=True))
    right = observation_error <= tolerance
    if definition.progress_body is None:
        right &= reward_error <= tolerance
    return DynamicsReport(
        environment_id=environment_id,
        margin_fix=environment.margin_fix,
        row_count=count,
        observation_error_quantiles=_quantiles(observation_error),
        reward_error_quantiles=_quantiles(reward_error),
        tolerance=tolerance,
        share_off=float(np.mean(~right)),
        terminal_mismatch_count=int(mismatch.sum()),
    )


def _quantiles(errors: Float64Array) -> dict[float, float]:
    return {quantile: float(np.quantile(errors, quantile)) for quantile in QUANTILES}


def _shown(observations: NDArray[np.float32], definition: EnvironmentDefinition) -> Float64Array:
    """What the environment shows, without the zeros that D4RL's files add."""
    return observations[:, : definition.observation_dim].astype(np.float64)


def _has_states(dataset: Dataset) -> bool:
    return "qpos" in dataset.infos and "qvel" in dataset.infos


def _comparable_rows(dataset: Dataset, definition: EnvironmentDefinition) -> IndexArray:
    """Rows whose state and next observation are both known."""
    known = np.ones(len(dataset), np.bool_)
    if _has_states(dataset):
        for key in ("qpos", "qvel"):
            known &= np.isfinite(dataset.infos[key]).all(axis=1)
    else:
        known &= definition.shows_state(_shown(dataset.observations, definition))
    if dataset.next_observations is None:
        known &= ~dataset.episode_ends
        known[-1] = False
    if not known.any():
        with refusing(dataset.path):
            raise refuse("no row has a known state and next observation", "so nothing can be compared")
    return known.nonzero()[0]


def _block_errors(
    dataset: Dataset, environment: BatchedEnvironment, rows: IndexArray
) -> tuple[Float64Array, Float64Array, NDArray[np.bool_]]:
    """Largest observation error, reward error, and wrong termination of each row, all (B,)."""
    definition, data = environment.definition, dataset.rows(rows)
    if _has_states(data):
        qpos, qvel = (data.infos[key].astype(np.float64) for key in ("qpos", "qvel"))
    else:
        qpos, qvel = definition.state_from_observation(_shown(data.observations, definition))
    environment.set_state(qpos, qvel)
    result = environment.step(data.actions, np.arange(len(rows)))
    following = dataset.observations[rows + 1] if data.next_observations is None else data.next_observations
    observation_error = np.abs(result.observation - _shown(following, definition)).max(axis=1)
    reward_error = np.abs(result.reward - data.rewards)
    mismatch = (result.terminal != data.terminals) & ~data.timeouts  # a limit hides a termination
    return observation_error, reward_error, mismatch
