"""What rows are made of: a law and a length, or the spec that names them.

A spec is a plain dictionary of JSON values. It says all that fixes the bytes of a corpus and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trajmill.core import MDP, MarkovChain, MDPSample, checks
from trajmill.corpus import mapped_rows, reference_rows
from trajmill.corpus.layout import Column, CorpusError, Layout, default_block_rows, default_shard_rows

BACKENDS = ("dense", "implicit")

Arrays = Mapping[str, npt.NDArray[Any]]
"""(rows, row_length) arrays under their columns' names"""


class RowRuns(Protocol):
    """Makes rows of a corpus, any number that stand side by side."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The arrays that rows consist of."""

    @property
    def backend(self) -> str:
        """``"dense"`` or ``"implicit"``."""

    def fill(self, first_row: int, arrays: Arrays, threads: int | None) -> None:
        """Fill each column's array with the rows from `first_row` on."""


class RowSource(RowRuns, Protocol):
    """Makes any rows of a corpus, in any order."""

    def pick(self, rows: npt.NDArray[np.integer[Any]], arrays: Arrays, threads: int | None) -> None:
        """Fill each column's array with the given rows (n,), in their order."""


@dataclass(frozen=True, slots=True)
class ChainRows:
    """Sequences of a chain: the column ``tokens`` (sequence_count, length)."""

    chain: MarkovChain
    length: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `RowSource`."""
        return token_columns(self.chain.state_count, self.length)

    @property
    def backend(self) -> str:
        """See `RowSource`."""
        return self.chain.backend

    def fill(self, first_row: int, arrays: Arrays, threads: int | None) -> None:
        """See `RowSource`."""
        tokens = arrays["tokens"]
        self.chain.sample(len(tokens), self.length, first_sequence=first_row, out=tokens, threads=threads)

    def pick(self, rows: npt.NDArray[np.integer[Any]], arrays: Arrays, threads: int | None) -> None:
        """See `RowSource`."""
        self.chain.sample_sequences(rows, self.length, out=arrays["tokens"], threads=threads)


@dataclass(frozen=True, slots=True)
class MDPRows:
    """Trajectories of an MDP: the columns ``states`` (N, length + 1) and ``actions`` (N, length)."""

    mdp: MDP
    length: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `RowSource`."""
        return trajectory_columns(self.mdp.state_count, self.mdp.action_count, self.length)

    @property
    def backend(self) -> str:
        """See `RowSource`."""
        return self.mdp.backend

    def fill(self, first_row: int, arrays: Arrays, threads: int | None) -> None:
        """See `RowSource`."""
        out = MDPSample(states=arrays["states"], actions=arrays["actions"])
        self.mdp.sample(len(out.actions), self.length, first_trajectory=first_row, out=out, threads=threads)

    def pick(self, rows: npt.NDArray[np.integer[Any]], arrays: Arrays, threads: int | None) -> None:
        """See `RowSource`."""
        out = MDPSample(states=arrays["states"], actions=arrays["actions"])
        self.mdp.sample_trajectories(rows, self.length, out=out, threads=threads)


def rows_of(law: MarkovChain | MDP, length: int) -> RowSource:
    """Rows of `length` tokens or transitions of `law`."""
    if isinstance(law, MarkovChain):
        return ChainRows(law, length)
    if isinstance(law, MDP):
        return MDPRows(law, length)
    raise TypeError(f"law must be a MarkovChain or an MDP, got {law!r}")


def token_columns(state_count: int, length: int) -> tuple[Column, ...]:
    """The columns of a token corpus."""
    return (Column(name="tokens", dtype=checks.smallest_dtype(state_count).name, row_length=length),)


def trajectory_columns(state_count: int, action_count: int, length: int) -> tuple[Column, ...]:
    """The columns of a trajectory corpus."""
    return (
        Column(name="states", dtype=checks.smallest_dtype(state_count).name, row_length=length + 1),
        Column(name="actions", dtype=checks.smallest_dtype(action_count).name, row_length=length),
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """A word that a spec may use: which columns it has, and what makes their rows."""

    columns: Callable[[Mapping[str, Any]], tuple[Column, ...]]
    source: Callable[[Mapping[str, Any]], RowRuns]


def _tokens(spec: Mapping[str, Any]) -> tuple[Column, ...]:
    return token_columns(spec["state_count"], spec["length"])


def _trajectories(spec: Mapping[str, Any]) -> tuple[Column, ...]:
    return trajectory_columns(spec["state_count"], spec["action_count"], spec["length"])


def _markov(spec: Mapping[str, Any]) -> RowSource:
    law = {name: spec[name] for name in ("state_count", "order", "seed", "initial", "backend")}
    return ChainRows(MarkovChain(**law, temperature=float(spec["temperature"])), spec["length"])


def _iid(spec: Mapping[str, Any]) -> RowSource:
    law = {name: spec[name] for name in ("state_count", "seed", "backend")}
    return ChainRows(MarkovChain(**law, order=0, temperature=math.inf), spec["length"])


def _mdp(spec: Mapping[str, Any]) -> RowSource:
    law: dict[str, Any] = {name: spec[name] for name in ("state_count", "action_count", "seed", "start", "backend")}
    law |= {name: float(spec[name]) for name in ("policy_temperature", "transition_temperature")}
    return MDPRows(MDP(**law), spec["length"])


def _mapped(spec: Mapping[str, Any]) -> RowRuns:
    return mapped_rows.mapped_rows(spec, mapped_rows.columns_of(spec))


STREAMS = {
    "v1": {
        "markov": Kind(_tokens, _markov),
        "iid": Kind(_tokens, _iid),
        "mdp": Kind(_trajectories, _mdp),
        "identity": Kind(mapped_rows.columns_of, _mapped),
        "mapping": Kind(mapped_rows.columns_of, _mapped),
    },
    "reference": {
        "markov": Kind(_tokens, lambda spec: reference_rows.markov_rows(spec, _tokens(spec))),
        "iid": Kind(_tokens, lambda spec: reference_rows.iid_rows(spec, _tokens(spec))),
        "mdp": Kind(_trajectories, lambda spec: reference_rows.ReferenceMDPRows(_trajectories(spec), spec)),
    },
}


def make_spec(
    kind: str,
    law: Mapping[str, Any],
    *,
    row_count: int,
    length: int,
    shard_rows: int | None = None,
    stream: str = "v1",
) -> dict[str, Any]:
    """The spec of `row_count` rows of a `kind` whose parameters are `law`.

    Parameters
    ----------
    law
        What `kind` needs; ``"backend"`` may be ``"auto"`` or missing, and is put down as what it comes to.
    shard_rows
        Rows of a shard, a power of two; None: as many as make 2**28 values. At least `row_count`: a single shard.
    """
    spec = {
        "kind": kind,
        "stream": stream,
        "backend": "auto",
        **{name: "inf" if value == math.inf else value for name, value in law.items()},
        "row_count": checks.integer("row count", row_count, 1, 2**63 - 1),
        "length": checks.integer("length", length, 1, 2**32 - 1),
    }
    known = _kind(spec | {"backend": BACKENDS[0]})
    if spec["backend"] == "auto":
        spec["backend"] = known.source(spec).backend
    columns = _kind(spec).columns(spec)
    spec["shard_rows"] = default_shard_rows(columns) if shard_rows is None else shard_rows
    spec["block_rows"] = min(default_block_rows(columns), spec["shard_rows"])
    layout_of(spec)
    return spec


def layout_of(spec: Mapping[str, Any]) -> Layout:
    """The layout of the corpus that `spec` asks for."""
    return Layout.of(spec, _kind(spec).columns(spec))


def source_of(spec: Mapping[str, Any]) -> RowRuns:
    """What makes the rows that `spec` asks for; builds the law's tables."""
    return _kind(spec).source(spec)


def _kind(spec: Mapping[str, Any]) -> Kind:
    kinds = STREAMS.get(str(spec.get("stream")), {})
    for name, known in (("stream", tuple(STREAMS)), ("kind", tuple(kinds)), ("backend", BACKENDS)):
        if spec.get(name) not in known:
            raise CorpusError(f"this trajmill makes corpora of {name} {', '.join(known)}, not {spec.get(name)!r}")
    return kinds[spec["kind"]]
