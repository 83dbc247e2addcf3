"""A GPT-2 backbone of one head as modules, and its optimizer: what the transformers among the peers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, sqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

Attention = Literal["explicit", "fused", "module"]
"""as in the released code; by torch's fused kernel, which no step may be hidden from; or by torch's own layer"""


class Linear(nn.Module):
    """GPT-2's layer: weight (in, out)."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(input_dim, output_dim).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(output_dim))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], len(self.bias))
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(shape)


class Block(nn.Module):
    """A pre-normed block."""

    def __init__(self, config: Any, length: int, attention: Attention) -> None:
        super().__init__()
        width, self.attention = config.width, attention
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if attention == "module":
            self.mixing = nn.MultiheadAttention(width, 1, dropout=config.attention_dropout, batch_first=True)
        else:
            self.c_attn, self.c_proj = Linear(width, 3 * width), Linear(width, width)
        self.c_fc, self.c_out = Linear(width, 4 * width), Linear(4 * width, width)
        self.register_buffer("later", torch.ones(length, length, dtype=torch.bool).triu(1))
        self.attention_dropout, self.dropout = nn.Dropout(config.attention_dropout), nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attend(self.ln_1(x), mask))
        return x + self.dropout(self.c_out(F.relu(self.c_fc(self.ln_2(x)))))

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.attention == "module":
            padded = None
            if mask is not None:
                padded = mask.logical_not() & (torch.arange(x.shape[1], device=x.device) != 0)  # a row needs a key
            return self.mixing(x, x, x, attn_mask=self.later, key_padding_mask=padded, need_weights=False)[0]
        query, key, value = (part[:, None] for part in self.c_attn(x).split(x.shape[-1], dim=2))
        if self.attention == "fused":
            dropped = self.attention_dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropped, is_causal=True)
        else:
            weights = (query @ key.transpose(-1, -2) / sqrt(x.shape[-1])).masked_fill(self.later, -1e4)
            if mask is not None:
                weights = weights + (1.0 - mask.float())[:, None, None, :] * -1e4
            mixed = self.attention_dropout(F.softmax(weights, dim=-1)) @ value
        return self.c_proj(mixed[:, 0])


class GPT2(nn.Module):
    """Blocks and the last normalization, on sequences of `length` embedded tokens."""

    def __init__(self, config: Any, length: int, attention: Attention) -> None:
        super().__init__()
        self.drop, self.ln_f = nn.Dropout(config.embedding_dropout), nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(Block(config, length, attention) for _ in range(config.layer_count))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.ln_f(x)

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the first seed of our backbone."""
        names = {"attn.c_attn": "c_attn", "attn.c_proj": "c_proj", "mlp.c_fc": "c_fc", "mlp.c_proj": "c_out"}
        for layer, block in enumerate(self.blocks):
            for ours, theirs in (*names.items(), ("ln_1", "ln_1"), ("ln_2", "ln_2")):
                load(getattr(block, theirs), f"h.{layer}.{ours}", parameters)
        load(self.ln_f, "ln_f", parameters)


def load(module: nn.Module, name: str, parameters: Mapping[str, Tensor]) -> None:
    """Copy the first seed of one of our layers; torch's linear layers have weights (out, in)."""
    for part, own in module.named_parameters():
        value = parameters[f"{name}.{part}"][0]
        own.data.copy_(value.T if isinstance(module, nn.Linear) and part == "weight" else value.view_as(own))


class Learner:
    """One seed. AdamW's step size rises linearly: by a scheduler, as released, if `synced`, else in tensors.

    What is all in tensors a graph can hold.
    """

    loss: Callable[..., Tensor]

    def __init__(
        self, model: nn.Module, config: Any, *, synced: bool, on_graph: bool, clip_norm: float = inf, **options: Any
    ) -> None:
        self.model, self.synced, self.clip_norm = model, synced, clip_norm
        self.greatest, self.warmup = config.learning_rate, config.warmup_updates
        parameters = self.parameters()
        self.done, self.rate = (parameters[0].new_zeros(()) for _ in range(2))
        if synced:
            self.optimizer = torch.optim.AdamW(parameters, lr=self.greatest, **options)
            self.scheduler = LambdaLR(self.optimizer, lambda done: min((done + 1) / self.warmup, 1))
        else:
            options |= {"fused": True, "capturable": on_graph and self.rate.is_cuda}
            self.optimizer = torch.optim.AdamW(parameters, lr=self.rate, **options)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def update(self, *batch: Tensor) -> list[Tensor]:
        """One update; gives the loss, on the device."""
        loss = self.loss(*batch)
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip_norm < inf:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        if not self.synced:
            self.done.add_(1)
            self.rate.copy_((self.done / self.warmup).clamp(max=1) * self.greatest)
        self.optimizer.step()
        if self.synced:
            self.scheduler.step()
        return [loss.detach()]
