"""Train TD3+BC for a moment, then play with its policy in Gymnasium."""

from pathlib import Path

import gymnasium

import trajmill as tm
from trajmill.algorithms import td3_bc
from trajmill.experiments.settings import DatasetTrainConfig
from trajmill.experiments.train import train
from trajmill.training.settings import Schedule

config = DatasetTrainConfig(
    method=td3_bc.SMALL, dataset="hopper-sac-replay-10k", schedule=Schedule(updates=300), evaluation_episode_count=2
)
run = train(config, Path("run-hopper"))

policy = tm.load_policy(run, seed=config.seeds[0])
environment = gymnasium.make("Hopper-v4")
observation, _ = environment.reset(seed=0)
total, over = 0.0, False
while not over:
    observation, reward, terminated, truncated, _ = environment.step(policy(observation))
    total, over = total + float(reward), terminated or truncated
print(policy, f"made a return of {total:.1f}")
