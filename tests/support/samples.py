"""What samples of a model of transitions must be like."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from battery import checkpoint_of
from small_data import transitions

from trajmill.replay.vectors import VectorCode, VectorRows


def check_correlations(method: ModuleType, config: Any, updates: int = 1500) -> None:
    """After some updates, samples have the data's correlations.

    The next observation is the observation and a little noise; the reward is the first number of the action.
    """
    random, cpu = np.random.default_rng(0), torch.device("cpu")
    data = transitions(3000)
    data = replace(
        data,
        next_observation=data.observation + random.normal(0.0, 0.2, data.observation.shape).astype(np.float32),
        reward=data.action[:, 0].copy(),
    )
    rows = VectorRows(transitions=data, code=VectorCode.fit(data))
    state = method.create(config, rows.table(cpu, torch.float32), [1])
    method.step(state, updates)
    maker = method.synthesize(*checkpoint_of(method, state, [1]), device=cpu, block_size=2048)
    made = maker.block(0, 0)
    assert maker.block(0, 1).reward[0] != made.reward[0] and np.array_equal(maker.block(0, 0).reward, made.reward)
    for k in range(5):
        assert np.corrcoef(made.observation[:, k], made.next_observation[:, k])[0, 1] > 0.7
    assert np.corrcoef(made.action[:, 0], made.reward)[0, 1] > 0.7
    assert abs(np.corrcoef(made.observation[:, 0], made.observation[:, 1])[0, 1]) < 0.25
    assert made.terminal.mean() < 0.4
