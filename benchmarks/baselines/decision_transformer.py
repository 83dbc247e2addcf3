"""Decision Transformer updates as the released code makes them: modules, a Python loop for data, eager autograd."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[2] / "tests" / "reference"))
import windows_twin


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
    def __init__(self, width: int, length: int, dropout: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = Linear(width, 3 * width), Linear(width, width)
        self.c_fc, self.c_out = Linear(width, 4 * width), Linear(4 * width, width)
        self.register_buffer("causal", torch.ones(length, length).tril()[None, None])
        self.attention_dropout, self.dropout = nn.Dropout(0.1), nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        query, key, value = self.c_attn(self.ln_1(x)).split(x.shape[-1], dim=2)
        weights = query[:, None] @ key[:, None].transpose(-1, -2) / math.sqrt(x.shape[-1])
        weights = weights * self.causal - 1e4 * (1 - self.causal)
        weights = self.attention_dropout(F.softmax(weights + padding, dim=-1))
        x = x + self.dropout(self.c_proj((weights @ value[:, None])[:, 0]))
        return x + self.dropout(self.c_out(F.relu(self.c_fc(self.ln_2(x)))))


class DecisionTransformer(nn.Module):
    def __init__(self, observation_dim: int, action_dim: int, context_length: int, width: int = 128) -> None:
        super().__init__()
        self.timestep = nn.Embedding(1000, width)
        self.embed_return, self.embed_state = nn.Linear(1, width), nn.Linear(observation_dim, width)
        self.embed_action, self.embed_ln = nn.Linear(action_dim, width), nn.LayerNorm(width)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(width, 3 * context_length, 0.2) for _ in range(3))
        self.ln_f = nn.LayerNorm(width)
        self.predict_state, self.predict_return = nn.Linear(width, observation_dim), nn.Linear(width, 1)
        self.predict_action = nn.Linear(width, action_dim)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        time = self.timestep(batch["timestep"])
        parts = (
            self.embed_return(batch["return_to_go"][..., None]),
            self.embed_state(batch["observation"]),
            self.embed_action(batch["action"]),
        )
        size, length = batch["timestep"].shape
        tokens = torch.stack(parts, 1).permute(0, 2, 1, 3).reshape(size, 3 * length, -1)
        time = torch.stack((time, time, time), 1).permute(0, 2, 1, 3).reshape(size, 3 * length, -1)
        x = self.drop(self.embed_ln(tokens) + time)
        mask = torch.stack((batch["mask"],) * 3, 1).permute(0, 2, 1).reshape(size, 3 * length)
        padding = (1.0 - mask.float())[:, None, None, :] * -10000.0
        for block in self.blocks:
            x = block(x, padding)
        x = self.ln_f(x).reshape(size, length, 3, -1).permute(0, 2, 1, 3)
        return self.predict_state(x[:, 2]), torch.tanh(self.predict_action(x[:, 1])), self.predict_return(x[:, 2])


def decision_transformer_updates(
    columns: Mapping[str, np.ndarray], *, batch_size: int = 64, context_length: int = 20
) -> Callable[[], float]:
    """A call that makes one update: data by the Python loop, then loss, backward, clipping, AdamW and schedule."""
    episodes = windows_twin.split(columns)
    chosen, moments = windows_twin.select(episodes), windows_twin.mean_and_deviation(episodes)
    random = np.random.default_rng(0)
    model = DecisionTransformer(columns["observation"].shape[1], columns["action"].shape[1], context_length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 5000, 1))

    def update() -> float:
        choices = windows_twin.draw(episodes, chosen, batch_size, random)
        arrays = windows_twin.windows(episodes, choices, context_length, *moments, flags=())
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        _, predicted, _ = model(batch)
        mask = batch["mask"].reshape(-1)
        predicted = predicted.reshape(-1, predicted.shape[-1])[mask]
        target = batch["action"].reshape(-1, predicted.shape[-1])[mask]
        loss = torch.mean((predicted - target) ** 2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        scheduler.step()
        return loss.detach().cpu().item()

    return update
