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


def policy_law(network: Network, s: Tensor) -> tuple[Normal, TransformedDistribution]:
    mean, log_std = mlp(network, s, "output").chunk(2, dim=-1)
    log_std = (network["log_std_multiplier"] * log_std + network["log_std_offset"]).clamp(-20.0, 2.0)
    normal = Normal(mean, log_std.exp())
    return normal, TransformedDistribution(normal, TanhTransform(cache_size=1))


def policy_sample(network: Network, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    normal, law = policy_law(network, s)
    action = law.transforms[0](normal.mean + normal.stddev * noise)
    return action, Independent(law, 1).log_prob(action)


def policy_log_density(network: Network, s: Tensor, a: Tensor) -> Tensor:
    return Independent(policy_law(network, s)[1], 1).log_prob(a)


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
    """One seed. `noise` fields of `update` have shape (1 + N, B, a): first the plain sample, then the N of CQL.

    With the max-target backup `next_noise` has N samples for the target instead of the plain one: (N + N, B, a).
    """

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
    safe_q_bound: str = "target"
    log_multiplier: Network | None = None
    action_gap: float = 1.0
    difference_range: tuple[float, float] = (-math.inf, math.inf)
    max_target_backup: bool = False
    backup_entropy: bool = False
    bc_updates: int = 0
    calibrated: bool = False
    updates: int = 0

    def __post_init__(self) -> None:
        self.optimizers = [PlainAdam(self.lr) for _ in range(5)]

    def update(self, s, a, r, d, s2, noise, next_noise, random_action, returns=None) -> dict[str, float]:
        for network in (self.policy, *self.critics, self.log_alpha, self.log_multiplier or {}):
            for value in network.values():
                value.requires_grad_()
        n, action_dim = len(random_action), a.shape[-1]
        log_alpha = self.log_alpha["log_alpha"]

        # 1. entropy coefficient
        new_action, log_pi = policy_sample(self.policy, s, noise[0])
        alpha_loss = -(log_alpha * (log_pi + (-action_dim)).detach()).mean()
        alpha = log_alpha.exp()

        # 2. policy
        if self.updates < self.bc_updates:
            policy_loss = (alpha * log_pi - policy_log_density(self.policy, s, a)).mean()
        else:
            q_new = torch.min(q(self.critics[0], s, new_action), q(self.critics[1], s, new_action))
            policy_loss = (alpha * log_pi - q_new).mean()

        # 3. target with Safe Q
        best_value, best_log_pi = torch.full_like(r, -math.inf), torch.zeros_like(r)
        target_noise = next_noise[:n] if self.max_target_backup else next_noise[:1]
        for one in target_noise:
            next_action, next_log_pi = policy_sample(self.policy, s2, one)
            value = torch.min(q(self.targets[0], s2, next_action), q(self.targets[1], s2, next_action))
            best_log_pi = torch.where(value > best_value, next_log_pi, best_log_pi)
            best_value = torch.where(value > best_value, value, best_value)
        horizon = 100.0 if self.discount == 0.99 else 1.0 / (1.0 - self.discount)
        safe_q_max = self.greatest_reward * horizon
        if self.safe_q and self.safe_q_bound == "released":
            best_value[best_value > safe_q_max] = safe_q_max
        if self.backup_entropy:
            best_value = best_value - alpha * best_log_pi
        y = r + self.discount * (1.0 - d) * best_value
        if self.safe_q and self.safe_q_bound == "target":
            y = torch.min(y, torch.full_like(y, safe_q_max))
        y = y.detach()

        # 4. Bellman error and 5. conservative term
        bellman, conservative, q_loss, multiplier_loss = 0.0, 0.0, 0.0, 0.0
        replaced = []
        for critic in self.critics:
            q_data = q(critic, s, a)
            error = ((q_data - y) ** 2).mean()
            bellman, q_loss = bellman + error, q_loss + error
            values = []
            for k in range(n):
                current, current_log = policy_sample(self.policy, s, noise[1 + k])
                following, following_log = policy_sample(self.policy, s2, next_noise[len(target_noise) + k])
                q_random = q(critic, s, random_action[k])
                q_current = q(critic, s, current.detach())
                q_following = q(critic, s, following.detach())
                if self.calibrated:
                    replaced += [q_current < returns, q_following < returns]
                    q_current = torch.where(q_current < returns, returns, q_current)
                    q_following = torch.where(q_following < returns, returns, q_following)
                if self.importance_sampling:
                    values.append(q_random - math.log(0.5**action_dim))
                    values.append(q_following - following_log.detach())
                    values.append(q_current - current_log.detach())
                else:
                    values += [q_random, q_following, q_current]
            if not self.importance_sampling:
                values.append(q_data)
            total = sum((value / self.temperature).exp() for value in values)
            low, high = self.difference_range
            difference = torch.clamp(self.temperature * total.log() - q_data, low, high).mean()
            conservative = conservative + difference
            if self.log_multiplier is None:
                q_loss = q_loss + self.weight * difference
            else:
                multiplier = self.log_multiplier["log_multiplier"].exp().clamp(0.0, 1e6)
                excess = self.weight * (difference - self.action_gap)
                q_loss = q_loss + multiplier.detach() * excess
                multiplier_loss = multiplier_loss - multiplier * excess.detach() / 2

        # 6. all losses before any step; α', α, policy, critics, then Polyak
        if self.log_multiplier is not None:
            self.optimizers[4].step(self.log_multiplier, gradients(multiplier_loss, self.log_multiplier))
        g_alpha = gradients(alpha_loss, self.log_alpha)
        g_policy = gradients(policy_loss, self.policy)
        g_critics = [gradients(q_loss, critic) for critic in self.critics]
        self.optimizers[0].step(self.log_alpha, g_alpha)
        self.optimizers[1].step(self.policy, g_policy)
        for optimizer, critic, g in zip(self.optimizers[2:4], self.critics, g_critics, strict=True):
            optimizer.step(critic, g)
        for target, critic in zip(self.targets, self.critics, strict=True):
            for name in target:
                target[name] = (1.0 - self.polyak) * target[name] + self.polyak * critic[name]
        self.updates += 1
        return {
            "q_loss": float(q_loss.detach()),
            "bellman_loss": float(bellman.detach()),
            "conservative_loss": float(conservative.detach()),
            "policy_loss": float(policy_loss.detach()),
        } | ({"replaced_share": float(torch.stack(replaced).double().mean())} if self.calibrated else {})
