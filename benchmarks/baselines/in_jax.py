"""R4: the same updates in plain JAX, scanned inside one compiled call, for one seed or `vmap`-ed over many.

Data stay on the device, indices are drawn there, nothing is read back; no library beside JAX. Written from the same
equations as the PyTorch peers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

Tree = Any
PRECISIONS = {"fp32": "highest", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}


def scanned(
    initial: Callable[[Any], Tree],
    loss: Callable[[Tree, Any, Mapping[str, Any], Tree], Any],
    data: Mapping[str, np.ndarray],
    *,
    seeds: int,
    chunk: int,
    rate: float,
    warmup: int = 1,
    epsilon: float = 1e-8,
    decay: float = 0.0,
    clip: float = math.inf,
    followed: str | None = None,
) -> tuple[Callable[[int], None], Callable[[], None], Callable[[], np.ndarray]]:
    """(run, finish, losses): `run` makes a multiple of `chunk` updates of every seed, `finish` waits for them.

    `initial(key)` gives what is learned, ``loss(learned, key, data, target)`` is minimized by Adam. The target moves
    slowly towards the part `followed` of what is learned.
    """

    def part(learned: Tree) -> Tree:
        return {} if followed is None else learned[followed]

    def fresh(key: Any) -> Tree:
        learn, draw = random.split(key)
        learned = initial(learn)
        zeros = jax.tree.map(jnp.zeros_like, learned)
        state = {"learned": learned, "target": part(learned), "m": zeros, "v": zeros}
        return state | {"t": jnp.zeros(()), "key": draw, "loss": jnp.zeros(())}

    def update(state: Tree, data: Mapping[str, Any]) -> Tree:
        key, draw = random.split(state["key"])
        value, gradient = jax.value_and_grad(loss)(state["learned"], draw, data, state["target"])
        if clip < math.inf:
            size = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
            gradient = jax.tree.map(lambda g: g * jnp.minimum(clip / (size + 1e-6), 1.0), gradient)
        t = state["t"] + 1
        step = rate * jnp.minimum(t / warmup, 1.0)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], gradient)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["v"], gradient)
        first, second = 1 - 0.9**t, 1 - 0.999**t

        def moved(p: Any, m: Any, v: Any) -> Any:
            return p * (1 - step * decay) - step * (m / first) / (jnp.sqrt(v / second) + epsilon)

        learned = jax.tree.map(moved, state["learned"], m, v)
        target = jax.tree.map(lambda old, new: old + 0.005 * (new - old), state["target"], part(learned))
        return {"learned": learned, "target": target, "m": m, "v": v, "t": t, "key": key, "loss": value}

    def many(state: Tree, data: Mapping[str, Any]) -> Tree:
        return lax.scan(lambda carry, _: (update(carry, data), None), state, None, length=chunk)[0]

    keys, start, function = random.split(random.key(0), seeds), jax.vmap(fresh), jax.vmap(many, in_axes=(0, None))
    if seeds == 1:
        keys, start, function = keys[0], fresh, many
    holder = [jax.jit(start)(keys)]  # compiled, so that no two tensors share their numbers: each is donated
    function = jax.jit(function, donate_argnums=0)
    on_device = {name: jnp.asarray(array) for name, array in data.items()}

    def run(count: int) -> None:
        for _ in range(count // chunk):
            holder[0] = function(holder[0], on_device)

    return run, lambda: jax.block_until_ready(holder[0]), lambda: np.asarray(holder[0]["loss"]).reshape(-1)


def dense(key: Any, inputs: int, outputs: int) -> Tree:
    bound = 1 / math.sqrt(inputs)
    return {"w": random.uniform(key, (inputs, outputs), minval=-bound, maxval=bound), "b": jnp.zeros(outputs)}


def affine(layer: Tree, x: Any) -> Any:
    return x @ layer["w"] + layer["b"]


def mlp(key: Any, sizes: Sequence[int]) -> Tree:
    keys = random.split(key, len(sizes) - 1)
    return [dense(*layer) for layer in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def forward(layers: Tree, x: Any) -> Any:
    for layer in layers[:-1]:
        x = jax.nn.relu(affine(layer, x))
    return affine(layers[-1], x)


def gpt2(key: Any, config: Any) -> Tree:
    """Blocks and last normalization of a GPT-2 with one head."""
    width, blocks = config.width, []
    shapes = {"attend": (width, 3 * width), "project": (width, width), "grow": (width, 4 * width)}
    shapes["shrink"] = (4 * width, width)
    for one in random.split(key, config.layer_count):
        layers = {
            name: {"w": 0.02 * random.normal(k, shape), "b": jnp.zeros(shape[1])}
            for k, (name, shape) in zip(random.split(one, 4), shapes.items(), strict=True)
        }
        blocks.append(layers | {"ln_1": unit_norm(width), "ln_2": unit_norm(width)})
    return {"blocks": blocks, "ln_f": unit_norm(width)}


def unit_norm(width: int) -> Tree:
    return {"w": jnp.ones(width), "b": jnp.zeros(width)}


def norm(layer: Tree, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer["w"] + layer["b"]


def dropped(key: Any, x: Any, probability: float) -> Any:
    return jnp.where(random.bernoulli(key, 1 - probability, x.shape), x / (1 - probability), 0.0)


def run_gpt2(learned: Tree, config: Any, x: Any, allowed: Any, key: Any) -> Any:
    """Pre-normed blocks on embedded tokens, numbers dropped as GPT-2 drops them."""
    key, embedding = random.split(key)
    x = dropped(embedding, x, config.embedding_dropout)
    for layers, one in zip(learned["blocks"], random.split(key, config.layer_count), strict=True):
        keys = random.split(one, 3)
        query, key_, value = jnp.split(affine(layers["attend"], norm(layers["ln_1"], x)), 3, -1)
        scores = jnp.where(allowed, query @ key_.swapaxes(-1, -2) / math.sqrt(x.shape[-1]), -1e4)
        mixed = dropped(keys[0], jax.nn.softmax(scores, -1), config.attention_dropout) @ value
        x = x + dropped(keys[1], affine(layers["project"], mixed), config.residual_dropout)
        inner = jax.nn.relu(affine(layers["grow"], norm(layers["ln_2"], x)))
        x = x + dropped(keys[2], affine(layers["shrink"], inner), config.residual_dropout)
    return norm(learned["ln_f"], x)
