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
    """A pre-normed block; `attention` is "explicit" as in the released code, or "module" for torch's own layer."""

    def __init__(self, width: int, length: int, dropout: float, attention: str = "explicit") -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = None
        if attention == "module":
            self.attention = nn.MultiheadAttention(width, 1, dropout=0.1, batch_first=True)
        else:
            self.c_attn, self.c_proj = Linear(width, 3 * width), Linear(width, width)
        self.c_fc, self.c_out = Linear(width, 4 * width), Linear(4 * width, width)
        self.register_buffer("causal", torch.ones(length, length).tril()[None, None])
        self.attention_dropout, self.dropout = nn.Dropout(0.1), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attend(self.ln_1(x), mask))
        return x + self.dropout(self.c_out(F.relu(self.c_fc(self.ln_2(x)))))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.attention is not None:
            hidden = (self.causal[0, 0] == 0)[: x.shape[1], : x.shape[1]]
            padded = mask.logical_not()
            padded = padded & (torch.arange(x.shape[1], device=x.device) != 0)  # a row needs a key
            return self.attention(x, x, x, attn_mask=hidden, key_padding_mask=padded, need_weights=False)[0]
        query, key, value = self.c_attn(x).split(x.shape[-1], dim=2)
        weights = query[:, None] @ key[:, None].transpose(-1, -2) / math.sqrt(x.shape[-1])
        weights = weights * self.causal - 1e4 * (1 - self.causal)
        padding = (1.0 - mask.float())[:, None, None, :] * -10000.0
        weights = self.attention_dropout(F.softmax(weights + padding, dim=-1))
        return self.c_proj((weights @ value[:, None])[:, 0])


class DecisionTransformer(nn.Module):
    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        context_length: int,
        width: int = 128,
        layers: int = 3,
        attention: str = "explicit",
    ) -> None:
        super().__init__()
        self.timestep = nn.Embedding(1000, width)
        self.embed_return, self.embed_state = nn.Linear(1, width), nn.Linear(observation_dim, width)
        self.embed_action, self.embed_ln = nn.Linear(action_dim, width), nn.LayerNorm(width)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(width, 3 * context_length, 0.2, attention) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.predict_state, self.predict_return = nn.Linear(width, observation_dim), nn.Linear(width, 1)
        self.predict_action = nn.Linear(width, action_dim)

    def forward(
        self, observation: Tensor, action: Tensor, return_to_go: Tensor, timestep: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        time = self.timestep(timestep)
        parts = (self.embed_return(return_to_go[..., None]), self.embed_state(observation), self.embed_action(action))
        size, length = timestep.shape
        tokens = torch.stack(parts, 1).permute(0, 2, 1, 3).reshape(size, 3 * length, -1)
        time = torch.stack((time, time, time), 1).permute(0, 2, 1, 3).reshape(size, 3 * length, -1)
        x = self.drop(self.embed_ln(tokens) + time)
        every = torch.stack((mask,) * 3, 1).permute(0, 2, 1).reshape(size, 3 * length)
        for block in self.blocks:
            x = block(x, every)
        x = self.ln_f(x).reshape(size, length, 3, -1).permute(0, 2, 1, 3)
        return self.predict_state(x[:, 2]), torch.tanh(self.predict_action(x[:, 1])), self.predict_return(x[:, 2])


class DecisionTransformerLearner:
    """One seed. `synced` picks the real steps out by a mask and has a scheduler, as released; else both are tensors."""

    def __init__(
        self,
        model: DecisionTransformer,
        *,
        device: torch.device | str = "cpu",
        synced: bool = True,
        on_graph: bool = False,
    ) -> None:
        self.model, self.synced = model.to(device), synced
        if synced:
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda done: min((done + 1) / 5000, 1))
        else:
            self.done, self.rate = torch.zeros((), device=device), torch.full((), 1e-4, device=device)
            self.optimizer = torch.optim.AdamW(
                model.parameters(),
                lr=self.rate,
                weight_decay=1e-4,
                fused=True,
                capturable=on_graph and self.rate.is_cuda,
            )

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def loss(self, observation: Tensor, action: Tensor, return_to_go: Tensor, timestep: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of the actions of real steps."""
        predicted = self.model(observation, action, return_to_go, timestep, mask)[1].float()
        if self.synced:
            real = mask.reshape(-1)
            predicted = predicted.reshape(-1, predicted.shape[-1])[real]
            return torch.mean((predicted - action.reshape(-1, predicted.shape[-1])[real]) ** 2)
        errors = (predicted - action).square().mean(-1)
        return (errors * mask).sum() / mask.sum()

    def update(self, *batch: Tensor) -> list[Tensor]:
        """One update; gives the loss, on the device."""
        loss = self.loss(*batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        if not self.synced:
            self.done.add_(1)
            self.rate.copy_((self.done / 5000).clamp(max=1) * 1e-4)
        self.optimizer.step()
        if self.synced:
            self.scheduler.step()
        return [loss.detach()]


NAMES = ("observation", "action", "return_to_go", "timestep", "mask")
"""of a batch, in order"""


def looped_windows(
    columns: Mapping[str, np.ndarray], *, batch_size: int = 64, context_length: int = 20
) -> Callable[[], list[np.ndarray]]:
    """A call that makes a batch of windows by the released Python loop."""
    episodes = windows_twin.split(columns)
    chosen, moments = windows_twin.select(episodes), windows_twin.mean_and_deviation(episodes)
    random = np.random.default_rng(0)

    def batch() -> list[np.ndarray]:
        choices = windows_twin.draw(episodes, chosen, batch_size, random)
        arrays = windows_twin.windows(episodes, choices, context_length, *moments, flags=())
        return [arrays[name] for name in NAMES]

    return batch
