"""Decision Transformer: a GPT-2 that continues trajectories, conditioned on the return still to be had.

Chen et al. 2021, arXiv 2106.01345, fine-tuned as in arXiv 2310.00771 (section 3 and Table 10). Padded steps count
nothing.

    L = mean over real steps and the action's numbers of (f(R̂, s, a, …) − a)²               loss

Two terms of Reid et al. 2022 (arXiv 2201.12122) may be added, for backbones pre-trained on text: one pulls the embedded
tokens toward clusters of word embeddings, the other goes on with language modelling on the same backbone.
Deviations from the released code: dropout and window starts have addresses (seed, update), so that runs repeat; weights
of the state and return heads, which it never trains, do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trajmill.algorithms import language_model
from trajmill.data import Dataset, Normalizer
from trajmill.data.environments import task_of
from trajmill.models.decision_transformer import (
    TOKENS_PER_STEP,
    DecisionTransformerConfig,
    Windows,
    embedded,
    initial_embeddings,
    predicted_actions,
)
from trajmill.models.gpt import Dropout, GPTConfig, gpt, norm
from trajmill.models.language_model import token_losses
from trajmill.models.mlp import seeded_generator
from trajmill.models.spherical_kmeans import spherical_kmeans
from trajmill.models.stack import Stack
from trajmill.replay.tables import Table, WindowFacts, WindowRows
from trajmill.replay.token_table import TokenTable
from trajmill.training.adam import Adam
from trajmill.training.checkpoint import Former
from trajmill.training.draws import Draws
from trajmill.training.dropout import Sites, dropout_factors, dropout_sizes
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import PerSeed, Schedule, at_least, check_seeds, configured, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "DT"
SCHEDULE = Schedule(updates=100_000)
SECONDS = (0.15, 1 / 4500)
FORMER = Former(kind="train_dt", tensors={"outer": "embeddings", "inner": "backbone"})
EXAMPLES = """
  trajmill train decision_transformer --dataset hopper-sac-replay-10k --out runs/transformer
  trajmill train decision_transformer --dataset hopper-sac-replay-10k --init runs/backbone --out runs/pretrained
"""

METRICS = ("loss", "gradient_norm")
LANGUAGE_SITES = "language."
"""what the names of dropout sites of the language-model term begin with"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one fine-tuning update computes; defaults are the paper's (arXiv 2310.00771, Table 10)."""

    batch_size: int = 64
    """windows per update and seed, at least 1"""
    context_length: int = 20
    """steps of a window, K, at least 1"""
    learning_rate: PerSeed = 1e-4
    """AdamW step size, > 0"""
    warmup_updates: int = 5000
    """updates over which the step size rises linearly, at least 1"""
    backbone_weight_decay: float = 0.0
    """of the backbone, >= 0; the released code decays it by 1e-4 as well, against the paper's table"""
    weight_decay: float = 1e-4
    """of embeddings and heads, >= 0"""
    adam_epsilon: float = 1e-8
    """> 0; the released code has 1e-6 with pre-trained weights"""
    clip_norm: float = 0.25
    """greatest norm of one seed's gradient, > 0"""
    embedding_order: Literal["normalize-first", "timestep-first"] = "normalize-first"
    """normalize-first is Reid et al.'s (2201.12122), on which the paper builds; timestep-first Chen et al.'s"""
    shared_projection: bool = False
    """predict actions with the transposed action embedding"""
    extend_positions: bool = False
    """of a pre-trained model take the position embeddings too, as the table of timesteps"""
    positions_twice: bool = False
    """with `extend_positions`: every update moves the table of timesteps twice, as the released code does, which lists
    it twice"""
    target_return: float | None = None
    """return to ask for in evaluation; None takes the paper's for the environment"""
    return_scale: float = 1000.0
    """what returns are divided by, > 0"""
    top_fraction: float = 1.0
    """share of the data's steps to keep, in episodes of highest return, in (0, 1]"""
    strict_budget: bool = False
    """never train on the episode of lowest return, as the released code does"""
    cluster_weight: float = 0.0
    """of the term that pulls embedded tokens toward clusters of pre-trained token embeddings, >= 0; Reid et al.: 0.1"""
    cluster_term: Literal["cosine", "released"] = "cosine"
    """cosine: of a token with the nearest cluster, as Reid et al. describe it; released: the greatest product of each
    coordinate, over padded tokens too, as the released code has it, which fades one update earlier"""
    cluster_count: int = 1000
    """clusters of that term, at least 1, at most the tokens that were pre-trained on"""
    cluster_updates: int = 5000
    """updates after which that term has all but faded, at least 1; Reid et al. take 15,000 with `language_weight`"""
    language_weight: float = 0.0
    """of the loss of the language model that the backbone goes on to be, >= 0; Reid et al.: 1"""
    language_batch_size: int = 2
    """sequences per update for that loss, at least 1"""
    backbone: GPTConfig = field(default_factory=lambda: GPTConfig(residual_dropout=0.2))

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, context_length=self.context_length)
        at_least(1, warmup_updates=self.warmup_updates, cluster_updates=self.cluster_updates)
        at_least(1, cluster_count=self.cluster_count, language_batch_size=self.language_batch_size)
        in_range("(0, inf)", learning_rate=self.learning_rate, adam_epsilon=self.adam_epsilon, clip_norm=self.clip_norm)
        in_range("(0, inf)", return_scale=self.return_scale)
        in_range("(0, 1]", top_fraction=self.top_fraction)
        in_range("[0, inf)", backbone_weight_decay=self.backbone_weight_decay, weight_decay=self.weight_decay)
        in_range("[0, inf)", cluster_weight=self.cluster_weight, language_weight=self.language_weight)
        if self.positions_twice and not self.extend_positions:
            raise ValueError("positions_twice is for the table that extend_positions takes over; give it too")
        if self.cluster_weight and self.embedding_order != "normalize-first":
            raise ValueError(
                "cluster_weight is for embedding_order normalize-first: it acts on what is normalized before timesteps "
                "are added"
            )

    def dropout_sites(self, language_length: int = 0) -> Sites:
        """Where an update drops numbers; `language_length` tokens are in a sequence of the language-model term."""
        sites = self.backbone.dropout_shapes(self.batch_size, TOKENS_PER_STEP * self.context_length)
        if not language_length:
            return sites
        language = self.backbone.dropout_shapes(self.language_batch_size, language_length)
        return sites | {LANGUAGE_SITES + site: shape for site, shape in language.items()}

    @property
    def cluster_metric(self) -> str:
        """Name of what the cluster term makes greater."""
        return "cluster_cosine" if self.cluster_term == "cosine" else "cluster_product"

    @property
    def metrics(self) -> tuple[str, ...]:
        """What an update writes down."""
        extra = {self.cluster_metric: self.cluster_weight, "language_loss": self.language_weight}
        return (*METRICS, *(name for name, weight in extra.items() if weight))

    def network(self, observation_dim: int, action_dim: int, timestep_count: int = 1000) -> DecisionTransformerConfig:
        """The network for data of the given dimensions."""
        return DecisionTransformerConfig(
            observation_dim=observation_dim,
            action_dim=action_dim,
            timestep_count=timestep_count,
            embedding_order=self.embedding_order,
            shared_projection=self.shared_projection,
            backbone=self.backbone,
        )


SMALL = Config(
    context_length=5, cluster_count=100, backbone=GPTConfig(layer_count=1, head_count=1, width=32, residual_dropout=0.2)
)


def products(config: Config) -> float:
    """Of the backbone."""
    length = TOKENS_PER_STEP * config.context_length
    return config.batch_size * length * config.backbone.products(length)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Config
    network: DecisionTransformerConfig
    table: Table[Windows, WindowFacts]
    draws: Draws
    dropout_draws: Draws
    step: Tensor
    """int64 scalar: updates made"""
    embeddings: Stack
    """with the action head, one row per seed"""
    backbone: Stack
    """one row per seed"""
    optimizer: Adam
    metrics: MetricRing
    centers: Tensor | None = None
    """(C, width) unit vectors, with `Config.cluster_weight`"""
    language: Stack | None = None
    """what the language model has beside the backbone, with `Config.language_weight`: ``wte``, and ``wpe`` unless
    the table of timesteps stands for it"""
    tokens: TokenTable | None = None
    """its sequences"""
    period: int = 1

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return {
            "step": self.step,
            "metrics": self.metrics.values,
            "embeddings": self.embeddings.flat,
            "backbone": self.backbone.flat,
            **({} if self.language is None else {"language": self.language.flat}),
        } | prefixed("adam", self.optimizer.moving())

    @property
    def dropout_sites(self) -> Sites:
        """Where an update drops numbers."""
        return self.config.dropout_sites(0 if self.tokens is None else self.tokens.rows.length)


def adapt(config: Config, dataset: Dataset, environment: str) -> Config:
    """With the environment's target return, where none is given."""
    target_return = task_of(environment).target_return if config.target_return is None else config.target_return
    if target_return is None:
        raise ValueError(f"the paper names no target return for {environment}; give --method.target-return")
    return replace(config, target_return=target_return)


def prepare(config: Config, dataset: Dataset) -> WindowRows:
    """Windows of whole episodes, observations standardized."""
    names = ("context_length", "return_scale", "top_fraction", "strict_budget")
    return WindowRows(dataset, {name: getattr(config, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a Decision Transformer takes over from a pre-trained language model."""

    backbone: Mapping[str, Tensor]
    """parameters of `trajmill.models.gpt.gpt`, for every seed"""
    positions: Tensor | None = None
    """(P, width): its position embeddings, to be the table of timesteps"""
    centers: Tensor | None = None
    """(C, width) unit vectors: clusters of its token embeddings"""
    language: Mapping[str, Tensor] = field(default_factory=dict)
    """``wte.weight`` and, without `positions`, ``wpe.weight``"""
    tokens: TokenTable | None = None
    """the sequences that it learned"""


def create(
    config: Config,
    table: Table[Windows, WindowFacts],
    seeds: Sequence[int],
    *,
    metric_capacity: int = 1000,
    start: Start | None = None,
) -> State:
    """Fresh networks on the table's device, in its precision, or those of `start` for every seed."""
    start = start or Start(backbone={})
    seeds = check_seeds(seeds)
    device, dtype, facts = table.device, table.dtype, table.facts
    timestep_count = 1000 if start.positions is None else len(start.positions)
    network = config.network(facts.observation_dim, facts.action_dim, timestep_count)
    if facts.greatest_timestep >= timestep_count:
        raise ValueError(f"timesteps must be below {timestep_count}, got {facts.greatest_timestep}")
    networks = [
        [initial_embeddings(network, seeded_generator(seed, "dt.outer")) for seed in seeds],
        [dict(start.backbone) or gpt(config.backbone, seeded_generator(seed, "dt.inner")) for seed in seeds],
    ]
    if start.positions is not None:
        networks[0] = [values | {"embed_timestep.weight": start.positions.float()} for values in networks[0]]
    if start.language:
        networks.append([dict(start.language)] * len(seeds))
    stacks = [Stack.of(rows).to(device, dtype) for rows in networks]
    decays = (config.weight_decay, config.backbone_weight_decay, config.backbone_weight_decay)
    rate = per_seed(config, len(seeds), device, torch.float64)["learning_rate"]
    sites = config.dropout_sites(0 if start.tokens is None else start.tokens.rows.length)
    return State(
        config=config,
        network=network,
        table=table,
        draws=Draws.of(seeds, {"window": config.batch_size}, device),
        dropout_draws=Draws.of(seeds, dropout_sizes(sites), device, first_site=1),
        step=torch.zeros((), dtype=torch.int64, device=device),
        embeddings=stacks[0],
        backbone=stacks[1],
        optimizer=Adam.of(
            stacks,
            [rate] * len(stacks),
            epsilon=config.adam_epsilon,
            weight_decay=decays[: len(stacks)],
            clip_norm=config.clip_norm,
            twice=None if start.positions is None or not config.positions_twice else "embed_timestep.weight",
        ),
        metrics=MetricRing.of(config.metrics, len(seeds), metric_capacity, device),
        centers=None if start.centers is None else start.centers.to(device, dtype),
        language=stacks[2] if start.language else None,
        tokens=start.tokens,
    )


def start_from(state: State, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> State:
    """A fresh state whose backbone is that of the first seed of a `language_model`.

    The blocks and the last normalization carry over; token embeddings and output layer stay behind (arXiv 2310.00771's
    released code; Reid et al. 2022), but for the terms of Reid et al.
    """
    config = state.config
    if known["kind"] != "language_model":
        raise ValueError(f"the backbone comes from a run of language_model, not from one of {known['kind']}")
    donor, learned = language_model.learned(tensors, known)
    for name in ("layer_count", "head_count", "width", "activation"):
        have, want = getattr(donor, name), getattr(config.backbone, name)
        if have != want:
            raise ValueError(f"the pre-trained backbone has {name} {have}, --method.backbone asks for {want}")
    positions = learned["wpe.weight"] if config.extend_positions else None
    start = Start(
        backbone={name: value for name, value in learned.items() if name.startswith(("h.", "ln_f."))},
        positions=positions,
        centers=_clusters(config, learned["wte.weight"]) if config.cluster_weight else None,
    )
    if config.language_weight:
        names = ("wte.weight",) if config.extend_positions else ("wte.weight", "wpe.weight")
        language = {name: learned[name] for name in names}
        start = replace(start, language=language, tokens=_tokens_learned(state, known))
    capacity = len(state.metrics.values)
    return create(config, state.table, state.draws.seeds, metric_capacity=capacity, start=start)


def _clusters(config: Config, embeddings: Tensor) -> Tensor:
    if config.cluster_count > len(embeddings):
        raise ValueError(
            f"cluster_count must be at most {len(embeddings)}, the tokens of the pre-trained model, got "
            f"{config.cluster_count}"
        )
    return spherical_kmeans(embeddings, config.cluster_count, seeded_generator(0, "dt.clusters"))


def _tokens_learned(state: State, known: Mapping[str, Any]) -> TokenTable:
    """The sequences that the language model was trained on, in batches of another size."""
    if "method" not in known:
        raise ValueError("language_weight needs the settings of the pre-training run; its config.json is missing")
    wanted = configured(language_model.Config, known["method"])
    if wanted.target != "next":
        raise ValueError(f"language_weight is for next-token pre-training; this run learned target {wanted.target}")
    batch_size = state.config.language_batch_size
    held_out_count = max(wanted.held_out_count, batch_size)
    rows = language_model.generate(replace(wanted, batch_size=batch_size, held_out_count=held_out_count))
    if known.get("data", rows.name) != rows.name:
        raise ValueError(
            f"language_weight needs the text that the language model learned, {known['data']}, but its files hold "
            f"{rows.name} now; restore them, or train a language model on what they are"
        )
    return TokenTable(rows, state.draws.seed_count, batch_size, state.table.device, state.table.dtype)


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place, the language-model term on the first `count` slots."""
    windows = state.table.draw(state.draws.words(state.step, count)["window"])
    sites = state.dropout_sites
    for slot in range(count):  # an update's dropout takes too many numbers to draw several at once
        words = {site: rolled[0] for site, rolled in state.dropout_draws.words(state.step, 1).items()}
        tokens = None if state.tokens is None else state.tokens.tokens[slot]
        update(state, windows[slot], dropout_factors(sites, words, state.table.dtype), tokens)


def update(state: State, windows: Windows, dropout: Mapping[str, Tensor] | None, tokens: Tensor | None = None) -> None:
    """One update of every seed on its windows and on `tokens` (S, B, T), its sequences of the language-model term.

    `dropout` has a factor for every number of `State.dropout_sites`.
    """
    config = state.config
    losses = loss(state, windows, dropout)
    metrics = {"loss": losses.detach()}
    if config.cluster_weight:
        term = cluster_cosine if config.cluster_term == "cosine" else cluster_product
        nearness = term(state, windows)
        losses = losses - config.cluster_weight * fading(config, state.step).to(losses.dtype) * nearness
        metrics[config.cluster_metric] = nearness.detach()
    if tokens is not None:
        language = language_loss(state, tokens, dropout)
        losses = losses + config.language_weight * language
        metrics["language_loss"] = language.detach()
    warmup = ((state.step + 1) / config.warmup_updates).clamp(max=1.0).to(torch.float64)
    state.optimizer.differentiate(losses)
    metrics["gradient_norm"] = state.optimizer.gradient_norms()
    state.optimizer.apply(warmup)
    state.metrics.write(state.step, metrics)
    state.step.add_(1)


def loss(state: State, windows: Windows, dropout: Dropout = None) -> Tensor:
    """Mean squared error of the actions of real steps, (S,)."""
    predicted = predicted_actions(
        state.embeddings.parameters, state.backbone.parameters, state.network, windows, dropout=dropout
    )
    errors = torch.where(windows.mask, (predicted - windows.action).square().sum(-1), 0.0)
    return errors.sum((1, 2)) / (windows.mask.sum((1, 2)) * windows.action.shape[-1])


def cluster_cosine(state: State, windows: Windows) -> Tensor:
    """Mean over the tokens of real steps of the cosine with the nearest center, (S,)."""
    assert state.centers is not None
    nearest = (_directions(state, windows) @ state.centers.T).amax(-1)
    counted = torch.where(windows.mask[..., None], nearest, 0.0)
    return counted.sum((1, 2, 3)) / (windows.mask.sum((1, 2)) * TOKENS_PER_STEP)


def cluster_product(state: State, windows: Windows) -> Tensor:
    """Mean over the coordinates of all tokens, padded ones too, of the greatest product with a center's, (S,).

    The released code multiplies by every center; the greatest product is that with the greatest coordinate or, where
    the token's is negative, with the least.
    """
    assert state.centers is not None
    directions, centers = _directions(state, windows), F.normalize(state.centers, dim=-1)
    return torch.maximum(directions * centers.amax(0), directions * centers.amin(0)).mean((1, 2, 3, 4))


def _directions(state: State, windows: Windows) -> Tensor:
    """Tokens (S, B, K, 3, width), normalized and of length 1; the timestep is not yet added."""
    tokens = embedded(state.embeddings.parameters, windows)
    normalized = norm(state.embeddings.parameters, "embed_ln", tokens.flatten(2, 3))
    return F.normalize(normalized, dim=-1).view_as(tokens)


def fading(config: Config, update: Tensor) -> Tensor:
    """What is left of the cluster term at `update` (int64): 0.993 at first, half of it half-way, 0.007 in the end.

    The released code counts updates from 1 here.
    """
    made = update + (config.cluster_term == "released")
    return torch.sigmoid((config.cluster_updates - made.to(torch.float64)) / (config.cluster_updates / 10) - 5.0)


def language_loss(state: State, tokens: Tensor, dropout: Mapping[str, Tensor] | None = None) -> Tensor:
    """Mean cross-entropy of the next token in nats, (S,), of the model that the backbone was pre-trained in."""
    assert state.language is not None
    positions = {"wpe.weight": state.embeddings.parameters["embed_timestep.weight"]}
    parameters = positions | state.backbone.parameters | state.language.parameters
    factors = None
    if dropout is not None:
        factors = {
            site.removeprefix(LANGUAGE_SITES): factor
            for site, factor in dropout.items()
            if site.startswith(LANGUAGE_SITES)
        }
    return token_losses(parameters, state.config.backbone, tokens.long(), dropout=factors)


def policy(state: State) -> EpisodicPolicy:
    """The policies being trained, asked for `Config.target_return`."""
    return EpisodicPolicy(state.config, state.network, state.embeddings, state.backbone, state.table.facts.normalizer)


def restore(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> EpisodicPolicy:
    """The policies of a checkpoint."""
    config = settings(known)
    network = config.network(known["observation_dim"], known["action_dim"], known["timestep_count"])
    layouts = (
        Stack.of([initial_embeddings(network, torch.Generator())]),
        Stack.of([gpt(config.backbone, torch.Generator())]),
    )
    embeddings, backbone = (
        layout.like(tensors[name]) for layout, name in zip(layouts, ("embeddings", "backbone"), strict=True)
    )
    return EpisodicPolicy(config, network, embeddings, backbone, Normalizer.from_dict(known["normalizer"]))


def settings(known: Mapping[str, Any]) -> Config:
    """What the updates of a checkpoint computed."""
    former = {name: known[name] for name in ("target_return", "return_scale") if name in known}
    return configured(Config, {**known["method"], **former})


def describe(state: State) -> dict[str, Any]:
    """The network's shape, beside the settings; ValueError if a term lacks the pre-trained model that it is about."""
    lacking = {"cluster_weight": state.centers, "language_weight": state.tokens}
    for name, found in lacking.items():
        if getattr(state.config, name) and found is None:
            raise ValueError(f"{name} is for a pre-trained backbone; give --init too")
    return {"timestep_count": state.network.timestep_count}


class EpisodicPolicy:
    """The policies of all seeds, asked for a return: S × E episodes that start together.

    Before each action the return still to go is the target minus the rewards so far, and the network sees the last K
    steps (Chen et al. 2021, algorithm 1). Steps before the first are masked.
    """

    def __init__(
        self,
        config: Config,
        network: DecisionTransformerConfig,
        embeddings: Stack,
        backbone: Stack,
        normalizer: Normalizer,
    ) -> None:
        assert config.target_return is not None, "adapt() has filled it in"
        self._network, self._embeddings, self._backbone = network, embeddings, backbone
        self._length, self._normalizer = config.context_length, normalizer
        self._target, self._scale = config.target_return, config.return_scale

    def metadata(self) -> dict[str, Any]:
        """What `restore` has to know beside the settings."""
        return {"normalizer": self._normalizer.to_dict()}

    def start(self, seed_count: int, episode_count: int) -> None:
        """Forget everything: S × E new episodes begin."""
        flat = self._embeddings.flat
        steps = (seed_count, episode_count, self._length)
        self._steps = Windows(
            observation=flat.new_zeros(*steps, self._network.observation_dim),
            action=flat.new_zeros(*steps, self._network.action_dim),
            return_to_go=flat.new_zeros(steps),
            timestep=flat.new_zeros(steps, dtype=torch.int64),
            mask=flat.new_zeros(steps, dtype=torch.bool),
        )
        self._left = flat.new_full(steps[:2], self._target / self._scale)
        self._time = 0

    @torch.no_grad()
    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map observations (S, E, O) to actions (S, E, A)."""
        steps, time = self._steps, min(self._time, self._network.timestep_count - 1)
        for history, newest in (
            (steps.observation, torch.from_numpy(self._normalizer.normalize(observations)).to(self._left)),
            (steps.action, torch.zeros_like(steps.action[:, :, -1])),
            (steps.return_to_go, self._left),
            (steps.timestep, torch.full_like(steps.timestep[:, :, -1], time)),
            (steps.mask, torch.ones_like(steps.mask[:, :, -1])),
        ):
            history[:, :, :-1] = history[:, :, 1:].clone()
            history[:, :, -1] = newest
        predicted = predicted_actions(
            self._embeddings.detached(), self._backbone.detached(), self._network, steps, newest=True
        ).squeeze(2)
        steps.action[:, :, -1] = predicted
        self._time += 1
        return predicted.float().cpu().numpy()

    def observe(self, rewards: NDArray[np.float32], playing: NDArray[np.bool_]) -> None:
        """Take the rewards (S, E) of the step just made off the return to go."""
        self._left = self._left - torch.from_numpy(rewards).to(self._left) / self._scale
