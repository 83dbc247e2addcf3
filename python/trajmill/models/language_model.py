"""A GPT-2 language model for many seeds at once: token and position embeddings around a backbone, tied output layer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from trajmill.models.gpt import Dropout, GPTConfig, gpt, gpt_outputs, looked_up, normal
from trajmill.models.precision import to_product_dtype

CHUNK = 1 << 25
"""scores that exist at once while a loss is computed: 128 MB of them, however many tokens there are"""


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


def token_logits(
    parameters: Mapping[str, Tensor], config: GPTConfig, tokens: Tensor, dropout: Dropout = None
) -> Tensor:
    """Scores of every possible output at every position, from the tokens so far: (S, B, T) int64 -> (S, B, T, V)."""
    outputs, table = _outputs(parameters, config, tokens, dropout)
    return torch.bmm(outputs.flatten(1, 2), table.transpose(1, 2)).view(*tokens.shape, -1)


def token_losses(
    parameters: Mapping[str, Tensor],
    config: GPTConfig,
    tokens: Tensor,
    targets: Tensor | None = None,
    dropout: Dropout = None,
    target_counts: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy in nats, (S,): of the next token at the first T - 1 positions, or of `targets` at all T.

    With `target_counts` (S,), by which sums over positions are divided, nothing is predicted where `targets` is -1.
    """
    outputs, table = _outputs(parameters, config, tokens, dropout)
    if targets is None:
        outputs, targets = outputs[:, :, :-1], tokens[:, :, 1:]
    losses: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        outputs.flatten(1, 2), table, targets.flatten(1), target_counts
    )
    return losses


def _outputs(
    parameters: Mapping[str, Tensor], config: GPTConfig, tokens: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    """Outputs of the backbone (S, B, T, width), and the table (S, V, width) that turns them into scores."""
    positions = parameters["wpe.weight"][:, None, : tokens.shape[-1]]
    outputs = gpt_outputs(parameters, config, looked_up(parameters["wte.weight"], tokens) + positions, dropout=dropout)
    return outputs, parameters.get("target.weight", parameters["wte.weight"])


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy (S,) of targets (S, N) under scores ``outputs @ table^T``, a chunk of positions at a time.

    All scores of GPT-2's 50,257 tokens at 65,536 positions would take 13 GB, and as much for their gradient. The
    gradient of a chunk is known as soon as its scores are, so it is formed at once, and no scores are kept.
    """

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, table: Tensor, targets: Tensor, target_counts: Tensor | None) -> Tensor:
        """(S, N, width), (S, V, width), (S, N) int64, None or (S,) -> (S,)."""
        seeds, count, _ = outputs.shape
        needed = ctx.needs_input_grad[0]
        output_gradient = torch.empty_like(outputs) if needed else None
        table_gradient = torch.zeros_like(table) if needed else None
        rows = min(count, max(1, CHUNK // table.shape[1]))  # a chunk of one seed, however many seeds there are
        together = max(1, CHUNK // (rows * table.shape[1]))
        losses = outputs.new_zeros(seeds)
        kept = None if target_counts is None else (targets >= 0).to(losses.dtype)
        targets = targets if kept is None else targets.clamp(min=0)
        outputs, table = to_product_dtype(outputs), to_product_dtype(table)
        chunks = product(range(0, seeds, together), range(0, count, rows))
        for some, part in ((slice(s, s + together), slice(n, n + rows)) for s, n in chunks):
            chunk, wanted = outputs[some, part], targets[some, part, None]
            scores = torch.bmm(chunk, table[some].transpose(1, 2)).to(losses.dtype)
            logarithms = F.log_softmax(scores, -1)
            del scores
            weights = None if kept is None else kept[some, part, None]
            found = logarithms.gather(-1, wanted)
            losses[some].sub_((found if weights is None else found * weights).sum((1, 2)))
            if output_gradient is None or table_gradient is None:
                continue
            slope = logarithms.exp_()
            slope.scatter_add_(-1, wanted, torch.full_like(wanted, -1, dtype=losses.dtype))
            slope = (slope if weights is None else slope.mul_(weights)).to(table.dtype)
            output_gradient[some, part] = torch.bmm(slope, table[some])
            table_gradient[some].add_(torch.bmm(slope.transpose(1, 2), chunk))
        ctx.save_for_backward(output_gradient, table_gradient)
        ctx.count = count if target_counts is None else target_counts
        return losses.div_(ctx.count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scale what the forward pass has formed."""
        output_gradient, table_gradient = ctx.saved_tensors
        factor = (gradient / ctx.count)[:, None, None]
        return output_gradient * factor, table_gradient * factor, None, None
