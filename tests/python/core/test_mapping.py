"""One-to-one maps: bijective, fixed by size and seed, the same from a table and without one."""

from __future__ import annotations

import numpy as np
import pytest

from trajmill.core import mapping
from trajmill.core.mapping import OneToOneMap


@pytest.mark.parametrize("size", [1, 2, 100, 257, 5000])
def test_a_map_is_a_bijection(size: int):
    values = OneToOneMap(size, seed=1)(np.arange(size))
    assert values.dtype == np.min_scalar_type(size - 1)
    np.testing.assert_array_equal(np.sort(values), np.arange(size))


def test_seeds_make_different_maps_and_calls_the_same():
    first, again, other = (OneToOneMap(100, seed)(np.arange(100).reshape(4, 25)) for seed in (1, 1, 2))
    assert first.shape == (4, 25)
    np.testing.assert_array_equal(first, again)
    assert (first != other).sum() > 90


def test_a_table_changes_nothing(monkeypatch):
    values = np.random.default_rng(0).integers(0, 1000, (3, 50), dtype=np.uint16)
    expected = OneToOneMap(1000, 7)(values)
    monkeypatch.setattr(mapping, "_LARGEST_TABLE", 0)
    np.testing.assert_array_equal(OneToOneMap(1000, 7)(values), expected)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (np.array([0, 10]), ValueError, r"values must lie in \[0, 10\), got 0 to 10"),
        (np.array([-1]), ValueError, r"got -1 to -1"),
        (np.array([0.5]), TypeError, "values must be integers, got float64"),
    ],
)
def test_values_outside_are_refused(values: np.ndarray, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        OneToOneMap(10, seed=1)(values)
