"""The four pipelines that are measured: made-up data of the paper's shapes, ours, and the peers' learners.

Data are random, never zeros: arithmetic on zeros draws less power, and may run faster than real data will.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from baselines import cql as plain_cql
from baselines import decision_transformer as plain_dt
from baselines import language_model as plain_lm
from baselines.loops import Learner
from torch import Tensor
from torch.nn.utils import parameters_to_vector

import trajmill as tm
from trajmill.algorithms import cql, forward_dynamics
from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms import language_model as lm
from trajmill.core.reference import codebooks
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import token_losses
from trajmill.models.mlp import export_network
from trajmill.training.runner import Feed
from trajmill.training.transitions import TransitionTable
from trajmill.training.windows import WindowTable

OBSERVATION, ACTION = 17, 6  # HalfCheetah's and Walker2d's
UNROLL = 8


@dataclass(frozen=True, slots=True)
class Ours:
    """What a `Runner` takes."""

    step: Callable[..., None]
    state: Any
    feed: Feed | None = None


class Pipeline:
    """One pipeline at one size: "paper", "small" (what a CPU does in seconds) or "tiny" (for tests)."""

    name: ClassVar[str]
    without: ClassVar[Mapping[str, str]] = {}
    """peer -> why there is none"""

    def __init__(self, size: str) -> None:
        self.size = size

    def of_size(self, paper: Any, small: Any, tiny: Any) -> Any:
        return {"paper": paper, "small": small, "tiny": tiny}[self.size]

    def shape(self) -> dict[str, int]:
        """What a rate depends on."""
        raise NotImplementedError

    def ours(self, seeds: int, device: torch.device) -> Ours:
        raise NotImplementedError

    def learner(self, peer: str, device: torch.device) -> Learner:
        """Fresh networks of R0, R1, R2 or R3."""
        raise NotImplementedError

    def released_batch(self) -> Callable[[], Sequence[np.ndarray]]:
        """How the released code makes a batch, in NumPy."""
        raise NotImplementedError

    def packed_batch(self) -> Callable[[], Sequence[np.ndarray]]:
        """The quickest a host can make one."""
        return self.released_batch()

    def device_batch(self, device: torch.device) -> Callable[[], Sequence[Tensor]]:
        """Drawn on the device."""
        raise NotImplementedError

    def indexed(self, device: torch.device) -> tuple[int, Callable[[Tensor], Sequence[Tensor]], int]:
        """Rows there are, how a batch is gathered by an index of the host's, and its size."""
        raise NotImplementedError

    def in_jax(self, seeds: int, chunk: int) -> Any:
        """What `baselines.jax_updates.scanned` gives."""
        raise NotImplementedError

    def distance(self, device: torch.device) -> dict[str, float]:
        """How far the peers are from ours on the same weights, batch and chance: quantity -> relative distance."""
        raise NotImplementedError


def relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-30))


def uniform_index(count: int, size: int, device: torch.device) -> Tensor:
    return torch.randint(count, (size,), device=device)


class Transitions(Pipeline):
    """CQL(H) fine-tuning, N = 3."""

    name = "cql"

    def shape(self) -> dict[str, int]:
        return {
            "observation": OBSERVATION,
            "action": ACTION,
            "batch": self.batch,
            "sampled_actions": 3,
            "rows": self.count,
        }

    @property
    def batch(self) -> int:
        return self.of_size(256, 256, 16)

    @property
    def count(self) -> int:
        return self.of_size(1_000_000, 20_000, 500)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        random, n = np.random.default_rng(0), self.count
        return {
            "observation": random.standard_normal((n, OBSERVATION), np.float32),
            "action": random.uniform(-0.99, 0.99, (n, ACTION)).astype(np.float32),
            "reward": random.standard_normal(n, np.float32),
            "next_observation": random.standard_normal((n, OBSERVATION), np.float32),
            "terminal": (random.random(n) < 0.01).astype(np.float32),
        }

    @cached_property
    def rows(self) -> np.ndarray:
        """The columns side by side."""
        return np.concatenate([column.reshape(self.count, -1) for column in self.columns.values()], 1)

    def split(self, rows: Any) -> Sequence[Any]:
        o, a = OBSERVATION, OBSERVATION + ACTION
        r, n = a + 1, a + 1 + OBSERVATION
        return rows[:, :o], rows[:, o:a], rows[:, a], rows[:, r:n], rows[:, n]

    def ours(self, seeds: int, device: torch.device) -> Ours:
        table = TransitionTable.of(
            SimpleNamespace(**self.columns), action_limit=0.999, device=device, dtype=torch.float32
        )
        return Ours(cql.step, cql.create(cql.CQLConfig(batch_size=self.batch), table, list(range(seeds))))

    def learner(self, peer: str, device: torch.device) -> Learner:
        return plain_cql.CQL(
            OBSERVATION,
            ACTION,
            greatest_reward=float(self.columns["reward"].max()),
            device=device,
            checked=peer in ("R0", "R1"),
            on_graph=peer == "R3",
        )

    def released_batch(self) -> Callable[[], Sequence[np.ndarray]]:
        return plain_cql.released_rows(self.columns, self.batch)

    def packed_batch(self) -> Callable[[], Sequence[np.ndarray]]:
        random, rows = np.random.default_rng(0), self.rows

        def batch() -> Sequence[np.ndarray]:
            return [
                np.ascontiguousarray(part) for part in self.split(rows[random.integers(self.count, size=self.batch)])
            ]

        return batch

    def device_batch(self, device: torch.device) -> Callable[[], Sequence[Tensor]]:
        rows = torch.from_numpy(self.rows).to(device)
        return lambda: self.split(rows[uniform_index(self.count, self.batch, device)])

    def indexed(self, device: torch.device) -> tuple[int, Callable[[Tensor], Sequence[Tensor]], int]:
        columns = [torch.from_numpy(column).to(device) for column in self.columns.values()]
        return self.count, lambda index: [column[index.to(device)] for column in columns], self.batch

    def in_jax(self, seeds: int, chunk: int) -> Any:
        from baselines import jax_updates

        bound = 100 * float(self.columns["reward"].max())
        names = ("observation", "action", "reward", "terminal", "next_observation")
        rows = np.concatenate([self.columns[name].reshape(self.count, -1) for name in names], 1)
        functions = jax_updates.cql(OBSERVATION, ACTION, batch_size=self.batch, bound=bound)
        return jax_updates.scanned(*functions, {"rows": rows}, seeds=seeds, chunk=chunk)

    def distance(self, device: torch.device) -> dict[str, float]:
        """Losses and change of the parameters of one update, fed with the same rows and the same noise."""
        ours, found = self.ours(1, device), {}
        state = ours.state
        draws = cql.draw(state, 1).of_update(0)
        batch = state.table.gather(draws.index)
        rows = [batch.observation, batch.action, batch.reward, batch.next_observation, batch.terminal]
        before = {name: tensor.clone() for name, tensor in state.moving().items()}
        peers = {}
        for peer in ("R0", "R2"):
            learner = peers[peer] = self.learner(peer, device)
            load(learner.policy.network, state.policy.parameters, 0)
            for index, (critic, target) in enumerate(zip(learner.critics, learner.targets, strict=True)):
                load(critic, state.critic.parameters, index)
                target.load_state_dict(critic.state_dict())
            start = parameters_to_vector(learner.critics[0].parameters()).detach().clone()
            noise, later = draws.noise[0], draws.next_noise[0]
            with fed([noise[0], later[0], noise[1:], later[1:]], draws.random_action[0]):
                metrics = learner.update(*(row[0] for row in rows))
            found[peer] = (metrics, parameters_to_vector(learner.critics[0].parameters()).detach() - start)
        cql.update(state, draws)
        names = state.metrics.names
        ring = dict(zip(names, state.metrics.values[0, 0], strict=True))
        moved = cql_critic(state, before)
        result = {}
        for peer, (metrics, change) in found.items():
            result[f"{peer} policy loss"] = relative(metrics[1], ring["policy_loss"])
            result[f"{peer} Bellman loss"] = relative(metrics[5] + metrics[8], ring["bellman_loss"])
            result[f"{peer} conservative loss"] = relative(metrics[6] + metrics[9], ring["conservative_loss"])
            result[f"{peer} change of a critic"] = relative(change, moved)
        return result


def cql_critic(state: cql.CQLState, before: Mapping[str, Tensor]) -> Tensor:
    """Change of the first critic since `before`, in the order of the modules."""
    difference = state.critic.like(state.critic.flat.detach() - before["critic"])
    return torch.cat([value.flatten() for value in in_module_order(export_network(difference.parameters, 0))])


def in_module_order(network: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Weight before bias, hidden layers before the head."""
    heads = [name for name in network if not name.startswith(("hidden.", "log_std"))]
    layers = ["hidden.0", "hidden.1", heads[0].rpartition(".")[0]]
    return (network[f"{layer}.{part}"] for layer in layers for part in ("weight", "bias"))


def load(module: torch.nn.Sequential, parameters: Mapping[str, Tensor], row: int) -> None:
    """Copy one of our networks into three linear layers."""
    network = export_network(parameters, row)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), in_module_order(network), strict=True):
            parameter.copy_(value)


@contextmanager
def fed(normals: Sequence[Tensor], uniforms: Tensor) -> Iterator[None]:
    """Torch's distributions draw the given numbers, in this order."""
    left = iter(normals)

    def next_normal(shape: Any, dtype: Any, device: Any) -> Tensor:
        values = next(left)
        assert values.shape == torch.Size(shape), (values.shape, shape)
        return values

    def filled(self: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.copy_(uniforms)

    with (
        patch("torch.distributions.normal._standard_normal", next_normal),
        patch.object(torch.Tensor, "uniform_", filled),
    ):
        yield


class Dynamics(Pipeline):
    """Forward-dynamics pre-training of CQL's critics."""

    name = "dynamics"
    without: ClassVar = {"R1": "CORL has no pre-training on synthetic transitions"}

    def shape(self) -> dict[str, int]:
        return {
            "observation": OBSERVATION,
            "action": ACTION,
            "batch": self.batch,
            "states": 100,
            "rows": len(self.triples),
        }

    @property
    def batch(self) -> int:
        return self.of_size(256, 256, 16)

    @cached_property
    def mdp(self) -> Any:
        trajectories, length = self.of_size((1000, 1000), (100, 1000), (10, 50))
        return tm.MDP(state_count=100, action_count=100, seed=42).sample(trajectories, length)

    @cached_property
    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        return codebooks(100, 100, OBSERVATION, ACTION)

    @cached_property
    def triples(self) -> np.ndarray:
        states, actions = self.mdp.states, self.mdp.actions
        return np.stack([states[:, :-1], actions, states[:, 1:]], -1).reshape(-1, 3).astype(np.int64)

    def ours(self, seeds: int, device: torch.device) -> Ours:
        data = forward_dynamics.IndexedTransitions.of(
            self.mdp.states, self.mdp.actions, *self.vectors, device=device, dtype=torch.float32
        )
        config = forward_dynamics.ForwardDynamicsConfig(batch_size=self.batch)
        return Ours(forward_dynamics.step, forward_dynamics.create(config, data, list(range(seeds))))

    def learner(self, peer: str, device: torch.device) -> Learner:
        return plain_cql.ForwardDynamics(OBSERVATION, ACTION, device=device, on_graph=peer == "R3")

    def released_batch(self) -> Callable[[], Sequence[np.ndarray]]:
        return plain_cql.released_pairs(self.triples, *self.vectors, self.batch)

    def device_batch(self, device: torch.device) -> Callable[[], Sequence[Tensor]]:
        triples = torch.from_numpy(self.triples).to(device)
        states, actions = (torch.from_numpy(vectors).to(device) for vectors in self.vectors)

        def batch() -> Sequence[Tensor]:
            rows = triples[uniform_index(len(triples), self.batch, device)]
            return torch.cat([states[rows[:, 0]], actions[rows[:, 1]]], 1), states[rows[:, 2]]

        return batch

    def in_jax(self, seeds: int, chunk: int) -> Any:
        from baselines import jax_updates

        states, actions = self.vectors
        data = {"rows": self.triples.astype(np.int32), "states": states, "actions": actions}
        functions = jax_updates.forward_dynamics(OBSERVATION, ACTION, batch_size=self.batch)
        return jax_updates.scanned(*functions, data, seeds=seeds, chunk=chunk)

    def distance(self, device: torch.device) -> dict[str, float]:
        """Loss and change of the parameters of one update on the same rows."""
        state = self.ours(1, device).state
        learner = self.learner("R0", device)
        parameters = {
            name: parameter for name, parameter in state.critic.parameters.items() if not name.startswith("value.")
        }
        for row, model in enumerate(learner.models):
            load(model, parameters, row)
        start = parameters_to_vector(learner.models[0].parameters()).detach().clone()
        before = state.critic.flat.detach().clone()
        index = uniform_index(len(self.triples), self.batch, device)[None]
        inputs, target = state.transitions.gather(index)
        loss = learner.update(inputs[0], target[0])[0]
        forward_dynamics.update(state, index)
        difference = state.critic.like(state.critic.flat.detach() - before)
        ours = {n: parameter for n, parameter in difference.parameters.items() if not n.startswith("value.")}
        moved = torch.cat([value.flatten() for value in in_module_order(export_network(ours, 0))])
        change = parameters_to_vector(learner.models[0].parameters()).detach() - start
        return {
            "R0 loss": relative(loss, state.metrics.values[0, 0].sum()),
            "R0 change of a model": relative(change, moved),
        }


class Windows(Pipeline):
    """Decision Transformer fine-tuning."""

    name = "dt"

    def shape(self) -> dict[str, int]:
        width, layers = self.backbone
        return {
            **{"observation": OBSERVATION, "action": ACTION, "batch": self.batch, "context": self.length},
            **{"steps": self.episode_count * self.episode_length, "width": width, "layers": layers},
        }

    @property
    def batch(self) -> int:
        return self.of_size(64, 64, 4)

    @property
    def length(self) -> int:
        return self.of_size(20, 20, 3)

    @property
    def backbone(self) -> tuple[int, int]:
        """Width and number of layers."""
        return self.of_size((128, 3), (128, 3), (16, 1))

    @property
    def episode_count(self) -> int:
        return self.of_size(200, 20, 5)

    @property
    def episode_length(self) -> int:
        return self.of_size(1000, 1000, 30)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        random, n = np.random.default_rng(0), self.episode_count * self.episode_length
        return {
            "observation": random.standard_normal((n, OBSERVATION), np.float32),
            "action": random.uniform(-0.99, 0.99, (n, ACTION)).astype(np.float32),
            "reward": random.standard_normal(n, np.float32),
            "terminal": np.arange(n) % self.episode_length == self.episode_length - 1,
            "truncated": np.zeros(n, bool),
        }

    def table(self, device: torch.device) -> WindowTable:
        pairs = tm.TrajectoryBuffer(**self.columns, context_length=2)
        return WindowTable.of(pairs.windows(range(pairs.step_count)), device=device, dtype=torch.float32)

    @property
    def config(self) -> dt.DTConfig:
        width, layers = self.backbone
        gpt = GPTConfig(width=width, layer_count=layers, residual_dropout=0.2)
        return dt.DTConfig(batch_size=self.batch, context_length=self.length, backbone=gpt)

    def ours(self, seeds: int, device: torch.device) -> Ours:
        return Ours(dt.step, dt.create(self.config, self.table(device), list(range(seeds))))

    def learner(self, peer: str, device: torch.device) -> Learner:
        width, layers = self.backbone
        attention = "module" if peer == "R1" else "explicit"
        model = plain_dt.DecisionTransformer(OBSERVATION, ACTION, self.length, width, layers, attention)
        return plain_dt.DecisionTransformerLearner(
            model,
            device=device,
            synced=peer in ("R0", "R1"),
            on_graph=peer == "R3",
        )

    def released_batch(self) -> Callable[[], Sequence[np.ndarray]]:
        return plain_dt.looped_windows(self.columns, batch_size=self.batch, context_length=self.length)

    def packed_batch(self) -> Callable[[], Sequence[np.ndarray]]:
        buffer = tm.TrajectoryBuffer(**self.columns, context_length=self.length)

        def batch() -> Sequence[np.ndarray]:
            arrays = buffer.sample(self.batch)
            return [arrays[name] for name in plain_dt.NAMES]

        return batch

    def device_batch(self, device: torch.device) -> Callable[[], Sequence[Tensor]]:
        table = self.table(device)

        def batch() -> Sequence[Tensor]:
            found = table.gather(uniform_index(len(table), self.batch, device)[None], self.length)
            return [getattr(found, name)[0] for name in plain_dt.NAMES]

        return batch

    def indexed(self, device: torch.device) -> tuple[int, Callable[[Tensor], Sequence[Tensor]], int]:
        table = self.table(device)

        def gather(index: Tensor) -> Sequence[Tensor]:
            found = table.gather(index.to(device)[None], self.length)
            return [getattr(found, name)[0] for name in plain_dt.NAMES]

        return len(table), gather, self.batch

    def in_jax(self, seeds: int, chunk: int) -> Any:
        from baselines import jax_updates

        table = self.table(torch.device("cpu"))
        data = {
            "rows": table.rows.numpy(),
            "timestep": table.timestep.numpy().astype(np.int32),
            "end": table.end.numpy().astype(np.int32),
        }
        width, layers = self.backbone
        functions = jax_updates.decision_transformer(
            OBSERVATION, ACTION, batch_size=self.batch, length=self.length, width=width, layers=layers
        )
        return jax_updates.scanned(*functions, data, seeds=seeds, chunk=chunk)

    @torch.no_grad()
    def distance(self, device: torch.device) -> dict[str, float]:
        """Loss of the same weights on the same windows, without dropout."""
        state = self.ours(1, device).state
        table = state.table
        batch = table.gather(uniform_index(len(table), self.batch, device)[None], self.length)
        parts = [getattr(batch, name)[0] for name in plain_dt.NAMES]
        expected, found = dt.loss(state, batch), {}
        for peer in ("R0", "R2"):
            learner = self.learner(peer, device)
            load_dt(learner.model, state)
            learner.model.eval()
            found[f"{peer} loss"] = relative(learner.loss(*parts), expected[0])
        return found


def load_gpt(model: torch.nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Our backbone's weights into the modules."""
    names = {"attn.c_attn": "c_attn", "attn.c_proj": "c_proj", "mlp.c_fc": "c_fc", "mlp.c_proj": "c_out"}
    for layer, block in enumerate(model.blocks):
        for ours, theirs in (*names.items(), ("ln_1", "ln_1"), ("ln_2", "ln_2")):
            for part in ("weight", "bias"):
                getattr(getattr(block, theirs), part).copy_(parameters[f"h.{layer}.{ours}.{part}"][0])
    for part in ("weight", "bias"):
        getattr(model.ln_f, part).copy_(parameters[f"ln_f.{part}"][0])


def load_dt(model: torch.nn.Module, state: dt.DTState) -> None:
    """Our network's weights into the modules."""
    load_gpt(model, state.inner.detached())
    outer = state.outer.detached()
    for layer in ("embed_return", "embed_state", "embed_action", "predict_action"):
        getattr(model, layer).weight.copy_(outer[f"{layer}.weight"][0].T)
        getattr(model, layer).bias.copy_(outer[f"{layer}.bias"][0])
    for part in ("weight", "bias"):
        getattr(model.embed_ln, part).copy_(outer[f"embed_ln.{part}"][0])
    model.timestep.weight.copy_(outer["embed_timestep.weight"][0])


class Tokens(Pipeline):
    """Language-model pre-training on the tokens of a Markov chain."""

    name = "lm"
    without: ClassVar = {"R1": "CORL has no pre-training of language models"}

    def shape(self) -> dict[str, int]:
        width, layers = self.backbone
        return {"vocabulary": 100, "batch": self.batch, "length": self.length, "width": width, "layers": layers}

    @property
    def batch(self) -> int:
        return self.of_size(64, 2, 2)

    @property
    def length(self) -> int:
        return self.of_size(1024, 128, 16)

    @property
    def backbone(self) -> tuple[int, int]:
        """Width and number of layers."""
        return self.of_size((128, 3), (128, 3), (16, 1))

    @cached_property
    def chain(self) -> tm.MarkovChain:
        return tm.MarkovChain(state_count=100, seed=42)

    @cached_property
    def stored(self) -> np.ndarray:
        """(N, T): what the peers read, since the released code stores its tokens first."""
        return self.chain.sample(self.of_size(4096, 256, 32), self.length, dtype=np.int32)

    def ours(self, seeds: int, device: torch.device) -> Ours:
        """Streams from the sampler, as pre-training does."""
        width, layers = self.backbone
        config = lm.LMConfig(
            batch_size=self.batch,
            length=self.length,
            position_count=self.length,
            backbone=GPTConfig(width=width, layer_count=layers),
        )
        state = lm.create(config, 100, list(range(seeds)), device=device, slots=UNROLL)

        def feed(first: int, count: int) -> None:
            for slot in range(count):
                begin = (first + slot) * self.batch
                tokens = self.chain.sample(self.batch, self.length, first_sequence=begin, dtype=np.int32)
                state.tokens[slot].copy_(torch.from_numpy(tokens))  # every seed reads the same

        feed(0, UNROLL)
        return Ours(lm.step, state, feed)

    def learner(self, peer: str, device: torch.device) -> Learner:
        width, layers = self.backbone
        model = plain_lm.LanguageModel(100, self.length, width, layers, fused=peer == "R3")
        return plain_lm.LanguageModelLearner(model, device=device, on_graph=peer == "R3")

    def released_batch(self) -> Callable[[], Sequence[np.ndarray]]:
        return plain_lm.stored_rows(self.stored, self.batch)

    def device_batch(self, device: torch.device) -> Callable[[], Sequence[Tensor]]:
        tokens = torch.from_numpy(self.stored).to(device).long()
        return lambda: [tokens[uniform_index(len(tokens), self.batch, device)]]

    def in_jax(self, seeds: int, chunk: int) -> Any:
        from baselines import jax_updates

        width, layers = self.backbone
        functions = jax_updates.language_model(
            100, batch_size=self.batch, length=self.length, width=width, layers=layers
        )
        return jax_updates.scanned(*functions, {"tokens": self.stored}, seeds=seeds, chunk=chunk)

    @torch.no_grad()
    def distance(self, device: torch.device) -> dict[str, float]:
        """Loss of the same weights on the same tokens, without dropout."""
        state = self.ours(1, device).state
        parameters, tokens = state.model.detached(), state.tokens[0].long()
        expected, found = token_losses(parameters, state.config.backbone, tokens), {}
        for peer in ("R0", "R3"):
            learner = self.learner(peer, device)
            load_gpt(learner.model, parameters)
            learner.model.wte.weight.copy_(parameters["wte.weight"][0])
            learner.model.wpe.weight.copy_(parameters["wpe.weight"][0])
            learner.model.eval()
            found[f"{peer} loss"] = relative(learner.loss(tokens[0]), expected[0])
        return found


PIPELINES: dict[str, type[Pipeline]] = {one.name: one for one in (Transitions, Dynamics, Windows, Tokens)}


def all_finite(state: Any) -> bool:
    """Are all parameters and the metrics so far finite."""
    tensors = {name: tensor for name, tensor in state.moving().items() if name != "metrics"}
    written = state.metrics.values[0]
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values()) and bool(written.isfinite().all())
