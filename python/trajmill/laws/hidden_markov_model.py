"""Hidden Markov models: one, a pool of many, or a fresh one for every task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, ClassVar, Self

import numpy as np

from trajmill import _core
from trajmill.core import checks
from trajmill.core.alias import alias_cells
from trajmill.core.chances import divided, irreducible, stationary, tuples
from trajmill.core.law import Array, Arrays, Domain, Floats, Law, derive_key

MOST = 2**16
"""states, and symbols"""
NARROW = 256
"""columns of an alias table that spends one word on a draw"""
BELIEFS = 512
"""different beliefs up to which the mean loss is computed"""
BLOCKS = 2**22
"""numbers up to which blocks of symbols are enumerated"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenMarkovModel(Law):
    """Symbols of a hidden Markov chain.

    From the hidden state h a pair, the symbol x and the next hidden state h', is drawn with the chance ``T[x][h][h']``
    (`transition_matrices`). In the other form, `transition` A and `emission` B, x depends on h alone: ``T[x][h][h'] =
    B[h][x] A[h][h']``. A list of models is a pool, from which every sequence draws one, the task. Without tables every
    task has a fresh model, whose rows are Dirichlet(`alpha_transition`) and Dirichlet(`alpha_emission`); they are never
    made: urns draw from their law. The column ``states`` is the hidden state behind each token, before the transition.
    Sources: arXiv 2405.15943 (`mess3`, `rrxor`, `zero_one_random`), 2111.02080 (`ginc`).
    """

    kernel_columns: ClassVar[tuple[str, ...]] = ("task", "states")
    extra_columns: ClassVar[tuple[str, ...]] = ("loss_mask", "task", "states")
    presets: ClassVar[tuple[str, ...]] = ("mess3", "rrxor", "zero_one_random", "ginc")

    transition_matrices: Any = None
    """T, (symbols, states, states), or of each model of a pool (models, symbols, states, states); at most 65,536
    symbols and states. The chances of all pairs of a state sum to 1; they are divided by their sum, exactly rounded"""
    transition: Any = None
    """A, (states, states), or of each model of a pool (models, states, states); rows sum to 1"""
    emission: Any = None
    """B, (states, symbols), or of each model of a pool (models, states, symbols); rows sum to 1"""
    initial: Any = None
    """law of the first hidden state: "stationary", which needs an irreducible chain, "uniform", or (states,), or of
    each model of a pool (models, states); None: stationary, and of fresh models, which have no other, uniform"""
    hidden_count: int | None = None
    """states of fresh models, 1 to 65,536"""
    symbol_count: int | None = None
    """symbols of fresh models, 1 to 65,536"""
    alpha_transition: float | None = None
    """Dirichlet parameter of each row of A of fresh models, 2**-16 / states to 32,768, or inf: uniform rows"""
    alpha_emission: float | None = None
    """Dirichlet parameter of each row of B of fresh models, 2**-16 / symbols to 32,768, or inf: uniform rows"""
    sequences_per_task: int | None = None
    """sequences in a row that one fresh model makes, 1 to 2**32 - 1; None: 1"""
    first_task: int = 0
    """model of a pool, or fresh one, that is task 0"""
    task_count: int | None = None
    """models of a pool that are drawn, from `first_task` on; None: all of these"""

    def check(self) -> None:
        """See `Law.check`."""
        fresh = {
            name: getattr(self, name) for name in ("hidden_count", "symbol_count", "alpha_transition", "alpha_emission")
        }
        given = {name: getattr(self, name) for name in ("transition_matrices", "transition", "emission")}
        wanted = {name for name, value in (fresh | given).items() if value is not None}
        if wanted == set(fresh):
            self._check_fresh()
        elif wanted in ({"transition_matrices"}, {"transition", "emission"}):
            self._check_tables()
        else:
            raise ValueError(
                "a hidden Markov model needs transition_matrices alone, or transition and emission, or of fresh models "
                f"{', '.join(fresh)}; got {', '.join(sorted(wanted)) or 'nothing'}"
            )

    def _check_fresh(self) -> None:
        states = checks.integer("hidden_count", self.hidden_count, 1, MOST)
        symbols = checks.integer("symbol_count", self.symbol_count, 1, MOST)
        alphas = {}
        for name, columns in (("alpha_transition", states), ("alpha_emission", symbols)):
            alpha = checks.number(name, getattr(self, name), "(0, inf]")
            if not 2**-16 / columns <= alpha <= 2**15 and alpha != math.inf:
                raise ValueError(
                    f"{name} must be {2**-16 / columns:g} (2**-16 / {columns}) to 32768, or inf, got {alpha}"
                )
            alphas[name] = alpha
        if self.initial is not None and (not isinstance(self.initial, str) or self.initial != "uniform"):
            raise ValueError(f"fresh models begin with a uniform hidden state, got initial={self.initial!r}")
        if self.task_count is not None:
            raise ValueError("fresh models have no task_count; use sequences_per_task")
        per_task = 1 if self.sequences_per_task is None else self.sequences_per_task
        self._set(
            hidden_count=states,
            symbol_count=symbols,
            initial="uniform",
            sequences_per_task=checks.integer("sequences_per_task", per_task, 1, 2**32 - 1),
            first_task=checks.integer("first_task", self.first_task, 0, 2**64 - 1),
            **alphas,
        )

    def _check_tables(self) -> None:
        if self.sequences_per_task is not None:
            raise ValueError("a sequence of a pool draws its model; sequences_per_task is for fresh ones")
        if self.transition_matrices is not None:
            matrices = _table("transition_matrices", self.transition_matrices, 3)
            models, symbols, states = _shape(matrices, 3)
            if matrices.shape[-1] != states:
                raise ValueError(f"transition_matrices must have as many next states as states, got {matrices.shape}")
            _check_sums("transition_matrices", matrices.sum((-3, -1)), "the pairs of a state")
            self._set(transition_matrices=tuples(matrices))
        else:
            transition, emission = _table("transition", self.transition, 2), _table("emission", self.emission, 2)
            models, states, columns = _shape(transition, 2)
            if columns != states or emission.shape != (*transition.shape[:-1], emission.shape[-1]):
                raise ValueError(
                    "transition must be (states, states) and emission (states, symbols), both perhaps for each model, "
                    f"got {transition.shape} and {emission.shape}"
                )
            symbols = emission.shape[-1]
            _check_sums("transition", transition.sum(-1), "each row")
            _check_sums("emission", emission.sum(-1), "each row")
            self._set(transition=tuples(transition), emission=tuples(emission))
        if max(states, symbols) > MOST:
            raise ValueError(f"there may be {MOST} states and symbols, got {states} and {symbols}")
        first = checks.integer("first_task", self.first_task, 0, models - 1)
        count = models - first if self.task_count is None else self.task_count
        self._set(first_task=first, task_count=checks.integer("task_count", count, 1, models - first))
        if isinstance(self.initial, str) or self.initial is None:
            kind = checks.choice("initial", self.initial or "stationary", ("stationary", "uniform"))
            self._set(initial=kind)
            if kind == "stationary":
                for model, chain in enumerate(self._chains()):
                    if not irreducible(chain):
                        raise ValueError(
                            f"the hidden chain{f' of model {model}' if models > 1 else ''} is reducible, so its "
                            "stationary law is not one; give initial as numbers, or 'uniform'"
                        )
        else:
            initial = checks.floats("initial", self.initial, np.float64) + 0.0
            if initial.shape not in ((states,), (models, states)):
                raise ValueError(f"initial must have shape ({states},) or ({models}, {states}), got {initial.shape}")
            _check_values("initial", initial)
            _check_sums("initial", initial.sum(-1), "each row")
            self._set(initial=tuples(initial))

    # --- the tables ---------------------------------------------------------------------------------------------------

    @property
    def is_fresh(self) -> bool:
        """Whether every task has a fresh model."""
        return self.hidden_count is not None

    def _pairs(self) -> Floats:
        """T of all models by state: (models, states, symbols, next states); of models given by it."""
        matrices = np.array(self.transition_matrices)
        by_state = np.swapaxes(matrices.reshape(-1, *matrices.shape[-3:]), 1, 2)
        return divided(by_state.reshape(*by_state.shape[:2], -1)).reshape(by_state.shape)

    def _transition(self) -> Floats:
        """A of all models."""
        table = np.array(self.transition)
        return divided(table.reshape(-1, *table.shape[-2:]))

    def _emission(self) -> Floats:
        """B of all models."""
        table = np.array(self.emission)
        return divided(table.reshape(-1, *table.shape[-2:]))

    def _chains(self) -> Floats:
        """The hidden chains of all models, (models, states, states)."""
        if self.emission is not None:
            return self._transition()
        pairs = self._pairs()
        chains = pairs[:, :, 0].copy()
        for symbol in range(1, pairs.shape[2]):  # one after another: the order of a sum is part of its value
            chains += pairs[:, :, symbol]
        return chains

    def _initials(self) -> Floats:
        """The law of the first hidden state of all models."""
        chains = self._chains()
        models, states = chains.shape[:2]
        if self.initial == "stationary":
            return np.array([stationary(chain) for chain in chains])
        if self.initial == "uniform":
            return np.full((models, states), 1 / states)
        return np.broadcast_to(divided(np.atleast_2d(np.array(self.initial))), (models, states))

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        if self.symbol_count is not None:
            return self.symbol_count
        if self.emission is not None:
            return _lengths(self.emission)[-1]
        return _lengths(self.transition_matrices)[-3]

    def states_bound(self, length: int) -> int:
        """See `Law.state_count`."""
        return self.hidden_count or _lengths(self.transition_matrices or self.transition)[-1]

    def check_length(self, length: int) -> None:
        """See `Law.check_length`."""
        if self.is_fresh and length * (self.sequences_per_task or 1) > 2**32:
            raise ValueError(
                f"a task must have at most 2**32 tokens, got {self.sequences_per_task} sequences of {length} each"
            )

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        states, symbols = self.states_bound(length), self.vocabulary_size
        domains = Domain.HIDDEN_STATES, Domain.EMISSIONS, Domain.STARTS
        keys = [self.key(domain) for domain in domains]
        if self.is_fresh:
            weights = [
                0 if alpha == math.inf else max(1, round(columns * alpha * 2**16))
                for columns, alpha in ((states, self.alpha_transition or 0), (symbols, self.alpha_emission or 0))
            ]
            numbers = [*keys, self.task_key(Domain.URN), states, symbols, 0, 0]
            return [*numbers, self.first_task, self.sequences_per_task or 1, *weights], []
        members = slice(self.first_task, self.first_task + (self.task_count or 0))
        tables = [_cells(self._initials()[members])]
        pairs = self._used_pairs(members)
        if pairs is None:
            tables += [
                _cells(table[members].reshape(-1, table.shape[-1])) for table in (self._transition(), self._emission())
            ]
            columns = 0
        else:
            chances, names = pairs
            tables += [_cells(chances), names]
            columns = names.shape[1]
        numbers = [*keys, self.key(Domain.TASKS), states, symbols, self.task_count or 0, columns]
        return [*numbers, 0, 1, 0, 0], [table.reshape(-1) for table in tables]

    def _used_pairs(self, members: slice) -> tuple[Floats, Array] | None:
        """Chances of the pairs of each state, symbol by symbol, of those that are not 0, and symbol << 16 | next state.

        None for models that are given by A and B, if a state has more than 256.
        """
        if self.emission is None:
            every = self._pairs()[members]
            by_state = every.reshape(-1, every.shape[2] * every.shape[3])
            width = int((by_state > 0).sum(1).max())
            found = [(row[row > 0], np.flatnonzero(row)) for row in by_state]
        else:
            a, b = (table[members].reshape(-1, table.shape[-1]) for table in (self._transition(), self._emission()))
            width = int(((a > 0).sum(1) * (b > 0).sum(1)).max())
            if width > NARROW:
                return None
            found = []
            for to, symbol in zip(a, b, strict=True):
                pairs = np.flatnonzero(symbol)[:, None] * len(to) + np.flatnonzero(to)
                found.append(((symbol[symbol > 0][:, None] * to[to > 0]).reshape(-1), pairs.reshape(-1)))
        states = self.states_bound(0)
        checks.require_memory("its tables", 12 * len(found) * width, "use fewer states or symbols")
        chances, names = np.zeros((len(found), width)), np.zeros((len(found), width), np.uint32)
        for row, (values, pair) in enumerate(found):
            chances[row, : len(values)] = values
            names[row, : len(pair)] = (pair // states) << 16 | pair % states
        return chances, names

    # --- rows ---------------------------------------------------------------------------------------------------------

    def fill(self, first_sequence: int, arrays: Arrays, threads: int | None = None) -> None:
        """See `Law.fill`."""
        self._check_tasks(first_sequence + max(1, len(arrays["tokens"])) - 1)
        super(HiddenMarkovModel, self).fill(first_sequence, arrays, threads)

    def pick(self, indexes: Sequence[int] | Array, arrays: Arrays, threads: int | None = None) -> None:
        """See `Law.pick`."""
        numbers = checks.indexes("indexes", indexes)
        self._check_tasks(int(numbers.max()) if len(numbers) else 0)
        super(HiddenMarkovModel, self).pick(numbers, arrays, threads)

    def _check_tasks(self, last_sequence: int) -> None:
        """ValueError if there is no task of that number."""
        if self.is_fresh and self.first_task + last_sequence // (self.sequences_per_task or 1) >= 2**64:
            raise ValueError(f"sequence {last_sequence} would have a task beyond 2**64, from {self.first_task} on")

    # --- what the best predictor would say ----------------------------------------------------------------------------

    def beliefs(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """The joint law of model and hidden state behind every token before it is seen: (n, task_count, states) each.

        Nothing but NaN follows a token that was impossible. NotImplementedError for fresh models.
        """
        for weights, law in self._beliefs(tokens, task):
            yield weights[:, :, None] * law

    def belief(self, prefix: Sequence[int] | Array, task: int | None = None) -> Floats:
        """The law of the hidden state after `prefix`, (states,); of a pool whose `task` is not given, jointly with it.

        The latter is (task_count, states). ValueError for an impossible prefix.
        """
        tokens = np.append(np.asarray(prefix, np.int64).reshape(-1), 0)[None]
        joint: Floats = list(self.beliefs(tokens, None if task is None else np.array([task])))[-1][0]
        if np.isnan(joint).any():
            raise ValueError("prefix is impossible")
        if self.task_count == 1 or task is not None:
            joint = joint.sum(0)
        return joint

    def _beliefs(self, tokens: Array, task: Array | None) -> Iterator[tuple[Floats, Floats]]:
        """Before every token: the weight of each model, (n, task_count), and the law of its state, (n, ..., states)."""
        if self.is_fresh:
            raise NotImplementedError("a fresh model has no row to show, and its predictor must know all paths")
        members = slice(self.first_task, self.first_task + (self.task_count or 0))
        law = np.repeat(self._initials()[None, members], len(tokens), axis=0)
        logs = np.zeros(law.shape[:2])
        if task is not None:
            if not (np.asarray(task) < law.shape[1]).all():
                raise ValueError(f"task must be below {law.shape[1]}, got {np.max(task)}")
            logs[np.arange(law.shape[1]) != np.asarray(task).reshape(-1, 1)] = -np.inf
        step = self._step(members)
        for t in range(tokens.shape[1]):
            with np.errstate(invalid="ignore"):
                weights = np.exp(logs - logs.max(1, keepdims=True))
            yield weights / weights.sum(1, keepdims=True), law
            law = step(law, tokens[:, t].astype(np.int64))
            chances = law.sum(2)
            with np.errstate(divide="ignore"):
                logs = logs + np.log(chances)
            law = law / np.where(chances > 0, chances, 1)[:, :, None]

    def _step(self, members: slice) -> Any:
        """What takes laws (n, models, states) and the tokens seen (n,) to the chances of these and the next state."""
        if self.emission is None:
            pairs = self._pairs()[members]

            def step(law: Floats, seen: Array) -> Floats:
                after = np.empty_like(law)
                for symbol in np.unique(seen):
                    rows = seen == symbol
                    after[rows] = np.einsum("nms,mst->nmt", law[rows], pairs[:, :, symbol])
                return after
        else:
            a, b = self._transition()[members], self._emission()[members]

            def step(law: Floats, seen: Array) -> Floats:
                here = law * b[:, :, seen].transpose(2, 0, 1)
                after: Floats = np.matmul(here.transpose(1, 0, 2), a).transpose(1, 0, 2)
                return after

        return step

    def _symbols(self) -> Floats:
        """The chance of each symbol in each state of each model, (models, states, symbols)."""
        return self._emission() if self.emission is not None else self._pairs().sum(3)

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`: the forward recursion, and Bayes' rule for the models of a pool."""
        symbols = None
        for joint in self.beliefs(tokens, task):
            if symbols is None:
                symbols = self._symbols()[self.first_task :][: self.task_count].reshape(-1, self.vocabulary_size)
            yield joint.reshape(len(joint), -1) @ symbols

    def expected_loss(self, length: int) -> float | None:
        """See `Law.expected_loss`: computed where tokens lead to few beliefs, up to 512 that differ in 12 digits."""
        if self.is_fresh or self.states_bound(length) * self.vocabulary_size > 2**12 or length == 0:
            return None
        members = slice(self.first_task, self.first_task + (self.task_count or 0))
        symbols, step = self._symbols()[members], self._step(members)
        known = [self._initials()[None, members] / (self.task_count or 1)]
        numbers = {np.round(known[0], 12).tobytes(): 0}
        moves = np.zeros((BELIEFS, BELIEFS))
        losses = np.zeros(BELIEFS)
        for here, joint in enumerate(known):  # which grows
            chances = np.einsum("nms,msx->x", joint, symbols)
            losses[here] = _entropy(chances)
            for token in np.flatnonzero(chances > 0):
                after = step(joint, np.array([token]))
                after = after / after.sum() + 0.0
                name = np.round(after, 12).tobytes()
                if name not in numbers:
                    if len(known) == BELIEFS:
                        return None
                    numbers[name] = len(known)
                    known.append(after)
                moves[here, numbers[name]] += chances[token]
        law, total = np.eye(1, len(known))[0], 0.0
        moves, losses = moves[: len(known), : len(known)], losses[: len(known)]
        for _ in range(length):
            total += float(law @ losses)
            law = law @ moves
        return total / length

    def entropy_rate(self) -> float | None:
        """See `Law.entropy_rate`: of one irreducible model whose state and symbol leave one next state at most."""
        if self.task_count != 1:
            return None
        chain = self._chains()[self.first_task]
        next_states = chain[:, None] if self.emission is not None else self._pairs()[self.first_task]
        if not irreducible(chain) or ((next_states > 0).sum(2) > 1).any():
            return None
        chances = self._symbols()[self.first_task]
        return float(stationary(chain) @ [_entropy(row) for row in chances])

    def entropy_bounds(self, context: int, task: int | None = None) -> tuple[float, float]:
        """Bounds of the entropy rate of one model: H(x_t | x_<t, h_0) below, H(x_t | x_<t) above, at t = `context`.

        h_0 is the first hidden state, whose law is taken to be the stationary one. `task` names the model of a pool.
        All blocks of `context` + 1 tokens are looked at, 2**22 numbers at most.
        """
        if self.is_fresh or (self.task_count != 1 and task is None):
            raise ValueError("bounds are those of one model; of a pool, give its task")
        model = self.first_task + checks.integer("task", task or 0, 0, (self.task_count or 1) - 1)
        states, symbols = self.states_bound(0), self.vocabulary_size
        context = checks.integer("context", context, 0)
        if states * states * symbols ** (context + 1) > BLOCKS:
            raise ValueError(f"blocks of {context + 1} tokens are too many; {BLOCKS} numbers are the most")
        chain = self._chains()[model]
        if not irreducible(chain):
            raise ValueError("the hidden chain is reducible, so it has no one entropy rate")
        start = stationary(chain)
        step = self._step(slice(model, model + 1))
        joint = np.eye(states)[:, None, :]  # of each first state and block: the block's chance with each last state
        before = np.zeros(states + 1)
        for _ in range(context + 1):
            blocks = joint.shape[1]
            seen = np.tile(np.repeat(np.arange(symbols), blocks), states)
            law = np.broadcast_to(joint[:, None], (states, symbols, blocks, states)).reshape(-1, 1, states)
            joint = step(law, seen).reshape(states, symbols * blocks, states)
            chances = joint.sum(2)
            now = np.array([*(_entropy(row) for row in chances), _entropy(start @ chances)])
            before, gained = now, now - before
        return float(start @ gained[:-1]), float(gained[-1])

    # --- models of papers ---------------------------------------------------------------------------------------------

    @classmethod
    def mess3(cls, x: float = 0.05, a: float = 0.85, seed: int = 42) -> Self:
        """Three states and symbols; symbol k is likely with k as the next state (arXiv 2405.15943).

        a is the chance of the symbol that fits, x that of each other state; the beliefs make a fractal.
        """
        x, a = checks.number("x", x, "[0, 0.5]"), checks.number("a", a, "[0, 1]")
        other, stay = (1 - a) / 2, 1 - 2 * x
        chances = [
            [[(a if to == k else other) * (stay if to == h else x) for to in range(3)] for h in range(3)]
            for k in range(3)
        ]
        return cls(transition_matrices=chances, seed=seed)

    @classmethod
    def rrxor(cls, seed: int = 42) -> Self:
        """Two random bits, then their exclusive or, without end; 2/3 bit a token (arXiv 2405.15943)."""
        matrices = np.zeros((2, 5, 5))  # states: none seen, 0 seen, 1 seen, 0 follows, 1 follows
        for bit in range(2):
            matrices[bit, 0, 1 + bit] = 0.5
            for first in range(2):
                matrices[bit, 1 + first, 3 + (first ^ bit)] = 0.5
            matrices[bit, 3 + bit, 0] = 1
        return cls(transition_matrices=matrices, seed=seed)

    @classmethod
    def zero_one_random(cls, p: float = 0.5, seed: int = 42) -> Self:
        """0, 1, then a random bit, 0 with the chance p, without end; 1/3 bit a token (arXiv 2405.15943)."""
        p = checks.number("p", p, "[0, 1]")
        matrices = np.zeros((2, 3, 3))
        matrices[0, 0, 1] = matrices[1, 1, 2] = 1
        matrices[0, 2, 0], matrices[1, 2, 0] = p, 1 - p
        return cls(transition_matrices=matrices, seed=seed)

    @classmethod
    def ginc(
        cls,
        *,
        values: int = 10,
        slots: int = 10,
        symbols: int = 50,
        models: int = 10,
        transition_temperature: float = 0.1,
        start_temperature: float = 10.0,
        identity: float = 0.9,
        held_out: bool = False,
        seed: int = 42,
    ) -> Self:
        """The pool of arXiv 2111.02080: the hidden state is a value and a slot, value x slots + slot.

        Each model has a chain of slots and a law of first states of its own; all share the chain of values, `identity`
        of it the identity, and the memory of the symbol of each value and slot. Slot 0 is the delimiter, symbol 0. One
        half of the models is drawn, or the other if `held_out`. Everything is drawn from `seed`.
        """
        values, slots = checks.integer("values", values, 1, 256), checks.integer("slots", slots, 1, 256)
        symbols, models = checks.integer("symbols", symbols, 2, MOST), checks.integer("models", models, 2, 2**16)
        identity = checks.number("identity", identity, "[0, 1]")
        transition_temperature = checks.number("transition_temperature", transition_temperature, "(0, inf]")
        start_temperature = checks.number("start_temperature", start_temperature, "(0, inf]")
        words = _Words(derive_key(checks.seed(seed), Domain.ROWS))
        memory = [[0, *(1 + words.below(symbols - 1) for _ in range(slots - 1))] for _ in range(values)]
        emission = np.zeros((values * slots, symbols))
        emission[np.arange(values * slots), np.array(memory).reshape(-1)] = 1
        of_values = (1 - identity) * words.permutations(values, transition_temperature) + identity * np.eye(values)
        transition, initial = [], []
        for _ in range(models):
            initial.append(words.softmax(values * slots, start_temperature))
            transition.append(np.kron(of_values, words.permutations(slots, transition_temperature)))
        half = models // 2
        return cls(
            transition=transition,
            emission=[emission] * models,
            initial=initial,
            first_task=half if held_out else 0,
            task_count=models - half if held_out else half,
            seed=seed,
        )

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        words = _Words(1)
        chances = [words.softmax(270, 0.2).reshape(90, 3) for _ in range(3)]
        two_states = ((0.9, 0.1), (0.25, 0.75))
        return [
            cls.mess3(),
            cls.rrxor(),
            cls.zero_one_random(0.3, seed=7),
            cls.ginc(values=3, slots=4, symbols=6, models=5),
            cls.ginc(values=2, slots=3, symbols=5, models=4, held_out=True, seed=2**64 - 1),
            cls(transition_matrices=np.swapaxes(chances, 0, 1), initial=(0.0, 0.25, 0.75)),
            cls(transition=two_states, emission=[words.softmax(130, 0.3) for _ in range(2)], initial="uniform"),
            cls(transition=((1.0,),), emission=((0.5, 0.0, 0.5),)),
            cls(transition_matrices=(((0, 0.5), (0, 0)), ((0.5, 0), (0, 0)), ((0, 0), (0, 1))), initial=(1, 0)),
            cls(hidden_count=3, symbol_count=4, alpha_transition=0.5, alpha_emission=1),
            cls(
                hidden_count=300,
                symbol_count=2**16,
                alpha_transition=2**-16 / 300,
                alpha_emission=math.inf,
                sequences_per_task=3,
                first_task=5,
            ),
            cls(hidden_count=1, symbol_count=2, alpha_transition=2**15, alpha_emission=2**15, sequences_per_task=2**16),
        ]


class _Words:
    """Chance for the tables of a model: the words of sequence 0 under a key, one after another."""

    def __init__(self, key: int) -> None:
        self.key, self.block, self.words = key, 0, list[int]()

    def word(self) -> int:
        """The next one."""
        if not self.words:
            self.words = _core.philox4x32([self.block, 0, 0, 0], self.key)[::-1]
            self.block += 1
        return self.words.pop()

    def below(self, count: int) -> int:
        """A number below `count`."""
        return self.word() * count >> 32

    def softmax(self, count: int, temperature: float) -> Floats:
        """Softmax of uniform logits; its exponentials are rounded as Decimal does, which is the same everywhere."""
        logits = [Decimal((self.word() + 0.5) / 2**32 / temperature) for _ in range(count)]
        largest = max(logits)
        with localcontext() as context:
            context.prec = 30
            weights = [float((logit - largest).exp()) for logit in logits]
        total = math.fsum(weights)
        return np.array([weight / total for weight in weights])

    def permutations(self, count: int, temperature: float) -> Floats:
        """A mixture of as many random permutations, with softmax weights."""
        mixture = np.zeros((count, count))
        for weight in self.softmax(count, temperature):
            order = list(range(count))
            for last in range(count - 1, 0, -1):
                other = self.below(last + 1)
                order[last], order[other] = order[other], order[last]
            mixture[np.arange(count), order] += weight
        return mixture


def _table(name: str, values: Any, dimensions: int) -> Floats:
    """Chances with so many dimensions, or with one more before them."""
    table: Floats = checks.floats(name, values, np.float64) + 0.0  # minus zero as zero
    if table.ndim not in (dimensions, dimensions + 1) or not table.size:
        raise ValueError(f"{name} must have {dimensions} dimensions, or {dimensions + 1} for a pool, got {table.shape}")
    _check_values(name, table)
    return table


def _check_values(name: str, table: Floats) -> None:
    """ValueError for what is no chance."""
    if not np.isfinite(table).all() or (table < 0).any():
        raise ValueError(f"{name} must hold finite numbers >= 0, got {table[~((table >= 0) & (table < np.inf))][0]}")


def _check_sums(name: str, sums: Any, what: str) -> None:
    """ValueError for sums that are not 1."""
    sums = np.asarray(sums)
    if (np.abs(sums - 1) > 1e-6).any():
        raise ValueError(f"{name}: {what} must sum to 1, got {sums[np.abs(sums - 1) > 1e-6][0]}")


def _shape(table: Floats, dimensions: int) -> tuple[int, int, int]:
    """Models, and the first two of the last dimensions."""
    models = len(table) if table.ndim > dimensions else 1
    return models, table.shape[-dimensions], table.shape[1 - dimensions]


def _lengths(table: Any) -> list[int]:
    """The shape of nested tuples."""
    return [len(table), *_lengths(table[0])] if isinstance(table, tuple) else []


def _cells(rows: Floats) -> Array:
    """Alias tables, one a row."""
    checks.require_memory(
        "its tables", rows.size * (4 if rows.shape[1] <= NARROW else 8), "use fewer states or symbols"
    )
    if rows.size >= 2**31:
        raise ValueError(f"its tables would have {rows.size} cells, 2**31 or more; use fewer states or symbols")
    cells: Array = alias_cells(rows)
    return cells


def _entropy(chances: Floats) -> float:
    """In nats, also of chances that sum to less than 1."""
    some = chances[chances > 0]
    return float(-(some * np.log(some)).sum())
