"""How far fine-tuning moves a Decision Transformer's backbone (arXiv 2310.00771, appendix H, the weights).

Three snapshots: random initial values (RI), after pre-training (PT), after fine-tuning (FT). Initial values follow from
their seeds, so nothing but the checkpoints has to be kept. The paper does not say how it flattens the weights; here
each backbone, the part that pre-training hands over, is one vector.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.models.gpt import GPTConfig, gpt
from trajmill.models.language_model import language_model
from trajmill.models.mlp import seeded_generator
from trajmill.models.stack import Stack
from trajmill.pipelines.decision_transformer import pretrained_backbone
from trajmill.pipelines.finetuning import pretrained_checkpoint


def backbone_similarities(run: Path, init: Path | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines of fine-tuned backbones with their random and with their pre-trained start, (seed_count,) each.

    Parameters
    ----------
    run
        Run directory of `train_dt`.
    init
        The run it started from; None means from scratch, where both starts are the same.
    """
    tensors, metadata = pretrained_checkpoint(run, "train_dt")
    shape = GPTConfig(**metadata["method"]["backbone"])
    fresh = [gpt(shape, seeded_generator(seed, "dt.inner")) for seed in metadata["seeds"]]
    layout = Stack.of(fresh)
    tuned = tensors["inner"]
    if init is None:
        similarity = _cosine(layout.flat, tuned)
        return similarity, similarity
    before = pretrained_checkpoint(init, "pretrain_dt")[1]
    donor = language_model(
        GPTConfig(**before["backbone"]),
        before["vocabulary_size"],
        seeded_generator(before["seeds"][0], "lm"),
        position_count=before["position_count"],
        targets=before["target_count"],
    )
    random = {name: donor[name] for name in layout.leaves}
    pretrained, _ = pretrained_backbone(init, DTConfig(backbone=shape))
    return _cosine(Stack.of([random]).flat, tuned), _cosine(Stack.of([pretrained]).flat, tuned)


def _cosine(one: torch.Tensor, other: torch.Tensor) -> NDArray[np.float64]:
    """Row by row; the gaps of a stack are zeros and count nothing."""
    similarity = torch.cosine_similarity(one.detach().double(), other.detach().double(), dim=1)
    return np.asarray(similarity.numpy(), np.float64)
