"""Train a method in one call, follow it as it learns, stop it early, and go on."""

import trajmill as tm


def watch(record):
    """Print each evaluation; stop after the second one."""
    if record.phase == "evaluation":
        print(record.update, "updates: returns", record.metrics["return_mean"].round(1))
    return record.phase == "evaluation" and record.update == 200


settings = {
    "dataset": "hopper-sac-replay-10k",
    "seeds": [0, 1],
    "method": {"hidden_sizes": [32, 32]},
    "schedule": {"updates": 300, "evaluation_interval": 100},
    "evaluation_episode_count": 1,
    "processes": 1,
    "progress": False,
}
run = tm.train("td3_bc", out="run-from-python", callback=watch, **settings)
print(run)

run = tm.train("td3_bc", out="run-from-python", resume=True, **settings)
print(run)
print("scores", {seed: round(score, 1) for seed, score in run.scores.items()})
print("losses", run.metrics["train"]["q_loss"].values.round(2).tolist())
print("file", run.policy(seed=1).export("policy.pt").name)
