"""A GPT-2 language model as modules, one seed: explicit attention as in the released code, or torch's fused one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from baselines.decision_transformer import Linear
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int, length: int, *, fused: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = Linear(width, 3 * width), Linear(width, width)
        self.c_fc, self.c_out = Linear(width, 4 * width), Linear(4 * width, width)
        self.register_buffer("later", torch.ones(length, length, dtype=torch.bool).triu(1)[None, None])
        self.attention_dropout, self.dropout = nn.Dropout(0.1), nn.Dropout(0.1)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part[:, None] for part in self.c_attn(self.ln_1(x)).split(x.shape[-1], dim=2))
        if self.fused:
            dropped = 0.1 if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropped, is_causal=True)
        else:
            scores = (query @ key.transpose(-1, -2) / math.sqrt(x.shape[-1])).masked_fill(self.later, -1e4)
            mixed = self.attention_dropout(F.softmax(scores, dim=-1)) @ value
        x = x + self.dropout(self.c_proj(mixed[:, 0]))
        return x + self.dropout(self.c_out(F.relu(self.c_fc(self.ln_2(x)))))


class LanguageModel(nn.Module):
    def __init__(self, vocabulary: int, length: int, width: int = 128, layers: int = 3, *, fused: bool = False) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        for table in (self.wte, self.wpe):
            nn.init.normal_(table.weight, std=0.02)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(width, length, fused=fused) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.drop(self.wte(tokens) + self.wpe.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T


class LanguageModelLearner:
    """One seed; AdamW is torch's (the released one adds epsilon elsewhere, at the same cost)."""

    def __init__(self, model: LanguageModel, *, device: torch.device | str = "cpu", on_graph: bool = False) -> None:
        self.model = model.to(device)
        self.done, self.rate = torch.zeros((), device=device), torch.full((), 3e-8, device=device)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=self.rate,
            eps=1e-6,
            weight_decay=1e-2,
            fused=True,
            capturable=on_graph and self.rate.is_cuda,
        )

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of the next token."""
        scores = self.model(tokens)[:, :-1].float()
        return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), tokens[:, 1:].reshape(-1))

    def update(self, tokens: Tensor) -> list[Tensor]:
        """One update; gives the loss, on the device."""
        loss = self.loss(tokens)
        self.optimizer.zero_grad()
        loss.backward()
        self.done.add_(1)
        self.rate.copy_((self.done / 10_000).clamp(max=1) * 3e-4)
        self.optimizer.step()
        return [loss.detach()]


def stored_rows(tokens: np.ndarray, batch_size: int) -> Callable[[], list[np.ndarray]]:
    """A call that takes a batch of rows of stored tokens (N, T), as int64."""
    random = np.random.default_rng(0)
    return lambda: [tokens[random.integers(len(tokens), size=batch_size)].astype(np.int64)]
