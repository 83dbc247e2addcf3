"""Stepping environments: Gymnasium's own, and many at once on bare MuJoCo, with equal results to the last bit.

MuJoCo 3.5 changed contact margins: a contact now opens at the sum of two geometries' margins, where every earlier
version took the larger. Hopper's and Ant's dynamics changed with it (40 % of a medium Hopper's steps come out wrong by
more than 1e-3). Both simulators here halve the margins where needed, which restores the earlier dynamics.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Protocol, Self

import numpy as np

from trajmill.evaluation.environments import (
    ActionArray,
    BoolArray,
    EnvironmentDefinition,
    Float64Array,
    environment_definition,
)
from trajmill.evaluation.physics import IndexArray, make_physics


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one environment step led to in each of B slots."""

    observation: Float64Array  # (B, O)
    reward: Float64Array  # (B,)
    terminal: BoolArray  # (B,)


class Simulator(Protocol):
    """Copies of one environment, each in a slot of its own."""

    definition: EnvironmentDefinition
    margin_fix: bool

    def reset(self, seeds: Sequence[int]) -> Float64Array:
        """Start slot i as Gymnasium's ``reset(seed=seeds[i])`` does; observations (B, O) of B seeds."""

    def step(self, actions: ActionArray, slots: IndexArray | None = None) -> StepResult:
        """Step the B named slots (None: all) by `actions` (B, A), clipped to the limits; leave the others alone."""

    def close(self) -> None:
        """Release threads and windows."""


def make_gymnasium(environment_id: str, *, margin_fix: bool | None = None) -> Any:
    """Make Gymnasium's environment as D4RL's data needs it: margins repaired, actions clipped to its limits.

    Parameters
    ----------
    environment_id
        Such as ``"Hopper-v4"``.
    margin_fix
        Whether to halve the contact margins; None does so where `needs_margin_fix` says.

    Returns
    -------
    gymnasium.Env
        With Gymnasium's own time limit, without its checker. Nothing is printed and no log file is written.

    Raises
    ------
    ImportError
        If Gymnasium or MuJoCo is absent.
    ValueError
        If the environment is unknown.
    """
    definition = environment_definition(environment_id)
    gymnasium, mujoco = _import_simulators()
    with warnings.catch_warnings(), _quiet_model_compiler(mujoco):
        # Gymnasium calls -v4 out of date; it is the one that continues the -v2 of D4RL's data.
        warnings.simplefilter("ignore", DeprecationWarning)
        environment = gymnasium.make(definition.environment_id, disable_env_checker=True)
    if needs_margin_fix(definition) if margin_fix is None else margin_fix:
        environment.unwrapped.model.geom_margin[:] *= 0.5
    return gymnasium.wrappers.ClipAction(environment)


def needs_margin_fix(definition: EnvironmentDefinition) -> bool:
    """Whether the installed MuJoCo (3.5 or later) adds the contact margins that `definition`'s model has."""
    major, minor = metadata.version("mujoco").split(".")[:2]
    return definition.margin_fix and (int(major), int(minor)) >= (3, 5)


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def simulator_versions() -> dict[str, str]:
    """Versions of what decides a rollout's numbers, for the record."""
    return {name: metadata.version(name) for name in ("gymnasium", "mujoco", "numpy")}


def _import_simulators() -> tuple[Any, Any]:
    """Import Gymnasium and MuJoCo, which only evaluation needs."""
    try:
        import gymnasium
        import mujoco

        import_module("gymnasium.envs.mujoco.mujoco_rendering")  # needs what the extra gymnasium[mujoco] brings
    except ImportError as error:
        fault = "evaluation needs Gymnasium and MuJoCo; install them with: pip install 'trajmill[train]'"
        raise ImportError(fault) from error
    return gymnasium, mujoco


@contextmanager
def _quiet_model_compiler(mujoco: Any) -> Iterator[None]:
    """Drop MuJoCo's remark on HalfCheetah's model file, which else goes to the terminal and into MUJOCO_LOG.TXT."""
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)


class BatchedEnvironment:
    """Many copies of one environment on bare MuJoCo, equal to Gymnasium's to the last bit and several times as fast.

    The solver's warm start is carried from step to step in every slot exactly as Gymnasium carries it, so observations,
    rewards and terminations of whole episodes do not depend on the number of slots, on which of them are stepped, or on
    the number of threads. How fast the ways to step MuJoCo are is said in `trajmill.evaluation.physics`.

    Parameters
    ----------
    environment_id
        Such as ``"Hopper-v4"``.
    count
        Number of slots, >= 1.
    threads
        Threads to step on, >= 1; None means every core this process may use. Results do not depend on it. MuJoCo before
        3.17 steps on one.
    margin_fix
        As in `make_gymnasium`.

    Raises
    ------
    ValueError
        If a number is out of range or the environment unknown.
    ImportError
        If Gymnasium (for its model files) or MuJoCo is absent.
    """

    def __init__(
        self, environment_id: str, count: int, *, threads: int | None = None, margin_fix: bool | None = None
    ) -> None:
        threads = min(usable_cores(), count) if threads is None else threads
        if count < 1 or threads < 1:
            raise ValueError(f"count and threads must be >= 1, got count={count}, threads={threads}")
        self.definition = environment_definition(environment_id)
        self.margin_fix = needs_margin_fix(self.definition) if margin_fix is None else margin_fix
        self.count = count
        environment = make_gymnasium(environment_id, margin_fix=self.margin_fix)
        mujoco, model = _import_simulators()[1], environment.unwrapped.model
        self._initial = environment.unwrapped.init_qpos, environment.unwrapped.init_qvel
        environment.close()
        body = self.definition.progress_body
        watched_body = model.body(body).id if body is not None else 0
        self._physics = make_physics(mujoco, model, count, watched_body=watched_body, threads=threads)
        self._progress = self._physics.qpos[:, 0] if body is None else self._physics.body_x
        self._seconds_per_step = model.opt.timestep * self.definition.frame_skip

    def reset(self, seeds: Sequence[int]) -> Float64Array:
        """Start the first B slots anew, slot i as Gymnasium's ``reset(seed=seeds[i])`` does.

        Returns
        -------
        NDArray[np.float64]
            Observations (B, O).
        """
        if not 1 <= len(seeds) <= self.count:
            raise ValueError(f"seeds must have 1 to {self.count} entries, at most one per slot, got {len(seeds)}")
        initial_qpos, initial_qvel = self._initial
        noise = [self.definition.initial_noise(int(seed), len(initial_qpos), len(initial_qvel)) for seed in seeds]
        qpos = np.stack([initial_qpos + position for position, _ in noise])
        qvel = np.stack([initial_qvel + velocity for _, velocity in noise])
        self.set_state(qpos, qvel)
        return self.definition.observe(qpos, qvel)

    def set_state(self, qpos: Float64Array, qvel: Float64Array) -> None:
        """Put the first B slots at positions (B, nq) and velocities (B, nv), with time and warm start zero."""
        self._physics.start(np.arange(len(qpos)), qpos, qvel)

    def state(self, slots: IndexArray) -> tuple[Float64Array, Float64Array]:
        """Copies of the positions (B, nq) and velocities (B, nv) of the B named slots."""
        return self._physics.qpos[slots], self._physics.qvel[slots]

    def step(self, actions: ActionArray, slots: IndexArray | None = None) -> StepResult:
        """Step the B named slots; leave the others alone.

        Parameters
        ----------
        actions
            (B, A), finite; clipped to the environment's limits, [-1, 1] in D4RL's.
        slots
            Ascending slot numbers (B,); None means all.
        """
        definition = self.definition
        slots = np.arange(self.count) if slots is None else slots
        actions = np.clip(np.asarray(actions, np.float32), -definition.action_limit, definition.action_limit)
        if actions.shape != (len(slots), definition.action_dim):
            raise ValueError(f"actions must have shape {(len(slots), definition.action_dim)}, got {actions.shape}")
        x_before = self._progress[slots]
        self._physics.step(slots, actions.astype(np.float64), definition.frame_skip)
        qpos, qvel = self.state(slots)
        forward_velocity = (self._progress[slots] - x_before) / self._seconds_per_step
        return StepResult(
            observation=definition.observe(qpos, qvel),
            reward=definition.reward(forward_velocity, actions),
            terminal=definition.is_terminal(qpos, qvel),
        )

    def close(self) -> None:
        """Nothing to do: the simulations go with the object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


class GymnasiumEnvironments:
    """`count` Gymnasium environments stepped one after another: the slow, plain twin of `BatchedEnvironment`."""

    def __init__(self, environment_id: str, count: int, *, margin_fix: bool | None = None) -> None:
        self.definition = environment_definition(environment_id)
        self.margin_fix = needs_margin_fix(self.definition) if margin_fix is None else margin_fix
        self._environments = [make_gymnasium(environment_id, margin_fix=self.margin_fix) for _ in range(count)]

    def reset(self, seeds: Sequence[int]) -> Float64Array:
        """Start slot i with ``reset(seed=seeds[i])``; observations (count, O)."""
        pairs = zip(self._environments, seeds, strict=True)
        return np.stack([environment.reset(seed=int(seed))[0] for environment, seed in pairs])

    def step(self, actions: ActionArray, slots: IndexArray | None = None) -> StepResult:
        """Step the B named slots (None: all) by `actions` (B, A); Gymnasium's own time limit is ignored."""
        slots = np.arange(len(self._environments)) if slots is None else slots
        actions = np.asarray(actions, np.float32)
        steps = [self._environments[slot].step(action) for slot, action in zip(slots, actions, strict=True)]
        return StepResult(
            observation=np.array([step[0] for step in steps], np.float64).reshape(-1, self.definition.observation_dim),
            reward=np.array([step[1] for step in steps], np.float64),
            terminal=np.array([step[2] for step in steps], np.bool_),
        )

    def close(self) -> None:
        """Close every environment."""
        for environment in self._environments:
            environment.close()
