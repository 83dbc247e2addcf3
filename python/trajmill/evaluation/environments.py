"""The physics of every task: observation, reward, termination and reset noise, in NumPy, for whole batches.

Each definition repeats Gymnasium's ``-v4`` class in the same floating-point operations, so results are equal bit for
bit. `trajmill.data.environments` has the other facts of a task; docs/add-an-environment.md says how to add one.
Arrays: ``qpos`` (B, nq) and ``qvel`` (B, nv) float64 as in MuJoCo, ``action`` (B, A) float32 within the limits,
``observation`` (B, O) float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajmill.data.environments import TASKS, Task, is_ours, task_of
from trajmill.data.records import BoolArray

Float64Array = NDArray[np.float64]
ActionArray = NDArray[np.float32]
IndexArray = NDArray[np.int64]


def _never(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    return np.zeros(len(qpos), np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentDefinition(Task):
    """A task with its physics; one whose observation or reward has another form overrides the method."""

    frame_skip: int  # physics steps per environment step, the action held
    hidden_positions: int = 1  # numbers at the beginning of `qpos` that are not observed: the place in the world
    shown_positions: int  # numbers of `qpos` after them, with which an observation begins; the velocities follow
    velocity_limit: float = math.inf  # observations show velocities clipped to ± this, in MuJoCo's units
    progress_body: str | None = None  # whose x, as last computed, measures progress; None: the first of `qpos`
    reset_scale: float  # size of the noise on the initial state: positions are uniform within it
    reset_velocity: Literal["uniform", "normal"]  # initial velocities: uniform within it, or normal with that deviation
    margin_fix: bool = False  # whether the model has contact margins, which `simulators` must halve
    survival_reward: float = 1.0  # of every step for being alive, that of the step that ends the task included
    control_cost: float | None  # weight of the squared action in the reward; None: only `survival_reward` counts
    is_terminal: Callable[[Float64Array, Float64Array], BoolArray] = _never  # (qpos, qvel) after the step to (B,)

    def initial_noise(self, seed: int, nq: int, nv: int) -> tuple[Float64Array, Float64Array]:
        """What Gymnasium's ``reset(seed=seed)`` adds to the model's initial qpos (nq,) and qvel (nv,)."""
        generator = np.random.default_rng(seed)
        position = generator.uniform(low=-self.reset_scale, high=self.reset_scale, size=nq)
        if self.reset_velocity == "uniform":
            return position, generator.uniform(low=-self.reset_scale, high=self.reset_scale, size=nv)
        return position, self.reset_scale * generator.standard_normal(nv)

    def observe(self, qpos: Float64Array, qvel: Float64Array) -> Float64Array:
        """The observation of a state."""
        if self.velocity_limit < math.inf:
            qvel = np.clip(qvel, -self.velocity_limit, self.velocity_limit)
        return np.concatenate((qpos[:, self.hidden_positions :], qvel), axis=1)

    def reward(self, forward_velocity: Float64Array, action: ActionArray) -> Float64Array:
        """Reward of a step at a forward velocity (B,) in m/s."""
        if self.control_cost is None:
            return np.full(len(action), self.survival_reward)
        cost: ActionArray = self.control_cost * np.sum(np.square(action), axis=1)  # float32, as Gymnasium's is
        return forward_velocity + self.survival_reward - cost

    def state_from_observation(self, observation: Float64Array) -> tuple[Float64Array, Float64Array]:
        """A (qpos, qvel) that is observed so, at place 0 in the world."""
        qpos, qvel = np.split(observation, [self.shown_positions], axis=1)
        return np.pad(qpos, ((0, 0), (self.hidden_positions, 0))), qvel

    def shows_state(self, observation: Float64Array) -> BoolArray:
        """Whether `state_from_observation` recovers the velocities exactly, (B,)."""
        shown: BoolArray = np.all(np.abs(observation[:, self.shown_positions :]) < self.velocity_limit, axis=1)
        return shown


def environment_definition(environment_id: str) -> EnvironmentDefinition:
    """Return the definition of ``"Hopper-v4"``, also by the short name ``"hopper"``; ValueError if there is none."""
    if not is_ours(environment_id):
        task_of(environment_id)  # which has better words for an id that nobody knows
        fault = f"{environment_id} is Gymnasium's: trajmill can play it, but not set it to a recorded state"
        raise ValueError(f"{fault}; what needs that knows {', '.join(ENVIRONMENTS)}")
    return ENVIRONMENTS[task_of(environment_id).environment_id]


def _hopper_ends(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    others = np.concatenate((qpos[:, 2:], qvel), axis=1)
    bounded = np.all((others > -100.0) & (others < 100.0), axis=1)
    height, angle = qpos[:, 1], qpos[:, 2]
    healthy: BoolArray = bounded & (height > 0.7) & (angle > -0.2) & (angle < 0.2)
    return ~healthy


def _walker_ends(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    height, angle = qpos[:, 1], qpos[:, 2]
    healthy: BoolArray = (height > 0.8) & (height < 2.0) & (angle > -1.0) & (angle < 1.0)
    return ~healthy


def _ant_ends(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    height = qpos[:, 2]
    healthy: BoolArray = _finite(qpos, qvel) & (height >= 0.2) & (height <= 1.0)
    return ~healthy


def _pendulum_ends(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    upright: BoolArray = _finite(qpos, qvel) & (np.abs(qpos[:, 1]) <= 0.2)
    return ~upright


def _finite(qpos: Float64Array, qvel: Float64Array) -> BoolArray:
    finite: BoolArray = np.all(np.isfinite(np.concatenate((qpos, qvel), axis=1)), axis=1)
    return finite


def _facts(name: str) -> dict[str, Any]:
    """What `TASKS` says of a task."""
    return {field.name: getattr(TASKS[name], field.name) for field in fields(Task)}


_DEFINITIONS = (
    EnvironmentDefinition(
        **_facts("hopper"),
        frame_skip=4,
        shown_positions=5,
        velocity_limit=10.0,
        reset_scale=5e-3,
        reset_velocity="uniform",
        margin_fix=True,
        control_cost=1e-3,
        is_terminal=_hopper_ends,
    ),
    EnvironmentDefinition(
        **_facts("halfcheetah"),
        frame_skip=5,
        shown_positions=8,
        reset_scale=0.1,
        reset_velocity="normal",
        survival_reward=0.0,
        control_cost=0.1,
    ),
    EnvironmentDefinition(
        **_facts("walker2d"),
        frame_skip=4,
        shown_positions=8,
        velocity_limit=10.0,
        reset_scale=5e-3,
        reset_velocity="uniform",
        control_cost=1e-3,
        is_terminal=_walker_ends,
    ),
    EnvironmentDefinition(
        **_facts("ant"),
        frame_skip=5,
        hidden_positions=2,
        shown_positions=13,  # and no contact forces: the 84 of D4RL's files are zero
        progress_body="torso",
        reset_scale=0.1,
        reset_velocity="normal",
        margin_fix=True,
        control_cost=0.5,
        is_terminal=_ant_ends,
    ),
    EnvironmentDefinition(
        **_facts("invertedpendulum"),
        frame_skip=2,
        hidden_positions=0,
        shown_positions=2,
        reset_scale=0.01,
        reset_velocity="uniform",
        control_cost=None,
        is_terminal=_pendulum_ends,
    ),
)
ENVIRONMENTS = {definition.environment_id: definition for definition in _DEFINITIONS}
