"""Rows for the paper's controls: independent tokens, or state-action pairs, with targets one to one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from trajmill.core import MarkovChain, checks
from trajmill.core.mapping import OneToOneMap
from trajmill.corpus.layout import Column


def columns_of(spec: Mapping[str, Any]) -> tuple[Column, ...]:
    """``tokens`` and ``targets``; with actions ``states``, ``actions``, ``target_states`` and ``target_actions``."""
    states, actions = (checks.smallest_dtype(max(1, spec[name])).name for name in ("state_count", "action_count"))
    if spec["action_count"] == 0:
        names = {"tokens": states, "targets": states}
    else:
        names = {"states": states, "actions": actions, "target_states": states, "target_actions": actions}
    return tuple(Column(name=name, dtype=dtype, row_length=spec["length"]) for name, dtype in names.items())


@dataclass(frozen=True, slots=True)
class MappedRows:
    """Uniform tokens x with targets f(x), or uniform pairs (s, a) with targets f(s, a)."""

    columns: tuple[Column, ...]
    chain: MarkovChain  # of tokens, or of pairs numbered s * action_count + a
    target: OneToOneMap | None  # None: the identity
    action_count: int  # 0: tokens
    length: int

    @property
    def backend(self) -> str:
        """See `RowRuns`."""
        return self.chain.backend

    def fill(self, first_row: int, arrays: Mapping[str, npt.NDArray[Any]], threads: int | None) -> None:
        """See `RowRuns`."""
        rows = len(next(iter(arrays.values())))
        drawn = self.chain.sample(rows, self.length, first_sequence=first_row, threads=threads)
        mapped = drawn if self.target is None else self.target(drawn)
        if self.action_count == 0:
            arrays["tokens"][:], arrays["targets"][:] = drawn, mapped
            return
        for numbers, prefix in ((drawn, ""), (mapped, "target_")):
            arrays[f"{prefix}states"][:] = numbers // self.action_count
            arrays[f"{prefix}actions"][:] = numbers % self.action_count


def mapped_rows(spec: Mapping[str, Any], columns: tuple[Column, ...]) -> MappedRows:
    """The rows of an ``identity`` or a ``mapping`` spec."""
    size = spec["state_count"] * max(1, spec["action_count"])
    chain = MarkovChain(state_count=size, order=0, temperature=math.inf, seed=spec["seed"], backend="implicit")
    target = OneToOneMap(size, spec["seed"]) if spec["kind"] == "mapping" else None
    return MappedRows(columns, chain, target, spec["action_count"], spec["length"])
