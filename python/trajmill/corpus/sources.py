"""From a spec to rows: a spec names a law and a length, and a source draws its rows.

A spec is a plain dictionary of JSON values. It holds everything that decides the bytes of a corpus, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill import laws
from trajmill.core import MDP, MarkovChain, checks, reference
from trajmill.core.column import Column
from trajmill.core.law import Arrays, Law
from trajmill.core.mapping import OneToOneMap
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.layout import Layout

BLOCK_BYTES = 2**24
"""most bytes of a column that one hash covers, unless a row is longer"""
SHARD_VALUES = 2**28
"""most values of a column in a shard, unless asked for otherwise or a row is longer"""

Spec = Mapping[str, Any]
OWN_KEYS = ("kind", "stream", "columns", "row_count", "length", "shard_rows", "block_rows")
"""what a spec says beside the fields of its law"""


@dataclass(frozen=True, slots=True)
class Source:
    """What draws the rows of a spec."""

    columns: tuple[Column, ...]
    fill: Callable[[int, Arrays, int | None], None]
    """``fill(first_row, arrays, threads)`` fills each column's array with the rows from `first_row` on"""
    backend: str = "dense"


def make_spec(
    kind: str,
    law: Spec,
    *,
    row_count: int,
    length: int,
    columns: Sequence[str] = (),
    shard_rows: int | None = None,
    stream: str = "v1",
) -> dict[str, Any]:
    """The spec of `row_count` rows of a `kind` whose parameters are `law`.

    `columns` are wanted beside the tokens (`Law.extra_columns`). If ``law["backend"]`` of a chain or an MDP is
    ``"auto"`` or missing, the spec names the backend that was chosen. `shard_rows` is a power of two; None makes up to
    2**28 values a shard, and at least `row_count` makes a single shard.
    """
    if kind in laws.names():
        given = laws.find(kind).from_spec(law).spec()
    else:
        given = {"backend": "auto", **{name: "inf" if value == math.inf else value for name, value in law.items()}}
    spec = {
        "kind": kind,
        "stream": stream,
        **given,
        "row_count": checks.integer("row count", row_count, 1, 2**63 - 1),
        "length": checks.integer("length", length, 1, 2**32 - 1),
    }
    if columns:
        spec["columns"] = [column.name for column in _law_of(spec | {"columns": columns}).columns(length, columns)[1:]]
    if spec.get("backend") == "auto":
        spec["backend"] = source_of(spec).backend
    made = _columns(spec)
    if shard_rows is None:
        shard_rows = _power_of_two(SHARD_VALUES // max(column.row_length for column in made))
    spec["shard_rows"] = checks.integer("shard_rows", shard_rows, 1, 2**62)
    block_rows = _power_of_two(BLOCK_BYTES // max(column.row_bytes for column in made))
    spec["block_rows"] = min(block_rows, spec["shard_rows"])
    layout_of(spec)
    return spec


def layout_of(spec: Spec) -> Layout:
    """The layout of the corpus that `spec` asks for; CorpusError for a spec that this version cannot make."""
    columns = _columns(spec)
    if spec["kind"] not in laws.names():
        _require_known("backend", spec, ("dense", "implicit"))
    return Layout.of(spec, columns)


def vocabulary_size(spec: Spec) -> int | None:
    """Tokens of a corpus are below it; None if its spec does not say so."""
    if spec.get("kind") in laws.names():
        return _law_of(spec).vocabulary_size
    size = spec.get("state_count")
    return None if size is None else int(size)


def source_of(spec: Spec) -> Source:
    """What draws the rows of `spec`; builds the law's tables."""
    return _maker(spec)(spec)


def columns_of(kind: str, length: int, state_count: int, action_count: int = 0) -> tuple[Column, ...]:
    """The columns of a kind of rows: tokens, or states and actions, perhaps with what they are mapped to."""
    states = checks.smallest_dtype(checks.state_count("state_count", state_count)).name
    actions = checks.smallest_dtype(max(1, action_count)).name
    columns: dict[str, tuple[str, int]]
    if kind == "mdp":
        columns = {"states": (states, length + 1), "actions": (actions, length)}
    elif kind in ("markov", "iid"):
        columns = {"tokens": (states, length)}
    elif action_count == 0:
        columns = {"tokens": (states, length), "targets": (states, length)}
    else:
        columns = {"states": (states, length), "actions": (actions, length)}
        columns |= {f"target_{name}": column for name, column in columns.items()}
    return tuple(Column(name=name, dtype=dtype, row_length=size) for name, (dtype, size) in columns.items())


def _columns(spec: Spec) -> tuple[Column, ...]:
    _maker(spec)  # refuses other kinds
    if spec["kind"] in laws.names():
        return _law_of(spec).columns(spec["length"], spec.get("columns", ()))
    return columns_of(spec["kind"], spec["length"], spec["state_count"], spec.get("action_count", 0))


def _law_of(spec: Spec) -> Law:
    """The law of a spec whose kind is one of `trajmill.laws`."""
    kind = laws.find(spec["kind"])
    law = kind.from_spec(spec)
    if unknown := set(spec) - set(law.spec()) - set(OWN_KEYS):
        raise CorpusError(f"this trajmill does not know {', '.join(sorted(unknown))} of a law of kind {kind.kind()!r}")
    return law


def _any_law(spec: Spec) -> Source:
    """Sequences of a law that is a file of `trajmill.laws`."""
    return Source(_columns(spec), _law_of(spec).fill)


def _law(spec: Spec, *names: str) -> dict[str, Any]:
    """Parameters of the law; temperatures may be ``"inf"`` in a spec."""
    return {name: float(spec[name]) if name.endswith("temperature") else spec[name] for name in names}


def _tokens(spec: Spec) -> Source:
    """Sequences of a chain: the column ``tokens``."""
    law: dict[str, Any] = {"order": 0, "temperature": math.inf}  # independent tokens
    if spec["kind"] == "markov":
        law = _law(spec, "order", "temperature", "initial")
    chain = MarkovChain(**law, **_law(spec, "state_count", "seed", "backend"))
    return Source(_columns(spec), chain.fill, chain.backend)


def _mdp(spec: Spec) -> Source:
    """Trajectories of an MDP: the columns ``states``, one longer, and ``actions``."""
    temperatures = "policy_temperature", "transition_temperature"
    mdp = MDP(**_law(spec, "state_count", "action_count", *temperatures, "seed", "start", "backend"))
    return Source(_columns(spec), mdp.fill, mdp.backend)


def _mapped(spec: Spec) -> Source:
    """The paper's controls: uniform tokens x with targets f(x), or pairs (s, a) with targets f(s, a)."""
    action_count = spec["action_count"]
    size = spec["state_count"] * max(1, action_count)  # pairs are numbered s * action_count + a
    chain = MarkovChain(state_count=size, order=0, temperature=math.inf, seed=spec["seed"], backend="implicit")
    target = OneToOneMap(size, spec["seed"]) if spec["kind"] == "mapping" else None

    def fill(first_row: int, arrays: Arrays, threads: int | None) -> None:
        rows = len(next(iter(arrays.values())))
        drawn = chain.sample(rows, spec["length"], first_sequence=first_row, threads=threads)
        mapped = drawn if target is None else target(drawn)
        if action_count == 0:
            arrays["tokens"][:], arrays["targets"][:] = drawn, mapped
            return
        for numbers, prefix in ((drawn, ""), (mapped, "target_")):
            arrays[f"{prefix}states"][:] = numbers // action_count
            arrays[f"{prefix}actions"][:] = numbers % action_count

    return Source(_columns(spec), fill, chain.backend)


def _reference_tokens(spec: Spec) -> Source:
    """The authors' iterations 0, 1, 2, ... (docs/reference-streams.md), each in the order of their processes."""
    draw: Callable[..., npt.NDArray[Any]] = partial(reference.iid_tokens, spec["state_count"], spec["seed"])
    if spec["kind"] == "markov":
        draw = reference.ReferenceChain(**_law(spec, "state_count", "order", "temperature", "seed")).tokens
    process_count, batch_size, length = spec["worker_count"], spec["batch_size"], spec["length"]
    share = reference.block_size(process_count, batch_size)  # sequences of a process in an iteration

    def fill(first_row: int, arrays: Arrays, threads: int | None) -> None:
        tokens = arrays["tokens"]
        row = 0
        while row < len(tokens):
            iteration, first = divmod(first_row + row, batch_size)
            end = min(batch_size, first + len(tokens) - row)
            processes = range(first // share, -(-end // share))  # only parts of the first and last share may be wanted
            out = np.empty((len(processes) * share, length), tokens.dtype)
            draw(process_count, batch_size, length, iteration, workers=processes, out=out, threads=threads)
            skipped = first - processes.start * share
            tokens[row : row + end - first] = out[skipped : skipped + end - first]
            row += end - first

    return Source(_columns(spec), fill)


def _reference_mdp(spec: Spec) -> Source:
    """The authors' trajectories, any of which is made alone."""
    law = _law(spec, "length", "state_count", "action_count", "policy_temperature", "transition_temperature")
    law |= {"trajectory_count": spec["row_count"], "random_start": spec["start"] == "random"}

    def fill(first_row: int, arrays: Arrays, threads: int | None) -> None:
        states, actions = arrays["states"], arrays["actions"]
        some = range(first_row, first_row + len(actions))
        data = reference.mdp_transitions(**law, trajectories=some, threads=threads)
        states[:, :-1] = data["observations"].reshape(actions.shape)
        states[:, -1] = data["next_observations"].reshape(actions.shape)[:, -1]
        actions[:] = data["actions"].reshape(actions.shape)

    return Source(_columns(spec), fill)


SOURCES: dict[str, dict[str, Callable[[Spec], Source]]] = {
    "v1": {"markov": _tokens, "iid": _tokens, "mdp": _mdp, "identity": _mapped, "mapping": _mapped},
    "reference": {"markov": _reference_tokens, "iid": _reference_tokens, "mdp": _reference_mdp},
}
"""stream -> kind -> what makes the source of such a spec; stream v1 also has every law of `trajmill.laws`"""


def _maker(spec: Spec) -> Callable[[Spec], Source]:
    _require_known("stream", spec, SOURCES)
    makers = SOURCES[spec["stream"]] | (dict.fromkeys(laws.names(), _any_law) if spec["stream"] == "v1" else {})
    _require_known("kind", spec, makers)
    return makers[spec["kind"]]


def _require_known(name: str, spec: Spec, known: Collection[str]) -> None:
    if spec.get(name) not in tuple(known):
        raise CorpusError(f"this trajmill makes corpora of {name} {', '.join(known)}, not {spec.get(name)!r}")


def _power_of_two(limit: int) -> int:
    """The largest power of two that is at most `limit`, and at least 1."""
    return 1 << max(0, limit.bit_length() - 1)
