"""Vectors of transitions: there and back, whatever the scales; several datasets on one scale; refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_data import transitions

from trajmill.data import Transitions

torch = pytest.importorskip("torch")
from trajmill.replay.tables import Mixture, table_of  # noqa: E402
from trajmill.replay.vectors import VectorCode, VectorRows, matrix  # noqa: E402

FIELDS = Transitions.__slots__


def scaled(rows: Transitions, factor: float) -> Transitions:
    """States and rewards in other units."""
    columns = ("observation", "reward", "next_observation")
    return replace(rows, **{name: getattr(rows, name) * np.float32(factor) for name in columns})


def rows_of(data: Transitions, relevance: Any = None) -> VectorRows:
    rows = VectorRows(transitions=data, code=VectorCode.fit(data))
    return rows if relevance is None else rows.with_relevance(relevance)


@pytest.mark.parametrize("scaling", ["standard", "minmax"])
@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_every_column_varies_about_one_in_vectors_and_comes_back(scaling: Any, factor: float) -> None:
    """Whatever its unit: a model of variance 1 can learn it, and its samples come back in that unit."""
    data = scaled(transitions(300), factor)
    code = VectorCode.fit(data, scaling)
    vectors = code.encode(data)
    spread = vectors[:, :-1].std(0) if scaling == "standard" else np.abs(vectors[:, :-1]).max(0)
    assert vectors.dtype == np.float32 and np.abs(spread - 1.0).max() < 0.01
    back = code.decode(vectors)
    for name in FIELDS:
        ours, theirs = (np.asarray(getattr(each, name), np.float64) for each in (back, data))
        unit = factor if name in ("observation", "reward", "next_observation") else 1.0
        assert np.abs(ours - theirs).max() <= 1e-5 * unit, name


def test_the_scales_are_the_released_codes() -> None:
    """Deviation (n−1) + 1e-5, the terminal as it is; or [min, max + 1e-5] to [-1, 1], the terminal too."""
    data = transitions(300)
    rows = matrix(data).astype(np.float64)
    mean, deviation = rows.mean(0), rows.std(0, ddof=1) + 1e-5
    mean[-1], deviation[-1] = 0.0, 1.0
    assert np.abs(VectorCode.fit(data).encode(data) - (rows - mean) / deviation).max() < 1e-5
    low, high = rows.min(0), rows.max(0) + 1e-5
    assert np.abs(VectorCode.fit(data, "minmax").encode(data) - (2.0 * (rows - low) / (high - low) - 1.0)).max() < 1e-5
    constant = replace(data, reward=np.full(300, 7.0, np.float32))
    code = VectorCode.fit(constant, keep_constant=True)
    assert code.scale[7] == pytest.approx(1e-5) and len(code.kept) == len(code.scale)
    assert len(VectorCode.fit(constant).kept) == len(code.scale) - 1


@pytest.mark.parametrize("place", ["device", "host"])
def test_the_relevances_of_a_mixture_are_on_one_scale(place: Any) -> None:
    """A return of 12 means the same in either dataset, whatever else they hold."""
    first, second = transitions(50, seed=1), transitions(70, seed=2)
    returns = np.linspace(0.0, 10.0, 50), np.linspace(8.0, 500.0, 70)
    mixture = Mixture.of([rows_of(first, returns[0]), rows_of(second, returns[1])], [0.5, 0.5])
    expected = [(each - returns[0].mean()) / returns[0].std() for each in returns]
    for part, wanted in zip(mixture.parts, expected, strict=True):
        np.testing.assert_allclose(part.columns["relevance"], wanted, rtol=1e-6, atol=1e-6)
    table = table_of(mixture, place, seeds=[3], batch_size=16, device=torch.device("cpu"))
    table.feed(0, 1)
    batch = table.draw(torch.randint(2**32, (1, 1, 16)))
    known = np.concatenate(expected)
    assert np.abs(batch.relevance.numpy().reshape(-1, 1) - known).min(1).max() < 1e-4
    assert float(batch.relevance.max()) > expected[0].max() + 1.0
    table.close()


def test_columns_that_only_the_dataset_leaves_out_are_not_lost() -> None:
    first = replace(transitions(50, seed=1), terminal=np.zeros(50, bool))
    second = transitions(50, seed=2)
    assert second.terminal.any()
    with pytest.raises(ValueError, match=r"1 columns .* column 13.*make that one the dataset"):
        rows_of(second).like(rows_of(first))
    assert rows_of(first).like(rows_of(second)).code == rows_of(second).code
    same = replace(second, terminal=first.terminal)
    assert rows_of(same).like(rows_of(first)).columns["vector"].shape == (50, 13)


def test_relevances_that_say_nothing_are_refused() -> None:
    rows = rows_of(transitions(10))
    with pytest.raises(ValueError, match=r"every row has the relevance 3.*leave the condition out"):
        rows.with_relevance(np.full(10, 3.0))
    with pytest.raises(ValueError, match="NaN or infinite"):
        rows.with_relevance(np.append(np.arange(9.0), np.nan))


@pytest.mark.parametrize(("field", "value"), [("observation", np.nan), ("reward", np.inf)])
def test_what_is_not_finite_is_named(field: str, value: float) -> None:
    data = transitions(10)
    getattr(data, field)[4] = value
    with pytest.raises(ValueError, match="transition 4 has a NaN"):
        VectorCode.fit(data)


def test_too_few_rows_and_rows_that_are_all_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 transitions, got 1"):
        VectorCode.fit(transitions(1))
    one = transitions(1)
    alike = Transitions(**{name: np.repeat(getattr(one, name), 5, axis=0) for name in FIELDS})
    with pytest.raises(ValueError, match="every column of the data is constant"):
        VectorCode.fit(alike)
