"""Stepping environments: Gymnasium's own, and many at once on bare MuJoCo, with equal results to the last bit.

MuJoCo 3.5 changed contact margins: a contact now opens at the sum of two geometries' margins, where every earlier
version took the larger. Hopper's and Ant's dynamics changed with it (40 % of a medium Hopper's steps come out wrong by
more than 1e-3). Both simulators here halve the margins where needed, which restores the earlier dynamics.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from trajmill.evaluation.environments import (
    ActionArray,
    BoolArray,
    EnvironmentDefinition,
    Float64Array,
    environment_definition,
)

IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one environment step led to in each of B slots."""

    observation: Float64Array  # (B, O)
    reward: Float64Array  # (B,)
    terminal: BoolArray  # (B,)


class Simulator(Protocol):
    """`count` copies of one environment, each in a slot of its own."""

    definition: EnvironmentDefinition
    margin_fix: bool

    def reset(self, seeds: Sequence[int]) -> Float64Array:
        """Start slot i as Gymnasium's ``reset(seed=seeds[i])`` does; observations (count, O)."""

    def step(self, actions: ActionArray, slots: IndexArray | None = None) -> StepResult:
        """Step the B named slots (None: all) by `actions` (B, A), clipped to [-1, 1]; leave the others alone."""

    def close(self) -> None:
        """Release threads and windows."""


def make_gymnasium(environment_id: str, *, margin_fix: bool | None = None) -> Any:
    """Make Gymnasium's environment as D4RL's data needs it: margins repaired, actions clipped to [-1, 1].

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
        environment = gymnasium.make(environment_id, disable_env_checker=True)
    if needs_margin_fix(definition) if margin_fix is None else margin_fix:
        environment.unwrapped.model.geom_margin[:] *= 0.5
    return gymnasium.wrappers.ClipAction(environment)


def needs_margin_fix(definition: EnvironmentDefinition) -> bool:
    """Whether the installed MuJoCo (3.5 or later) adds the contact margins that `definition`'s model has."""
    major, minor = metadata.version("mujoco").split(".")[:2]
    return definition.margin_fix and (int(major), int(minor)) >= (3, 5)


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
    """Many copies of one environment on bare MuJoCo, half as fast again as Gymnasium and equal to it bit for bit.

    Each slot has a simulation of its own (an `MjData`), so the solver's warm start is carried from step to step exactly
    as Gymnasium carries it, whatever the number of slots, which of them are stepped, and the number of threads:
    observations, rewards and terminations of whole episodes are equal to the last bit.

    Steps/s with 64 slots on one thread of an AMD EPYC (MuJoCo 4.0): Hopper 15.3 k, HalfCheetah 35.5 k; Gymnasium 9.7 k
    and 24.0 k. `mujoco.rollout` is no faster (15.4 k and 35.5 k) and does not return the warm start, without which
    HalfCheetah's states differ by 1.5 after a hundred steps.

    Parameters
    ----------
    environment_id
        Such as ``"Hopper-v4"``.
    count
        Number of slots, >= 1; about 0.5 MB each.
    threads
        Threads to step on, >= 1. Results do not depend on it. Steps are short: two threads gain at most half on an idle
        machine (Hopper), and nothing on a busy one.
    margin_fix
        As in `make_gymnasium`.

    Raises
    ------
    ValueError
        If a number is out of range or the environment unknown.
    ImportError
        If Gymnasium (for its model files) or MuJoCo is absent.
    """

    def __init__(self, environment_id: str, count: int, *, threads: int = 1, margin_fix: bool | None = None) -> None:
        if count < 1 or threads < 1:
            raise ValueError(f"count and threads must be >= 1, got count={count}, threads={threads}")
        self.definition = environment_definition(environment_id)
        self.margin_fix = needs_margin_fix(self.definition) if margin_fix is None else margin_fix
        environment = make_gymnasium(environment_id, margin_fix=self.margin_fix)
        self._mujoco = _import_simulators()[1]
        self._model = environment.unwrapped.model
        environment.close()
        self._data = [self._mujoco.MjData(self._model) for _ in range(count)]
        self._controls = [data.ctrl for data in self._data]  # views, bound once: looking them up is slow
        self._positions = [data.qpos for data in self._data]
        self._velocities = [data.qvel for data in self._data]
        self._initial = self._positions[0].copy(), self._velocities[0].copy()
        self._qpos = np.stack(self._positions)
        self._qvel = np.stack(self._velocities)
        self._seconds_per_step = self._model.opt.timestep * self.definition.frame_skip
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def count(self) -> int:
        """Number of slots."""
        return len(self._data)

    def reset(self, seeds: Sequence[int]) -> Float64Array:
        """Start every slot anew, slot i as Gymnasium's ``reset(seed=seeds[i])`` does.

        Returns
        -------
        NDArray[np.float64]
            Observations (count, O).
        """
        if len(seeds) != self.count:
            raise ValueError(f"seeds must have one entry per slot ({self.count}), got {len(seeds)}")
        nq, nv = self._model.nq, self._model.nv
        noise = [self.definition.initial_noise(int(seed), nq, nv) for seed in seeds]
        qpos = np.stack([self._initial[0] + position for position, _ in noise])
        qvel = np.stack([self._initial[1] + velocity for _, velocity in noise])
        self.set_state(qpos, qvel)
        for data in self._data:
            self._mujoco.mj_forward(self._model, data)  # as Gymnasium does, should a MuJoCo leave a warm start by it
        return self.definition.observe(qpos, qvel)

    def set_state(self, qpos: Float64Array, qvel: Float64Array) -> None:
        """Put the first B slots at positions (B, nq) and velocities (B, nv), with time and warm start zero."""
        for slot in range(len(qpos)):
            self._mujoco.mj_resetData(self._model, self._data[slot])
            self._positions[slot][:] = qpos[slot]
            self._velocities[slot][:] = qvel[slot]
        self._qpos[: len(qpos)] = qpos
        self._qvel[: len(qvel)] = qvel

    def step(self, actions: ActionArray, slots: IndexArray | None = None) -> StepResult:
        """Step the B named slots; leave the others alone.

        Parameters
        ----------
        actions
            (B, A), finite; clipped to [-1, 1], as D4RL's environments do.
        slots
            Distinct slot numbers (B,); None means all.
        """
        slots = np.arange(self.count) if slots is None else slots
        actions = np.clip(np.asarray(actions, np.float32), -1.0, 1.0)
        if actions.shape != (len(slots), self.definition.action_dim):
            needed = (len(slots), self.definition.action_dim)
            raise ValueError(f"actions must have shape {needed}, got {actions.shape}")
        x_before = self._qpos[slots, 0]
        self._simulate(slots, actions)
        qpos, qvel = self._qpos[slots], self._qvel[slots]
        forward_velocity = (qpos[:, 0] - x_before) / self._seconds_per_step
        return StepResult(
            observation=self.definition.observe(qpos, qvel),
            reward=self.definition.reward(forward_velocity, actions),
            terminal=self.definition.is_terminal(qpos, qvel),
        )

    def _simulate(self, slots: IndexArray, actions: ActionArray) -> None:
        """Run the physics of `slots`, on all threads, and read the states back."""
        if self._pool is None:
            self._simulate_part(slots, actions)
            return
        parts = zip(np.array_split(slots, self._threads), np.array_split(actions, self._threads), strict=True)
        for future in [self._pool.submit(self._simulate_part, *part) for part in parts]:
            future.result()

    def _simulate_part(self, slots: IndexArray, actions: ActionArray) -> None:
        mj_step, model, frame_skip = self._mujoco.mj_step, self._model, self.definition.frame_skip
        for slot, action in zip(slots.tolist(), actions, strict=True):
            self._controls[slot][:] = action
            mj_step(model, self._data[slot], frame_skip)  # gives up the interpreter lock
            self._qpos[slot] = self._positions[slot]
            self._qvel[slot] = self._velocities[slot]

    def close(self) -> None:
        """Stop the threads; the environment cannot be stepped afterwards."""
        if self._pool is not None:
            self._pool.shutdown()

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
            observation=np.stack([step[0] for step in steps]),
            reward=np.array([step[1] for step in steps], np.float64),
            terminal=np.array([step[2] for step in steps], np.bool_),
        )

    def close(self) -> None:
        """Close every environment."""
        for environment in self._environments:
            environment.close()
