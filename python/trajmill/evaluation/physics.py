"""Stepping many MuJoCo simulations of one model: states in, states out, equal to one `mj_step` after another.

Environment steps/s of Hopper and HalfCheetah, measured with MuJoCo 4.0 on an AMD EPYC with two cores:

====================================  ==================  ==================
64 slots                              one thread          two threads
====================================  ==================  ==================
`mujoco.batch` (`BatchPhysics`)       15.7 k and 37.4 k   31.0 k and 75.8 k
`mujoco.rollout`, a call a step       16.0 k and 38.4 k   28.5 k and 61.8 k
`mj_step` per slot (`LoopPhysics`)    15.0 k and 36.2 k   28.3 k and 55.1 k
====================================  ==================  ==================

With eight slots on two threads `mujoco.batch` makes 29.3 k and 69.4 k, `mujoco.rollout` 22.7 k and 40.9 k. It also
carries the solver's warm start, which `mujoco.rollout` neither keeps nor returns; without it HalfCheetah's states
differ by 1.5 after a hundred steps.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
IndexArray = NDArray[np.int64]


class Physics(Protocol):
    """`count` simulations; `qpos` (count, nq), `qvel` (count, nv) and `body_x` (count,) always show the present."""

    qpos: Float64Array
    qvel: Float64Array
    body_x: Float64Array
    """x coordinate of the watched body as MuJoCo last computed it, in m: one stage behind `qpos` after a step"""

    def start(self, slots: IndexArray, qpos: Float64Array, qvel: Float64Array) -> None:
        """Put B slots at rest positions (B, nq) and velocities (B, nv), with time and warm start zero."""

    def step(self, slots: IndexArray, controls: Float64Array, physics_steps: int) -> None:
        """Take `physics_steps` steps in the B slots under controls (B, nu); leave the other slots alone."""


def make_physics(mujoco: Any, model: Any, count: int, *, watched_body: int, threads: int) -> Physics:
    """The fastest that the installed MuJoCo has; results are equal."""
    try:
        from mujoco.batch import Batch
    except ImportError:  # MuJoCo before 3.17
        return LoopPhysics(mujoco, model, count, watched_body=watched_body)
    return BatchPhysics(mujoco, Batch(model, count, threads), watched_body=watched_body)


class BatchPhysics:
    """MuJoCo's own batch (3.17 and later): compiled threads, equal to `mj_step` bit for bit whatever their number."""

    def __init__(self, mujoco: Any, batch: Any, *, watched_body: int) -> None:
        self._batch = batch
        self._no_stage = mujoco.mjtStage.mjSTAGE_NONE
        self._controls = batch.bind("ctrl")
        self.qpos = batch.bind("qpos")
        self.qvel = batch.bind("qvel")
        self.body_x = batch.bind("xpos")[:, watched_body, 0]

    def start(self, slots: IndexArray, qpos: Float64Array, qvel: Float64Array) -> None:
        """See `Physics`."""
        self._batch.reset(slots, stage=self._no_stage)
        self.qpos[slots], self.qvel[slots] = qpos, qvel
        self._batch.forward(slots)  # as Gymnasium does, should a MuJoCo leave a warm start by it

    def step(self, slots: IndexArray, controls: Float64Array, physics_steps: int) -> None:
        """See `Physics`."""
        self._controls[slots] = controls
        self._batch.step(slots, nstep=physics_steps)


class LoopPhysics:
    """One `MjData` per slot and one `mj_step` after another, for MuJoCo before 3.17; about 0.5 MB a slot."""

    def __init__(self, mujoco: Any, model: Any, count: int, *, watched_body: int) -> None:
        self._mujoco, self._model = mujoco, model
        self._data = [mujoco.MjData(model) for _ in range(count)]
        # Views, bound once: looking them up is slow.
        self._views = [(data.ctrl, data.qpos, data.qvel, data.xpos[watched_body]) for data in self._data]
        self.qpos = np.stack([data.qpos for data in self._data])
        self.qvel = np.stack([data.qvel for data in self._data])
        self.body_x = np.zeros(count)

    def start(self, slots: IndexArray, qpos: Float64Array, qvel: Float64Array) -> None:
        """See `Physics`."""
        for slot, position, velocity in zip(slots.tolist(), qpos, qvel, strict=True):
            self._mujoco.mj_resetData(self._model, self._data[slot])
            self._views[slot][1][:] = position
            self._views[slot][2][:] = velocity
            self._mujoco.mj_forward(self._model, self._data[slot])
            self._read(slot)

    def step(self, slots: IndexArray, controls: Float64Array, physics_steps: int) -> None:
        """See `Physics`."""
        for slot, control in zip(slots.tolist(), controls, strict=True):
            self._views[slot][0][:] = control
            self._mujoco.mj_step(self._model, self._data[slot], physics_steps)
            self._read(slot)

    def _read(self, slot: int) -> None:
        _, position, velocity, body = self._views[slot]
        self.qpos[slot], self.qvel[slot], self.body_x[slot] = position, velocity, body[0]
