"""Diffusion: EDM on single transitions, to make more of them (SynthER).

Lu, Ball, Teh & Parker-Holder, "Synthetic Experience Replay", arXiv 2303.06614, as in conglu1997/SynthER; EDM is arXiv
2206.00364. A residual MLP F denoises vectors of transitions of about unit variance (`trajmill.replay.vectors`).

    σ = exp(−1.2 + 1.2·N(0, 1)),  λ(σ) = (σ² + 1) / σ²
    L = mean_b λ(σ_b)·mean_dims (D(x + σε; σ) − x)²,  D = c_skip·x + c_out·F(c_in·x; c_noise)  differentiate
    θ_ema ← θ until update 111, then θ_ema + (1 − d)(θ − θ_ema),                             average
            d = min(0.995, 1 − (c − 100)^(−2/3)) at update c, every tenth update

`synthesize` draws from the averaged network along EDM's noise levels.

With ``condition`` the network also sees how relevant a transition is, in `condition_dropout` of the rows hidden
(Prioritized Generative Replay, arXiv 2410.18082), and ``Sampling.guidance`` asks for relevant ones.

Deviations: batches are drawn with replacement, where the released code goes through shuffled epochs; columns that are
constant in the data are left out (`keep_constant` models them); a column that varies by less than 1e-3 is scaled by its
deviation alone, where the released code adds 1e-5; the step size follows `decay_updates`, also in a run
that is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.core import checks
from trajmill.data import Dataset, Transitions, qlearning_transitions
from trajmill.data.episodes import followed, returns_to_go
from trajmill.models.denoiser import backpropagate, denoisers, residual_mlp
from trajmill.models.edm import (
    HIGHEST,
    LOG_MEAN,
    LOG_STD,
    Churn,
    denoised,
    dpm_solver,
    heun,
    loss_weight,
    noise_levels,
    scalings,
)
from trajmill.models.stack import Stack
from trajmill.replay.synthesizer import Synthesizer
from trajmill.replay.tables import Table
from trajmill.replay.vectors import Scaling, VectorBatch, VectorCode, VectorFacts, VectorRows
from trajmill.training.adam import Adam, cosine
from trajmill.training.draws import Draws, even, indexes, shaped_normals, uniforms
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import PerSeed, Schedule, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "diffusion"
SCHEDULE = Schedule(updates=100_000)
SECONDS = (0.15, 1 / 4_000)
UPSAMPLES = True
METRICS = ("loss",)
SCALES = {"loss": "weighted squared error"}
EXAMPLES = """
  trajmill train diffusion --dataset hopper-sac-replay-10k --method.width 256 --out runs/model
  trajmill train diffusion --dataset hopper_medium_replay-v2.hdf5 --compute.precision bf16 --out runs/model
  trajmill train diffusion --dataset A.hdf5 --method.condition return --out runs/conditioned
"""
LARGE = 800_000
"""rows from which on SynthER's batches have 1,024 rows in place of 256"""
CONDITION_DIM = 2
"""the relevance, and whether it is shown"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one update computes; defaults are those of SynthER's offline runs."""

    batch_size: int | None = None
    """transitions per update and seed, at least 1; 1,024, or 256 for a dataset of fewer than 800,000 rows"""
    learning_rate: PerSeed = 3e-4
    """Adam step size at the first update, > 0"""
    decay_updates: int | None = None
    """updates over which the step size falls to 0 along a cosine, at least 1; None is all of --schedule.updates"""
    clip_norm: float = 1.0
    """greatest L2 norm of a gradient, > 0"""
    width: int = 1024
    """of the residual blocks, at least 1; SynthER has 2,048 for most offline datasets, 1,024 else"""
    depth: int = 6
    """residual blocks, at least 1"""
    embedding_dim: int = 128
    """numbers that the vector and its noise level are first turned into, at least 1; SynthER's online runs have 256"""
    average_decay: float = 0.995
    """of the averaged network, [0, 1)"""
    scaling: Scaling = "standard"
    """mean 0 and deviation 1 for each column, or minmax to [-1, 1], where samples are clamped"""
    unbounded_actions: bool = False
    """model atanh(0.999 a) for actions in [-1, 1], so that none leaves them"""
    keep_constant: bool = False
    """model columns that are constant in the data too"""
    next_observation: Literal["stored", "d4rl"] = "stored"
    """stored keeps the file's next observations; d4rl cuts the data as D4RL's own function does, as SynthER does"""
    condition: Literal["none", "return", "run"] = "none"
    """what making can be conditioned on: the return from a row on, or what another run finds relevant (--relevance)"""
    condition_dropout: float = 0.25
    """share of rows whose condition is hidden in training, [0, 1)"""

    def __post_init__(self) -> None:
        at_least(1, batch_size=1 if self.batch_size is None else self.batch_size)
        at_least(1, decay_updates=1 if self.decay_updates is None else self.decay_updates)
        at_least(1, width=self.width, depth=self.depth, embedding_dim=self.embedding_dim)
        in_range("(0, inf)", learning_rate=self.learning_rate, clip_norm=self.clip_norm)
        in_range("[0, 1)", average_decay=self.average_decay, condition_dropout=self.condition_dropout)
        checks.choice("scaling", self.scaling, ("standard", "minmax"))
        checks.choice("next_observation", self.next_observation, ("stored", "d4rl"))
        checks.choice("condition", self.condition, ("none", "return", "run"))


SMALL = Config(batch_size=64, width=64, depth=2, embedding_dim=32, decay_updates=2000)
RETRAINED = Config(batch_size=256, embedding_dim=256)
"""SynthER's settings while an agent learns online"""


def adapt(config: Config, dataset: Dataset, environment: str | None) -> Config:
    """With SynthER's batch size for as many rows, if none is given."""
    batch_size = config.batch_size or (1024 if len(dataset) >= LARGE else 256)
    return replace(config, batch_size=batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Config
    table: Table[VectorBatch, VectorFacts]
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    denoiser: Stack
    average: Stack
    """what samples are drawn from"""
    optimizer: Adam
    metrics: MetricRing
    period: int = 10

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return (
            {"step": self.step, "metrics": self.metrics.values}
            | {"denoiser": self.denoiser.flat, "average": self.average.flat}
            | prefixed("adam", self.optimizer.moving())
        )


def prepare(config: Config, dataset: Dataset) -> VectorRows:
    """Transitions as vectors, and how relevant each is."""
    transitions = qlearning_transitions(dataset, config.next_observation)
    code = VectorCode.fit(
        transitions, config.scaling, unbounded_actions=config.unbounded_actions, keep_constant=config.keep_constant
    )
    rows = VectorRows(transitions=transitions, code=code)
    return rows.with_relevance(returns_in_order(transitions)) if config.condition == "return" else rows


def returns_in_order(transitions: Transitions) -> NDArray[np.float64]:
    """`returns_to_go` of each row (N,); ValueError if rows are in no order."""
    if not followed(transitions).any() and not (transitions.terminal | transitions.truncated).all():
        raise ValueError("condition return needs episodes in order, but no row is followed by the next one")
    return returns_to_go(transitions)


def _denoisers(config: Config, dimension: int, seeds: Sequence[int]) -> Stack:
    """Fresh networks for vectors of this many numbers."""
    condition_dim = 0 if config.condition == "none" else CONDITION_DIM
    shape = {"width": config.width, "depth": config.depth, "embedding_dim": config.embedding_dim}
    return denoisers(dimension, seeds, condition_dim=condition_dim, **shape)


def create(
    config: Config, table: Table[VectorBatch, VectorFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh networks, their averages equal to them; on the table's device, in its precision."""
    if config.batch_size is None:
        raise ValueError("batch_size is open; adapt(config, dataset, environment) fills it in")
    if config.decay_updates is None:
        raise ValueError("decay_updates is open; give the number of updates that there will be")
    if (config.condition != "none") != bool(table.facts.relevance):
        raise ValueError(
            "condition run and --relevance RUN of trajmill train need each other; give both, or leave both out (for "
            "trajmill upsample train the model first, and give it as --model; --synthesis takes condition return alone)"
        )
    seeds, device, dtype = check_seeds(seeds), table.device, table.dtype
    denoiser = _denoisers(config, table.facts.dimension, seeds).to(device, dtype)
    sizes = {
        "batch": config.batch_size,
        "level": even(config.batch_size),
        "noise": even(config.batch_size * table.facts.dimension),
        "condition": config.batch_size if table.facts.relevance else 0,
    }
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, {name: size for name, size in sizes.items() if size}, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        denoiser=denoiser,
        average=denoiser.copy(),
        optimizer=Adam.of(
            [denoiser],
            [per_seed(config, len(seeds), device, torch.float64)["learning_rate"]],
            beta2=0.99,
            clip_norm=config.clip_norm,
            fused=True,
        ),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place; `first` is the number of the first one, modulo the period."""
    words = state.draws.words(state.step, count)
    batches = state.table.draw(words["batch"])
    shape, dtype = (state.config.batch_size or 0, state.table.facts.dimension), state.table.dtype
    levels = (shaped_normals(words["level"], (shape[0], 1), dtype) * LOG_STD + LOG_MEAN).exp().unbind()
    noise = shaped_normals(words["noise"], shape, dtype).unbind()
    shown = uniforms(words["condition"], dtype) >= state.config.condition_dropout if "condition" in words else None
    for index in range(count):
        hidden = None if shown is None else condition_of(batches[index].relevance, shown[index])
        averages = (first + index) % state.period == 0
        update(state, batches[index].vector, levels[index], noise[index], hidden, averages=averages)


def condition_of(relevance: Tensor | None, shown: Tensor) -> Tensor:
    """What the network sees of the relevance (S, B) of the rows that are `shown`: (S, B, 2)."""
    assert relevance is not None
    visible = shown.to(relevance.dtype)
    return torch.stack([relevance * visible, visible], -1)


def update(
    state: State, vector: Tensor, sigma: Tensor, noise: Tensor, condition: Tensor | None = None, *, averages: bool
) -> None:
    """One update on vectors (S, B, K) with noise levels (S, B, 1) and standard normal `noise` (S, B, K)."""
    losses = differentiate(state, vector, sigma, noise, condition)
    assert state.config.decay_updates is not None
    state.optimizer.apply(cosine(state.step, state.config.decay_updates))
    if averages:
        average(state)
    state.metrics.write(state.step, {"loss": losses})
    state.step.add_(1)


def differentiate(
    state: State, vector: Tensor, sigma: Tensor, noise: Tensor, condition: Tensor | None = None
) -> Tensor:
    """L (S,), and its gradient in the optimizer: ∂L/∂F = 2·λ·c_out·(D − x) / (B·K), since D = c_skip·x + c_out·F."""
    parameters, (gradients,) = state.denoiser.detached(), state.optimizer.gradients
    noisy = torch.addcmul(vector, sigma, noise)
    skip, out, scale, level = scalings(sigma)
    output, tape = residual_mlp(parameters, with_condition(scale * noisy, condition), level, keep=True)
    error = torch.addcmul(skip * noisy - vector, out, output)
    weighted = loss_weight(sigma) * error
    losses = (weighted * error).mean((1, 2))
    assert tape is not None
    backpropagate(parameters, tape, weighted.mul_(out * (2.0 / error[0].numel())), gradients.parameters)
    return losses


def with_condition(inputs: Tensor, condition: Tensor | None) -> Tensor:
    """Vectors (S, B, K), and the condition (S, B, 2) beside them."""
    return inputs if condition is None else torch.cat([inputs, condition.expand(*inputs.shape[:-1], -1)], -1)


@torch.no_grad()
def average(state: State) -> None:
    """Move the averaged network as ema-pytorch 0.1.2 does: every tenth update from the first on."""
    kept = average_decay(state.config, state.step)
    state.average.flat.lerp_(state.denoiser.flat.detach(), (1.0 - kept).to(state.average.flat.dtype))


def average_decay(config: Config, update: Tensor) -> Tensor:
    """The decay d at `update` (int64), counted from 0; it is 0, which copies, up to the average's first use at 110."""
    warmed = 1.0 - (update - 99).clamp(min=1).to(torch.float64) ** (-2.0 / 3.0)
    return torch.where(update <= 110, 0.0, warmed.clamp(max=config.average_decay))


def describe(state: State) -> dict[str, Any]:
    """How vectors become transitions, and what can be asked for."""
    facts = state.table.facts
    return {"code": facts.code.to_dict(), "relevance": list(facts.relevance)}


# --- making transitions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How transitions are made; defaults are SynthER's."""

    sampler: Literal["paper", "fast"] = "paper"
    """paper: EDM's stochastic Heun steps, two evaluations each; fast: SDE-DPM-Solver++ 2M, one evaluation a level"""
    levels: int | None = None
    """noise levels, at least 2; 128 for paper, 32 for fast"""
    churn: float = 80.0
    """fresh noise of the paper's sampler, at least 0; it buys accuracy of the dynamics"""
    freshness: float = 1.0
    """share of the noise that the fast sampler makes anew, [0, 1]; 0 is DPM-Solver++ 2M, without any"""
    noise_level: float = HIGHEST
    """with less than 80, rows of the data get exactly this much noise, and are denoised from there, (0, 80]"""
    guidance: float = 1.0
    """weight of the condition, at least 0: 0 hides it, 1 follows it, more exaggerates it"""
    least_quantile: float = 0.75
    """with a condition, ask for relevances from this quantile of the data's (--dataset's) on, [0, 1)"""
    clip_actions: bool = False
    """clip actions to [-1, 1]"""

    def __post_init__(self) -> None:
        checks.choice("sampler", self.sampler, ("paper", "fast"))
        if (self.sampler == "fast" and self.churn != 80.0) or (self.sampler == "paper" and self.freshness != 1.0):
            raise ValueError(
                f"churn is for the paper's sampler and freshness for the fast one, got {self.sampler} with churn "
                f"{self.churn:g} and freshness {self.freshness:g}; leave out the other one's"
            )
        at_least(2, levels=2 if self.levels is None else self.levels)
        in_range("[0, inf)", churn=self.churn, guidance=self.guidance)
        in_range("[0, 1]", freshness=self.freshness)
        in_range(f"(0, {HIGHEST}]", noise_level=self.noise_level)
        in_range("[0, 1)", least_quantile=self.least_quantile)

    @property
    def level_count(self) -> int:
        """Noise levels."""
        return self.levels or (128 if self.sampler == "paper" else 32)

    @property
    def evaluations(self) -> int:
        """Of the network, for a transition made of noise alone and without guidance."""
        return 2 * self.level_count - 1 if self.sampler == "paper" else self.level_count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampler:
    """Draws vectors from an averaged network."""

    parameters: Mapping[str, Tensor]
    sampling: Sampling
    levels: list[float]
    block_size: int
    dimension: int
    device: torch.device
    data: Tensor | None
    """(N, K): rows to start from"""
    relevance: Tensor
    """its quantiles in the data (101,), or none (0,)"""
    bounded: bool

    @property
    def evaluations(self) -> int:
        """Of the network, for one block; twice as many if they are guided."""
        steps = len(self.levels) - 1
        guided = len(self.relevance) and self.sampling.guidance not in (0.0, 1.0)
        return (2 * steps - 1 if self.sampling.sampler == "paper" else steps) * (2 if guided else 1)

    @torch.no_grad()
    def vectors(self, draws: Draws, block: Tensor) -> Tensor:
        """See `Synthesizer`."""
        count, shape = len(self.levels), (self.block_size, self.dimension)

        def noise(number: int) -> Tensor:
            return shaped_normals(draws.words(block * count + number, 1)["noise"][0], shape, torch.float32)

        words = draws.words(block * count, 1)
        start = noise(0) * self.levels[0]
        if self.data is not None:
            start += self.data[indexes(words["row"][0], len(self.data))]
        denoiser = partial(self._denoised, condition=self._asked(words["asked"][0]) if "asked" in words else None)
        if self.sampling.sampler == "fast":
            return dpm_solver(denoiser, noise, start, self.levels, self.sampling.freshness)[0]
        churn = Churn(amount=self.sampling.churn)
        return heun(denoiser, noise, start, self.levels, churn, self.sampling.level_count)[0]

    def _asked(self, words: Tensor) -> Tensor:
        """The condition, (1, B, 2)."""
        place = 100.0 * (
            self.sampling.least_quantile + (1.0 - self.sampling.least_quantile) * uniforms(words, torch.float32)
        )
        below = place.floor().clamp(max=99.0)
        low = below.long()
        asked = torch.lerp(self.relevance[low], self.relevance[low + 1], place - below)
        return condition_of(asked, torch.ones_like(asked))

    def _denoised(self, noisy: Tensor, sigma: float, *, condition: Tensor | None) -> Tensor:
        """D, guided: what it is without the condition, and the difference that the condition makes, times a weight."""
        weight = self.sampling.guidance
        if condition is None or weight == 1.0:
            clean = self._seen(noisy, sigma, condition)
        else:
            clean = self._seen(noisy, sigma, torch.zeros_like(condition))
            clean = clean if weight == 0.0 else torch.lerp(clean, self._seen(noisy, sigma, condition), weight)
        return clean.clamp(-1.0, 1.0) if self.bounded else clean

    def _seen(self, noisy: Tensor, sigma: float, condition: Tensor | None) -> Tensor:
        """D with this condition."""

        def network(inputs: Tensor, level: Tensor) -> Tensor:
            return residual_mlp(self.parameters, with_condition(inputs, condition), level)[0]

        return denoised(network, noisy, torch.full((1, 1, 1), sigma, device=self.device))


def check_sampling(settings: Mapping[str, Any], sampling: Sampling) -> None:
    """ValueError if a model with these settings cannot be asked what `sampling` asks."""
    asked, usual = ((each.guidance, each.least_quantile) for each in (sampling, Sampling()))
    if settings["condition"] == "none" and asked != usual:
        raise ValueError(
            "guidance and least_quantile ask for a condition, and this model has none; train one with "
            "--method.condition, or leave them out"
        )
    if settings["condition"] != "none" and settings["condition_dropout"] == 0.0 and sampling.guidance != 1.0:
        raise ValueError(
            f"guidance {sampling.guidance:g} needs what the model makes without its condition, which it has never "
            "learned: its condition_dropout is 0; train one with more, or ask for guidance 1"
        )


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
    """What makes transitions from a checkpoint: from the averaged network of its first seed.

    `data` is needed for a `Sampling.noise_level` below 80. Blocks of 512 to 1,024 rows keep what a layer computes in
    the cache of a CPU. `bfloat16` computes products in it.
    """
    sampling, settings = sampling or Sampling(), known["method"]
    shape = {name: settings[name] for name in ("width", "depth", "embedding_dim", "condition")}
    code, starts_from_data = VectorCode.from_dict(known["code"]), sampling.noise_level < HIGHEST
    check_sampling(settings, sampling)
    if starts_from_data and data is None:
        raise ValueError(
            f"noise_level {sampling.noise_level:g} is below 80, so it starts from rows of the data; give them"
        )
    stack = _denoisers(replace(SMALL, **shape), len(code.kept), [0]).like(tensors["average"][:1].to(device))
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    sampler = _Sampler(
        parameters={
            name: value.to(dtype) if name.endswith("weight") else value for name, value in stack.parameters.items()
        },
        sampling=sampling,
        levels=noise_levels(sampling.level_count, sampling.noise_level),
        block_size=block_size,
        dimension=len(code.kept),
        device=device,
        data=torch.from_numpy(code.encode(data)).to(device) if starts_from_data and data is not None else None,
        relevance=torch.tensor(known["relevance"], device=device),
        bounded=code.bounded,
    )
    return Synthesizer(
        code=code,
        vectors=sampler.vectors,
        sites={"row": block_size, "noise": even(block_size * len(code.kept))}
        | ({"asked": block_size} if known["relevance"] else {}),
        block_size=block_size,
        device=device,
        evaluations=sampler.evaluations,
        clip_actions=sampling.clip_actions,
    )
