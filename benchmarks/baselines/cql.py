"""CQL and its pre-training in the usual eager style: one module a network, one optimizer a loss.

Written from the equations of CQL(H) (arXiv 2006.04779, and arXiv 2310.00771, section 4) as an implementation for one
seed looks: what a user would otherwise run. `baselines.loops` says where batches come from and who waits for whom.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.nn import functional


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))


def adam(parameters: list[nn.Parameter], *, on_graph: bool) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, 3e-4, fused=on_graph or None, capturable=on_graph and parameters[0].is_cuda)


class Policy(nn.Module):
    def __init__(self, observation_dim: int, action_dim: int, *, checked: bool) -> None:
        super().__init__()
        self.network = network(observation_dim, 2 * action_dim)
        self.multiplier, self.offset = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))
        self.checked = checked

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.network(observation).float().chunk(2, -1)
        std = (self.multiplier * log_std + self.offset).clamp(-20, 2).exp()
        normal = Normal(mean, std, validate_args=self.checked)
        law = TransformedDistribution(normal, TanhTransform(cache_size=1), validate_args=self.checked)
        action = law.rsample()
        return action, law.log_prob(action).sum(-1)


class CQL:
    """One seed; `checked` distributions look at their arguments on the host, `on_graph` is for a CUDA graph."""

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        greatest_reward: float = math.inf,
        actions_per_state: int = 3,
        device: torch.device | str = "cpu",
        checked: bool = True,
        on_graph: bool = False,
    ) -> None:
        self.count, self.action_dim, self.bound = actions_per_state, action_dim, greatest_reward / (1 - 0.99)
        self.policy = Policy(observation_dim, action_dim, checked=checked).to(device)
        self.log_alpha = nn.Parameter(torch.zeros((), device=device))
        self.critics = [network(observation_dim + action_dim, 1).to(device) for _ in range(2)]
        self.targets = copy.deepcopy(self.critics)
        critic_parameters = [p for critic in self.critics for p in critic.parameters()]
        self.policy_optimizer = adam(list(self.policy.parameters()), on_graph=on_graph)
        self.alpha_optimizer = adam([self.log_alpha], on_graph=on_graph)
        self.critic_optimizer = adam(critic_parameters, on_graph=on_graph)

    def parameters(self) -> list[nn.Parameter]:
        networks = (self.policy, *self.critics)
        return [self.log_alpha, *itertools.chain.from_iterable(network.parameters() for network in networks)]

    def value(self, critic: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([observation.expand(*action.shape[:-1], -1), action], -1)
        return critic(inputs).squeeze(-1).float()

    def update(
        self, observation: Tensor, action: Tensor, reward: Tensor, following: Tensor, terminal: Tensor
    ) -> list[Tensor]:
        """One update; gives the metrics, on the device."""
        n = self.count
        new_action, log_probability = self.policy(observation)
        alpha_loss = -(self.log_alpha * (log_probability - self.action_dim).detach()).mean()
        alpha = self.log_alpha.exp()
        least = torch.minimum(*(self.value(critic, observation, new_action) for critic in self.critics))
        policy_loss = (alpha * log_probability - least).mean()

        with torch.no_grad():
            next_action, _ = self.policy(following)
            next_value = torch.minimum(*(self.value(target, following, next_action) for target in self.targets))
            target = (reward + 0.99 * (1 - terminal) * next_value).clamp(max=self.bound)
            random = torch.empty(n, *action.shape, device=action.device).uniform_(-1, 1)
            current, current_log = self.policy(observation.expand(n, -1, -1))
            later, later_log = self.policy(following.expand(n, -1, -1))
        critic_loss = torch.zeros((), device=action.device)
        metrics = [alpha_loss, policy_loss, alpha, log_probability.mean(), target.mean()]
        for critic in self.critics:
            taken = self.value(critic, observation, action)
            bellman = functional.mse_loss(taken, target)
            sampled = torch.cat(
                [
                    self.value(critic, observation, random) + self.action_dim * math.log(2),
                    self.value(critic, observation, later) - later_log,
                    self.value(critic, observation, current) - current_log,
                ]
            )
            conservative = (torch.logsumexp(sampled, 0) - taken).mean()
            critic_loss = critic_loss + bellman + 5 * conservative
            metrics += [bellman, conservative, taken.mean()]

        for optimizer, loss in (
            (self.alpha_optimizer, alpha_loss),
            (self.policy_optimizer, policy_loss),
            (self.critic_optimizer, critic_loss),
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for critic, target_critic in zip(self.critics, self.targets, strict=True):
                for new, old in zip(critic.parameters(), target_critic.parameters(), strict=True):
                    old.lerp_(new, 0.005)
        return [metric.detach() for metric in metrics]


class ForwardDynamics:
    """Pre-training of one seed: two networks predict the next state's vector from those of state and action."""

    def __init__(
        self, observation_dim: int, action_dim: int, *, device: torch.device | str = "cpu", on_graph: bool = False
    ) -> None:
        self.models = [network(observation_dim + action_dim, observation_dim).to(device) for _ in range(2)]
        self.optimizer = adam(self.parameters(), on_graph=on_graph)

    def parameters(self) -> list[nn.Parameter]:
        return [p for model in self.models for p in model.parameters()]

    def update(self, inputs: Tensor, following: Tensor) -> list[Tensor]:
        """One update; gives the loss, on the device."""
        losses = [functional.mse_loss(model(inputs).float(), following) for model in self.models]
        loss = losses[0] + losses[1]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return [loss.detach()]


def released_rows(data: Mapping[str, np.ndarray], batch_size: int = 256) -> Callable[[], list[np.ndarray]]:
    """A call that takes a batch of `data` (observation, action, reward, next_observation, terminal) by NumPy."""

    def batch() -> list[np.ndarray]:
        index = np.random.randint(len(data["reward"]), size=batch_size)  # noqa: NPY002
        return [column[index] for column in data.values()]

    return batch


def released_pairs(
    triples: np.ndarray, states: np.ndarray, actions: np.ndarray, batch_size: int = 256
) -> Callable[[], list[np.ndarray]]:
    """A call that looks up the vectors of a batch of (state, action, next) indices by NumPy."""

    def batch() -> list[np.ndarray]:
        rows = triples[np.random.randint(len(triples), size=batch_size)]  # noqa: NPY002
        return [np.concatenate([states[rows[:, 0]], actions[rows[:, 1]]], 1), states[rows[:, 2]]]

    return batch
