"""Stepping environments: Gymnasium's own, and many at once on bare MuJoCo, with equal results to the last bit.

MuJoCo 3.5 changed contact margins: a contact now opens at the sum of two geometries' margins, where every earlier
version took the larger. Hopper's and Ant's dynamics changed with it (40 % of a medium Hopper's steps come out wrong by
more than 1e-3). Both simulators here halve these margins, which restores the earlier dynamics.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Self

import numpy as np

from trajmill.core import checks
from trajmill.core.limits import usable_cores
from trajmill.data.records import BoolArray
from trajmill.evaluation.environments import ActionArray, Float64Array, IndexArray, environment_definition


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The result of one environment step in each of B slots."""

    observation: Float64Array  # (B, O)
    reward: Float64Array  # (B,)
    terminal: BoolArray  # (B,)


def make_gymnasium(environment_id: str, *, margin_fix: bool | None = None) -> Any:
    """Make Gymnasium's environment as D4RL's data needs it: margins repaired, actions clipped to its limits.

    `margin_fix` says whether to halve the contact margins; None takes it from the `EnvironmentDefinition`. The
    environment has Gymnasium's own time limit, but not its checker; nothing is printed or logged.
    ValueError if the environment is unknown; ImportError if Gymnasium or MuJoCo 3.17 or later is absent.
    """
    definition = environment_definition(environment_id)
    gymnasium = _import_simulators()[0]
    with warnings.catch_warnings(), without_warnings():
        # Gymnasium calls -v4 out of date, but it continues the -v2 of D4RL's data.
        warnings.simplefilter("ignore", DeprecationWarning)
        environment = gymnasium.make(definition.environment_id, disable_env_checker=True)
    if definition.margin_fix if margin_fix is None else margin_fix:
        environment.unwrapped.model.geom_margin[:] *= 0.5
    return gymnasium.wrappers.ClipAction(environment)


def simulator_versions() -> dict[str, str]:
    """Versions of the packages that determine a rollout's numbers."""
    return {name: metadata.version(name) for name in ("gymnasium", "mujoco", "numpy")}


def _import_simulators() -> tuple[Any, Any]:
    """Import Gymnasium and MuJoCo, which only the simulators need."""
    try:
        import gymnasium
        import mujoco.batch

        import_module("gymnasium.envs.mujoco.mujoco_rendering")  # needs what the extra gymnasium[mujoco] brings
    except ImportError as error:
        fault = "evaluation needs Gymnasium and MuJoCo 3.17 or later; install them with: pip install 'trajmill[train]'"
        raise ImportError(fault) from error
    return gymnasium, mujoco


@contextmanager
def without_warnings() -> Iterator[None]:
    """Drop MuJoCo's warnings, which otherwise go to stderr and into MUJOCO_LOG.TXT.

    There is one about HalfCheetah's model file, and one for each state that it cannot step and resets.
    """
    mujoco = _import_simulators()[1]
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)


class BatchedEnvironment:
    """Many copies of one environment, each in a slot; equal to Gymnasium's to the last bit and several times as fast.

    MuJoCo's own batch steps them and carries the contact solver's warm start in every slot as Gymnasium carries it. So
    whole episodes do not depend on the number of slots, on which of them are stepped, or on the number of threads.

    `count` slots, >= 1, are stepped on `threads` threads, >= 1 (None: every core); `margin_fix` and errors are those of
    `make_gymnasium`, and ValueError if a number is out of range.
    """

    def __init__(
        self, environment_id: str, count: int, *, threads: int | None = None, margin_fix: bool | None = None
    ) -> None:
        self.count = checks.integer("count", count, 1)
        threads = min(usable_cores(), count) if threads is None else checks.integer("threads", threads, 1)
        self.definition = environment_definition(environment_id)
        self.margin_fix = self.definition.margin_fix if margin_fix is None else margin_fix
        environment = make_gymnasium(environment_id, margin_fix=self.margin_fix)
        mujoco, model = _import_simulators()[1], environment.unwrapped.model
        self._initial = environment.unwrapped.init_qpos, environment.unwrapped.init_qvel
        environment.close()
        self._seconds_per_step = model.opt.timestep * self.definition.frame_skip
        self._no_stage = mujoco.mjtStage.mjSTAGE_NONE
        self._batch = mujoco.batch.Batch(model, count, threads)
        # Views of the present: (count, nq), (count, nv), (count, nu). Bodies are one stage behind `qpos` after a step.
        self._qpos, self._qvel, self._controls = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._warm_start = self._batch.bind("qacc_warmstart")
        body = self.definition.progress_body
        self._progress = self._qpos[:, 0] if body is None else self._batch.bind("xpos")[:, model.body(body).id, 0]
        self._x = np.zeros(self.count)  # the progress before the next step

    def reset(self, seeds: Sequence[int], slots: IndexArray | None = None) -> Float64Array:
        """Reset B slots (None: the first ones), slot i as Gymnasium's ``reset(seed=seeds[i])``; observations (B, O)."""
        if not 1 <= len(seeds) <= self.count:
            raise ValueError(f"seeds must have 1 to {self.count} entries, at most one per slot, got {len(seeds)}")
        initial_qpos, initial_qvel = self._initial
        noise = [self.definition.initial_noise(int(seed), len(initial_qpos), len(initial_qvel)) for seed in seeds]
        positions, velocities = zip(*noise, strict=True)
        qpos, qvel = initial_qpos + np.stack(positions), initial_qvel + np.stack(velocities)
        self.set_state(qpos, qvel, slots)
        return self.definition.observe(qpos, qvel)

    def set_state(self, qpos: Float64Array, qvel: Float64Array, slots: IndexArray | None = None) -> None:
        """Put B slots (None: the first ones) at qpos (B, nq) and qvel (B, nv), with time and warm start zero."""
        slots = np.arange(len(qpos)) if slots is None else slots
        self._batch.reset(slots, stage=self._no_stage)
        self._qpos[slots], self._qvel[slots] = qpos, qvel
        self._batch.forward(slots)  # as Gymnasium does, should a MuJoCo leave a warm start by it
        self._x[slots] = self._progress[slots]

    def snapshot(self) -> Float64Array:
        """All that the next steps of the slots depend on, (count, K): `resume` goes on from it to the last bit."""
        return np.concatenate((self._qpos, self._qvel, self._warm_start, self._x[:, None]), axis=1)

    def resume(self, snapshot: Float64Array) -> None:
        """Put every slot where it was when `snapshot` was taken."""
        sizes = self._qpos.shape[1], self._qvel.shape[1], self._warm_start.shape[1]
        qpos, qvel, warm_start, x = np.split(snapshot, np.cumsum(sizes), axis=1)
        self._batch.reset(np.arange(self.count), stage=self._no_stage)
        self._qpos[:], self._qvel[:], self._warm_start[:], self._x[:] = qpos, qvel, warm_start, x[:, 0]

    def state(self, slots: IndexArray) -> tuple[Float64Array, Float64Array]:
        """Copies of the positions (B, nq) and velocities (B, nv) of the B named slots."""
        return self._qpos[slots], self._qvel[slots]

    def step(self, actions: ActionArray, slots: IndexArray | None = None) -> StepResult:
        """Step the B slots of these ascending numbers (B,), None: all; leave the others alone.

        Actions (B, A) are finite, and clipped to the environment's limits: [-1, 1] in D4RL's.
        """
        definition = self.definition
        slots = np.arange(self.count) if slots is None else slots
        actions = np.clip(np.asarray(actions, np.float32), -definition.action_limit, definition.action_limit)
        if actions.shape != (len(slots), definition.action_dim):
            raise ValueError(f"actions must have shape {(len(slots), definition.action_dim)}, got {actions.shape}")
        self._controls[slots] = actions
        self._batch.step(slots, nstep=definition.frame_skip)
        qpos, qvel = self.state(slots)
        progress = self._progress[slots]
        forward_velocity = (progress - self._x[slots]) / self._seconds_per_step
        self._x[slots] = progress
        return StepResult(
            observation=definition.observe(qpos, qvel),
            reward=definition.reward(forward_velocity, actions),
            terminal=definition.is_terminal(qpos, qvel),
        )

    def close(self) -> None:
        """Do nothing: the simulations are freed with the object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        pass


class GymnasiumEnvironments:
    """`count` Gymnasium environments stepped one after another: the slow, plain twin of `BatchedEnvironment`."""

    def __init__(self, environment_id: str, count: int) -> None:
        self.definition = environment_definition(environment_id)
        self.margin_fix = self.definition.margin_fix
        self._environments = [make_gymnasium(environment_id) for _ in range(count)]

    def reset(self, seeds: Sequence[int]) -> Float64Array:
        """Reset slot i with ``reset(seed=seeds[i])``; observations (count, O)."""
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


Simulator = BatchedEnvironment | GymnasiumEnvironments
