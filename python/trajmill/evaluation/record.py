"""Recording what policies do, step by step, as the columns of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.data.actions import bounds_of
from trajmill.evaluation.environments import Float64Array, IndexArray
from trajmill.evaluation.rollout import Policy, play
from trajmill.evaluation.simulators import BatchedEnvironment, Simulator


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Whole episodes one after another, a row a step; N rows, E episodes."""

    observations: NDArray[np.float32]  # (N, O)
    actions: NDArray[np.float32]  # (N, A), clipped to the environment's limits
    rewards: NDArray[np.float32]  # (N,)
    next_observations: NDArray[np.float32]  # (N, O)
    terminals: NDArray[np.bool_]  # (N,) the task ended
    timeouts: NDArray[np.bool_]  # (N,) the limit cut the episode; such a row is never terminal, as in D4RL
    qpos: NDArray[np.float32]  # (N, nq) before the step; of an environment that is not ours (N, 0)
    qvel: NDArray[np.float32]  # (N, nv) before the step; of an environment that is not ours (N, 0)
    lengths: NDArray[np.int64]  # (E,)
    returns: NDArray[np.float64]  # (E,) undiscounted


def record_episodes(
    act: Policy, environment: Simulator, seeds: Sequence[int], *, maximum_steps: int | None = None
) -> Recording:
    """Play one episode from each reset seed with one policy (S = 1), all at once, and keep every step.

    Episodes are cut after `maximum_steps`, None: the environment's own limit. The first E slots of the environment are
    left where the episodes end. ValueError if the policy gives an action that is not finite, or there are more seeds
    than slots.
    """
    low, high = bounds_of(environment.definition.action_limit)
    limit = environment.definition.episode_limit if maximum_steps is None else maximum_steps
    environment.reset(seeds)  # `play` does it again; here it shows the states of the first step
    qpos, qvel = _states(environment, np.arange(len(seeds)))
    lengths, returns = np.zeros(len(seeds), np.int64), np.zeros(len(seeds))
    rows: list[tuple[NDArray[Any], ...]] = []
    for step in play(act, environment, seeds, 1, limit):
        if len(step.failed_seeds):
            raise ValueError(f"the policy gave an action with NaN or infinity in step {len(rows)}")
        slots, result = step.slots, step.result
        actions = np.clip(step.action, low, high)
        state = qpos[slots], qvel[slots]
        ends = result.terminal, result.truncated
        rows.append((slots, step.observation, actions, result.reward, result.observation, *ends, *state))
        qpos[slots], qvel[slots] = _states(environment, slots)
        lengths[slots] += 1
        returns[slots] += result.reward
    slots, *columns = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.argsort(slots, kind="stable")  # steps of an episode stay in their order
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts", "qpos", "qvel")
    recorded: dict[str, Any] = {
        name: column[order].astype(np.bool_ if column.dtype == np.bool_ else np.float32)
        for name, column in zip(names, columns, strict=True)
    }
    recorded["timeouts"][np.cumsum(lengths) - 1] |= lengths == limit
    recorded["terminals"] &= ~recorded["timeouts"]
    return Recording(**recorded, lengths=lengths, returns=returns)


def _states(environment: Simulator, slots: IndexArray) -> tuple[Float64Array, Float64Array]:
    """Qpos and qvel of slots, of no numbers where they are not known."""
    if isinstance(environment, BatchedEnvironment):
        return environment.state(slots)
    return np.zeros((len(slots), 0)), np.zeros((len(slots), 0))
