"""A CQL update in the usual eager style: one module a network, a batch from NumPy, one ``item()`` a metric.

Written from the equations of CQL(H) (arXiv 2006.04779, and arXiv 2310.00771, section 4) as an implementation for one
seed looks: what a user would otherwise run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.nn import functional

Arrays = Mapping[str, npt.NDArray[np.float32]]


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))


class Policy(nn.Module):
    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.network = network(observation_dim, 2 * action_dim)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.network(observation).chunk(2, -1)
        normal = Normal(mean, (log_std - 1).clamp(-20, 2).exp())
        law = TransformedDistribution(normal, TanhTransform(cache_size=1))
        action = law.rsample()
        return action, law.log_prob(action).sum(-1)


def cql_updates(data: Arrays, actions_per_state: int = 3, batch_size: int = 256) -> Callable[[], None]:
    """One update a call on `data` (observation, action, reward, next_observation, terminal)."""
    count, observation_dim = data["observation"].shape
    action_dim = data["action"].shape[1]
    policy, log_alpha = Policy(observation_dim, action_dim), nn.Parameter(torch.zeros(()))
    critics = [network(observation_dim + action_dim, 1) for _ in range(2)]
    targets = copy.deepcopy(critics)
    policy_optimizer = torch.optim.Adam(policy.parameters(), 3e-4)
    alpha_optimizer = torch.optim.Adam([log_alpha], 3e-4)
    critic_optimizer = torch.optim.Adam([p for critic in critics for p in critic.parameters()], 3e-4)

    def value(critic: nn.Module, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return critic(torch.cat([observation.expand(*action.shape[:-1], -1), action], -1)).squeeze(-1)

    def update() -> None:
        index = np.random.randint(count, size=batch_size)  # noqa: NPY002
        observation, action, reward, following, terminal = (
            torch.from_numpy(data[name][index])
            for name in ("observation", "action", "reward", "next_observation", "terminal")
        )
        new_action, log_probability = policy(observation)
        alpha_loss = -(log_alpha * (log_probability - action_dim).detach()).mean()
        alpha = log_alpha.exp()
        least = torch.minimum(*(value(critic, observation, new_action) for critic in critics))
        policy_loss = (alpha * log_probability - least).mean()

        with torch.no_grad():
            next_action, _ = policy(following)
            target = reward + 0.99 * (1 - terminal) * torch.minimum(
                *(value(t, following, next_action) for t in targets)
            )
            random = torch.empty(actions_per_state, batch_size, action_dim).uniform_(-1, 1)
            current, current_log = policy(observation.expand(actions_per_state, -1, -1))
            later, later_log = policy(following.expand(actions_per_state, -1, -1))
        critic_loss = torch.zeros(())
        metrics = [alpha_loss, policy_loss, alpha, log_probability.mean(), target.mean()]
        for critic in critics:
            taken = value(critic, observation, action)
            bellman = functional.mse_loss(taken, target)
            sampled = torch.cat(
                [
                    value(critic, observation, random) + action_dim * math.log(2),
                    value(critic, observation, later) - later_log,
                    value(critic, observation, current) - current_log,
                ]
            )
            conservative = (torch.logsumexp(sampled, 0) - taken).mean()
            critic_loss = critic_loss + bellman + 5 * conservative
            metrics += [bellman, conservative, taken.mean()]

        for optimizer, loss in (
            (alpha_optimizer, alpha_loss),
            (policy_optimizer, policy_loss),
            (critic_optimizer, critic_loss),
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for critic, target_critic in zip(critics, targets, strict=True):
                for new, old in zip(critic.parameters(), target_critic.parameters(), strict=True):
                    old.lerp_(new, 0.005)
        for metric in metrics:
            metric.item()

    return update


def forward_dynamics_updates(
    triples: npt.NDArray[np.int64], states: npt.NDArray[np.float32], actions: npt.NDArray[np.float32]
) -> Callable[[], None]:
    """One pre-training update a call: two networks predict the next state vector of (state, action, next) indices."""
    sizes = states.shape[1], actions.shape[1]
    models = [network(sum(sizes), sizes[0]) for _ in range(2)]
    optimizer = torch.optim.Adam([p for model in models for p in model.parameters()], 3e-4)

    def update() -> None:
        batch = triples[np.random.randint(len(triples), size=256)]  # noqa: NPY002
        inputs = torch.from_numpy(np.concatenate([states[batch[:, 0]], actions[batch[:, 1]]], 1))
        following = torch.from_numpy(states[batch[:, 2]])
        loss = sum((functional.mse_loss(model(inputs), following) for model in models), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return update
