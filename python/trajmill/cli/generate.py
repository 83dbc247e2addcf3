"""Mill synthetic data into a directory: the same settings and seed give the same bytes on every machine.

Neither the number of threads nor an interruption changes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from trajmill.cli.session import Outcome
from trajmill.core.progress import Progress
from trajmill.pipelines.generate import (
    GenerateIIDConfig,
    GenerateMarkovConfig,
    GenerateMDPConfig,
    generate_iid,
    generate_markov,
    generate_mdp,
)

EXAMPLES = """
  trajmill generate markov --state-count 100 --sequence-count 1000000 --length 1024 --out corpus
  trajmill generate mdp --state-count 100 --action-count 100 --out transitions
  trajmill generate iid --state-count 100 --out uniform
"""

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMarkov:
    """Tokens of a Markov chain whose rows are softmaxes of random logits."""

    out: Path
    """directory to create"""
    config: Annotated[GenerateMarkovConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateMarkovConfig)

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        return _timed(generate_markov, self.config, self.out, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMDP:
    """States and actions of a random MDP under a random policy."""

    out: Path
    """directory to create"""
    config: Annotated[GenerateMDPConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateMDPConfig)

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        return _timed(generate_mdp, self.config, self.out, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateIID:
    """Independent uniform tokens: what is left of a Markov chain when nothing depends on the past."""

    out: Path
    """directory to create"""
    config: Annotated[GenerateIIDConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateIIDConfig)

    def run(self, progress: Progress) -> Outcome:
        """Mill them."""
        return _timed(generate_iid, self.config, self.out, progress)


def _timed(
    generate: Callable[[ConfigT, Path, Progress], Path], config: ConfigT, out: Path, progress: Progress
) -> Outcome:
    started = time.perf_counter()
    directory = generate(config, out, progress)
    seconds = time.perf_counter() - started
    byte_count = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    data = {"directory": str(directory), "bytes": byte_count, "seconds": seconds}
    return Outcome(data, f"{directory}: {byte_count:,} bytes in {seconds:.2f} s, {byte_count / seconds / 1e9:.2f} GB/s")


COMMANDS = {"markov": GenerateMarkov, "mdp": GenerateMDP, "iid": GenerateIID}
