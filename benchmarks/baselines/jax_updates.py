"""R4: the same updates in plain JAX, scanned inside one compiled call, for one seed or `vmap`-ed over many.

Data stay on the device, indices are drawn there, nothing is read back; no library beside JAX. Written from the same
equations as the PyTorch peers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

Tree = Any
Data = Mapping[str, Any]
PRECISIONS = {"fp32": "highest", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}


def scanned(
    initial: Callable[[Any], Tree],
    update: Callable[[Tree, Data], Tree],
    data: Mapping[str, np.ndarray],
    *,
    seeds: int,
    chunk: int,
) -> tuple[Callable[[int], None], Callable[[], None], Callable[[], np.ndarray]]:
    """(run, finish, losses): `run` makes a multiple of `chunk` updates of every seed, `finish` waits for them."""

    def many(state: Tree, data: Data) -> Tree:
        return lax.scan(lambda carry, _: (update(carry, data), None), state, None, length=chunk)[0]

    function = many if seeds == 1 else jax.vmap(many, in_axes=(0, None))
    function = jax.jit(function, donate_argnums=0)
    keys = random.split(random.key(0), seeds)
    # compiled, so that no two tensors of the state share their zeros: each is donated
    state = jax.jit(initial)(keys[0]) if seeds == 1 else jax.jit(jax.vmap(initial))(keys)
    on_device = {name: jnp.asarray(array) for name, array in data.items()}
    holder = [state]

    def run(count: int) -> None:
        for _ in range(count // chunk):
            holder[0] = function(holder[0], on_device)

    return run, lambda: jax.block_until_ready(holder[0]), lambda: np.asarray(holder[0]["loss"]).reshape(-1)


def dense(key: Any, inputs: int, outputs: int) -> Tree:
    bound = 1 / math.sqrt(inputs)
    return {"w": random.uniform(key, (inputs, outputs), minval=-bound, maxval=bound), "b": jnp.zeros(outputs)}


def mlp(key: Any, inputs: int, outputs: int) -> Tree:
    sizes = [(inputs, 256), (256, 256), (256, outputs)]
    return [dense(k, *size) for k, size in zip(random.split(key, 3), sizes, strict=True)]


def affine(layer: Tree, x: Any) -> Any:
    return x @ layer["w"] + layer["b"]


def forward(layers: Tree, x: Any) -> Any:
    for layer in layers[:-1]:
        x = jax.nn.relu(affine(layer, x))
    return affine(layers[-1], x)


def fresh_moments(parameters: Tree) -> Tree:
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return {"m": zeros, "v": zeros, "t": jnp.zeros(())}


def adam(
    parameters: Tree, moments: Tree, gradient: Tree, rate: Any, *, epsilon: float = 1e-8, decay: float = 0.0
) -> tuple[Tree, Tree]:
    t = moments["t"] + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments["m"], gradient)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments["v"], gradient)
    first, second = 1 - 0.9**t, 1 - 0.999**t

    def moved(p: Any, m: Any, v: Any) -> Any:
        return p * (1 - rate * decay) - rate * (m / first) / (jnp.sqrt(v / second) + epsilon)

    return jax.tree.map(moved, parameters, m, v), {"m": m, "v": v, "t": t}


def cql(observation_dim: int, action_dim: int, *, batch_size: int, bound: float, n: int = 3) -> tuple[Any, Any]:
    """(initial, update) on data ``rows``: observation, action, reward, terminal, next observation side by side."""
    o, a = observation_dim, action_dim

    def initial(key: Any) -> Tree:
        keys = random.split(key, 4)
        critic = jax.vmap(lambda k: mlp(k, o + a, 1))(random.split(keys[0], 2))
        learned = {
            "critic": critic,
            "policy": [mlp(keys[1], o, 2 * a), jnp.array([1.0, -1.0])],
            "log_alpha": jnp.zeros(()),
        }
        return {
            "learned": learned,
            "target": jax.tree.map(jnp.copy, critic),
            "moments": fresh_moments(learned),
            "key": keys[2],
            "loss": jnp.zeros(()),
        }

    def values(critic: Tree, observation: Any, action: Any) -> Any:
        inputs = jnp.concatenate([jnp.broadcast_to(observation, (*action.shape[:-1], o)), action], -1)
        return jax.vmap(forward, in_axes=(0, None))(critic, inputs)[..., 0]

    def law(policy: Tree, observation: Any) -> tuple[Any, Any]:
        mean, log_std = jnp.split(forward(policy[0], observation), 2, -1)
        return mean, jnp.clip(policy[1][0] * log_std + policy[1][1], -20, 2)

    def sample(key: Any, mean: Any, log_std: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
        noise = random.normal(key, shape)
        raw = mean + jnp.exp(log_std) * noise
        density = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        density = density - 2 * (math.log(2) - raw - jax.nn.softplus(-2 * raw))
        return jnp.tanh(raw), density.sum(-1)

    def update(state: Tree, data: Data) -> Tree:
        key, *keys = random.split(state["key"], 7)
        rows = data["rows"][random.randint(keys[0], (batch_size,), 0, data["rows"].shape[0])]
        observation, action, reward, terminal, following = jnp.split(rows, [o, o + a, o + a + 1, o + a + 2], -1)
        several = (n, batch_size, a)

        def loss(learned: Tree) -> Any:
            fixed = lax.stop_gradient(learned)
            mean, log_std = law(learned["policy"], observation)
            action_now, log_now = sample(keys[1], mean, log_std, (batch_size, a))
            alpha = jnp.exp(fixed["log_alpha"])
            policy_loss = (alpha * log_now - values(fixed["critic"], observation, action_now).min(0)).mean()
            alpha_loss = -learned["log_alpha"] * (lax.stop_gradient(log_now) - a).mean()

            still = lax.stop_gradient((mean, log_std))
            later = law(fixed["policy"], following)
            next_action, _ = sample(keys[2], *later, (batch_size, a))
            next_value = values(state["target"], following, next_action).min(0)
            target = jnp.minimum(reward[:, 0] + 0.99 * (1 - terminal[:, 0]) * next_value, bound)
            current, current_log = sample(keys[3], *still, several)
            after, after_log = sample(keys[4], *later, several)
            uniform = random.uniform(keys[5], several, minval=-1.0)
            actions = jnp.concatenate([action[None], uniform, after, current])
            found = values(learned["critic"], observation, actions)  # (2, 1 + 3n, B)
            density = jnp.concatenate([jnp.full((n, batch_size), -a * math.log(2)), after_log, current_log])
            bellman = ((found[:, 0] - target) ** 2).mean(1).sum()
            conservative = jax.nn.logsumexp(found[:, 1:] - density, 1) - found[:, 0]
            return bellman + 5 * conservative.mean(1).sum() + policy_loss + alpha_loss

        value, gradient = jax.value_and_grad(loss)(state["learned"])
        learned, moments = adam(state["learned"], state["moments"], gradient, 3e-4)
        target = jax.tree.map(lambda old, new: old + 0.005 * (new - old), state["target"], learned["critic"])
        return {"learned": learned, "target": target, "moments": moments, "key": key, "loss": value}

    return initial, update


def forward_dynamics(observation_dim: int, action_dim: int, *, batch_size: int) -> tuple[Any, Any]:
    """(initial, update) on data ``rows`` (state, action, next) and the vectors ``states`` and ``actions``."""

    def initial(key: Any) -> Tree:
        split = random.split(key, 3)
        models = jax.vmap(lambda k: mlp(k, observation_dim + action_dim, observation_dim))(split[:2])
        return {"learned": models, "moments": fresh_moments(models), "key": split[2], "loss": jnp.zeros(())}

    def update(state: Tree, data: Data) -> Tree:
        key, draw = random.split(state["key"])
        rows = data["rows"][random.randint(draw, (batch_size,), 0, data["rows"].shape[0])]
        inputs = jnp.concatenate([data["states"][rows[:, 0]], data["actions"][rows[:, 1]]], -1)
        target = data["states"][rows[:, 2]]

        def loss(models: Tree) -> Any:
            predicted = jax.vmap(forward, in_axes=(0, None))(models, inputs)
            return ((predicted - target) ** 2).mean((1, 2)).sum()

        value, gradient = jax.value_and_grad(loss)(state["learned"])
        learned, moments = adam(state["learned"], state["moments"], gradient, 3e-4)
        return {"learned": learned, "moments": moments, "key": key, "loss": value}

    return initial, update


def gpt_block(key: Any, width: int) -> Tree:
    keys = random.split(key, 4)
    shapes = {"attend": (width, 3 * width), "project": (width, width), "grow": (width, 4 * width)}
    shapes["shrink"] = (4 * width, width)
    layers = {
        name: {"w": 0.02 * random.normal(k, shape), "b": jnp.zeros(shape[1])}
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return layers | {"ln_1": unit_norm(width), "ln_2": unit_norm(width)}


def unit_norm(width: int) -> Tree:
    return {"w": jnp.ones(width), "b": jnp.zeros(width)}


def norm(layer: Tree, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer["w"] + layer["b"]


def dropped(key: Any, x: Any, probability: float) -> Any:
    return jnp.where(random.bernoulli(key, 1 - probability, x.shape), x / (1 - probability), 0.0)


def run_block(layers: Tree, x: Any, allowed: Any, key: Any, residual: float) -> Any:
    """Pre-normed block with one head, attention weights dropped by 0.1."""
    keys = random.split(key, 3)
    query, key_, value = jnp.split(affine(layers["attend"], norm(layers["ln_1"], x)), 3, -1)
    scores = jnp.where(allowed, query @ key_.swapaxes(-1, -2) / math.sqrt(x.shape[-1]), -1e4)
    mixed = dropped(keys[0], jax.nn.softmax(scores, -1), 0.1) @ value
    x = x + dropped(keys[1], affine(layers["project"], mixed), residual)
    inner = jax.nn.relu(affine(layers["grow"], norm(layers["ln_2"], x)))
    return x + dropped(keys[2], affine(layers["shrink"], inner), residual)


def decision_transformer(
    observation_dim: int, action_dim: int, *, batch_size: int, length: int, width: int = 128, layers: int = 3
) -> tuple[Any, Any]:
    """(initial, update) on data ``rows`` (observation, action, return to go), ``timestep`` and ``end`` of each step."""
    o, a = observation_dim, action_dim

    def initial(key: Any) -> Tree:
        keys = random.split(key, 7)
        learned = {
            "return": dense(keys[0], 1, width),
            "state": dense(keys[1], o, width),
            "action": dense(keys[2], a, width),
            "time": random.normal(keys[3], (1000, width)),
            "ln": unit_norm(width),
            "blocks": [gpt_block(k, width) for k in random.split(keys[4], layers)],
            "ln_f": unit_norm(width),
            "head": dense(keys[5], width, a),
        }
        return {"learned": learned, "moments": fresh_moments(learned), "key": keys[6], "loss": jnp.zeros(())}

    def update(state: Tree, data: Data) -> Tree:
        key, draw, drop, *keys = random.split(state["key"], 3 + layers)
        start = random.randint(draw, (batch_size,), 0, data["end"].shape[0])
        place = jnp.arange(length)
        taken = jnp.minimum(data["end"][start] - start, length)
        mask = place >= length - taken[:, None]
        index = jnp.where(mask, start[:, None] + place - (length - taken[:, None]), data["end"].shape[0])
        rows, time = data["rows"][index], data["timestep"][index]
        observation, action, to_go = jnp.split(rows, [o, o + a], -1)
        visible = jnp.repeat(mask, 3, -1)[:, None, :] & jnp.tril(jnp.ones((3 * length, 3 * length), bool))

        def loss(learned: Tree) -> Any:
            parts = [
                affine(learned["return"], to_go),
                affine(learned["state"], observation),
                affine(learned["action"], action),
            ]
            tokens = norm(learned["ln"], jnp.stack(parts, 2)) + learned["time"][time][:, :, None]
            x = dropped(drop, tokens.reshape(batch_size, 3 * length, width), 0.1)
            for layer, one in zip(learned["blocks"], keys, strict=True):
                x = run_block(layer, x, visible, one, 0.2)
            predicted = jnp.tanh(affine(learned["head"], norm(learned["ln_f"], x[:, 1::3])))
            return (jnp.where(mask, ((predicted - action) ** 2).sum(-1), 0.0)).sum() / (mask.sum() * a)

        value, gradient = jax.value_and_grad(loss)(state["learned"])
        size = jnp.sqrt(sum((g**2).sum() for g in jax.tree.parameters(gradient)))
        gradient = jax.tree.map(lambda g: g * jnp.minimum(0.25 / (size + 1e-6), 1.0), gradient)
        rate = 1e-4 * jnp.minimum((state["moments"]["t"] + 1) / 5000, 1.0)
        learned, moments = adam(state["learned"], state["moments"], gradient, rate, decay=1e-4)
        return {"learned": learned, "moments": moments, "key": key, "loss": value}

    return initial, update


def language_model(
    vocabulary: int, *, batch_size: int, length: int, width: int = 128, layers: int = 3
) -> tuple[Any, Any]:
    """(initial, update) on data ``tokens`` (N, T)."""

    def initial(key: Any) -> Tree:
        keys = random.split(key, 4)
        learned = {
            "wte": 0.02 * random.normal(keys[0], (vocabulary, width)),
            "wpe": 0.02 * random.normal(keys[1], (length, width)),
            "blocks": [gpt_block(k, width) for k in random.split(keys[2], layers)],
            "ln_f": unit_norm(width),
        }
        return {"learned": learned, "moments": fresh_moments(learned), "key": keys[3], "loss": jnp.zeros(())}

    def update(state: Tree, data: Data) -> Tree:
        key, draw, drop, *keys = random.split(state["key"], 3 + layers)
        tokens = data["tokens"][random.randint(draw, (batch_size,), 0, data["tokens"].shape[0])]
        causal = jnp.tril(jnp.ones((length, length), bool))

        def loss(learned: Tree) -> Any:
            x = dropped(drop, learned["wte"][tokens] + learned["wpe"], 0.1)
            for layer, one in zip(learned["blocks"], keys, strict=True):
                x = run_block(layer, x, causal, one, 0.1)
            scores = jax.nn.log_softmax(norm(learned["ln_f"], x)[:, :-1] @ learned["wte"].T)
            return -jnp.take_along_axis(scores, tokens[:, 1:, None], -1).mean()

        value, gradient = jax.value_and_grad(loss)(state["learned"])
        rate = 3e-4 * jnp.minimum((state["moments"]["t"] + 1) / 10_000, 1.0)
        learned, moments = adam(state["learned"], state["moments"], gradient, rate, epsilon=1e-6, decay=1e-2)
        return {"learned": learned, "moments": moments, "key": key, "loss": value}

    return initial, update
