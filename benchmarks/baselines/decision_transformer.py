"""Decision Transformer updates as the released code makes them: modules, a Python loop for data, eager autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from throughput.workload import Workload
from torch import Tensor, nn

from baselines.gpt2 import GPT2, Attention, Learner, load
from baselines.loops import relative
from baselines.replay import looped_windows
from trajmill.algorithms import decision_transformer

COMPILED = ("loss",)
DECAY = 1e-4
"""the released code decays every parameter alike"""


class DecisionTransformer(nn.Module):
    def __init__(self, workload: Workload, attention: Attention) -> None:
        super().__init__()
        config, facts = workload.config, workload.rows.facts
        width, o, a = config.backbone.width, facts.observation_dim, facts.action_dim
        self.embed_timestep = nn.Embedding(1000, width)
        self.embed_return, self.embed_state = nn.Linear(1, width), nn.Linear(o, width)
        self.embed_action, self.embed_ln = nn.Linear(a, width), nn.LayerNorm(width)
        self.gpt2 = GPT2(config.backbone, 3 * config.context_length, attention)
        self.predict_state, self.predict_return = nn.Linear(width, o), nn.Linear(width, 1)
        self.predict_action = nn.Linear(width, a)

    def forward(
        self, observation: Tensor, action: Tensor, return_to_go: Tensor, timestep: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = (self.embed_return(return_to_go[..., None]), self.embed_state(observation), self.embed_action(action))
        tokens, time = torch.stack(parts, 2).flatten(1, 2), self.embed_timestep(timestep).repeat_interleave(3, 1)
        x = self.gpt2(self.embed_ln(tokens) + time, mask.repeat_interleave(3, 1))
        action, state, return_to_go = x[:, 1::3], x[:, 2::3], x[:, 2::3]
        return self.predict_state(state), torch.tanh(self.predict_action(action)), self.predict_return(return_to_go)


class WindowLearner(Learner):
    """One seed. `synced` picks the real steps out by a mask, as released; else a product leaves the others out."""

    def loss(self, observation: Tensor, action: Tensor, return_to_go: Tensor, timestep: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of the actions of real steps."""
        predicted = self.model(observation, action, return_to_go, timestep, mask)[1].float()
        if self.synced:
            real = mask.reshape(-1)
            predicted = predicted.reshape(-1, predicted.shape[-1])[real]
            return torch.mean((predicted - action.reshape(-1, predicted.shape[-1])[real]) ** 2)
        errors = (predicted - action).square().mean(-1)
        return (errors * mask).sum() / mask.sum()


def learner(peer: str, workload: Workload, device: torch.device) -> Learner:
    model = DecisionTransformer(workload, "module" if peer == "R1" else "explicit").to(device)
    settings = {"synced": peer in ("R0", "R1"), "on_graph": peer == "R3", "clip_norm": workload.config.clip_norm}
    return WindowLearner(model, workload.config, **settings, weight_decay=DECAY)


def released_batch(workload: Workload) -> Callable[[], list[np.ndarray]]:
    data, config = workload.dataset, workload.config
    steps = {"observation": data.observations, "action": data.actions, "reward": data.rewards}
    steps |= {"terminal": data.terminals, "truncated": data.timeouts}
    names = ("observation", "action", "return_to_go", "timestep", "mask")
    make = looped_windows(steps, config.batch_size, config.context_length)

    def batch() -> list[np.ndarray]:
        arrays = make()
        return [arrays[name] for name in names]

    return batch


@torch.no_grad()
def distance(workload: Workload, device: torch.device) -> dict[str, float]:
    """Loss of the same weights on the same windows, without dropout."""
    state, found = workload.ours(1, device), {}
    windows = state.table.draw(state.draws.words(state.step, 1)["window"])[0]
    parts = (windows.observation, windows.action, windows.return_to_go, windows.timestep, windows.mask)
    expected = decision_transformer.loss(state, windows)
    for peer in ("R0", "R2"):
        peers = learner(peer, workload, device)
        peers.model.gpt2.load(state.backbone.detached())
        for name in ("return", "state", "action", "ln", "timestep"):
            load(getattr(peers.model, f"embed_{name}"), f"embed_{name}", state.embeddings.detached())
        load(peers.model.predict_action, "predict_action", state.embeddings.detached())
        peers.model.eval()
        found[f"{peer} loss"] = relative(peers.loss(*(part[0] for part in parts)), expected[0])
    return found


def in_jax(workload: Workload) -> tuple[Any, ...]:
    from baselines.in_jax import affine, dense, gpt2, jnp, norm, random, run_gpt2, unit_norm

    config, facts = workload.config, workload.rows.facts
    backbone, size, length = config.backbone, config.batch_size, config.context_length
    width, o, a = backbone.width, facts.observation_dim, facts.action_dim

    def initial(key: Any) -> Any:
        keys = random.split(key, 6)
        embeddings = {"return": dense(keys[0], 1, width), "state": dense(keys[1], o, width)}
        embeddings |= {"action": dense(keys[2], a, width), "time": random.normal(keys[3], (1000, width))}
        heads = {"ln": unit_norm(width), "head": dense(keys[5], width, a)}
        return embeddings | heads | {"gpt2": gpt2(keys[4], backbone)}

    def loss(learned: Any, key: Any, data: Any, _: Any) -> Any:
        draw, drop = random.split(key)
        start, place = random.randint(draw, (size,), 0, len(data["end"])), jnp.arange(length)
        taken = jnp.minimum(data["end"][start] - start, length)
        mask = place >= length - taken[:, None]
        index = jnp.where(mask, start[:, None] + place - (length - taken[:, None]), len(data["end"]))
        rows, time = data["rows"][index], data["timestep"][index]
        observation, action, to_go = jnp.split(rows, [o, o + a], -1)
        visible = jnp.repeat(mask, 3, -1)[:, None, :] & jnp.tril(jnp.ones((3 * length, 3 * length), bool))
        parts = (("return", to_go), ("state", observation), ("action", action))
        tokens = jnp.stack([affine(learned[name], part) for name, part in parts], 2)
        tokens = norm(learned["ln"], tokens) + learned["time"][time][:, :, None]
        x = run_gpt2(learned["gpt2"], backbone, tokens.reshape(size, 3 * length, width), visible, drop)
        predicted = jnp.tanh(affine(learned["head"], x[:, 1::3]))
        return (jnp.where(mask, ((predicted - action) ** 2).sum(-1), 0.0)).sum() / (mask.sum() * a)

    table = workload.rows.table(torch.device("cpu"), torch.float32)
    data = {name: getattr(table, name).numpy() for name in ("rows", "timestep", "end")}
    data = {name: array if name == "rows" else array.astype(np.int32) for name, array in data.items()}
    settings = {"rate": config.learning_rate, "warmup": config.warmup_updates, "decay": DECAY, "clip": config.clip_norm}
    return initial, loss, data, settings
