"""Recording what policies do, step by step, as the columns of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.data.environments import EPISODE_LIMIT
from trajmill.evaluation.rollout import Policy, play
from trajmill.evaluation.simulators import BatchedEnvironment


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Whole episodes one after another, a row a step; N rows, E episodes."""

    observations: NDArray[np.float32]  # (N, O)
    actions: NDArray[np.float32]  # (N, A), clipped to the environment's limits
    rewards: NDArray[np.float32]  # (N,)
    next_observations: NDArray[np.float32]  # (N, O)
    terminals: NDArray[np.bool_]  # (N,) the task ended
    timeouts: NDArray[np.bool_]  # (N,) the limit cut the episode; such a row is never terminal, as in D4RL
    qpos: NDArray[np.float32]  # (N, nq) before the step
    qvel: NDArray[np.float32]  # (N, nv) before the step
    lengths: NDArray[np.int64]  # (E,)
    returns: NDArray[np.float64]  # (E,) undiscounted


def record_episodes(
    act: Policy, environment: BatchedEnvironment, seeds: Sequence[int], *, maximum_steps: int = EPISODE_LIMIT
) -> Recording:
    """Play one episode from each reset seed with one policy (S = 1), all at once, and keep every step.

    Episodes are cut after `maximum_steps`. The first E slots of the environment are left where the episodes end.
    ValueError if the policy gives an action that is not finite, or there are more seeds than slots.
    """
    limit = environment.definition.action_limit
    environment.reset(seeds)  # `play` does it again; here it shows the states of the first step
    qpos, qvel = environment.state(np.arange(len(seeds)))
    lengths, returns = np.zeros(len(seeds), np.int64), np.zeros(len(seeds))
    rows: list[tuple[NDArray[Any], ...]] = []
    for step in play(act, environment, seeds, 1, maximum_steps):
        if len(step.failed_seeds):
            raise ValueError(f"the policy gave an action with NaN or infinity in step {len(rows)}")
        slots, result = step.slots, step.result
        actions = np.clip(step.action, -limit, limit)
        state = qpos[slots], qvel[slots]
        rows.append((slots, step.observation, actions, result.reward, result.observation, result.terminal, *state))
        qpos[slots], qvel[slots] = environment.state(slots)
        lengths[slots] += 1
        returns[slots] += result.reward
    slots, *columns = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.argsort(slots, kind="stable")  # steps of an episode stay in their order
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "qpos", "qvel")
    recorded: dict[str, Any] = {
        name: column[order].astype(np.bool_ if name == "terminals" else np.float32)
        for name, column in zip(names, columns, strict=True)
    }
    timeouts = np.zeros(len(order), np.bool_)
    timeouts[np.cumsum(lengths) - 1] = lengths == maximum_steps
    recorded["terminals"] &= ~timeouts
    return Recording(**recorded, timeouts=timeouts, lengths=lengths, returns=returns)
