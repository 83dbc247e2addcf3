"""Slow, obvious CQL(H) of one seed in float64, written from the equations; knows nothing of trajmill.

Networks are dicts of plain (out, in) weights. Every value is computed where the equations name it: states are repeated,
each group of actions has its own pass, each loss its own backward pass, and Adam is the algorithm box of its paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

Network = dict[str, Tensor]


def mlp(network: Network, x: Tensor, head: str) -> Tensor:
    x = torch.relu(x @ network["hidden.0.weight"].T + network["hidden.0.bias"])
    x = torch.relu(x @ network["hidden.1.weight"].T + network["hidden.1.bias"])
    return x @ network[f"{head}.weight"].T + network[f"{head}.bias"]


def q(network: Network, s: Tensor, a: Tensor) -> Tensor:
    return mlp(network, torch.cat([s, a], dim=-1), "value").squeeze(-1)


def policy_sample(network: Network, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = mlp(network, s, "output").chunk(2, dim=-1)
    log_std = (network["log_std_multiplier"] * log_std + network["log_std_offset"]).clamp(-20.0, 2.0)
    raw = mean + log_std.exp() * noise
    law = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    action = law.transforms[0](raw)
    return action, Independent(law, 1).log_prob(action)


@dataclass
class PlainAdam:
    lr: float
    t: int = 0
    m: dict[str, Tensor] = field(default_factory=dict)
    v: dict[str, Tensor] = field(default_factory=dict)

    def step(self, parameters: Network, gradients: Network) -> None:
        self.t += 1
        for name, g in gradients.items():
            self.m[name] = 0.9 * self.m.get(name, torch.zeros_like(g)) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, torch.zeros_like(g)) + 0.001 * g * g
            m_hat = self.m[name] / (1.0 - 0.9**self.t)
            v_hat = self.v[name] / (1.0 - 0.999**self.t)
            parameters[name] = (parameters[name] - self.lr * m_hat / (v_hat.sqrt() + 1e-8)).detach()


def gradients(loss: Tensor, network: Network) -> Network:
    found = torch.autograd.grad(loss, list(network.values()), retain_graph=True)
    return dict(zip(network, found, strict=True))


@dataclass
class Twin:
    """One seed. `noise` fields of `update` have shape (1 + N, B, a): first the plain sample, then the N of CQL."""

    policy: Network
    critics: list[Network]
    targets: list[Network]
    log_alpha: Network
    greatest_reward: float
    lr: float = 3e-4
    discount: float = 0.99
    weight: float = 5.0
    temperature: float = 1.0
    polyak: float = 0.005
    importance_sampling: bool = True
    safe_q: bool = True

    def __post_init__(self) -> None:
        self.optimizers = [PlainAdam(self.lr) for _ in range(4)]

    def update(self, s, a, r, d, s2, noise, next_noise, random_action) -> dict[str, float]:
        for network in (self.policy, *self.critics, self.log_alpha):
            for value in network.values():
                value.requires_grad_()
        n, action_dim = len(random_action), a.shape[-1]
        log_alpha = self.log_alpha["log_alpha"]

        # 1. entropy coefficient
        new_action, log_pi = policy_sample(self.policy, s, noise[0])
        alpha_loss = -(log_alpha * (log_pi + (-action_dim)).detach()).mean()
        alpha = log_alpha.exp()

        # 2. policy
        q_new = torch.min(q(self.critics[0], s, new_action), q(self.critics[1], s, new_action))
        policy_loss = (alpha * log_pi - q_new).mean()

        # 3. target with Safe Q
        next_action, _ = policy_sample(self.policy, s2, next_noise[0])
        q_next = torch.min(q(self.targets[0], s2, next_action), q(self.targets[1], s2, next_action))
        y = r + self.discount * (1.0 - d) * q_next
        if self.safe_q:
            y = torch.min(y, torch.full_like(y, self.greatest_reward * 100.0 if self.discount == 0.99 else math.inf))
        y = y.detach()

        # 4. Bellman error and 5. conservative term
        bellman, conservative = 0.0, 0.0
        for critic in self.critics:
            q_data = q(critic, s, a)
            bellman = bellman + ((q_data - y) ** 2).mean()
            values = []
            for k in range(n):
                current, current_log = policy_sample(self.policy, s, noise[1 + k])
                following, following_log = policy_sample(self.policy, s2, next_noise[1 + k])
                q_random = q(critic, s, random_action[k])
                q_current = q(critic, s, current.detach())
                q_following = q(critic, s, following.detach())
                if self.importance_sampling:
                    values.append(q_random - math.log(0.5**action_dim))
                    values.append(q_following - following_log.detach())
                    values.append(q_current - current_log.detach())
                else:
                    values += [q_random, q_following, q_current]
            if not self.importance_sampling:
                values.append(q_data)
            total = sum((value / self.temperature).exp() for value in values)
            conservative = conservative + (self.temperature * total.log() - q_data).mean()
        q_loss = bellman + self.weight * conservative

        # 6. all losses before any step; α, policy, critics, then Polyak
        g_alpha = gradients(alpha_loss, self.log_alpha)
        g_policy = gradients(policy_loss, self.policy)
        g_critics = [gradients(q_loss, critic) for critic in self.critics]
        self.optimizers[0].step(self.log_alpha, g_alpha)
        self.optimizers[1].step(self.policy, g_policy)
        for optimizer, critic, g in zip(self.optimizers[2:], self.critics, g_critics, strict=True):
            optimizer.step(critic, g)
        for target, critic in zip(self.targets, self.critics, strict=True):
            for name in target:
                target[name] = (1.0 - self.polyak) * target[name] + self.polyak * critic[name]
        return {
            "q_loss": float(q_loss.detach()),
            "bellman_loss": float(bellman.detach()),
            "conservative_loss": float(conservative.detach()),
            "policy_loss": float(policy_loss.detach()),
        }
