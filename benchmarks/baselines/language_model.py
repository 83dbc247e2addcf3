"""Peers of language-model pre-training, one seed: attention as in the released code, or torch's fused one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from throughput.workload import Workload
from torch import Tensor, nn

from baselines.gpt2 import GPT2, Learner, load
from baselines.loops import relative
from trajmill.models.language_model import token_losses

WITHOUT = {"R1": "CORL has no pre-training of language models"}
ONE_SEED = "one seed fills a GPU; several are trained one after another"
COMPILED = ("token_losses",)
SMALL_SIZE = {"batch_size": 2, "length": 128, "position_count": 128}


class LanguageModel(nn.Module):
    def __init__(self, workload: Workload, *, fused: bool) -> None:
        super().__init__()
        config = workload.config
        self.wte = nn.Embedding(workload.rows.vocabulary_size, config.backbone.width)
        self.wpe = nn.Embedding(config.position_count, config.backbone.width)
        for table in (self.wte, self.wpe):
            nn.init.normal_(table.weight, std=0.02)
        self.gpt2 = GPT2(config.backbone, config.length, "fused" if fused else "explicit")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.gpt2(self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]) @ self.wte.weight.T


class TokenLearner(Learner):
    """AdamW is torch's (the released one adds epsilon elsewhere, at the same cost)."""

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of the next token."""
        scores = self.model(tokens)[:, :-1].float()
        return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), tokens[:, 1:].reshape(-1))


def learner(peer: str, workload: Workload, device: torch.device) -> Learner:
    model, config = LanguageModel(workload, fused=peer == "R3").to(device), workload.config
    options = {"eps": 1e-6, "weight_decay": config.weight_decay}
    return TokenLearner(model, config, synced=False, on_graph=peer == "R3", **options)


def released_batch(workload: Workload) -> Callable[[], list[np.ndarray]]:
    return workload.host_batch()  # the released code stores its tokens first


@torch.no_grad()
def distance(workload: Workload, device: torch.device) -> dict[str, float]:
    """Loss of the same weights on the same tokens, without dropout."""
    state, found = workload.ours(1, device), {}
    state.table.feed(0, 1)
    parameters, tokens = state.model.detached(), state.table.tokens[0].long()
    expected = token_losses(parameters, state.config.backbone, tokens)
    for peer in ("R0", "R3"):
        peers = learner(peer, workload, device)
        peers.model.gpt2.load(parameters)
        for name in ("wte", "wpe"):
            load(getattr(peers.model, name), name, parameters)
        peers.model.eval()
        found[f"{peer} loss"] = relative(peers.loss(tokens[0]), expected[0])
    return found


def in_jax(workload: Workload) -> tuple[Any, ...]:
    from baselines.in_jax import gpt2, jax, jnp, random, run_gpt2

    config, vocabulary = workload.config, workload.rows.vocabulary_size
    backbone, length = config.backbone, config.length

    def initial(key: Any) -> Any:
        keys = random.split(key, 3)
        words, positions = ((vocabulary, backbone.width), (length, backbone.width))
        tables = {"wte": 0.02 * random.normal(keys[0], words), "wpe": 0.02 * random.normal(keys[1], positions)}
        return tables | {"gpt2": gpt2(keys[2], backbone)}

    def loss(learned: Any, key: Any, data: Any, _: Any) -> Any:
        draw, drop = random.split(key)
        tokens = data["tokens"][random.randint(draw, (config.batch_size,), 0, len(data["tokens"]))]
        causal = jnp.tril(jnp.ones((length, length), bool))
        x = run_gpt2(learned["gpt2"], backbone, learned["wte"][tokens] + learned["wpe"], causal, drop)
        scores = jax.nn.log_softmax(x[:, :-1] @ learned["wte"].T)
        return -jnp.take_along_axis(scores, tokens[:, 1:, None], -1).mean()

    settings = {"rate": config.learning_rate, "warmup": config.warmup_updates}
    return initial, loss, {"tokens": workload.stored}, settings | {"epsilon": 1e-6, "decay": config.weight_decay}
