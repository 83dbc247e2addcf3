"""What every law must hold, over every law that is found and every one of its examples."""

from __future__ import annotations

import importlib
import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from trajmill import _core, laws
from trajmill.cli.law_options import field_docs
from trajmill.core.law import Law
from trajmill.corpus.sources import OWN_KEYS

GOLDEN = Path(__file__).parents[2] / "golden" / "laws.json"
LENGTH = 64
EXAMPLES = [(kind, number) for kind in laws.names() for number in range(len(laws.find(kind).examples()))]
LAWS = [pytest.param(laws.find(kind).examples()[number], id=f"{kind}-{number}") for kind, number in EXAMPLES]
every_law = pytest.mark.parametrize("law", LAWS)


def length_of(law: Law, wanted: int = LENGTH) -> int:
    return law.usual_length(wanted)


def rows_of(law: Law, first: int, count: int, length: int, threads: int = 1) -> dict[str, np.ndarray]:
    return law.sample(count, length, first_sequence=first, columns=law.extra_columns, threads=threads)


def assert_equal(ours: dict[str, np.ndarray], theirs: dict[str, Any], rows: Any = slice(None)) -> None:
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name][rows], err_msg=name)


def twin_rows(law: Law, first: int, count: int, length: int) -> dict[str, np.ndarray]:
    """What the slow twin makes, with the columns that a law need not write."""
    twin = importlib.import_module(f"law_twins.{law.kind()}")
    rows = [twin.row(law, index, length) for index in range(first, first + count)]
    columns: dict[str, np.ndarray] = {}
    for column in law.columns(length, law.extra_columns):
        if column.name in rows[0]:
            values = np.array([row[column.name] for row in rows])
        else:
            values = np.full((count, column.row_length), 1 if column.name == "loss_mask" else 0)
        columns[column.name] = values.reshape(count, column.row_length)
    return columns


@pytest.mark.parametrize("kind", laws.names())
def test_every_law_has_a_kernel_a_twin_and_examples(kind: str) -> None:
    assert (kind in _core.law_kinds()) == laws.find(kind).has_kernel
    assert len(laws.find(kind).examples()) >= 2
    assert importlib.import_module(f"law_twins.{kind}").row


@pytest.mark.parametrize("kind", laws.names())
def test_fields_are_documented_and_have_no_names_of_specs_or_commands(kind: str) -> None:
    law = laws.find(kind)
    names = {field.name for field in fields(law) if field.init}
    options = {"length", "sequence_count", "first_sequence", "out", "mill", "columns", "threads", "preset", "fields"}
    assert not names & ({*OWN_KEYS, *options} - {"backend"})
    assert names <= set(field_docs(law))
    for preset in law.presets:
        assert isinstance(getattr(law, preset)(), law)


@every_law
def test_rows_equal_the_slow_twin(law: Law) -> None:
    length = length_of(law)
    for first in (0, 2**32 - 3, 2**64 - 65):
        assert_equal(rows_of(law, first, 64, length), twin_rows(law, first, 64, length))


@every_law
def test_bytes_are_those_on_record(law: Law, request: pytest.FixtureRequest) -> None:
    """Written once by ``python tests/python/laws/write_golden.py`` from the twins, and never changed."""
    recorded = json.loads(GOLDEN.read_text())[request.node.callspec.id]
    assert recorded["spec"] == law.spec()
    digest = xxhash.xxh3_128()
    for name, array in rows_of(law, 0, 16, length_of(law)).items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array, "<u4"))
    assert digest.hexdigest() == recorded["rows"]


@every_law
def test_slices_threads_and_chosen_rows_equal_the_whole(law: Law) -> None:
    length = length_of(law, 75)
    whole = rows_of(law, 0, 150, length, threads=2)
    for first, count in ((0, 1), (1, 2), (17, 100), (149, 1), (3, 0)):
        assert_equal(rows_of(law, first, count, length), whole, slice(first, first + count))
    chosen = [149, 0, 77, 77, 3]
    assert_equal(law.sample_sequences(chosen, length, columns=law.extra_columns), whole, chosen)


@every_law
def test_instruction_sets_give_the_same_rows(law: Law) -> None:
    length = length_of(law, 75)
    levels = _core.available_simd_levels()
    used = _core.simd_level()
    try:
        made = []
        for level in levels:
            _core.set_simd_level(level)
            made.append(rows_of(law, 5, 150, length))
    finally:
        _core.set_simd_level(used)
    for other in made[1:]:
        assert_equal(other, made[0])


@every_law
def test_columns_asked_for_alone_are_the_same(law: Law) -> None:
    length = length_of(law)
    whole = rows_of(law, 3, 40, length)
    np.testing.assert_array_equal(law.sample(40, length, first_sequence=3), whole["tokens"])
    for name in law.extra_columns:
        one = law.sample(40, length, first_sequence=3, columns=[name])
        assert_equal(one, {"tokens": whole["tokens"], name: whole[name]})


@every_law
def test_wider_arrays_hold_the_same_tokens(law: Law) -> None:
    length = length_of(law)
    tokens = law.sample(40, length)
    for dtype in ("uint16", "uint32", "int64"):
        if np.iinfo(dtype).max >= law.vocabulary_size - 1:
            np.testing.assert_array_equal(law.sample(40, length, dtype=dtype), tokens)


@every_law
def test_longer_rows_begin_with_shorter_ones_unless_declared_otherwise(law: Law) -> None:
    if law.fixed_length is not None:
        return
    whole = rows_of(law, 0, 200, 130)
    same = True
    for length in (1, 2, 64, 66, 129):
        try:
            law.check_length(length)
        except ValueError:
            continue
        shorter = rows_of(law, 0, 200, length)
        same &= all(np.array_equal(array, whole[name][:, : array.shape[1]]) for name, array in shorter.items())
    assert same == law.prefix_stable


@every_law
def test_lengths_of_nothing_are_empty(law: Law) -> None:
    if law.fixed_length is None:
        assert law.sample(3, 0).shape == (3, 0)
    assert law.sample(0, length_of(law)).shape == (0, length_of(law))


@every_law
def test_numbers_are_below_what_the_law_says(law: Law) -> None:
    length = length_of(law, 300)
    rows = rows_of(law, 0, 300, length)
    assert rows["tokens"].max() < law.vocabulary_size
    if "states" in rows:
        assert rows["states"].max() < law.states_bound(length)
    assert rows["loss_mask"].max() <= 1


@every_law
def test_specs_pickles_and_prints_give_the_law_back(law: Law) -> None:
    spec = json.loads(json.dumps(law.spec(), allow_nan=False))
    assert type(law).from_spec({"kind": law.kind(), "row_count": 4, **spec}) == law
    law.sample(1, length_of(law))  # a kernel that is there does not travel
    assert pickle.loads(pickle.dumps(law)) == law
    assert repr(law).startswith(type(law).__name__ + "(")
    again = pickle.loads(pickle.dumps(law))
    np.testing.assert_array_equal(again.sample(2, length_of(law)), law.sample(2, length_of(law)))


@every_law
def test_laws_that_differ_in_the_seed_share_no_rows(law: Law) -> None:
    if not law.has_kernel:
        pytest.skip("its laws have seeds of their own")
    length = length_of(law)
    other = type(law).from_spec(law.spec() | {"seed": law.seed ^ 1})
    if len(np.unique(law.sample(64, length), axis=0)) > 1:  # not of a law of one sequence
        assert not np.array_equal(law.sample(64, length), other.sample(64, length))


def predicted(law: Law, count: int, length: int, task: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Tokens, and the exact law of each; skips where there is none."""
    rows = law.sample(count, length, columns=("task",))
    try:
        given = rows["task"][:, 0] if task else None
        return rows["tokens"], list(law.predictions(rows["tokens"], given))
    except NotImplementedError as reason:
        assert str(reason)
        pytest.skip(str(reason))


def check_calibration(law: Law, prediction_count: int, task: bool) -> None:
    """Chances that are said are those that come: for every token, and for every tenth of the chances."""
    length = length_of(law)
    size = law.vocabulary_size
    if size > 4096:
        pytest.skip("the rows of so many tokens do not fit here")
    batch = max(1, min(prediction_count // length, 2**24 // (size * length)))
    hits, sums, spread = np.zeros(size), np.zeros(size), np.zeros(size)
    tenths = np.zeros((3, 10))
    made = 0
    while made < prediction_count:
        rows = law.sample(batch, length, first_sequence=made // length, columns=("task",))
        try:
            laws_of_tokens = law.predictions(rows["tokens"], rows["task"][:, 0] if task else None)
            for t, chances in enumerate(laws_of_tokens):
                np.testing.assert_allclose(chances.sum(1), 1, atol=1e-9)
                assert (chances >= 0).all()
                seen = rows["tokens"][:, t].astype(np.int64)
                assert (chances[np.arange(batch), seen] > 0).all(), "what came was impossible"
                hit = np.bincount(seen, minlength=size)
                hits += hit
                sums += chances.sum(0)
                spread += (chances * (1 - chances)).sum(0)
                tenth = np.minimum((chances * 10).astype(int), 9)
                for which, values in enumerate((np.eye(size)[seen], chances, chances * (1 - chances))):
                    tenths[which] += np.bincount(tenth.ravel(), values.ravel(), 10)
        except NotImplementedError as reason:
            assert str(reason)
            pytest.skip(str(reason))
        made += batch * length
    for came, said, variance in ((hits, sums, spread), tenths):
        error = np.abs(came - said)
        assert (error <= 4.5 * np.sqrt(variance) + 1e-6).all(), error / np.sqrt(variance + 1e-12)


@every_law
@pytest.mark.parametrize("task", [False, True], ids=["law", "task"])
def test_predictions_are_calibrated(law: Law, task: bool) -> None:
    check_calibration(law, 30_000, task)


@pytest.mark.slow
@every_law
@pytest.mark.parametrize("task", [False, True], ids=["law", "task"])
def test_a_million_predictions_are_calibrated(law: Law, task: bool) -> None:
    check_calibration(law, 1_000_000, task)


@every_law
def test_the_mean_loss_is_the_closed_form(law: Law) -> None:
    length = length_of(law)
    exact = law.expected_loss(length)
    if exact is None:
        pytest.skip("no closed form")
    losses = law.losses(law.sample(2000 if law.vocabulary_size <= 4096 else 100, length)).mean(1)
    error = losses.std(ddof=1) / np.sqrt(len(losses))
    assert abs(losses.mean() - exact) <= 4 * error + 1e-9


@every_law
def test_a_prediction_after_a_prefix_is_that_of_the_row(law: Law) -> None:
    if not law.prefix_stable or law.fixed_length is not None:
        return
    tokens, all_laws = predicted(law, 2, 20, task=False)
    np.testing.assert_allclose(law.predictive(tokens[1, :13]), all_laws[13][1], rtol=1e-12)
    np.testing.assert_allclose(
        law.losses(tokens)[1, 13], -np.log(all_laws[13][1][int(tokens[1, 13])]), rtol=1e-12, atol=1e-12
    )
