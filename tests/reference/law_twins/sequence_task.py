"""Sequence tasks, slowly."""

from __future__ import annotations

from typing import Any

from law_twins import word_at
from trajmill.core.law import Domain
from trajmill.laws.sequence_task import SequenceTask


def unique(values: list[int]) -> list[int]:
    """Every value once, in the order in which they come first."""
    return [value for k, value in enumerate(values) if value not in values[:k]]


def without_first(values: list[int], gone: int) -> list[int]:
    """The values but for the first that is `gone`."""
    return values[: values.index(gone)] + values[values.index(gone) + 1 :] if gone in values else values


ANSWERS: dict[str, Any] = {
    "copy": lambda x: x,
    "reverse": lambda x: list(reversed(x)),
    "sort": sorted,
    "set": unique,
    "deduplicate": lambda x: [b for a, b in zip([None, *x], x, strict=False) if a != b],
    "duplicate": lambda x: [y for pair in zip(x, x, strict=True) for y in pair],
    "union": lambda x, y: unique(x + y),
    "difference": lambda x, y: [a for a in unique(x) if a not in y],
    "intersect": lambda x, y: [a for a in unique(x) if a in y],
    "delete": without_first,
    "search": lambda x, d: [1 if d in x else 0],
    "count": lambda x, d: [sum(a == d for a in x)],
    "first": lambda x: x[:1],
    "last": lambda x: x[-1:],
}
ROOM = {
    "duplicate": (3, 1),
    "union": (2, 2),
    "difference": (2, 2),
    "intersect": (2, 2),
    "delete": (2, 3),
    "stack": (2, 0),
}
ROOM |= {"search": (1, 4), "count": (1, 4), "first": (1, 2), "last": (1, 2)}


def stack_example(words: list[int], size: int) -> tuple[list[int], list[int]]:
    """Steps, and what is left from the top."""
    steps: list[int] = []
    stack: list[int] = []
    for k, word in enumerate(words):
        free = sorted(set(range(1, size)) - set(stack))
        limit = (3 if k < len(words) * 2 // 3 else 1) * 2**30
        if len(stack) <= 1:
            pushed: int | None = free[word * len(free) // 2**32]
        elif k == len(words) - 1 or word >= limit or not free:
            pushed = None
        else:
            pushed = free[word * len(free) // limit]
        if pushed is None:
            stack.pop()
            steps.append(0)
        else:
            stack.append(pushed)
            steps.append(pushed)
    return steps, stack[::-1]


def row(law: SequenceTask, index: int, length: int) -> dict[str, Any]:
    """See the package."""
    key, size = law.key(Domain.SEQUENCE_TASKS), law.alphabet
    separator, padding = size, size + 1
    low, high = law.input_length if isinstance(law.input_length, tuple) else (law.input_length,) * 2
    if not law.pack:
        times, more = ROOM.get(law.task, (2, 1))
        assert length == times * high + more
    tokens: list[int] = []
    mask: list[int] = []
    number = 0
    while len(tokens) < length and (law.pack or number == 0):
        count = low
        if low < high:
            count += word_at(key, index, 4 * 2**31 + number) * (high - low + 1) // 2**32

        def drawn(at: int, how_many: int, start: int = len(tokens)) -> list[int]:
            return [1 + word_at(key, index, start + at + k) * (size - 1) // 2**32 for k in range(how_many)]

        if law.task == "stack":
            words = [word_at(key, index, len(tokens) + k) for k in range(count)]
            steps, answer = stack_example(words, size)
            asked = [*steps, separator]
        elif law.task in ("union", "difference", "intersect"):
            first, second = drawn(0, count // 2), drawn(count // 2 + 1, count // 2)
            asked, answer = [*first, separator, *second, separator], ANSWERS[law.task](first, second)
        elif law.task in ("delete", "search", "count"):
            values, (given,) = drawn(0, count), drawn(count + 1, 1)
            asked, answer = [*values, separator, given, separator], ANSWERS[law.task](values, given)
        else:
            values = drawn(0, count)
            asked, answer = [*values, separator], ANSWERS[law.task](values)
        tokens += asked + answer
        mask += [0] * len(asked) + [1] * len(answer)
        number += 1
    if law.pack:
        return {"tokens": tokens[:length], "loss_mask": mask[:length]}
    rest = length - len(tokens)
    assert rest >= 0
    return {"tokens": tokens + [padding] * rest, "loss_mask": mask + [0] * rest}
