"""Sequence tasks: what the battery cannot know."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from law_twins import sequence_task as twin

from trajmill import _core
from trajmill.laws.sequence_task import TASKS, SequenceTask

PACKED = [SequenceTask(task=task, alphabet=9, input_length=(3, 8), pack=True) for task in TASKS]


@pytest.mark.parametrize(
    ("task", "values", "given", "answer"),
    [
        ("copy", [3, 1, 3, 2], 0, [3, 1, 3, 2]),
        ("reverse", [3, 1, 3, 2], 0, [2, 3, 1, 3]),
        ("sort", [3, 1, 3, 2], 0, [1, 2, 3, 3]),
        ("set", [3, 1, 3, 2, 1], 0, [3, 1, 2]),
        ("deduplicate", [3, 3, 1, 3, 2, 2], 0, [3, 1, 3, 2]),
        ("duplicate", [3, 1], 0, [3, 3, 1, 1]),
        ("union", [3, 1, 1, 2], 0, [3, 1, 2]),
        ("difference", [3, 1, 3, 4, 1, 2, 2, 1], 0, [3, 4]),
        ("intersect", [3, 1, 3, 4, 4, 3, 2, 3], 0, [3, 4]),
        ("delete", [3, 1, 3, 2], 3, [1, 3, 2]),
        ("delete", [3, 1, 3, 2], 4, [3, 1, 3, 2]),
        ("search", [3, 1, 3, 2], 3, [1]),
        ("search", [3, 1, 3, 2], 4, [0]),
        ("count", [3, 1, 3, 2], 3, [2]),
        ("count", [3, 1, 3, 2], 4, [0]),
        ("first", [3, 1, 2], 0, [3]),
        ("first", [], 0, []),
        ("last", [3, 1, 2], 0, [2]),
        ("stack", [5, 2, 0, 7, 0, 4], 0, [4, 5]),
    ],
)
def test_answers_written_out(task: str, values: list[int], given: int, answer: list[int]) -> None:
    assert SequenceTask(task=task).answer(values, given) == answer


@pytest.mark.parametrize("law", PACKED, ids=TASKS)
def test_an_answer_has_no_nats(law: SequenceTask) -> None:
    rows = law.sample(200, 120, columns=["loss_mask"])
    losses = law.losses(rows["tokens"])
    assert rows["loss_mask"].sum() > 1000
    assert (losses[rows["loss_mask"] == 1] == 0).all()
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("law", PACKED, ids=TASKS)
def test_no_prediction_looks_ahead(law: SequenceTask) -> None:
    """With other tokens from t on, what is said of t stays."""
    tokens = law.sample(5, 60)
    others = law.sample(5, 60, first_sequence=5)
    told = list(law.predictions(tokens))
    for t in range(0, 60, 7):
        changed = np.concatenate([tokens[:, :t], others[:, t:]], 1)
        np.testing.assert_array_equal(list(law.predictions(changed))[t], told[t])


def test_the_mean_answer_of_set_is_that_of_the_specification() -> None:
    assert SequenceTask.shinnick("set").answer_length() == pytest.approx(47.3, abs=0.05)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("lengths", [9, (3, 8)])
def test_answers_have_the_mean_length_that_is_said(task: str, lengths: Any) -> None:
    law = SequenceTask(task=task, alphabet=10, input_length=lengths)
    lengths = law.sample(20_000, columns=["loss_mask"])["loss_mask"].sum(1)
    error = lengths.std(ddof=1) / math.sqrt(len(lengths))
    assert abs(lengths.mean() - law.answer_length()) <= 4 * error + 1e-9


@pytest.mark.parametrize("task", [task for task in TASKS if task != "stack"])
def test_long_rows_reach_the_entropy_rate(task: str) -> None:
    law = SequenceTask(task=task, alphabet=9, input_length=(3, 8), pack=True)
    losses = law.losses(law.sample(40, 1500)).mean(1)
    error = losses.std(ddof=1) / math.sqrt(len(losses))
    rate = law.entropy_rate()
    assert rate is not None
    assert abs(losses.mean() - rate) <= 4 * error + 10 / 1500  # what ends within an example


def test_the_stack_task_has_exact_nats() -> None:
    law = SequenceTask(task="stack", alphabet=6, input_length=20, pack=True)
    losses = law.losses(law.sample(100, 700)).mean(1)
    rate = law.entropy_rate()
    assert rate is not None
    assert abs(losses.mean() - rate) <= 4 * losses.std(ddof=1) / 10 + 10 / 700
    ranged = SequenceTask(task="stack", input_length=(5, 9), pack=True)
    assert ranged.entropy_rate() is None and ranged.expected_loss(100) is None


def test_rows_have_the_lengths_of_the_papers() -> None:
    lengths = {task: SequenceTask.shinnick(task).fixed_length for task in ("copy", "sort", "set", "union", "delete")}
    assert lengths == {"copy": 129, "sort": 129, "set": 129, "union": 130, "delete": 131}
    assert SequenceTask.shinnick("stack").fixed_length == 128
    assert SequenceTask.shinnick("set").vocabulary_size == 102
    for name in SequenceTask.presets:
        assert getattr(SequenceTask, name)()


def test_lengths_of_inputs_have_equal_chances() -> None:
    law = SequenceTask(task="first", alphabet=4, input_length=(2, 6))
    tokens = law.sample(50_000)
    lengths = (tokens == law.alphabet).argmax(1)
    counts = np.bincount(lengths, minlength=7)
    assert counts[:2].sum() == 0
    assert (np.abs(counts[2:] - 10_000) < 4.5 * math.sqrt(8_000)).all()
    assert SequenceTask(input_length=(8, 8)) == SequenceTask(input_length=8)
    np.testing.assert_allclose(law._length_chances(), 0.2, atol=1e-9)


def test_a_stack_holds_every_token_once() -> None:
    law = SequenceTask(task="stack", alphabet=4, input_length=12)
    for row in law.sample(500).tolist():
        stack: list[int] = []
        for step, token in enumerate(row[:12]):
            if token == 0:
                assert len(stack) > 1
                stack.pop()
            else:
                assert token not in stack and (len(stack) < 2 or step < 11)
                stack.append(token)
        assert row[12:] == [4, *stack[::-1], *[5] * (11 - len(stack))]


@pytest.mark.parametrize("alphabet", [2, 254, 255, 256, 257, 65_534])
@pytest.mark.parametrize("task", TASKS)
def test_alphabets_at_the_edges_of_bytes_equal_the_twin(task: str, alphabet: int) -> None:
    """254 is the largest whose tokens have 8 bits; from 256 on, sorting takes two passes that matter."""
    alphabet = max(alphabet, 3) if task == "stack" else alphabet
    length = alphabet - 1 if task == "count" and alphabet < 40 else 40
    law = SequenceTask(task=task, alphabet=alphabet, input_length=length, pack=True)
    count, steps = (1, 50) if task == "stack" else (2, 150)
    made = law.sample(count, steps, columns=["loss_mask"])
    for index in range(count):
        row = twin.row(law, index, steps)
        assert made["tokens"][index].tolist() == row["tokens"]
        assert made["loss_mask"][index].tolist() == row["loss_mask"]


@pytest.mark.parametrize("task", ["sort", "duplicate", "stack", "union"])
def test_the_longest_inputs_equal_the_definition(task: str) -> None:
    law = SequenceTask(task=task, alphabet=50, input_length=2**16)
    row = law.sample(1, first_sequence=9)[0].tolist()
    size = 2**15 if task == "union" else 2**16
    values = row[:size] + (row[size + 1 : 2 * size + 1] if task == "union" else [])
    begin = len(values) + (2 if task == "union" else 1)
    assert row[begin - 1] == 50 and law.alphabet not in values
    answer = law.answer(values)
    assert row[begin:] == answer + [51] * (len(row) - begin - len(answer))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": "shuffle"}, "task must be one of 'copy'"),
        ({"alphabet": 1}, "alphabet must be between 2 and 65534"),
        ({"alphabet": 65_535}, "alphabet must be between"),
        ({"task": "stack", "alphabet": 2}, "alphabet must be between 3"),
        ({"input_length": -1}, "input_length must be between 0 and 65536"),
        ({"input_length": 2**16 + 1}, "input_length must be between"),
        ({"input_length": (5, 4)}, "input_length must begin with the smaller length, got"),
        ({"input_length": (5, 6, 7)}, "input_length must be one length or a smallest and a largest"),
        ({"task": "stack", "input_length": 2}, "input_length must be between 3"),
        ({"task": "count", "input_length": 100}, "input_length must be between 0 and 99"),
    ],
)
def test_what_is_no_task_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SequenceTask(**settings)


def test_types_and_lengths_are_checked() -> None:
    with pytest.raises(TypeError, match="input_length must be an integer"):
        SequenceTask(input_length=2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pack must be True or False"):
        SequenceTask(pack=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length must be 129, which rows of this law have, got 128"):
        SequenceTask().sample(1, 128)


def test_the_kernel_refuses_numbers_it_could_not_trust_and_survives_all_others() -> None:
    chance = np.random.default_rng(0)
    edges = [0, 1, 2, 3, 5, 14, 15, 40, 63, 64, 65, 254, 255, 300, 65_534, 65_535, 2**16, 2**16 + 1, 2**32, 2**64 - 1]
    kept = 0
    for _ in range(800):
        numbers = [int(number) for number in chance.choice(np.array(edges, object), 6)]
        numbers[1], numbers[5] = numbers[1] % 16, numbers[5] % 3
        try:
            law = _core.Law("sequence_task", numbers=numbers, tables=[])
        except ValueError as error:
            assert "sequence task" in str(error)
            continue
        kept += 1
        for length in (0, 1, 70, 300):
            tokens, mask = np.zeros((3, length), chance.choice(["u1", "u2", "u8"])), np.zeros((3, length), np.uint8)
            law.fill(first_sequence=2**64 - 4, tokens=tokens, loss_mask=mask, threads=1)
    assert kept > 30
    for numbers, tables in (([0] * 5, []), ([0, 0, 5, 1, 1, 0], [np.zeros(3, np.uint32)])):
        with pytest.raises(ValueError, match="6 numbers and no table"):
            _core.Law("sequence_task", numbers=numbers, tables=tables)
