"""The Decision Transformer's network: returns-to-go, observations and actions as tokens of a GPT-2 backbone.

Chen et al. 2021 (arXiv 2106.01345); sizes, the order of embedding and normalization, and what may be shared are those
of Reid et al. 2022 (arXiv 2201.12122), on which arXiv 2310.00771 builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from torch import Generator, Tensor

from trajmill.models.gpt import Dropout, GPTConfig, gpt_outputs, looked_up, norm, normal, rows, unit_norm
from trajmill.models.mlp import linear, named
from trajmill.models.precision import batched

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Steps in a row, padded on the left: B windows of K steps for each of S seeds, perhaps behind an axis of updates.

    In the padding the numbers mean nothing to the network.
    """

    observation: Tensor
    """(S, B, K, O)"""
    action: Tensor
    """(S, B, K, A)"""
    return_to_go: Tensor
    """(S, B, K), scaled"""
    timestep: Tensor
    """(S, B, K) int64, below `DecisionTransformerConfig.timestep_count`"""
    mask: Tensor
    """(S, B, K) bool: there is a step"""

    def __getitem__(self, index: int) -> Windows:
        """The windows of one update."""
        return Windows(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def initial_embeddings(config: DecisionTransformerConfig, generator: Generator) -> dict[str, Tensor]:
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
    embeddings: Mapping[str, Tensor],
    backbone: Mapping[str, Tensor],
    config: DecisionTransformerConfig,
    windows: Windows,
    *,
    dropout: Dropout = None,
    newest: bool = False,
) -> Tensor:
    """Actions in (-1, 1) for every step, each from its past and its own return-to-go and observation.

    `embeddings` are the parameters of `initial_embeddings`, `backbone` those of `trajmill.models.gpt.gpt`.

    Returns
    -------
    (S, B, K, A), or (S, B, 1, A) of the `newest` step alone; where the mask is false the values mean nothing.
    """
    after_observation = features(embeddings, backbone, config, windows, dropout=dropout, newest=newest)
    if config.shared_projection:
        flat = batched(torch.bmm, after_observation.flatten(1, 2), embeddings["embed_action.weight"].transpose(1, 2))
        return flat.view(*after_observation.shape[:3], -1).tanh()
    return rows(embeddings, "predict_action", after_observation, exact=True).tanh()


def features(
    embeddings: Mapping[str, Tensor],
    backbone: Mapping[str, Tensor],
    config: DecisionTransformerConfig,
    windows: Windows,
    *,
    dropout: Dropout = None,
    newest: bool = False,
) -> Tensor:
    """What enters the action head, (S, B, K or 1, width)."""
    time = looked_up(embeddings["embed_timestep.weight"], windows.timestep)[:, :, :, None]
    tokens = embedded(embeddings, windows)
    if config.embedding_order == "timestep-first":
        inputs = norm(embeddings, "embed_ln", (tokens + time).flatten(2, 3))
    else:
        inputs = norm(embeddings, "embed_ln", tokens.flatten(2, 3)) + time.expand_as(tokens).flatten(2, 3)
    visible = windows.mask.repeat_interleave(TOKENS_PER_STEP, -1)
    observations = slice(-2, -1) if newest else slice(1, None, TOKENS_PER_STEP)
    return gpt_outputs(backbone, config.backbone, inputs, visible=visible, dropout=dropout, wanted=observations)


def embedded(embeddings: Mapping[str, Tensor], windows: Windows) -> Tensor:
    """Tokens (S, B, K, 3, width) before normalization and timesteps are added."""
    return torch.stack(
        [
            rows(embeddings, "embed_return", windows.return_to_go[..., None], exact=True),
            rows(embeddings, "embed_state", windows.observation, exact=True),
            rows(embeddings, "embed_action", windows.action, exact=True),
        ],
        3,
    )
