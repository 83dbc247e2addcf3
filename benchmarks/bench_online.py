"""Environment steps a second of an agent that learns online, updates included: ``python benchmarks/bench_online.py``.

SAC on Hopper with an update for each step, one seed on one core, beside a single-file program as CleanRL's
``sac_continuous_action.py`` is: Gymnasium's environment, NumPy's arrays as buffer, torch's optimizers, two critics one
after another, and two policy updates at every second step. Both are warm, with a buffer of several thousand rows, and
take turns. What stepping and replay cost of the run, and what scoring beside it costs, is measured on ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from record import RESULTS
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from trajmill.algorithms import sac
from trajmill.evaluation import make_gymnasium
from trajmill.experiments.online import OnlineState, ring_of
from trajmill.experiments.settings import OnlineTrainConfig
from trajmill.experiments.train import train
from trajmill.training.device import ComputeConfig, keep_freed_memory
from trajmill.training.runner import Runner
from trajmill.training.settings import Interaction, Schedule

ENVIRONMENT, FILLED, STEPS, ROUNDS = "Hopper-v4", 5000, 300, 7


class Critic(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(inputs, 256), nn.Linear(256, 256), nn.Linear(256, 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.out(relu(self.two(relu(self.one(torch.cat([observation, action], 1)))))).view(-1)


class Actor(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(inputs, 256), nn.Linear(256, 256)
        self.mean, self.log_std = nn.Linear(256, outputs), nn.Linear(256, outputs)

    def sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = relu(self.two(relu(self.one(observation))))
        log_std = -5 + 0.5 * 7 * (torch.tanh(self.log_std(hidden)) + 1)
        normal = torch.distributions.Normal(self.mean(hidden), log_std.exp())
        raw = normal.rsample()
        action = torch.tanh(raw)
        return action, (normal.log_prob(raw) - torch.log(1 - action.pow(2) + 1e-6)).sum(1)


class SingleFile:
    """SAC as a single-file program has it."""

    def __init__(self) -> None:
        self.environment, self.generator = make_gymnasium(ENVIRONMENT), np.random.default_rng(0)
        o, a = self.environment.observation_space.shape[0], self.environment.action_space.shape[0]
        self.actor = Actor(o, a)
        self.critics, self.targets = ([Critic(o + a) for _ in range(2)] for _ in range(2))
        for critic, target in zip(self.critics, self.targets, strict=True):
            target.load_state_dict(critic.state_dict())
        weights = [weight for critic in self.critics for weight in critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(weights, lr=1e-3)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.log_alpha, self.target_entropy = torch.zeros(1, requires_grad=True), -float(a)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=1e-3)
        sizes = {"observation": (o,), "next_observation": (o,), "action": (a,), "reward": (), "terminal": ()}
        self.rows = {name: np.zeros((1_000_000, *size), np.float32) for name, size in sizes.items()}
        self.count = self.updates = 0
        self.observation = self.environment.reset(seed=1)[0]
        while self.count < FILLED:
            self.act(self.environment.action_space.sample())

    def act(self, action: np.ndarray) -> None:
        then, reward, terminal, truncated, _ = self.environment.step(action)
        values = (self.observation, then, action, reward, terminal)
        for column, value in zip(self.rows.values(), values, strict=True):
            column[self.count] = value
        self.count += 1
        self.observation = self.environment.reset()[0] if terminal or truncated else then

    def run(self, steps: int) -> None:
        for _ in range(steps):
            with torch.no_grad():
                action = self.actor.sample(torch.as_tensor(self.observation, dtype=torch.float32)[None])[0]
            self.act(action[0].numpy())
            self.update()

    def update(self) -> None:
        index = self.generator.integers(self.count, size=256)
        batch = {name: torch.as_tensor(column[index]) for name, column in self.rows.items()}
        alpha = self.log_alpha.exp().item()
        with torch.no_grad():
            action, log_density = self.actor.sample(batch["next_observation"])
            least = torch.min(*(target(batch["next_observation"], action) for target in self.targets))
            y = batch["reward"] + (1 - batch["terminal"]) * 0.99 * (least - alpha * log_density)
        loss = sum(mse_loss(critic(batch["observation"], batch["action"]), y) for critic in self.critics)
        self.critic_optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        self.critic_optimizer.step()
        self.updates += 1
        if self.updates % 2 == 0:
            for _ in range(2):
                action, log_density = self.actor.sample(batch["observation"])
                least = torch.min(*(critic(batch["observation"], action) for critic in self.critics))
                policy_loss = (alpha * log_density - least).mean()
                self.actor_optimizer.zero_grad()
                policy_loss.backward()
                self.actor_optimizer.step()
                with torch.no_grad():
                    log_density = self.actor.sample(batch["observation"])[1]
                alpha_loss = (-self.log_alpha.exp() * (log_density + self.target_entropy)).mean()
                self.alpha_optimizer.zero_grad()
                alpha_loss.backward()
                self.alpha_optimizer.step()
                alpha = self.log_alpha.exp().item()
        for critic, target in zip(self.critics, self.targets, strict=True):
            for weight, slow in zip(critic.parameters(), target.parameters(), strict=True):
                slow.data.copy_(0.005 * weight.data + 0.995 * slow.data)


class Ours:
    """The same by a ring and a runner; `cost` is the time of steps and replay alone."""

    def __init__(self) -> None:
        config = sac.Config()
        ring = ring_of(
            ENVIRONMENT,
            [0],
            Interaction(random_steps=FILLED, updates_per_step=1),
            environment_count=1,
            batch_size=config.batch_size,
            capacity=1_000_000,
            normalizer=None,
            device=torch.device("cpu"),
            threads=1,
        )
        state = OnlineState.of(sac, sac.create(config, ring, [0]))
        self.runner, self.cost = Runner(state.step, state), 0.0
        feed = ring.feed

        def timed(first: int, count: int) -> None:
            began = perf_counter()
            feed(first, count)
            self.cost += perf_counter() - began

        ring.feed = timed  # type: ignore[method-assign]
        self.runner.run(1)

    def run(self, steps: int) -> None:
        self.runner.run(steps)


def rates(run: Callable[[int], None]) -> float:
    began = process_time()
    run(STEPS)
    return STEPS / (process_time() - began)


def beside() -> dict[str, float]:
    """Updates a second while nothing, or scoring beside the training, goes on; a run of its own each."""
    found = {}
    for place, interval in (("none", 4000), ("beside", 1000), ("in_place", 1000)):
        config = OnlineTrainConfig(
            environment=ENVIRONMENT,
            method=sac.Config(),
            interaction=Interaction(random_steps=1000, updates_per_step=1),
            schedule=Schedule(updates=4000, evaluation_interval=interval, checkpoint_interval=4000),
            compute=ComputeConfig(device="cpu", evaluation="in_place" if place == "none" else place),  # type: ignore[arg-type]
        )
        with tempfile.TemporaryDirectory() as folder:
            lines = [json.loads(line) for line in (train(config, Path(folder) / "run") / "metrics.jsonl").open()]
        seconds = {line["update"]: line["wall_seconds"] for line in lines if line["phase"] == "train"}
        found[place] = 2000 / (seconds[3000] - seconds[1000])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-beside", action="store_true", help="leave out the runs that score beside")
    parser.add_argument("--out", type=Path, default=RESULTS / "online.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()
    contenders = {"single file": SingleFile(), "ours": Ours()}
    for contender in contenders.values():
        contender.run(STEPS)
    contenders["ours"].cost = 0.0  # type: ignore[union-attr]
    began, measured = perf_counter(), {name: [] for name in contenders}
    seconds = 0.0
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            began = perf_counter()
            measured[name].append(rates(contender.run))
            seconds += perf_counter() - began if name == "ours" else 0.0
    middle = {name: statistics.median(values) for name, values in measured.items()}
    share = contenders["ours"].cost / seconds  # type: ignore[union-attr]
    found = {} if arguments.without_beside else beside()
    print(json.dumps({"steps_per_second": middle, "ratio": middle["ours"] / middle["single file"]}, indent=1))
    print(f"stepping and replay: {share:.1%} of the time; updates a second by where scores are made: {found}")
    arguments.out.write_text(
        json.dumps(
            {"rates": measured, "ratio": middle["ours"] / middle["single file"], "share": share, "beside": found}
        )
    )


if __name__ == "__main__":
    main()
