"""Mill synthetic data into a directory: the same settings and seed give the same bytes on every machine.

Neither threads, engines nor interruptions change them. The same command given again goes on where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Annotated, TypeVar

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.corpus.build import Built
from trajmill.pipelines.generate import (
    GenerateIIDConfig,
    GenerateMappedConfig,
    GenerateMarkovConfig,
    GenerateMDPConfig,
    MillConfig,
    generate_identity,
    generate_iid,
    generate_mapping,
    generate_markov,
    generate_mdp,
)

EXAMPLES = """
  trajmill generate markov --state-count 100 --sequence-count 1000000 --length 1024 --out corpus
  trajmill generate mdp --state-count 100 --action-count 100 --out transitions
  trajmill generate iid --state-count 100 --out uniform --engine ray
  trajmill generate markov --stream reference --seed 666 --sequence-count 128000 --out authors
  trajmill generate mapping --state-count 100 --action-count 100 --out pairs
  trajmill generate markov --sequence-count 1000000000 --out corpus --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
"""

ConfigT = TypeVar("ConfigT")
Mill = Annotated[MillConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMarkov:
    """Tokens of a Markov chain whose rows are softmaxes of random logits."""

    out: str
    """directory to create or go on with, or a URL such as s3://bucket/corpus"""
    config: Annotated[GenerateMarkovConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateMarkovConfig)
    mill: Mill = field(default_factory=MillConfig)

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        return _timed(generate_markov, self.config, self.out, progress, self.mill)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMDP:
    """States and actions of a random MDP under a random policy."""

    out: str
    """directory to create or go on with, or a URL such as s3://bucket/corpus"""
    config: Annotated[GenerateMDPConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateMDPConfig)
    mill: Mill = field(default_factory=MillConfig)

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        return _timed(generate_mdp, self.config, self.out, progress, self.mill)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateIID:
    """Independent uniform tokens: what is left of a Markov chain when nothing depends on the past."""

    out: str
    """directory to create or go on with, or a URL such as s3://bucket/corpus"""
    config: Annotated[GenerateIIDConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateIIDConfig)
    mill: Mill = field(default_factory=MillConfig)

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        return _timed(generate_iid, self.config, self.out, progress, self.mill)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateIdentity:
    """Tokens, or state-action pairs, that are their own targets: a control of the paper's."""

    out: str
    """directory to create or go on with, or a URL such as s3://bucket/corpus"""
    config: Annotated[GenerateMappedConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateMappedConfig)
    mill: Mill = field(default_factory=MillConfig)

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        return _timed(generate_identity, self.config, self.out, progress, self.mill)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMapping:
    """Tokens, or state-action pairs, with the targets of a fixed one-to-one map: a control of the paper's."""

    out: str
    """directory to create or go on with, or a URL such as s3://bucket/corpus"""
    config: Annotated[GenerateMappedConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateMappedConfig)
    mill: Mill = field(default_factory=MillConfig)

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        return _timed(generate_mapping, self.config, self.out, progress, self.mill)


def _timed(
    generate: Callable[[ConfigT, str, Progress, MillConfig], Built],
    config: ConfigT,
    out: str,
    progress: Progress,
    mill: MillConfig,
) -> Outcome:
    started = time.perf_counter()
    built = generate(config, out, progress, mill)
    seconds = time.perf_counter() - started
    data = {"directory": out, **asdict(built), "seconds": seconds}
    text = f"{out}: {built.made} of {built.shard_count} shards made"
    if built.made:
        text += f", {built.byte_count:,} bytes in {seconds:.2f} s, {built.byte_count / seconds / 1e9:.2f} GB/s"
    if not built.whole:
        text += f"; other jobs have shards to make, and the last writes the manifest (or `trajmill corpus merge {out}`)"
    return Outcome(data, text)


COMMANDS = {
    "markov": GenerateMarkov,
    "mdp": GenerateMDP,
    "iid": GenerateIID,
    "identity": GenerateIdentity,
    "mapping": GenerateMapping,
}
