"""Transition VAE: a variational autoencoder of single transitions, a baseline for making more of them.

Kingma & Welling, arXiv 1312.6114, on the vectors that diffusion learns (`trajmill.replay.vectors`); *Synthetic
Experience Replay* (arXiv 2303.06614) compares its model with one. As in TVAE (Xu et al., arXiv 1907.00503) each column
has a spread σ_k of its own, which is learned, and samples are N(dec(z), σ²).

    z = μ(x) + s(x)·ε,  ε = N(0, I),  z ∈ R^L                                                update
    L = mean_b [ Σ_k (½·((x_k − dec(z)_k) / σ_k)² + ln σ_k) + KL(N(μ, s²) ‖ N(0, I)) ] / K   losses

The sizes are ours: the paper's are not in the text at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trajmill.data import Dataset, Transitions, qlearning_transitions
from trajmill.models.mlp import HIDDEN_SIZES, mlp, named, part_of, seeded_generator
from trajmill.models.policies import outputs
from trajmill.models.stack import Stack
from trajmill.models.vae import divergence_from_normal, sampled
from trajmill.replay.synthesizer import Synthesizer, decoding
from trajmill.replay.tables import Table
from trajmill.replay.vectors import VectorBatch, VectorCode, VectorFacts, VectorRows
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws, even, shaped_normals
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import PerSeed, Schedule, all_at_least, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "transition VAE"
SCHEDULE = Schedule(updates=100_000)
SECONDS = (0.003, 1 / 15_000)
METRICS = ("error", "kl")
SCALES = {"error": "nats a number"}
EXAMPLES = """
  trajmill train transition_vae --dataset hopper-sac-replay-10k --out runs/vae
"""
LOG_SPREADS = (-6.0, 1.0)
"""clamp of the logarithm of the spreads"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one update computes."""

    batch_size: int = 256
    """transitions per update and seed, at least 1"""
    learning_rate: PerSeed = 1e-3
    """Adam step size, > 0"""
    latent_dim: int = 32
    """L: numbers of a code, at least 1"""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """widths of the hidden layers of encoder and decoder, each at least 1"""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, latent_dim=self.latent_dim)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        in_range("(0, inf)", learning_rate=self.learning_rate)


SMALL = Config(batch_size=64, hidden_sizes=(64, 64), latent_dim=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Config
    table: Table[VectorBatch, VectorFacts]
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    model: Stack
    optimizer: Adam
    metrics: MetricRing
    period: int = 1

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        tensors = {"step": self.step, "metrics": self.metrics.values, "model": self.model.flat}
        return tensors | prefixed("adam", self.optimizer.moving())


def prepare(config: Config, dataset: Dataset) -> VectorRows:
    """Transitions as vectors."""
    transitions = qlearning_transitions(dataset)
    return VectorRows(transitions=transitions, code=VectorCode.fit(transitions))


def _models(config: Config, dimension: int, seeds: Sequence[int]) -> Stack:
    """Fresh encoders, decoders and ln σ, one row a seed."""
    sizes = {"encoder": (dimension, 2 * config.latent_dim), "decoder": (config.latent_dim, dimension)}

    def one(seed: int) -> dict[str, Tensor]:
        values = {"log_spread": torch.zeros(1, dimension)}
        for name, (inputs, output) in sizes.items():
            generator = seeded_generator(seed, f"transition_vae.{name}")
            values |= named(name, mlp(inputs, {"output": output}, generator, hidden_sizes=config.hidden_sizes))
        return values

    return Stack.of([one(seed) for seed in seeds])


def create(
    config: Config, table: Table[VectorBatch, VectorFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh networks, on the table's device, in its precision."""
    seeds, device = check_seeds(seeds), table.device
    model = _models(config, table.facts.dimension, seeds).to(device, table.dtype)
    sizes = {"batch": config.batch_size, "noise": even(config.batch_size * config.latent_dim)}
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, sizes, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        model=model,
        optimizer=Adam.of([model], [per_seed(config, len(seeds), device, torch.float64)["learning_rate"]], fused=True),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place."""
    words = state.draws.words(state.step, count)
    batches = state.table.draw(words["batch"])
    shape = (state.config.batch_size, state.config.latent_dim)
    noise = shaped_normals(words["noise"], shape, state.table.dtype).unbind()
    for index in range(count):
        update(state, batches[index].vector, noise[index])


def update(state: State, vector: Tensor, noise: Tensor) -> None:
    """One update on vectors (S, B, K) and standard normal `noise` (S, B, L)."""
    error, divergence = losses(state.model.parameters, vector, noise)
    state.optimizer.minimize(error + divergence)
    state.metrics.write(state.step, {"error": error.detach(), "kl": divergence.detach()})
    state.step.add_(1)


def losses(parameters: Mapping[str, Tensor], vector: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of L: 2 × (S,)."""
    mean, log_variance = outputs(part_of(parameters, "encoder"), vector).chunk(2, -1)
    code = sampled(mean, log_variance, noise)
    log_spread = parameters["log_spread"].clamp(*LOG_SPREADS)
    distance = (vector - outputs(part_of(parameters, "decoder"), code)) * (-log_spread).exp()
    divergence = divergence_from_normal(mean, log_variance).mean(1) / vector.shape[-1]
    return (0.5 * distance.square() + log_spread).mean((1, 2)), divergence


def describe(state: State) -> dict[str, Any]:
    """How vectors become transitions."""
    return {"code": state.table.facts.code.to_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How transitions are made."""

    clip_actions: bool = False
    """clip actions to [-1, 1]"""


def synthesize(
    tensors: Mapping[str, Tensor],
    known: Mapping[str, Any],
    sampling: Sampling | None = None,
    *,
    device: torch.device,
    data: Transitions | None = None,
    block_size: int = 1024,
    bfloat16: bool = False,
) -> Synthesizer:
    """What makes transitions from a checkpoint: from the model of its first seed. `data` and `bfloat16` do nothing."""
    settings = known["method"]
    config = Config(latent_dim=settings["latent_dim"], hidden_sizes=tuple(settings["hidden_sizes"]))
    code = VectorCode.from_dict(known["code"])
    dimension = len(code.kept)
    parameters = _models(config, dimension, [0]).like(tensors["model"][:1].to(device)).parameters

    def decode(numbers: Tensor) -> Tensor:
        latent, noise = numbers.split([config.latent_dim, dimension], -1)
        spread = parameters["log_spread"].clamp(*LOG_SPREADS).exp()
        return torch.addcmul(outputs(part_of(parameters, "decoder"), latent), spread, noise)

    return decoding(
        code,
        decode,
        config.latent_dim + dimension,
        block_size=block_size,
        device=device,
        clip_actions=sampling is not None and sampling.clip_actions,
    )
