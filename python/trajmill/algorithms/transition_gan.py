"""Transition GAN: a Wasserstein GAN of single transitions, a baseline for making more of them.

Gulrajani et al., "Improved Training of Wasserstein GANs", arXiv 1704.00028 (Algorithm 1), on the vectors that diffusion
learns (`trajmill.replay.vectors`); *Synthetic Experience Replay* (arXiv 2303.06614) compares its model with a GAN.

    L_D = mean D(G(z)) − mean D(x) + λ·mean (‖∇D(x̂)‖₂ − 1)²,  x̂ = u·x + (1 − u)·G(z)        critic_loss
    L_G = −mean D(G(z)),  z = N(0, I), at every fifth update                                 generator_loss

The sizes are ours: the paper's are not in the text at hand. Deviation: an update of the generator takes the z of the
critic's update before it, where the algorithm draws anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trajmill.data import Dataset, Transitions, qlearning_transitions
from trajmill.models.critics import critics, values_of
from trajmill.models.mlp import HIDDEN_SIZES, mlp, seeded_generator
from trajmill.models.policies import outputs
from trajmill.models.stack import Stack
from trajmill.replay.synthesizer import Synthesizer, decoding
from trajmill.replay.tables import Table
from trajmill.replay.vectors import VectorBatch, VectorCode, VectorFacts, VectorRows
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws, even, shaped_normals, uniforms
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import PerSeed, Schedule, all_at_least, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "transition GAN"
SCHEDULE = Schedule(updates=100_000)
SECONDS = (0.006, 1 / 10_000)
METRICS = ("distance", "penalty")
SCALES = {"distance": "estimated Wasserstein distance"}
EXAMPLES = """
  trajmill train transition_gan --dataset hopper-sac-replay-10k --out runs/gan
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one update computes; defaults are those of Algorithm 1, but for the sizes."""

    batch_size: int = 256
    """transitions per update and seed, at least 1"""
    learning_rate: PerSeed = 1e-4
    """Adam step size of critic and generator, > 0; its first moment is not averaged (beta1 = 0)"""
    penalty_weight: PerSeed = 10.0
    """lambda, at least 0"""
    generator_delay: int = 5
    """updates of the critic per update of the generator, at least 1"""
    latent_dim: int = 32
    """numbers of z, at least 1"""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """widths of the hidden layers of critic and generator, each at least 1"""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, generator_delay=self.generator_delay, latent_dim=self.latent_dim)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        in_range("(0, inf)", learning_rate=self.learning_rate)
        in_range("[0, inf)", penalty_weight=self.penalty_weight)


SMALL = Config(batch_size=64, hidden_sizes=(64, 64), latent_dim=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Config
    table: Table[VectorBatch, VectorFacts]
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    critic: Stack
    generator: Stack
    critic_optimizer: Adam
    generator_optimizer: Adam
    settings: Mapping[str, Tensor]
    """the `PerSeed` settings, (S,) each"""
    metrics: MetricRing

    @property
    def period(self) -> int:
        """Updates after which the operations of a step repeat."""
        return self.config.generator_delay

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return (
            {"step": self.step, "metrics": self.metrics.values}
            | {"critic": self.critic.flat, "generator": self.generator.flat}
            | prefixed("critic_adam", self.critic_optimizer.moving())
            | prefixed("generator_adam", self.generator_optimizer.moving())
        )


def prepare(config: Config, dataset: Dataset) -> VectorRows:
    """Transitions as vectors."""
    transitions = qlearning_transitions(dataset)
    return VectorRows(transitions=transitions, code=VectorCode.fit(transitions))


def _generators(config: Config, dimension: int, seeds: Sequence[int]) -> Stack:
    """Fresh generators, one row a seed."""

    def one(seed: int) -> dict[str, Tensor]:
        generator = seeded_generator(seed, "generator")
        return mlp(config.latent_dim, {"output": dimension}, generator, hidden_sizes=config.hidden_sizes)

    return Stack.of([one(seed) for seed in seeds])


def create(
    config: Config, table: Table[VectorBatch, VectorFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh networks, on the table's device, in its precision."""
    seeds, device, dimension = check_seeds(seeds), table.device, table.facts.dimension
    critic = critics(dimension, seeds, ensemble_size=1, hidden_sizes=config.hidden_sizes).to(device, table.dtype)
    generator = _generators(config, dimension, seeds).to(device, table.dtype)
    rate = per_seed(config, len(seeds), device, torch.float64)["learning_rate"]
    sizes = {"batch": config.batch_size, "latent": even(config.batch_size * config.latent_dim)}
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, sizes | {"place": config.batch_size}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        critic=critic,
        generator=generator,
        critic_optimizer=Adam.of([critic], [rate], beta1=0.0, beta2=0.9, fused=True),
        generator_optimizer=Adam.of([generator], [rate], beta1=0.0, beta2=0.9, fused=True),
        settings=per_seed(config, len(seeds), device, table.dtype),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place; `first` is the number of the first one, modulo the period."""
    words = state.draws.words(state.step, count)
    batches = state.table.draw(words["batch"])
    shape, dtype = (state.config.batch_size, state.config.latent_dim), state.table.dtype
    latent = shaped_normals(words["latent"], shape, dtype).unbind()
    place = uniforms(words["place"], dtype)[..., None].unbind()
    for index in range(count):
        moves_generator = (first + index + 1) % state.period == 0
        update(state, batches[index].vector, latent[index], place[index], moves_generator=moves_generator)


def update(state: State, vector: Tensor, latent: Tensor, place: Tensor, *, moves_generator: bool) -> None:
    """One update of the critic, then perhaps of the generator.

    `vector` (S, B, K) is real, `latent` (S, B, L) standard normal, `place` (S, B, 1) uniform in (0, 1).
    """
    with torch.no_grad():
        made = outputs(state.generator.parameters, latent)
    distance, penalty = critic_loss(state, vector, made, place)
    state.critic_optimizer.minimize(state.settings["penalty_weight"] * penalty - distance)
    if moves_generator:
        state.generator_optimizer.minimize(generator_loss(state, latent))
    state.metrics.write(state.step, {"distance": distance.detach(), "penalty": penalty.detach()})
    state.step.add_(1)


def critic_loss(state: State, vector: Tensor, made: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Estimated distance, mean D(x) − mean D(G(z)), and the penalty without its weight: 2 × (S,)."""
    values = values_of(state.critic.parameters, torch.cat([vector, made], 1))[:, 0]
    real, false = values.chunk(2, -1)
    between = torch.lerp(made, vector, place).requires_grad_()
    inner = values_of(state.critic.parameters, between)
    (slope,) = torch.autograd.grad(inner, between, torch.ones_like(inner), create_graph=True)
    return real.mean(-1) - false.mean(-1), (torch.linalg.vector_norm(slope, dim=-1) - 1.0).square().mean(-1)


def generator_loss(state: State, latent: Tensor) -> Tensor:
    """L_G, reaching the generator only: (S,)."""
    made = outputs(state.generator.parameters, latent)
    return -values_of(state.critic.detached(), made)[:, 0].mean(-1)


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
    """What makes transitions from a checkpoint: from the generator of its first seed. `data`, `bfloat16` do nothing."""
    settings = known["method"]
    config = Config(latent_dim=settings["latent_dim"], hidden_sizes=tuple(settings["hidden_sizes"]))
    code = VectorCode.from_dict(known["code"])
    parameters = _generators(config, len(code.kept), [0]).like(tensors["generator"][:1].to(device)).parameters
    return decoding(
        code,
        lambda latent: outputs(parameters, latent),
        config.latent_dim,
        block_size=block_size,
        device=device,
        clip_actions=sampling is not None and sampling.clip_actions,
    )
