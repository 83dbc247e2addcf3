"""A GPT-2 language model for many seeds at once: token and position embeddings around a backbone, tied output layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from trajmill.models.gpt import Dropout, GPTConfig, backbone, gpt, looked_up, normal


def language_model(
    config: GPTConfig, vocabulary_size: int, generator: Generator, *, position_count: int = 1024, targets: int = 0
) -> dict[str, Tensor]:
    """Initial values of one model: ``wte``, ``wpe`` and the backbone, by the names of Hugging Face's GPT-2.

    With `targets` > 0 the outputs are that many other tokens, and have an embedding ``target.weight`` of their own.
    """
    values = {
        "wte.weight": normal((vocabulary_size, config.width), generator),
        "wpe.weight": normal((position_count, config.width), generator),
        **gpt(config, generator),
    }
    if targets:
        values["target.weight"] = normal((targets, config.width), generator)
    return values


def token_logits(leaves: Mapping[str, Tensor], config: GPTConfig, tokens: Tensor, dropout: Dropout = None) -> Tensor:
    """Scores of every possible output at every position, from the tokens so far: (S, B, T) int64 -> (S, B, T, V)."""
    positions = leaves["wpe.weight"][:, None, : tokens.shape[-1]]
    outputs = backbone(leaves, config, looked_up(leaves["wte.weight"], tokens) + positions, dropout=dropout)
    table = leaves.get("target.weight", leaves["wte.weight"])
    return torch.bmm(outputs.flatten(1, 2), table.transpose(1, 2)).view(*tokens.shape, -1)


def token_losses(
    leaves: Mapping[str, Tensor],
    config: GPTConfig,
    tokens: Tensor,
    targets: Tensor | None = None,
    dropout: Dropout = None,
) -> Tensor:
    """Mean cross-entropy in nats, (S,): of the next token at the first T - 1 positions, or of `targets` at all T."""
    logits = token_logits(leaves, config, tokens, dropout)
    if targets is None:
        logits, targets = logits[:, :, :-1], tokens[:, :, 1:]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none")
    return losses.view(len(tokens), -1).mean(1)
