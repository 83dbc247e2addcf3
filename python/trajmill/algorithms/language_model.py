"""Language model: a GPT-2, pre-trained on synthetic tokens or text, whose backbone a Decision Transformer takes over.

arXiv 2310.00771, section 3 and Table 9, and its released code. The optimizer is the AdamW of the transformers library,
as released: epsilon outside the bias correction, decay of every parameter after the step, no clipping; the step size
rises linearly, then falls linearly to zero.

    L = mean over positions of −log p(x_{t+1} | x_1 … x_t)                                   update
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trajmill import laws
from trajmill.core.entropy import entropy_rate
from trajmill.core.law import Law
from trajmill.core.markov_chain import MarkovChain
from trajmill.core.progress import Progress, silent
from trajmill.core.reference import ReferenceChain
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.rows import StoredCorpus, StoredTokens
from trajmill.corpus.sources import make_spec, source_of, vocabulary_size
from trajmill.corpus.text import TextRows, open_text, store_text, text_name
from trajmill.data.catalog import cache_directory
from trajmill.models.gpt import Dropout, GPTConfig
from trajmill.models.gpt2_files import read_gpt2, write_gpt2
from trajmill.models.language_model import language_model, token_losses
from trajmill.models.mlp import seeded_generator
from trajmill.models.stack import Stack
from trajmill.replay.token_table import TokenRows, TokenTable
from trajmill.training.adam import Adam
from trajmill.training.checkpoint import Former
from trajmill.training.distributed import current_ranks
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import PerSeed, Schedule, at_least, check_seeds, in_range, per_seed
from trajmill.training.state import prefixed

LABEL = "Synthetic"
SCHEDULE = Schedule(updates=20_000, evaluation_interval=10_000)
SECONDS = (7.0, 1 / 250)
METRICS = ("loss",)
SCALES = dict.fromkeys(("loss", "held_out_loss"), "loss, nats a token")
DATA_PARALLEL = True
OPTIMUM_NUMBERS = 2**29
"""chances that the best predictor is asked for, in all, over the held-out sequences"""
EXAMPLES = """
  trajmill train language_model --out runs/backbone
  trajmill train language_model --method.law iid --schedule.updates 1000 --method.length 128 --out runs/iid
  trajmill train language_model --method.stream reference --out runs/authors
  trajmill train language_model --method.law dyck --method.law-fields pairs=8 max_depth=4 --out runs/brackets
  trajmill train language_model --method.law zipf_tokens --init runs/brackets --out runs/after-brackets
  trajmill train language_model --method.corpus corpus --method.length 512 --out runs/stored
  trajmill train language_model --method.text wiki.train.raw --schedule.updates 80000 --out runs/wiki
  torchrun --nproc-per-node 2 -m trajmill train language_model --out runs/backbone
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The tokens and what one update computes; defaults are the paper's (arXiv 2310.00771, Table 9, and its code)."""

    law: str = "markov"
    """where tokens come from: a random Markov chain, uniform draws (iid), or any kind that `trajmill law` shows"""
    law_preset: str | None = None
    """a published law of that kind, where it has presets"""
    law_fields: tuple[str, ...] = ()
    """fields of such a law, each as NAME=VALUE, such as pairs=8 (`trajmill law KIND --help`)"""
    corpus: Path | None = None
    """directory of a stored corpus of tokens to learn instead of a law; its loss_mask counts, if it has one"""
    target: Literal["next", "identity", "mapping"] = "next"
    """what is predicted: the next token; with law iid also the token itself, or what a fixed map makes of it"""
    state_count: int = 100
    """tokens, at least 1"""
    order: int = 1
    """past tokens that the next one depends on, >= 0; for markov alone"""
    temperature: float = 1.0
    """softmax divisor of the chain's rows, > 0; for markov alone"""
    stream: Literal["v1", "reference"] = "v1"
    """v1: our own draws; reference: the authors' tokens, bit for bit, for target next alone"""
    data_seed: int | None = None
    """seed of the law and its sequences, or of the order of lines; None is 42, and the authors' 666 with the reference
    stream and with released lines"""
    sequence_count: int = 128_000
    """sequences, taken in order and then again from the first; of text all there are"""
    held_out_count: int = 4000
    """of these the last ones, kept to measure the loss on, at least a batch"""
    text: tuple[Path, ...] = ()
    """text files (UTF-8, such as the raw Wikitext) to learn instead of a law"""
    text_lines: Literal["in-order", "released"] = "in-order"
    """with `text`: lines as they follow each other, without their breaks; or shuffled, with them, as released"""
    vocabulary: Path | None = None
    """with `text`, directory of a tokenizer's vocab.json and merges.txt (GPT-2's); None trains one on the text"""
    vocabulary_size: int = 50_257
    """with `text` and no `vocabulary`, most tokens of the one trained, at least 257"""
    batch_size: int = 64
    """sequences per update and seed, at least 1; of several processes each takes an equal part"""
    length: int = 1024
    """tokens of a sequence, at least 2, at most `position_count`"""
    learning_rate: PerSeed = 3e-4
    """greatest AdamW step size, > 0"""
    warmup_updates: int = 10_000
    """updates over which the step size rises linearly from zero, at least 0"""
    decay_updates: int = 80_000
    """update at which it has fallen to zero, above `warmup_updates`"""
    schedule_stride: int = 1
    """positions the schedule moves on each update; 2 is what the released two-process command does"""
    weight_decay: float = 1e-2
    """of every parameter, >= 0"""
    position_count: int = 1024
    """rows of the table of positions"""
    dropout: bool = True
    """drop numbers while training, by torch's generator, with the backbone's probabilities"""
    backbone: GPTConfig = field(default_factory=GPTConfig)

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, schedule_stride=self.schedule_stride)
        at_least(1, position_count=self.position_count, state_count=self.state_count)
        at_least(2, length=self.length)
        at_least(0, warmup_updates=self.warmup_updates, order=self.order)
        at_least(self.warmup_updates + 1, decay_updates=self.decay_updates)
        at_least(self.batch_size, held_out_count=self.held_out_count)
        at_least(self.held_out_count + self.batch_size, sequence_count=self.sequence_count)
        in_range("(0, inf)", learning_rate=self.learning_rate)
        in_range("(0, inf]", temperature=self.temperature)
        in_range("[0, inf)", weight_decay=self.weight_decay)
        if self.length > self.position_count:
            raise ValueError(f"length must be at most position_count ({self.position_count}), got {self.length}")
        if self.law not in ("markov", "iid", *laws.names()):
            raise ValueError(f"law must be one of markov, iid, {', '.join(laws.names())}, got {self.law!r}")
        if (self.law_fields or self.law_preset) and self.law in ("markov", "iid"):
            raise ValueError(f"law_fields and law_preset are for the other laws, not for {self.law}")
        if self.corpus is not None and (self.text or self.law != "markov"):
            raise ValueError(f"corpus {self.corpus} is learned instead of a law or a text; give no {self.asked}")
        if self.vocabulary is not None and not self.text:
            raise ValueError(f"vocabulary {self.vocabulary} is for text; give text files too")
        if self.text_lines == "released" and not self.text:
            raise ValueError("text_lines released is for text; give text files too")
        if self.target != "next" and (self.law != "iid" or self.text):
            raise ValueError(
                f"target {self.target} is for law iid and no text, got {self.asked}; give --method.law iid"
            )
        known = self.law in ("markov", "iid") and self.corpus is None
        if self.stream == "reference" and (self.text or self.target != "next" or not known):
            raise ValueError(
                f"stream reference has the tokens of markov and iid alone, not of {self.asked} with target "
                f"{self.target}; use v1"
            )

    @property
    def asked(self) -> str:
        """What is learned, in words."""
        return "text" if self.text else "corpus" if self.corpus else f"law {self.law}"

    @property
    def law_seed(self) -> int:
        """`data_seed`, or what stands for it."""
        if self.data_seed is not None:
            return self.data_seed
        return 666 if self.stream == "reference" or self.text_lines == "released" else 42

    @property
    def shuffle_seed(self) -> int | None:
        """Seed of the order of a text's lines, None if they are in order."""
        return self.law_seed if self.text_lines == "released" else None


SMALL = Config(
    batch_size=8,
    length=64,
    sequence_count=2000,
    held_out_count=32,
    backbone=GPTConfig(layer_count=1, head_count=1, width=32),
)


def _former(settings: dict[str, Any]) -> dict[str, Any]:
    """Earlier versions had identity and mapping among the laws, and the objective that follows from them."""
    law, text = settings.get("law", "markov"), settings.get("text")
    settings = {name: value for name, value in settings.items() if name != "objective"}
    if law not in ("identity", "mapping"):
        return settings
    return settings | ({"law": "markov"} if text else {"law": "iid", "target": law})


FORMER = Former(kind="pretrain_dt", settings=_former)


def shares_chance(config: Config) -> bool:
    """Dropout is drawn for all seeds of a process together."""
    return config.dropout


def adapt(config: Config, dataset: None = None, environment: None = None) -> Config:
    """With the seed of the law, where it was left open."""
    return replace(config, data_seed=config.law_seed)


class DropoutSeed:
    """Seeds torch's generator for each update, so what is dropped depends on the seed, the process and the update."""

    period = 1

    def __init__(self, seed: int) -> None:
        self._address = (seed, current_ranks().rank)

    def reserve(self, count: int) -> None:
        """See `Fed`."""

    def feed(self, first: int, count: int) -> None:
        """See `Fed`."""
        seed, rank = self._address
        mixed = np.random.SeedSequence((seed, first, rank)).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(mixed >> np.uint64(1)))

    def close(self) -> None:
        """See `Fed`."""


def products(config: Config) -> float:
    """Of the backbone, and of the head, which is most of it for a large vocabulary."""
    tokens = config.vocabulary_size if config.text else config.state_count
    of_token = config.backbone.products(config.length) + config.backbone.width * tokens
    return config.batch_size * config.length * of_token


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything an update reads or writes; written in place only."""

    config: Config
    table: TokenTable
    seeds: tuple[int, ...]
    dropout: DropoutSeed | None
    step: Tensor
    """int64 scalar: updates made"""
    model: Stack
    optimizer: Adam
    metrics: MetricRing
    period: int = 1

    def moving(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return {"step": self.step, "metrics": self.metrics.values, "model": self.model.flat} | prefixed(
            "adam", self.optimizer.moving()
        )


def generate(config: Config, progress: Progress = silent) -> TokenRows:
    """The sequences of the text or the corpus if there is any, else of the law."""
    if config.text:
        return _text_rows(config, progress)
    if config.corpus is not None:
        return _corpus_rows(config, config.corpus)
    return _chain_rows(config) if config.law in ("markov", "iid") else _law_rows(config)


def law_of(config: Config) -> Law:
    """The law that `law`, `law_preset` and `law_fields` describe."""
    kind = laws.find(config.law)
    start = {"seed": config.law_seed}
    if config.law_preset is not None:
        if config.law_preset not in kind.presets:
            known = f"presets are {', '.join(kind.presets)}" if kind.presets else "it has none"
            raise ValueError(f"{config.law} has no preset {config.law_preset!r}; {known}")
        start = getattr(kind, config.law_preset)().spec() | start
    return kind.from_spec(start | kind.parse(config.law_fields))


def _law_rows(config: Config) -> TokenRows:
    law = law_of(config)
    columns = [name for name in ("loss_mask",) if name in law.kernel_columns]
    spec = make_spec(law.kind(), law.spec(), row_count=config.sequence_count, length=config.length, columns=columns)
    rows = TokenRows(
        name=f"{config.law}-tokens",
        vocabulary_size=law.vocabulary_size,
        rows=source_of(spec),
        row_count=config.sequence_count,
        held_out_count=config.held_out_count,
    )
    return replace(rows, optimal_loss=_optimal_loss(rows, law))


def _corpus_rows(config: Config, directory: Path) -> TokenRows:
    """The sequences of a stored corpus, in its order."""
    corpus = StoredCorpus(directory)
    names = {column.name for column in corpus.columns}
    if "tokens" not in names:
        raise CorpusError(f"{directory} has no column tokens, but {', '.join(sorted(names))}")
    stored = StoredTokens(corpus)
    length = stored.columns[0].row_length
    if length != config.length:
        raise ValueError(f"rows of {directory} have {length} tokens, got length {config.length}; give --method.length")
    needed = config.held_out_count + config.batch_size
    if corpus.row_count < needed:
        raise ValueError(
            f"{directory} holds {corpus.row_count} sequences, {needed} are needed ({config.held_out_count} held out "
            "and a batch); hold out fewer, or make a larger corpus"
        )
    rows = TokenRows(
        name=f"corpus-{hashlib.sha256(json.dumps(corpus.spec, sort_keys=True).encode()).hexdigest()[:16]}",
        vocabulary_size=vocabulary_size(corpus.spec) or stored.largest() + 1,
        rows=stored,
        row_count=corpus.row_count,
        held_out_count=config.held_out_count,
    )
    kind = corpus.spec.get("kind")
    return (
        replace(rows, optimal_loss=_optimal_loss(rows, laws.find(kind).from_spec(corpus.spec)))
        if kind in laws.names()
        else rows
    )


def _optimal_loss(rows: TokenRows, law: Law) -> float | None:
    """Mean loss of the best predictor over the targets of held-out sequences, as many as take seconds."""
    count = min(rows.held_out_count, max(1, OPTIMUM_NUMBERS // (rows.length * rows.vocabulary_size)))
    held_out = rows.read(rows.row_count - rows.held_out_count, count)
    try:
        losses = law.losses(held_out["tokens"])[:, 1:]
    except NotImplementedError:
        return None
    mask = held_out["loss_mask"][:, 1:] if rows.has_mask else np.ones_like(losses)
    return float((losses * (mask != 0)).sum() / max(1, np.count_nonzero(mask)))


def _chain_rows(config: Config) -> TokenRows:
    kind = config.law if config.target == "next" else config.target
    law: dict[str, Any] = {"state_count": config.state_count, "seed": config.law_seed}
    if config.law == "markov":
        law |= {"order": config.order, "temperature": config.temperature}
    if config.target != "next":
        law |= {"action_count": 0}
    if config.stream == "reference":
        worker_count = _reference_worker_count(config.state_count)
        law |= {"worker_count": worker_count, "batch_size": 32 * worker_count}
    elif config.law == "markov":
        law |= {"initial": "softmax"}
    spec = make_spec(kind, law, row_count=config.sequence_count, length=config.length, stream=config.stream)
    return TokenRows(
        name=f"{kind}-tokens",
        vocabulary_size=config.state_count,
        rows=source_of(spec),
        row_count=config.sequence_count,
        held_out_count=config.held_out_count,
        entropy_rate=_entropy_rate(config),
    )


def _reference_worker_count(state_count: int) -> int:
    """Processes of the authors' program, of 32 sequences each, which a chain's tokens depend on."""
    return 8 if state_count <= 1000 else 32 if state_count <= 10_000 else 48


def _entropy_rate(config: Config) -> float | None:
    """Of independent tokens, and of chains of order 1 with few states; None where it would take long."""
    if config.target != "next":
        return None
    if config.law == "iid":
        return math.log(config.state_count)
    if config.order != 1 or config.state_count > 1000:
        return None
    made_by = ReferenceChain if config.stream == "reference" else MarkovChain
    chain = made_by(order=1, state_count=config.state_count, temperature=config.temperature, seed=config.law_seed)
    return entropy_rate(np.stack([chain.probabilities([state]) for state in range(config.state_count)]))


def _text_rows(config: Config, progress: Progress) -> TokenRows:
    """The sequences of text files, tokenized once and then found again in the cache."""
    name = text_name(config.text, config.vocabulary, config.vocabulary_size, config.shuffle_seed)
    rows = _stored_text(config, cache_directory() / name, progress)
    needed = config.held_out_count + config.batch_size
    if rows.row_count < needed:
        raise ValueError(
            f"the text makes {rows.row_count} sequences of {config.length} tokens, {needed} are needed "
            f"({config.held_out_count} held out and a batch); give more text, shorter sequences, or hold out fewer"
        )
    return TokenRows(
        name=name,
        vocabulary_size=rows.vocabulary_size,
        rows=rows,
        row_count=rows.row_count,
        held_out_count=config.held_out_count,
    )


def _stored_text(config: Config, directory: Path, progress: Progress) -> TextRows:
    """The stored form of the text; the first process makes it where it is missing or damaged."""
    ranks = current_ranks()
    if ranks.is_first:
        try:
            open_text(directory, config.length)
        except CorpusError:
            try:
                store_text(
                    config.text,
                    directory,
                    vocabulary=config.vocabulary,
                    vocabulary_size=config.vocabulary_size,
                    shuffle_seed=config.shuffle_seed,
                    progress=progress,
                )
            except OSError as error:
                remedy = "set TRAJMILL_DATASETS to a directory for what is kept of datasets and texts"
                raise OSError(f"{directory} cannot be written: {error.strerror or error}; {remedy}") from error
    ranks.maximum(1)  # no one reads before it is there
    return open_text(directory, config.length)


def create(config: Config, table: TokenTable, seeds: Sequence[int], *, metric_capacity: int = 1000) -> State:
    """Fresh models on the table's device; with target mapping the outputs have embeddings of their own."""
    seeds, device = check_seeds(seeds), table.device
    networks = [
        language_model(
            config.backbone,
            table.rows.vocabulary_size,
            seeded_generator(seed, "lm"),
            position_count=config.position_count,
            targets=_target_count(config, table),
        )
        for seed in seeds
    ]
    model = Stack.of(networks).to(device, table.dtype)
    return State(
        config=config,
        table=table,
        seeds=tuple(seeds),
        dropout=DropoutSeed(seeds[0]) if config.dropout else None,
        step=torch.zeros((), dtype=torch.int64, device=device),
        model=model,
        optimizer=Adam.of(
            [model],
            [per_seed(config, len(seeds), device, torch.float64)["learning_rate"]],
            epsilon=1e-6,
            weight_decay=(config.weight_decay,),
            decay_after_step=True,
            all_reduce=table.ranks.all_reduce,
        ),
        metrics=MetricRing.of(METRICS, len(seeds), metric_capacity, device),
    )


def start_from(state: State, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> State:
    """The state with the blocks, the last normalization and the positions of another `language_model`, seed by seed.

    Token embeddings, which are the output layer too, stay fresh: tokens of another law mean something else (arXiv
    2601.21725 replaces them too). ValueError if the models or their seeds do not fit, or a seed diverged.
    """
    if known["kind"] != "language_model":
        raise ValueError(f"a language model starts from one, not from a run of {known['kind']}")
    donor = GPTConfig(**known["backbone"])
    for name in ("layer_count", "head_count", "width", "activation"):
        have, want = getattr(donor, name), getattr(state.config.backbone, name)
        if have != want:
            raise ValueError(f"the pre-trained backbone has {name} {have}, --method.backbone asks for {want}")
    count, theirs, seeds = state.config.position_count, known["seeds"], state.seeds
    if known["position_count"] < count:
        raise ValueError(f"position_count must be at most {known['position_count']}, as pre-trained, got {count}")
    if len(theirs) > 1 and not set(seeds) <= set(theirs):
        raise ValueError(f"each seed starts from its own of {theirs}, or all from one; got seeds {list(seeds)}")
    learned = Stack.of([_fresh(donor, known, torch.Generator())]).like(tensors["model"]).parameters
    for own, seed in enumerate(seeds):
        place = theirs.index(seed) if len(theirs) > 1 else 0
        for name, value in state.model.detached().items():
            if not name.startswith(("h.", "ln_f.", "wpe.")):
                continue
            taken = learned[name][place]
            if not taken.isfinite().all():
                raise ValueError(f"{name} of seed {theirs[place]} has numbers that are not finite; start from others")
            value[own].copy_(taken[:count] if name == "wpe.weight" else taken)
    return state


def _target_count(config: Config, table: TokenTable) -> int:
    """Outputs that are not the tokens themselves."""
    return table.rows.vocabulary_size if config.target == "mapping" else 0


def step(state: State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed on the first `count` slots of the table, in place."""
    table = state.table
    for slot in range(count):
        update(state, table.tokens[slot], None if table.targets is None else table.targets[slot])


def update(state: State, tokens: Tensor, targets: Tensor | None) -> None:
    """One update of every seed on `tokens` (S, B, T), which predict their successors, or `targets` (S, B, T)."""
    dropout: Dropout = "torch" if state.config.dropout else None
    goal = None if targets is None else targets.long()
    counts = target_counts(state, goal)
    losses = token_losses(state.model.parameters, state.config.backbone, tokens.long(), goal, dropout, counts)
    state.optimizer.minimize(losses, schedule(state.config, state.step))
    losses = losses.detach()
    state.table.ranks.all_reduce(losses)
    state.metrics.write(state.step, {"loss": losses})
    state.step.add_(1)


def target_counts(state: State, targets: Tensor | None) -> Tensor | None:
    """Targets of each seed where some tokens are none, (S,); of several processes their mean."""
    if targets is None or not state.table.rows.has_mask:
        return None
    counts = (targets >= 0).sum((1, 2)).to(state.model.flat.dtype)
    state.table.ranks.all_reduce(counts)
    return counts.clamp_(min=1)


def schedule(config: Config, update: Tensor) -> Tensor:
    """Share of the greatest step size at `update` (int64, any shape), counted from 0: up from 0, then down to 0."""
    position = update.to(torch.float64) * config.schedule_stride
    rising = position / max(config.warmup_updates, 1)
    falling = (config.decay_updates - position) / (config.decay_updates - config.warmup_updates)
    return torch.where(position < config.warmup_updates, rising, falling.clamp(min=0.0))


@torch.no_grad()
def measure(state: State) -> dict[str, list[float]]:
    """Mean loss on the sequences held out, beside the best predictor's, or a chain's entropy rate, where known."""
    parameters, seed_count = state.model.detached(), len(state.model.flat)
    losses, weights = [], []
    for tokens, targets in state.table.held_out():
        goal = None if targets is None else targets.long()
        counts = target_counts(state, goal)
        losses.append(token_losses(parameters, state.config.backbone, tokens.long(), goal, None, counts))
        weights.append(torch.ones_like(losses[-1]) if counts is None else counts)
    mean = (torch.stack(losses) * torch.stack(weights)).sum(0) / torch.stack(weights).sum(0)
    state.table.ranks.all_reduce(mean)
    known = {"entropy_rate": state.table.rows.entropy_rate, "optimal_loss": state.table.rows.optimal_loss}
    floors = {name: [floor] * seed_count for name, floor in known.items() if floor is not None}
    return {"held_out_loss": mean.tolist()} | floors


def describe(state: State) -> dict[str, Any]:
    """The model's shape, beside the settings."""
    return {
        "vocabulary_size": state.table.rows.vocabulary_size,
        "target_count": _target_count(state.config, state.table),
        "position_count": state.config.position_count,
        "backbone": {name: getattr(state.config.backbone, name) for name in GPTConfig.__slots__},
    }


def learned(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Shape of the backbone and all parameters of the first seed of a checkpoint."""
    backbone = GPTConfig(**known["backbone"])
    layout = Stack.of([_fresh(backbone, known, torch.Generator())])
    parameters = layout.like(tensors["model"]).parameters
    return backbone, {name: parameter[0] for name, parameter in parameters.items()}


def before(known: Mapping[str, Any]) -> dict[str, Tensor]:
    """Initial parameters of the first seed of a checkpoint, which follow from the seed."""
    return _fresh(GPTConfig(**known["backbone"]), known, seeded_generator(known["seeds"][0], "lm"))


def _fresh(backbone: GPTConfig, known: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    return language_model(
        backbone,
        known["vocabulary_size"],
        generator,
        position_count=known["position_count"],
        targets=known["target_count"],
    )


def export(tensors: Mapping[str, Tensor], known: Mapping[str, Any], directory: Path) -> None:
    """Write the first seed's model into a new directory as Hugging Face's GPT-2."""
    write_gpt2(directory, *learned(tensors, known))


def read_exported(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a checkpoint that holds the GPT-2 in a directory of Hugging Face's."""
    backbone, parameters = read_gpt2(directory)
    known = {
        "kind": "language_model",
        "seeds": [0],
        "vocabulary_size": len(parameters["wte.weight"]),
        "target_count": 0,
        "position_count": len(parameters["wpe.weight"]),
        "backbone": {name: getattr(backbone, name) for name in GPTConfig.__slots__},
    }
    return {"model": Stack.of([parameters]).flat}, known
