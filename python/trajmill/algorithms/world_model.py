"""World model: a VAE of states with a latent transition, which predicts next states.

Macaluso, Sestini & Bagdanov, "Small Dataset, Big Gains: Enhancing Reinforcement Learning by Offline Pre-Training with
Model-Based Augmentation", arXiv 2312.09844: a VAE trained end to end with a transition model. `--predict RUN` of
another method replaces next states by its predictions. Every tensor leads with the seed axis S; losses are sums over
seeds of per-seed means; states are standardized.

    z  = μ(s) + σ(s)·ε,  ε = N(0, I)                                                         encode, sampled
    ŝ  = dec(z),  ŝ' = dec(z + T(z, a))                                                      decode, moved
    L  = mean (ŝ' − s')² + mean (ŝ − s)² + β·mean KL(N(μ, σ²) ‖ N(0, I))                     losses

Means run over rows and numbers of a state, the divergence is summed over the numbers of z. A seeded share of the rows
is held out: no update and no statistic sees them. `measure` computes the error of ŝ' there with z = μ, and keeps the
parameters that had the least so far; those are what `predict` uses, so that training longer never makes it worse.

What could be read of the paper gives neither sizes nor rates, so every default here is ours (docs/world-model.md).
Where a dataset stores no next states, steps that end in a terminal are left out: what followed them is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from trajmill.data import Dataset, Normalizer, Transitions, qlearning_transitions
from trajmill.data.episodes import with_next_rows
from trajmill.models.mlp import HIDDEN_SIZES
from trajmill.models.stack import Stack
from trajmill.models.vae import autoencoders, decode, divergence_from_normal, encode, moved, sampled
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts, TransitionRows
from trajmill.training.adam import Adam
from trajmill.training.draws import Draws, even, shaped_normals
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import PerSeed, Schedule, all_at_least, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "World model"
SCHEDULE = Schedule(updates=100_000)
SECONDS = (0.004, 1 / 15_000)
EXAMPLES = """
  trajmill train world_model --dataset hopper-sac-replay-10k --out runs/model --schedule.updates 20000
  trajmill train world_model --dataset A.hdf5 --seeds 0 1 --method.kl-weight 1e-3 1e-2 --out runs/weights
"""
METRICS = ("prediction_loss", "reconstruction_loss", "kl")
SCALES = {"holdout_error": "squared error on held-out rows", "identity_error": "squared error of predicting no change"}
BLOCK = 8192
"""rows that are predicted at a time, so that memory stays bounded"""
PREDICTION_SITE = 2
"""site of the first draw of z in a prediction: those of training come before"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one update computes; all defaults are ours, since the paper's could not be read.

    Numbers of the type `PerSeed` are one for all seeds or one each, so that a whole ablation is one run.
    """

    batch_size: int = 256
    """transitions per update and seed, at least 1"""
    learning_rate: PerSeed = 3e-4
    """Adam step size, > 0"""
    kl_weight: PerSeed = 1e-3
    """beta: weight of the divergence, at least 0"""
    latent_dim: int = 32
    """numbers of the code z, at least 1"""
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """widths of the hidden layers of encoder, transition and decoder, each at least 1"""
    holdout: float = 0.1
    """share of the rows that is held out, (0, 1); at least one row is"""
    holdout_seed: int = 0
    """names the draw of these rows, at least 0; it is the same for all seeds"""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, latent_dim=self.latent_dim)
        all_at_least(1, hidden_sizes=self.hidden_sizes)
        at_least(0, holdout_seed=self.holdout_seed)
        in_range("(0, inf)", learning_rate=self.learning_rate)
        in_range("[0, inf)", kl_weight=self.kl_weight)
        in_range("(0, 1)", holdout=self.holdout)


SMALL = Config(batch_size=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes, and what `measure` keeps; written in place only."""

    config: Config
    table: Table[TransitionBatch, TransitionFacts]
    draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    model: Stack
    optimizer: Adam
    best: Tensor
    """like the model's flat rows: the parameters with the least error on the held-out rows so far"""
    best_error: Tensor
    """(S,): that error; the greatest number there is before the first measurement"""
    held_out: Mapping[str, Tensor]
    """columns of the rows that no update sees, (H, ·) each"""
    settings: Mapping[str, Tensor]
    """the `PerSeed` settings, (S,) each"""
    metrics: MetricRing
    period: int = 1

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return (
            {"step": self.step, "metrics": self.metrics.values, "model": self.model.flat}
            | {"best": self.best, "best_error": self.best_error}
            | prefixed("adam", self.optimizer.moving())
        )


def prepare(config: Config, dataset: Dataset) -> TransitionRows:
    """All steps whose next observation is known; the standardization is that of the rows that are trained on."""
    if dataset.next_observations is None:  # then the row after a terminal one is another episode's
        dataset = with_next_rows(dataset, keep_terminals=False)
    transitions = qlearning_transitions(dataset)
    count = len(transitions)
    if count < 2:
        raise ValueError(f"a world model needs at least two steps, one of them held out, got {count}")
    held_out = np.zeros(count, np.bool_)
    chosen = np.random.default_rng(config.holdout_seed).permutation(count)
    held_out[chosen[: min(max(round(config.holdout * count), 1), count - 1)]] = True
    normalizer = Normalizer.fit(transitions.observation[~held_out], 1e-3)
    return TransitionRows(transitions=transitions, normalizer=normalizer, held_out=held_out)


def create(
    config: Config, table: Table[TransitionBatch, TransitionFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> State:
    """Fresh networks, on the table's device, in its precision."""
    seeds, device, dtype, facts = check_seeds(seeds), table.device, table.dtype, table.facts
    model = autoencoders(
        facts.observation_dim, facts.action_dim, config.latent_dim, seeds, hidden_sizes=config.hidden_sizes
    ).to(device, dtype)
    rate = per_seed(config, len(seeds), device, torch.float64)["learning_rate"]
    sizes = {"batch": config.batch_size, "noise": even(config.batch_size * config.latent_dim)}
    return State(
        config=config,
        table=table,
        draws=Draws.of(seeds, sizes, device),
        step=torch.zeros((), dtype=torch.int64, device=device),
        model=model,
        optimizer=Adam.of([model], [rate], fused=True),
        best=model.flat.detach().clone(),
        best_error=torch.full((len(seeds),), torch.finfo(dtype).max, device=device, dtype=dtype),
        held_out={name: torch.from_numpy(column).to(device, dtype) for name, column in facts.held_out.items()},
        settings=per_seed(config, len(seeds), device, dtype),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place."""
    words = state.draws.words(state.step, count)
    batches = state.table.draw(words["batch"])
    shape = (state.config.batch_size, state.config.latent_dim)
    noise = shaped_normals(words["noise"], shape, state.table.dtype).unbind()
    for index in range(count):
        update(state, batches[index], noise[index])


def update(state: State, batch: TransitionBatch, noise: Tensor) -> None:
    """One update of every seed; `noise` (S, B, L) is standard normal."""
    prediction, reconstruction, kl = losses(state, batch, noise)
    state.optimizer.minimize(prediction + reconstruction + state.settings["kl_weight"] * kl)
    terms = (prediction.detach(), reconstruction.detach(), kl.detach())
    state.metrics.write(state.step, dict(zip(METRICS, terms, strict=True)))
    state.step.add_(1)


def losses(state: State, batch: TransitionBatch, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three terms of L, the last without its weight: 3 × (S,)."""
    parameters = state.model.parameters
    mean, log_variance = encode(parameters, batch.observation)
    code = sampled(mean, log_variance, noise)
    codes = torch.cat([moved(parameters, code, batch.action), code], 1)  # so that the decoder runs once
    wanted = torch.cat([batch.next_observation, batch.observation], 1)
    errors = mse_loss(decode(parameters, codes), wanted, reduction="none").unflatten(1, (2, -1)).mean((2, 3))
    return errors[:, 0], errors[:, 1], divergence_from_normal(mean, log_variance).mean(1)


@torch.no_grad()
def measure(state: State) -> dict[str, list[float]]:
    """Mean squared error on the held-out rows, standardized; keeps the parameters of every seed that has improved."""
    seed_count, held_out = len(state.best), state.held_out
    wanted, before = held_out["next_observation"], held_out["observation"]
    error = torch.zeros(seed_count, dtype=torch.float64, device=wanted.device)
    for rows in torch.arange(len(wanted), device=wanted.device).split(BLOCK):
        observation, action = (held_out[name][rows].expand(seed_count, -1, -1) for name in ("observation", "action"))
        error += (_expected(state.model.detached(), observation, action) - wanted[rows]).double().square().sum((1, 2))
    error = (error / wanted.numel()).to(state.best_error)
    better = error < state.best_error
    state.best.copy_(torch.where(better[:, None], state.model.flat, state.best))
    state.best_error.copy_(torch.where(better, error, state.best_error))
    identity = float((before - wanted).double().square().mean())
    return {"holdout_error": error.tolist(), "identity_error": [identity] * seed_count}


def _expected(parameters: Mapping[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
    """ŝ' with z = μ: (S, n, o), (S, n, a) -> (S, n, o), standardized."""
    return decode(parameters, moved(parameters, encode(parameters, observation)[0], action))


def describe(state: State) -> dict[str, Any]:
    """Sizes and standardization."""
    facts = state.table.facts
    assert facts.normalizer is not None
    sizes = {"observation_dim": facts.observation_dim, "action_dim": facts.action_dim}
    return sizes | {"normalizer": facts.normalizer.to_dict()}


@dataclass(frozen=True, slots=True)
class Model:
    """What `predict` gives: the best parameters of the first seed, as a function of raw numbers."""

    network: Stack
    normalizer: Normalizer
    latent_dim: int
    seed: int | None
    """names the draws of z; None takes z = μ"""

    @torch.no_grad()
    def __call__(
        self, observation: NDArray[np.float32], action: NDArray[np.float32], draw: int = 0
    ) -> NDArray[np.float32]:
        """Next observations (N, O) float32 of (N, O) and (N, A); every `draw`, at least 0, has its own z."""
        parameters, dtype = self.network.detached(), self.network.flat.dtype
        found = np.empty(observation.shape, np.float32)
        for first in range(0, len(observation), BLOCK):
            rows = slice(first, first + BLOCK)
            seen = torch.from_numpy(self.normalizer.normalize(observation[rows])).to(dtype)[None]
            taken = torch.from_numpy(np.ascontiguousarray(action[rows])).to(dtype)[None]
            code, log_variance = encode(parameters, seen)
            if self.seed is not None:
                code = sampled(code, log_variance, self._noise(self.seed, draw, first, seen.shape[1]).to(dtype))
            predicted = decode(parameters, moved(parameters, code, taken))
            found[rows] = self.normalizer.denormalize(predicted[0].float().numpy())
        return found

    def _noise(self, seed: int, draw: int, first: int, count: int) -> Tensor:
        """Standard normals (1, count, L) of the rows from `first` on: those of a row depend on its number alone."""
        draws = Draws.of(
            [seed], {"code": even(self.latent_dim)}, torch.device("cpu"), first_site=PREDICTION_SITE + draw
        )
        words = draws.words(torch.tensor(first), count)["code"]  # (count, 1, ·)
        return shaped_normals(words, (self.latent_dim,), torch.float32).transpose(0, 1)


def predict(tensors: Mapping[str, Tensor], known: Mapping[str, Any], *, seed: int | None = None) -> Model:
    """The model of a checkpoint's first seed; with a `seed`, z is drawn from N(μ, σ²) instead of μ."""
    settings = known["method"]
    sizes = (known["observation_dim"], known["action_dim"], settings["latent_dim"])
    layout = autoencoders(*sizes, [0], hidden_sizes=settings["hidden_sizes"])
    normalizer = Normalizer.from_dict(known["normalizer"])
    return Model(layout.like(tensors["best"][:1]), normalizer, settings["latent_dim"], seed)


def relevance(tensors: Mapping[str, Tensor], known: Mapping[str, Any], transitions: Transitions) -> NDArray[np.float32]:
    """How wrong the model is about each transition, squared and standardized: (N,), which curiosity goes by."""
    normalizer = Normalizer.from_dict(known["normalizer"])
    predicted = predict(tensors, known)(transitions.observation, transitions.action)
    differences = normalizer.normalize(predicted) - normalizer.normalize(transitions.next_observation)
    found: NDArray[np.float32] = np.square(differences).mean(1)
    return found
