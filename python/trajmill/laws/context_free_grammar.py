"""Sentences of a context-free grammar, one after another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any, ClassVar, Self

import numpy as np

from trajmill import _core
from trajmill.core import checks
from trajmill.core.law import Array, Domain, Floats, Law, derive_key

RUN = 4
"""terminals that a rule of the kernel writes at most, and symbols that it leaves"""
MOST = 2**16
"""tokens, and symbols of the kernel"""
LARGEST = 1e9
"""expansions of a sentence, on the average, from which on a grammar is called explosive"""

STACKS = 4096
"""stacks that predictions keep after one prefix"""

Rule = tuple[tuple[str, ...], float]
"""a right side and its probability"""
Rules = tuple[tuple[str, tuple[Rule, ...]], ...]
"""symbols and their rules"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFreeGrammar(Law):
    """Sentences that are derived from a start symbol, leftmost symbol first, and joined until the row is full.

    Each symbol with rules is replaced by one of its right sides, drawn with its probability; symbols without rules are
    terminals, the tokens. A row ends in the middle of a sentence. Source: arXiv 2305.13673 (`cfg3b`).
    """

    presets: ClassVar[tuple[str, ...]] = ("cfg3b", "random_layered")

    rules: Any
    """A mapping of each symbol to its right sides, such as ``{"S": [("a S b", 0.4), ("a b", 0.6)]}``, or pairs of both.
    A right side is a text, whose words are symbols, or a list of symbols, which are texts or whole numbers; it may be
    empty. Either all right sides of a symbol have a probability, and these sum to 1, or none, and they are uniform"""
    start: str | None = None
    """symbol of a whole sentence; None: the first one that has rules"""
    terminals: Any = None
    """terminals in the order of their tokens, at most 65,535; None: as they come in the rules"""
    separator: bool = True
    """whether a token of its own, the last of the vocabulary, stands between sentences"""

    def check(self) -> None:
        """See `Law.check`."""
        rules = _plain(self.rules)
        names = [name for name, _ in rules]
        start = names[0] if self.start is None else str(self.start)
        if start not in names:
            raise ValueError(f"start must be a symbol with rules, got {start!r}")
        known = set(names)
        found = dict.fromkeys(
            symbol for _, alternatives in rules for right, _ in alternatives for symbol in right if symbol not in known
        )
        terminals = tuple(found) if self.terminals is None else tuple(map(str, self.terminals))
        if len(set(terminals)) != len(terminals) or not set(found) <= set(terminals) or known & set(terminals):
            raise ValueError(
                f"terminals must be all symbols without rules, each once: {', '.join(found)}; got {terminals}"
            )
        if len(terminals) >= MOST:
            raise ValueError(f"there may be at most {MOST - 1} terminals, got {len(terminals)}")
        self._set(rules=rules, start=start, terminals=terminals, separator=checks.boolean("separator", self.separator))
        if self.mean_length == 0 and not self.separator:
            raise ValueError(
                "the grammar makes empty sentences alone, so a row would never be full without a separator"
            )

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return len(self.terminals) + self.separator

    # --- what the kernel is given -------------------------------------------------------------------------------------

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        tables = _Tables(self)
        return [self.key(Domain.GRAMMARS), tables.begin], tables.arrays()

    # --- exact quantities ---------------------------------------------------------------------------------------------

    def expected_counts(self) -> dict[str, float]:
        """How often each symbol with rules is expanded in a sentence, on the average; ValueError if that is not finite.

        If M holds how often a symbol leads to each other at once, (1 - M) x = 1 has a positive solution if and only if
        the powers of M sum to something finite; x are the sizes of what comes of each symbol.
        """
        table = dict(self.rules)
        reached = [str(self.start)]
        for name in reached:  # which grows
            later = (symbol for right, chance in table[name] if chance > 0 for symbol in right)
            reached += dict.fromkeys(symbol for symbol in later if symbol in table and symbol not in reached)
        places = {name: place for place, name in enumerate(reached)}
        checks.require_memory("the means of a grammar", 24 * len(reached) ** 2, "use fewer symbols")
        matrix = np.eye(len(reached))
        for name in reached:
            for right, chance in table[name]:
                for symbol in right:
                    if symbol in places and chance > 0:
                        matrix[places[name], places[symbol]] -= chance
        try:
            sizes = np.linalg.solve(matrix, np.ones(len(reached)))
            counts = np.linalg.solve(matrix.T, np.eye(len(reached))[0])
        except np.linalg.LinAlgError:
            sizes = counts = np.zeros(1)
        if not ((sizes > 0.99) & (sizes < LARGEST)).all():
            raise ValueError(f"the grammar is explosive: sentences from {self.start!r} have no finite mean size")
        return dict(zip(reached, counts.tolist(), strict=True))

    def _mean(self, of_symbol: Any) -> float:
        """The mean over sentences of a sum over all expansions."""
        table = dict(self.rules)
        return math.fsum(count * of_symbol(table[name]) for name, count in self.expected_counts().items())

    @property
    def mean_length(self) -> float:
        """Terminals of a sentence, on the average."""
        known = dict(self.rules)
        return self._mean(
            lambda rules: math.fsum(chance * sum(symbol not in known for symbol in right) for right, chance in rules)
        )

    @property
    def mean_choices(self) -> float:
        """Choices among two rules or more in a sentence, on the average."""
        return self._mean(lambda rules: float(len(_intervals(rules)) > 1))

    @property
    def derivation_entropy(self) -> float:
        """Nats of the derivation of a sentence: at least those of the sentence, and equal if it has no other one."""
        return self._mean(lambda rules: -math.fsum(chance * math.log(chance) for _, chance in rules if chance > 0))

    @property
    def entropy_bound(self) -> float:
        """Nats a token that the entropy rate does not exceed, and reaches if no row has two derivations."""
        return self.derivation_entropy / (self.mean_length + self.separator)

    def derivation(self, choices: Sequence[int]) -> tuple[list[int], float]:
        """The tokens of a sentence and the log-probability of its derivation.

        `choices` are the numbers of the right sides that are taken, leftmost symbol first, also of symbols with one.
        """
        table = dict(self.rules)
        tokens: list[int] = []
        waiting, log, left = [str(self.start)], 0.0, list(choices)[::-1]
        while waiting:
            symbol = waiting.pop()
            if symbol not in table:
                tokens.append(self.terminals.index(symbol))
                continue
            if not left:
                raise ValueError(f"choices must go on: {symbol!r} is to be expanded")
            right, chance = table[symbol][
                checks.integer(f"a choice for {symbol!r}", left.pop(), 0, len(table[symbol]) - 1)
            ]
            log += math.log(chance) if chance > 0 else -math.inf
            waiting += right[::-1]
        if left:
            raise ValueError(f"choices must end with the sentence, got {len(left)} more")
        return tokens, log

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`: all that may wait after a prefix is kept, each with its chance.

        NaN follows a token that was impossible. NotImplementedError for left recursion, where no end of stacks leads to
        the next token, and where there are more than 4,096 of them.
        """
        openings = _Openings(self)
        stacks: list[dict[_Stack, float]] = [{(): 1.0} for _ in tokens]
        for column in tokens.T:
            laws = np.stack([openings.law(some) for some in stacks])
            yield laws
            stacks = [openings.after(some, int(token)) for some, token in zip(stacks, column, strict=True)]

    # --- grammars of papers -------------------------------------------------------------------------------------------

    @classmethod
    def cfg3b(cls, separator: bool = True, seed: int = 42) -> Self:
        """Six levels of three symbols with two right sides each (arXiv 2305.13673, its figure of cfg3b).

        Terminals 1, 2, 3 are the tokens 0, 1, 2. A sentence has 275.6 tokens and 169.25 choices on the average.
        """
        levels = """
            22 21,20 20,19
            19 16,17,18 17,18,16 | 20 17,16,18 16,17 | 21 18,16 16,18,17
            16 15,13 13,15,14 | 17 14,13,15 15,13,14 | 18 15,14,13 14,13
            13 11,12 12,11 | 14 11,10,12 10,11,12 | 15 12,11,10 11,12,10
            10 7,9,8 9,8,7 | 11 8,7,9 7,8,9 | 12 8,9,7 9,7,8
            7 3,1 1,2,3 | 8 3,2 3,1,2 | 9 3,2,1 2,1"""
        lines = [part.split() for line in levels.strip().splitlines() for part in line.split("|")]
        rules = {name: [right.split(",") for right in rights] for name, *rights in lines}
        return cls(rules=rules, terminals=("1", "2", "3"), separator=separator, seed=seed)

    @classmethod
    def random_layered(
        cls,
        levels: int = 6,
        symbols: int = 3,
        rules: int = 2,
        lengths: tuple[int, int] = (2, 3),
        *,
        separator: bool = True,
        seed: int = 42,
    ) -> Self:
        """A grammar like that of arXiv 2305.13673: a root, then levels of symbols, the last one of terminals.

        Each of the `symbols` of a level, and the root, has so many different right sides, of a uniform number of
        `lengths` (least, most) of uniform symbols of the next level. Everything is drawn from `seed`.
        """
        levels, symbols = checks.integer("levels", levels, 1, 64), checks.integer("symbols", symbols, 1, 256)
        least, most = (checks.integer("lengths", length, 1, 64) for length in lengths)
        if least > most:
            raise ValueError(f"lengths must be (least, most), got {lengths}")
        possible = sum(symbols**length for length in range(least, most + 1))
        rules = checks.integer("rules", rules, 1, min(256, possible))
        words = _words(derive_key(checks.seed(seed), Domain.ROWS))
        table: dict[str, list[str]] = {}
        for level in range(levels):
            for name in range(1 if level == 0 else symbols):
                rights: list[str] = []
                while len(rights) < rules:
                    length = least + (next(words) * (most - least + 1) >> 32)
                    right = " ".join(f"{level + 1}.{next(words) * symbols >> 32}" for _ in range(length))
                    if right not in rights:
                        rights.append(right)
                table[f"{level}.{name}"] = rights
        terminals = [f"{levels}.{name}" for name in range(symbols)]
        return cls(rules=table, terminals=terminals, separator=separator, seed=seed)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        many = [("a b c d e f g h S i j k l m S n S o p q r s t", 0.05), *((f"w{k}", 0.95 / 300) for k in range(300))]
        return [
            cls.cfg3b(),
            cls.random_layered(3, 5, 4, (1, 4)),
            cls.random_layered(2, 3, separator=False, seed=7),
            cls(
                rules={
                    "S": [("NP VP", 1)],
                    "NP": [("she", 0.2), ("the N", 0.8)],
                    "VP": ["sees NP", "runs"],
                    "N": ["dog"],
                }
            ),
            cls(rules={"S": [("S a", 0.9), ("b", 0.1)]}, separator=False),
            cls(rules={"S": [("a S b", 0.45), ("", 0.55)]}),
            cls(rules={"S": ["T", "x"], "T": [("S S", 0.4), ("", 0.0), ("y y y y y y", 0.6)]}, start="T"),
            cls(rules={"S": many}, seed=2**64 - 1),
            cls(rules={"S": [("", 1.0)]}),
            cls(rules={"S": ["A"], "A": ["only"]}, separator=False),
        ]


_Stack = tuple[Any, ...]
"""(symbol, what waits below it), or () where a sentence begins"""


class _Openings:
    """How a symbol can come to its first terminal, and what then waits; for predictions."""

    def __init__(self, law: ContextFreeGrammar) -> None:
        self.size = law.vocabulary_size
        self.tokens: dict[Any, int] = {name: token for token, name in enumerate(law.terminals)}
        self.rules = dict(law.rules)
        self.found: dict[Any, list[dict[tuple[Any, ...], float]]] = {}
        self.empty: dict[Any, float] = {}
        for name in law.expected_counts():
            self.open(name, ())
        self.found[None], nothing = self.found[str(law.start)], self.empty[str(law.start)]  # None begins a sentence
        if law.separator:
            end = len(law.terminals)
            self.tokens[0] = end  # no name is a number
            self.found[None] = [{(*rest, 0): chance for rest, chance in some.items()} for some in self.found[None]]
            self.found[None][end] = {(): nothing} if nothing else {}
        else:
            self.found[None] = [{rest: p / (1 - nothing) for rest, p in some.items()} for some in self.found[None]]
        self.empty[None] = 0.0
        self.laws = {name: np.array([sum(some.values()) for some in found]) for name, found in self.found.items()}

    def open(self, name: str, above: tuple[str, ...]) -> None:
        """Of every token the symbols that wait after it, if it is the first one that `name` comes to, and chances."""
        if name in above:
            raise NotImplementedError(f"{name!r} may begin with itself: no end of stacks leads to the next token")
        if name in self.found:
            return
        found: list[dict[tuple[Any, ...], float]] = [{} for _ in range(self.size)]
        total, nothing = math.fsum(chance for _, chance in self.rules[name]), 0.0
        for right, chance in self.rules[name]:
            reached = chance / total  # the chance that nothing came of the symbols before
            for place, symbol in enumerate(right):
                if reached == 0:
                    break
                if symbol in self.tokens:
                    _add(found[self.tokens[symbol]], right[place + 1 :], reached)
                    reached = 0.0
                    break
                self.open(symbol, (*above, name))
                for token, some in enumerate(self.found[symbol]):
                    for rest, inner in some.items():
                        _add(found[token], (*rest, *right[place + 1 :]), reached * inner)
                reached *= self.empty[symbol]
            nothing += reached
        if sum(map(len, found)) > STACKS:
            raise NotImplementedError(f"{name!r} comes to its first terminal in more than {STACKS} ways")
        self.found[name], self.empty[name] = found, nothing

    def law(self, stacks: dict[_Stack, float]) -> Floats:
        """The chance of every token, if these wait with these chances."""
        law = np.full(self.size, 0.0 if stacks else np.nan)
        for stack, chance in stacks.items():
            for symbol, _, reached in self.tops(stack, chance):
                if symbol in self.tokens:
                    law[self.tokens[symbol]] += reached
                else:
                    law += reached * self.laws[symbol]
        return law

    def after(self, stacks: dict[_Stack, float], token: int) -> dict[_Stack, float]:
        """What waits after a token."""
        later: dict[_Stack, float] = {}
        for stack, chance in stacks.items():
            for symbol, below, reached in self.tops(stack, chance):
                if symbol in self.tokens:
                    if self.tokens[symbol] == token:
                        _add(later, below, reached)
                    continue
                for rest, inner in self.found[symbol][token].items():
                    top = below
                    for part in reversed(rest):
                        top = (part, top)
                    _add(later, top, reached * inner)
        if len(later) > STACKS:
            raise NotImplementedError(f"a prefix leads to more than {STACKS} stacks")
        total = math.fsum(later.values())
        return {stack: chance / total for stack, chance in later.items()}

    def tops(self, stack: _Stack, chance: float) -> Iterator[tuple[Any, _Stack, float]]:
        """The symbols from which the next token may come: the top, and those below it if all above make nothing."""
        while chance > 0:
            symbol, below = stack or (None, ())
            yield symbol, below, chance
            chance *= 0.0 if symbol in self.tokens else self.empty[symbol]
            stack = below


def _add(to: dict[tuple[Any, ...], float], key: tuple[Any, ...], chance: float) -> None:
    to[key] = to.get(key, 0.0) + chance


class _Tables:
    """The kernel's form of a grammar: rules that write up to four terminals and leave up to four symbols.

    A right side that does not fit is cut: it writes the terminals that it begins with, up to four, and leaves symbols,
    among them runs of up to four terminals as symbols with one rule, and, if there are more than four, as the fourth
    what is left of it as a symbol with one rule.
    """

    def __init__(self, law: ContextFreeGrammar) -> None:
        self.tokens = {name: token for token, name in enumerate(law.terminals)}
        self.symbols = {name: number for number, (name, _) in enumerate(law.rules)}
        self.first: list[list[int]] = [[] for _ in self.symbols]
        self.rules: list[list[int]] = []
        self.parts: dict[tuple[Any, ...], int] = {}
        self.later: list[tuple[int, list[tuple[int, tuple[Any, ...]]]]] = []
        for name, alternatives in law.rules:
            pieces = [(limit, self.pieces(right)) for limit, right in _intervals(alternatives)]
            self.add(self.symbols[name], pieces)
        self.begin = self.part((self.symbols[str(law.start)], *([(len(law.terminals),)] if law.separator else [])))
        while self.later:
            self.add(*self.later.pop())
        if len(self.first) > MOST:
            raise ValueError(
                f"the grammar is too large: {len(self.first)} symbols and parts of rules, more than {MOST}"
            )

    def pieces(self, right: tuple[str, ...]) -> tuple[Any, ...]:
        """Runs of terminals, as tuples of tokens, and numbers of symbols."""
        pieces: list[Any] = []
        for name in right:
            if name in self.symbols:
                pieces.append(self.symbols[name])
            elif pieces and isinstance(pieces[-1], tuple) and len(pieces[-1]) < RUN:
                pieces[-1] = (*pieces[-1], self.tokens[name])
            else:
                pieces.append((self.tokens[name],))
        return tuple(pieces)

    def part(self, pieces: tuple[Any, ...]) -> int:
        """The symbol whose one rule these are."""
        if pieces not in self.parts:
            self.parts[pieces] = len(self.first)
            self.first.append([])
            self.later.append((self.parts[pieces], [(2**32, pieces)]))
        return self.parts[pieces]

    def add(self, symbol: int, rules: list[tuple[int, tuple[Any, ...]]]) -> None:
        """The rules of a symbol: (threshold, pieces) each."""
        self.first[symbol] = [len(self.rules), len(rules), min(rules[0][0], 2**32 - 1), 0]
        for threshold, pieces in rules:
            tokens, left = (pieces[0], pieces[1:]) if pieces and isinstance(pieces[0], tuple) else ((), pieces)
            if len(left) > RUN:
                left = (*left[: RUN - 1], self.part(left[RUN - 1 :]))
            symbols = [self.part((piece,)) if isinstance(piece, tuple) else piece for piece in left][::-1]
            a, b, c, d = [*tokens, 0, 0, 0, 0][:RUN]
            e, f, g, h = [*symbols, 0, 0, 0, 0][:RUN]
            sizes = len(tokens) | len(symbols) << 16
            limit = min(threshold, 2**32 - 1)
            self.rules.append([a | b << 16, c | d << 16, e | f << 16, g | h << 16, sizes, limit, 0, 0])

    def arrays(self) -> list[Array]:
        """The tables of symbols and rules."""
        return [np.array(table, np.uint32).reshape(-1) for table in (self.first, self.rules)]


def _intervals(rules: Sequence[Rule]) -> list[tuple[int, tuple[str, ...]]]:
    """The right sides that a word can choose, each with the number that the word must be below."""
    sums = list(accumulate(Fraction(chance) for _, chance in rules))
    limits = [round(sum_ / sums[-1] * 2**32) for sum_ in sums]
    return [
        (limit, right)
        for limit, before, (right, _) in zip(limits, [0, *limits[:-1]], rules, strict=True)
        if limit > before
    ]


def _plain(rules: Any) -> Rules:
    """Rules as nested tuples with probabilities."""
    pairs = list(rules.items()) if isinstance(rules, Mapping) else list(rules)
    if not pairs:
        raise ValueError("a grammar needs rules, got none")
    table: dict[str, tuple[Rule, ...]] = {}
    for name, alternatives in pairs:
        if str(name) in table:
            raise ValueError(f"rules of {name!r} must stand together, got them twice")
        if isinstance(alternatives, str) or not isinstance(alternatives, Sequence) or not alternatives:
            raise ValueError(f"rules of {name!r} must be a list of right sides, got {alternatives!r}")
        table[str(name)] = _alternatives(str(name), alternatives)
    return tuple(table.items())


def _alternatives(name: str, alternatives: Sequence[Any]) -> tuple[Rule, ...]:
    """The right sides of a symbol."""
    rights, chances = [], []
    for given in alternatives:
        weighed = isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], str | tuple | list)
        weighed = weighed and isinstance(given[1], int | float)
        right = given[0] if weighed else given
        symbols = right.split() if isinstance(right, str) else right
        if not isinstance(symbols, tuple | list) or not all(isinstance(symbol, str | int) for symbol in symbols):
            raise TypeError(f"a right side of {name!r} must be a text or a list of symbols, got {right!r}")
        rights.append(tuple(map(str, symbols)))
        if weighed:
            chances.append(checks.number(f"a probability of {name!r}", given[1], "[0, 1]"))
    if chances and len(chances) < len(rights):
        raise ValueError(f"either all right sides of {name!r} have a probability or none, got {len(chances)}")
    if chances and abs(math.fsum(chances) - 1) > 1e-6:
        raise ValueError(f"the probabilities of {name!r} must sum to 1, got {math.fsum(chances)}")
    return tuple(zip(rights, chances or [1 / len(rights)] * len(rights), strict=True))


def _words(key: int) -> Iterator[int]:
    """The words of sequence 0 under a key."""
    block = 0
    while True:
        yield from _core.philox4x32([block, 0, 0, 0], key)
        block += 1
