"""Environment steps a second of playing episodes, beside other ways: ``python benchmarks/bench_evaluation.py``.

All play uniform actions in episodes of at most 20 steps, about a random Hopper's; starting them is included.
`mujoco.rollout` runs the physics alone, without observations, rewards and ends.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import gymnasium
import mujoco
import numpy as np
from mujoco.rollout import Rollout
from record import RESULTS, Row, row, write
from throughput.goals import STUDIED

from trajmill.data.environments import task_of
from trajmill.evaluation import environment_definition, episode_seeds, make_gymnasium
from trajmill.evaluation.rollout import add_up, play
from trajmill.evaluation.simulators import open_environments

ENVIRONMENTS = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4")
GYMNASIUMS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Pendulum-v1", "MountainCarContinuous-v0")
"""environments that trajmill does not step by itself"""
SLOTS, THREADS = (1, 8, 64, 200), (1, 2)
EPISODE = 20
LEAST_STEPS = 4000
ROUNDS = 3

ENVPOOL = {"32 cores, sync": (380_950, 32), "32 cores, async": (582_446, 32), "256 cores, async": (3_134_287, 256)}
"""Published frames/s of Ant and cores (github.com/sail-sg/envpool, README, "Mujoco Highest FPS"); not measured here."""
ANT_FRAMES = 5  # physics steps of an environment step, which EnvPool counts

STUDY = {"seeds": 20, "episodes": 10, "updates": 100_000, "interval": 5_000}
"""The fine-tuning protocol of arXiv 2310.00771, evaluated at every 5,000 updates and at the start."""
STUDY_RATES = {"a GPU that makes 1,000 updates/s of all seeds": 1_000.0}
"""Updates/s of all 20 seeds together that the training of such a study is taken to make; this machine's is added."""


def rate(work: Callable[[], int]) -> float:
    """Best steps/s of a few rounds; `work` returns the steps it made."""
    work()
    rates = []
    for _ in range(ROUNDS):
        started, steps = perf_counter(), 0
        while steps < LEAST_STEPS:
            steps += work()
        rates.append(steps / (perf_counter() - started))
    return max(rates)


def played(name: str, slots: int, threads: int) -> float:
    task, generator = task_of(name), np.random.default_rng(0)
    shape = (1, slots, task.action_dim)

    def act(observations: np.ndarray) -> np.ndarray:
        return generator.uniform(-1, 1, shape).astype(np.float32)

    with open_environments(name, slots, threads=threads) as environment:
        seeds = episode_seeds(0, slots)
        return rate(lambda: int(add_up(play(act, environment, seeds, 1, EPISODE), (1, slots))[1].sum()))


def plain(name: str) -> float:
    environment, generator = make_gymnasium(name), np.random.default_rng(0)
    shape = environment.action_space.shape

    def work() -> int:
        environment.reset(seed=0)
        for step in range(EPISODE):
            if environment.step(generator.uniform(-1, 1, shape).astype(np.float32))[2]:
                return step + 1
        return EPISODE

    return rate(work)


def vector(name: str, count: int) -> float:
    makers: Sequence[Callable[[], gymnasium.Env]] = [partial(make_gymnasium, name)] * count
    environments = gymnasium.vector.AsyncVectorEnv(makers)
    generator = np.random.default_rng(0)
    shape = environments.action_space.shape

    def work() -> int:
        environments.reset(seed=0)
        for _ in range(EPISODE):
            environments.step(generator.uniform(-1, 1, shape).astype(np.float32))
        return EPISODE * count

    result = rate(work)
    environments.close()
    return result


def rollout(name: str, slots: int, threads: int) -> float:
    frame_skip = environment_definition(name).frame_skip
    model = make_gymnasium(name).unwrapped.model
    data = [mujoco.MjData(model) for _ in range(threads)]
    generator = np.random.default_rng(0)
    start = np.zeros((slots, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
    start[:, 1 : 1 + model.nq] = data[0].qpos

    with Rollout(nthread=threads if threads > 1 else 0) as pool:

        def work() -> int:
            state = start
            for _ in range(EPISODE):
                control = np.repeat(generator.uniform(-1, 1, (slots, 1, model.nu)), frame_skip, axis=1)
                state = pool.rollout(model, data, state, control)[0][:, -1]
            return EPISODE * slots

        return rate(work)


def main() -> None:
    warnings.simplefilter("ignore")
    rows, fastest, unit = [], {}, "steps/s"
    for name in ENVIRONMENTS:
        loop = plain(name)
        over = ("one Gymnasium environment", loop)
        for threads in THREADS:
            for slots in SLOTS:
                value = played(name, slots, threads)
                fastest[name] = max(fastest.get(name, 0.0), value)
                words = f"{name}, {slots} slot{'s' * (slots > 1)}, {threads} thread{'s' * (threads > 1)}"
                rows.append(row(words, value, unit, over=over))
        rows.append(row("  Gymnasium, one environment", loop, unit))
        for count in (2, 8):
            rows.append(row(f"  Gymnasium, AsyncVectorEnv of {count}", vector(name, count), unit, over=over))
        for threads in THREADS:
            words = f"  mujoco.rollout, physics alone, 64 slots, {threads} thread{'s' * (threads > 1)}"
            rows.append(row(words, rollout(name, 64, threads), unit, over=over))
    rows += [row(f"{name}, stepped by Gymnasium, 64 slots", played(name, 64, 1), unit) for name in GYMNASIUMS]
    frames = ANT_FRAMES * fastest["Ant-v4"] / max(THREADS)
    for where, (published, cores) in ENVPOOL.items():
        over = (f"EnvPool as published, {where}", published / cores)
        rows.append(row("Ant-v4, physics steps per core", frames, unit, over=over))
    write("evaluation", rows + study(fastest))


def study(fastest: dict[str, float]) -> list[Row]:
    """Share of the time of a 20-seed study that its evaluations take, were every episode 1,000 steps long."""
    measured = json.loads((RESULTS / "training_cpu.json").read_text())["rows"]
    cpu = next(one["value"] for one in measured if one["name"] == f"{STUDIED} fp32 ours, S = 1")
    evaluations = STUDY["updates"] // STUDY["interval"] + 1
    rows = []
    for where, updates in (STUDY_RATES | {"this CPU (results/training_cpu.json)": cpu / STUDY["seeds"]}).items():
        training = STUDY["updates"] / updates
        for name, speed in fastest.items():
            evaluating = evaluations * STUDY["seeds"] * STUDY["episodes"] * 1000 / speed
            limit = (f"the study on {where}", evaluating + training)
            rows.append(row(f"evaluation of 20 seeds, {name}", evaluating, "s", limit=limit))
    return rows


if __name__ == "__main__":
    main()
