"""What the evaluation environments are: observation, reward, termination and reset noise, in NumPy, for whole batches.

Each definition repeats Gymnasium's ``-v4`` class in the same floating-point operations, so that results can be compared
bit for bit. What else is known of a task is in `trajmill.data.environments`; docs/add-an-environment.md says how to add
one. Arrays: ``qpos`` (B, nq) and ``qvel`` (B, nv) float64 as in MuJoCo, ``action`` (B, A) float32 within the limits,
``observation`` (B, O) float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajmill.data.environments import TASKS, Task, task_of

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ActionArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentDefinition(Task):
    """A task with its physics."""

    frame_skip: int
    """Physics steps per environment step, the action held."""
    progress_body: str | None = None
    """Body whose x coordinate measures progress, as MuJoCo computed it last; None: the first of `qpos`."""
    reset_scale: float
    """Size of the noise on the initial state: positions are uniform within it."""
    reset_velocity: Literal["uniform", "normal"]
    """Law of the noise on the initial velocities: uniform within `reset_scale`, or normal with that deviation."""
    margin_fix: bool
    """Whether contacts have margins, which MuJoCo 3.5 and later add where earlier versions took the larger."""
    observe: Callable[[Float64Array, Float64Array], Float64Array]
    """(qpos, qvel) to observation (B, O)."""
    reward: Callable[[Float64Array, ActionArray], Float64Array]
    """(forward velocity (B,) in m/s, action) to reward (B,)."""
    is_terminal: Callable[[Float64Array, Float64Array], BoolArray]
    """(qpos, qvel) after the step to whether the task ended there, (B,)."""
    state_from_observation: Callable[[Float64Array], tuple[Float64Array, Float64Array]]
    """Observation to a (qpos, qvel) that shows it, at place 0 in the world, on which the dynamics do not depend."""
    shows_state: Callable[[Float64Array], BoolArray]
    """Whether `state_from_observation` recovers the velocities exactly, (B,)."""

    def initial_noise(self, seed: int, nq: int, nv: int) -> tuple[Float64Array, Float64Array]:
        """What Gymnasium's ``reset(seed=seed)`` adds to the model's initial qpos (nq,) and qvel (nv,)."""
        generator = np.random.default_rng(seed)
        position = generator.uniform(low=-self.reset_scale, high=self.reset_scale, size=nq)
        if self.reset_velocity == "uniform":
            return position, generator.uniform(low=-self.reset_scale, high=self.reset_scale, size=nv)
        return position, self.reset_scale * generator.standard_normal(nv)


def environment_definition(environment_id: str) -> EnvironmentDefinition:
    """Return the definition of ``"Hopper-v4"``, also by the short name ``"hopper"``.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    return ENVIRONMENTS[task_of(environment_id).environment_id]


def _control_cost(weight: float, action: ActionArray) -> ActionArray:
    """Weighted sum of squared actions, (B,); in float32, as Gymnasium's is for float32 actions."""
    cost: ActionArray = weight * np.sum(np.square(action), axis=1)
    return cost


def _planar_observe(qpos: Float64Array, qvel: Float64Array) -> Float64Array:
    """All positions but the horizontal one, then all velocities."""
    return np.concatenate((qpos[:, 1:], qvel), axis=1)


def _planar_state(observation: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Undo `_planar_observe`: n positions and n velocities from 2n - 1 numbers."""
    position_count = (observation.shape[1] + 1) // 2
    horizontal = np.zeros((len(observation), 1))
    qpos = np.concatenate((horizontal, observation[:, : position_count - 1]), axis=1)
    return qpos, observation[:, position_count - 1 :]


def _always_shown(observation: Float64Array) -> BoolArray:
    """Every observation shows its velocities."""
    return np.ones(len(observation), np.bool_)


def _never_terminal(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    return np.zeros(len(qpos), np.bool_)


_VELOCITY_LIMIT = 10.0
"""Hopper and Walker2d show velocities clipped to it."""


def _clipped_observe(qpos: Float64Array, qvel: Float64Array) -> Float64Array:
    return _planar_observe(qpos, np.clip(qvel, -_VELOCITY_LIMIT, _VELOCITY_LIMIT))


def _clipped_shows_state(observation: Float64Array) -> BoolArray:
    velocity = _planar_state(observation)[1]
    shown: BoolArray = np.all(np.abs(velocity) < _VELOCITY_LIMIT, axis=1)
    return shown


def _walking_reward(forward_velocity: Float64Array, action: ActionArray) -> Float64Array:
    """Velocity, one for being alive, and a small cost of the action; also given on the step that ends the task."""
    return forward_velocity + 1.0 - _control_cost(1e-3, action)


def _hopper_is_terminal(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    others = np.concatenate((qpos[:, 2:], qvel), axis=1)
    bounded = np.all((others > -100.0) & (others < 100.0), axis=1)
    height, angle = qpos[:, 1], qpos[:, 2]
    healthy: BoolArray = bounded & (height > 0.7) & (angle > -0.2) & (angle < 0.2)
    return ~healthy


def _half_cheetah_reward(forward_velocity: Float64Array, action: ActionArray) -> Float64Array:
    return forward_velocity - _control_cost(0.1, action)


def _walker_is_terminal(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    height, angle = qpos[:, 1], qpos[:, 2]
    healthy: BoolArray = (height > 0.8) & (height < 2.0) & (angle > -1.0) & (angle < 1.0)
    return ~healthy


def _ant_observe(qpos: Float64Array, qvel: Float64Array) -> Float64Array:
    """All positions but x and y, then all velocities; the 84 contact forces of D4RL's files are zero and left out."""
    return np.concatenate((qpos[:, 2:], qvel), axis=1)


def _ant_reward(forward_velocity: Float64Array, action: ActionArray) -> Float64Array:
    return forward_velocity + 1.0 - _control_cost(0.5, action)


def _ant_is_terminal(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    height = qpos[:, 2]
    finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
    healthy: BoolArray = finite & (height >= 0.2) & (height <= 1.0)
    return ~healthy


def _ant_state(observation: Float64Array) -> tuple[Float64Array, Float64Array]:
    plane = np.zeros((len(observation), 2))
    return np.concatenate((plane, observation[:, :13]), axis=1), observation[:, 13:27]


def _pendulum_observe(qpos: Float64Array, qvel: Float64Array) -> Float64Array:
    return np.concatenate((qpos, qvel), axis=1)


def _pendulum_reward(forward_velocity: Float64Array, action: ActionArray) -> Float64Array:
    return np.ones(len(action))


def _pendulum_is_terminal(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
    upright: BoolArray = finite & (np.abs(qpos[:, 1]) <= 0.2)
    return ~upright


def _pendulum_state(observation: Float64Array) -> tuple[Float64Array, Float64Array]:
    return observation[:, :2], observation[:, 2:]


def _facts(name: str) -> dict[str, Any]:
    """What `TASKS` says of a task."""
    return {field.name: getattr(TASKS[name], field.name) for field in fields(Task)}


HOPPER = EnvironmentDefinition(
    **_facts("hopper"),
    frame_skip=4,
    reset_scale=5e-3,
    reset_velocity="uniform",
    margin_fix=True,
    observe=_clipped_observe,
    reward=_walking_reward,
    is_terminal=_hopper_is_terminal,
    state_from_observation=_planar_state,
    shows_state=_clipped_shows_state,
)

HALF_CHEETAH = EnvironmentDefinition(
    **_facts("halfcheetah"),
    frame_skip=5,
    reset_scale=0.1,
    reset_velocity="normal",
    margin_fix=False,
    observe=_planar_observe,
    reward=_half_cheetah_reward,
    is_terminal=_never_terminal,
    state_from_observation=_planar_state,
    shows_state=_always_shown,
)

WALKER2D = EnvironmentDefinition(
    **_facts("walker2d"),
    frame_skip=4,
    reset_scale=5e-3,
    reset_velocity="uniform",
    margin_fix=False,
    observe=_clipped_observe,
    reward=_walking_reward,
    is_terminal=_walker_is_terminal,
    state_from_observation=_planar_state,
    shows_state=_clipped_shows_state,
)

ANT = EnvironmentDefinition(
    **_facts("ant"),
    frame_skip=5,
    progress_body="torso",
    reset_scale=0.1,
    reset_velocity="normal",
    margin_fix=True,
    observe=_ant_observe,
    reward=_ant_reward,
    is_terminal=_ant_is_terminal,
    state_from_observation=_ant_state,
    shows_state=_always_shown,
)

INVERTED_PENDULUM = EnvironmentDefinition(
    **_facts("invertedpendulum"),
    frame_skip=2,
    reset_scale=0.01,
    reset_velocity="uniform",
    margin_fix=False,
    observe=_pendulum_observe,
    reward=_pendulum_reward,
    is_terminal=_pendulum_is_terminal,
    state_from_observation=_pendulum_state,
    shows_state=_always_shown,
)

ENVIRONMENTS = {
    definition.environment_id: definition for definition in (HOPPER, HALF_CHEETAH, WALKER2D, ANT, INVERTED_PENDULUM)
}
