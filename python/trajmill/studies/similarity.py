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

With extended positions the table of timesteps goes with the backbone. Initial values follow from their seeds.

The paper does not say how it flattens and averages. There are two rules:

- own: a backbone, the part that pre-training hands over, is one vector. Features are what enters the action head at the
  real steps of a window, without dropout, one vector a window; the cosine is the mean over `WINDOW_COUNT` windows,
  which begin at steps evenly spread over the training data.
- released (code/utils.py of github.com/Victor-wang-902/rl_pretrain): the weights of the backbone, matrices and gains of
  normalizations, are one vector; biases do not count. Features are one vector a step, and a padded step has the cosine
  0. Windows follow each other in a tenth of all episodes, drawn by NumPy's legacy generator with seed 0; the mean is
  over whole batches of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.algorithms import decision_transformer, language_model
from trajmill.data import load_dataset
from trajmill.models.decision_transformer import DecisionTransformerConfig, Windows, features, initial_embeddings
from trajmill.models.gpt import gpt
from trajmill.models.mlp import seeded_generator
from trajmill.models.precision import use_bfloat16
from trajmill.models.stack import Stack
from trajmill.replay import TrajectoryBuffer
from trajmill.runs.reading import RunRecord, checkpoints, read_start, read_state
from trajmill.studies.records import CosineRule
from trajmill.training.device import torch_as_it_was

Cosines = NDArray[np.float64]
WINDOW_COUNT = 64
AT_ONCE = 16
"""windows whose features are computed together, of all seeds"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All networks of a run at one time, one row a seed."""

    embeddings: Stack
    backbone: Stack


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The networks of a run before pre-training, before fine-tuning and in the end."""

    config: decision_transformer.Config
    network: DecisionTransformerConfig
    random: Snapshot
    pretrained: Snapshot
    tuned: Snapshot

    @classmethod
    def of(cls, run: RunRecord) -> Snapshots:
        """Snapshots of a Decision Transformer's run, and of the one it started from."""
        tensors, known = read_state(checkpoints(run.path)[0])
        config = decision_transformer.settings(known)
        network = config.network(known["observation_dim"], known["action_dim"], known["timestep_count"])
        embeddings = [initial_embeddings(network, seeded_generator(seed, "dt.outer")) for seed in known["seeds"]]
        backbone = [gpt(config.backbone, seeded_generator(seed, "dt.inner")) for seed in known["seeds"]]
        random = pretrained = Snapshot(Stack.of(embeddings), Stack.of(backbone))

        def start(learned: dict[str, Tensor]) -> Snapshot:
            table = {"embed_timestep.weight": learned["wpe.weight"]} if config.extend_positions else {}
            handed_on = {name: learned[name] for name in backbone[0]}
            return Snapshot(Stack.of([each | table for each in embeddings]), Stack.of([handed_on] * len(embeddings)))

        if (init := run.settings["init"]) is not None:
            donor_tensors, donor = read_start(Path(init))
            random = start(language_model.before(donor))
            pretrained = start(language_model.learned(donor_tensors, donor)[1])
        tuned = (random.embeddings.like(tensors["embeddings"]), random.backbone.like(tensors["backbone"]))
        return cls(config, network, random, pretrained, Snapshot(*tuned))


def backbone_similarities(run: RunRecord, rule: CosineRule = "own") -> tuple[Cosines, Cosines]:
    """Cosines of fine-tuned backbones with their random and with their pre-trained start, (seed_count,) each."""
    found = Snapshots.of(run)
    random, pretrained, tuned = (
        _weights(each.backbone) if rule == "released" else each.backbone.flat
        for each in (found.random, found.pretrained, found.tuned)
    )
    return _cosine(random, tuned), _cosine(pretrained, tuned)


def _weights(stack: Stack) -> Tensor:
    """All parameters but biases, (S, width)."""
    return torch.cat([value.flatten(1) for name, value in stack.detached().items() if name.endswith(".weight")], 1)


@torch_as_it_was()
def feature_similarities(run: RunRecord, rule: CosineRule = "own") -> tuple[Cosines, Cosines]:
    """Cosines of fine-tuned features with those of the random and of the pre-trained start, (seed_count,) each.

    By the released rule they are NaN if a tenth of the episodes has less than a batch of windows.
    """
    use_bfloat16(False)  # whatever was trained before in this process
    found = Snapshots.of(run)
    dataset = load_dataset(run.settings["dataset"], limit=run.settings.get("limit"))
    # the released code measures episodes that it may not train on, too
    config = replace(found.config, top_fraction=1.0, strict_budget=False) if rule == "released" else found.config
    buffer = decision_transformer.prepare(config, dataset).source()
    starts = _starts_in_a_tenth(buffer, config) if rule == "released" else _starts_everywhere(buffer)
    sums = np.zeros((2, len(run.seeds)))
    for first in range(0, len(starts), AT_ONCE):
        batch = buffer.windows(starts[first : first + AT_ONCE])
        columns = {name: torch.from_numpy(np.asarray(column)) for name, column in batch.items()}
        columns = {name: column.double() if column.is_floating_point() else column for name, column in columns.items()}
        windows = Windows(**{name: column.expand(len(run.seeds), *column.shape) for name, column in columns.items()})
        tuned = _features(found.network, found.tuned, windows, rule)
        for row, start in enumerate((found.random, found.pretrained)):
            sums[row] += _cosine(_features(found.network, start, windows, rule), tuned).mean(-1).sum(-1)
    sums /= len(starts) or np.nan
    return sums[0], sums[1]


def _starts_everywhere(buffer: TrajectoryBuffer) -> list[int]:
    """Steps evenly spread over the data."""
    starts = np.linspace(0, buffer.step_count - 1, min(WINDOW_COUNT, buffer.step_count))
    found: list[int] = starts.astype(np.int64).tolist()
    return found


def _starts_in_a_tenth(buffer: TrajectoryBuffer, config: decision_transformer.Config) -> list[int]:
    """Steps at which the released code begins windows, as many as make whole batches."""
    lengths = buffer.episodes[:, 1].astype(np.int64)
    begins, count = np.cumsum(lengths) - lengths, len(lengths)
    starts: list[int] = []
    for episode in np.random.RandomState(0).choice(count, size=int(count * 0.1), replace=False):
        begin, length = int(begins[episode]), int(lengths[episode])
        # a last step alone begins no window, unless it is the first one too
        starts += range(begin, begin + max(length - 1, 1), config.context_length)
    return starts[: len(starts) // config.batch_size * config.batch_size]


@torch.no_grad()
def _features(network: DecisionTransformerConfig, snapshot: Snapshot, windows: Windows, rule: CosineRule) -> Tensor:
    """Vectors of each window, zero where there is no step: (S, B, K, width) released, else (S, B, 1, K * width).

    Computed in float64, so that a cosine says nothing of rounding.
    """
    networks = (snapshot.embeddings, snapshot.backbone)
    embeddings, backbone = ({name: each.double() for name, each in stack.detached().items()} for stack in networks)
    found = features(embeddings, backbone, network, windows)
    real = torch.where(windows.mask[..., None], found, 0.0)
    return real if rule == "released" else real.flatten(2)[:, :, None]


def _cosine(one: Tensor, other: Tensor) -> Cosines:
    """Along the last axis; the padding between the tensors of a stack is zero and does not count."""
    similarity = torch.cosine_similarity(one.detach().double(), other.detach().double(), dim=-1)
    return np.asarray(similarity.numpy(), np.float64)
