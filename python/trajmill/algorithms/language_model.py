"""Next-token pre-training of a GPT-2 on synthetic tokens (arXiv 2310.00771, section 3 and Table 9).

The optimizer is the AdamW of the transformers library, as released: epsilon outside the bias correction, decay of every
parameter after the step, no clipping; the step size rises linearly, then falls linearly to zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from trajmill.models.gpt import Dropout, GPTConfig
from trajmill.models.language_model import language_model, token_losses
from trajmill.models.mlp import seeded_generator
from trajmill.models.stack import Stack
from trajmill.training.adam import Adam
from trajmill.training.distributed import ALONE, Ranks
from trajmill.training.hyperparameters import at_least, check_seeds, in_range, per_seed
from trajmill.training.metrics import MetricRing
from trajmill.training.state import prefixed

METRICS = ("loss",)


@dataclass(frozen=True, slots=True, kw_only=True)
class LMConfig:
    """What one pre-training update computes; defaults are the paper's (arXiv 2310.00771, Table 9, and its code)."""

    batch_size: int = 64
    """sequences per update and seed, at least 1; of several processes each takes an equal part"""
    length: int = 1024
    """tokens of a sequence, at least 2, at most `position_count`"""
    learning_rate: float | tuple[float, ...] = 3e-4
    """greatest AdamW step size, > 0; one for all seeds or one each"""
    warmup_updates: int = 10_000
    """updates over which the step size rises linearly from zero, at least 0"""
    decay_updates: int = 80_000
    """update at which it has fallen to zero, above `warmup_updates`"""
    schedule_stride: int = 1
    """positions the schedule moves on each update; 2 is what the released two-process command does"""
    weight_decay: float = 1e-2
    """of every parameter, >= 0"""
    position_count: int = 1024
    """rows of the table of positions"""
    objective: Literal["next", "given"] = "next"
    """predict the next token, or a given target at every position (identity and mapping of the paper's appendix)"""
    dropout: bool = True
    """drop numbers while training, by torch's generator, with the backbone's probabilities"""
    backbone: GPTConfig = field(default_factory=GPTConfig)

    def __post_init__(self) -> None:
        for name in ("batch_size", "schedule_stride", "position_count"):
            at_least(name, getattr(self, name), 1)
        at_least("length", self.length, 2)
        at_least("warmup_updates", self.warmup_updates, 0)
        at_least("decay_updates", self.decay_updates, self.warmup_updates + 1)
        if self.length > self.position_count:
            raise ValueError(f"length must be at most position_count ({self.position_count}), got {self.length}")
        in_range("learning_rate", self.learning_rate, 0.0, math.inf, open_low=True, open_high=True)
        in_range("weight_decay", self.weight_decay, 0.0, math.inf, open_high=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LMState:
    """Everything an update reads or writes; written in place only."""

    config: LMConfig
    workers: Ranks
    tokens: Tensor
    """(slots, S, B, T) int32: this process's sequences of the next updates, put there before each period"""
    targets: Tensor | None
    """the same shape: what to predict, with the objective ``given``"""
    step: Tensor
    """int64 scalar: updates made"""
    model: Stack
    optimizer: Adam
    metrics: MetricRing

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return {
            "step": self.step,
            "metrics": self.metrics.values,
            "model": self.model.flat,
        } | prefixed("adam", self.optimizer.moving())


def create(
    config: LMConfig,
    vocabulary_size: int,
    seeds: Sequence[int],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    target_count: int = 0,
    slots: int = 1,
    metric_capacity: int = 1000,
    workers: Ranks = ALONE,
) -> LMState:
    """Fresh models; `target_count` > 0 gives the outputs tokens of their own, `slots` is how many updates are fed."""
    seeds = check_seeds(seeds)
    share = workers.share(config.batch_size)
    at_least("vocabulary_size", vocabulary_size, 1)
    networks = [
        language_model(
            config.backbone,
            vocabulary_size,
            seeded_generator(seed, "lm"),
            position_count=config.position_count,
            targets=target_count,
        )
        for seed in seeds
    ]
    model = Stack.of(networks).to(device, dtype)
    tokens = torch.zeros(slots, len(seeds), share, config.length, dtype=torch.int32, device=device)
    return LMState(
        config=config,
        workers=workers,
        tokens=tokens,
        targets=torch.zeros_like(tokens) if config.objective == "given" else None,
        step=torch.zeros((), dtype=torch.int64, device=device),
        model=model,
        optimizer=Adam.of(
            [model],
            [per_seed("learning_rate", config.learning_rate, len(seeds), device)],
            epsilon=1e-6,
            weight_decay=(config.weight_decay,),
            decay_after_step=True,
            all_reduce=workers.all_reduce,
        ),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def step(state: LMState, count: int = 1) -> None:
    """Make `count` updates of every seed on the first `count` slots, in place."""
    for slot in range(count):
        update(state, state.tokens[slot], None if state.targets is None else state.targets[slot])


def update(state: LMState, tokens: Tensor, targets: Tensor | None) -> None:
    """One update of every seed on `tokens` (S, B, T)."""
    dropout: Dropout = "torch" if state.config.dropout else None
    goal = None if targets is None else targets.long()
    losses = token_losses(state.model.parameters, state.config.backbone, tokens.long(), goal, dropout)
    state.optimizer.minimize(losses.sum(), schedule(state.config, state.step))
    losses = losses.detach()
    state.workers.all_reduce(losses)
    state.metrics.write(state.step, {"loss": losses})
    state.step.add_(1)


def schedule(config: LMConfig, update: Tensor) -> Tensor:
    """Share of the greatest step size at `update` (int64, any shape), counted from 0: up from 0, then down to 0."""
    position = update.to(torch.float64) * config.schedule_stride
    rising = position / max(config.warmup_updates, 1)
    falling = (config.decay_updates - position) / (config.decay_updates - config.warmup_updates)
    return torch.where(position < config.warmup_updates, rising, falling.clamp(min=0.0))
