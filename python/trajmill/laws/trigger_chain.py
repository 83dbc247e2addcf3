"""Chains with triggers: what an induction head is for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any, ClassVar, Self

import numpy as np

from trajmill.core import checks
from trajmill.core.alias import alias_cells
from trajmill.core.chances import divided, irreducible, stationary, tuples
from trajmill.core.law import Array, Domain, Floats, Law

MOST_STATES, MOST_TRIGGERS = 256, 64
MOST_PREDICTED = 1024
"""states x triggers whose posterior is computed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerChain(Law):
    """A fixed chain of order 1 in which every sequence has triggers, and after each of them always the same token.

    For each sequence, `triggers` different states are drawn one after another from the stationary law of the chain,
    each time in proportion to it among those that are left, and for each of them an output, uniform among all states;
    two may be alike, and an output may be a trigger. The first token is drawn from the stationary law; the token
    after a trigger is its output, and that after another state is drawn by its row. A model of the rows alone
    predicts all but what follows triggers, which only the sequence itself tells: ``loss_mask`` is 1 on tokens after a
    trigger that has come before, so from its second time on. Source: arXiv 2306.00802.
    """

    kernel_columns: ClassVar[tuple[str, ...]] = ("loss_mask",)

    probabilities: tuple[tuple[float, ...], ...]
    """rows of the chain (S, S), of 1 to 256 states, each of which leads to every other; a row must sum to 1, and is
    divided by its sum, exactly rounded"""
    triggers: int = 5
    """triggers of a sequence, 1 to 64 and at most S"""

    def check(self) -> None:
        """See `Law.check`."""
        checks.distributions("probabilities", self.probabilities, (None, None))
        chain = checks.floats("probabilities", self.probabilities, np.float64) + 0.0  # minus zero as zero
        states = len(chain)
        if chain.shape[1] != states or states > MOST_STATES:
            raise ValueError(f"probabilities must be of (S, S), with S 1 to {MOST_STATES}, got {chain.shape}")
        if not irreducible(chain):
            raise ValueError("probabilities must lead from every state to every other, or no stationary law is the one")
        self._set(
            probabilities=tuples(chain),
            triggers=checks.integer("triggers", self.triggers, 1, min(states, MOST_TRIGGERS)),
        )
        rarest = self.stationary().min()
        if not rarest >= 2**-31:
            raise ValueError(f"probabilities must leave every state a stationary chance of 2**-31, got {rarest}")

    @classmethod
    def from_probabilities(cls, probabilities: Sequence[Sequence[float]] | Array, **settings: Any) -> Self:
        """The law with the rows (S, S) of a chain, in any form that NumPy takes."""
        return cls(probabilities=probabilities, **settings)  # type: ignore[arg-type]

    @classmethod
    def from_text(cls, text: str, **settings: Any) -> Self:
        """The law with the pairs of characters of a text, whose last one is followed by its first.

        Token i is the i-th character of the text in the order of their code points.
        """
        checks.instance("text", text, str, "a text")
        characters = sorted(set(text))
        if not 1 <= len(characters) <= MOST_STATES:
            raise ValueError(f"text must have 1 to {MOST_STATES} different characters, got {len(characters)}")
        number = {character: i for i, character in enumerate(characters)}
        states = np.array([number[character] for character in text])
        counts = np.zeros((len(characters), len(characters)))
        np.add.at(counts, (states, np.roll(states, -1)), 1)
        return cls(probabilities=tuples(divided(counts)), **settings)

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return len(self.probabilities)

    def _chain(self) -> Floats:
        """The rows."""
        return divided(np.array(self.probabilities))

    def stationary(self) -> Floats:
        """The law (S,) that the chain leaves unchanged: of first tokens and of triggers."""
        return stationary(self._chain())

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        first, chain = self.stationary(), self._chain()
        parts = [Fraction(chance) for chance in first.tolist()]
        sums = list(accumulate(parts))
        ends = [int(2**32 * part / sums[-1]) for part in sums[:-1]]
        cells = alias_cells(np.vstack([first, chain])).ravel()
        numbers = [self.key(Domain.TOKENS), self.key(Domain.BURSTS), self.vocabulary_size, self.triggers]
        return numbers, [cells, np.array([*ends, 0], np.uint32)]

    # --- what the best predictor would say ----------------------------------------------------------------------------

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`: by the exact posterior of what is a trigger, up to 10^-9.

        NotImplementedError for more than 1,024 states x triggers. NaN follows what cannot come.
        """
        states, (count, length) = self.vocabulary_size, tokens.shape
        if states * self.triggers > MOST_PREDICTED:
            raise NotImplementedError(f"the posterior of {self.triggers} triggers among {states} states takes too long")
        first, chain = self.stationary(), self._chain()
        rows = np.arange(count)
        log_odds = np.zeros((count, states))  # of what followed each state, if it is a trigger against if it is none
        followed = np.full((count, states), -1)  # by what, first
        for t in range(length):
            if t == 0:
                yield np.broadcast_to(first, (count, states))
                continue
            state, token = tokens[:, t - 1].astype(np.int64), tokens[:, t].astype(np.int64)
            known = followed[rows, state]
            output = np.where(known[:, None] < 0, 1 / states, known[:, None] == np.arange(states))
            chance = self._chance_of_trigger(first, log_odds, state)[:, None]
            yield chance * output + (1 - chance) * chain[state]
            with np.errstate(divide="ignore", invalid="ignore"):
                log_odds[rows, state] += np.log(output[rows, token]) - np.log(chain[state, token])
            followed[rows, state] = np.where(known < 0, token, known)

    def _chance_of_trigger(self, first: Floats, log_odds: Floats, state: Array) -> Floats:
        """The chance (n,) that `state` is a trigger, given the odds (n, S) of what each state's tokens say.

        States drawn one after another without replacement are those that come first, if state i comes at an exponential
        time of rate first[i]. Given the time at which the last of `triggers` comes, states are independent: so, for
        each time, a polynomial whose coefficient j is the weight of j states that have come, and one where one
        of them comes just then. The integral over the time is a sum over nodes (double exponential).
        """
        w = np.arange(-4.0, math.log(40 / first.min()), 1 / 3)
        time = np.exp(w - np.exp(-w))[None, :, None]
        weight = time[0, :, 0] * (1 + np.exp(-w))
        yes, no = np.exp(np.minimum(log_odds, 0)), np.exp(-np.maximum(log_odds, 0))
        before = np.zeros((len(log_odds), len(w), self.triggers))  # coefficients 0 to triggers - 1
        before[:, :, 0] = 1
        now = np.zeros_like(before)  # coefficients 1 to triggers

        def factors(i: Any, rate: Any) -> tuple[Any, Any, Any]:
            waits = np.exp(-rate * time)
            return (
                no[i][:, None, None] * waits,
                yes[i][:, None, None] * (1 - waits),
                yes[i][:, None, None] * rate * waits,
            )

        for i, rate in enumerate(first):
            other = (state != i)[:, None, None]
            waits, came, comes = factors((slice(None), i), rate)
            waits, came, comes = np.where(other, waits, 1), came * other, comes * other
            now, moved = now * waits + before * comes, now
            now[:, :, 1:] += moved[:, :, :-1] * came
            before, moved = before * waits, before
            before[:, :, 1:] += moved[:, :, :-1] * came
        waits, came, comes = factors((np.arange(len(state)), state), first[state][:, None, None])
        trigger = before[:, :, -1] * comes[:, :, 0]
        if self.triggers > 1:
            trigger += now[:, :, -2] * came[:, :, 0]
        other = now[:, :, -1] * waits[:, :, 0]
        with np.errstate(invalid="ignore"):
            chance: Floats = trigger @ weight / ((trigger + other) @ weight)
        return chance

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        skewed = 2.0 ** -np.array([1, 2, 3, 4, 5, 6, 7, 7])
        return [
            cls.from_text("abracadabra", triggers=2),
            cls.from_probabilities([[0.9, 0.1], [0.5, 0.5]], triggers=1, seed=7),
            cls.from_probabilities(np.add.outer(np.arange(9), np.arange(9)) % 9 / 36, triggers=3),
            cls.from_probabilities([[0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]], triggers=3),
            cls.from_probabilities([[1]], triggers=1),
            cls.from_probabilities(np.broadcast_to(skewed, (8, 8)), triggers=8),
        ]
