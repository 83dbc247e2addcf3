"""Generate synthetic data into a directory.

The same settings and seed give the same bytes on every machine, whatever the threads, the engine or interruptions. The
same command given again continues where it was stopped.
"""

from __future__ import annotations

import time
import types
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Generic, TypeVar

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.experiments import generate as experiment
from trajmill.experiments.generate import GenerateConfig, MillConfig

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
class Generate(Generic[ConfigT]):
    """A command for every config, which says what is generated."""

    out: str
    """directory to create or continue, or a URL such as s3://bucket/corpus"""
    config: Annotated[ConfigT, tyro.conf.arg(name="")]
    mill: Annotated[MillConfig, tyro.conf.arg(name="")]

    def run(self, progress: Progress) -> Outcome:
        started = time.perf_counter()
        built = experiment.generate(self.config, self.out, progress, self.mill)
        seconds = time.perf_counter() - started
        data = {"directory": self.out, **asdict(built), "seconds": seconds}
        text = f"{self.out}: {built.made} of {built.shard_count} shards made"
        if built.made:
            text += f", {built.byte_count:,} bytes in {seconds:.2f} s, {built.byte_count / seconds / 1e9:.2f} GB/s"
        if not built.whole:
            text += "; other jobs have shards to make, and the last writes the manifest"
            text += f" (or `trajmill corpus merge {self.out}`)"
        return Outcome(data, text)


def _command(config: type[GenerateConfig]) -> type[Generate[Any]]:
    """The command that generates what `config` describes."""
    base: Any = Generate[config]  # type: ignore[valid-type]  # known when it runs
    return types.new_class(config.__name__, (base,), exec_body=lambda body: body.update(__doc__=config.__doc__))


COMMANDS = {
    config.kind: _command(config)
    for config in (
        experiment.GenerateMarkovConfig,
        experiment.GenerateMDPConfig,
        experiment.GenerateIIDConfig,
        experiment.GenerateIdentityConfig,
        experiment.GenerateMappingConfig,
    )
}
