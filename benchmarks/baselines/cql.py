"""CQL's peers, in the usual eager style: one module a network, one optimizer a loss.

Written from the equations of CQL(H) (arXiv 2006.04779, and arXiv 2310.00771, section 4) as an implementation for one
seed looks: what a user would otherwise run. `baselines.loops` says where batches come from and who waits for whom.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from plain_loops import mlp
from throughput.workload import Workload
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.nn import functional

from baselines.loops import adam, load, numbers, ours, relative
from trajmill.algorithms import cql

COMPILED = ("sample_actions", "policy_loss", "critic_losses")


class Policy(nn.Module):
    def __init__(self, sizes: Sequence[int], *, checked: bool) -> None:
        super().__init__()
        self.network = mlp(sizes)
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

    def __init__(self, workload: Workload, device: torch.device, *, checked: bool, on_graph: bool) -> None:
        self.config, facts = workload.config, workload.rows.facts
        o, a = facts.observation_dim, facts.action_dim
        self.action_dim, self.bound = a, facts.greatest_reward / (1 - self.config.discount)
        self.policy = Policy([o, *self.config.hidden_sizes, 2 * a], checked=checked).to(device)
        self.log_alpha = nn.Parameter(torch.zeros((), device=device))
        self.critics = nn.ModuleList(mlp([o + a, *self.config.hidden_sizes, 1]) for _ in range(2)).to(device)
        self.targets = copy.deepcopy(self.critics)
        parts = ([self.log_alpha], list(self.policy.parameters()), list(self.critics.parameters()))
        self.optimizers = [adam(part, self.config.learning_rate, on_graph=on_graph) for part in parts]

    def parameters(self) -> list[nn.Parameter]:
        return [self.log_alpha, *self.policy.parameters(), *self.critics.parameters()]

    def value(self, critic: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([observation.expand(*action.shape[:-1], -1), action], -1)
        return critic(inputs).squeeze(-1).float()

    def update(
        self, observation: Tensor, action: Tensor, reward: Tensor, terminal: Tensor, following: Tensor
    ) -> list[Tensor]:
        """One update; gives the metrics, on the device."""
        n = self.config.sampled_action_count
        new_action, log_probability = self.policy(observation)
        alpha_loss = -(self.log_alpha * (log_probability - self.action_dim).detach()).mean()
        alpha = self.log_alpha.exp()
        least = torch.minimum(*(self.value(critic, observation, new_action) for critic in self.critics))
        policy_loss = (alpha * log_probability - least).mean()

        with torch.no_grad():
            next_action, _ = self.policy(following)
            next_value = torch.minimum(*(self.value(target, following, next_action) for target in self.targets))
            target = (reward + self.config.discount * (1 - terminal) * next_value).clamp(max=self.bound)
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
            critic_loss = critic_loss + bellman + self.config.cql_weight * conservative
            metrics += [bellman, conservative, taken.mean()]

        for optimizer, loss in zip(self.optimizers, (alpha_loss, policy_loss, critic_loss), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for old, new in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                old.lerp_(new, self.config.polyak)
        return [metric.detach() for metric in metrics]


def learner(peer: str, workload: Workload, device: torch.device) -> CQL:
    return CQL(workload, device, checked=peer in ("R0", "R1"), on_graph=peer == "R3")


def released_batch(workload: Workload) -> Callable[[], list[np.ndarray]]:
    columns, size = list(workload.rows.columns.values()), workload.config.batch_size

    def batch() -> list[np.ndarray]:
        index = np.random.randint(len(columns[0]), size=size)  # noqa: NPY002
        return [column[index] for column in columns]

    return batch


def distance(workload: Workload, device: torch.device) -> dict[str, float]:
    """Losses and change of the first critic in one update, fed with the same rows and the same noise."""
    state, peers, result = workload.ours(1, device), {}, {}
    words = state.draws.words(state.step, 1)
    batch, chance = state.table.draw(words["batch"])[0], cql.chance_of(state, words)[0]
    rows = (batch.observation, batch.action, batch.reward, batch.terminal, batch.next_observation)
    noise, later = chance.noise[0], chance.next_noise[0]
    for peer in ("R0", "R2"):
        found = learner(peer, workload, device)
        load(found.policy.network, state.policy, 0, "output")
        before, _ = (load(critic, state.critic, row, "value") for row, critic in enumerate(found.critics))
        found.targets.load_state_dict(found.critics.state_dict())
        with fed([noise[0], later[0], noise[1:], later[1:]], chance.random_action[0]):
            metrics = found.update(*(row[0] for row in rows))
        peers[peer] = metrics, numbers(found.critics[0]) - before
    cql.update(state, batch, chance)
    moved = ours(state.critic, 0, "value") - before
    expected = dict(zip(state.metrics.names, state.metrics.values[0, 0], strict=True))
    for peer, (metrics, change) in peers.items():
        result[f"{peer} policy loss"] = relative(metrics[1], expected["policy_loss"])
        result[f"{peer} Bellman loss"] = relative(metrics[5] + metrics[8], expected["bellman_loss"])
        result[f"{peer} conservative loss"] = relative(metrics[6] + metrics[9], expected["conservative_loss"])
        result[f"{peer} change of a critic"] = relative(change, moved)
    return result


@contextmanager
def fed(normals: Sequence[Tensor], uniforms: Tensor) -> Iterator[None]:
    """Torch's distributions draw the given numbers, in this order."""
    left = iter(normals)

    def next_normal(shape: Any, dtype: Any, device: Any) -> Tensor:
        values = next(left)
        assert values.shape == torch.Size(shape), (values.shape, shape)
        return values

    law = patch("torch.distributions.normal._standard_normal", next_normal)
    with law, patch.object(torch.Tensor, "uniform_", lambda self, *_: self.copy_(uniforms)):
        yield


def in_jax(workload: Workload) -> tuple[Any, ...]:
    from baselines.in_jax import forward, jax, jnp, lax, mlp, random

    config, facts = workload.config, workload.rows.facts
    o, a, n, size = facts.observation_dim, facts.action_dim, config.sampled_action_count, config.batch_size
    discount, several = config.discount, (n, size, a)

    def initial(key: Any) -> Any:
        keys = random.split(key, 3)
        critic = jax.vmap(lambda k: mlp(k, [o + a, *config.hidden_sizes, 1]))(keys[:2])
        policy = [mlp(keys[2], [o, *config.hidden_sizes, 2 * a]), jnp.array([1.0, -1.0])]
        return {"critic": critic, "policy": policy, "log_alpha": jnp.zeros(())}

    def values(critic: Any, observation: Any, action: Any) -> Any:
        inputs = jnp.concatenate([jnp.broadcast_to(observation, (*action.shape[:-1], o)), action], -1)
        return jax.vmap(forward, in_axes=(0, None))(critic, inputs)[..., 0]

    def law(policy: Any, observation: Any) -> tuple[Any, Any]:
        mean, log_std = jnp.split(forward(policy[0], observation), 2, -1)
        return mean, jnp.clip(policy[1][0] * log_std + policy[1][1], -20, 2)

    def sample(key: Any, mean: Any, log_std: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
        noise = random.normal(key, shape)
        raw = mean + jnp.exp(log_std) * noise
        density = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        density = density - 2 * (math.log(2) - raw - jax.nn.softplus(-2 * raw))
        return jnp.tanh(raw), density.sum(-1)

    def loss(learned: Any, key: Any, data: Any, target_critic: Any) -> Any:
        keys = random.split(key, 6)
        rows = data["rows"][random.randint(keys[0], (size,), 0, len(data["rows"]))]
        observation, action, reward, terminal, following = jnp.split(rows, [o, o + a, o + a + 1, o + a + 2], -1)
        fixed = lax.stop_gradient(learned)
        mean, log_std = law(learned["policy"], observation)
        action_now, log_now = sample(keys[1], mean, log_std, (size, a))
        least = values(fixed["critic"], observation, action_now).min(0)
        policy_loss = (jnp.exp(fixed["log_alpha"]) * log_now - least).mean()
        alpha_loss = -learned["log_alpha"] * (lax.stop_gradient(log_now) - a).mean()

        later = law(fixed["policy"], following)
        next_action, _ = sample(keys[2], *later, (size, a))
        next_value = values(target_critic, following, next_action).min(0)
        target = reward[:, 0] + discount * (1 - terminal[:, 0]) * next_value
        target = jnp.minimum(target, facts.greatest_reward / (1 - discount))
        current, current_log = sample(keys[3], *lax.stop_gradient((mean, log_std)), several)
        after, after_log = sample(keys[4], *later, several)
        uniform = random.uniform(keys[5], several, minval=-1.0)
        actions = jnp.concatenate([action[None], uniform, after, current])
        found = values(learned["critic"], observation, actions)  # (2, 1 + 3n, B)
        density = jnp.concatenate([jnp.full((n, size), -a * math.log(2)), after_log, current_log])
        bellman = ((found[:, 0] - target) ** 2).mean(1).sum()
        conservative = jax.nn.logsumexp(found[:, 1:] - density, 1) - found[:, 0]
        return bellman + config.cql_weight * conservative.mean(1).sum() + policy_loss + alpha_loss

    rows = np.concatenate([column.reshape(len(column), -1) for column in workload.rows.columns.values()], 1)
    return initial, loss, {"rows": rows}, {"rate": config.learning_rate, "followed": "critic"}
