"""D4RL's HDF5 schema: trajectories as float vectors, one row a step, for every library that reads offline RL data.

Rewards are zero and nothing is terminal, since the MDPs have neither; ``timeouts`` mark the last step of a trajectory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trajmill import _core
from trajmill.core import checks
from trajmill.core.hdf5_writing import create_hdf5
from trajmill.core.reference import codebooks
from trajmill.corpus.errors import CorpusError, library
from trajmill.corpus.export.reading import CorpusRows

Vectors = npt.NDArray[np.float32]
_FLOAT32_INTEGERS = 2**24  # float32 holds every integer up to here


@dataclass(frozen=True, slots=True, kw_only=True)
class D4RL:
    """One HDF5 file: observations, actions, next_observations, rewards, terminals, timeouts."""

    vectors: Literal["reference", "codebook", "index"] = "reference"
    """what stands for a state or an action: the vectors of arXiv 2310.00771's code, trajmill's own
    (``MDP.state_vectors``), or the number itself, as one float"""
    observation_dim: int | None = None
    """numbers of an observation, for both kinds of vectors: 17 for halfcheetah and walker2d, 11 for hopper"""
    action_dim: int | None = None
    """numbers of an action, likewise: 6 for halfcheetah and walker2d, 3 for hopper"""

    def __post_init__(self) -> None:
        checks.choice("vectors", self.vectors, ("reference", "codebook", "index"))
        for name, value in (("observation_dim", self.observation_dim), ("action_dim", self.action_dim)):
            if self.vectors == "index" and value is not None:
                raise ValueError(f"{name} has no meaning with vectors 'index', where every observation is one number")
            if self.vectors != "index" and value is None:
                raise ValueError(f"{name} is needed with vectors {self.vectors!r}; vectors 'index' needs none")
            if value is not None:
                checks.integer(name, value, 1, 2**31)

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Create the file `target`."""
        states, actions = rows.only(["states", "actions"], "D4RL's format holds trajectories (states and actions)")
        length = actions.row_length
        if states.row_length != length + 1:
            raise CorpusError(f"states need one column more than actions ({length}), got {states.row_length}")
        if rows.count * length < 2:
            raise CorpusError(f"{rows.directory} holds one transition; D4RL's format needs at least 2")
        state_vectors, action_vectors = self._vectors(rows)
        with create_hdf5(library("h5py", "this format", "export"), target) as (file, check):
            file.attrs["spec"], file.attrs["vectors"] = json.dumps(rows.spec, sort_keys=True), self.vectors
            _write_steps(file, check, rows, length, state_vectors, action_vectors)

    def _vectors(self, rows: CorpusRows) -> tuple[Vectors, Vectors]:
        """Vectors of the states (S, O) and the actions (A, A')."""
        counts = rows.value_count("state_count", "states"), rows.value_count("action_count", "actions")
        if self.observation_dim is None or self.action_dim is None:
            if max(counts) > _FLOAT32_INTEGERS:
                raise CorpusError(
                    f"float32 distinguishes only {_FLOAT32_INTEGERS:,} of {max(counts):,} numbers; use vectors"
                )
            states, actions = (np.arange(count, dtype=np.float32)[:, np.newaxis] for count in counts)
            return states, actions
        if self.vectors == "reference":
            return codebooks(*counts, self.observation_dim, self.action_dim)
        return _core.state_codebook(counts[0], self.observation_dim), _core.action_codebook(counts[1], self.action_dim)


def _write_steps(
    file: Any, check: Callable[[], None], rows: CorpusRows, length: int, state_vectors: Vectors, action_vectors: Vectors
) -> None:
    """Fill the six arrays of D4RL's schema, one row a step, from trajectories of `length` steps."""
    step_count, observation_dim, action_dim = rows.count * length, state_vectors.shape[1], action_vectors.shape[1]
    widths = {"observations": (observation_dim,), "actions": (action_dim,), "next_observations": (observation_dim,)}
    for name, shape in (widths | {"rewards": ()}).items():  # what is never written reads as zero
        file.create_dataset(name, (step_count, *shape), "<f4")
    for name in ("terminals", "timeouts"):
        file.create_dataset(name, (step_count,), "?")
    row = 0
    for block in rows.blocks(0, rows.count, row_bytes=4 * length * (2 * observation_dim + action_dim)):
        end = row + block["actions"].size
        file["observations"][row:end] = state_vectors.take(block["states"][:, :-1].reshape(-1), axis=0)
        file["actions"][row:end] = action_vectors.take(block["actions"].reshape(-1), axis=0)
        file["next_observations"][row:end] = state_vectors.take(block["states"][:, 1:].reshape(-1), axis=0)
        file["timeouts"][row:end] = np.arange(1, end - row + 1) % length == 0
        check()
        row = end
