"""Pre-training of a GPT-2 on synthetic tokens or text, the first half of arXiv 2310.00771's first experiment.

`pretrain_dt`: tokens of a random chain, or of text -> next-token pre-training -> checkpoint, which
`trajmill.pipelines.decision_transformer.train_dt` starts from.
"""

from __future__ import annotations

import dataclasses
import json
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from trajmill.algorithms import language_model as lm
from trajmill.algorithms.language_model import LMConfig
from trajmill.core.entropy import entropy_rate
from trajmill.core.markov_chain import MarkovChain
from trajmill.core.progress import Progress, silent
from trajmill.core.reference import ReferenceChain
from trajmill.corpus import Column, CorpusError
from trajmill.corpus.sources import Arrays, make_spec, source_of
from trajmill.corpus.text import TextRows, open_text, store_text, text_name
from trajmill.data.catalog import cache_directory
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import language_model, token_losses
from trajmill.models.stack import Stack
from trajmill.pipelines.finetuning import pretrained_checkpoint, record
from trajmill.pipelines.run_directory import RunDirectory, defaults, plain
from trajmill.pipelines.schedule import Schedule, Trained, run_schedule
from trajmill.pipelines.workers import finish, train_seeds, worker_count
from trajmill.training.device import ComputeConfig
from trajmill.training.distributed import ALONE, Workers, joined
from trajmill.training.hyperparameters import at_least, check_seeds, per_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainDTConfig:
    """Pre-training on synthetic tokens; defaults are the paper's (arXiv 2310.00771 and its code)."""

    law: Literal["markov", "iid", "identity", "mapping"] = "markov"
    """markov, iid: predict the next token; identity, mapping: the token itself, or what a fixed map makes of it"""
    state_count: int = 100
    """tokens, at least 1"""
    order: int = 1
    """past tokens that the next one depends on, >= 0; for markov alone"""
    temperature: float = 1.0
    """softmax divisor of the chain's rows, > 0; for markov alone"""
    stream: Literal["v1", "reference"] = "v1"
    """v1: our own draws; reference: the authors' tokens, bit for bit, of markov and iid alone"""
    data_seed: int | None = None
    """seed of the law and its sequences; None is 42, and the authors' 666 with the reference stream"""
    sequence_count: int = 128_000
    """sequences, taken in order and then again from the first; of text all there are"""
    held_out_count: int = 4000
    """of these the last ones, kept to measure the loss on, at least a batch"""
    text: tuple[Path, ...] = ()
    """text files (UTF-8, such as the raw Wikitext) to learn instead of a law"""
    vocabulary: Path | None = None
    """with `text`, directory of a tokenizer's vocab.json and merges.txt (GPT-2's); None trains one on the text"""
    vocabulary_size: int = 50_257
    """with `text` and no `vocabulary`, most tokens of the one trained, at least 257"""
    seeds: tuple[int, ...] = (42,)
    """seeds of initial values; the paper has one, and fine-tuning starts from the first"""
    method: LMConfig = field(default_factory=LMConfig)
    schedule: Schedule = field(default_factory=lambda: Schedule(updates=20_000, evaluation_interval=10_000))
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    variant: str = "Synthetic"
    """label in reports"""

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        per_seed("learning_rate", self.method.learning_rate, len(self.seeds), torch.device("cpu"))
        at_least("held_out_count", self.held_out_count, self.method.batch_size)
        at_least("sequence_count", self.sequence_count, self.held_out_count + self.method.batch_size)
        if self.vocabulary is not None and not self.text:
            raise ValueError(f"vocabulary {self.vocabulary} is for text; give text files too")
        if self.stream == "reference" and (self.text or self.law not in ("markov", "iid")):
            asked = "text" if self.text else f"law {self.law}"
            raise ValueError(f"stream reference has the tokens of markov and iid alone, not of {asked}; use v1")

    @property
    def law_seed(self) -> int:
        """`data_seed`, or what stands for it."""
        if self.data_seed is not None:
            return self.data_seed
        return 666 if self.stream == "reference" else 42


def pretrain_dt(
    config: PretrainDTConfig,
    output: Path,
    progress: Progress = silent,
    *,
    resume: bool = False,
    workers: int | None = 1,
    part: bool = False,
) -> Path:
    """Pre-train a language model on tokens; gives the run directory, which `train_dt` takes as ``init``.

    Processes that torchrun started share the work: each takes its rows of every batch, the first one writes. Otherwise
    `workers` processes share the seeds, with the same result, and `part` says that this is one of them; None is one per
    core without dropout, and one in all with it, since what is dropped depends on all seeds.
    """
    config = dataclasses.replace(config, data_seed=config.law_seed)
    device = config.compute.apply()
    with joined(device) as rank:
        alone = rank.count > 1 or (config.method.dropout and len(config.seeds) > 1)
        if alone and (workers or 1) > 1:
            why = (
                "torchrun's processes share"
                if rank.count > 1
                else "with dropout, which all seeds draw together, one has"
            )
            raise ValueError(
                f"workers must be 1, got {workers}: {why} all seeds; torchrun or --method.no-dropout helps"
            )
        count = 1 if alone else worker_count(workers, config.compute, len(config.seeds), output)
        _pretrain_dt(config, output, progress if rank.leads else silent, rank, device, count, resume=resume, part=part)
    return output


def _pretrain_dt(
    config: PretrainDTConfig,
    output: Path,
    progress: Progress,
    rank: Workers,
    device: torch.device,
    workers: int,
    *,
    resume: bool,
    part: bool,
) -> None:
    rank.share(config.method.batch_size)  # refuses before anything is written
    tokens = TokenBatches.of(config, rank, progress)
    run = RunDirectory(output)
    if rank.leads:
        described = record("pretrain_dt", config, tokens.name, None)
        run = RunDirectory.open(output, described, resume=resume, defaults=defaults(config))
    if rank.agree(int(rank.leads and run.finished)):
        return
    with run.locked() if rank.leads else nullcontext():
        here = partial(_pretrain_here, run, config, tokens, device, progress, rank, part=part)
        trained = train_seeds(run, pretrain_dt, config, workers, progress, here)
        if rank.leads:
            last = {"last_metrics": run.lines("evaluation")[-1]["metrics"]}
            finish(run, trained, last, gradient_steps=config.schedule.updates, workers=workers)


def _pretrain_here(
    run: RunDirectory,
    config: PretrainDTConfig,
    tokens: TokenBatches,
    device: torch.device,
    progress: Progress,
    workers: Workers,
    *,
    part: bool,
) -> Trained:
    """Pre-train all seeds in this process, or in those of torchrun."""
    method = config.method
    if config.law in ("identity", "mapping") and not config.text:
        method = dataclasses.replace(method, objective="given")
    target_count = tokens.vocabulary_size if config.law == "mapping" and not config.text else 0
    state = lm.create(
        method,
        tokens.vocabulary_size,
        config.seeds,
        device=device,
        target_count=target_count,
        slots=config.schedule.unroll,
        metric_capacity=config.schedule.log_interval,
        workers=workers,
    )

    def feed(first: int, count: int) -> None:
        torch.manual_seed(_dropout_seed(config.seeds[0], first, workers.rank))
        for slot in range(count):
            place(state.tokens, state.targets, slot, tokens.training(first + slot))

    def evaluate(gradient_step: int) -> dict[str, list[float]]:
        losses = []
        for batch in tokens.held_out():
            place(state.tokens, state.targets, 0, batch)
            with torch.no_grad():
                goal = None if state.targets is None else state.targets[0].long()
                losses.append(token_losses(state.model.fixed(), method.backbone, state.tokens[0].long(), goal))
        mean = torch.stack(losses).mean(0)
        workers.average(mean)
        floor = {} if tokens.entropy_rate is None else {"entropy_rate": [tokens.entropy_rate] * len(config.seeds)}
        return {"held_out_loss": mean.tolist()} | floor

    return run_schedule(
        run,
        lm.step,
        state,
        config.schedule,
        phase="pretrain",
        seeds=config.seeds,
        metadata={
            "kind": "pretrain_dt",
            "seeds": list(config.seeds),
            "vocabulary_size": tokens.vocabulary_size,
            "target_count": target_count,
            "position_count": method.position_count,
            "backbone": plain(method.backbone),
        },
        progress=progress,
        evaluate=evaluate,
        feed=feed,
        workers=workers,
        part=part,
    )


def _dropout_seed(seed: int, update: int, rank: int) -> int:
    """Seed of a period's dropout: a resumed run drops what an unbroken one does, each process something else."""
    return int(np.random.SeedSequence((seed, update, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Rows(Protocol):
    """Makes rows of tokens, any number that stand side by side."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """``tokens``, and ``targets`` where they are given."""

    def fill(self, first_row: int, arrays: Arrays, threads: int | None) -> None:
        """Fill each column's array with the rows from `first_row` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatches:
    """Sequences in batches, and of each batch the part that is this process's."""

    name: str
    vocabulary_size: int
    rows: _Rows
    row_count: int
    held_out_count: int
    """the last ones"""
    batch_size: int
    workers: Workers
    entropy_rate: float | None = None
    """nats a token, below which no held-out loss stays; None if it is not known"""

    @classmethod
    def of(cls, config: PretrainDTConfig, workers: Workers, progress: Progress) -> TokenBatches:
        """What is to be learned: text if there is any, else the law."""
        return cls.of_text(config, workers, progress) if config.text else cls.of_law(config, workers)

    @classmethod
    def of_law(cls, config: PretrainDTConfig, workers: Workers = ALONE) -> TokenBatches:
        """The sequences of a law."""
        law: dict[str, Any] = {"state_count": config.state_count, "seed": config.law_seed}
        if config.law == "markov":
            law |= {"order": config.order, "temperature": config.temperature}
        if config.law in ("identity", "mapping"):
            law |= {"action_count": 0}
        if config.stream == "reference":
            worker_count = _authors_worker_count(config.state_count)
            law |= {"worker_count": worker_count, "batch_size": 32 * worker_count}
        elif config.law == "markov":
            law |= {"initial": "softmax"}
        spec = make_spec(
            config.law, law, row_count=config.sequence_count, length=config.method.length, stream=config.stream
        )
        return cls(
            name=f"{config.law}-tokens",
            vocabulary_size=config.state_count,
            rows=source_of(spec),
            row_count=config.sequence_count,
            held_out_count=config.held_out_count,
            batch_size=config.method.batch_size,
            workers=workers,
            entropy_rate=_entropy_rate(config),
        )

    @classmethod
    def of_text(cls, config: PretrainDTConfig, workers: Workers, progress: Progress) -> TokenBatches:
        """The sequences of text files, tokenized once and then found again in the cache."""
        name = text_name(config.text, config.vocabulary, config.vocabulary_size)
        rows = _stored_text(config, cache_directory() / name, workers, progress)
        needed = config.held_out_count + config.method.batch_size
        if rows.row_count < needed:
            raise ValueError(
                f"the text makes {rows.row_count} sequences of {config.method.length} tokens, {needed} are needed "
                f"({config.held_out_count} held out and a batch); give more text, shorter sequences, or hold out fewer"
            )
        return cls(
            name=name,
            vocabulary_size=rows.vocabulary_size,
            rows=rows,
            row_count=rows.row_count,
            held_out_count=config.held_out_count,
            batch_size=config.method.batch_size,
            workers=workers,
        )

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.rows.columns[0].row_length

    def training(self, update: int) -> dict[str, np.ndarray]:
        """Rows of an update: the next sequences, after the last training one the first again."""
        training_count = self.row_count - self.held_out_count
        share = self.workers.share(self.batch_size)
        first = (update * self.batch_size + self.workers.rank * share) % training_count
        head = min(share, training_count - first)
        parts = [self._read(first, head)] + ([self._read(0, share - head)] if head < share else [])
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def held_out(self) -> list[dict[str, np.ndarray]]:
        """Rows of whole batches of the sequences that are not trained on."""
        share = self.workers.share(self.batch_size)
        first = self.row_count - self.held_out_count + self.workers.rank * share
        return [
            self._read(first + index * self.batch_size, share)
            for index in range(self.held_out_count // self.batch_size)
        ]

    def _read(self, first: int, count: int) -> dict[str, np.ndarray]:
        arrays = {column.name: np.empty((count, column.row_length), column.dtype) for column in self.rows.columns}
        self.rows.fill(first, arrays, 1)
        return arrays


def _authors_worker_count(state_count: int) -> int:
    """Workers of the authors' program, of 32 sequences each, which a chain's tokens depend on."""
    return 8 if state_count <= 1000 else 32 if state_count <= 10_000 else 48


def _entropy_rate(config: PretrainDTConfig) -> float | None:
    """Of independent tokens, and of chains of order 1 with few states; None where it would take long."""
    if config.law == "iid":
        return math.log(config.state_count)
    if config.law != "markov" or config.order != 1 or config.state_count > 1000:
        return None
    made_by = ReferenceChain if config.stream == "reference" else MarkovChain
    chain = made_by(order=1, state_count=config.state_count, temperature=config.temperature, seed=config.law_seed)
    return entropy_rate(np.stack([chain.probabilities([state]) for state in range(config.state_count)]))


def _stored_text(config: PretrainDTConfig, directory: Path, workers: Workers, progress: Progress) -> TextRows:
    """The stored form of the text; the leader makes it where it is missing or damaged."""
    if workers.leads:
        try:
            open_text(directory, config.method.length)
        except CorpusError:
            store_text(
                config.text,
                directory,
                vocabulary=config.vocabulary,
                vocabulary_size=config.vocabulary_size,
                progress=progress,
            )
    workers.agree(1)  # no one reads before it is there
    return open_text(directory, config.method.length)


def place(tokens: Tensor, targets: Tensor | None, slot: int, batch: dict[str, np.ndarray]) -> None:
    """Put one batch where update `slot` of a period reads it; every seed gets the same."""
    tokens[slot].copy_(torch.from_numpy(batch["tokens"].astype(np.int32)))
    if targets is not None:
        targets[slot].copy_(torch.from_numpy(batch["targets"].astype(np.int32)))


def pretrained_leaves(init: Path) -> tuple[dict[str, Tensor], GPTConfig]:
    """Everything the first seed of a pre-training run learned, and the shape of its backbone."""
    tensors, metadata = pretrained_checkpoint(init, "pretrain_dt")
    donor = GPTConfig(**metadata["backbone"])
    layout = Stack.of(
        [
            language_model(
                donor,
                metadata["vocabulary_size"],
                torch.Generator(),
                position_count=metadata["position_count"],
                targets=metadata["target_count"],
            )
        ]
    )
    return {name: leaf[0] for name, leaf in layout.like(tensors["model"]).leaves.items()}, donor


def _learned_settings(init: Path) -> dict[str, Any]:
    """Settings of the pre-training run that `init` is, or is a checkpoint of."""
    path = (init if init.is_dir() else init.parent.parent) / "config.json"
    if not path.is_file():
        raise ValueError(f"language_weight needs the settings of the pre-training run; {path} is missing")
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["config"]
    if settings["law"] in ("identity", "mapping") and not settings["text"]:
        raise ValueError(f"language_weight is for next-token pre-training; {init} learned law {settings['law']}")
    return settings


def tokens_learned(init: Path, batch_size: int, progress: Progress) -> TokenBatches:
    """The sequences that a pre-training run learned, in batches of another size."""
    settings = _learned_settings(init)
    same = ("law", "state_count", "order", "temperature", "data_seed", "sequence_count", "vocabulary_size")
    config = PretrainDTConfig(
        **{name: settings[name] for name in same},
        stream=settings.get("stream", "v1"),  # earlier versions had no other
        held_out_count=max(settings["held_out_count"], batch_size),
        text=tuple(Path(path) for path in settings["text"]),
        vocabulary=None if settings["vocabulary"] is None else Path(settings["vocabulary"]),
        method=LMConfig(
            batch_size=batch_size,
            length=settings["method"]["length"],
            position_count=settings["method"]["position_count"],
        ),
    )
    return TokenBatches.of(config, ALONE, progress)
