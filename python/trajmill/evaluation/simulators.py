"""Stepping environments: Gymnasium's, and ours many at once on bare MuJoCo, with equal results to the last bit.

`open_environments` chooses: the five of `trajmill.evaluation.environments` are batches, every other one is Gymnasium's.

MuJoCo 3.5 changed contact margins: a contact now opens at the sum of two geometries' margins, where every earlier
version took the larger. Hopper's and Ant's dynamics changed with it (40 % of a medium Hopper's steps come out wrong by
more than 1e-3). Both simulators here halve these margins, which restores the earlier dynamics.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Self

import numpy as np

from trajmill.core import checks
from trajmill.core.limits import usable_cores
from trajmill.data.actions import bounds_of
from trajmill.data.environments import is_ours, task_of
from trajmill.data.records import BoolArray
from trajmill.data.registry import make_registered, without_warnings
from trajmill.evaluation.environments import ActionArray, Float64Array, IndexArray, environment_definition


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The result of one environment step in each of B slots."""

    observation: Float64Array  # (B, O)
    reward: Float64Array  # (B,)
    terminal: BoolArray  # (B,) the task ended
    truncated: BoolArray  # (B,) the environment cut the episode; those of ours leave that to who plays


def make_gymnasium(environment_id: str, *, margin_fix: bool | None = None) -> Any:
    """Make one of our environments by Gymnasium, as D4RL's data needs it: margins repaired, actions clipped.

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
    """Versions of the packages that determine a rollout's numbers in our environments."""
    return {name: metadata.version(name) for name in ("gymnasium", "mujoco", "numpy")}


def versions_of(environment_id: str) -> dict[str, str]:
    """`simulator_versions`; for another environment those of Gymnasium, NumPy and the packages that it is made of."""
    if is_ours(environment_id):
        return simulator_versions()
    environment = make_registered(environment_id)
    modules = {kind.__module__.partition(".")[0] for kind in type(environment.unwrapped).__mro__}
    environment.close()
    named = metadata.packages_distributions()
    packages = {"gymnasium", "numpy", *(package for module in modules for package in named.get(module, ()))}
    if hasattr(environment.unwrapped, "model") and "mujoco" in named:
        packages.add("mujoco")
    return {name: metadata.version(name) for name in sorted(packages)}


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
        actions = np.clip(np.asarray(actions, np.float32), *bounds_of(definition.action_limit))
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
            truncated=np.zeros(len(slots), np.bool_),
        )

    def close(self) -> None:
        """Do nothing: the simulations are freed with the object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        pass


class GymnasiumEnvironments:
    """`count` Gymnasium environments stepped one after another, of any id that `trajmill.data.registry` takes.

    For ours it is the slow, plain twin of `BatchedEnvironment`, and Gymnasium's own time limit is ignored.
    Every other one cuts its episodes by itself; each must follow from its reset seed and its actions alone.
    """

    def __init__(self, environment_id: str, count: int) -> None:
        checks.integer("count", count, 1)
        self.count = count
        self.definition = task_of(environment_id)
        self._is_ours = is_ours(environment_id)
        self.margin_fix = self._is_ours and environment_definition(environment_id).margin_fix
        make = make_gymnasium if self._is_ours else make_registered
        self._environments = [make(self.definition.environment_id) for _ in range(count)]
        # What led to the present: (count,), (count,), (count, T, A), (count, O).
        self._seeds, self._lengths = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._actions = np.zeros((count, self.definition.episode_limit, self.definition.action_dim), np.float32)
        self._shown = np.zeros((count, self.definition.observation_dim))

    def reset(self, seeds: Sequence[int], slots: IndexArray | None = None) -> Float64Array:
        """Reset B slots (None: the first ones), slot i with ``reset(seed=seeds[i])``; observations (B, O)."""
        slots = np.arange(len(seeds)) if slots is None else slots
        for slot, seed in zip(slots, seeds, strict=True):
            self._shown[slot] = self._environments[slot].reset(seed=int(seed))[0]
            self._seeds[slot], self._lengths[slot], self._actions[slot] = seed, 0, 0.0
        return self._shown[slots]

    def step(self, actions: ActionArray, slots: IndexArray | None = None) -> StepResult:
        """Step the B named slots (None: all) by `actions` (B, A), clipped to the environment's limits."""
        slots = np.arange(self.count) if slots is None else slots
        actions = np.clip(np.asarray(actions, np.float32), *bounds_of(self.definition.action_limit))
        rewards, flags = np.zeros(len(slots)), np.zeros((2, len(slots)), np.bool_)
        for place, (slot, action) in enumerate(zip(slots, actions, strict=True)):
            rewards[place], *flags[:, place] = self._step(slot, action)
        terminal, truncated = flags
        if self._is_ours:
            truncated[:] = False
        return StepResult(observation=self._shown[slots], reward=rewards, terminal=terminal, truncated=truncated)

    def _step(self, slot: int, action: ActionArray) -> tuple[float, bool, bool]:
        """Step one slot; reward and whether the task ended or was cut."""
        environment = self._environments[slot]
        given = action.astype(environment.action_space.dtype)
        self._shown[slot], reward, terminal, truncated, _ = environment.step(given)
        if (length := self._lengths[slot]) < self._actions.shape[1]:
            self._actions[slot, length] = action
        self._lengths[slot] += 1
        return reward, terminal, truncated

    def snapshot(self) -> Float64Array:
        """What led to the present of each slot, (count, K): seed, length and actions of its episode; what it shows."""
        seeds = np.stack(np.divmod(self._seeds, 2**32), axis=1)  # float64 has no room for all of 63 bits
        parts = (seeds, self._lengths[:, None], self._actions.reshape(self.count, -1), self._shown)
        return np.concatenate(parts, axis=1).astype(np.float64)

    def resume(self, snapshot: Float64Array) -> None:
        """Play every slot's episode again, as far as it was when `snapshot` was taken.

        ValueError if that does not lead to the same observation to the last bit.
        """
        sizes = 2, 1, self._actions[0].size
        seeds, lengths, actions, shown = np.split(snapshot, np.cumsum(sizes), axis=1)
        words = seeds.astype(np.int64)
        self.reset((words[:, 0] * 2**32 + words[:, 1]).tolist())
        for slot, length in enumerate(lengths[:, 0].astype(int)):
            for action in actions[slot].reshape(self._actions[slot].shape)[:length].astype(np.float32):
                self._step(slot, action)
        same = np.all((self._shown == shown) | (np.isnan(self._shown) & np.isnan(shown)), axis=1)
        if not same.all():
            slot = int(np.argmin(same))
            raise ValueError(
                f"{self.definition.environment_id} does not repeat an episode: from the same seed and "
                f"{int(lengths[slot, 0]):,} equal actions it shows other observations than before, so agents cannot go "
                "on in it. Its reset(seed=...) must decide all chance; a run of a new directory can begin from this "
                "one's networks by --init"
            )

    def close(self) -> None:
        """Close every environment."""
        for environment in self._environments:
            environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


Simulator = BatchedEnvironment | GymnasiumEnvironments


def open_environments(environment_id: str, count: int, *, threads: int | None = None, exact: bool = False) -> Simulator:
    """`count` environments that are stepped together; ours on `threads`, unless `exact` asks for Gymnasium's."""
    if exact or not is_ours(environment_id):
        return GymnasiumEnvironments(environment_id, count)
    return BatchedEnvironment(environment_id, count, threads=threads)
