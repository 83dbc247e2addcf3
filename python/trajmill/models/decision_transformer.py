"""The Decision Transformer's network: returns-to-go, observations and actions as tokens of a GPT-2 backbone.

Chen et al. 2021 (arXiv 2106.01345); sizes, the order of embedding and normalization, and what may be shared are those
of Reid et al. 2022 (arXiv 2201.12122), on which arXiv 2310.00771 builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor

from trajmill.models.gpt import Dropout, GPTConfig, backbone, looked_up, norm, normal, rows, unit_norm
from trajmill.models.mlp import linear, named

TOKENS_PER_STEP = 3
"""return-to-go, observation, action"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTransformerConfig:
    """Shape of the network; the defaults are the paper's."""

    observation_dim: int
    action_dim: int
    timestep_count: int = 1000
    """rows of the table of timesteps; 1,024 with extended positions"""
    embedding_order: Literal["normalize-first", "timestep-first"] = "normalize-first"
    """normalize-first adds the timestep after the normalization (Reid et al.), timestep-first before (Chen et al.)"""
    shared_projection: bool = False
    """predict actions with the transposed action embedding instead of a layer of its own"""
    backbone: GPTConfig = field(default_factory=lambda: GPTConfig(residual_dropout=0.2))


def embeddings(config: DecisionTransformerConfig, generator: Generator) -> dict[str, Tensor]:
    """Initial values of what surrounds the backbone (torch's defaults; the timestep table is standard normal)."""
    width = config.backbone.width
    values = {
        **named("embed_return", linear(1, width, generator)),
        **named("embed_state", linear(config.observation_dim, width, generator)),
        **named("embed_action", linear(config.action_dim, width, generator)),
        **named("embed_ln", unit_norm(width)),
        "embed_timestep.weight": normal((config.timestep_count, width), generator, 1.0),
    }
    if not config.shared_projection:
        values |= named("predict_action", linear(width, config.action_dim, generator))
    return values


def predicted_actions(
    outer: Mapping[str, Tensor],
    inner: Mapping[str, Tensor],
    config: DecisionTransformerConfig,
    *,
    return_to_go: Tensor,
    observation: Tensor,
    action: Tensor,
    timestep: Tensor,
    mask: Tensor,
    dropout: Dropout = None,
    newest: bool = False,
) -> Tensor:
    """Actions in (-1, 1) for every step, each from its past and its own return-to-go and observation.

    `outer` are the parameters of `embeddings`, `inner` those of the backbone. K steps: return_to_go (S, B, K), observation
    (S, B, K, O), action (S, B, K, A), timestep (S, B, K) int64, mask (S, B, K) bool, true where there is a step.

    Returns
    -------
    (S, B, K, A), or (S, B, 1, A) of the `newest` step alone; where the mask is false the values mean nothing.
    """
    after_observation = features(
        outer,
        inner,
        config,
        return_to_go=return_to_go,
        observation=observation,
        action=action,
        timestep=timestep,
        mask=mask,
        dropout=dropout,
        newest=newest,
    )
    if config.shared_projection:
        flat: Tensor = after_observation.flatten(1, 2) @ outer["embed_action.weight"].transpose(1, 2)
        return flat.view(*after_observation.shape[:3], -1).tanh()
    return rows(outer, "predict_action", after_observation, exact=True).tanh()


def features(
    outer: Mapping[str, Tensor],
    inner: Mapping[str, Tensor],
    config: DecisionTransformerConfig,
    *,
    return_to_go: Tensor,
    observation: Tensor,
    action: Tensor,
    timestep: Tensor,
    mask: Tensor,
    dropout: Dropout = None,
    newest: bool = False,
) -> Tensor:
    """What enters the action head, (S, B, K or 1, width); arguments as `predicted_actions` takes them."""
    time = looked_up(outer["embed_timestep.weight"], timestep)[:, :, :, None]
    tokens = embedded(outer, return_to_go=return_to_go, observation=observation, action=action)
    if config.embedding_order == "timestep-first":
        inputs = norm(outer, "embed_ln", (tokens + time).flatten(2, 3))
    else:
        inputs = norm(outer, "embed_ln", tokens.flatten(2, 3)) + time.expand_as(tokens).flatten(2, 3)
    visible = mask.repeat_interleave(TOKENS_PER_STEP, -1)
    observations = slice(-2, -1) if newest else slice(1, None, TOKENS_PER_STEP)
    return backbone(inner, config.backbone, inputs, visible=visible, dropout=dropout, wanted=observations)


def embedded(outer: Mapping[str, Tensor], *, return_to_go: Tensor, observation: Tensor, action: Tensor) -> Tensor:
    """Tokens (S, B, K, 3, width) before normalization and timesteps are added."""
    return torch.stack(
        [
            rows(outer, "embed_return", return_to_go[..., None], exact=True),
            rows(outer, "embed_state", observation, exact=True),
            rows(outer, "embed_action", action, exact=True),
        ],
        3,
    )
