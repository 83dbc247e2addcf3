"""Rows of the authors' own streams (docs/reference-streams.md): any worker's block or trajectory is made alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill.core import reference
from trajmill.corpus.layout import Column

MakeBlocks = Callable[[int, range, npt.NDArray[Any], int | None], object]
"""``make(iteration, workers, out, threads)`` fills the blocks of some workers of an iteration"""


@dataclass(frozen=True, slots=True)
class ReferenceTokenRows:
    """Iterations 0, 1, 2, ... of `batch_size` sequences, each in worker order: the column ``tokens``."""

    columns: tuple[Column, ...]
    batch_size: int
    block_size: int  # sequences of one worker
    make: MakeBlocks
    backend = "dense"

    def fill(self, first_row: int, arrays: Mapping[str, npt.NDArray[Any]], threads: int | None) -> None:
        """See `RowRuns`."""
        tokens = arrays["tokens"]
        block = self.block_size
        row = 0
        while row < len(tokens):
            iteration, place = divmod(first_row + row, self.batch_size)
            worker, skipped = divmod(place, block)
            whole = min(len(tokens) - row, self.batch_size - place) // block
            if skipped == 0 and whole:
                count = whole * block
                self.make(iteration, range(worker, worker + whole), tokens[row : row + count], threads)
            else:  # a part of a block: all of it has to be made
                made = np.empty((block, tokens.shape[1]), tokens.dtype)
                self.make(iteration, range(worker, worker + 1), made, threads)
                count = min(block - skipped, len(tokens) - row)
                tokens[row : row + count] = made[skipped : skipped + count]
            row += count


def markov_rows(spec: Mapping[str, Any], columns: tuple[Column, ...]) -> ReferenceTokenRows:
    """The authors' chain of order n."""
    chain = reference.ReferenceChain(spec["order"], spec["state_count"], float(spec["temperature"]), spec["seed"])
    workers, batch, length = spec["worker_count"], spec["batch_size"], spec["length"]

    def make(iteration: int, some: range, out: npt.NDArray[Any], threads: int | None) -> object:
        return chain.tokens(workers, batch, length, iteration, workers=some, out=out, threads=threads)

    return ReferenceTokenRows(columns, batch, reference.block_size(workers, batch), make)


def iid_rows(spec: Mapping[str, Any], columns: tuple[Column, ...]) -> ReferenceTokenRows:
    """The authors' independent tokens."""
    law = {name: spec[name] for name in ("state_count", "seed", "worker_count", "batch_size", "length")}

    def make(iteration: int, some: range, out: npt.NDArray[Any], threads: int | None) -> object:
        return reference.iid_tokens(**law, iteration=iteration, workers=some, out=out, threads=threads)

    block = reference.block_size(spec["worker_count"], spec["batch_size"])
    return ReferenceTokenRows(columns, spec["batch_size"], block, make)


@dataclass(frozen=True, slots=True)
class ReferenceMDPRows:
    """The authors' trajectories: the columns ``states`` (N, length + 1) and ``actions`` (N, length)."""

    columns: tuple[Column, ...]
    spec: Mapping[str, Any]
    backend = "dense"

    def fill(self, first_row: int, arrays: Mapping[str, npt.NDArray[Any]], threads: int | None) -> None:
        """See `RowRuns`."""
        states, actions, spec = arrays["states"], arrays["actions"], self.spec
        data = reference.mdp_transitions(
            spec["row_count"],
            spec["length"],
            spec["state_count"],
            spec["action_count"],
            float(spec["policy_temperature"]),
            float(spec["transition_temperature"]),
            spec["start"] == "random",
            trajectories=range(first_row, first_row + len(actions)),
            threads=threads,
        )
        states[:, :-1] = data["observations"].reshape(actions.shape)
        states[:, -1] = data["next_observations"].reshape(actions.shape)[:, -1]
        actions[:] = data["actions"].reshape(actions.shape)
