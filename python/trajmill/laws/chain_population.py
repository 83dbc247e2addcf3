"""Populations of Markov chains, for learning in context."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from trajmill.core import checks
from trajmill.core.law import Array, Arrays, Domain, Floats, Law

BACKENDS = ("table", "implicit", "urn")
INITIAL_LAWS = ("row", "uniform", "stationary")
MADE_STATES, MADE_CONTEXTS, AUTO_CONTEXTS = 16, 4096, 17
"""of tables that are made for each sequence: at most, and what ``auto`` makes"""
AUTO_BYTES = 2**23
"""of a pool's table that ``auto`` makes of softmax rows"""
LONGEST_LAG, LONGEST_TREE, MOST_CELLS = 2**16, 2**20, 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPopulation(Law):
    """Sequences of Markov chains that are themselves drawn at random: one for each sequence, or for several.

    Task z, a chain, has a row for every context: the law of the next token after the last `order` ones, after those
    `lags` back, or after its parent. While there are fewer tokens the context is those that are there, with a row of
    its own. The column ``task`` is z - `first_task`, of which it holds the low 32 bits. Sources: arXiv 2402.11004,
    2402.04161, 2402.14735, 2412.01003.

    The `backend` ``"table"`` draws by tables, those of a pool or one made for each sequence of at most 16 states;
    ``"implicit"`` draws from softmax rows by proposals against hashed logits; ``"urn"`` draws from Dirichlet rows by
    urns and needs no rows. Table and implicit are the same chains, and draw other tokens. ``"auto"`` becomes the
    fastest of them for this law: a table where it needs at most 17 contexts, or 8 MiB of a pool's softmax rows.
    """

    extra_columns: ClassVar[tuple[str, ...]] = ("loss_mask", "task")
    kernel_columns: ClassVar[tuple[str, ...]] = ("task",)
    presets: ClassVar[tuple[str, ...]] = ("edelman2024", "makkuva2024", "nichani2024", "park2024")

    state_count: int = 10
    """states S, which are the tokens, 1 to 2**32 - 1"""
    order: int | None = None
    """last tokens that the next depends on, 0 to 32; 1 unless lags or parents are given. Contexts number below 2**32"""
    lags: tuple[int, ...] | None = None
    """how far back the tokens are that the next depends on, increasing, 1 to 65,536; order n is 1 to n"""
    parents: tuple[int, ...] | None = None
    """for each token of a row the one that it depends on, which precedes it, or -1; at most 2**20"""
    rows: str = "softmax"
    """laws of rows: ``"softmax"`` of uniform logits, or ``"dirichlet"``"""
    temperature: float | None = None
    """divisor of the logits of softmax rows, (0, inf]; 1 by default, where knowing a chain is worth 0.041 nats a token
    (many states), almost nothing to learn in context; 0.479 at 1/4. For that take 1/4 or less, or Dirichlet rows"""
    alpha: float | None = None
    """each of the S parameters of Dirichlet rows, 2**-16 / S to inf; 1 by default"""
    sequences_per_task: int = 1
    """sequences in a row that share a chain, 1 to 2**32"""
    task_count: int | None = None
    """chains of a pool from which each sequence draws its own, 1 to 2**32 - 1; None: no pool"""
    first_task: int = 0
    """number of the first chain, 0 to 2**64 - 1: other numbers are other chains"""
    initial: str = "row"
    """row of the empty context: ``"row"``, as the others; ``"uniform"``; ``"stationary"``, what the chain's rows
    leave unchanged (by tables of at most 16 states, where contexts are one token)"""
    backend: str = "auto"
    """``"auto"``, which becomes one of the others: ``"table"``, ``"implicit"``, ``"urn"``"""

    # --- fields -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See `Law.check`."""
        rows = checks.choice("rows", self.rows, ("softmax", "dirichlet"))
        states = checks.state_count("state_count", self.state_count)
        self._set(
            state_count=states,
            rows=rows,
            temperature=_own("temperature", self.temperature, "(0, inf]", rows == "softmax"),
            alpha=_own("alpha", self.alpha, f"[{2.0**-16 / states}, inf]", rows == "dirichlet"),
            sequences_per_task=checks.integer("sequences_per_task", self.sequences_per_task, 1, 2**32),
            first_task=checks.integer("first_task", self.first_task, 0, 2**64 - 1),
            initial=checks.choice("initial", self.initial, INITIAL_LAWS),
            backend=checks.choice("backend", self.backend, ("auto", *BACKENDS)),
        )
        self._check_past()
        if self.task_count is not None:
            self._set(task_count=checks.integer("task_count", self.task_count, 1, 2**32 - 1))
            if self.sequences_per_task != 1:
                raise ValueError("sequences of a pool draw their chains; leave sequences_per_task at 1")
            if self.first_task + self.task_count > 2**64:
                raise ValueError(f"first_task + task_count must be at most 2**64, got first_task = {self.first_task}")
        if self.backend == "auto":
            self._set(backend=self._fastest())
        self._check_backend()

    def _check_past(self) -> None:
        given = [name for name in ("order", "lags", "parents") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a context is fixed by one of order, lags and parents, got {' and '.join(given)}")
        if not given:
            self._set(order=1)
        if self.order is not None:
            self._set(order=checks.integer("order", self.order, 0, 32))
        if self.lags is not None:
            lags = tuple(checks.integer("a lag", lag, 1, LONGEST_LAG) for lag in self.lags)
            if list(lags) != sorted(set(lags)) or not lags:
                raise ValueError(f"lags must increase and not be empty, got {lags}; order=0 forgets everything")
            self._set(lags=lags)
        if self.parents is not None:
            parents = tuple(
                checks.integer(f"the parent of token {t}", parent, -1, t - 1) for t, parent in enumerate(self.parents)
            )
            if not 1 <= len(parents) <= LONGEST_TREE:
                raise ValueError(f"parents must be 1 to {LONGEST_TREE} numbers, got {len(parents)}")
            self._set(parents=parents)
        if self._context_count >= 2**32:
            raise ValueError(f"there must be fewer than 2**32 contexts, got {self._context_count}")

    def _fastest(self) -> str:
        """What ``auto`` becomes."""
        if self.task_count is not None:
            words = self.task_count * self._context_count * self.state_count * (1 if self.state_count <= 256 else 2)
            return "table" if self.rows == "dirichlet" or 4 * words <= AUTO_BYTES else "implicit"
        small = self.state_count <= MADE_STATES and self._context_count <= AUTO_CONTEXTS
        if self.initial == "stationary" or (small and self.alpha in (None, 1.0, math.inf)):
            return "table"
        return "implicit" if self.rows == "softmax" else "urn"

    def _check_backend(self) -> None:
        suits = {"implicit": self.rows == "softmax", "urn": self.rows == "dirichlet", "table": True}
        if not suits[self.backend]:
            raise ValueError(f"backend {self.backend!r} has no {self.rows} rows")
        if self.initial == "stationary":
            if self.backend != "table" or self.state_count > MADE_STATES:
                raise ValueError(f"a stationary start needs backend='table' and at most {MADE_STATES} states")
            if self._digits != 1:
                raise ValueError("a stationary start needs contexts of one token: order=1, one lag, or parents")
        if self.backend == "urn" and self.task_count is not None:
            raise ValueError("an urn cannot have a pool: a sequence would need the other ones' tokens; use 'table'")
        if self.backend == "table" and self.task_count is None:
            if self.state_count > MADE_STATES or self._context_count > MADE_CONTEXTS:
                got = f"got {self.state_count} and {self._context_count}"
                limits = f"at most {MADE_STATES} states and {MADE_CONTEXTS} contexts"
                raise ValueError(f"tables are made for {limits}, {got}; use 'implicit' or 'urn'")
        elif self.backend == "table":
            cells = (self.task_count or 0) * self._context_count * self.state_count
            if cells > MOST_CELLS:
                raise ValueError(f"the tables of a pool may have {MOST_CELLS} cells, got {cells}; use fewer tasks")
            checks.require_memory("the tables of a pool", 48 * cells, "use fewer tasks or states")

    @property
    def _digits(self) -> int:
        """Tokens that make up a context."""
        return 1 if self.parents is not None else len(self._lags)

    @property
    def _lags(self) -> tuple[int, ...]:
        return tuple(range(1, (self.order or 0) + 1)) if self.lags is None else self.lags

    @property
    def _context_count(self) -> int:
        return sum(self.state_count**k for k in range(self._digits + 1))

    @property
    def _is_uniform(self) -> bool:
        """Whether all tokens are uniform."""
        only_start = self._is_alone and self.initial == "uniform"
        even = math.inf in (self.temperature, self.alpha) or (self.backend == "urn" and self._urn_weight == 0)
        return self.state_count == 1 or even or only_start

    @property
    def _is_alone(self) -> bool:
        """Whether one row is all there is: that of the empty context."""
        return self._digits == 0 if self.parents is None else max(self.parents) < 0 and self.initial != "stationary"

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return self.state_count

    @property
    def fixed_length(self) -> int | None:
        """See `Law.fixed_length`."""
        return None if self.parents is None else len(self.parents)

    def check_length(self, length: int) -> None:
        """See `Law.check_length`."""
        Law.check_length(self, length)
        if self.backend == "urn" and length * self.sequences_per_task > 2**32:
            most = 2**32 // self.sequences_per_task
            raise ValueError(f"length must be at most {most}, 2**32 / sequences_per_task, got {length}")

    # --- the kernel ---------------------------------------------------------------------------------------------------

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        past = self._lags if self.parents is None else [parent + 1 for parent in self.parents]
        table, parameter = np.zeros(0, np.uint32), 0.0
        if self.backend == "implicit":
            parameter = self._temperature
            table = _decisions(parameter, self.state_count)
        elif self.backend == "table" and self.task_count is not None:
            table = self._cells()
        elif self.backend == "table" and self.rows == "softmax":
            table = _factors(self._temperature)
        elif self.backend == "table":
            parameter = self._alpha
        bits = int(np.float64(parameter).view(np.uint64))
        return [
            BACKENDS.index(self.backend),
            self.state_count,
            INITIAL_LAWS.index(self.initial),
            self.parents is not None,
            self.sequences_per_task,
            self.task_count or 0,
            self.first_task,
            self.key(Domain.TASKS),
            self.key(Domain.PROPOSALS if self.backend == "implicit" else Domain.TOKENS),
            self.task_key(Domain.URN if self.backend == "urn" else Domain.ROWS),
            self.task_key(Domain.GAMMA),
            self._urn_weight if self.backend == "urn" else bits,
        ], [np.array(past, np.uint32), table]

    @property
    def _temperature(self) -> float:
        return 1.0 if self.temperature is None else self.temperature

    @property
    def _alpha(self) -> float:
        return 1.0 if self.alpha is None else self.alpha

    @property
    def _urn_weight(self) -> int:
        """Of a fresh state, 2**16 being that of an earlier visit; 0 for infinity."""
        weight = self._alpha * self.state_count * 2.0**16
        return max(1, round(weight)) if weight < 2.0**62 else 0

    @property
    def _drawn_alpha(self) -> float:
        """The alpha of what is drawn: an urn rounds S alpha to a multiple of 2**-16."""
        return self._urn_weight / (self.state_count * 2.0**16) if self.backend == "urn" else self._alpha

    def fill(self, first_sequence: int, arrays: Arrays, threads: int | None = None) -> None:
        """See `Law.fill`; ValueError if there are not so many tasks."""
        self._check_task(first_sequence + max(0, len(arrays["tokens"]) - 1))
        Law.fill(self, first_sequence, arrays, threads)

    def pick(self, indexes: Sequence[int] | Array, arrays: Arrays, threads: int | None = None) -> None:
        """See `Law.pick`; ValueError if there are not so many tasks."""
        self._check_task(max(map(int, indexes), default=0))
        Law.pick(self, indexes, arrays, threads)

    def _check_task(self, sequence: int) -> None:
        if self.task_count is None and self.first_task + sequence // self.sequences_per_task >= 2**64:
            raise ValueError(f"tasks must stay below 2**64: sequence {sequence} from first_task = {self.first_task}")

    # --- the chains themselves ----------------------------------------------------------------------------------------

    def probabilities(self, task: int, context: Sequence[int] = ()) -> Floats:
        """The law (S,) of the next token in chain `first_task` + `task` after the tokens that make up a context.

        Oldest first, as they are or as many as there are at the start of a row. ValueError for an urn, which has no
        rows.
        """
        states = checks.context(context, self._digits, self.state_count)
        checks.require_memory("a row", 8 * self.state_count, "there are too many states")
        number = 0
        for state in states:
            number = number * self.state_count + state + 1
        try:
            law: Floats = self._chances(np.array([task]), np.array([number]))[0]
        except NotImplementedError as reason:
            raise ValueError(str(reason)) from None
        return law

    def _chances(self, task: Array, context: Array) -> Floats:
        """The laws (n, S) of the rows `context` (n,) of the chains first_task + `task` (n,), as they are drawn from."""
        if self.backend == "urn":
            raise NotImplementedError("an urn has no rows: the same chains have none with backend='urn'")
        chances = self._weights(task, context)
        if self.initial == "stationary":
            start = np.flatnonzero(context == 0)
            chances[start] = self._stationary(task[start])
        if self.initial == "uniform":
            chances[context == 0] = 1.0
        sums = np.cumsum(chances, axis=1)  # in order, as in the kernel
        if self.backend == "implicit":
            return chances / sums[:, -1:]
        if self.task_count is not None:
            return self._integers(chances / sums[:, -1:]) / float(self._capacity * self.state_count)
        bounds = np.floor(sums * (2.0**32 / sums[:, -1:]))
        bounds[:, -1] = 2.0**32
        return np.diff(np.where(bounds >= 2.0**32 - 1, 2.0**32, bounds), axis=1, prepend=0.0) / 2.0**32

    def _weights(self, task: Array, context: Array) -> Floats:
        """What the chances of rows are in proportion to, (n, S)."""
        number = (self.first_task + task.astype(np.uint64)).astype(np.uint64)
        if self._is_uniform:
            return np.ones((len(number), self.state_count))
        if self.rows == "dirichlet" and self.alpha != 1.0:
            logs = self._log_gammas(number, context)
            return _exp(logs - logs.max(1, keepdims=True))
        blocks = np.arange((self.state_count + 3) // 4, dtype=np.uint64)
        words = np.stack(_philox(self.task_key(Domain.ROWS), blocks, context[:, None], number[:, None]), axis=-1)
        words = words.reshape(len(number), 4 * len(blocks))[:, : self.state_count]
        if self.rows == "dirichlet":
            return -_log(_unit(words))
        logits = (words >> np.uint64(8)).astype(np.int64)
        below = logits.max(1, keepdims=True) - logits
        if self.backend == "table" and self.task_count is None:
            factors = _factors(self._temperature).astype(np.float64)
            return np.asarray(factors[below >> 12] * factors[4096 + (below & 4095)])
        # in the order of softmax_row.cpp
        return _exp(((logits + 0.5) * 2.0**-24 - (logits.max(1, keepdims=True) + 0.5) * 2.0**-24) / self._temperature)

    def _log_gammas(self, task: Array, context: Array) -> Floats:
        """Logarithms of gamma variates (n, S), by Marsaglia and Tsang (2000) in the kernel's order."""
        states, alpha = self.state_count, self._alpha
        logs = np.zeros((len(task), states))
        if alpha > 2.0**1000:  # as good as infinity
            return logs
        key = self.task_key(Domain.GAMMA)
        d = (alpha + 1.0 if alpha < 1.0 else alpha) - 1.0 / 3
        c = 1.0 / math.sqrt(9.0 * d)
        row, column = (index.ravel() for index in np.indices(logs.shape))
        counter = column.copy()
        while len(row):
            words = _philox(key, counter, context[row], task[row])
            x, y, uniform, boost = (_unit(word) for word in words)
            x, y = 2.0 * x - 1.0, 2.0 * y - 1.0
            radius = x * x + y * y
            inside = radius < 1.0
            radius[~inside] = 0.5
            normal = x * np.sqrt(-2.0 * _log(radius) / radius)
            root = 1.0 + c * normal
            inside &= root > 0.0
            root[~inside] = 1.0
            cube = root * root * root
            log_cube = _log(cube)
            inside &= _log(uniform) < 0.5 * normal * normal + d * (1.0 - cube + log_cube)
            found = float(_log(np.array([d]))[0]) + log_cube
            if alpha < 1.0:
                found = found + _log(boost) / alpha
            logs[row[inside], column[inside]] = found[inside]
            row, column, counter = row[~inside], column[~inside], counter[~inside] + states
        return logs

    def _stationary(self, task: Array) -> Floats:
        """The laws (n, S) that chains leave unchanged (Grassmann, Taksar and Heyman 1985), in the kernel's order."""
        states, count = self.state_count, len(task)
        rows = np.stack([self._weights(task, np.full(count, state + 1)) for state in range(states)], axis=1)
        chances = np.maximum(rows / np.cumsum(rows, axis=2)[:, :, -1:], 2.0**-64)
        leaving = np.ones((count, states))
        for n in range(states - 1, 0, -1):
            leaving[:, n] = np.cumsum(chances[:, n, :n], axis=1)[:, -1]
            share = chances[:, n, :n] / leaving[:, n, None]
            chances[:, :n, :n] += chances[:, :n, n, None] * share[:, None]
        law = np.ones((count, states))
        for n in range(1, states):
            law[:, n] = np.cumsum(law[:, :n] * chances[:, :n, n], axis=1)[:, -1] / leaving[:, n]
        return law

    # --- the table of a pool ------------------------------------------------------------------------------------------

    @property
    def _capacity(self) -> int:
        """What a cell of the pool's alias table holds."""
        return 2**24 if self.state_count <= 256 else 2**32

    def _integers(self, chances: Floats) -> Array:
        """The law (n, S) of the cells, integers that sum to S times the capacity; the largest takes up the rounding."""
        total = self._capacity * self.state_count
        integers = np.floor(chances * float(total) + 0.5).astype(np.int64)
        rows = np.arange(len(integers))
        integers[rows, integers.argmax(1)] += total - integers.sum(1)
        return integers

    def _cells(self) -> Array:
        """Alias tables of all rows of the pool (Walker 1977), one word a cell or two (cpp/src/simd/sampling.hpp)."""
        tasks, contexts = np.divmod(np.arange((self.task_count or 0) * self._context_count), self._context_count)
        chances = self._weights(tasks, contexts)
        if self.initial == "stationary":
            chances[contexts == 0] = self._stationary(tasks[contexts == 0])
        elif self.initial == "uniform":
            chances[contexts == 0] = 1.0
        integers = self._integers(chances / np.cumsum(chances, axis=1)[:, -1:])
        threshold, alias = _alias(integers, self._capacity)
        if self.state_count <= 256:
            return (threshold << 8 | alias).astype(np.uint32).ravel()
        return np.stack([threshold, alias], axis=-1).astype(np.uint32).ravel()

    # --- what the best predictor would say ----------------------------------------------------------------------------

    def _contexts(self, tokens: Array) -> Array:
        """The context of each token, (n, T)."""
        digits = tokens.astype(np.int64) + 1
        contexts = np.zeros(digits.shape, np.int64)
        for t in range(digits.shape[1]):
            if self.parents is not None:
                parent = self.parents[t] if t < len(self.parents) else -1
                if parent >= 0:
                    contexts[:, t] = digits[:, parent]
                continue
            for lag in reversed(self._lags):
                if lag <= t:
                    contexts[:, t] = contexts[:, t] * self.state_count + digits[:, t - lag]
        return contexts

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`. NotImplementedError where no law is known, with the reason.

        Without the task: of fresh Dirichlet rows what their counts say, seen in this sequence alone; of a pool, the
        chains weighted by how well each predicted so far. With the task: its row, which an urn does not have.
        """
        if 8 * len(tokens) * self.state_count > checks.memory_limit():
            raise NotImplementedError("the laws of so many tokens do not fit into half of the memory")
        self._check_predictor(task is not None)
        contexts = self._contexts(tokens)
        if task is not None:
            return self._told(contexts, np.asarray(task, np.uint64))
        if self._is_uniform:
            return iter([np.full((len(tokens), self.state_count), 1 / self.state_count)] * tokens.shape[1])
        return self._weighed(tokens, contexts) if self.task_count is not None else self._counted(tokens, contexts)

    def _check_predictor(self, is_told: bool) -> None:
        """NotImplementedError where no law of the next token is known."""
        if is_told and self.backend == "urn":
            raise NotImplementedError("an urn has no rows, so nothing follows from the task")
        if is_told or self._is_uniform or self.task_count is not None:
            return
        if self.rows == "softmax":
            raise NotImplementedError("softmax rows have no conjugate prior: the optimum without the task is open")
        if self.initial == "stationary":
            raise NotImplementedError("a stationary start says something of all rows at once; see add_alpha_losses")

    def _told(self, contexts: Array, task: Array) -> Iterator[Floats]:
        for context in contexts.T:
            rows, places = np.unique(task << np.uint64(32) | context.astype(np.uint64), return_inverse=True)
            yield self._chances(rows >> np.uint64(32), (rows & np.uint64(0xFFFFFFFF)).astype(np.int64))[places]

    def _counted(self, tokens: Array, contexts: Array) -> Iterator[Floats]:
        count, states = len(tokens), self.state_count
        alpha = self._drawn_alpha
        for t in range(tokens.shape[1]):
            row, place = np.nonzero(contexts[:, :t] == contexts[:, t : t + 1])
            seen = np.bincount(row * states + tokens[row, place].astype(np.int64), minlength=count * states)
            law: Floats = seen.reshape(count, states) + np.float64(alpha)
            law /= law.sum(1, keepdims=True)
            if self.initial == "uniform":
                law[contexts[:, t] == 0] = 1 / states
            yield law

    def _weighed(self, tokens: Array, contexts: Array) -> Iterator[Floats]:
        pool, states = self.task_count or 0, self.state_count
        size = pool * self._context_count
        checks.require_memory("all rows of a pool", 64 * size * states, "use fewer tasks or states")
        tasks, numbers = np.divmod(np.arange(size), self._context_count)
        rows = self._chances(tasks, numbers).reshape(pool, self._context_count, states)
        weights = np.zeros((len(tokens), pool))  # logarithms
        for t in range(tokens.shape[1]):
            share = np.exp(weights - weights.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            law = np.zeros((len(tokens), states))
            for z in range(pool):
                law += share[:, z, None] * rows[z, contexts[:, t]]
            yield law
            with np.errstate(divide="ignore"):
                weights += np.log(rows[:, contexts[:, t], tokens[:, t].astype(np.int64)].T)
            weights[np.isneginf(weights).all(1)] = 0.0  # what no chain of the pool does is predicted by anything

    def losses(self, tokens: Array, task: Array | None = None) -> Floats:
        """See `Law.losses`."""
        self._check_predictor(task is not None)
        if task is not None or self.task_count is not None:
            return Law.losses(self, tokens, task)
        if self._is_uniform:
            return np.full(tokens.shape, math.log(self.state_count))
        contexts = self._contexts(tokens)
        losses = _count_losses(tokens, contexts, self._drawn_alpha, self.state_count)
        if self.initial == "uniform":
            losses[contexts == 0] = math.log(self.state_count)
        return losses

    def expected_loss(self, length: int) -> float | None:
        """See `Law.expected_loss`; closed where rows are uniform, or Dirichlet ones of a single context."""
        if length == 0:
            return None
        if self._is_uniform:
            return math.log(self.state_count)
        if self.rows == "dirichlet" and self.task_count is None and self._is_alone:
            return sum(self.loss_of_draw(n) for n in range(length)) / length
        return None

    def entropy_rate(self) -> float | None:
        """See `Law.entropy_rate`; closed where `expected_loss` is."""
        if self._is_uniform:
            return math.log(self.state_count)
        if self.rows == "dirichlet" and self.task_count is None and self._digits == 0:
            return self.mean_entropy()
        return None

    def mean_entropy(self) -> float:
        """The mean entropy of a row in nats: of Dirichlet rows exactly, of softmax rows as their states grow many."""
        if self._is_uniform:
            return math.log(self.state_count)
        if self.rows == "dirichlet":
            return _digamma(self.state_count * self._alpha + 1) - _digamma(self._alpha + 1)
        a = 1 / self._temperature  # the mean of ln S minus the entropy of exp(a u) over uniform u
        return math.log(self.state_count) - (a / -math.expm1(-a) - 1 - (a + math.log(-math.expm1(-a) / a)))

    def loss_of_draw(self, n: int) -> float:
        """The mean loss in nats of the best predictor at the draw after `n` from one Dirichlet row."""
        if self.rows != "dirichlet":
            raise NotImplementedError("softmax rows have no conjugate prior: the optimum without the task is open")
        if self._is_uniform:
            return math.log(self.state_count)
        alpha, states = self._alpha, self.state_count
        rest, total = alpha * (states - 1), alpha * states
        loss = math.log(n + total)
        for m in range(n + 1):  # how often a state came, beta-binomial
            log_chance = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
            log_chance += math.lgamma(m + alpha) + math.lgamma(n - m + rest) - math.lgamma(n + total)
            log_chance += math.lgamma(total) - math.lgamma(alpha) - math.lgamma(rest)
            loss -= states * math.exp(log_chance) * (m + alpha) / (n + total) * math.log(m + alpha)
        return loss

    # --- what papers and tests have -----------------------------------------------------------------------------------

    @classmethod
    def edelman2024(cls, state_count: int = 2, order: int = 1, **fields: Any) -> Self:
        """Fresh chains with Dirichlet(1) rows (arXiv 2402.11004), rows of 100 tokens there.

        They start in their stationary law, as in the paper; its released code starts uniformly below five states.
        """
        initial = "stationary" if order == 1 else "row"
        settings: dict[str, Any] = {"state_count": state_count, "order": order, "rows": "dirichlet", "initial": initial}
        return cls(**settings | fields)

    @classmethod
    def makkuva2024(cls, order: int = 1, **fields: Any) -> Self:
        """One chain whose next token depends on the one `order` back alone (arXiv 2402.04161), started uniformly.

        Its two rows are Dirichlet(1) ones of this law's seed. The paper sets 0.2 and 0.3 for a change of state:
        ``MarkovChain.from_probabilities([[0.8, 0.2], [0.3, 0.7]])``.
        """
        settings: dict[str, Any] = {"state_count": 2, "lags": (order,), "rows": "dirichlet", "task_count": 1}
        return cls(**settings | {"initial": "uniform"} | fields)

    @classmethod
    def nichani2024(cls, parents: Sequence[int] = tuple(range(-1, 19)), **fields: Any) -> Self:
        """Fresh rows, Dirichlet(0.1), along a tree of parents (arXiv 2402.14735), by default a chain of 20 tokens."""
        settings: dict[str, Any] = {"state_count": 10, "parents": tuple(parents), "rows": "dirichlet", "alpha": 0.1}
        return cls(**settings | {"initial": "stationary"} | fields)

    @classmethod
    def park2024(cls, task_count: int = 64, **fields: Any) -> Self:
        """A pool of chains with Dirichlet(1) rows (arXiv 2412.01003); sizes are ours, the paper's vary."""
        settings: dict[str, Any] = {"state_count": 10, "rows": "dirichlet", "task_count": task_count}
        return cls(**settings | fields)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        return [
            # proposals
            cls(state_count=100),
            cls(state_count=5, order=2, backend="implicit", initial="uniform", first_task=2**40, sequences_per_task=3),
            cls(state_count=20, lags=(2, 3), temperature=0.25, task_count=3, backend="implicit"),
            cls(state_count=7, temperature=0.2, backend="implicit", task_count=5, first_task=2**64 - 5),
            cls(state_count=2**32 - 2, temperature=math.inf, backend="implicit", seed=1),
            # urns
            cls(state_count=100, rows="dirichlet"),
            cls(state_count=10, rows="dirichlet", alpha=0.1, sequences_per_task=4),
            cls(state_count=3, order=2, rows="dirichlet", alpha=2.0, backend="urn", initial="uniform"),
            cls(state_count=200, rows="dirichlet", order=2, alpha=1e-4),
            cls(state_count=5, rows="dirichlet", backend="urn", parents=(-1, 0, 0, -1, 2, *range(40)), alpha=1e6),
            cls(state_count=2**32 - 2, rows="dirichlet", alpha=2.0**-47),
            cls(state_count=6, order=0, rows="dirichlet", alpha=math.inf, backend="urn"),
            cls(state_count=6, order=0, rows="dirichlet", alpha=0.5),
            # tables made for each sequence
            cls(),
            cls(state_count=16, temperature=0.1, initial="uniform", sequences_per_task=2**32),
            cls(state_count=3, order=3, temperature=1e-300, backend="table"),
            cls(state_count=2, lags=(3,), rows="dirichlet", seed=2**64 - 1),
            cls(state_count=1, order=0, rows="dirichlet"),
            cls(state_count=5, order=0, rows="dirichlet"),
            cls.edelman2024(),
            cls.edelman2024(16, sequences_per_task=5),
            cls.nichani2024(),
            cls.nichani2024((-1,) * 6, alpha=3.0, state_count=4),
            # tables of a pool
            cls.makkuva2024(3),
            cls.park2024(6, first_task=9),
            cls.park2024(4, state_count=3, order=2, alpha=0.2, seed=3),
            cls(state_count=4, task_count=3, initial="stationary", temperature=0.2),
            cls(state_count=300, order=0, task_count=2, temperature=0.5),
        ]


def add_alpha_losses(tokens: Array, order: int, alpha: float, state_count: int) -> Floats:
    """Losses (n, T) in nats of counting in context: chances ``(count + alpha) / (all + state_count * alpha)``.

    Counts are those of what followed the same last `order` tokens in the sequence so far; order 0 is the in-context
    unigram, alpha = 1/2 the estimator of Krichevsky and Trofimov. For Dirichlet rows of that order and alpha it is the
    best predictor.
    """
    law = ChainPopulation(state_count=state_count, order=order, rows="dirichlet", alpha=alpha, backend="urn")
    return _count_losses(tokens, law._contexts(tokens), law._alpha, state_count)


def _count_losses(tokens: Array, contexts: Array, alpha: float, state_count: int) -> Floats:
    """Minus the log of the chance of each token (n, T) by the counts in its context."""
    pairs = contexts.astype(np.uint64) * np.uint64(state_count) + tokens.astype(np.uint64)
    losses: Floats = np.log((_earlier(contexts) + state_count * alpha) / (_earlier(pairs) + alpha))
    return losses


def _earlier(numbers: Array) -> Array:
    """How many equal numbers are before each one in its row, (n, T)."""
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, axis=1)
    places = np.arange(numbers.shape[1])
    begins = np.zeros(numbers.shape, np.int64)
    begins[:, 1:] = np.where(ordered[:, 1:] != ordered[:, :-1], places[1:], 0)
    ranks = np.empty(numbers.shape, np.int64)
    np.put_along_axis(ranks, order, places - np.maximum.accumulate(begins, axis=1), axis=1)
    return ranks


def _own(name: str, value: float | None, interval: str, has_it: bool) -> float | None:
    """A parameter of rows, 1 by default, or None for rows that do not have it."""
    if has_it:
        return 1.0 if value is None else checks.number(name, value, interval)
    if value is not None:
        raise ValueError(f"{name} must be None for rows that have none, got {value}")
    return None


def _philox(key: int, first: Array, context: Array, task: Array) -> list[Array]:
    """The four words of Philox4x32-7 at counters (first, context, task low, task high), uint64 arrays."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    task = task.astype(np.uint64)
    words = [np.asarray(first).astype(np.uint64), np.asarray(context).astype(np.uint64), task & mask, task >> half]
    words = list(np.broadcast_arrays(*words))
    for turn in range(7):
        low = np.uint64((key + turn * 0x9E3779B9) & 0xFFFFFFFF)
        high = np.uint64(((key >> 32) + turn * 0xBB67AE85) & 0xFFFFFFFF)
        first_product, second_product = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            second_product >> half ^ words[1] ^ low,
            second_product & mask,
            first_product >> half ^ words[3] ^ high,
            first_product & mask,
        ]
    return words


def _unit(words: Array) -> Floats:
    """Words as numbers in (0, 1)."""
    return np.asarray((words.astype(np.float64) + 0.5) * 2.0**-32)


def _exp(x: Any) -> Floats:
    """e**x of x <= 0 in the order of portable_exp (cpp/src/softmax_row.cpp): the same bits everywhere."""
    x = np.asarray(x, np.float64)
    known = np.where(x > -708.0, x, 0.0)
    n = np.floor(known * float.fromhex("0x1.71547652b82fep+0") + 0.5)
    r = (known - n * float.fromhex("0x1.62e42fee00000p-1")) - n * float.fromhex("0x1.a39ef35793c76p-33")
    total = np.ones_like(r)
    for k in range(13, 0, -1):
        total = 1.0 + total * r / k
    return np.where(x > -708.0, total * np.ldexp(1.0, n.astype(int)), 0.0)


def _log(x: Floats) -> Floats:
    """The natural logarithm of normal numbers in the kernel's order: the same bits everywhere."""
    root_half = np.uint64(0x3FE6A09E667F3BCD)
    bits = np.ascontiguousarray(x).view(np.uint64)
    exponent = (bits - root_half).view(np.int64) >> 52
    mantissa = (bits - (exponent << 52).view(np.uint64)).view(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    total = np.full_like(s, 1.0 / 19)
    for k in range(17, 0, -2):
        total = total * square + 1.0 / k
    return np.asarray(exponent * float.fromhex("0x1.62e42fefa39efp-1") + 2.0 * s * total)


def _digamma(x: float) -> float:
    """The derivative of lgamma at x > 0."""
    total = 0.0
    while x < 10:
        total -= 1 / x
        x += 1
    terms = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760)
    return total + math.log(x) - 1 / (2 * x) - sum(term / x ** (2 * k + 2) for k, term in enumerate(terms))


def _factors(temperature: float) -> Array:
    """exp(-d / (2**24 T)) in two factors, for the high and the low 12 bits of d: 2 x 4,096 words, 2**31 for 1."""
    parts = [_exp(-np.arange(4096.0) * unit / temperature) for unit in (2.0**-12, 2.0**-24)]
    return np.floor(np.concatenate(parts) * 2.0**31 + 0.5).astype(np.uint32)


def _decisions(temperature: float, states: int) -> Array:
    """What the top 11 bits of a logit decide of a proposal (cpp/src/implicit_rows.cpp)."""
    logits = np.arange(2**11, dtype=np.float64) * 2**13

    def threshold(k: Floats) -> Array:
        weights = _exp(((k + 0.5) * 2.0**-24 - 1.0) / temperature)
        return np.minimum(np.floor(weights * 2.0**32), 2.0**32 - 1).astype(np.int64)

    smallest, largest, slack = threshold(logits), threshold(logits + 2**13 - 1), 2
    certain = np.maximum(smallest - states - slack, 0)
    possible = np.minimum(largest + slack, 2**32 - 1)
    return np.asarray(possible & 0xFFFF0000 | certain >> 16, np.uint32)


def _alias(integers: Array, capacity: int) -> tuple[Array, Array]:
    """Thresholds and aliases (n, S) of alias tables for laws (n, S) of integers that sum to S times the capacity.

    A sweep fills one cell of every row at a time. Light columns, at most a capacity, take what they lack from the
    heavy one at hand; once that is light itself, it takes what it lacks from the next heavy one.
    """
    count, states = integers.shape
    rows = np.arange(count)
    threshold, alias = np.zeros((count, states), np.int64), np.tile(np.arange(states), (count, 1))
    order = np.argsort(integers > capacity, axis=1, kind="stable")  # light ones, then heavy ones
    light, heavy = np.zeros(count, np.int64), (integers <= capacity).sum(1)
    lights = heavy.copy()
    rest = integers[rows, order[rows, np.minimum(heavy, states - 1)]]  # of the heavy one at hand
    for _ in range(states):
        donor = order[rows, np.minimum(heavy, states - 1)]
        gives = (rest > capacity) & (light < lights)  # to the next light one
        closes = ~gives & (heavy < states)
        ends = ~gives & ~closes & (light < lights)  # light ones that are full
        column = np.where(closes, donor, order[rows, np.minimum(light, states - 1)])
        weight = np.where(closes, rest, integers[rows, column])
        following = order[rows, np.minimum(heavy + 1, states - 1)]
        full = weight >= capacity
        filled = gives | closes | ends
        other = np.where(full, column, np.where(gives, donor, following))
        threshold[rows[filled], column[filled]] = np.where(full, 0, weight)[filled]
        alias[rows[filled], column[filled]] = other[filled]
        given = np.where(gives, rest - (capacity - weight), rest)
        rest = np.where(closes, integers[rows, following] - (capacity - rest), given)
        light = light + (gives | ends)
        heavy = heavy + closes
    return threshold, alias
