"""Mill synthetic data into a directory: the same settings and seed give the same bytes on every machine.

Neither threads, engines nor interruptions change them. The same command given again goes on where it was stopped.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated, Generic, TypeVar

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.pipelines.generate import (
    GenerateConfig,
    GenerateIdentityConfig,
    GenerateIIDConfig,
    GenerateMappingConfig,
    GenerateMarkovConfig,
    GenerateMDPConfig,
    MillConfig,
    generate,
)

EXAMPLES = """
  trajmill generate markov --state-count 100 --sequence-count 1000000 --length 1024 --out corpus
  trajmill generate mdp --state-count 100 --action-count 100 --out transitions
  trajmill generate iid --state-count 100 --out uniform --engine ray
  trajmill generate markov --stream reference --seed 666 --sequence-count 128000 --out authors
  trajmill generate mapping --state-count 100 --action-count 100 --out pairs
  trajmill generate markov --sequence-count 1000000000 --out corpus --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
"""

ConfigT = TypeVar("ConfigT", bound=GenerateConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Generate(Generic[ConfigT]):
    out: str
    """directory to create or go on with, or a URL such as s3://bucket/corpus"""
    config: Annotated[ConfigT, tyro.conf.arg(name="")]
    mill: Annotated[MillConfig, tyro.conf.arg(name="")]

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        started = time.perf_counter()
        built = generate(self.config, self.out, progress, self.mill)
        seconds = time.perf_counter() - started
        data = {"directory": self.out, **asdict(built), "seconds": seconds}
        text = f"{self.out}: {built.made} of {built.shard_count} shards made"
        if built.made:
            text += f", {built.byte_count:,} bytes in {seconds:.2f} s, {built.byte_count / seconds / 1e9:.2f} GB/s"
        if not built.whole:
            text += "; other jobs have shards to make, and the last writes the manifest"
            text += f" (or `trajmill corpus merge {self.out}`)"
        return Outcome(data, text)


class GenerateMarkov(_Generate[GenerateMarkovConfig]):
    """Tokens of a Markov chain whose rows are softmaxes of random logits."""


class GenerateMDP(_Generate[GenerateMDPConfig]):
    """States and actions of a random MDP under a random policy."""


class GenerateIID(_Generate[GenerateIIDConfig]):
    """Independent uniform tokens: what is left of a Markov chain when nothing depends on the past."""


class GenerateIdentity(_Generate[GenerateIdentityConfig]):
    """Tokens, or state-action pairs, that are their own targets: a control of the paper's."""


class GenerateMapping(_Generate[GenerateMappingConfig]):
    """Tokens, or state-action pairs, with the targets of a fixed one-to-one map: a control of the paper's."""


COMMANDS = {
    "markov": GenerateMarkov,
    "mdp": GenerateMDP,
    "iid": GenerateIID,
    "identity": GenerateIdentity,
    "mapping": GenerateMapping,
}
