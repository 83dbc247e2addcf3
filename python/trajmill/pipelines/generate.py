"""Milling synthetic data into a corpus directory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trajmill.core import MDP, MarkovChain, MDPSample, checks
from trajmill.core.progress import Progress, silent
from trajmill.corpus.native import Column, CorpusWriter

_VALUES_PER_SHARD = 2**26
_VALUES_PER_STEP = 2**22  # made between two looks at the progress bar


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMarkovConfig:
    """Sequences of a random Markov chain; the defaults are the paper's chain at a hundredth of its size."""

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
    sequence_count: int = 10_000
    """sequences, >= 1"""
    length: int = 1024
    """tokens of a sequence, >= 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateIIDConfig:
    """Independent uniform tokens."""

    state_count: int = 100
    """number of states S, >= 1"""
    seed: int = 42
    """64-bit seed"""
    sequence_count: int = 10_000
    """sequences, >= 1"""
    length: int = 1024
    """tokens of a sequence, >= 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateMDPConfig:
    """Trajectories of a random MDP; the defaults are the paper's."""

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
    """where trajectories start"""
    trajectory_count: int = 1000
    """trajectories, >= 1"""
    length: int = 1000
    """transitions of a trajectory, >= 1"""


def generate_markov(config: GenerateMarkovConfig, output: Path, progress: Progress = silent) -> Path:
    """Write the sequences of a chain as the corpus `output`; its column is ``tokens`` (sequence_count, length)."""
    chain = MarkovChain(
        state_count=config.state_count,
        order=config.order,
        temperature=config.temperature,
        seed=config.seed,
        initial=config.initial,
    )
    return _write_tokens(chain, config, "markov", config.sequence_count, config.length, output, progress)


def generate_iid(config: GenerateIIDConfig, output: Path, progress: Progress = silent) -> Path:
    """Write independent uniform tokens as the corpus `output`; its column is ``tokens`` (sequence_count, length)."""
    chain = MarkovChain(state_count=config.state_count, order=0, temperature=math.inf, seed=config.seed)
    return _write_tokens(chain, config, "iid", config.sequence_count, config.length, output, progress)


def generate_mdp(config: GenerateMDPConfig, output: Path, progress: Progress = silent) -> Path:
    """Write trajectories as the corpus `output`: columns ``states`` (N, L + 1) and ``actions`` (N, L)."""
    rows, length = _sizes(config.trajectory_count, config.length)
    mdp = MDP(
        state_count=config.state_count,
        action_count=config.action_count,
        policy_temperature=config.policy_temperature,
        transition_temperature=config.transition_temperature,
        seed=config.seed,
        start=config.start,
    )
    columns = [
        Column(name="states", dtype=checks.smallest_dtype(config.state_count).name, row_length=length + 1),
        Column(name="actions", dtype=checks.smallest_dtype(config.action_count).name, row_length=length),
    ]

    def fill(first: int, arrays: dict[str, npt.NDArray[Any]]) -> None:
        out = MDPSample(states=arrays["states"], actions=arrays["actions"])
        mdp.sample(len(out.actions), length, first_trajectory=first, out=out)

    return _write(columns, _spec("mdp", config), rows, length, "transitions", fill, output, progress)


def _write_tokens(
    chain: MarkovChain, config: Any, law: str, sequence_count: int, length: int, output: Path, progress: Progress
) -> Path:
    rows, length = _sizes(sequence_count, length)
    columns = [Column(name="tokens", dtype=checks.smallest_dtype(chain.state_count).name, row_length=length)]

    def fill(first: int, arrays: dict[str, npt.NDArray[Any]]) -> None:
        chain.sample(len(arrays["tokens"]), length, first_sequence=first, out=arrays["tokens"])

    return _write(columns, _spec(law, config), rows, length, "tokens", fill, output, progress)


def _write(
    columns: list[Column],
    spec: dict[str, Any],
    rows: int,
    length: int,
    unit: str,
    fill: Callable[[int, dict[str, npt.NDArray[Any]]], None],
    output: Path,
    progress: Progress,
) -> Path:
    writer = CorpusWriter(output, spec, columns)
    shard_rows = min(rows, max(1, _VALUES_PER_SHARD // length))
    step_rows = max(1, _VALUES_PER_STEP // length)
    buffers = {c.name: np.empty((shard_rows, c.row_length), c.dtype) for c in columns}
    for first in range(0, rows, shard_rows):
        count = min(shard_rows, rows - first)
        for step in range(0, count, step_rows):
            end = min(step + step_rows, count)
            fill(first + step, {name: buffer[step:end] for name, buffer in buffers.items()})
            progress("milling", (first + end) * length, rows * length, unit)
        writer.write_shard({name: buffer[:count] for name, buffer in buffers.items()})
    return writer.finish()


def _sizes(row_count: int, length: int) -> tuple[int, int]:
    return checks.integer("row count", row_count, 1, 2**63 - 1), checks.integer("length", length, 1, 2**32 - 1)


def _spec(law: str, config: Any) -> dict[str, Any]:
    values = {k: "inf" if v == math.inf else v for k, v in asdict(config).items()}
    return {"law": law, "stream": "v1", **values}
