"""How far fine-tuning moves a Decision Transformer (arXiv 2310.00771, appendix H): its backbone and its features.

Three snapshots of each seed:

======================  ==========================================  =================================
snapshot                backbone                                    embeddings
======================  ==========================================  =================================
random start (RI)       before pre-training; from scratch, the      the seed's own, before fine-tuning
                        seed's own before fine-tuning
pre-trained start (PT)  as the run was given it; from scratch, RI   the seed's own, before fine-tuning
fine-tuned (FT)         the last checkpoint                         the last checkpoint
======================  ==========================================  =================================

With extended positions the table of timesteps goes with the backbone. Initial values follow from their seeds, so
nothing but the checkpoints has to be kept.

The paper does not say how it flattens and averages. Here a backbone, the part that pre-training hands over, is one
vector. Features are what enters the action head at the real steps of a window, one vector a window; the cosines of
`WINDOW_COUNT` windows are averaged, which begin at steps evenly spread over the data that was trained on. Nothing is
dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.data import load_dataset
from trajmill.models.decision_transformer import DecisionTransformerConfig, embeddings, features
from trajmill.models.gpt import GPTConfig, gpt
from trajmill.models.language_model import language_model
from trajmill.models.mlp import seeded_generator
from trajmill.models.precision import use_bfloat16
from trajmill.models.stack import Stack
from trajmill.pipelines.decision_transformer import pretrained_backbone, trained_method
from trajmill.pipelines.finetuning import newest_state, pretrained_checkpoint
from trajmill.replay import TrajectoryBuffer
from trajmill.report import RunRecord
from trajmill.training.windows import WindowBatch

Cosines = NDArray[np.float64]
WINDOW_COUNT = 64
AT_ONCE = 16
"""windows whose features are computed together, of all seeds"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All networks of a run at one time, one row a seed."""

    outer: Stack
    inner: Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshots:
    """The networks of a run before pre-training, before fine-tuning and in the end."""

    network: DecisionTransformerConfig
    context_length: int
    random: Snapshot
    pretrained: Snapshot
    tuned: Snapshot

    @classmethod
    def of(cls, run: RunRecord) -> Snapshots:
        """Snapshots of a run of `train_dt`, and of the one it started from."""
        tensors, metadata = newest_state(run.path, "train_dt")
        method = trained_method(metadata)
        network = method.network(metadata["observation_dim"], metadata["action_dim"], metadata["timestep_count"])
        outer = [embeddings(network, seeded_generator(seed, "dt.outer")) for seed in metadata["seeds"]]
        inner = [gpt(method.backbone, seeded_generator(seed, "dt.inner")) for seed in metadata["seeds"]]
        init, extended = run.config["config"]["init"], run.config["config"]["extend_positions"]

        def start(backbone: dict[str, Tensor], positions: Tensor) -> Snapshot:
            table = {"embed_timestep.weight": positions} if extended else {}
            return Snapshot(outer=Stack.of([each | table for each in outer]), inner=Stack.of([backbone] * len(outer)))

        if init is None:
            random = pretrained = Snapshot(outer=Stack.of(outer), inner=Stack.of(inner))
        else:
            donor = _before_pretraining(Path(init))
            random = start({name: donor[name] for name in inner[0]}, donor["wpe.weight"])
            pretrained = start(*pretrained_backbone(Path(init), method))
        tuned = Snapshot(outer=random.outer.like(tensors["outer"]), inner=random.inner.like(tensors["inner"]))
        return cls(
            network=network, context_length=method.context_length, random=random, pretrained=pretrained, tuned=tuned
        )


def _before_pretraining(init: Path) -> dict[str, Tensor]:
    """Initial values of the language model whose backbone a run was given."""
    before = pretrained_checkpoint(init, "pretrain_dt")[1]
    return language_model(
        GPTConfig(**before["backbone"]),
        before["vocabulary_size"],
        seeded_generator(before["seeds"][0], "lm"),
        position_count=before["position_count"],
        targets=before["target_count"],
    )


def backbone_similarities(run: RunRecord) -> tuple[Cosines, Cosines]:
    """Cosines of fine-tuned backbones with their random and with their pre-trained start, (seed_count,) each."""
    found = Snapshots.of(run)
    tuned = found.tuned.inner.flat
    return _cosine(found.random.inner.flat, tuned), _cosine(found.pretrained.inner.flat, tuned)


def feature_similarities(run: RunRecord) -> tuple[Cosines, Cosines]:
    """Cosines of fine-tuned features with those of the random and of the pre-trained start, (seed_count,) each."""
    use_bfloat16(False)  # whatever was trained before in this process
    found, settings = Snapshots.of(run), run.config["config"]
    buffer = TrajectoryBuffer.from_dataset(
        load_dataset(settings["dataset"]),
        context_length=found.context_length,
        return_scale=settings["return_scale"],
        top_fraction=settings["top_fraction"],
        strict_budget=settings["strict_budget"],
    )
    starts = np.linspace(0, buffer.step_count - 1, min(WINDOW_COUNT, buffer.step_count)).astype(np.int64).tolist()
    sums = np.zeros((2, len(run.seeds)))
    for first in range(0, len(starts), AT_ONCE):
        batch = buffer.windows(starts[first : first + AT_ONCE])
        columns = {
            name: torch.from_numpy(np.asarray(batch[name])).expand(len(run.seeds), *batch[name].shape)
            for name in ("observation", "action", "return_to_go", "timestep", "mask")
        }
        windows = WindowBatch(**columns)
        tuned = _features(found.network, found.tuned, windows)
        for row, start in enumerate((found.random, found.pretrained)):
            sums[row] += _cosine(_features(found.network, start, windows), tuned).sum(-1)
    return sums[0] / len(starts), sums[1] / len(starts)


@torch.no_grad()
def _features(network: DecisionTransformerConfig, snapshot: Snapshot, windows: WindowBatch) -> Tensor:
    """One vector a window, (S, B, K * width): zero where there is no step."""
    found = features(
        snapshot.outer.detached(),
        snapshot.inner.detached(),
        network,
        return_to_go=windows.return_to_go,
        observation=windows.observation,
        action=windows.action,
        timestep=windows.timestep,
        mask=windows.mask,
    )
    return torch.where(windows.mask[..., None], found, 0.0).flatten(2)


def _cosine(one: Tensor, other: Tensor) -> Cosines:
    """Along the last axis; the gaps of a stack are zeros and count nothing."""
    similarity = torch.cosine_similarity(one.detach().double(), other.detach().double(), dim=-1)
    return np.asarray(similarity.numpy(), np.float64)
