"""Train TD3+BC for a moment, then play with its policy in Gymnasium."""

import gymnasium

import trajmill as tm

run = tm.train(
    "td3_bc", dataset="hopper-sac-replay-10k", out="run-hopper", updates=300, evaluation_episode_count=2, progress=False
)

policy = run.policy(seed=0)
environment = gymnasium.make("Hopper-v4")
observation, _ = environment.reset(seed=0)
total, over = 0.0, False
while not over:
    observation, reward, terminated, truncated, _ = environment.step(policy(observation))
    total, over = total + float(reward), terminated or truncated
print(policy, f"made a return of {total:.1f}")
