"""Milling synthetic data into a corpus: a config becomes a spec, and the spec fixes every byte."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from trajmill.core.progress import Progress, silent
from trajmill.corpus.build import Built, Part, build
from trajmill.corpus.sources import make_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMarkovConfig:
    """Sequences of a random Markov chain; the defaults are the paper's chain at a hundredth of its size."""

    kind: ClassVar[str] = "markov"
    rows: ClassVar[str] = "sequence_count"

    state_count: int = 100
    """number of states S, >= 1"""
    order: int = 1
    """past states that the next one depends on, >= 0"""
    temperature: float = 1.0
    """softmax divisor, > 0; inf is uniform"""
    seed: int = 42
    """64-bit seed"""
    initial: Literal["softmax", "uniform"] = "softmax"
    """law of the first state"""
    backend: Literal["auto", "dense", "implicit"] = "auto"
    """tables, or none; same law, other draws; auto takes the faster one"""
    sequence_count: int = 10_000
    """sequences, >= 1"""
    length: int = 1024
    """tokens of a sequence, >= 1"""
    stream: Literal["v1", "reference"] = "v1"
    """the numbers drawn: trajmill's, or the authors' own (docs/reference-streams.md)"""
    worker_count: int = 8
    """workers of the authors' program, >= 1; for the reference stream alone"""
    batch_size: int = 256
    """sequences of its workers together in an iteration; for the reference stream alone"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateIIDConfig:
    """Independent uniform tokens."""

    kind: ClassVar[str] = "iid"
    rows: ClassVar[str] = "sequence_count"

    state_count: int = 100
    """number of states S, >= 1"""
    seed: int = 42
    """64-bit seed"""
    backend: Literal["auto", "dense", "implicit"] = "auto"
    """tables, or none; same law, other draws; auto takes the faster one"""
    sequence_count: int = 10_000
    """sequences, >= 1"""
    length: int = 1024
    """tokens of a sequence, >= 1"""
    stream: Literal["v1", "reference"] = "v1"
    """the numbers drawn: trajmill's, or the authors' own (docs/reference-streams.md)"""
    worker_count: int = 8
    """workers of the authors' program, >= 1; for the reference stream alone"""
    batch_size: int = 256
    """sequences of its workers together in an iteration; for the reference stream alone"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMDPConfig:
    """Trajectories of a random MDP; the defaults are the paper's."""

    kind: ClassVar[str] = "mdp"
    rows: ClassVar[str] = "trajectory_count"

    state_count: int = 100
    """number of states S, >= 1"""
    action_count: int = 100
    """number of actions A, >= 1"""
    policy_temperature: float = 1.0
    """softmax divisor of the policy, > 0; inf is uniform"""
    transition_temperature: float = 1.0
    """softmax divisor of the transitions, > 0; inf is uniform"""
    seed: int = 42
    """64-bit seed"""
    start: Literal["random", "fixed"] = "random"
    """where trajectories start: anywhere, or all in one state (what the authors' program does unless told otherwise)"""
    backend: Literal["auto", "dense", "implicit"] = "auto"
    """tables, or none; same law, other draws; auto takes the faster one"""
    trajectory_count: int = 1000
    """trajectories, >= 1"""
    length: int = 1000
    """transitions of a trajectory, >= 1"""
    stream: Literal["v1", "reference"] = "v1"
    """the numbers drawn: trajmill's, or the authors' own (docs/reference-streams.md)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMappedConfig:
    """Independent uniform tokens with targets, or state-action pairs with targets."""

    rows: ClassVar[str] = "sequence_count"

    state_count: int = 100
    """number of tokens or states S, >= 1"""
    action_count: int = 0
    """number of actions, >= 0; 0 makes tokens instead of state-action pairs"""
    seed: int = 42
    """64-bit seed of the tokens and of the map"""
    sequence_count: int = 10_000
    """sequences, >= 1"""
    length: int = 1024
    """tokens or pairs of a sequence, >= 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateIdentityConfig(GenerateMappedConfig):
    """Tokens or pairs that are their own targets."""

    kind: ClassVar[str] = "identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMappingConfig(GenerateMappedConfig):
    """Tokens or pairs, and targets that a fixed one-to-one map makes of them."""

    kind: ClassVar[str] = "mapping"


class GenerateConfig(Protocol):
    """What to mill: a dataclass of a law's parameters, a row count, a length and perhaps a stream."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    kind: ClassVar[str]
    """name of the law in a spec"""
    rows: ClassVar[str]
    """the field that counts the rows"""


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
    """read the shards that are there, and make those anew that are damaged"""


def generate(
    config: GenerateConfig, output: str | Path, progress: Progress = silent, mill: MillConfig | None = None
) -> Built:
    """Write a corpus: ``tokens`` (N, length), or ``states`` and ``actions``, and ``targets`` where the law has them."""
    mill = mill or MillConfig()
    law = asdict(config)
    row_count, length, stream = law.pop(config.rows), law.pop("length"), law.pop("stream", "v1")
    _keep_what_counts(law, stream)
    return build(
        make_spec(config.kind, law, row_count=row_count, length=length, shard_rows=mill.shard_rows, stream=stream),
        output,
        progress,
        engine=mill.engine,
        ray_address=mill.ray_address,
        part=Part.parse(mill.shard),
        threads=mill.threads,
        rehash=mill.rehash,
    )


def _keep_what_counts(law: dict[str, Any], stream: str) -> None:
    """Drop the parameters that a stream knows nothing of; ValueError if one asks for what it cannot do."""
    if stream == "v1":
        unused = {"worker_count", "batch_size"}
    else:
        if law.get("initial", "softmax") != "softmax":
            raise ValueError("the reference stream draws first tokens from a softmax row, so initial must be softmax")
        unused = {"initial", "backend"}
        if "start" in law:
            unused.add("seed")  # the authors' MDP has none to choose
    for name in unused & law.keys():
        del law[name]
