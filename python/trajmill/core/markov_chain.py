"""Markov chains over discrete states, of order 0 to 32, sampled by compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from trajmill import _core
from trajmill.core import checks
from trajmill.core.column import Column
from trajmill.core.law import Arrays, no_extra
from trajmill.core.sampler import ExplicitStream, Sampler, explicit_seed


class MarkovChain(Sampler):
    """A random chain: the next state follows a softmax row that belongs to the last `order` states.

    Each context has logits ``u ~ Uniform(0, 1)``, fixed by the seed, and probabilities ``softmax(u / temperature)``.
    At the start of a sequence the context is the states so far, so a chain of order n also holds the rows of orders
    0 to n - 1. Source: arXiv 2310.00771, section 3; deviations: counter-based streams (docs/streams.md).

    States are the integers 0 to `state_count` - 1. `order` is 0 to 32; 0 draws independent tokens. `temperature` is
    > 0; inf makes every row uniform. `seed`, of 64 bits, fixes every token together with the other parameters.
    `initial` is the law of the first state: ``"softmax"`` (the row of the empty context) or ``"uniform"``. `threads`
    build tables; default every core.

    The `backend` ``"dense"`` draws from alias tables, ``"implicit"`` by rejection from hashed logits, without any
    table; both draw from the same law, but not the same tokens. ``"auto"`` is the faster of the two for this law, on
    every machine alike.

    TypeError or ValueError for a value of the wrong type or out of range, or tables too large for half of the memory.
    """

    _SETTINGS = "state_count order temperature seed initial backend"
    _core: _core.MarkovChain
    _row: Callable[[list[int]], NDArray[np.float64]]

    def __init__(
        self,
        *,
        state_count: int,
        order: int = 1,
        temperature: float = 1.0,
        seed: int = 42,
        initial: Literal["softmax", "uniform"] = "softmax",
        backend: Literal["auto", "dense", "implicit"] = "auto",
        threads: int | None = None,
    ) -> None:
        self.state_count = checks.state_count("state_count", state_count)
        self.order = checks.integer("order", order, 0, 32)
        self.temperature: float | None = checks.temperature("temperature", temperature)
        self.seed = checks.seed(seed)
        self.initial = checks.choice("initial", initial, ("softmax", "uniform"))
        law = _core.ChainLaw(
            state_count=self.state_count,
            order=self.order,
            temperature=self.temperature,
            uniform_initial=self.initial == "uniform",
            seed=self.seed,
        )
        self._row = law.probabilities
        self._core = _core.MarkovChain(
            law,
            backend=checks.choice("backend", backend, ("auto", "dense", "implicit")),
            memory_limit=checks.memory_limit(),
            threads=checks.thread_count(threads),
        )

    @classmethod
    def from_probabilities(
        cls, transition: ArrayLike, *, initial: ArrayLike | None = None, seed: int = 42, stream: ExplicitStream = "v2"
    ) -> MarkovChain:
        """An explicit chain of order 1.

        `transition` has rows ``P[s, s'] >= 0`` (S, S) that sum to 1, dense or a scipy.sparse matrix, which is made
        dense; `initial` is the law (S,) of the first state, uniform by default. The draws depend on the seed and on all
        probabilities; with `stream` ``"v1"``, that of version 0.1, on the seed and S alone.
        """
        rows = checks.distributions("transition", transition, (None, None))
        if rows.shape[0] != rows.shape[1]:
            raise ValueError(f"transition must be square, got shape {rows.shape}")
        states = rows.shape[0]
        first = checks.distributions("initial", np.full(states, 1 / states) if initial is None else initial, (states,))
        chain = cls.__new__(cls)
        chain.state_count, chain.order, chain.temperature = states, 1, None
        chain.seed, chain.initial = checks.seed(seed), "explicit"
        chain._row = lambda context: (rows[context[0]] if context else first).copy()
        chain._core = _core.MarkovChain.from_probabilities(
            initial=first,
            transition=rows,
            seed=explicit_seed(chain.seed, stream, first, rows),
            memory_limit=checks.memory_limit(),
            threads=1,
        )
        chain._explicit = partial(cls.from_probabilities, rows, initial=first, seed=chain.seed, stream=stream)
        return chain

    def sample(
        self,
        sequence_count: int,
        length: int,
        *,
        first_sequence: int = 0,
        out: NDArray[Any] | None = None,
        dtype: DTypeLike | None = None,
        threads: int | None = None,
    ) -> NDArray[Any]:
        """Sequences `first_sequence` to `first_sequence` + `sequence_count` - 1, (sequence_count, length).

        The array is `out` if given, else of `dtype`, or of the smallest unsigned dtype that fits. Token t of sequence i
        depends on the chain, its backend, i and t alone: not on the call, the threads or the machine. A reused `out` is
        fastest, since fresh memory has to be paged in. After Ctrl-C the content of `out` is undefined.
        """
        count = checks.integer("sequence_count", sequence_count, 0, 2**63 - 1)
        steps = checks.integer("length", length, 0, 2**32)
        first = checks.integer("first_sequence", first_sequence, 0, 2**64 - 1)
        tokens = checks.output("out", out, (count, steps), dtype, self.state_count)
        self._core.sample(first_sequence=first, out=tokens, threads=checks.thread_count(threads))
        return tokens

    def sample_sequences(
        self,
        indexes: Sequence[int] | NDArray[Any],
        length: int,
        *,
        out: NDArray[Any] | None = None,
        dtype: DTypeLike | None = None,
        threads: int | None = None,
    ) -> NDArray[Any]:
        """The sequences of the given numbers (n,), in that order: row k is sequence ``indexes[k]`` of `sample`."""
        numbers = checks.indexes("indexes", indexes)
        steps = checks.integer("length", length, 0, 2**32)
        tokens = checks.output("out", out, (len(numbers), steps), dtype, self.state_count)
        self._core.sample_sequences(indexes=numbers, out=tokens, threads=checks.thread_count(threads))
        return tokens

    @property
    def vocabulary_size(self) -> int:
        """The states are the tokens."""
        return self.state_count

    def columns(self, length: int, extra: Sequence[str] = ()) -> tuple[Column, ...]:
        """See `RowLaw`: ``tokens`` alone."""
        no_extra(self, extra)
        return (Column(name="tokens", dtype=checks.smallest_dtype(self.state_count).name, row_length=length),)

    def fill(self, first_sequence: int, arrays: Arrays, threads: int | None = None) -> None:
        """See `RowLaw`."""
        tokens = arrays["tokens"]
        self.sample(*tokens.shape, first_sequence=first_sequence, out=tokens, threads=threads)

    def pick(self, indexes: Sequence[int] | NDArray[Any], arrays: Arrays, threads: int | None = None) -> None:
        """See `RowLaw`."""
        self.sample_sequences(indexes, arrays["tokens"].shape[1], out=arrays["tokens"], threads=threads)

    def probabilities(self, context: Sequence[int] = ()) -> NDArray[np.float64]:
        """The exact law of what follows `context` (oldest state first, at most `order` states), float64 (S,).

        The dense backend rounds it to multiples of ``1 / (S * 2**24)`` (S <= 256) or ``1 / (S * 2**32)``; the implicit
        one draws from it up to the rounding of a double (docs/streams.md).
        """
        checks.require_memory("a row", 8 * self.state_count, "there are too many states")
        return self._row(checks.context(context, self.order, self.state_count))
