"""What there is to see of a law: rows, exact quantities, and how fast it is drawn."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.core import MDP, MarkovChain, checks
from trajmill.core.entropy import entropy_rate, stationary
from trajmill.core.law import Arrays, Law, RowLaw

FIRST_TOKENS, TIMED_TOKENS = 2**10, 2**22
"""tokens drawn at a time for the rate: from the first number on, up to the second"""
LEAST_SECONDS = 0.2
"""processor time for which they are drawn"""
MOST_CONTEXTS = 512
"""contexts of a chain, or states of an MDP, up to which its entropy rate is computed: the time grows as their cube"""
MOST_CHANCES = 2**22
"""chances of an MDP's transitions up to which its entropy rates are computed"""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What `look` has found."""

    law: RowLaw
    length: int
    first_sequence: int
    rows: list[dict[str, list[int]]]
    """every column of a row, those that say nothing left out"""
    exact: dict[str, float]
    """nats a token: of the best predictor over rows of this length, and in the limit"""

    def data(self) -> dict[str, Any]:
        """All of it, for machines; of a `Law`."""
        assert isinstance(self.law, Law)
        return {
            "kind": self.law.kind(),
            "law": self.law.spec(),
            "length": self.length,
            "vocabulary_size": self.law.vocabulary_size,
            "prefix_stable": self.law.prefix_stable,
            "columns": ["tokens", *self.law.extra_columns],
            "exact": self.exact,
            "first_sequence": self.first_sequence,
            "rows": self.rows,
        }


def look(law: RowLaw, length: int, *, rows: int = 2, first_sequence: int = 0) -> Seen:
    """Draw `rows` rows of `length` tokens, and ask for what is exact."""
    checks.integer("length", length, 1, 2**32)
    drawn = draw(law, length, checks.integer("rows", rows, 1, 2**20), first_sequence)
    own = {column.name for column in law.columns(length)}
    telling = [name for name, values in drawn.items() if name in own or len(np.unique(values)) > 1]
    return Seen(
        law=law,
        length=length,
        first_sequence=first_sequence,
        rows=[{name: drawn[name][number].tolist() for name in telling} for number in range(rows)],
        exact={name: value for name, value in _exact(law, length).items() if value is not None},
    )


def draw(law: RowLaw, length: int, rows: int, first_sequence: int = 0) -> dict[str, NDArray[Any]]:
    """Every column that the law has, (rows, row_length), of the sequences from `first_sequence` on."""
    checks.integer("first_sequence", first_sequence, 0, 2**64 - 1)
    columns = law.columns(length, law.extra_columns if isinstance(law, Law) else ())
    drawn = {column.name: np.empty((rows, column.row_length), column.dtype) for column in columns}
    law.fill(first_sequence, drawn)
    return drawn


def tokens_per_second(law: RowLaw, length: int) -> float:
    """Tokens, or states and actions, a second of processor time of one thread, in arrays that are written again."""
    columns = law.columns(length)
    row_length = sum(column.row_length for column in columns)
    rows, spent = max(1, FIRST_TOKENS // row_length), 0.0
    out: Arrays = {}
    while not out or (
        spent < LEAST_SECONDS / 8 and rows * row_length < TIMED_TOKENS
    ):  # slow laws are timed over few tokens
        rows *= 4
        out = {column.name: np.empty((rows, column.row_length), column.dtype) for column in columns}
        started = time.process_time()
        law.fill(0, out, 1)
        spent = time.process_time() - started
    started, made = time.process_time(), 0
    while (spent := time.process_time() - started) < LEAST_SECONDS:
        law.fill(made, out, 1)
        made += rows
    return made * row_length / spent


def predictions(
    law: RowLaw, drawn: dict[str, NDArray[Any]], *, task: bool = False
) -> Iterator[tuple[str, int, Floats]]:
    """The exact law of every number of `drawn` before it is seen: its column, its place, and chances (rows, values).

    With `task` the predictor knows that column. NotImplementedError where there is no exact law, with the reason.
    """
    if isinstance(law, Law):
        known = drawn["task"][:, 0] if task else None
        for t, chances in enumerate(law.predictions(drawn["tokens"], known)):
            yield "tokens", t, chances
    elif isinstance(law, MarkovChain):
        tokens, row = drawn["tokens"], cache(lambda *context: law.probabilities(context))
        for t in range(tokens.shape[1]):
            contexts = tokens[:, max(0, t - law.order) : t].tolist()
            yield "tokens", t, np.stack([row(*context) for context in contexts])
    elif isinstance(law, MDP):
        both = zip(drawn["states"].T.tolist(), drawn["actions"].T.tolist(), strict=False)
        for t, (states, actions) in enumerate(both):
            yield "actions", t, np.stack([law.policy_probabilities(state) for state in states])
            pairs = zip(states, actions, strict=True)
            yield "states", t + 1, np.stack([law.transition_probabilities(*pair) for pair in pairs])


def _exact(law: RowLaw, length: int) -> dict[str, float | None]:
    """Nats a token, by what they are a mean over."""
    if isinstance(law, Law):
        return {"over rows of this length": law.expected_loss(length), "in long rows": law.entropy_rate()}
    if isinstance(law, MarkovChain):
        return {"in long rows": _chain_entropy_rate(law)}
    if isinstance(law, MDP):
        return _mdp_entropy_rates(law)
    return {}


def _chain_entropy_rate(chain: MarkovChain) -> float | None:
    """That of the chain of contexts, which moves as the tokens do; None if they are too many."""
    count, order = chain.state_count, chain.order
    if count**order > MOST_CONTEXTS or count > MOST_CONTEXTS:
        return None
    rows = np.zeros((count**order, count**order))
    for place, context in enumerate(itertools.product(range(count), repeat=order)):
        first = place % count ** max(order - 1, 0) * count  # the oldest state is left out, and a new one joins
        chances = chain.probabilities(context)
        if order == 0:
            return float(_entropy(chances))
        rows[place, first : first + count] = chances
    return entropy_rate(rows)


def _mdp_entropy_rates(mdp: MDP) -> dict[str, float | None]:
    states, actions = mdp.state_count, mdp.action_count
    if states > MOST_CONTEXTS or states**2 * actions > MOST_CHANCES:
        return {}
    policy = np.stack([mdp.policy_probabilities(s) for s in range(states)])
    moves = np.stack([[mdp.transition_probabilities(s, a) for a in range(actions)] for s in range(states)])
    visits = stationary(np.einsum("sa,sat->st", policy, moves))
    if visits is None:
        return {}
    return {
        "an action, in long rows": float(visits @ _entropy(policy)),
        "a next state, in long rows": float(visits @ (policy * _entropy(moves)).sum(1)),
    }


def _entropy(chances: Floats) -> Floats:
    """Entropy in nats of laws along the last axis."""
    logs = np.log(chances, out=np.zeros_like(chances), where=chances > 0)
    entropies: Floats = -(chances * logs).sum(-1)
    return entropies
