"""Decision Transformer fine-tuning on windows of offline data (arXiv 2310.00771, section 3 and Table 10).

Loss per seed: mean over the real steps and the action's numbers of (predicted - action)^2; padded steps count nothing.
Two terms of Reid et al. 2022 (arXiv 2201.12122) may be added, for backbones pre-trained on text: one pulls the embedded
tokens toward clusters of word embeddings, the other goes on with language modelling on the same backbone.
Deviations from the released code: dropout and window starts have addresses (seed, update), so that runs repeat; weights
of the state and return heads, which it never trains, do not exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trajmill.data.normalizer import Normalizer
from trajmill.models.decision_transformer import (
    TOKENS_PER_STEP,
    DecisionTransformerConfig,
    embedded,
    embeddings,
    predicted_actions,
)
from trajmill.models.gpt import Dropout, GPTConfig, gpt, norm
from trajmill.models.language_model import token_losses
from trajmill.models.mlp import seeded_generator
from trajmill.models.stack import Stack
from trajmill.training.adam import Adam
from trajmill.training.dropout import Sites, dropout_factors, dropout_sizes
from trajmill.training.hyperparameters import at_least, check_seeds, in_range, per_seed
from trajmill.training.metrics import MetricRing
from trajmill.training.philox import Draws, indexes
from trajmill.training.state import prefixed
from trajmill.training.windows import WindowBatch, WindowTable

METRICS = ("loss", "gradient_norm")
LANGUAGE_SITES = "language."
"""what the names of dropout sites of the language-model term begin with"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DTConfig:
    """What one fine-tuning update computes; defaults are the paper's (arXiv 2310.00771, Table 10)."""

    batch_size: int = 64
    """windows per update and seed, at least 1"""
    context_length: int = 20
    """steps of a window, K, at least 1"""
    learning_rate: float | tuple[float, ...] = 1e-4
    """AdamW step size, > 0; one for all seeds or one each"""
    warmup_updates: int = 5000
    """updates over which the step size rises linearly, at least 1"""
    backbone_weight_decay: float = 0.0
    """of the backbone, >= 0; the released code decays it by 1e-4 as well, against the paper's table"""
    weight_decay: float = 1e-4
    """of embeddings and heads, >= 0"""
    adam_epsilon: float = 1e-8
    """> 0; the released code has 1e-6 with pre-trained weights"""
    clip_norm: float = 0.25
    """greatest norm of one seed's gradient, > 0"""
    embedding_order: Literal["normalize-first", "timestep-first"] = "normalize-first"
    """normalize-first is Reid et al.'s (2201.12122), on which the paper builds; timestep-first Chen et al.'s"""
    shared_projection: bool = False
    """predict actions with the transposed action embedding"""
    cluster_weight: float = 0.0
    """of the term that pulls embedded tokens toward clusters of pre-trained token embeddings, >= 0; Reid et al.: 0.1"""
    cluster_count: int = 1000
    """clusters of that term, at least 1, at most the tokens that were pre-trained on"""
    cluster_updates: int = 5000
    """updates after which that term has all but faded, at least 1; Reid et al. take 15,000 with `language_weight`"""
    language_weight: float = 0.0
    """of the loss of the language model that the backbone goes on to be, >= 0; Reid et al.: 1"""
    language_batch_size: int = 2
    """sequences per update for that loss, at least 1"""
    backbone: GPTConfig = field(default_factory=lambda: GPTConfig(residual_dropout=0.2))

    def __post_init__(self) -> None:
        for name in ("batch_size", "context_length", "warmup_updates", "cluster_count", "cluster_updates"):
            at_least(name, getattr(self, name), 1)
        at_least("language_batch_size", self.language_batch_size, 1)
        for name in ("learning_rate", "adam_epsilon", "clip_norm"):
            in_range(name, getattr(self, name), 0.0, math.inf, open_low=True, open_high=True)
        for name in ("backbone_weight_decay", "weight_decay", "cluster_weight", "language_weight"):
            in_range(name, getattr(self, name), 0.0, math.inf, open_high=True)
        if self.cluster_weight and self.embedding_order != "normalize-first":
            raise ValueError(
                "cluster_weight is for embedding_order normalize-first: it acts on what is normalized before timesteps "
                "are added"
            )

    def dropout_sites(self, language_length: int = 0) -> Sites:
        """Where an update drops numbers; `language_length` tokens are in a sequence of the language-model term."""
        sites = self.backbone.dropout_shapes(self.batch_size, TOKENS_PER_STEP * self.context_length)
        if not language_length:
            return sites
        language = self.backbone.dropout_shapes(self.language_batch_size, language_length)
        return sites | {LANGUAGE_SITES + site: shape for site, shape in language.items()}

    @property
    def metrics(self) -> tuple[str, ...]:
        """What an update writes down."""
        extra = {"cluster_cosine": self.cluster_weight, "language_loss": self.language_weight}
        return (*METRICS, *(name for name, weight in extra.items() if weight))

    def network(self, observation_dim: int, action_dim: int, timestep_count: int = 1000) -> DecisionTransformerConfig:
        """The network for data of the given dimensions."""
        return DecisionTransformerConfig(
            observation_dim=observation_dim,
            action_dim=action_dim,
            timestep_count=timestep_count,
            embedding_order=self.embedding_order,
            shared_projection=self.shared_projection,
            backbone=self.backbone,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DTState:
    """Everything an update reads or writes; written in place only."""

    config: DTConfig
    network: DecisionTransformerConfig
    table: WindowTable
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    outer: Stack
    """embeddings and head, one row per seed"""
    inner: Stack
    """backbone, one row per seed"""
    optimizer: Adam
    metrics: MetricRing
    centers: Tensor | None = None
    """(C, width) unit vectors, with `DTConfig.cluster_weight`"""
    language: Stack | None = None
    """what the language model has beside the backbone, with `DTConfig.language_weight`: ``wte``, and ``wpe`` unless
    the table of timesteps stands for it"""
    tokens: Tensor | None = None
    """(slots, S, language_batch_size, T) int32: its sequences of the next updates, put there before each period"""

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return {
            "step": self.step,
            "metrics": self.metrics.values,
            "outer": self.outer.flat,
            "inner": self.inner.flat,
            **({} if self.language is None else {"language": self.language.flat}),
        } | prefixed("adam", self.optimizer.moving())

    @property
    def dropout_sites(self) -> Sites:
        """Where an update drops numbers."""
        return self.config.dropout_sites(0 if self.tokens is None else self.tokens.shape[-1])


def create(
    config: DTConfig,
    table: WindowTable,
    seeds: Sequence[int],
    *,
    backbone: Mapping[str, Tensor] | None = None,
    positions: Tensor | None = None,
    centers: Tensor | None = None,
    language: Mapping[str, Tensor] | None = None,
    language_length: int = 0,
    slots: int = 1,
    metric_capacity: int = 1000,
) -> DTState:
    """Fresh networks on the table's device, in its precision.

    `backbone` (parameters of `trajmill.models.gpt.gpt`) starts every seed's backbone from one pre-trained one; `positions`
    (P, width), its position embeddings, also replaces the table of timesteps ("extended positions").

    With `DTConfig.cluster_weight` pass `centers` (C, width), unit vectors. With `DTConfig.language_weight` pass
    `language`, the pre-trained ``wte.weight`` and, unless `positions` are given, ``wpe.weight``; the tokens of its
    sequences; and how many updates are fed at once.
    """
    if bool(config.cluster_weight) != (centers is not None):
        raise ValueError("centers go with cluster_weight above 0: give both or neither")
    if bool(config.language_weight) != (language is not None and language_length > 0):
        raise ValueError("language and language_length go with language_weight above 0: give all or none")
    seeds = check_seeds(seeds)
    device, dtype = table.rows.device, table.rows.dtype
    timestep_count = 1000 if positions is None else len(positions)
    network = config.network(table.observation_dim, table.action_dim, timestep_count)
    if int(table.timestep.max()) >= timestep_count:
        raise ValueError(f"timesteps must be below {timestep_count}, got {int(table.timestep.max())}")
    outer = [embeddings(network, seeded_generator(seed, "dt.outer")) for seed in seeds]
    inner = [dict(backbone) if backbone else gpt(config.backbone, seeded_generator(seed, "dt.inner")) for seed in seeds]
    if positions is not None:
        outer = [values | {"embed_timestep.weight": positions.to(torch.float32)} for values in outer]
    rows = [outer, inner] + ([] if language is None else [[dict(language)] * len(seeds)])
    stacks = [Stack.of(networks).to(device, dtype) for networks in rows]
    decays = (config.weight_decay, config.backbone_weight_decay, config.backbone_weight_decay)
    rate = per_seed("learning_rate", config.learning_rate, len(seeds), device)
    return DTState(
        config=config,
        network=network,
        table=table,
        draws=Draws.of(
            seeds, {"window": config.batch_size} | dropout_sizes(config.dropout_sites(language_length)), device
        ),
        step=torch.zeros((), dtype=torch.int64, device=device),
        outer=stacks[0],
        inner=stacks[1],
        optimizer=Adam.of(
            stacks,
            [rate] * len(stacks),
            epsilon=config.adam_epsilon,
            weight_decay=decays[: len(stacks)],
            clip_norm=config.clip_norm,
        ),
        metrics=MetricRing.of(config.metrics, len(seeds), metric_capacity, device),
        centers=None if centers is None else centers.to(device, dtype),
        language=None if language is None else stacks[2],
        tokens=None
        if language is None
        else torch.zeros(
            slots, len(seeds), config.language_batch_size, language_length, dtype=torch.int32, device=device
        ),
    )


def step(state: DTState, count: int = 1) -> None:
    """Make `count` updates of every seed, in place, the language-model term on the first `count` slots."""
    config, sites = state.config, state.dropout_sites
    for slot in range(count):
        words = {site: rolled[0] for site, rolled in state.draws.words(state.step, 1).items()}
        batch = state.table.gather(indexes(words["window"], len(state.table)), config.context_length)
        tokens = None if state.tokens is None else state.tokens[slot]
        update(state, batch, dropout_factors(sites, words, state.table.rows.dtype), tokens)


def update(
    state: DTState, batch: WindowBatch, dropout: Mapping[str, Tensor] | None, tokens: Tensor | None = None
) -> None:
    """One update of every seed on its windows and on `tokens` (S, B, T), its sequences of the language-model term.

    `dropout` has a factor for every number of `DTState.dropout_sites`.
    """
    config = state.config
    losses = loss(state, batch, dropout)
    metrics = {"loss": losses.detach()}
    if config.cluster_weight:
        cosines = cluster_cosine(state, batch)
        losses = losses - config.cluster_weight * fading(config, state.step).to(losses.dtype) * cosines
        metrics["cluster_cosine"] = cosines.detach()
    if tokens is not None:
        language = language_loss(state, tokens, dropout)
        losses = losses + config.language_weight * language
        metrics["language_loss"] = language.detach()
    warmup = ((state.step + 1) / config.warmup_updates).clamp(max=1.0).to(torch.float64)
    state.optimizer.differentiate(losses.sum())
    metrics["gradient_norm"] = state.optimizer.gradient_norms()
    state.optimizer.apply(warmup)
    state.metrics.write(state.step, metrics)
    state.step.add_(1)


def loss(state: DTState, batch: WindowBatch, dropout: Dropout = None) -> Tensor:
    """Mean squared error of the actions of real steps, (S,)."""
    predicted = predicted_actions(
        state.outer.parameters,
        state.inner.parameters,
        state.network,
        return_to_go=batch.return_to_go,
        observation=batch.observation,
        action=batch.action,
        timestep=batch.timestep,
        mask=batch.mask,
        dropout=dropout,
    )
    errors = torch.where(batch.mask, (predicted - batch.action).square().sum(-1), 0.0)
    return errors.sum((1, 2)) / (batch.mask.sum((1, 2)) * batch.action.shape[-1])


def cluster_cosine(state: DTState, batch: WindowBatch) -> Tensor:
    """Mean over the tokens of real steps of the cosine with the nearest center, (S,).

    The tokens are normalized, the timestep is not yet added.
    """
    assert state.centers is not None
    parameters = state.outer.parameters
    tokens = embedded(parameters, return_to_go=batch.return_to_go, observation=batch.observation, action=batch.action)
    directions = F.normalize(norm(parameters, "embed_ln", tokens.flatten(2, 3)), dim=-1)
    nearest = (directions @ state.centers.T).amax(-1).view(tokens.shape[:-1])
    counted = torch.where(batch.mask[..., None], nearest, 0.0)
    return counted.sum((1, 2, 3)) / (batch.mask.sum((1, 2)) * TOKENS_PER_STEP)


def fading(config: DTConfig, update: Tensor) -> Tensor:
    """What is left of the cluster term at `update` (int64): 0.993 at first, half of it half-way, 0.007 in the end."""
    return torch.sigmoid((config.cluster_updates - update.to(torch.float64)) / (config.cluster_updates / 10) - 5.0)


def language_loss(state: DTState, tokens: Tensor, dropout: Mapping[str, Tensor] | None = None) -> Tensor:
    """Mean cross-entropy of the next token in nats, (S,), of the model that the backbone was pre-trained in."""
    assert state.language is not None
    parameters = (
        {"wpe.weight": state.outer.parameters["embed_timestep.weight"]}
        | state.inner.parameters
        | state.language.parameters
    )
    factors = None
    if dropout is not None:
        factors = {
            site.removeprefix(LANGUAGE_SITES): factor
            for site, factor in dropout.items()
            if site.startswith(LANGUAGE_SITES)
        }
    return token_losses(parameters, state.config.backbone, tokens.long(), dropout=factors)


class Policy:
    """The policies of all seeds, asked for a return: an `EpisodicPolicy` for S × E episodes that start together.

    Before each action the return still to go is the target minus the rewards so far, and the network sees the last K
    steps (Chen et al. 2021, algorithm 1). Steps before the first are masked.
    """

    def __init__(
        self,
        network: DecisionTransformerConfig,
        outer: Stack,
        inner: Stack,
        *,
        context_length: int,
        normalizer: Normalizer,
        target_return: float,
        return_scale: float,
    ) -> None:
        self._network, self._outer, self._inner = network, outer, inner
        self._length, self._normalizer = context_length, normalizer
        self._target, self._scale = target_return, return_scale

    def start(self, seed_count: int, episode_count: int) -> None:
        """Forget everything: S × E new episodes begin."""
        flat = self._outer.flat
        steps = (seed_count, episode_count, self._length)
        self._observation = flat.new_zeros(*steps, self._network.observation_dim)
        self._action = flat.new_zeros(*steps, self._network.action_dim)
        self._return_to_go = flat.new_zeros(steps)
        self._timestep = flat.new_zeros(steps, dtype=torch.int64)
        self._mask = flat.new_zeros(steps, dtype=torch.bool)
        self._left = flat.new_full(steps[:2], self._target / self._scale)
        self._time = 0

    @torch.no_grad()
    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map observations (S, E, O) to actions (S, E, A)."""
        observation = torch.from_numpy(self._normalizer.normalize(observations)).to(self._left)
        time = min(self._time, self._network.timestep_count - 1)
        for history, newest in (
            (self._observation, observation),
            (self._action, torch.zeros_like(self._action[:, :, -1])),
            (self._return_to_go, self._left),
            (self._timestep, torch.full_like(self._timestep[:, :, -1], time)),
            (self._mask, torch.ones_like(self._mask[:, :, -1])),
        ):
            history[:, :, :-1] = history[:, :, 1:].clone()
            history[:, :, -1] = newest
        predicted = predicted_actions(
            self._outer.detached(),
            self._inner.detached(),
            self._network,
            return_to_go=self._return_to_go,
            observation=self._observation,
            action=self._action,
            timestep=self._timestep,
            mask=self._mask,
            newest=True,
        ).squeeze(2)
        self._action[:, :, -1] = predicted
        self._time += 1
        return predicted.float().cpu().numpy()

    def observe(self, rewards: NDArray[np.float32], playing: NDArray[np.bool_]) -> None:
        """Take the rewards (S, E) of the step just made off the return to go."""
        self._left = self._left - torch.from_numpy(rewards).to(self._left) / self._scale
