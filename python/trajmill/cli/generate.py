"""Generate synthetic data into a directory.

The same settings and seed give the same bytes on every machine, whatever the threads, the engine or interruptions. The
same command given again continues where it was stopped.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import tyro

from trajmill import laws
from trajmill.cli.law_options import command_of_law, length_of, summaries
from trajmill.cli.session import Outcome
from trajmill.core.law import Law
from trajmill.core.progress import Progress
from trajmill.corpus.build import Built
from trajmill.experiments import generate as experiment
from trajmill.experiments.generate import GenerateConfig, MillConfig

EXAMPLES = """
  trajmill generate markov --state-count 100 --sequence-count 1000000 --length 1024 --out corpus
  trajmill generate mdp --state-count 100 --action-count 100 --out transitions
  trajmill generate iid --state-count 100 --out uniform --engine ray
  trajmill generate markov --stream reference --seed 666 --sequence-count 128000 --out authors
  trajmill generate dyck --preset hu2025 --sequence-count 1000000 --length 2048 --out brackets
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
        return _made(self.out, lambda: experiment.generate(self.config, self.out, progress, self.mill))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateLaw:
    """What is asked for beside the fields of a law."""

    VERB: ClassVar[str] = "generate"
    MORE: ClassVar[str] = " --out corpus"
    NONE_IS_A_VALUE: ClassVar[bool] = True

    out: str
    """directory to create or continue, or a URL such as s3://bucket/corpus"""
    sequence_count: int = 10_000
    """sequences, >= 1"""
    length: int | None = None
    """tokens of a sequence, >= 1; by default 1,024, or what the law fixes"""
    columns: tuple[str, ...] = ()
    """columns beside the tokens, such as loss_mask and task"""
    mill: Annotated[MillConfig, tyro.conf.arg(name="")]

    def run(self, progress: Progress) -> Outcome:
        law: Law = self.law()  # type: ignore[attr-defined]
        wanted: dict[str, Any] = {"sequence_count": self.sequence_count, "length": length_of(law, self.length)}
        wanted["columns"] = self.columns
        return _made(self.out, lambda: experiment.generate_law(law, self.out, progress, self.mill, **wanted))


def _made(out: str, make: Callable[[], Built]) -> Outcome:
    """What was made, and how fast."""
    started = time.perf_counter()
    built = make()
    seconds = time.perf_counter() - started
    data = {"directory": out, **asdict(built), "seconds": seconds}
    text = f"{out}: {built.made} of {built.shard_count} shards made"
    if built.made:
        text += f", {built.byte_count:,} bytes in {seconds:.2f} s, {built.byte_count / seconds / 1e9:.2f} GB/s"
    if not built.whole:
        text += "; other jobs have shards to make, and the last writes the manifest"
        text += f" (or `trajmill corpus merge {out}`)"
    return Outcome(data, text)


def _command(config: type[GenerateConfig]) -> type[Generate[Any]]:
    """The command that generates what `config` describes."""
    base: Any = Generate[config]  # type: ignore[valid-type]  # known when it runs
    return types.new_class(config.__name__, (base,), exec_body=lambda body: body.update(__doc__=config.__doc__))


COMMANDS: dict[str, Any] = {
    config.kind: _command(config)
    for config in (
        experiment.GenerateMarkovConfig,
        experiment.GenerateMDPConfig,
        experiment.GenerateIIDConfig,
        experiment.GenerateIdentityConfig,
        experiment.GenerateMappingConfig,
    )
}
COMMANDS |= {kind: partial(command_of_law, GenerateLaw, kind) for kind in laws.names()}


def SUMMARIES() -> dict[str, str]:
    """See `session`."""
    own = {word: (kind.__doc__ or "").partition("\n")[0] for word, kind in COMMANDS.items() if word not in laws.names()}
    return own | summaries()
