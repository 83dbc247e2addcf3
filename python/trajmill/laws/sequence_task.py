"""Tasks on sequences: an input, and what a rule makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from trajmill.core import checks
from trajmill.core.law import Array, Domain, Floats, Law

TASKS = (
    "copy",
    "reverse",
    "sort",
    "set",
    "deduplicate",
    "duplicate",
    "union",
    "difference",
    "intersect",
    "delete",
    "search",
    "count",
    "first",
    "last",
    "stack",
)
"""in the order of the kernel"""
OF_HALVES = ("union", "difference", "intersect")
OF_A_TOKEN = ("delete", "search", "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTask(Law):
    """Uniform tokens, a separator, and what a rule makes of the tokens; loss_mask is 1 on that answer.

    Tokens of inputs are 1 to V - 1, where V is `alphabet`, the separator is V and padding V + 1. The tasks on an input
    of L tokens, with the length of their rows for the longest input:

    - copy, reverse, sort (ascending), set (every token once, as it comes first), deduplicate (of equal neighbours one):
      2 L + 1; duplicate (every token twice): 3 L + 1; first, last (none of an empty input): L + 2;
    - union, difference, intersect of two inputs of L / 2 tokens, rounded down, a separator between them, as sets in the
      order of set: 2 L + 2; difference has the tokens of the first that the second has not;
    - delete (the input, the separator, a uniform token, the separator, and the input without the first such token if
      there is one): 2 L + 3; search (likewise, and 1 if the token is in the input, else 0), count (how often it is):
      L + 4;
    - stack: L steps that push a token or, as 0, pop one; the answer is what is left, from the top: 2 L. With less than
      two tokens on the stack one is pushed; otherwise the last step pops, and one before it pushes with chance 3/4 in
      the first 2 L / 3 steps, rounded down, and 1/4 after them, as long as a token is free. Pushed tokens are uniform
      among those that are not on the stack.

    Sources: arXiv 2601.21725 and 2505.22308 (the lengths of rows and the task stack), 2206.10139 (names of the tasks).
    """

    kernel_columns: ClassVar[tuple[str, ...]] = ("loss_mask",)
    presets: ClassVar[tuple[str, ...]] = ("shinnick",)

    task: str = "copy"
    """copy, reverse, sort, set, deduplicate, duplicate, union, difference, intersect, delete, search, count, first,
    last or stack"""
    alphabet: int = 100
    """V, 2 to 65,534; 3 or more for stack"""
    input_length: int | tuple[int, int] = 64
    """L, 0 to 65,536, or the smallest and the largest of lengths of equal chances; 3 or more for stack, and less than
    `alphabet` for count"""
    pack: bool = False
    """examples follow one another to the end of the row, whose length is free; otherwise a row is one example and
    padding"""

    def check(self) -> None:
        """See `Law.check`."""
        task = checks.choice("task", self.task, TASKS)
        alphabet = checks.integer("alphabet", self.alphabet, 3 if task == "stack" else 2, 65_534)
        given = self.input_length
        if not isinstance(given, tuple | list):
            given = (given, given)
        if len(given) != 2:
            raise ValueError(f"input_length must be one length or a smallest and a largest, got {self.input_length}")
        least, most = 3 if task == "stack" else 0, alphabet - 1 if task == "count" else 2**16
        shortest, longest = (checks.integer("input_length", length, least, most) for length in given)
        if shortest > longest:
            raise ValueError(f"input_length must begin with the smaller length, got ({shortest}, {longest})")
        self._set(
            task=task,
            alphabet=alphabet,
            input_length=shortest if shortest == longest else (shortest, longest),
            pack=checks.boolean("pack", self.pack),
        )

    @property
    def _lengths(self) -> tuple[int, int]:
        """The smallest and the largest length of an input."""
        return (self.input_length, self.input_length) if isinstance(self.input_length, int) else self.input_length

    @property
    def vocabulary_size(self) -> int:
        """See `Law.vocabulary_size`."""
        return self.alphabet + 2

    @property
    def prefix_stable(self) -> bool:
        """See `Law.prefix_stable`."""
        return self.pack

    @property
    def fixed_length(self) -> int | None:
        """See `Law.fixed_length`."""
        longest = self._lengths[1]
        if self.pack:
            return None
        if self.task == "stack":
            return 2 * longest
        if self.task == "duplicate":
            return 3 * longest + 1
        if self.task in OF_HALVES:
            return 2 * longest + 2
        if self.task in ("search", "count"):
            return longest + 4
        if self.task in ("first", "last"):
            return longest + 2
        return 2 * longest + (3 if self.task == "delete" else 1)

    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """See `Law.core`."""
        key = self.key(Domain.SEQUENCE_TASKS)
        return [key, TASKS.index(self.task), self.alphabet, *self._lengths, self.pack], []

    # --- what the best predictor would say ----------------------------------------------------------------------------

    def answer(self, values: list[int], given: int = 0) -> list[int]:
        """What the task makes of an input.

        `values` are its tokens, those of both halves one after another, or pushes and pops; `given` is the token that
        delete, search and count look for.
        """
        half = len(values) // 2
        first, second = values[:half], values[half : 2 * half]
        match self.task:
            case "copy":
                return values
            case "reverse":
                return values[::-1]
            case "sort":
                return sorted(values)
            case "set":
                return list(dict.fromkeys(values))
            case "deduplicate":
                return [value for k, value in enumerate(values) if k == 0 or values[k - 1] != value]
            case "duplicate":
                return [value for value in values for _ in range(2)]
            case "union":
                return list(dict.fromkeys(first + second))
            case "difference":
                return [value for value in dict.fromkeys(first) if value not in second]
            case "intersect":
                return [value for value in dict.fromkeys(first) if value in second]
            case "delete":
                at = values.index(given) if given in values else len(values)
                return values[:at] + values[at + 1 :]
            case "search":
                return [int(given in values)]
            case "count":
                return [values.count(given)]
            case "first" | "last":
                return (values[:1] if self.task == "first" else values[-1:]) if values else []
            case _:
                stack: list[int] = []
                for value in values:
                    if value:
                        stack.append(value)
                    elif stack:
                        stack.pop()
                return stack[::-1]

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """See `Law.predictions`."""
        count, length = tokens.shape
        endings = self._endings()
        rows = [_Row.of(self, row, endings) for row in tokens.astype(np.int64).tolist()]
        columns = [np.array([getattr(row, name) for row in rows]).reshape(count, length) for name in _Row._fields]
        certain, ending, popping, begins = columns
        every = np.arange(count)
        on_stack = np.zeros((count, self.vocabulary_size), bool)
        stack = np.zeros((count, length + 1), np.int64)
        depth = np.zeros(count, np.int64)
        for t in range(length):
            first = begins[:, t]
            depth[first], on_stack[first] = 0, False
            free = ~on_stack
            free[:, [0, self.alphabet, self.alphabet + 1]] = False
            law = np.where(free, 1.0, 0.0)
            known = certain[:, t] >= 0
            drawn = np.where(known, 0.0, np.maximum(1 - ending[:, t] - popping[:, t], 0))
            law *= (drawn / np.maximum(law.sum(1), 1))[:, None]
            law[:, self.alphabet] += ending[:, t]
            law[:, 0] += popping[:, t]
            law[every[known], certain[known, t]] += 1
            yield law
            if self.task == "stack":
                token, steps = tokens[:, t].astype(np.int64), ~known
                up, down = steps & (token > 0) & (token < self.alphabet), steps & (token == 0) & (depth > 0)
                stack[every[up], depth[up]] = token[up]
                on_stack[every[up], token[up]] = True
                on_stack[every[down], stack[every[down], depth[down] - 1]] = False
                depth += up
                depth -= down

    def _length_chances(self) -> Floats:
        """The chance of each length of an input, from the smallest on."""
        shortest, longest = self._lengths
        edges = -(-np.arange(longest - shortest + 2) * 2**32 // (longest - shortest + 1))  # rounded up
        return np.diff(edges) / 2**32

    def _endings(self) -> list[float]:
        """The chance that an input, or the first of two, ends once it has 0, 1, ... tokens."""
        shortest, longest = (length // (1 + (self.task in OF_HALVES)) for length in self._lengths)
        chances = np.zeros(longest + 1)
        chances[shortest:] = self._told_chances()
        left = np.cumsum(chances[::-1])[::-1]
        return [float(chance / rest) for chance, rest in zip(chances, left, strict=True)]

    def _told_chances(self) -> Floats:
        """Those that tokens tell: in halves, an odd length looks like the even one below it."""
        parts = 1 + (self.task in OF_HALVES)
        shortest, longest = self._lengths
        told = np.arange(shortest, longest + 1) // parts - shortest // parts
        chances: Floats = np.bincount(told, self._length_chances()).astype(np.float64)
        return chances

    def expected_loss(self, length: int) -> float | None:
        """See `Law.expected_loss`; of packed rows where the length of an example is fixed, otherwise of a whole row."""
        if length == 0 or (self.task == "stack" and not isinstance(self.input_length, int)):
            return None
        if not self.pack:
            return self._example_loss() / length if length == self.fixed_length else None
        if not isinstance(self.input_length, int) or not self._fixed_answer:
            return None
        asked = self._asked(self.input_length)
        examples, rest = divmod(length, len(asked) + round(self.answer_length()))
        return (examples * sum(asked) + sum(asked[:rest])) * math.log(self.alphabet - 1) / length

    def entropy_rate(self) -> float | None:
        """See `Law.entropy_rate`: nats of an example by tokens of one."""
        if not self.pack or (self.task == "stack" and not isinstance(self.input_length, int)):
            return None
        shortest, longest = self._lengths
        sizes = [len(self._asked(count)) for count in range(shortest, longest + 1)]
        return self._example_loss() / (float(self._length_chances() @ sizes) + self.answer_length())

    @property
    def _fixed_answer(self) -> bool:
        """Whether the length of the input is that of the answer too."""
        return self.task in ("copy", "reverse", "sort", "duplicate", "search", "count", "first", "last")

    def _asked(self, count: int) -> list[bool]:
        """An example up to its answer: whether a token is drawn; of an input of `count` tokens."""
        if self.task in OF_HALVES:
            return [True] * (count // 2) + [False] + [True] * (count // 2) + [False]
        return [True] * count + [False] + ([True, False] if self.task in OF_A_TOKEN else [])

    def _example_loss(self) -> float:
        """Nats of an example: of how long the input is, and of its tokens."""
        chances = self._length_chances()
        shortest, longest = self._lengths
        if self.task == "stack":
            return self._stack_law(longest)[1]
        drawn = chances @ [sum(self._asked(count)) for count in range(shortest, longest + 1)]
        told = self._told_chances()
        return float(drawn * math.log(self.alphabet - 1) - told @ np.log(told))

    def answer_length(self) -> float:
        """The mean length of an answer."""
        shortest, longest = self._lengths
        return float(self._length_chances() @ [self._answer_length(n) for n in range(shortest, longest + 1)])

    def _answer_length(self, count: int) -> float:
        """Its mean for an input of `count` tokens."""
        size = self.alphabet - 1
        absent = 1 - 1 / size  # the chance that a token is not another one
        half = count // 2
        match self.task:
            case "set":
                return size * (1 - absent**count)
            case "deduplicate":
                return 1 + (count - 1) * absent if count else 0.0
            case "duplicate":
                return 2 * count
            case "union":
                return size * (1 - absent ** (2 * half))
            case "difference":
                return size * (1 - absent**half) * absent**half
            case "intersect":
                return size * (1 - absent**half) ** 2
            case "delete":
                return count - (1 - absent**count)
            case "search" | "count":
                return 1
            case "first" | "last":
                return min(count, 1)
            case "stack":
                return self._stack_law(count)[0]
            case _:
                return count

    def _stack_law(self, count: int) -> tuple[float, float]:
        """Of `count` steps: how many tokens are left on the stack, and the nats of all steps."""
        depths = np.arange(count + 2)
        chances = np.zeros(count + 2)
        chances[0], nats = 1.0, 0.0
        for step in range(count):
            free = np.maximum(self.alphabet - 1 - depths, 0)
            push = np.array([_pushing(step, count, *at) for at in zip(depths.tolist(), free.tolist(), strict=True)])
            pop = 1 - push
            entropy = np.zeros(count + 2)
            for part in (push, pop):
                entropy -= part * np.log(np.where(part > 0, part, 1))
            nats += float(chances @ (entropy + push * np.log(np.maximum(free, 1))))
            up, down = chances * push, chances * pop
            chances = np.append(down[1:], 0.0)
            chances[1:] += up[:-1]
        return float(chances @ depths), nats

    @classmethod
    def shinnick(cls, task: str = "copy", **settings: Any) -> Self:
        """Tasks of arXiv 2601.21725: tokens 1 to 99, inputs of 64 tokens, one example a row."""
        return cls(task=task, alphabet=100, input_length=64, **settings)

    @classmethod
    def examples(cls) -> list[Self]:
        """See `Law.examples`."""
        return [
            *(cls(task=task, alphabet=9, input_length=(3, 8), pack=True, seed=7) for task in TASKS),
            *(cls(task=task, alphabet=12, input_length=9) for task in ("duplicate", "difference", "count", "last")),
            cls(task="reverse"),
            cls(task="copy", input_length=0, pack=True),
            cls(task="set", alphabet=2, input_length=20),
            cls(task="sort", alphabet=300, input_length=30, pack=True, seed=3),
            cls(task="intersect", alphabet=300, input_length=(20, 40)),
            cls(task="delete", alphabet=254, input_length=(0, 70), pack=True),
            cls(task="stack", alphabet=3, input_length=3),
            cls(task="stack", alphabet=300, input_length=40),
        ]


def _pushing(step: int, count: int, depth: int, free: int) -> float:
    """The chance that a step of the task stack pushes, of `count` steps."""
    if depth < 2:
        return 1.0
    if step + 1 == count or free == 0:
        return 0.0
    return 0.75 if step < 2 * count // 3 else 0.25


class _Row(NamedTuple):
    """What is known of every token of a row before it is seen."""

    certain: list[int]
    """the token, or -1"""
    ending: list[float]
    """otherwise the chance of the separator"""
    popping: list[float]
    """the chance of 0; else it is a token that is not on the stack"""
    begins: list[bool]
    """whether an example begins"""

    @classmethod
    def of(cls, law: SequenceTask, tokens: list[int], endings: list[float]) -> _Row:
        """Whose tokens these are; `endings` is the chance that an input of 0, 1, ... tokens ends."""
        row = cls([], [], [], [])
        while len(row.certain) < len(tokens) and (law.pack or not row.certain):
            row._add_example(law, tokens[len(row.certain) :], endings)
        row._add([law.alphabet + 1] * (len(tokens) - len(row.certain)))
        for column in row:
            del column[len(tokens) :]
        return row

    def _add(self, certain: list[int], ending: list[float] | None = None, popping: list[float] | None = None) -> None:
        self.certain.extend(certain)
        self.ending.extend(ending or [0.0] * len(certain))
        self.popping.extend(popping or [0.0] * len(certain))
        self.begins.extend([False] * len(certain))

    def _add_example(self, law: SequenceTask, tokens: list[int], endings: list[float]) -> None:
        """What is known of an example that begins `tokens`."""
        begin = len(self.certain)
        if law.task == "stack":
            endings, popping = _stack_chances(law, tokens)
            size = len(endings) - 1
        else:
            size = len(endings) - 1
            if law.alphabet in tokens[:size]:
                size = tokens.index(law.alphabet)
            popping = [0.0] * (size + 1)
        self._add([-1] * (size + 1), endings[: size + 1], popping)
        self.begins[begin] = True
        values, given = tokens[:size], 0
        if law.task in OF_HALVES:
            values = values + tokens[size + 1 : 2 * size + 1]
            self._add([-1] * size + [law.alphabet])
        elif law.task in OF_A_TOKEN:
            given = tokens[size + 1] if size + 1 < len(tokens) else 0
            self._add([-1, law.alphabet])
        if len(self.certain) < begin + len(tokens):
            self._add([min(token, law.alphabet + 1) for token in law.answer(values, given)])


def _stack_chances(law: SequenceTask, tokens: list[int]) -> tuple[list[float], list[float]]:
    """The chances that a step is the separator and that it pops, of every step of an example of the task stack.

    It begins `tokens`. Every step tells something of how many there are.
    """
    shortest, longest = law._lengths
    chances = dict(zip(range(shortest, longest + 1), law._length_chances().tolist(), strict=True))
    depth = 0
    ending, popping = [], []
    for step in range(longest + 1):
        pops = {n: 1 - _pushing(step, n, depth, law.alphabet - 1 - depth) for n in chances if n > step}
        ending.append(chances.get(step, 0.0))
        popping.append(sum(chances[n] * pop for n, pop in pops.items()))
        if step >= len(tokens) or tokens[step] == law.alphabet:
            break
        popped = tokens[step] == 0
        chances = {n: chances[n] * (pop if popped else 1 - pop) for n, pop in pops.items()}
        total = sum(chances.values())
        # what no row of this law does is predicted by anything
        chances = {n: chance / total for n, chance in chances.items()} if total > 0 else {longest: 1.0}
        depth = max(depth - 1, 0) if popped else depth + 1
    return ending, popping
