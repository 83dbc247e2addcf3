"""Synthetic data written into a corpus: a config becomes a spec, and the spec fixes every byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from trajmill.core import checks
from trajmill.core.law import Law
from trajmill.core.progress import Progress, silent
from trajmill.corpus.build import Built, Part, build
from trajmill.corpus.sources import make_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig:
    """What all kinds of data have."""

    kind: ClassVar[str]
    """its name in a spec, and on the command line"""
    rows: ClassVar[str] = "sequence_count"
    """the field that counts the rows"""

    state_count: int = 100
    """number of tokens or states S, >= 1"""
    seed: int = 42
    """64-bit seed of all that is random: laws, maps and draws"""
    length: int = 1024
    """tokens or pairs of a sequence, >= 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _LawConfig(GenerateConfig):
    """What the laws have that the authors' program draws too."""

    backend: Literal["auto", "dense", "implicit"] = "auto"
    """tables, or none; same law, other draws; auto takes the faster one"""
    stream: Literal["v1", "reference"] = "v1"
    """the numbers drawn: trajmill's, or the authors' own (docs/reference-streams.md)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateIIDConfig(_LawConfig):
    """Independent uniform tokens: what is left of a Markov chain when nothing depends on the past."""

    kind: ClassVar[str] = "iid"

    sequence_count: int = 10_000
    """sequences, >= 1"""
    reference_worker_count: int = 8
    """processes of the authors' program, >= 1; for the reference stream alone"""
    batch_size: int = 256
    """sequences of these processes together in an iteration, a multiple of their number; for the reference stream
    alone"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMarkovConfig(GenerateIIDConfig):
    """Tokens of a Markov chain whose rows are softmaxes of random logits.

    The defaults are the paper's chain at a hundredth of its size.
    """

    kind: ClassVar[str] = "markov"

    order: int = 1
    """past states that the next one depends on, >= 0"""
    temperature: float = 1.0
    """softmax divisor, > 0; inf is uniform"""
    initial: Literal["softmax", "uniform"] = "softmax"
    """law of the first state"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMDPConfig(_LawConfig):
    """States and actions of a random MDP under a random policy; the defaults are the paper's."""

    kind: ClassVar[str] = "mdp"
    rows: ClassVar[str] = "trajectory_count"

    action_count: int = 100
    """number of actions A, >= 1"""
    policy_temperature: float = 1.0
    """softmax divisor of the policy, > 0; inf is uniform"""
    transition_temperature: float = 1.0
    """softmax divisor of the transitions, > 0; inf is uniform"""
    start: Literal["random", "fixed"] = "random"
    """where trajectories start: anywhere, or all in one state (the default of the authors' program)"""
    trajectory_count: int = 1000
    """trajectories, >= 1"""
    length: int = 1000
    """transitions of a trajectory, >= 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateIdentityConfig(GenerateConfig):
    """Uniform tokens, or state-action pairs, that are their own targets: a control of the paper's."""

    kind: ClassVar[str] = "identity"

    action_count: int = 0
    """number of actions A, >= 0; 0 makes tokens instead of state-action pairs"""
    sequence_count: int = 10_000
    """sequences, >= 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMappingConfig(GenerateIdentityConfig):
    """Uniform tokens, or state-action pairs, with the targets of a fixed one-to-one map: a control of the paper's."""

    kind: ClassVar[str] = "mapping"


@dataclass(frozen=True, slots=True, kw_only=True)
class MillConfig:
    """How a corpus is cut into files, and who makes them; only the first changes what is written."""

    shard_rows: int | None = None
    """rows of a shard, a power of two; by default what makes 2**28 tokens; at least the row count makes one shard"""
    engine: Literal["local", "ray"] = "local"
    """this process, or the tasks of a Ray cluster"""
    ray_address: str | None = None
    """address of a running Ray cluster; by default one is started on this machine"""
    shard: str = "0/1"
    """which part of the work this job does, k/N with 0 <= k < N; the last of the N jobs writes the manifest"""
    threads: int | None = None
    """threads that draw, >= 1; by default every core, with Ray one for each task"""
    rehash: bool = False
    """read the shards that are there, and make damaged ones again"""


def generate(
    config: GenerateConfig, output: str | Path, progress: Progress = silent, mill: MillConfig = MillConfig()
) -> Built:
    """Write a corpus: ``tokens`` (N, length), or ``states`` and ``actions``, and ``targets`` where the law has them."""
    law = asdict(config)
    row_count = checks.integer(config.rows, law.pop(config.rows), 1, 2**63 - 1)
    length, stream = law.pop("length"), law.pop("stream", "v1")
    if "reference_worker_count" in law:
        law["worker_count"] = law.pop("reference_worker_count")  # as specs call it
    if stream == "reference" and law.get("initial", "softmax") != "softmax":
        raise ValueError("the reference stream draws first tokens from a softmax row, so initial must be softmax")
    unused = {"worker_count", "batch_size"} if stream == "v1" else {"initial", "backend"}
    if config.kind == "mdp" and stream == "reference":
        unused.add("seed")  # the authors' MDP has none to choose
    law = {name: value for name, value in law.items() if name not in unused}
    spec = make_spec(config.kind, law, row_count=row_count, length=length, shard_rows=mill.shard_rows, stream=stream)
    return _build(spec, output, progress, mill)


def generate_law(
    law: Law,
    output: str | Path,
    progress: Progress = silent,
    mill: MillConfig = MillConfig(),
    *,
    sequence_count: int,
    length: int,
    columns: Sequence[str] = (),
) -> Built:
    """Write a corpus of a law: ``tokens`` (sequence_count, length) and the `columns` wanted beside them."""
    count = checks.integer("sequence_count", sequence_count, 1, 2**63 - 1)
    spec = make_spec(
        law.kind(), law.spec(), row_count=count, length=length, columns=columns, shard_rows=mill.shard_rows
    )
    return _build(spec, output, progress, mill)


def _build(spec: dict[str, Any], output: str | Path, progress: Progress, mill: MillConfig) -> Built:
    return build(
        spec,
        output,
        progress,
        engine=mill.engine,
        ray_address=mill.ray_address,
        part=Part.parse(mill.shard),
        threads=mill.threads,
        rehash=mill.rehash,
    )
