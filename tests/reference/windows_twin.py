"""Windows as the Decision Transformer's Python loop makes them: one sample at a time, padded by concatenation.

Written from the description of that pipeline, step by step and in its order; it is the slow twin of TrajectoryBuffer
and what a user would otherwise run. `choices` are pairs of (trajectory, start).
"""

from __future__ import annotations

import numpy as np


def split(data, keep_tail=False):
    """Trajectories from arrays under the column names: cut behind every terminal or truncated row."""
    trajectories, start = [], 0
    for row in range(len(data["reward"])):
        if data["terminal"][row] or data["truncated"][row]:
            trajectories.append({name: values[start : row + 1] for name, values in data.items()})
            start = row + 1
    if keep_tail and start < len(data["reward"]):
        trajectories.append({name: values[start:] for name, values in data.items()})
    return trajectories


def mean_and_deviation(trajectories):
    observations = np.concatenate([t["observation"] for t in trajectories]).astype(np.float64)
    return observations.mean(axis=0).astype(np.float32), (observations.std(axis=0) + 1e-6).astype(np.float32)


def select(trajectories, top_fraction=1.0, strict=False):
    """Numbers of the trajectories that the sampler may choose, lowest return first."""
    returns = [np.sum(t["reward"], dtype=np.float64) for t in trajectories]
    lengths = [len(t["reward"]) for t in trajectories]
    budget = max(int(top_fraction * sum(lengths)), 1)
    order = np.argsort(returns, kind="stable").tolist()
    chosen = [order.pop()]
    steps = lengths[chosen[0]]
    while order:
        wanted = steps + lengths[order[-1]]
        if wanted > budget or (strict and wanted == budget):
            break
        steps = wanted
        chosen.insert(0, order.pop())
    return chosen


def suffix_sums(rewards, discount):
    sums = np.zeros(len(rewards), np.float64)
    sums[-1] = rewards[-1]
    for t in reversed(range(len(rewards) - 1)):
        sums[t] = rewards[t] + discount * sums[t + 1]
    return sums


def draw(trajectories, chosen, batch_size, rng):
    """The authors' draw: trajectories by length with replacement, then a start in each."""
    lengths = np.array([len(trajectories[k]["reward"]) for k in chosen])
    picks = rng.choice(len(chosen), size=batch_size, replace=True, p=lengths / lengths.sum())
    return [(chosen[k], int(rng.integers(lengths[k]))) for k in picks]


def windows(
    trajectories,
    choices,
    context_length,
    mean,
    scale,
    *,
    discount=1.0,
    return_scale=1000.0,
    timestep_limit=1000,
    action_padding=-10.0,
    pad_before=True,
    flags=("terminal", "truncated"),
):
    """The batch of the chosen windows, a dict of arrays (B, K, ...)."""
    names = ("observation", "action", "reward", "return_to_go", *flags, "timestep", "mask")
    batch = {name: [] for name in names}
    for number, start in choices:
        trajectory = trajectories[number]
        stop = start + context_length
        observation = trajectory["observation"][start:stop]
        count = len(observation)
        missing = context_length - count

        def left(padding, values, missing=missing):
            padding = np.full((missing, *values.shape[1:]), padding, np.float64)
            return np.concatenate([padding, values.astype(np.float64)])

        if pad_before:
            observation = (left(0.0, observation) - mean) / scale
        else:
            observation = left(0.0, (observation.astype(np.float64) - mean) / scale)
        batch["observation"].append(observation)
        batch["action"].append(left(action_padding, trajectory["action"][start:stop]))
        batch["reward"].append(left(0.0, trajectory["reward"][start:stop]))
        returns = suffix_sums(trajectory["reward"][start:], discount)[:context_length]
        batch["return_to_go"].append(left(0.0, returns) / return_scale)
        for flag in flags:
            batch[flag].append(left(2.0, trajectory[flag][start:stop]))
        timestep = np.arange(start, start + count)
        timestep[timestep >= timestep_limit] = timestep_limit - 1
        batch["timestep"].append(left(0, timestep))
        batch["mask"].append(left(0, np.ones(count)))
    dtypes = {"terminal": np.uint8, "truncated": np.uint8, "timestep": np.int64, "mask": np.bool_}
    return {name: np.stack(values).astype(dtypes.get(name, np.float32)) for name, values in batch.items()}
