"""A GPT-2 backbone for many seeds at once: pre-normed blocks of causal attention and a ReLU perceptron.

Names and shapes of the parameters are those of Hugging Face's GPT-2 without the leading axis of seeds, so that weights
travel by name (`trajmill.models.gpt2_files`). Sizes and initial values are arXiv 2310.00771's and its code's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from trajmill.models.mlp import affine, named
from trajmill.models.precision import batched, to_product_dtype

Dropout = Mapping[str, Tensor] | Literal["torch"] | None
"""how numbers are dropped: by factors (S, ...) for the sites of `GPTConfig.dropout_shapes`, with addresses; by torch's
own generator, which is faster for long sequences; or not at all"""

EVERY = slice(None)

QUERY_BLOCK = 256
"""positions whose attention is computed together where torch has no fused kernel: keys after the last are left out"""

MASKED = -1e4
"""added to the score of a key that may not be seen; finite, as in the released code, so that a row without keys is no
NaN"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """Shape of a backbone; the defaults are the paper's."""

    layer_count: int = 3
    """blocks, at least 1"""
    head_count: int = 1
    """attention heads, a divisor of `width`"""
    width: int = 128
    """numbers that stand for one token"""
    activation: Literal["relu", "gelu"] = "relu"
    """of the perceptron; gelu is GPT-2's own (its tanh form)"""
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    """probabilities in [0, 1) of dropping an embedding, an attention weight, a block's contribution"""

    def __post_init__(self) -> None:
        if min(self.layer_count, self.head_count, self.width) < 1 or self.width % self.head_count:
            raise ValueError(
                f"layer_count, head_count and width must be at least 1 and head_count divide width, got "
                f"{self.layer_count}, {self.head_count}, {self.width}"
            )
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    def products(self, length: int) -> int:
        """Numbers that a token of a sequence of this length is multiplied with."""
        return self.layer_count * self.width * (12 * self.width + 2 * length)

    def dropout_shapes(self, batch_size: int, length: int) -> dict[str, tuple[float, tuple[int, ...]]]:
        """Site -> (probability, shape for one seed) of every place where a backbone drops numbers."""
        residual = (self.residual_dropout, (batch_size, length, self.width))
        sites: dict[str, tuple[float, tuple[int, ...]]] = {"embedding": (self.embedding_dropout, residual[1])}
        for layer in range(self.layer_count):
            attention = (batch_size, self.head_count, length, length)
            sites[f"h.{layer}.attn.weights"] = (self.attention_dropout, attention)
            sites |= {f"h.{layer}.attn": residual, f"h.{layer}.mlp": residual}
        return {site: (probability, shape) for site, (probability, shape) in sites.items() if probability > 0.0}


def normal(shape: tuple[int, ...], generator: Generator, deviation: float = 0.02) -> Tensor:
    """GPT-2's initial values of weights and embeddings."""
    return torch.empty(shape).normal_(0.0, deviation, generator=generator)


def gpt(config: GPTConfig, generator: Generator) -> dict[str, Tensor]:
    """Initial values of one backbone: blocks ``h.<i>.*`` and the last normalization ``ln_f.*``."""
    width = config.width
    projected = 0.02 / math.sqrt(2 * config.layer_count)  # what a block adds to the residual stream starts small
    values: dict[str, Tensor] = {}
    for layer in range(config.layer_count):
        parts = {
            "ln_1": unit_norm(width),
            "attn.c_attn": _linear(width, 3 * width, generator),
            "attn.c_proj": _linear(width, width, generator, projected),
            "ln_2": unit_norm(width),
            "mlp.c_fc": _linear(width, 4 * width, generator),
            "mlp.c_proj": _linear(4 * width, width, generator, projected),
        }
        for name, part in parts.items():
            values |= named(f"h.{layer}.{name}", part)
    return values | named("ln_f", unit_norm(width))


def unit_norm(width: int) -> dict[str, Tensor]:
    """Initial values of a layer normalization."""
    return {"weight": torch.ones(width), "bias": torch.zeros(width)}


def _linear(input_dim: int, output_dim: int, generator: Generator, deviation: float = 0.02) -> dict[str, Tensor]:
    return {"weight": normal((input_dim, output_dim), generator, deviation), "bias": torch.zeros(output_dim)}


def gpt_outputs(
    parameters: Mapping[str, Tensor],
    config: GPTConfig,
    inputs: Tensor,
    *,
    visible: Tensor | None = None,
    dropout: Dropout = None,
    wanted: slice = EVERY,
) -> Tensor:
    """Outputs (S, B, W, width) at the `wanted` positions, for embedded tokens (S, B, T, width).

    A position looks at itself and at those before it; of these `visible` (S, B, T) bool may hide some. The last block
    computes no more than what is wanted.
    """
    stream = _dropped(inputs, dropout, "embedding", config.embedding_dropout)
    masking = None if visible is None else _masking(visible, stream.dtype)
    for layer in range(config.layer_count):
        block = f"h.{layer}"
        kept = wanted if layer == config.layer_count - 1 else EVERY
        normed = norm(parameters, f"{block}.ln_1", stream)
        attended = _attention(parameters, f"{block}.attn", config, normed, masking, dropout, kept)
        stream = stream[:, :, kept] + _dropped(attended, dropout, f"{block}.attn", config.residual_dropout, kept)
        inner = rows(parameters, f"{block}.mlp.c_fc", norm(parameters, f"{block}.ln_2", stream))
        inner = F.relu(inner) if config.activation == "relu" else F.gelu(inner, approximate="tanh")
        added = rows(parameters, f"{block}.mlp.c_proj", inner)
        stream = stream + _dropped(added, dropout, f"{block}.mlp", config.residual_dropout, kept)
    return norm(parameters, "ln_f", stream)


def norm(parameters: Mapping[str, Tensor], layer: str, inputs: Tensor) -> Tensor:
    """Layer normalization over the last axis (epsilon 1e-5), each seed with its own gain and offset."""
    gain, offset = (parameters[f"{layer}.{name}"][:, None, None] for name in ("weight", "bias"))
    return torch.addcmul(offset, F.layer_norm(inputs, inputs.shape[-1:]), gain)


def rows(parameters: Mapping[str, Tensor], layer: str, inputs: Tensor, *, exact: bool = False) -> Tensor:
    """``x W + b`` for every position: (S, B, T, in) -> (S, B, T, out)."""
    weight, bias = parameters[f"{layer}.weight"], parameters[f"{layer}.bias"].view(len(inputs), 1, -1)
    return affine(inputs.flatten(1, 2), weight, bias, exact=exact).view(*inputs.shape[:3], -1)


def _attention(
    parameters: Mapping[str, Tensor],
    layer: str,
    config: GPTConfig,
    inputs: Tensor,
    masking: Tensor | None,
    dropout: Dropout,
    kept: slice,
) -> Tensor:
    """What the positions `kept` take from those they may look at, (S, B, kept, width)."""
    seeds, batch, length, width = inputs.shape
    projection = f"{layer}.c_attn"
    if kept == EVERY:
        query, key, value = rows(parameters, projection, inputs).chunk(3, -1)
    else:
        query = rows(_columns(parameters, projection, slice(width)), projection, inputs[:, :, kept])
        key, value = rows(_columns(parameters, projection, slice(width, None)), projection, inputs).chunk(2, -1)
    query, key, value = (
        part.reshape(seeds * batch, -1, config.head_count, width // config.head_count).transpose(1, 2)
        for part in (query, key, value)
    )
    probability = config.attention_dropout if dropout is not None else 0.0
    # torch fuses what looks back at all before it: on a CPU without dropout alone, and never with our addresses
    fused = probability == 0.0 or (dropout == "torch" and inputs.is_cuda)
    if masking is None and kept == EVERY and fused:
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=probability, is_causal=True)
    else:
        if masking is None:
            masking = _masking(torch.ones(1, 1, length, dtype=torch.bool, device=inputs.device), inputs.dtype)
        parts = []
        for queries, positions, seen in _blocks(query, kept):
            scores = batched(torch.matmul, queries / math.sqrt(queries.shape[-1]), key[:, :, seen].transpose(-1, -2))
            weights = (scores + masking[..., positions, seen]).softmax(-1).unflatten(0, (seeds, batch))
            weights = _dropped(weights, dropout, f"{layer}.weights", probability, positions, seen).flatten(0, 1)
            parts.append(batched(torch.matmul, to_product_dtype(weights), value[:, :, seen]))
        mixed = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
    return rows(parameters, f"{layer}.c_proj", mixed.transpose(1, 2).reshape(seeds, batch, -1, width))


def _blocks(query: Tensor, kept: slice) -> Iterator[tuple[Tensor, slice, slice]]:
    """Queries (..., N, width) in blocks, or at once if not all positions are kept; their positions; keys they see."""
    if kept != EVERY:
        yield query, kept, EVERY
        return
    for first in range(0, query.shape[-2], QUERY_BLOCK):
        end = first + QUERY_BLOCK
        yield query[..., first:end, :], slice(first, end), slice(end)


def _columns(parameters: Mapping[str, Tensor], layer: str, part: slice) -> dict[str, Tensor]:
    """A layer that computes only some of its outputs."""
    return {name: parameters[name][..., part] for name in (f"{layer}.weight", f"{layer}.bias")}


def _masking(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores, 0 where position i may look at position j: (S, B, T) bool -> (S·B, 1, T, T)."""
    length = visible.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    hidden = ~(causal & visible.flatten(0, 1)[:, None, None, :])
    return hidden.to(dtype).mul_(MASKED)


def looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Rows of each seed's table: (S, N, width), (S, ...) int64 -> (S, ..., width)."""
    seeds, count, width = table.shape
    offset = torch.arange(seeds, device=table.device).view(-1, *[1] * (index.ndim - 1)) * count
    return table.reshape(-1, width).index_select(0, (index + offset).flatten()).view(*index.shape, width)


def _dropped(
    inputs: Tensor, dropout: Dropout, site: str, probability: float, kept: slice = EVERY, seen: slice = EVERY
) -> Tensor:
    """`inputs`, the part [..., kept, seen] of a site, with some numbers dropped."""
    if dropout is None or probability == 0.0:
        return inputs
    if dropout == "torch":
        return F.dropout(inputs, probability)
    return inputs * dropout[site][..., kept, seen]
