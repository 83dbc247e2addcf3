"""Slow, obvious Decision Transformer of one seed in float64: one window at a time, without padding; plain torch.

Weights are dicts of (in, out) matrices by the names of the released code. A window of n real steps in a frame of K is
computed alone, as 3 n tokens; dropout factors are those of the frame's last 3 n places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Window:
    """The real steps of one window: (n, O), (n, A), (n,), (n,)."""

    observation: Tensor
    action: Tensor
    return_to_go: Tensor
    timestep: Tensor


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gpt2(weights: Weights, x: Tensor, *, layers: int, heads: int, factors: Mapping[str, Tensor]) -> Tensor:
    """(n, width) -> (n, width); `factors` hold the dropout factors of this sequence, by site."""
    length, width = x.shape
    size = width // heads
    x = x * factors["embedding"]
    for layer in range(layers):
        h = f"h.{layer}"
        qkv = linear(layer_norm(x, weights, f"{h}.ln_1"), weights, f"{h}.attn.c_attn")
        q, k, v = qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :]
        mixed = torch.zeros_like(q)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(length):  # position i looks at 0 ... i
                scores = k[: i + 1, part] @ q[i, part] / math.sqrt(size)
                attention = torch.softmax(scores, 0) * factors[f"{h}.attn.weights"][head, i, : i + 1]
                mixed[i, part] = attention @ v[: i + 1, part]
        x = x + linear(mixed, weights, f"{h}.attn.c_proj") * factors[f"{h}.attn"]
        inner = torch.relu(linear(layer_norm(x, weights, f"{h}.ln_2"), weights, f"{h}.mlp.c_fc"))
        x = x + linear(inner, weights, f"{h}.mlp.c_proj") * factors[f"{h}.mlp"]
    return layer_norm(x, weights, "ln_f")


def predict(
    weights: Weights,
    window: Window,
    *,
    order: str,
    shared: bool,
    layers: int,
    heads: int,
    factors: Mapping[str, Tensor],
) -> Tensor:
    """Actions (n, A) of the real steps."""
    time = weights["embed_timestep.weight"][window.timestep]
    parts = [
        linear(window.return_to_go[:, None], weights, "embed_return"),
        linear(window.observation, weights, "embed_state"),
        linear(window.action, weights, "embed_action"),
    ]
    tokens = []
    for t in range(len(window.action)):
        for part in parts:
            if order == "timestep-first":
                tokens.append(layer_norm(part[t] + time[t], weights, "embed_ln"))
            else:
                tokens.append(layer_norm(part[t], weights, "embed_ln") + time[t])
    out = gpt2(weights, torch.stack(tokens), layers=layers, heads=heads, factors=factors)[1::3]
    if shared:
        return torch.tanh(out @ weights["embed_action.weight"].T)
    return torch.tanh(linear(out, weights, "predict_action"))


def cut(factors: Mapping[str, Tensor], row: int, places: int) -> dict[str, Tensor]:
    """Dropout factors of window `row` for its last `places` tokens."""
    found = {}
    for site, values in factors.items():
        one = values[row]
        found[site] = one[:, -places:, -places:] if site.endswith("weights") else one[-places:]
    return found


def mean_squared_error(
    weights: Weights, windows: list[Window], factors: Mapping[str, Tensor], **shape: object
) -> Tensor:
    """Over all numbers of the actions of all real steps."""
    errors = []
    for row, window in enumerate(windows):
        found = predict(weights, window, factors=cut(factors, row, 3 * len(window.action)), **shape)
        errors.append(((found - window.action) ** 2).flatten())
    return torch.cat(errors).mean()


def cluster_cosine(weights: Weights, windows: list[Window], centers: Tensor) -> Tensor:
    """Mean over every token of every real step of its cosine with the center nearest to it."""
    found = []
    for window in windows:
        parts = [
            linear(window.return_to_go[:, None], weights, "embed_return"),
            linear(window.observation, weights, "embed_state"),
            linear(window.action, weights, "embed_action"),
        ]
        for part in parts:
            for token in part:
                e = layer_norm(token, weights, "embed_ln")
                found.append(max((e @ c) / (e.norm() * c.norm()) for c in centers))
    return torch.stack(found).mean()


def cluster_product(weights: Weights, windows: list[Window], centers: Tensor, padding: Window, length: int) -> Tensor:
    """The term as released: windows are filled up with `padding` to `length` steps, every token is multiplied by every
    center, and the greatest product of each coordinate counts."""
    centers = centers / centers.norm(dim=-1, keepdim=True)
    found = []
    for window in windows:
        steps = [padding] * (length - len(window.action)) + [window]
        parts = [
            linear(torch.cat([step.return_to_go for step in steps])[:, None], weights, "embed_return"),
            linear(torch.cat([step.observation for step in steps]), weights, "embed_state"),
            linear(torch.cat([step.action for step in steps]), weights, "embed_action"),
        ]
        for part in parts:
            for token in part:
                e = layer_norm(token, weights, "embed_ln")
                products = torch.stack([c * (e / e.norm()) for c in centers])
                found.append(products.max(0).values)
    return torch.stack(found).mean()


def language_loss(
    weights: Weights, sequences: Tensor, factors: Mapping[str, Tensor], positions: str, **shape: int
) -> Tensor:
    """Mean of -log p(next token) over all but the last token of each sequence; `positions` names their table."""
    losses = []
    for row, sequence in enumerate(sequences):
        x = weights["wte.weight"][sequence] + weights[positions][: len(sequence)]
        out = gpt2(weights, x, factors={site: values[row] for site, values in factors.items()}, **shape)
        for t in range(len(sequence) - 1):
            scores = weights["wte.weight"] @ out[t]
            losses.append(torch.logsumexp(scores, 0) - scores[sequence[t + 1]])
    return torch.stack(losses).mean()
